"""Flags that several verbs share, with the same name and meaning everywhere.

Each is a decorator, to be placed below `@click.command()`.
"""

import functools
import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from ropeway.cli.call import Call, current_call
from ropeway.engines.ascend_releases import known_release
from ropeway.errors import Refused
from ropeway.outside import is_file, is_there
from ropeway.phrases import phrase
from ropeway.report.chinese import LANGUAGES
from ropeway.report.console import Screen
from ropeway.spec.cluster import RemoteHost
from ropeway.spec.errors import fault_lines
from ropeway.spec.model import DEFAULT_FILE

config_option = click.option(
    "-c",
    "--config",
    type=click.Path(path_type=Path),
    default=DEFAULT_FILE,
    show_default=True,
    metavar="FILE",
    help="The spec.",
)
"""Passes `config: Path`."""


def _ssh_config(_: object, __: object, name: str | None) -> str | None:
    """Refuse what ssh would read without end, as /dev/zero, or wait for."""
    if name is None or name in ("none", os.devnull):  # which both mean: no configuration
        return name
    if is_there(Path(name)) and not is_file(Path(name)):
        raise Refused(phrase("this is not a regular file"), where=name, hint=phrase("name a file"))
    return name


ssh_config_option = click.option(
    "--ssh-config", metavar="FILE", callback=_ssh_config, help="Read in place of ~/.ssh/config."
)
"""Passes `ssh_config: str | None`."""

yes_option = click.option("-y", "--yes", is_flag=True, help="Do not ask for confirmation.")
"""Passes `yes: bool`."""

dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Print what would be done; change nothing."
)
"""Passes `dry_run: bool`."""


def _take_language(ctx: click.Context, _: click.Parameter, language: str | None) -> None:
    if language:
        ctx.ensure_object(Call).language = language


lang_option = click.option(
    "--lang",
    type=click.Choice(LANGUAGES),
    is_eager=True,
    expose_value=False,
    callback=_take_language,
    help="Language of what is printed; by default that of the terminal.",
)
"""For verbs all of whose output is in Chinese, too. Passes nothing: the screen speaks it."""


def known_like(_: click.Context, option: click.Parameter, version: str | None) -> str | None:
    """Return a release without its `v`. Raises Refused for one that Ropeway does not know."""
    return version and known_release(version, option.opts[0]).version


_SCREEN_OPTIONS = (
    click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout."),
    click.option("-q", "--quiet", is_flag=True, help="Print only warnings, errors and the answer."),
    click.option("-v", "--verbose", count=True, help="Show more, such as commands."),
    click.option(
        "--color",
        type=click.Choice(("auto", "always", "never")),
        default="auto",
        show_default=True,
        help="When to use colour.",
    ),
)


def screen_options(verb: Callable[..., object]) -> Callable[..., object]:
    """Add `--json`, `-q`, `-v` and `--color`, passed as one `screen: Screen`.

    Place it above every other decorator that may raise, so that their errors use this screen.
    """

    @functools.wraps(verb)
    def with_screen(
        *args: object, as_json: bool, quiet: bool, verbose: int, color: str, **rest: object
    ) -> object:
        call, command = current_call(), click.get_current_context().command
        speaks = any(option.name == "lang" for option in command.params)
        call.screen = screen = Screen(
            json=as_json,
            verb=call.verb,
            quiet=quiet,
            verbose=verbose,
            color=color,
            language=call.language if speaks else "en",
            error_language=call.language,
        )
        return verb(*args, screen=screen, **rest)

    return with_options(with_screen, _SCREEN_OPTIONS)


def passed_as(
    name: str,
    kind: type[Any],
    verb: Callable[..., object],
    options: Sequence[Callable[..., Callable[..., object]]],
) -> Callable[..., object]:
    """Add these options to the verb, which gets them as one argument: a dataclass of theirs."""
    keys = [field.name for field in fields(kind)]

    @functools.wraps(verb)
    def collecting(*args: object, **flags: Any) -> object:
        value = kind(**{key: flags.pop(key) for key in keys})
        return verb(*args, **{name: value}, **flags)

    return with_options(collecting, options)


def with_options(
    verb: Callable[..., object], options: Sequence[Callable[..., Callable[..., object]]]
) -> Callable[..., object]:
    """Add these options to the verb, listed in its help in this order."""
    for option in reversed(options):
        verb = option(verb)
    return verb


# An IPv6 address stands in brackets where a port follows, and may stand there without one.
_TARGET = re.compile(
    r"(?:(?P<user>[^@\s]+)@)?"
    r"(?:\[(?P<inner>[^@\s\[\]]+)\]|(?P<address>[^@\s:]+|[^@\s]*:[^@\s]*:[^@\s]*))"
    r"(?::(?P<port>\d{1,5}))?"
)


_MOST = 1e12


class Finite(click.FloatRange):
    """A number in a range that one can compute with: neither inf nor nan."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """See click.ParamType.convert."""
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a valid float.", param, ctx)
        if number > _MOST:
            self.fail(f"{value} is not in the range x<={_MOST:g}.", param, ctx)
        return number


POSITIVE = Finite(min=0, min_open=True)
NOT_NEGATIVE = Finite(min=0)


def remote_host(text: str) -> RemoteHost:
    """Return `user@address:port` as a host of the spec. Raises Refused."""
    match = _TARGET.fullmatch(text)
    if match is None:
        raise Refused(
            phrase("`{text}` is not a host", text=text),
            hint="write it like `root@192.168.0.147:22`",
        )
    port = int(match["port"]) if match["port"] else None
    try:
        address = match["inner"] or match["address"]
        return RemoteHost(address=address, npus=1, user=match["user"], port=port)
    except ValidationError as error:
        raise Refused(
            phrase("`{text}` is not a host", text=text), evidence=fault_lines(error)
        ) from None

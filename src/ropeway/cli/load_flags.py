"""The flags of a load, the same for every verb that sends one.

`bench` may sweep over several loads and give its requests goals; a comparison has one load.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import click

from ropeway.bench.asked import LoadFlags, load_of
from ropeway.bench.goals import Goals, parse_goals
from ropeway.bench.ladder import ladder_of
from ropeway.bench.load_test import MOST_TOKENS, parse_range
from ropeway.bench.workloads.pictures import MOST_SIDE
from ropeway.cli.endpoint import is_typed
from ropeway.cli.options import POSITIVE, Finite, with_options
from ropeway.spec.model import REQUESTS_PER_CLIENT

_COUNT = click.IntRange(min=1)


# Generic for the checker, and in older clicks not at all.
class _Several(click.ParamType):  # type: ignore[type-arg]
    """One value, or several with commas between them; always a tuple."""

    def __init__(self, kind: click.ParamType) -> None:  # type: ignore[type-arg]
        self._kind = kind
        self.name = f"{kind.name}[,…]"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Any, ...]:
        """See click.ParamType.convert."""
        if isinstance(value, tuple):
            return value
        parts = value.split(",") if isinstance(value, str) else [value]
        return tuple(self._kind.convert(part, param, ctx) for part in parts)


class _Lengths(NamedTuple):
    """The least and the most tokens."""

    least: int
    most: int

    def __str__(self) -> str:
        return f"{self.least}" if self.least == self.most else f"{self.least}-{self.most}"


class _Size(NamedTuple):
    """Width and height of a picture."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


def _lengths(_: click.Context, param: click.Parameter, text: str) -> _Lengths:
    """Return the least and the most tokens, written `128` or `64-512`."""
    try:
        return _Lengths(*parse_range(text))
    except ValueError as error:
        raise click.BadParameter(str(error), param=param) from None


def _size(_: click.Context, param: click.Parameter, text: str) -> _Size:
    """Return the width and the height of a picture, written `640x480`."""
    sides = [int(side) for side in text.split("x") if side.isdecimal() and len(side) < 9]
    if len(sides) != 2 or text.count("x") != 1 or not all(1 <= side <= MOST_SIDE for side in sides):
        why = f"`{text}` is not a size like 640x480, up to {MOST_SIDE}"
        raise click.BadParameter(why, param=param)
    return _Size(*sides)


class _Goals(click.ParamType):  # type: ignore[type-arg]
    """`ttft=2s,tpot=50ms`."""

    name = "goals"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Goals:
        """See click.ParamType.convert."""
        del param, ctx
        return value if isinstance(value, Goals) else parse_goals(value)


GOALS = _Goals()


class _Flag(NamedTuple):
    """One flag. `kind`: its type, or what reads it; `names`: as click takes them."""

    names: str
    kind: Any
    default: Any
    help: str | None = None

    @property
    def option(self) -> Callable[..., Callable[..., object]]:
        """The flag for click."""
        reads = {"type" if isinstance(self.kind, click.ParamType) else "callback": self.kind}
        return click.option(
            *self.names.split(), default=self.default, show_default=True, help=self.help, **reads
        )

    @property
    def name(self) -> str:
        """The name of its value."""
        last = self.names.split("/")[0].split()[-1]
        return last.removeprefix("--").replace("-", "_")


_EACH = f"{REQUESTS_PER_CLIENT} per client, or so many conversations"
_ONE = (
    _Flag("--clients", _COUNT, 256, "Requests in flight: each client sends one after another."),
    _Flag("--requests", _COUNT, None,
          f"Requests in total.  [default: {_EACH}; the spec's, unless --clients is given]"),
    _Flag("--rate", POSITIVE, None,
          "Requests per second to send, with at most --clients in flight."),
)  # fmt: skip
_SEVERAL = (
    _Flag("--clients", _Several(_COUNT), 256,
          "Requests in flight: each client sends one after another. Several, such as 1,8,64, are"
          " measured in turn."),
    _Flag("--requests", _COUNT, None,
          "Requests in total; with several --clients or --rate of each, with --find-max of each"
          f" probe.  [default: {_EACH}; the spec's, unless --clients is given; of several, what"
          " makes a steady part]"),
    _Flag("--rate", _Several(POSITIVE), None,
          "Requests per second to send, with at most --clients in flight. Several, such as 1,2,4,"
          " are measured in turn."),
    _Flag("--slo goals", GOALS, None,
          "What each request is to keep, such as ttft=2s,tpot=50ms,e2e=30s (any of the three): says"
          " how many a second do."),
)  # fmt: skip
_ANY = (
    _Flag("--duration duration_s", POSITIVE, None,
          "Begin no request after so many seconds; those in flight end and count."),
    _Flag("--arrivals", click.STRING, "poisson",
          "How they come at that rate: poisson, constant, burst:8 (so many at once); or trace:FILE,"
          " whose lines are seconds, or JSON with `timestamp`."),
    _Flag("--input-tokens", _lengths, "128",
          "Length of each prompt, chat template included; 64-512: each length as likely."),
    _Flag("--output-tokens", _lengths, "128", "Longest answer; 64-512: each length as likely."),
    _Flag("--prefixes", click.IntRange(0, 1_000_000), 0,
          "Shared beginnings, of which each prompt has one."),
    _Flag("--prefix-tokens", click.IntRange(0, MOST_TOKENS), 0,
          "Length of each, on top of --input-tokens."),
    _Flag("--turns", click.IntRange(1, 1000), 1,
          "Questions of a conversation, each sent with all before it; requests are questions."),
    _Flag("--images", click.IntRange(0, 8), 0,
          "Pictures in each prompt, in a conversation in the first."),
    _Flag("--image-size", _size, "640x480", "Their width and height in pixels."),
    _Flag("--seed", click.INT, 0, "The same seed gives the same prompts and arrivals."),
    _Flag("--temperature", Finite(0, 2), 0.0),
    _Flag("--warmup", click.IntRange(min=0), 4, "Requests sent first and not counted."),
    _Flag("--ignore-eos/--no-ignore-eos", click.BOOL, True,
          "Make each answer as long as it may be (vLLM and its relatives)."),
    _Flag("--time-limit time_limit_s", POSITIVE, None, "Stop after this many seconds."),
)  # fmt: skip
_OF_FILES = {
    "files": click.option(
        "--prompts", "files", metavar="FILE", multiple=True,
        help="Send these prompts, in a random order: a file as `batch` takes it, or ShareGPT's"
        " JSON. Give it once for each."),
    "template": click.option(
        "--template", metavar="TEXT",
        help='The prompt, with columns of that file in braces: "Translate: {text}".'),
    "settings": click.option(
        "--set", "settings", multiple=True, metavar="KEY=VALUE",
        help="Put into every row of it without a body, such as max_tokens=256."),
}  # fmt: skip


def load_options(verb: Callable[..., object]) -> Callable[..., object]:
    """The flags of one load, passed as `load: LoadFlags`."""
    flags = (*_ONE, *_ANY)

    @functools.wraps(verb)
    def loading(*args: object, **values: Any) -> object:
        asked, typed = _taken(flags, values)
        return verb(*args, load=LoadFlags(**asked, typed=typed), **values)

    return _with_flags(loading, flags)


def sweep_options(verb: Callable[..., object]) -> Callable[..., object]:
    """The flags of one load or of several, passed as `load: LoadTest` and `ladder: Ladder | None`.

    Where several loads are asked for, `load` is the first of them.
    """
    flags = (*_SEVERAL, *_ANY)

    @functools.wraps(verb)
    def loading(**values: Any) -> object:
        asked, typed = _taken(flags, values)
        clients, rates = asked["clients"], asked["rate"] or ()
        ladder = ladder_of(clients, rates, asked["requests"] if "requests" in typed else None)
        asked |= {"clients": clients[0], "rate": rates[0] if rates else None}
        return verb(load=load_of(LoadFlags(**asked, typed=typed)), ladder=ladder, **values)

    return _with_flags(loading, flags)


def _taken(flags: Sequence[_Flag], values: dict[str, Any]) -> tuple[dict[str, Any], frozenset[str]]:
    """Take the values of the load out of all; return them, and the names of those typed."""
    names = [*(flag.name for flag in flags), *_OF_FILES]
    return {name: values.pop(name) for name in names}, frozenset(filter(is_typed, names))


def _with_flags(verb: Callable[..., object], flags: Sequence[_Flag]) -> Callable[..., object]:
    return with_options(verb, [*(flag.option for flag in flags), *_OF_FILES.values()])

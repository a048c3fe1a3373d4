"""`ropeway facts`: what the output of a command says."""

import math
import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import click

from ropeway.cli.options import screen_options
from ropeway.errors import Exit, Refused
from ropeway.facts.base import Output, Reading
from ropeway.facts.catalogue import OUTPUTS, find, near, recognise
from ropeway.report.console import Screen

_STDIN = "-"


@click.group(invoke_without_command=True)
@click.pass_context
def facts(ctx: click.Context) -> None:
    """Read what commands print on an Ascend host.

    \b
    Example:
      npu-smi info | ropeway facts parse
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@facts.command()
@screen_options
@click.option("--list", "listing", is_flag=True, help="Name the outputs and their commands.")
@click.argument("command", required=False)
@click.argument("file", required=False)
@click.pass_context
def parse(
    ctx: click.Context, *, screen: Screen, listing: bool, command: str | None, file: str | None
) -> None:
    """Print as JSON what a saved output of COMMAND says.

    COMMAND is a name of `--list` or the command as it was typed; without it the output is
    recognised by itself. FILE is read from stdin where it is missing or `-`. Prompts, echoed
    commands, Markdown and `...` in a pasted text do no harm.

    Exit code 0: it was understood, also where it is an error of the tool. 1: it was not.

    \b
    Example:
      ropeway facts parse --list
      ropeway facts parse npu-smi-info saved.txt
      ropeway facts parse 'hccn_tool -i 0 -ping -g address 10.0.0.2' < saved.txt
      ropeway facts parse everything-a-user-sent.txt
    """
    if listing:
        _list(screen)
        return
    if command is not None and file is None and _is_file(command):
        command, file = None, command
    output = _output_of(command) if command is not None else None
    text = _read(file or _STDIN)
    output = output or recognise(text)
    reading: Reading[Any] = output.parse(text) if output else Reading.unknown(text)
    document = {"output": output.name if output else None, **_plain(reading)}
    # The answer of this verb is JSON, with and without `--json`.
    (screen if screen.json else Screen(json=True)).result(document)
    ctx.exit(Exit.NO if reading.state == "unknown" else Exit.OK)


def _list(screen: Screen) -> None:
    width = max(len(output.name) for output in OUTPUTS)
    for output in OUTPUTS:
        screen.answer(f"{output.name:<{width}}  {output.command}")
    screen.result({"outputs": [{"name": o.name, "command": o.command} for o in OUTPUTS]})


def _output_of(command: str) -> Output[Any]:
    output = find(command)
    if output is not None:
        return output
    likely = near(command)
    what = f"no output is called `{command}`"
    if "/" in command or "." in command:
        what = f"`{command}` is neither an output nor a file"
    hint = f"did you mean {' or '.join(f'`{name}`' for name in likely)}?" if likely else None
    raise Refused(what, hint=hint or "see `ropeway facts parse --list`")


def _is_file(name: str) -> bool:
    try:
        return name == _STDIN or Path(name).is_file()
    except OSError:  # longer than a file name can be
        return False


def _read(file: str) -> str:
    """The text; broken UTF-8 is replaced, and what PowerShell saves (UTF-16) is read as such."""
    if file == _STDIN:
        content = sys.stdin.buffer.read()
    else:
        try:
            content = Path(file).read_bytes()
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise Refused(f"cannot read `{file}`: {reason}", where=file) from error
    wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    return content.decode("utf-16" if wide else "utf-8", errors="replace")


def _plain(value: Any) -> Any:
    """A reading as plain data for JSON."""
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, (frozenset, set)):
        return [_plain(entry) for entry in sorted(value)]
    if isinstance(value, (tuple, list)):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)

"""`ropeway diagnose`: why it failed, from the logs of all ranks."""

import codecs
import contextlib
import gzip
import os
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import click

from ropeway.cli.options import screen_options
from ropeway.diagnosis.decide import diagnose_blocks
from ropeway.errors import Exit, Refused
from ropeway.report.console import Screen
from ropeway.report.diagnosis import LANGUAGES, diagnosis_view
from ropeway.units import format_bytes

_STDIN = Path("-")
_BLOCK_BYTES = 1 << 20
_GZIP_MAGIC = b"\x1f\x8b"
# What logs are called: `engine.log`, `plog-1_2.log.gz`, `ray.out`, `raylet.err`, `engine.log.1`.
_SUFFIXES = (".err", ".gz", ".log", ".out", ".txt")
_MOST_FILES = 20_000
# From here on reading takes seconds that somebody may wonder about.
_LARGE_BYTES = 200_000_000


@click.command()
@click.argument("logs", metavar="LOG…", nargs=-1, required=True)
@click.option(
    "--lang",
    type=click.Choice(LANGUAGES),
    help="Language of the answer; by default that of the terminal.",
)
@screen_options
@click.pass_context
def diagnose(
    ctx: click.Context, *, logs: tuple[str, ...], lang: str | None, screen: Screen
) -> None:
    """Find the line of the logs that says why a start or a run failed.

    LOG is a file (also .gz), a folder such as ~/ascend/log or that of a run, or - for stdin. Give
    the logs of all hosts together: the cause is often in another rank's.

    Exit code 0: no line tells of a failure. 1: one does, whether we know its cause or not. 2: a
    log is not there or cannot be read.

    \b
    Example:
      ropeway diagnose runs/2026-01-31T10-12-00Z-up
      ropeway diagnose engine.log host2/plog --json
    """
    paths = _files(logs)
    size = sum(path.stat().st_size for path in paths if path != _STDIN)
    if size > _LARGE_BYTES:
        screen.say(f"reading {len(paths)} logs, {format_bytes(size)}")
    unread: list[str] = []
    found = diagnose_blocks((_name(path), _blocks(path, unread)) for path in paths)
    for failure in unread:
        screen.warn(failure)
    if unread and found.verdict == "healthy":
        raise Refused(
            f"{len(unread)} of {len(paths)} logs could not be read to the end",
            evidence=unread[:5],
            hint="what could be read tells of no failure",
        )
    screen.answer(diagnosis_view(found, lang or _language_of_terminal()))
    screen.result({**asdict(found), "unread": unread})
    ctx.exit(Exit.OK if found.verdict == "healthy" else Exit.NO)


def _name(path: Path) -> str:
    return "stdin" if path == _STDIN else str(path)


def _files(names: Sequence[str]) -> list[Path]:
    """The files that are meant, each once. Raises Refused when there is none."""
    found: list[Path] = []
    for path in map(Path, names):
        if path == _STDIN or (path.exists() and not path.is_dir()):
            found.append(path)
        elif inside := sorted(_logs_in(path))[:_MOST_FILES]:
            found += inside
        elif path.exists():
            raise Refused(
                "there is no log in this folder",
                where=str(path),
                hint=f"logs are called *{', *'.join(_SUFFIXES)}; name others one by one",
            )
        else:
            raise Refused("there is no such log", where=str(path))
    return list(dict.fromkeys(found))


def _logs_in(folder: Path) -> Iterator[Path]:
    """Every regular file below that is named like a log; nothing where it may not be looked at."""
    for parent, _, names in os.walk(folder):
        for path in (Path(parent, name) for name in names):
            with contextlib.suppress(OSError):
                if set(path.suffixes) & set(_SUFFIXES) and path.is_file():
                    yield path


def _blocks(path: Path, unread: list[str]) -> Iterator[str]:
    """The text of a log, unpacked, in pieces; what keeps it from being read goes into `unread`."""
    try:
        if path == _STDIN:
            yield from _text(sys.stdin.buffer.read)
            return
        with path.open("rb") as file:
            read: Callable[[int], bytes] = file.read
            if file.peek(2)[:2] == _GZIP_MAGIC:
                read = gzip.GzipFile(fileobj=file).read
            yield from _text(read)
    except (OSError, EOFError, zlib.error) as error:
        unread.append(f"{path}: {error}")


def _text(read: Callable[[int], bytes]) -> Iterator[str]:
    return codecs.iterdecode(iter(partial(read, _BLOCK_BYTES), b""), "utf-8", "replace")


def _language_of_terminal() -> str:
    """Chinese where the locale is; the first of these that is set counts (locale(7))."""
    names = ("LC_ALL", "LC_MESSAGES", "LANG")
    locale = next((os.environ[name] for name in names if os.environ.get(name)), "")
    return "zh" if locale.startswith("zh") else "en"

"""`ropeway diagnose`: name the cause of a failure from the logs of all ranks."""

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

from ropeway.cli.options import lang_option, screen_options
from ropeway.diagnosis.decide import diagnose_blocks
from ropeway.diagnosis.failure_table import table_data, table_page
from ropeway.errors import Exit, Refused
from ropeway.phrases import phrase
from ropeway.report.console import Screen
from ropeway.report.diagnosis import diagnosis_view
from ropeway.units import format_bytes

_STDIN = Path("-")
_BLOCK_BYTES = 1 << 20
_GZIP_MAGIC = b"\x1f\x8b"
# Names of logs: `engine.log`, `plog-1_2.log.gz`, `ray.out`, `raylet.err`, `engine.log.1`.
_SUFFIXES = (".err", ".gz", ".log", ".out", ".txt")
_MOST_FILES = 20_000
# Reading more than this takes seconds, so the user is told.
_LARGE_BYTES = 200_000_000


@click.command()
@click.argument("logs", metavar="LOG…", nargs=-1)
@click.option("--table", is_flag=True, help="Print all known failures, as Markdown.")
@lang_option
@screen_options
@click.pass_context
def diagnose(ctx: click.Context, *, logs: tuple[str, ...], table: bool, screen: Screen) -> None:
    """Find the line of the logs that says why a start or a run failed.

    LOG is a file (also .gz), a directory such as ~/ascend/log or that of a run, or - for stdin.
    Give the logs of all hosts together: the cause is often in the log of another rank.

    Exit code 0: no line reports a failure. 1: one does, whether its cause is known or not. 2: a
    log does not exist or cannot be read.

    \b
    Example:
      ropeway diagnose runs/2026-01-31T10-12-00Z-up
      ropeway diagnose engine.log host2/plog --json
      ropeway diagnose --table
    """
    if bool(logs) == table:
        raise click.UsageError("give either LOG… or --table", ctx)
    if table:
        screen.answer(table_page(screen.language).rstrip())
        screen.result(table_data())
        return
    paths = _files(logs)
    size = sum(path.stat().st_size for path in paths if path != _STDIN)
    if size > _LARGE_BYTES:
        screen.say(f"reading {len(paths)} logs, {format_bytes(size)}")
    unread: list[str] = []
    diagnosis = diagnose_blocks((_name(path), _blocks(path, unread)) for path in paths)
    for failure in unread:
        screen.warn(failure)
    if unread and diagnosis.verdict == "healthy":
        raise Refused(
            phrase(
                "{unread} of {logs} logs could not be read to the end",
                unread=len(unread),
                logs=len(paths),
            ),
            evidence=unread[:5],
            hint="what could be read reports no failure",
        )
    screen.answer(diagnosis_view(diagnosis, screen.language))
    screen.result({**asdict(diagnosis), "unread": unread})
    ctx.exit(Exit.OK if diagnosis.verdict == "healthy" else Exit.NO)


def _name(path: Path) -> str:
    return "stdin" if path == _STDIN else str(path)


def _files(names: Sequence[str]) -> list[Path]:
    """Return the logs of these files and folders, each once. Raises Refused for one without any."""
    files: list[Path] = []
    for path in map(Path, names):
        if path == _STDIN or (path.exists() and not path.is_dir()):
            files.append(path)
        elif inside := sorted(_logs_in(path))[:_MOST_FILES]:
            files += inside
        elif path.exists():
            raise Refused(
                "there is no log in this directory",
                where=str(path),
                hint=phrase(
                    "logs are named *{names}; give others one by one", names=", *".join(_SUFFIXES)
                ),
            )
        else:
            raise Refused("this log does not exist", where=str(path))
    return list(dict.fromkeys(files))


def _logs_in(folder: Path) -> Iterator[Path]:
    """Yield every regular file below that is named like a log, except in unreadable folders."""
    for parent, _, names in os.walk(folder):
        for path in (Path(parent, name) for name in names):
            with contextlib.suppress(OSError):
                if set(path.suffixes) & set(_SUFFIXES) and path.is_file():
                    yield path


def _blocks(path: Path, unread: list[str]) -> Iterator[str]:
    """Yield the text of a log, unpacked, in blocks; an error of reading is added to `unread`."""
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

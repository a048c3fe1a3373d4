"""Files and folders that the user named, or finds in `runs`: why one cannot be written."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from ropeway.bench.record import new_run_dir, recorded
from ropeway.cli.call import current_call
from ropeway.durable import write_whole
from ropeway.errors import Refused, reason_of
from ropeway.hosts.base import room_hint
from ropeway.phrases import phrase
from ropeway.report.console import Screen

_REPORT = "report.html"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Write to a path of the user's inside the block. Raises Refused when that fails."""
    try:
        yield
    except OSError as error:
        reason = reason_of(error)
        hint = room_hint(reason, str(path.parent))
        raise Refused(
            phrase("cannot write `{path}`: {reason}", path=path, reason=reason), hint=hint
        ) from None


def write_page(path: Path, page: str, screen: Screen) -> None:
    """Write a page, and say where it is. Raises Refused.

    It is written in place, since the path may be a pipe or a terminal.
    """
    with writing(path):
        path.write_text(page, encoding="utf-8")
    screen.say(phrase("page: {file}", file=path))


def write_report(folder: Path, page: str) -> Path:
    """Write the page of what was measured, whole or not at all; return its path.

    Half of a surrogate pair, which a word of the command line may have, is written out. Raises
    RopewayError: what was measured is kept.
    """
    path = folder / _REPORT
    with recorded(path):
        write_whole(path, page.encode(errors="backslashreplace"))
    return path


def run_folder(verb: str, out: Path | None = None) -> Path:
    """Make the folder of this run: `out`, or one in `runs` that nobody has. Raises Refused."""
    folder = out or new_run_dir(Path("runs"), verb, datetime.now(UTC))
    with writing(folder):
        folder.mkdir(0o700, parents=True, exist_ok=out is not None)
    current_call().folder = folder
    return folder

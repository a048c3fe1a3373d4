"""Results and journals for tests of `ropeway batch`."""

import resource
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ropeway.batch.journal.journal import Journal
from ropeway.batch.journal.replay import read_journal
from ropeway.batch.journal.segments import Gap, read_segments, records
from ropeway.batch.rows import Outcome, Result

ROWS = 12


def result(ordinal: int, outcome: Outcome = Outcome.ANSWERED, size: int = 40) -> Result:
    """A result whose line says which row's it is."""
    line = b'{"row":%d,"outcome":"%s"}' % (ordinal, outcome.name.encode())
    return Result(ordinal, outcome, line.ljust(size) + b"\n", prompt=10 + ordinal, answer=ordinal)


def fill(folder: Path, rows: int, results: Iterable[Result], **how: object) -> None:
    """Commit results in one run."""
    with Journal.open(folder, rows=rows, **how) as journal:
        for one in results:
            journal.add(one)


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.journal"))


@contextmanager
def folders() -> Iterator[Path]:
    """A folder for each example of a property."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "out.jsonl.ropeway"


def lines(folder: Path) -> dict[int, bytes]:
    """The line of each row that is done, the first one of it."""
    found: dict[int, bytes] = {}
    for segment in read_segments(folder, []):
        for record in records(segment):
            if not isinstance(record, Gap) and record.outcome not in segment.taken_back:
                found.setdefault(record.ordinal, bytes(record.line))
    return found


def finish(folder: Path, rows: int = ROWS) -> None:
    """Do what is left, as the next run does, and look at all of it."""
    with Journal.open(folder, rows=rows, silence=0) as journal:
        for ordinal in range(rows):
            if ordinal not in journal.done:
                journal.add(result(ordinal))
    assert lines(folder) == {ordinal: result(ordinal).line for ordinal in range(rows)}
    assert read_journal(folder).counts == {Outcome.ANSWERED: rows}


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The system writes a part of what is over the limit, and then refuses, as a full disk does."""
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, usual[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)

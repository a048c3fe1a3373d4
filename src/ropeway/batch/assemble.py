"""The files that the user asked for, made from the journal.

Rows come as they were answered, or in the order of the input. For that order a file of eight bytes
a row says where each record lies: rows are never held in memory. An old file is replaced only by a
new one that is whole; until then what is made has a name of its own beside it. This may be done
before the job's end, and then makes what is there so far.
"""

import fcntl
import mmap
import os
import shlex
import shutil
import tempfile
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import accumulate
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO

from ropeway.batch.disk import cannot_write
from ropeway.batch.finished import Finished, read_finished, write_finished
from ropeway.batch.replay import Replay, replay_segments
from ropeway.batch.rows import Outcome
from ropeway.batch.segments import Lines, Record, Segment, read_segments, shard_folders
from ropeway.batch.stored import Output, Stored, size_of
from ropeway.durable import PRIVATE, replace, sync_folder
from ropeway.errors import Refused, RopewayError
from ropeway.phrases import Phrase, phrase
from ropeway.units import counted, format_bytes

_LOCK = "assemble.lock"
_BUFFER = 4 << 20
_PLACE = 8
_GOOD = {int(outcome) for outcome in Outcome if outcome.good}


class _Draft:
    """A file in the making; what is no regular file, such as /dev/null, is written to as it is."""

    def __init__(self, output: Output, folder: Path) -> None:
        """Begin it; in `folder`, if it goes into a store when it is whole. Raises OSError."""
        self._store = output if isinstance(output, Stored) else None
        path = folder / output.name if isinstance(output, Stored) else output
        self.path = Path(os.path.realpath(path))
        self.is_regular = not self.path.exists() or S_ISREG(self.path.stat().st_mode)
        self._draft = self.path.with_name(f".{self.path.name}.part")
        target = self._draft if self.is_regular else self.path
        self.file: BinaryIO = target.open("wb", buffering=_BUFFER)
        self.size = 0

    def write(self, line: memoryview | bytes) -> None:
        """Add a line."""
        self.file.write(line)
        self.size += len(line)

    def complete(self) -> None:
        """Put all of it onto the disk."""
        self.file.flush()
        if self.is_regular:
            os.fsync(self.file.fileno())

    def rename(self) -> None:
        """Let it take the place of the old one."""
        if self._store is not None:
            self._store.put(self._draft)
        elif self.is_regular:
            replace(self._draft, self.path)

    def drop(self) -> None:
        """Leave nothing that was not finished."""
        with suppress(OSError):  # its buffer finds no room either
            self.file.close()
        if self.is_regular:
            self._draft.unlink(missing_ok=True)


def assemble(
    folder: Path,
    output: Output,
    errors: Output,
    *,
    ordered: bool = False,
    expected: Counter[Outcome] | None = None,
) -> Counter[Outcome]:
    """Write the output and the file of errors; return how many rows of each outcome they have.

    ordered   in the order of the input, else as they came
    expected  what the journal that was just closed has counted; the files are not touched when its
              bytes no longer say so

    When every row has a good answer, the segments are removed (`finished`): all of them are in the
    output. Raises RopewayError, with the old files as they were.
    """
    if not folder.is_dir():
        raise Refused(phrase("there is no journal of a batch job"), where=str(folder))
    with _alone(folder):
        if finished := read_finished(folder):
            _check_finished(folder, output, finished, ordered=ordered)
            _make_empty(folder, errors)
            return finished.counts
        return _make(folder, (output, errors), ordered, expected)


def _make(
    folder: Path, outputs: tuple[Output, Output], ordered: bool, expected: Counter[Outcome] | None
) -> Counter[Outcome]:
    damage: list[Phrase] = []
    segments = read_segments(folder, damage)
    drafts: list[_Draft] = []
    path = folder
    try:
        for output in outputs:
            path = folder if isinstance(output, Stored) else output
            drafts.append(_Draft(output, folder))
        path = drafts[0].path
        replay = (_in_order if ordered else _as_they_came)(segments, damage, *drafts)
        _check(folder, replay, expected)
        for draft in drafts:
            path = draft.path
            draft.complete()
        for draft in drafts:
            path = draft.path
            draft.rename()
    except OSError as error:
        raise _failed(segments, path, error, drafts) from None
    finally:
        for draft in drafts:
            draft.drop()
    if drafts[0].is_regular:
        with suppress(OSError):  # the job is done; its segments only take room
            _finish(folder, segments, replay, drafts[0].size, ordered=ordered)
    return replay.counts


def _as_they_came(segments: list[Segment], damage: list[Phrase], *drafts: _Draft) -> Replay:
    good, bad = drafts

    def write(_: Segment, record: Record) -> None:
        (good if record.outcome in _GOOD else bad).write(record.line)

    return replay_segments(segments, damage, held=write)


def _in_order(segments: list[Segment], damage: list[Phrase], *drafts: _Draft) -> Replay:
    """Note where each row's record is, then go by ordinals.

    A record's place is counted over all segments as if they were one file; 0 is no place, since
    each begins with its head.
    """
    good, bad = drafts
    if not segments or not segments[0].head.rows:
        return replay_segments(segments, damage)
    folder, rows = segments[0].path.parent, segments[0].head.rows
    begins = list(accumulate((segment.end for segment in segments), initial=0))
    begin_of = dict(zip((segment.path for segment in segments), begins, strict=False))
    with _places(folder, rows) as places, Lines() as lines:

        def note(segment: Segment, record: Record) -> None:
            places[record.ordinal] = begin_of[segment.path] + record.offset

        replay = replay_segments(segments, damage, held=note)
        for place in places:
            if place:
                number = bisect_right(begins, place) - 1
                outcome, line = lines.read(segments[number], place - begins[number])
                (good if outcome in _GOOD else bad).write(line)
    return replay


@contextmanager
def _places(folder: Path, rows: int) -> Iterator[memoryview]:
    """Return a number for each row, all 0, that lie in a file without a name."""
    size = rows * _PLACE
    with tempfile.TemporaryFile(dir=folder) as file:
        # Reserved: where a page finds no room later, the system ends the process.
        os.posix_fallocate(file.fileno(), 0, size)
        with (
            mmap.mmap(file.fileno(), 0) as pages,
            memoryview(pages) as all_bytes,
            all_bytes[:size] as used,
            used.cast("Q") as places,
        ):
            yield places


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep a second run from making the same files at the same time."""
    path = folder / _LOCK
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT, PRIVATE)
    except OSError as error:
        raise cannot_write(path, error, hint=phrase("all answers are kept")) from None
    try:
        with suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                what = phrase("another run is writing to this output")
                raise Refused(what, where=str(folder)) from None
        yield
    finally:
        os.close(handle)


def _check(folder: Path, replay: Replay, expected: Counter[Outcome] | None) -> None:
    if expected is not None and replay.counts != expected:
        raise RopewayError(
            phrase(
                "the journal had {rows} when it was closed, and now {now} can be read",
                rows=counted(expected.total(), "row"),
                now=f"{replay.counts.total():,}",
            ),
            where=str(folder),
            evidence=replay.damage,
            hint=phrase("give the same command again: it does the missing rows anew"),
        )


def _failed(
    segments: list[Segment], path: Path, error: OSError, drafts: list[_Draft]
) -> RopewayError:
    missing = sum(segment.end - segment.start for segment in segments)
    missing -= sum(draft.size for draft in drafts)
    return cannot_write(
        path,
        error,
        evidence=[phrase("{size} of it are not written yet", size=format_bytes(max(0, missing)))],
        hint=phrase("all answers are kept; mend that, then give the same command again"),
    )


def _finish(
    folder: Path, segments: list[Segment], replay: Replay, size: int, *, ordered: bool
) -> None:
    """Remove the segments of a job that is finished, once that is written down."""
    counts = replay.counts
    if replay.damage or sum(n for outcome, n in counts.items() if outcome.good) < replay.done.size:
        return
    finished = Finished(
        rows=replay.done.size,
        counts=counts,
        again=replay.again,
        prompt=replay.prompt,
        answer=replay.answer,
        size=size,
        ordered=ordered,
    )
    write_finished(folder, finished)
    for segment in segments:
        segment.path.unlink()
    for shard in shard_folders(folder):
        shutil.rmtree(shard)
    sync_folder(folder)


def _check_finished(folder: Path, output: Output, finished: Finished, *, ordered: bool) -> None:
    """Refuse an output that is not what is asked for: there are no segments to make it from."""
    again = phrase(
        "to do the whole job again: {command}", command=shlex.join(["rm", "-r", str(folder)])
    )
    if size_of(output) != finished.size:
        raise Refused(
            phrase("the job is finished, and its output is no longer as it was written"),
            where=str(output),
            evidence=[phrase("it had {size:,} bytes", size=finished.size)],
            hint=again,
        )
    if ordered and not finished.ordered:
        raise Refused(
            phrase("the job is finished, and its output is in the order in which answers came"),
            where=str(output),
            hint=again,
        )


def _make_empty(folder: Path, errors: Output) -> None:
    """Make the file of errors of a job that has none, where it is not there."""
    if size_of(errors) is not None:
        return
    path = folder if isinstance(errors, Stored) else errors
    try:
        draft = _Draft(errors, folder)
        try:
            draft.complete()
            draft.rename()
        finally:
            draft.drop()
    except OSError as error:
        raise cannot_write(path, error, hint=phrase("all answers are kept")) from None

"""The files that the user asked for, made from the journal.

Rows come as they were answered, or in the order of the input. For that order a file of eight bytes
a row says where each record lies: rows are never held in memory. An old file is replaced only by a
new one that is whole; until then what is made has a name of its own beside it. This may be done
before the job's end, and then makes what is there so far.
"""

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
from ropeway.batch.journal.finished import Finished, read_finished, write_finished
from ropeway.batch.journal.one_writer import locked
from ropeway.batch.journal.replay import Replay, replay_segments
from ropeway.batch.journal.segments import (
    Lines,
    Record,
    Segment,
    epochs,
    read_segments,
    segment_path,
    shard_folders,
)
from ropeway.batch.output.own_files import check_strangers, note_written
from ropeway.batch.output.stored import Output, Stored, size_of
from ropeway.batch.rows import Outcome
from ropeway.durable import PRIVATE, replace, sync_folder
from ropeway.errors import Refused, RopewayError
from ropeway.phrases import Phrase, phrase
from ropeway.units import counted, format_bytes

DRAFT = ".ropeway"
_BUFFER = 4 << 20
_PLACE = 8
_GOOD = {int(outcome) for outcome in Outcome if outcome.good}


class _Draft:
    """A file in the making; what is no regular file, such as /dev/null, is written to as it is.

    Another job's draft of the same output has the same name, and its lock keeps the two apart.
    Users call no file so, and a link of that name is not followed.
    """

    def __init__(self, output: Output, folder: Path) -> None:
        """Begin it; in `folder`, if it goes into a store when it is whole.

        Raises OSError, and Refused where another run has begun it.
        """
        self._store = output if isinstance(output, Stored) else None
        path = folder / output.name if isinstance(output, Stored) else output
        self.path = Path(os.path.realpath(path))
        self.is_regular = not self.path.exists() or S_ISREG(self.path.stat().st_mode)
        self._draft: Path | None = None
        target, how = self.path, os.O_WRONLY | os.O_CREAT
        if self.is_regular:
            target = self._draft = self.path.with_name(f".{self.path.name}{DRAFT}")
            how |= os.O_NOFOLLOW
        handle = os.open(target, how, PRIVATE if self._store else 0o666)
        if self.is_regular and not _is_ours(handle, target):
            os.close(handle)
            raise Refused(
                phrase("another run is writing to this output"),
                where=str(output),
                hint=phrase("wait until it ends, or end it; what it has done is kept"),
            )
        self.file: BinaryIO = os.fdopen(handle, "wb", buffering=_BUFFER)
        if self.is_regular:
            self.file.truncate(0)
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
        if self._draft is None:
            return
        if self._store is not None:
            self._store.put(self._draft)
        else:
            replace(self._draft, self.path)
            self._draft = None  # what has this name from now on is another's

    def drop(self) -> None:
        """Leave nothing that was not finished."""
        if self._draft is not None:
            self._draft.unlink(missing_ok=True)
        with suppress(OSError):  # its buffer finds no room either
            self.file.close()


def _is_ours(handle: int, path: Path) -> bool:
    """Lock a draft; say whether it is ours, and not just become another's output, or nothing."""
    if locked(handle) is False:
        return False
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


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
    if finished := read_finished(folder):
        _check_finished(folder, output, finished, ordered=ordered)
        _make_empty(folder, errors)
        with suppress(OSError):  # what a run that was killed here has left only takes room
            _remove_segments(folder)
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
        # As long as the drafts are ours: another job may have written these files before.
        check_strangers(folder, outputs)
        note_written(folder, {outputs[0]: drafts[0].size, outputs[1]: drafts[1].size})
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
            _finish(folder, replay, drafts[0].size, ordered=ordered)
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


def _finish(folder: Path, replay: Replay, size: int, *, ordered: bool) -> None:
    """Remove the segments of a job that is finished, once that is written down."""
    rows, totals = replay.done.size, replay.totals()
    if totals.damage or sum(n for outcome, n in totals.counts.items() if outcome.good) < rows:
        return
    write_finished(folder, Finished(rows=rows, size=size, ordered=ordered, **vars(totals)))
    _remove_segments(folder)


def _remove_segments(folder: Path) -> None:
    for epoch in epochs(folder):
        segment_path(folder, epoch).unlink()
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
            check_strangers(folder, [errors])
            draft.rename()
        finally:
            draft.drop()
    except OSError as error:
        raise cannot_write(path, error, hint=phrase("all answers are kept")) from None

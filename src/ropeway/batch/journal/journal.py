"""What has come of a batch job's rows, on the disk: a row is done once its record is.

A `Journal` reads what earlier runs left and begins a segment (`segments`). From then on results are
added by the event loop and written by a thread, many at a time with one `fdatasync`. The first
fault of the disk ends it: what was committed stays, what was not is cut off, since after a failed
sync nobody can say which bytes there are.
"""

import asyncio
import errno
import os
import threading
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from ropeway.batch.disk import cannot_begin, cannot_write
from ropeway.batch.journal.bitmap import Bitmap
from ropeway.batch.journal.one_writer import SILENCE, OneWriter, writer
from ropeway.batch.journal.replay import Replay, other_job, read_journal
from ropeway.batch.journal.segments import (
    MOST_LINE,
    Head,
    epochs,
    new_salt,
    packed,
    segment_path,
)
from ropeway.batch.journal.totals import Totals
from ropeway.batch.rows import Outcome, Result
from ropeway.durable import PRIVATE, PRIVATE_FOLDER, sync_folder, write_at
from ropeway.errors import Refused, RopewayError
from ropeway.phrases import count, phrase
from ropeway.units import format_bytes

# A commit costs one sync of the disk, some milliseconds: ten a second, or one for so many bytes.
_PAUSE = 0.1
_GROUP = 4 << 20


class Journal(Totals):
    """The journal of one job, open for its one writer, who has the folder's lock (`take_folder`).

    done  ordinals of the rows that are done: their records are on the disk
    path  of its segment
    """

    def __init__(
        self, folder: Path, *, rows: int, job: str = "", revoked: Iterable[Outcome] = ()
    ) -> None:
        """Go on with the journal in `folder`, or begin one.

        job      `Manifest.job`: a folder that holds another job's is refused
        revoked  outcomes that are taken back: their rows are to be done again

        A segment is begun, unless there is nothing to add. Raises RopewayError.
        """
        try:
            replay, head = _take_over(folder, rows, job, frozenset(revoked))
            self.path = segment_path(folder, head.epoch)
            self._handle, self._end = (
                (-1, 0) if replay.finished else _begin_segment(self.path, head)
            )
        except OSError as error:
            raise cannot_write(folder, error, hint=phrase("nothing was sent")) from None
        super().__init__(**vars(replay.totals()))
        self.folder = folder
        self.done: Bitmap = replay.done
        self._lines = replay.size  # bytes of the lines of all that is done
        self._taken = replay.done.copy()  # done, or added and not committed yet
        self._lock: OneWriter | None = None
        self._head = head
        self._added = self._committed = 0  # bytes; the one by who adds, the other by who commits
        self._waiting: deque[Result] = deque()
        self._failure: RopewayError | None = None
        self._told = False  # whether who adds has met it
        self._one_commits = threading.Lock()
        self._wake, self._ended = threading.Event(), False
        self._thread = threading.Thread(target=self._keep_committing, name="journal", daemon=True)
        self._thread.start()

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        rows: int,
        job: str = "",
        revoked: Iterable[Outcome] = (),
        silence: float = SILENCE,
    ) -> Self:
        """Take the folder's lock until the journal is closed, and go on with what is in it.

        silence  seconds after which a writer on another machine is taken for gone

        Raises Refused when another run has it, or it is another job's.
        """
        lock = take_folder(folder, silence)
        try:
            journal = cls(folder, rows=rows, job=job, revoked=revoked)
        except BaseException:
            lock.release()
            raise
        journal._lock = lock
        return journal

    def add(self, result: Result) -> None:
        """Take a result; it is committed within a moment. Never waits.

        Raises the RopewayError that ended the journal.
        """
        if self._failure or self._ended:
            self._told = True
            raise self._failure or ValueError("the journal is closed")
        line = result.line
        if not line or line.find(b"\n") != len(line) - 1 or len(line) > MOST_LINE:
            raise ValueError(f"row {result.ordinal}: not one line that ends in LF")
        if not self._taken.add(result.ordinal):
            self.again += 1
            return
        self._waiting.append(result)
        self._added += len(line)
        if self.behind >= _GROUP:
            self._wake.set()

    @property
    def behind(self) -> int:
        """Bytes that are added and not committed: who sends waits while these are too many."""
        return self._added - self._committed

    async def commit(self) -> None:
        """Wait until all that was added is on the disk."""
        try:
            await asyncio.to_thread(self.flush)
        except RopewayError:
            self._told = True
            raise

    def flush(self) -> None:
        """Put all that was added onto the disk. Raises the RopewayError that ended the journal."""
        added = self._added
        with self._one_commits:
            while self._committed < added and not self._failure:
                self._commit_group()
        if self._failure:
            raise self._failure

    def close(self) -> None:
        """Commit what was added, and let others in, if it was opened with its lock."""
        if self._ended:
            return
        self._ended = True
        self._wake.set()
        self._thread.join()
        try:
            self.flush()
        finally:
            if self._handle >= 0:
                os.close(self._handle)
            if self._lock is not None:
                self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except RopewayError:
            # Else what ended the run is the news, and often this very error.
            if error is None and not self._told:
                raise

    def _keep_committing(self) -> None:
        while not self._ended:
            self._wake.wait(_PAUSE)
            self._wake.clear()
            with suppress(RopewayError):  # it waits for who adds next
                self.flush()

    def _commit_group(self) -> None:
        """Write some results and sync them; a fault of the disk is kept in `_failure`."""
        group: list[Result] = []
        parts: list[bytes] = []
        size = 0
        try:
            while self._waiting and size < _GROUP:
                result = self._waiting.popleft()
                group.append(result)
                parts += (packed(result, self._head.salt), result.line)
                size += len(result.line)
            data = b"".join(parts)
            self._failure = self._lost()
            if self._failure:
                return
            write_at(self._handle, data, self._end)
            os.fdatasync(self._handle)
        except OSError as error:
            self._failure = self._failed(error)
            return
        except BaseException:  # these results are in nobody's hands now
            self._failure = RopewayError(
                phrase("the journal met a fault of Ropeway's own"), where=str(self.path)
            )
            raise
        self._end += len(data)
        self._committed += size
        self._lines += size
        for result in group:
            self.done.add(result.ordinal)
            self.counts[result.outcome] += 1
            self.prompt += result.prompt
            self.answer += result.answer

    def _lost(self) -> RopewayError | None:
        """Say why our segment counts no more."""
        if segment_path(self.folder, self._head.epoch + 1).exists():
            return superseded(self.folder)
        if not self.path.exists():
            what = phrase("the journal was removed while the job ran")
            return RopewayError(what, where=str(self.path))
        return None

    def _failed(self, error: OSError) -> RopewayError:
        """Cut off what is not committed, and say what is needed to go on."""
        with suppress(OSError):  # the next run goes by the records, and takes whole ones
            if not self._lost():  # else another may already count what is there
                os.ftruncate(self._handle, self._end)
                os.fdatasync(self._handle)
        done = len(self.done)
        evidence = [
            count(done, "{n:,} row is committed and safe", "{n:,} rows are committed and safe"),
            phrase("{size} of answers were not yet written", size=format_bytes(self.behind)),
        ]
        left = self.done.size - done
        if error.errno in (errno.ENOSPC, errno.EDQUOT) and done:
            rest, lines = left * self._lines / done, self.done.size * self._lines / done
            evidence.append(
                phrase(
                    "at the size of answers so far the rest takes {rest}, and the output {lines}",
                    rest=format_bytes(rest),
                    lines=format_bytes(lines),
                )
            )
        hint = phrase("mend that, then give the same command again: it goes on from there")
        return cannot_write(self.path, error, evidence=evidence, hint=hint)


def take_folder(folder: Path, silence: float = SILENCE) -> OneWriter:
    """Make the folder, if need be, and lock it. Raises Refused when another run has it."""
    try:
        if not folder.is_dir():
            folder.mkdir(PRIVATE_FOLDER)  # prompts are in it, settings and whatever else is sent
        sync_folder(folder.parent)  # always: who made it may have been killed before this
        return OneWriter(folder, silence)
    except OSError as error:
        raise cannot_begin(folder, error) from None


def _take_over(
    folder: Path, rows: int, job: str, revoked: frozenset[Outcome]
) -> tuple[Replay, Head]:
    """Read what there is, and end the time of whoever wrote it."""
    begun = epochs(folder)
    replay = read_journal(folder, revoked)
    if replay.job not in (None, job) or (begun and replay.done.size not in (0, rows)):
        raise other_job(folder)
    for epoch in replay.ends:
        # Read, but perhaps only from memory: a killed writer's last bytes are the system's to keep.
        _sync(segment_path(folder, epoch))
    if not replay.done.size:
        replay.done = Bitmap(rows)
    head = Head(
        epoch=max(begun, default=0) + 1,
        job=job,
        rows=rows,
        salt=new_salt(),
        counts=replay.ends,
        revoked=revoked,
        writer=writer(),
    )
    return replay, head


def _begin_segment(path: Path, head: Head) -> tuple[int, int]:
    """Make a segment; return its handle, and where its records begin."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE)
    except FileExistsError:
        raise superseded(path.parent) from None
    try:
        data = head.to_bytes()
        write_at(handle, data, 0)
        os.fsync(handle)
        sync_folder(path.parent)
    except BaseException:
        os.close(handle)
        path.unlink(missing_ok=True)
        raise
    return handle, len(data)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fdatasync(handle)
    finally:
        os.close(handle)


def superseded(folder: Path) -> Refused:
    """Return the error for a writer whose journal another run goes on with."""
    return Refused(
        phrase("another run has taken over this job"),
        where=str(folder),
        hint=phrase("wait until it ends, or end it; what was committed is kept"),
    )

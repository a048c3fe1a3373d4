"""What a journal says: which rows are done, and which record of a row holds.

A row's first record holds, but for those whose outcome a later segment takes back. What comes after
it was generated again, and is counted.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ropeway.batch.journal.bitmap import Bitmap
from ropeway.batch.journal.finished import read_finished
from ropeway.batch.journal.segments import (
    RECORD_SIZE,
    Gap,
    Record,
    Segment,
    read_segments,
    records,
)
from ropeway.batch.journal.totals import Totals
from ropeway.batch.rows import Outcome
from ropeway.errors import Refused
from ropeway.phrases import Phrase, count, phrase

# Is told of each record that holds, as it is read.
Held = Callable[[Segment, Record], None]


@dataclass
class Replay(Totals):
    """What a journal says.

    job       whose it is; None when there is no segment yet
    size      bytes of the lines of the rows that are done
    ends      epoch → byte after its last whole record; of one journal
    finished  whether all is done and in the output: there are no segments, and need be none
    """

    done: Bitmap
    job: str | None = None
    size: int = 0
    ends: dict[int, int] = field(default_factory=dict)
    finished: bool = False


def read_journal(folder: Path, revoked: frozenset[Outcome] = frozenset()) -> Replay:
    """Return what a journal says, from all of its bytes. Nothing is changed.

    revoked  outcomes that are about to be taken back
    """
    if finished := read_finished(folder):
        done = Bitmap.full(finished.rows)
        return Replay(done, size=finished.size, finished=True, **vars(finished.totals()))
    damage: list[Phrase] = []
    return replay_segments(read_segments(folder, damage), damage, revoked=revoked)


def replay_segments(
    segments: Sequence[Segment],
    damage: list[Phrase],
    *,
    revoked: frozenset[Outcome] = frozenset(),
    held: Held | None = None,
) -> Replay:
    """Return what segments say, of one journal or of all shards.

    `damage` is what is known of that already.
    """
    last = {segment.path.parent: segment for segment in segments}
    replay = Replay(Bitmap(segments[-1].head.rows if segments else 0), damage=damage)
    for segment in segments:
        if replay.job not in (None, segment.head.job) or segment.head.rows != replay.done.size:
            raise other_job(segment.path)
        replay.job = segment.head.job
        _replay(segment, replay, revoked, held, is_last=segment is last[segment.path.parent])
    return replay


def _replay(
    segment: Segment,
    replay: Replay,
    revoked: frozenset[Outcome],
    held: Held | None,
    *,
    is_last: bool,
) -> None:
    """Add what a segment says."""
    add, taken_back = replay.done.add, set(map(int, segment.taken_back | revoked))
    counts: Counter[int] = Counter()
    end = segment.start
    gaps: list[tuple[Gap, int]] = []  # and how many records there are before it
    seen = 0
    for found in records(segment):
        if isinstance(found, Gap):
            gaps.append((found, seen))
            continue
        offset, outcome, ordinal, prompt, answer, line = found
        seen += 1
        end = offset + RECORD_SIZE + len(line)
        if outcome in taken_back:
            continue
        if not add(ordinal):
            replay.again += 1
            continue
        counts[outcome] += 1
        replay.prompt += prompt
        replay.answer += answer
        replay.size += len(line)
        if held:
            held(segment, found)
    replay.ends[segment.head.epoch] = end
    for outcome, number in counts.items():
        replay.counts[Outcome(outcome)] += number
    for gap, before in gaps:
        # What follows the last record of the last segment was being written when its writer ended.
        if not is_last or gap.end <= end:
            replay.damage.append(_damaged(segment.path, gap, seen - before))


def _damaged(path: Path, gap: Gap, after: int) -> Phrase:
    return phrase(
        "{file} is damaged from byte {begin} to byte {end}: rows in there are done again; after it "
        "{rows} whole",
        file=path.name,
        begin=gap.offset,
        end=gap.end,
        rows=count(after, "{n:,} row is", "{n:,} rows are"),
    )


def other_job(path: Path) -> Refused:
    """Return the error for a segment that belongs to another input."""
    return Refused(
        phrase("the journal beside the output belongs to another input"),
        where=str(path),
        hint=phrase("give this job an output of its own with `-o`"),
    )

"""An input in shards, each of which is done by itself, on any machine that sees the job's folder.

A shard is a file of the input. One of plain JSON lines is several, cut where the survey marked it
(`survey.Read`); what is packed, or a table, can only be read from its beginning. Ordinals and names
of rows are those of the whole input, so the journals of all shards say together what a single one
would, and are read as one (`segments.read_segments`). What was cut where is written down, since the
rows of a journal belong to its shard.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from ropeway.batch.disk import cannot_begin
from ropeway.batch.input.parts import Part
from ropeway.batch.input.survey import Survey
from ropeway.batch.journal.replay import read_journal
from ropeway.batch.journal.segments import shard_folder
from ropeway.batch.journal.totals import Totals
from ropeway.batch.rows import Outcome
from ropeway.durable import PRIVATE, PRIVATE_FOLDER, sync_folder, write_whole
from ropeway.errors import Refused, reason_of
from ropeway.phrases import phrase

_NAME = "shards.json"


@dataclass(frozen=True)
class Shard:
    """A part of the input.

    file    its place among the files of the input
    begin   the byte where it begins, which is line `line`; `end`: where it stops, None at the end
    first   index of its first line that is not blank, over the whole input; `lines`: how many
    """

    number: int
    file: int
    begin: int
    line: int
    end: int | None
    first: int
    lines: int

    @property
    def indices(self) -> range:
        """The indices of its lines."""
        return range(self.first, self.first + self.lines)

    def of(self, parts: Sequence[Part]) -> Part:
        """Return what is read for it."""
        return replace(parts[self.file], begin=self.begin, line=self.line, end=self.end)


def plan_shards(found: Survey) -> tuple[Shard, ...]:
    """Cut an input into shards. A file in which nothing is makes none."""
    shards: list[Shard] = []
    first = 0
    for file, read in enumerate(found.parts):
        cuts = [(0, 1, 0), *read.marks]
        ends: list[tuple[int | None, int]] = [(byte, lines) for byte, _, lines in read.marks]
        ends.append((None, read.lines))
        for (begin, line, before), (end, upto) in zip(cuts, ends, strict=True):
            if upto > before:
                number, index = len(shards), first + before
                shards.append(Shard(number, file, begin, line, end, index, upto - before))
        first += read.lines
    return tuple(shards)


def kept_shards(folder: Path, found: Survey) -> tuple[Shard, ...]:
    """Return how the job was cut, or cut it now. Raises RopewayError."""
    path = folder / _NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=tuple[Shard, ...])
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        reason = reason_of(error)
        raise Refused(
            phrase("the journal cannot be read: {reason}", reason=reason), where=str(path)
        ) from None
    shards = plan_shards(found)
    try:
        write_whole(path, msgspec.json.encode(shards), mode=PRIVATE)
        for shard in shards:
            shard_folder(folder, shard.number).mkdir(PRIVATE_FOLDER, exist_ok=True)
        sync_folder(folder)
    except OSError as error:
        raise cannot_begin(path, error) from None
    return shards


def is_sharded(folder: Path) -> bool:
    """Say whether the job in this folder is one of shards."""
    return (folder / _NAME).exists()


def read_shards(folder: Path, shards: Iterable[Shard], revoked: frozenset[Outcome]) -> list[Totals]:
    """Return what the journal of each shard says, without which rows those are."""
    journals = (read_journal(shard_folder(folder, shard.number), revoked) for shard in shards)
    return [journal.totals() for journal in journals]

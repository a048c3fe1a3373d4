"""The journal's files: how they are laid out, written and read.

A journal is a folder of segments, `000001.journal` and so on. Every writer makes one of its own,
its epoch, and adds to no other. A segment is a head and records:

    head    MAGIC, length and CRC-32 of a JSON document, the document, zeros up to `_BLOCK` bytes or
            a multiple of it; and the same once more, so that one bad sector does not cost it
    record  the segment's salt, a CRC-32 of all that follows, length of the line, ordinal, tokens of
            prompt and answer, outcome; then the line as it goes into the output

What the head says:

    counts  up to which byte each earlier segment counts. What is behind that was written by one who
            did not know that its time was over, or was torn when it ended.
    again   outcomes that are taken back (`Head.revoked`): records of them in the segments before
            count no more, and their rows are to be done again

Where bytes are damaged, reading goes on at the
next record: the salt, which is not text and so in no line, says where one may begin, and its CRC
whether one does. Rows whose records are damaged are done again.
"""

import json
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Self
from zlib import crc32

from ropeway.batch.rows import Outcome, Result
from ropeway.errors import Refused, RopewayError, reason_of
from ropeway.outside import parse_json
from ropeway.phrases import Phrase, phrase
from ropeway.units import format_bytes

FORMAT = 1
MAGIC = b"ropeway\x01"
SUFFIX = ".journal"
_SHARD = "shard-"
_IS_SHARD = re.compile(rf"{_SHARD}\d{{5,}}")
MOST_LINE = 256 << 20  # no answer has so many bytes; a damaged length may claim any number

_HEAD = struct.Struct("<8sII")  # MAGIC, length, CRC
_BLOCK = 4096
_MOST_BLOCKS = 256  # in which the second copy of a head is looked for
_FIELDS = struct.Struct("<IQIIB3x")  # length, ordinal, prompt, answer, outcome
_RECORD = struct.Struct("<4sIIQIIB3x")  # salt and CRC before them
RECORD_SIZE = _RECORD.size
_CRC_FROM = 8
_CHUNK = 4 << 20
_MOST_TOKENS = 2**32 - 1


@dataclass(frozen=True)
class Head:
    """What a segment says of itself, and of those before it.

    job      of which job: a hash of its input
    rows     how many that has
    counts   epoch → bytes, of each earlier segment
    revoked  outcomes that are taken back
    writer   who wrote it, for people
    """

    epoch: int
    job: str
    rows: int
    salt: bytes
    counts: dict[int, int] = field(default_factory=dict)
    revoked: frozenset[Outcome] = frozenset()
    writer: str = ""

    def to_bytes(self) -> bytes:
        document = {
            "format": FORMAT,
            "epoch": self.epoch,
            "job": self.job,
            "rows": self.rows,
            "salt": self.salt.hex(),
            "counts": {str(epoch): length for epoch, length in self.counts.items()},
            "again": sorted(self.revoked),
            "writer": self.writer,
        }
        text = json.dumps(document).encode()
        copy = _HEAD.pack(MAGIC, len(text), crc32(text)) + text
        return (copy + bytes(-len(copy) % _BLOCK)) * 2


@dataclass(frozen=True)
class Segment:
    """A segment that can be read.

    start, end   where its records begin, and up to where they count
    size         bytes that it has
    taken_back   outcomes of which its records no longer count
    """

    path: Path
    head: Head
    start: int
    end: int
    size: int
    taken_back: frozenset[Outcome]


class Record(NamedTuple):
    """A record that is whole. `line` is only valid until the next one is asked for."""

    offset: int
    outcome: int
    ordinal: int
    prompt: int
    answer: int
    line: memoryview


class Gap(NamedTuple):
    """Bytes that are no record; `end` is where the next one begins, or the end of all."""

    offset: int
    end: int


def new_salt() -> bytes:
    """Return what begins each record of a segment: 0xFF is in no UTF-8 text."""
    return b"\xff" + os.urandom(3)


def packed(result: Result, salt: bytes) -> bytes:
    """Return the head of a result's record; its line follows."""
    fields = _FIELDS.pack(
        len(result.line),
        result.ordinal,
        # As a server says: what it cannot have counted must not end a job of days.
        min(max(result.prompt, 0), _MOST_TOKENS),
        min(max(result.answer, 0), _MOST_TOKENS),
        result.outcome,
    )
    return salt + crc32(result.line, crc32(fields)).to_bytes(4, "little") + fields


def segment_path(folder: Path, epoch: int) -> Path:
    """Return the name of a writer's segment."""
    return folder / f"{epoch:06d}{SUFFIX}"


def epochs(folder: Path) -> list[int]:
    """Return the epochs that have begun, in their order."""
    paths = folder.glob(f"*{SUFFIX}")
    return sorted(int(path.stem) for path in paths if path.stem.isdecimal())


def shard_folder(folder: Path, number: int) -> Path:
    """Return where the journal of a shard is."""
    return folder / f"{_SHARD}{number:05d}"


def shard_folders(folder: Path) -> list[Path]:
    """Return where journals of shards are, in their order."""
    return sorted(path for path in folder.glob(f"{_SHARD}*") if _IS_SHARD.fullmatch(path.name))


def read_segments(folder: Path, damage: list[Phrase]) -> list[Segment]:
    """Return the segments with a head, in their order, those of shards after our own.

    What is missing is added to `damage`.
    """
    folders = (folder, *shard_folders(folder))
    return [segment for one in folders for segment in _segments(one, damage)]


def _segments(folder: Path, damage: list[Phrase]) -> list[Segment]:
    heads: dict[int, tuple[Head, int, int]] = {}
    headless: dict[int, int] = {}
    for epoch in epochs(folder):
        path = segment_path(folder, epoch)
        try:
            with path.open("rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                found = _read_head(file.fileno(), path)
        except OSError as error:
            raise cannot_read(path, error) from None
        if found and found[0].epoch == epoch:
            heads[epoch] = (*found, size)
        else:
            headless[epoch] = size
    segments = []
    for epoch, (head, start, size) in heads.items():
        later = [heads[other][0] for other in heads if other > epoch]
        end = min((other.counts.get(epoch, start) for other in later), default=size)
        taken_back = frozenset(outcome for other in later for outcome in other.revoked)
        path = segment_path(folder, epoch)
        segments.append(Segment(path, head, start, max(start, end), size, taken_back))
    damage += _what_is_missing(folder, segments, headless)
    return segments


def _what_is_missing(
    folder: Path, segments: list[Segment], headless: dict[int, int]
) -> Iterator[Phrase]:
    """Say which bytes that count are not there.

    A head is on the disk before the first record is, so a short file without one is a start that
    was cut off, and misses nothing.
    """
    known = {segment.head.epoch: segment.size for segment in segments}
    counted = {
        epoch: length for segment in segments for epoch, length in segment.head.counts.items()
    }
    for epoch, size in headless.items():
        if epoch in counted or size > _MOST_BLOCKS * _BLOCK:
            yield phrase(
                "{file} has no head that can be read: its {size} are not used",
                file=segment_path(folder, epoch).name,
                size=format_bytes(size),
            )
    for epoch, length in sorted(counted.items()):
        size = known.get(epoch, 0)
        if epoch not in headless and size < length:
            yield phrase(
                "{file} has lost its last {lost} of {size}",
                file=segment_path(folder, epoch).name,
                lost=format_bytes(length - size),
                size=format_bytes(length),
            )


def _read_head(handle: int, path: Path) -> tuple[Head, int] | None:
    """Return the head, and where records begin; None when neither copy of it is whole."""
    for block in range(_MOST_BLOCKS):
        first = os.pread(handle, _BLOCK, block * _BLOCK)
        if len(first) < _HEAD.size:
            return None
        magic, length, crc = _HEAD.unpack_from(first)
        if magic != MAGIC or not 0 < length <= _MOST_BLOCKS * _BLOCK:
            continue
        text = os.pread(handle, length, block * _BLOCK + _HEAD.size)
        if crc32(text) == crc:
            size = _HEAD.size + length
            return _head_of(text, path), 2 * (size + -size % _BLOCK)
    return None


def _head_of(text: bytes, path: Path) -> Head:
    document = parse_json(text)
    if document["format"] != FORMAT:
        raise Refused(
            phrase("the journal was written by another version of Ropeway"),
            where=str(path),
            hint=phrase("go on with the version that began the job"),
        )
    return Head(
        epoch=document["epoch"],
        job=document["job"],
        rows=document["rows"],
        salt=bytes.fromhex(document["salt"]),
        counts={int(epoch): length for epoch, length in document["counts"].items()},
        revoked=frozenset(map(Outcome, document["again"])),
        writer=document["writer"],
    )


def records(segment: Segment) -> Iterator[Record | Gap]:
    """Return a segment's records in their order, and the gaps between them.

    Takes the memory of a chunk, or of the longest line.
    """
    salt, end = segment.head.salt, segment.end
    base, data, at = segment.start, b"", 0  # `data` begins at byte `base` of the file
    gap: int | None = None
    wanted = _CHUNK
    with segment.path.open("rb", buffering=0) as file:
        while True:
            place = base + len(data)
            try:
                more = os.pread(file.fileno(), min(wanted, end - place), place)
            except OSError as error:
                raise cannot_read(segment.path, error) from None
            last = place + len(more) >= end or not more
            base, data, at = base + at, data[at:] + more, 0
            view, size, wanted = memoryview(data), len(data), _CHUNK
            while at + RECORD_SIZE <= size:
                mark, crc, length, ordinal, prompt, answer, outcome = _RECORD.unpack_from(data, at)
                stop = at + RECORD_SIZE + length
                if mark == salt and length <= MOST_LINE:
                    if stop > size and not last and base + stop <= end:
                        wanted = max(_CHUNK, stop - size)
                        break
                    if stop <= size and crc32(view[at + _CRC_FROM : stop]) == crc:
                        if gap is not None:
                            yield Gap(gap, base + at)
                            gap = None
                        line = view[at + RECORD_SIZE : stop]
                        yield Record(base + at, outcome, ordinal, prompt, answer, line)
                        at = stop
                        continue
                if gap is None:
                    gap = base + at
                at = data.find(salt, at + 1)
                if at < 0:
                    at = max(0, size - len(salt) + 1)
            if last:
                break
    stop = min(end, base + size)
    if gap is None and base + at < stop:
        gap = base + at
    if gap is not None:
        yield Gap(gap, stop)


class Lines:
    """Reads lines by their places; keeps the files of so many segments open."""

    def __init__(self, most: int = 200) -> None:
        self._most = most
        self._open: dict[Path, int] = {}

    def read(self, segment: Segment, offset: int) -> tuple[int, bytes]:
        """Return the outcome and the line of the record that begins at `offset`."""
        handle = self._open.get(segment.path) or self._handle(segment.path)
        data = os.pread(handle, _BLOCK, offset)
        _, _, length, _, _, _, outcome = _RECORD.unpack_from(data)
        stop = RECORD_SIZE + length
        if len(data) < stop:
            data += os.pread(handle, stop - len(data), offset + len(data))
        return outcome, data[RECORD_SIZE:stop]

    def _handle(self, path: Path) -> int:
        if len(self._open) >= self._most:
            self.close()
        self._open[path] = os.open(path, os.O_RDONLY)
        return self._open[path]

    def close(self) -> None:
        """Close the files."""
        for handle in self._open.values():
            os.close(handle)
        self._open.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def cannot_read(path: Path, error: OSError) -> RopewayError:
    """Return the error for a segment that the disk does not give back."""
    return RopewayError(
        phrase("the journal cannot be read: {reason}", reason=reason_of(error)), where=str(path)
    )

"""The input read again, once all of it was looked at."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ropeway.batch.forms import Reader, Request
from ropeway.batch.left_out import LeftOut
from ropeway.batch.parts import Part, Shape
from ropeway.batch.source import Fault, Reading
from ropeway.errors import RopewayError


@dataclass(frozen=True)
class Read:
    """A file as it was when it was surveyed."""

    name: str
    size: int
    changed: int
    shape: Shape
    digest: str
    lines: int


@dataclass(frozen=True, slots=True)
class Again:
    """A line that can be sent; `index` is its place among the lines that are not blank, from 0."""

    index: int
    where: str
    request: Request


def blank(item: Any) -> bool:
    """Say whether nothing is in a line. Such lines are not counted."""
    return item.__class__ is bytes and (not item or item.isspace())


def lines_again(
    parts: Sequence[Part],
    reads: Sequence[Read],
    reader: Reader,
    bad_lines: Iterator[LeftOut],
    wanted: Callable[[int], bool],
) -> Iterator[Again]:
    """Yield the lines that are wanted, by their index, and not left out; others are not decoded.

    Raises RopewayError where the input is not what it was: at the end of the file whose hash is
    another, or at once where a line cannot be read any more, or was not there when all was read.
    """
    bad = next(bad_lines, None)
    index = -1
    for part, read in zip(parts, reads, strict=True):
        reader.begin(part)
        end = index + read.lines
        reading = Reading(part, reader.wanted)
        for chunk in reading.chunks():
            for number, item in zip(chunk.numbers, chunk.items, strict=True):
                if blank(item):
                    continue
                if index == end:
                    raise _changed(f"{part.name}:{number}")
                index += 1
                if bad is not None and bad.index == index:
                    bad = next(bad_lines, None)
                elif wanted(index):
                    request = reader.read(item)
                    where = f"{part.name}:{number}"
                    if isinstance(request, Fault):
                        raise _changed(where, request.what)
                    yield Again(index, where, request)
        if reading.digest != read.digest:
            raise _changed(part.name)


def _changed(where: str, evidence: str = "") -> RopewayError:
    return RopewayError(
        "the input has changed since the job began",
        where=where,
        evidence=[evidence] if evidence else [],
        hint="put it back as it was, or begin another job: rows are known by their places in it",
    )

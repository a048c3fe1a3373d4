"""The input read again, once all of it was looked at."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import dropwhile
from typing import Any

from ropeway.batch.input.left_out import LeftOut
from ropeway.batch.input.parts import Part, Shape, is_as_it_was
from ropeway.batch.input.requests import Reader, Request
from ropeway.batch.input.source import Fault, Reading
from ropeway.errors import Refused


@dataclass(frozen=True)
class Read:
    """A file as it was when it was surveyed.

    marks  places where it can be cut: byte, number of the line that begins there, and how many
           lines that are not blank come before. Only plain JSON lines have some.
    touched, changed  as `Part` has them
    """

    name: str
    size: int
    changed: int
    shape: Shape
    digest: str
    lines: int
    marks: tuple[tuple[int, int, int], ...] = ()
    touched: int = 0


@dataclass(frozen=True, slots=True)
class RereadLine:
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
    first: int = 0,
) -> Iterator[RereadLine]:
    """Yield the lines that are wanted, by their index, and not left out; others are not decoded.

    `first` is the index of the first line. Raises Refused where the input is not what it was: of a
    file with another size or time before a line of what was just read is yielded, of one with
    another hash at its end, and where a line cannot be read any more, or was not there before.
    """
    bad_lines = dropwhile(lambda line: line.index < first, bad_lines)
    bad = next(bad_lines, None)
    index = first - 1
    for part, read in zip(parts, reads, strict=True):
        reader.begin(part)
        end = index + read.lines
        reading = Reading(part, reader.wanted)
        for chunk in reading.chunks():
            checked = False
            for number, item in zip(chunk.numbers, chunk.items, strict=True):
                if blank(item):
                    continue
                if index == end:
                    raise _changed(f"{part.name}:{number}")
                index += 1
                if bad is not None and bad.index == index:
                    bad = next(bad_lines, None)
                elif wanted(index):
                    if not checked and not is_as_it_was(part):
                        raise _changed(part.name)
                    checked = True  # what is in memory stays as it was
                    request = reader.read(item)
                    where = f"{part.name}:{number}"
                    if isinstance(request, Fault):
                        raise _changed(where, request.what)
                    yield RereadLine(index, where, request)
        if not (reading.digest == read.digest if part.whole else is_as_it_was(part)):
            raise _changed(part.name)


def _changed(where: str, evidence: str = "") -> Refused:
    return Refused(
        "the input has changed since the job began",
        where=where,
        evidence=[evidence] if evidence else [],
        hint="put it back as it was, or begin another job: rows are known by their places in it",
    )

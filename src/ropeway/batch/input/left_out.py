"""Lines that cannot be sent: a file of them in the job's folder, or a refusal that names some."""

import heapq
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Self

import msgspec

from ropeway.batch.input.source import Fault
from ropeway.durable import PRIVATE, whole
from ropeway.errors import Refused
from ropeway.phrases import Phrase, joined, phrase

ENOUGH = 100
"""Lines after which nobody wants to know of more: it is the whole input."""

_NAME = "left-out.jsonl"
_SHOWN = 5


class LeftOut(msgspec.Struct, gc=False):
    """A line that is left out; `index` is its place among the lines, `name` its own or ""."""

    index: int
    where: str
    name: str
    kind: str
    what: str


class Faults:
    """Takes lines that cannot be sent, in the order of the input.

    What a second look finds goes through `add_later`, in that order too, and into a file of its own
    until the end. Raises OSError when the disk is full.
    """

    def __init__(self, folder: Path, *, skip: bool) -> None:
        self.kinds: Counter[str] = Counter()
        self._skip = skip
        self._folder = folder
        self._paths = [folder / f"{_NAME}.{number}" for number in (1, 2)]
        self._shown: list[tuple[int, str, Fault]] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        for path in self._paths:
            path.touch(PRIVATE)
        self._files = [self._stack.enter_context(path.open("wb")) for path in self._paths]
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        for path in self._paths:
            path.unlink(missing_ok=True)

    @property
    def enough(self) -> bool:
        """Whether to look no further."""
        return not self._skip and self.kinds.total() >= ENOUGH

    def add(self, fault: Fault, index: int, where: str, name: str) -> None:
        """Keep what the first look finds."""
        self._add(0, fault, LeftOut(index, where, name, fault.kind, str(fault.what)))

    def add_later(self, fault: Fault, index: int, where: str, name: str) -> None:
        """Keep what the second look finds."""
        self._add(1, fault, LeftOut(index, where, name, fault.kind, str(fault.what)))

    def so_far(self) -> Iterator[LeftOut]:
        """Yield what the first look has found."""
        self._files[0].flush()
        return _read(self._paths[0])

    def close(self, lines: int) -> int:
        """Return how many of so many lines are left out. Raises Refused where they may not be."""
        bad = self.kinds.total()
        if bad and (not self._skip or bad == lines):
            raise self._refusal(bad, all_bad=bad == lines)
        for file in self._files:
            file.flush()
        both = heapq.merge(*map(_read, self._paths), key=lambda line: line.index)
        with whole(self._folder / _NAME, PRIVATE) as merged:
            for line in both:
                merged.write(msgspec.json.encode(line) + b"\n")
        return bad

    def _add(self, number: int, fault: Fault, line: LeftOut) -> None:
        self.kinds[fault.kind] += 1
        self._files[number].write(msgspec.json.encode(line) + b"\n")
        self._shown.append((line.index, line.where, fault))
        if len(self._shown) > 2 * ENOUGH:
            self._shown = sorted(self._shown, key=lambda one: one[0])[:ENOUGH]

    def _refusal(self, bad: int, *, all_bad: bool) -> Refused:
        (_, where, first), *rest = sorted(self._shown, key=lambda one: one[0])
        evidence = [phrase("{where}: {what}", where=place, what=fault.what)
                    for _, place, fault in islice(rest, _SHOWN - 1)]  # fmt: skip
        if bad > _SHOWN:
            more = "and {n:,} more" if not self.enough else "and {n:,} more, at least"
            evidence.append(phrase(more, n=bad - _SHOWN))
        if all_bad and self.kinds.keys() == {"column"}:  # a fault of the header
            evidence = [phrase("so it is with every line that was read")] if rest else []
        leave_out: Phrase | None = phrase("`--skip-bad` goes on without such lines, and lists them")
        if all_bad:
            leave_out = phrase("no line is left that could be sent") if self._skip else None
        hint = joined(filter(None, (first.hint, leave_out)), "\n")
        return Refused(first.what, where=where, evidence=evidence, hint=hint)


def left_out(folder: Path) -> Iterator[LeftOut]:
    """Yield the lines that the survey of a job left out, in the order of the input."""
    return _read(folder / _NAME)


def _read(path: Path) -> Iterator[LeftOut]:
    decoder = msgspec.json.Decoder(LeftOut)
    with path.open("rb") as file:
        for line in file:
            yield decoder.decode(line)

"""Outputs made of labelled lines, `label : value`, turned into records.

A label is looked up without its blanks and without regard to case, so `Temperature (C)` and
`Temperature(C)` are one. A record ends where a label comes again, where another NPU is named, and
with its block.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from ropeway.facts.base import Reading
from ropeway.facts.captures import Block, flag_value, is_rule, read_capture
from ropeway.facts.complaints import Leftovers, complaint, conclude_records

R = TypeVar("R")
Convert = Callable[[str], Any]

_LABEL = re.compile(r"([^:=：]{0,80}?)[ \t]*[:=：][ \t]*(.*)$")
_DEVICE = re.compile(r"\s*\[(?:devid|dev_id|device|dev|npu)[ :_]*(\d{1,4})\][ :]*", re.I)
_ANY_LABEL = re.compile(r"[^\s\d].{0,59}")
_LONGEST = 40  # characters of a whole number
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")
NOTHING = frozenset({"", "-", "--", "na", "n/a", "none", "null"})


def label(line: str) -> tuple[str, str] | None:
    """`label : value` → both, stripped; None where the line has no `:` or `=`."""
    found = _LABEL.match(line.strip())
    return (found[1].strip(), found[2].strip()) if found else None


def key(text: str) -> str:
    """A label as it is looked up."""
    return "".join(text.split()).lower()


def device_tag(line: str) -> tuple[int | None, str]:
    """`[devid 3] aeqe: 0` → 3 and the rest; None and the line where no NPU is named."""
    found = _DEVICE.match(line)
    return (int(found[1]), line[found.end() :]) if found else (None, line)


def text_or_none(value: str) -> str | None:
    """The value, or None for `NA`, `-` and the like."""
    return None if value.lower() in NOTHING else value


def word(value: str) -> str:
    """The value as it is printed; ValueError when there is none."""
    if not value:
        raise ValueError("no value")
    return value


def integer(value: str) -> int | None:
    """A whole number, decimal or 0x…; None for `NA`; ValueError for anything else, and for what is
    absurdly long."""
    if value.lower() in NOTHING:
        return None
    if len(value) > _LONGEST:
        raise ValueError(value[:_LONGEST])
    return int(value, 16) if value[:2].lower() == "0x" else int(value)


def number(value: str) -> float | None:
    """A number with or without a unit behind it; None for `NA`; ValueError for anything else."""
    if value.lower() in NOTHING:
        return None
    found = _NUMBER.match(value)
    if not found:
        raise ValueError(value)
    return float(found[0])


def quantity(unit: str) -> Convert:
    """A number behind which this unit must stand, or nothing."""

    def convert(value: str) -> float | None:
        if value.lower() in NOTHING:
            return None
        found = _NUMBER.match(value)
        if not found or value[found.end() :].strip().lower() not in ("", unit.lower()):
            raise ValueError(value)
        return float(found[0])

    return convert


@dataclass
class Records(Generic[R]):
    """Records under construction.

    make      builds one from its fields
    carried   fields that hold for the records after it too (the NPU above its chips)
    minor     fields that make no record by themselves
    others    the field for what was not known by name; more of it than of the rest is suspicious
    orphans   lines of records that came to nothing, or that are mostly of something else
    """

    make: Callable[..., R]
    carried: frozenset[str] = frozenset()
    minor: frozenset[str] = frozenset()
    others: str = ""
    done: list[R] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    _context: dict[str, Any] = field(default_factory=dict)
    _fields: dict[str, Any] = field(default_factory=dict)
    _lines: list[str] = field(default_factory=list)

    def context(self, **values: Any) -> None:
        """What is known from outside: the NPU of the block. Ends the record when it changes."""
        if any(self._context.get(name) != value for name, value in values.items()):
            self.end()
            self._context = {**self._context, **values}

    def put(self, name: str, value: Any) -> None:
        """Set a field; a field that is set already belongs to the next record."""
        if name in self._fields or (name in self.carried and self._fields.keys() - self.carried):
            self.end()
        if name in self.carried:
            if name in self._context:  # another card: what was said of the last one is over
                self._context = {k: v for k, v in self._context.items() if k not in self.carried}
            self._context[name] = value
        self._fields[name] = value

    def set(self, name: str, value: Any) -> None:
        """Change a field of the record under construction."""
        self._fields[name] = value

    def extend(self, name: str, values: tuple[Any, ...]) -> None:
        """Add to a field that holds several."""
        self._fields[name] = (*self._fields.get(name, ()), *values)

    def note(self, name: str, entry: str, value: Any) -> None:
        """Add to a field that is a table; an entry that is there already is for the next record."""
        if entry in self._fields.get(name, {}):
            self.end()
        self._fields.setdefault(name, {})[entry] = value

    def has(self, name: str) -> bool:
        """Whether the record under construction has the field."""
        return name in self._fields

    def get(self, name: str) -> Any:
        """The field of the record under construction; None where it has none."""
        return self._fields.get(name)

    def source(self, line: str) -> None:
        """The line that the record was last told of."""
        self._lines.append(line)

    @property
    def open(self) -> bool:
        """Whether the record has anything of its own."""
        return bool(self._fields.keys() - self.carried - self.minor)

    def end(self) -> None:
        """Finish the record, if it has anything of its own."""
        if self.open:
            self.done.append(self.make(**{**self._context, **self._fields}))
            if len(self._fields.get(self.others, ())) >= len(self._fields):
                self.orphans += self._lines
        elif self._fields.keys() - self.carried:
            self.orphans += self._lines
        self._fields, self._lines = {}, []

    def add(self, **fields: Any) -> None:
        """A whole record at once."""
        self.end()
        self.done.append(self.make(**{**self._context, **fields}))


@dataclass(frozen=True)
class Layout(Generic[R]):
    """How an output of labelled lines becomes records.

    make     builds one record from its fields
    labels   label → field and conversion; a field may have several labels
    index    the field that takes the number of the NPU from outside; "" for none
    carried  fields that hold for the following records too
    minor    fields that make no record by themselves, as the NPU and `others` do not
    starts   fields that begin a record
    others   the field for labels that are not known; "" to leave those lines unread
    like     what such a label looks like; others are left unread
    flags    fields that the echoed command gives: field → flag
    errors   records have a field `error`
    """

    make: Callable[..., R]
    labels: Mapping[str, tuple[str, Convert]]
    index: str = "device"
    carried: frozenset[str] = frozenset()
    minor: frozenset[str] = frozenset()
    starts: frozenset[str] = frozenset()
    others: str = ""
    like: re.Pattern[str] = _ANY_LABEL
    flags: Mapping[str, str] = field(default_factory=dict)
    errors: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", {key(name): to for name, to in self.labels.items()})

    def read(self, text: str) -> Reading[tuple[R, ...]]:
        """The records of a capture. Never raises."""
        capture = read_capture(text)
        minor = self.minor | {self.index, self.others}
        strict = self.others if self.like is _ANY_LABEL else ""
        records = Records(self.make, self.carried, minor, strict)
        leftovers = Leftovers()
        for block in capture.blocks:
            self.read_block(block, records, leftovers)
        leftovers.unread += records.orphans
        return conclude_records(text, records.done, leftovers, cut=capture.elided)

    def read_block(self, block: Block, records: Records[R], leftovers: Leftovers) -> None:
        """Add the records of one block; they end with it."""
        records.end()
        if self.index:
            records.context(**{self.index: block.device})
        for name, flag in self.flags.items():
            records.context(**{name: flag_value(block.command or "", flag)})
        for line in block.lines:
            if is_rule(line):
                continue
            named, rest = device_tag(line)
            if named is not None and self.index:
                records.context(**{self.index: named})
            if self._read_line(rest, records):
                records.source(line.strip())
                continue
            error = leftovers.add(line)
            if error is not None and self.errors:
                leftovers.errors.pop()
                records.add(error=error)
        records.end()

    def _read_line(self, line: str, records: Records[R]) -> bool:
        pair = label(line)
        if pair is None:
            return False
        target = self.labels.get(key(pair[0]))
        if target is None:
            if not self.index and not pair[1] and line.rstrip().endswith(":"):
                return True  # somebody's heading above a file
            named = self.like.fullmatch(pair[0]) is not None
            if not self.others or not named or complaint(line) is not None:
                return False
            records.note(self.others, pair[0], pair[1])
            return True
        name, convert = target
        try:
            value = convert(pair[1])
        except ValueError:
            return False
        if name in self.starts:
            records.end()
        records.put(name, value)
        return True

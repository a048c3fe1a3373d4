"""`npu-smi info`: the table of all chips and of the processes that hold their memory.

It is read by structure. Column widths differ between versions and even lie within one table,
`used/ total` loses its blank at five digits, the process table repeats the shape of the rows above
it, 310, 310P and 310B have a `Device` column and no HBM, A3 has `Phy-ID` and two chips to an NPU,
950 has one cell more and no chip numbers. Formats: github.com/hicann/driver,
`npucli/src/npu_info_print*.c`, and recordings of npu-smi 22 to 26.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from ropeway.facts.complaints import to_parsed
from ropeway.facts.question import Parsed, Question
from ropeway.facts.text import cells, is_rule, parse_int, plain_lines
from ropeway.hardware import Family

_BANNER = re.compile(r"npu-smi\s+(\S+)\s+Version:\s*(\S+)", re.I)
_BUS = re.compile(r"[0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-9A-Fa-f]")
_IDLE = re.compile(r"No running process(?:es)? found in NPU\s+([0-9]{1,9})\b", re.I)
_HEADER = re.compile(r"([A-Za-z][A-Za-z_ -]{0,40}?)\s*\(([^)|]{0,12})\)")
_VALUE = re.compile(r"([^\s/]+)\s*/\s*([^\s/]*)|([^\s/]+)")
_HEADINGS = ("Bus-Id", "Hugepages", "Health", "Memory-Usage")


@dataclass(frozen=True)
class Chip:
    """One chip. None where the table has no such column, prints NA or `-`, or was cut off.

    npu         the card's number, as `-i` takes it
    chip        its number within the card
    phy_id      A3 only
    device      the logical number; 310, 310P and 310B only
    name        as printed: `910B3`, `Ascend910`, `310P3`; the old `910B` is a 910A, see chip_family
    health      OK, Warning, Alarm, Critical, UNKNOWN
    memory_…    DDR; 0 of 0 on chips without
    hbm_…       None on chips without HBM
    """

    npu: int
    chip: int | None = None
    phy_id: int | None = None
    device: int | None = None
    name: str | None = None
    health: str | None = None
    temperature_c: int | None = None
    memory_used_mb: int | None = None
    memory_total_mb: int | None = None
    hbm_used_mb: int | None = None
    hbm_total_mb: int | None = None


@dataclass(frozen=True)
class Holder:
    """A process that holds device memory; `name` is empty where a container hides it."""

    npu: int
    chip: int | None
    pid: int
    name: str
    memory_mb: float | None


@dataclass(frozen=True)
class NpuTable:
    """`npu-smi info`. `driver_version` is what follows `Version:`."""

    driver_version: str | None
    chips: tuple[Chip, ...]
    processes: tuple[Holder, ...]


def chip_family(name: str) -> Family | None:
    """Return the family of a chip from the name that npu-smi prints, None of an unknown name.

    Sources: recordings; the docs of vllm-ascend; hicann/driver, where `910_93` is A3.
    """
    printed = " ".join(name.split())
    matches = (family for family, pattern in _FAMILIES if re.fullmatch(pattern, printed, re.I))
    return next(matches, None)


_FAMILIES: tuple[tuple[Family, str], ...] = (
    ("A2", r"(?:Ascend ?)?910B[1-9][A-Z0-9_-]*"),  # without a number after it: 910A
    ("A3", r"(?:Ascend ?)?910_?93\w*|(?:Ascend ?)?910C\w*"),
    ("A3", r"Ascend ?910"),  # it prints the series without a letter
    ("910A", r"(?:Ascend ?)?910(?:A|B|Pro\w*|Premium\w*)"),  # the first 910
    ("310P", r"(?:Ascend ?)?310P\w*"),
    ("310B", r"(?:Ascend ?)?310B\w*"),
    ("950", r"(?:Ascend ?)?950\w*"),
)


def parse_table(text: str) -> Parsed[NpuTable]:
    """Read the chips and processes of one table; a second one in the text is left unparsed."""
    return _Reader().read(text)


TABLE = Question("npu-smi-info", ("npu-smi", "info"), parse_table, limit=60)


@dataclass(frozen=True)
class Work:
    """What one chip does.

    aicore  percent of the time in which its AI cores worked, as npu-smi says
    """

    npu: int
    chip: int | None
    aicore: int | None
    hbm_used_mb: int | None
    hbm_total_mb: int | None


def parse_work(text: str) -> Parsed[tuple[Work, ...]]:
    """Read what each chip of the same table does."""
    reader = _Reader()
    table = reader.read(text)
    work = None
    if table.value is not None:
        work = tuple(
            Work(chip.npu, chip.chip, aicore, chip.hbm_used_mb, chip.hbm_total_mb)
            for chip, aicore in zip(table.value.chips, reader.aicore, strict=True)
        )
    return Parsed(table.state, work, table.error, table.unparsed, table.text)


@dataclass
class _Reader:
    """The state of reading one table from top to bottom.

    aicore   of each chip
    pending  the second row of the last chip has not come yet
    headed   the table of chips had its header
    over     another table has begun
    """

    driver_version: str | None = None
    first_labels: tuple[str, ...] = ()
    second_labels: tuple[str, ...] = ()
    second_number: str = ""
    process_header: tuple[str, ...] = ()
    chips: list[Chip] = field(default_factory=list)
    aicore: list[int | None] = field(default_factory=list)
    processes: list[Holder] = field(default_factory=list)
    idle: list[int] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)
    pending: bool = False
    truncated: bool = False
    headed: bool = False
    over: bool = False

    def read(self, text: str) -> Parsed[NpuTable]:
        for line in _unwrapped(plain_lines(text)):
            self._line(line)
        self._close_chip()
        # The process table has something to say of every NPU above it.
        named = {*self.idle, *(process.npu for process in self.processes)}
        if self.process_header or named:
            self.truncated |= not {chip.npu for chip in self.chips} <= named
        table = NpuTable(self.driver_version, tuple(self.chips), tuple(self.processes))
        value = table if self.chips or named else None
        return to_parsed(text, value, self.leftovers, truncated=self.truncated)

    def _line(self, line: str) -> None:
        banner, idle = _BANNER.search(line), _IDLE.search(line)
        if self.over or (banner and (self.chips or self.driver_version)):
            self.over = True
            self.leftovers.append(line)
        elif banner:
            self.driver_version = banner[2]
        elif idle:
            self.idle.append(int(idle[1]))
        elif is_rule(line):
            self.truncated |= line.startswith("+") and not line.endswith("+")
        elif not line.startswith("[WARNING]") and not (
            line.startswith("|") and self._row(line, cells(line))
        ):
            self.leftovers.append(line)
            self.truncated |= line.startswith("|")

    def _row(self, line: str, row: list[str]) -> bool:
        joined = " ".join(row)
        if not row:
            return False
        if "Process id" in joined:
            self.process_header = tuple(row)
            return True
        if any(heading in joined for heading in _HEADINGS):
            self._header(row)
            return True
        return self._process(row) or self._chip_row(line, row)

    def _header(self, row: list[str]) -> None:
        labels = tuple(name.strip().lower() for name, _ in _HEADER.findall(row[-1]))
        if "Bus-Id" in row:
            self.second_labels = labels
            self.second_number = row[0].removeprefix("Chip").strip().lower()
        else:
            self.first_labels = labels
        self.headed = True

    def _process(self, row: list[str]) -> bool:
        """`npu [chip] | pid | name | memory [| pid in container]`."""
        if len(row) < 4:
            return False
        place, pid = _wholes(row[0]), parse_int(row[1])
        if not place or len(place) > 2 or pid is None:
            return False
        memory: float | None = parse_int(row[3])
        unit = next((title for title in self.process_header if "memory" in title.lower()), "(MB)")
        if memory is not None and "(MB)" not in unit:
            memory = round(memory / (2**20 if "(B)" in unit else 2**10), 3)
        chip = place[1] if len(place) > 1 else None
        self.processes.append(Holder(place[0], chip, pid, row[2], memory))
        return True

    def _chip_row(self, line: str, row: list[str]) -> bool:
        closed = line.endswith("|")
        bus = next((cell for cell in row[1:] if _BUS.fullmatch(cell)), None)
        if bus is not None or (self.pending and "NA" in row[1:-1]):
            known = self.pending and self._second(row, row.index(bus or "NA", 1), closed)
        else:
            known = self._first(row, closed)
        self.truncated |= known and not closed
        return known

    def _first(self, row: list[str], closed: bool) -> bool:
        """`npu name | health | power temperature hugepages`; 950 has `npu | name |` instead."""
        head = [*row[0].split(None, 1), *row[1:]] if len(row) < 4 else row
        npu = parse_int(head[0]) if len(head) > 1 else None
        if npu is None or not re.fullmatch(r"[\w./ -]+", head[1]):
            return False
        if len(head) > 2 and not re.fullmatch(r"[A-Za-z][A-Za-z _-]*", head[2]):
            return False
        if not self.headed and not ("/" in head[-1] or (self.chips and not closed)):
            return False  # some other table
        self._close_chip()
        labels = self.first_labels or ("power", "temp", "hugepages-usage")
        values = _values(head[3], labels, closed) if len(head) > 3 else {}
        health = head[2] if len(head) > 2 else None
        temperature, _ = values.get("temp", (None, None))
        self.chips.append(Chip(npu, name=head[1], health=health, temperature_c=temperature))
        self.aicore.append(None)
        self.pending = True
        return True

    def _second(self, row: list[str], bus: int, closed: bool) -> bool:
        """`chip [phy_id or device] | bus | aicore memory [hbm]`; the head is empty on a 950."""
        numbers = _wholes(row[0])
        if numbers is None:
            return False
        labels = self.second_labels or ("aicore", "memory-usage", "hbm-usage")
        values = _values(row[bus + 1], labels, closed) if len(row) > bus + 1 else {}
        memory_used, memory_total = values.get("memory-usage", (None, None))
        hbm_used, hbm_total = values.get("hbm-usage", (None, None))
        second = numbers[1] if len(numbers) > 1 else None
        self.aicore[-1], _ = values.get("aicore", (None, None))
        # Without a header: HBM is printed with Phy-ID, and never with Device.
        physical = self.second_number == "phy-id" or (not self.headed and "hbm-usage" in values)
        self.chips[-1] = replace(
            self.chips[-1],
            chip=numbers[0] if numbers else None,
            phy_id=second if physical else None,
            device=None if physical else second,
            memory_used_mb=memory_used,
            memory_total_mb=memory_total,
            hbm_used_mb=hbm_used,
            hbm_total_mb=hbm_total,
        )
        self.pending = False
        return True

    def _close_chip(self) -> None:
        """End a chip whose second row did not come: the table ended, or was filtered."""
        self.truncated |= self.pending
        self.pending = False


def _unwrapped(lines: Iterable[str]) -> list[str]:
    """Join rows that a narrow terminal broke in two."""
    joined: list[str] = []
    for line in lines:
        text = line.strip()
        broken = bool(joined) and joined[-1].startswith("|") and not joined[-1].endswith("|")
        if broken and text.endswith("|") and not text.startswith(("|", "+")):
            joined[-1] += f" {text}"
        else:
            joined.append(text)
    return joined


def _values(
    cell: str, labels: Iterable[str], closed: bool
) -> dict[str, tuple[int | None, int | None]]:
    """Return label → its value, or the two of a pair; of a row that was cut the last number may be
    a part of one, and is left out."""
    matches = _VALUE.findall(cell)
    if not closed and matches:
        matches[-1] = (matches[-1][0], "", "")
    pairs = [(parse_int(used or single), parse_int(total)) for used, total, single in matches]
    return dict(zip(labels, pairs, strict=False))


def _wholes(cell: str) -> list[int] | None:
    """Return the whole numbers of a cell; None when anything else is in it."""
    parts = cell.split()
    numbers = [number for part in parts if (number := parse_int(part)) is not None]
    return numbers if len(numbers) == len(parts) else None

"""`npu-smi info`: the table of all chips and of the processes that hold their memory.

It is read by structure. Column widths differ between versions and even lie within one table,
`used/ total` loses its blank at five digits, the process table repeats the shape of the rows above
it, 310, 310P and 310B have a `Device` column and no HBM, A3 has `Phy-ID` and two chips to an NPU,
950 has one cell more and no chip numbers. Formats: github.com/hicann/driver,
`npucli/src/npu_info_print*.c`, and recordings of npu-smi 22 to 26.
"""

import re
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ropeway.facts.base import Output, Reading
from ropeway.facts.captures import Capture, cells, is_rule, marked, read_capture
from ropeway.facts.complaints import Leftovers, conclude

FamilyName = Literal["910A", "910B", "A3", "310P", "310B", "950"]

_BANNER = re.compile(r"npu-smi\s+(\S+)\s+Version:\s*(\S+)", re.I)
_BUS = re.compile(r"[0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-9A-Fa-f]")
_IDLE = re.compile(r"No running process(?:es)? found in NPU\s+(\d+)", re.I)
_HEADER = re.compile(r"([A-Za-z][A-Za-z_ -]{0,40}?)\s*\(([^)|]{0,12})\)")
_VALUE = re.compile(r"([^\s/]+)\s*/\s*([^\s/]*)|([^\s/]+)")
_MEASURE = re.compile(r"\d{1,12}(?:\.\d{1,6})?")
_WARNING = re.compile(r"\[WARNING\]\s*(.*)", re.I)


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
    power_w: float | None = None
    temperature_c: int | None = None
    hugepages_used: int | None = None
    hugepages_total: int | None = None
    bus_id: str | None = None
    aicore_percent: int | None = None
    npu_percent: int | None = None
    memory_used_mb: int | None = None
    memory_total_mb: int | None = None
    hbm_used_mb: int | None = None
    hbm_total_mb: int | None = None


@dataclass(frozen=True)
class NpuProcess:
    """A process that holds device memory; `name` is empty where a container hides it."""

    npu: int
    chip: int | None
    pid: int
    name: str
    memory_mb: float | None
    pid_in_container: int | None = None


@dataclass(frozen=True)
class NpuTable:
    """`npu-smi info`.

    driver_version  what stands behind `Version:`
    processes       None where there is no process table; idle_npus likewise
    idle_npus       NPUs for which it says that no process was found
    warnings        what it says below the tables
    """

    tool_version: str | None
    driver_version: str | None
    chips: tuple[Chip, ...]
    processes: tuple[NpuProcess, ...] | None
    idle_npus: tuple[int, ...] | None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Family:
    """What kind of chip a name stands for, None where that cannot be told, and why."""

    name: FamilyName | None
    reason: str


def chip_family(name: str) -> Family:
    """The family of a chip from the name that npu-smi prints; 910B1 to 910B4 are A2, 910B is not.

    Sources: recordings; the docs of vllm-ascend; hicann/driver, where `910_93` is A3.
    """
    printed = " ".join(name.split())
    for family, pattern, why in _FAMILIES:
        if re.fullmatch(pattern, printed, re.I):
            return Family(family, f"`{printed}`: {why}")
    return Family(None, f"`{printed}` is not a name that we know")


_FAMILIES: tuple[tuple[FamilyName, str, str], ...] = (
    ("910B", r"(?:Ascend ?)?910B[1-9][A-Z0-9_-]*", "910B with a number behind it is A2"),
    ("A3", r"(?:Ascend ?)?910_?93\w*|(?:Ascend ?)?910C\w*", "910_93 and 910C are A3"),
    ("A3", r"Ascend ?910", "A3 prints the series without a letter"),
    ("910A", r"(?:Ascend ?)?910(?:A|B|Pro\w*|Premium\w*)", "the first 910, sold as A, B and Pro"),
    ("310P", r"(?:Ascend ?)?310P\w*", "310P"),
    ("310B", r"(?:Ascend ?)?310B\w*", "310B"),
    ("950", r"(?:Ascend ?)?950\w*", "950"),
)


def parse_npu_smi_info(text: str) -> Reading[NpuTable]:
    """The chips and processes of one `npu-smi info`; a second table in the text is left unread."""
    return _Table(read_capture(text)).read(text)


@dataclass
class _Table:
    """The state of reading one table from top to bottom."""

    capture: Capture
    tool_version: str | None = None
    driver_version: str | None = None
    first_labels: tuple[str, ...] = ()
    second_labels: tuple[str, ...] = ()
    second_number: str = ""
    process_header: tuple[str, ...] = ()
    chips: list[Chip] = field(default_factory=list)
    processes: list[NpuProcess] = field(default_factory=list)
    idle: list[int] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    leftovers: Leftovers = field(default_factory=Leftovers)
    pending: bool = False
    cut: bool = False
    headed: bool = False
    over: bool = False

    def read(self, text: str) -> Reading[NpuTable]:
        for line in _unwrapped(list(self.capture.lines)):
            self._line(line.strip())
        self._close_chip()
        found = self.chips or self.processes or self.idle
        listed = bool(self.process_header or self.processes or self.idle)
        # The process table has something to say of every NPU above it.
        named = {*self.idle, *(process.npu for process in self.processes)}
        self.cut = self.cut or (listed and not {chip.npu for chip in self.chips} <= named)
        table = NpuTable(
            self.tool_version,
            self.driver_version,
            tuple(self.chips),
            tuple(self.processes) if listed else None,
            tuple(self.idle) if listed else None,
            tuple(self.warnings),
        )
        cut = self.cut or self.capture.elided
        return conclude(text, table if found else None, self.leftovers, cut=cut)

    def _line(self, line: str) -> None:
        banner, idle = _BANNER.search(line), _IDLE.search(line)
        warning = _WARNING.match(line)
        if self.over or (banner and (self.chips or self.tool_version)):
            self.over = True
            self.leftovers.add(line)
        elif banner:
            self.tool_version, self.driver_version = banner[1], banner[2]
        elif idle:
            self.idle.append(int(idle[1]))
        elif warning:
            self.warnings.append(warning[1])
        elif is_rule(line):
            self.cut = self.cut or (line.startswith("+") and not line.endswith("+"))
        elif not line.startswith("|") or not self._row(line, cells(line)):
            self.leftovers.add(line)
            self.cut = self.cut or line.startswith("|")

    def _row(self, line: str, row: list[str]) -> bool:
        joined = " ".join(row)
        if not row:
            return False
        if "Process id" in joined:
            self.process_header = tuple(row)
            return True
        if any(name in joined for name in ("Bus-Id", "Hugepages", "Health", "Memory-Usage")):
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
        where, pid = _wholes(row[0]), _whole(row[1])
        if not where or len(where) > 2 or pid is None:
            return False
        memory = _whole(row[3])
        unit = next((h for h in self.process_header if "memory" in h.lower()), "(MB)")
        megabytes: float | None = memory
        if memory is not None and "(B)" in unit:
            megabytes = round(memory / 2**20, 3)
        elif memory is not None and "(KB)" in unit:
            megabytes = round(memory / 2**10, 3)
        self.processes.append(
            NpuProcess(
                npu=where[0],
                chip=where[1] if len(where) > 1 else None,
                pid=pid,
                name=row[2],
                memory_mb=megabytes,
                pid_in_container=_whole(row[4]) if len(row) > 4 else None,
            )
        )
        return True

    def _chip_row(self, line: str, row: list[str]) -> bool:
        whole = line.endswith("|")
        bus = next((cell for cell in row if _BUS.fullmatch(cell)), None)
        second = bus is not None or (self.pending and "NA" in row[1:-1])
        if second and self.pending:
            done = self._second(row, bus, whole)
        else:
            done = not second and self._first(row, whole)
        self.cut = self.cut or (done and not whole)
        return done

    def _first(self, row: list[str], whole: bool) -> bool:
        """`npu name | health | power temperature hugepages`; 950 has `npu | name |` instead."""
        head = [*row[0].split(None, 1), *row[1:]] if len(row) < 4 else row
        npu = _whole(head[0]) if len(head) > 1 else None
        if npu is None or not re.fullmatch(r"[\w./ -]+", head[1]):
            return False
        if len(head) > 2 and not re.fullmatch(r"[A-Za-z][A-Za-z _-]*", head[2]):
            return False
        if not self.headed and not ("/" in head[-1] or (self.chips and not whole)):
            return False  # some other table
        self._close_chip()
        labels = self.first_labels or ("power", "temp", "hugepages-usage")
        values = _values(head[3], labels, whole) if len(head) > 3 else {}
        used, total = values.get("hugepages-usage", (None, None))
        self.chips.append(
            Chip(
                npu=npu,
                name=head[1],
                health=head[2] if len(head) > 2 else None,
                power_w=_decimal(values.get("power", (None, None))[0]),
                temperature_c=_whole(values.get("temp", (None, None))[0]),
                hugepages_used=_whole(used),
                hugepages_total=_whole(total),
            )
        )
        self.pending = True
        return True

    def _second(self, row: list[str], bus: str | None, whole: bool) -> bool:
        """`chip [phy_id or device] | bus | aicore memory [hbm]`; the head is empty on a 950."""
        numbers = _wholes(row[0])
        if numbers is None:
            return False
        labels = self.second_labels or ("aicore", "memory-usage", "hbm-usage")
        at = row.index(bus if bus is not None else "NA", 1)
        values = _values(row[at + 1], labels, whole) if len(row) > at + 1 else {}
        fields: dict[str, Any] = {"bus_id": bus}
        if numbers:
            fields["chip"] = numbers[0]
        if len(numbers) > 1:
            # Without a header: HBM is printed with Phy-ID, and never with Device.
            physical = self.second_number == "phy-id" or (not self.headed and "hbm-usage" in values)
            fields["phy_id" if physical else "device"] = numbers[1]
        fields["aicore_percent"] = _whole(values.get("aicore", (None, None))[0])
        fields["npu_percent"] = _whole(values.get("npu util", (None, None))[0])
        for name, label in (("memory", "memory-usage"), ("hbm", "hbm-usage")):
            used, total = values.get(label, (None, None))
            fields[f"{name}_used_mb"], fields[f"{name}_total_mb"] = _whole(used), _whole(total)
        self.chips[-1] = replace(self.chips[-1], **fields)
        self.pending = False
        return True

    def _close_chip(self) -> None:
        """A chip whose second row did not come: the table ended, or was filtered."""
        self.cut = self.cut or self.pending
        self.pending = False


def _unwrapped(lines: list[str]) -> list[str]:
    """Rows that a narrow terminal broke in two are joined again."""
    whole: list[str] = []
    for line in lines:
        text = line.strip()
        broken = bool(whole) and whole[-1].startswith("|") and not whole[-1].endswith("|")
        if broken and text.endswith("|") and not text.startswith(("|", "+")):
            whole[-1] += f" {text}"
        else:
            whole.append(text)
    return whole


def _values(
    cell: str, labels: tuple[str, ...], whole: bool
) -> dict[str, tuple[str | None, str | None]]:
    """label → its value, or the two of a pair; of a row that was cut the last one is not known."""
    found = _VALUE.findall(cell)
    if not whole and found:
        found[-1] = (found[-1][0], "", "")
    pairs = [(used or single or None, total or None) for used, total, single in found]
    return dict(zip(labels, pairs, strict=False))


def _wholes(cell: str) -> list[int] | None:
    """The whole numbers of a cell; None when anything else is in it."""
    parts = cell.split()
    found = [number for part in parts if (number := _whole(part)) is not None]
    return found if len(found) == len(parts) else None


def _whole(value: str | None) -> int | None:
    return int(value) if value and value.isdecimal() and len(value) <= 15 else None


def _decimal(value: str | None) -> float | None:
    return float(value) if value and _MEASURE.fullmatch(value) else None


OUTPUTS: tuple[Output[Any], ...] = (
    Output(
        "npu-smi-info",
        "npu-smi info",
        parse_npu_smi_info,
        marked(
            (0.97, r"^[ \t]*\|[^\n]*(?:Hugepages-Usage|HBM-Usage|Memory-Usage\()"),
            (0.95, r"No running process(?:es)? found in NPU|^[ \t>]*\|[ \t]*npu-smi[ \t]"),
            (0.9, r"^[ \t>]*\|[ \t]*\d+[ \t]+(?:Ascend|910|310|950)\w*[ \t]*\|[ \t]*\w+[ \t]*\|"),
            (0.6, r"dcmi mod(?:ule|el) initialize|DrvMng\w+ failed|npu get board type failed"),
            (0.4, r"\bnpu-smi: (?:command not|not|No such)|Failed to execute npu-smi"),
            (0.35, r"^Failed to (?:get|query) "),
            (0.4, r"error while loading shared libraries: lib(?:dcmi|drvdsmi|ascend)"),
        ),
    ),
)

"""`npu-smi info -m`, `-l` and `-t topo`: what there is on a host, and how it hangs together.

Formats: github.com/hicann/driver, `npucli/src/npu_info_print.c` and `npu_info_print_ext.c`, and
recordings of npu-smi 23 to 26.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ropeway.facts.base import Reading
from ropeway.facts.captures import is_rule, read_capture
from ropeway.facts.complaints import Leftovers, conclude
from ropeway.facts.labelled import Layout, Records, integer, key, label, text_or_none

_MAP_COLUMNS = re.compile(
    r"NPU ID|Slot ID|Chip Logic ID|Chip Phy-ID|Chip ID|Chip Name", re.I | re.A
)
_TOPO_NAME = re.compile(r"(?:NPU|Phy-ID|NIC)\d+", re.I)
_TOPO_LINK = re.compile(r"[A-Z][A-Z_]{0,11}")
_TOPO_NIC = re.compile(r"(NIC\d+):\s*(\S+)$")
_LEGEND = re.compile(r"([A-Za-z_]{1,10})\s+=\s+(.+)$")


@dataclass(frozen=True)
class TopologyRow:
    """How one NPU or NIC reaches those in the columns; `X` is itself."""

    name: str
    links: tuple[str, ...]
    cpu_affinity: str | None = None


@dataclass(frozen=True)
class Topology:
    """`-t topo`. columns are the names of the matrix's columns; nics: NIC3 → its interface."""

    columns: tuple[str, ...]
    rows: tuple[TopologyRow, ...]
    legend: Mapping[str, str] = field(default_factory=dict)
    nics: Mapping[str, str] = field(default_factory=dict)


def parse_topo(text: str) -> Reading[Topology]:
    """The matrix, the cores near each NPU, and what the words mean."""
    capture, leftovers = read_capture(text), Leftovers()
    columns: tuple[str, ...] = ()
    rows: list[TopologyRow] = []
    legend: dict[str, str] = {}
    nics: dict[str, str] = {}
    for line in capture.lines:
        words = line.split()
        names = [word for word in words if _TOPO_NAME.fullmatch(word)]
        meaning, nic = _LEGEND.match(line.strip()), _TOPO_NIC.match(line.strip())
        header = bool(names) and names == words[: len(names)]
        if header and " ".join(words[len(names) :]) in ("", "CPU", "CPU Affinity"):
            columns = columns or tuple(names)
        elif header and _TOPO_LINK.fullmatch(words[1]):
            width = len(columns) or _leading_links(words[1:])
            affinity = " ".join(words[1 + width :])
            rows.append(TopologyRow(words[0], tuple(words[1 : 1 + width]), affinity or None))
        elif meaning and rows:
            legend[meaning[1]] = meaning[2].rstrip(".")
        elif nic:
            nics[nic[1]] = nic[2]
        elif key(line) != "legend:" and not is_rule(line):
            leftovers.add(line)
    cut = capture.elided or not columns or len(rows) < len(columns)
    cut = cut or any(len(row.links) != len(columns) for row in rows)
    value = Topology(columns, tuple(rows), legend, nics) if rows else None
    return conclude(text, value, leftovers, cut=cut)


def _leading_links(words: list[str]) -> int:
    return next((n for n, word in enumerate(words) if not _TOPO_LINK.fullmatch(word)), len(words))


@dataclass(frozen=True)
class ChipMapping:
    """A row of `-m`. The controller of a card (`Mcu`) has no logical and no physical number."""

    npu: int
    slot: int | None
    chip: int | None
    logic_id: int | None
    phy_id: int | None
    name: str | None


_MAP_FIELDS = {
    "npu id": "npu",
    "slot id": "slot",
    "chip id": "chip",
    "chip logic id": "logic_id",
    "chip phy-id": "phy_id",
    "chip name": "name",
}


def parse_mapping(text: str) -> Reading[tuple[ChipMapping, ...]]:
    """One record a row; the last column, the name, may have blanks."""
    capture, leftovers = read_capture(text), Leftovers()
    columns: list[str] = []
    chips: list[ChipMapping] = []
    for line in capture.lines:
        header = [
            _MAP_FIELDS[" ".join(name.lower().split())] for name in _MAP_COLUMNS.findall(line)
        ]
        if len(header) >= 3:
            columns = header
            continue
        words = line.split(None, max(len(columns) - 1, 0))
        row = dict(zip(columns, words, strict=False))
        numbers = {n: v for n, v in row.items() if n != "name"}
        usable = len(words) >= 2 and row.get("npu", "").isdecimal()
        if not usable or not all(
            v == "-" or (v.isdecimal() and len(v) < 10) for v in numbers.values()
        ):
            leftovers.add(line)
            continue
        whole = {n: int(v) if v != "-" else None for n, v in numbers.items()}
        chips.append(
            ChipMapping(
                npu=int(numbers["npu"]),
                slot=whole.get("slot"),
                chip=whole.get("chip"),
                logic_id=whole.get("logic_id"),
                phy_id=whole.get("phy_id"),
                name=row["name"].strip() if "name" in row else None,
            )
        )
    cut = capture.elided or any(chip.name is None for chip in chips)
    return conclude(text, tuple(chips) or None, leftovers, cut=cut)


@dataclass(frozen=True)
class Card:
    """A card in `-l`."""

    npu: int | None = None
    product_name: str | None = None
    serial_number: str | None = None
    chip_count: int | None = None


@dataclass(frozen=True)
class Cards:
    """`-l`. count is what the tool says, None where that line is missing."""

    count: int | None
    cards: tuple[Card, ...]


_CARDS = Layout(
    Card,
    {
        "NPU ID": ("npu", integer),
        "Product Name": ("product_name", text_or_none),
        "Serial Number": ("serial_number", text_or_none),
        "Chip Count": ("chip_count", integer),
    },
    index="",
    starts=frozenset({"npu"}),
    errors=False,
)


def parse_list(text: str) -> Reading[Cards]:
    """All cards of the host; `partial` when the count says that there were more."""
    capture, leftovers = read_capture(text), Leftovers()
    counts: list[int] = []
    records: Records[Card] = Records(Card)
    for block in capture.blocks:
        _CARDS.read_block(block, records, leftovers)
    for line in list(leftovers.unread):
        pair = label(line)
        if pair and key(pair[0]) in ("totalcount", "cardcount") and pair[1].isdecimal():
            counts.append(int(pair[1][:9]))
            leftovers.unread.remove(line)
    count = counts[0] if counts else None
    value = Cards(count, tuple(records.done)) if records.done or count is not None else None
    cut = capture.elided or (count is not None and count != len(records.done))
    return conclude(text, value, leftovers, cut=cut)

"""What npu-smi says of single NPUs: `-m`, and `-t board`, `-t health` and `-t ecc`.

A query of one NPU prints its heading (NPU ID, Chip Count) and then each chip. Formats:
github.com/hicann/driver, `npucli/src/npu_info_print*.c`, `npu_card_info.c`,
`npu_chip_info_ext.c`, and recordings of npu-smi 22 to 26.
"""

import re
from dataclasses import dataclass

from ropeway.facts.complaints import labelled, to_parsed
from ropeway.facts.question import Parsed, Question
from ropeway.facts.text import or_none, parse_int, plain_lines

_COLUMNS = re.compile(r"NPU ID|Slot ID|Chip Logic ID|Chip Phy-ID|Chip ID|Chip Name", re.I | re.A)


def parse_mapping(text: str) -> Parsed[dict[tuple[int, int | None], int | None]]:
    """Return (npu, chip) → the number of its /dev/davinciN. The controller of a card (`Mcu`) has
    none."""
    columns: list[str] = []
    devices: dict[tuple[int, int | None], int | None] = {}
    leftovers: list[str] = []
    truncated = False
    for line in plain_lines(text):
        header = [" ".join(name.lower().split()) for name in _COLUMNS.findall(line)]
        if len(header) >= 3:
            columns = header
            continue
        # The last column, the name, may have blanks.
        words = line.split(None, max(len(columns) - 1, 0))
        row = dict(zip(columns, words, strict=False))
        name = row.pop("chip name", None)
        numbers = {column: parse_int(word) for column, word in row.items() if word != "-"}
        npu = numbers.get("npu id")
        if len(words) < 2 or npu is None or None in numbers.values():
            leftovers.append(line)
            continue
        physical = numbers.get("chip phy-id")
        devices[npu, numbers.get("chip id")] = (
            physical if physical is not None else numbers.get("chip logic id")
        )
        truncated |= name is None
    return to_parsed(text, devices or None, leftovers, truncated=truncated)


MAPPING = Question("npu-smi-m", ("npu-smi", "info", "-m"), parse_mapping)


def parse_firmware(text: str) -> Parsed[str]:
    """Return the firmware's version from `-t board`."""
    pairs, leftovers = labelled(plain_lines(text), ("firmwareversion",))
    version = next((value for _, value in pairs if or_none(value)), None)
    return to_parsed(text, version, leftovers)


def parse_ecc(text: str) -> Parsed[tuple[int | None, ...]]:
    """Return the uncorrectable errors of each chip's HBM since ever, from `-t ecc`."""
    pairs, leftovers = labelled(plain_lines(text), ("hbmdoublebitaggregatetotalerrcnt",))
    return to_parsed(text, tuple(parse_int(value) for _, value in pairs) or None, leftovers)


@dataclass(frozen=True)
class Health:
    """`-t health` of a chip. `status` is OK, Warning, Alarm, Critical or UNKNOWN."""

    status: str | None
    error_codes: tuple[str, ...] = ()


def parse_health(text: str) -> Parsed[tuple[Health, ...]]:
    """Return the state of each chip."""
    pairs, leftovers = labelled(plain_lines(text), ("health", "healthstatus", "errorcode"))
    chips: list[Health] = []
    for name, value in pairs:
        if name != "errorcode":
            chips.append(Health(or_none(value)))
        elif chips and or_none(value):
            chips[-1] = Health(chips[-1].status, tuple(value.split()))
    return to_parsed(text, tuple(chips) or None, leftovers)


def _each(kind: str) -> tuple[str, ...]:
    return ("npu-smi", "info", "-t", kind, "-i", "N")


FIRMWARE = Question("npu-smi-board", _each("board"), parse_firmware, each="npu")
HEALTH = Question("npu-smi-health", _each("health"), parse_health, each="npu")
ECC = Question("npu-smi-ecc", _each("ecc"), parse_ecc, each="npu")

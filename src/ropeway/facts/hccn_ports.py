"""`hccn_tool -fec`, `-speed`, `-dev_info` and `-ub_connect`; boxed tables on a 950.

Formats: github.com/hicann/driver, `hccn/ascend910B/hccn_product_ext/tool_ext.c`,
`hccn/ascend950/hccn_tool/tool_dev_info.c`, its documents, and recordings.
"""

import re
from dataclasses import dataclass
from typing import TypeVar

from ropeway.facts.base import Reading, ToolError
from ropeway.facts.captures import cells
from ropeway.facts.hccn_details import read_lines
from ropeway.facts.labelled import NOTHING, Records, key, label

R = TypeVar("R")

_UNIT = re.compile(r"(\d{1,9}(?:\.\d{1,6})?) ?(Mb/s|Gbps|G)$", re.I)
_PORT = re.compile(r"port (\d{1,4}) ?: ?(\S.*)$", re.I)


@dataclass(frozen=True)
class FecPort:
    """The error correction of a port of a 950."""

    udie: int | None
    port: int | None
    rs_mode: str
    auto_change_mode: str
    itlv_mode: str


@dataclass(frozen=True)
class HccnFec:
    """`-fec`: `rs FEC mode`, `no FEC mode` or `auto FEC mode`; ports instead on a 950."""

    device: int | None = None
    mode: str | None = None
    ports: tuple[FecPort, ...] = ()
    error: ToolError | None = None


def parse_fec(text: str) -> Reading[tuple[HccnFec, ...]]:
    """One record an NPU."""
    return read_lines(text, Records(HccnFec), _fec_line)


def _fec_line(line: str, records: Records[HccnFec]) -> bool:
    pair, row = label(line), _row(line)
    if pair and key(pair[0]) == "fecmode" and pair[1]:
        records.put("mode", pair[1])
    elif row[-3:] == ["rs_mode", "auto_change_mode", "itlv_mode"]:
        records.extend("ports", ())
    elif len(row) == 6 and records.has("ports") and row[0].isdecimal():
        records.extend("ports", (FecPort(_whole(row[1]), _whole(row[2]), *row[3:]),))
    else:
        return False
    return True


@dataclass(frozen=True)
class SpeedPort:
    """The speed of a port of a 950; cap and width are lanes, `X4`."""

    udie: int | None
    port: int | None
    speed_gbps: float | None
    cap: str
    width: str
    status: str


@dataclass(frozen=True)
class HccnSpeed:
    """`-speed`: None where the tool says `Unknown!`; ports instead on a 950."""

    device: int | None = None
    speed_mbps: int | None = None
    duplex: str | None = None
    ports: tuple[SpeedPort, ...] = ()
    error: ToolError | None = None


def parse_speed(text: str) -> Reading[tuple[HccnSpeed, ...]]:
    """One record an NPU."""
    return read_lines(text, Records(HccnSpeed), _speed_line)


def _speed_line(line: str, records: Records[HccnSpeed]) -> bool:
    pair, row = label(line), _row(line)
    found = _UNIT.match(pair[1]) if pair else None
    if pair and key(pair[0]) == "speed" and (found or pair[1].lower().startswith("unknown")):
        records.put("speed_mbps", _megabits(found[1], found[2]) if found else None)
    elif pair and key(pair[0]) == "duplex" and pair[1]:
        records.put("duplex", pair[1])
    elif row[3:] == ["Speed", "Cap", "Width", "Status"]:
        records.extend("ports", ())
    elif len(row) == 7 and records.has("ports") and row[0].isdecimal():
        speed = _UNIT.match(row[3])
        gbps = float(speed[1]) if speed else None
        port = SpeedPort(_whole(row[1]), _whole(row[2]), gbps, *row[4:])
        records.extend("ports", (port,))
    else:
        return False
    return True


def _megabits(value: str, unit: str) -> int:
    return round(float(value) * (1000 if unit.lower().startswith("g") else 1))


@dataclass(frozen=True)
class UbPort:
    """A port of a 950: UP, DOWN or PARTIAL UP."""

    port: int
    status: str


@dataclass(frozen=True)
class HccnUbConnect:
    """`-ub_connect`: whether all ports of an NPU are linked."""

    device: int | None = None
    status: str | None = None
    ports: tuple[UbPort, ...] = ()
    error: ToolError | None = None


def parse_ub_connect(text: str) -> Reading[tuple[HccnUbConnect, ...]]:
    """One record an NPU."""
    records = Records(HccnUbConnect, minor=frozenset({"status"}))
    return read_lines(text, records, _ub_connect_line)


def _ub_connect_line(line: str, records: Records[HccnUbConnect]) -> bool:
    pair, port = label(line), _PORT.match(line.strip())
    if pair and key(pair[0]) == "linkstatus" and pair[1]:
        records.put("status", pair[1])
    elif port:
        records.extend("ports", (UbPort(int(port[1]), port[2]),))
    else:
        return False
    return True


@dataclass(frozen=True)
class DevPort:
    """A port of an NPU."""

    udie: int | None
    port: int | None
    speed_gbps: float | None
    type: str
    link: str
    media: str


@dataclass(frozen=True)
class DevAddress:
    """An address of an interface with its netmask."""

    address: str
    netmask: str


@dataclass(frozen=True)
class DevInterface:
    """A network interface on the NPU; bond_mode and slaves are None for `NA`."""

    name: str
    addresses: tuple[DevAddress, ...]
    bond_mode: str | None
    slaves: str | None


@dataclass(frozen=True)
class DevEid:
    """An endpoint identifier of the unified bus."""

    name: str
    index: int | None
    eid: str | None


@dataclass(frozen=True)
class HccnDevInfo:
    """`-dev_info`: ports, interfaces and endpoint identifiers of an NPU."""

    device: int | None = None
    ports: tuple[DevPort, ...] = ()
    interfaces: tuple[DevInterface, ...] = ()
    eids: tuple[DevEid, ...] = ()
    error: ToolError | None = None


def parse_dev_info(text: str) -> Reading[tuple[HccnDevInfo, ...]]:
    """One record for each table of ports; empty first cells go on with the row above."""
    return read_lines(text, Records(HccnDevInfo), _dev_info_line)


def _dev_info_line(line: str, records: Records[HccnDevInfo]) -> bool:
    row = _row(line)
    if row[:2] == ["UDie ID", "Port ID"]:
        records.end()
        records.put("ports", ())
    elif row[:1] == ["Interface Name"]:
        records.extend("interfaces", ())
    elif row[:2] == ["Name", "EID Index"]:
        records.extend("eids", ())
    elif len(row) == 3 and records.has("eids"):
        eids = records.get("eids")
        name = row[0] or (eids[-1].name if eids else "")
        records.extend("eids", (DevEid(name, _whole(row[1]), _printed(row[2])),))
    elif len(row) == 5 and records.has("interfaces"):
        records.set("interfaces", _with_address(records.get("interfaces"), row))
    elif len(row) == 6 and records.has("ports"):
        speed = float(row[2]) if row[2].isdecimal() and len(row[2]) < 9 else None
        records.extend("ports", (DevPort(_whole(row[0]), _whole(row[1]), speed, *row[3:]),))
    else:
        return False
    return True


def _with_address(found: tuple[DevInterface, ...], row: list[str]) -> tuple[DevInterface, ...]:
    addresses = (DevAddress(row[1], row[2]),) if row[1].lower() not in NOTHING else ()
    if row[0] or not found:
        return (*found, DevInterface(row[0], addresses, _printed(row[3]), _printed(row[4])))
    last = found[-1]
    merged = DevInterface(last.name, (*last.addresses, *addresses), last.bond_mode, last.slaves)
    return (*found[:-1], merged)


def _row(line: str) -> list[str]:
    return cells(line) if line.lstrip().startswith("|") else []


def _printed(value: str) -> str | None:
    return None if value.lower() in NOTHING else value


def _whole(value: str) -> int | None:
    return int(value) if value.isdecimal() and len(value) < 10 else None

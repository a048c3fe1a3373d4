"""`hccn_tool -link_stat`, `-stat`, `-hw_stats`, `-optical`, `-lldp`, `-status`, `-fec`, `-speed`,
`-dev_info` and `-ub_connect`.

Formats: github.com/hicann/driver, `hccn/ascend910B/hccn_tool/tool.c`, `tool_ops_ext.c` and
`tool_roce.c`, `hccn/ascend950/hccn_tool/*.c`, its documents, and recordings.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ropeway.facts.base import Reading, ToolError
from ropeway.facts.captures import cells, is_rule, read_capture
from ropeway.facts.complaints import Leftovers, conclude_records
from ropeway.facts.labelled import (
    NOTHING,
    Layout,
    Records,
    device_tag,
    integer,
    key,
    label,
    quantity,
    text_or_none,
)

R = TypeVar("R")

_CHANGE = re.compile(r"(\S.{0,40}\d\d:\d\d:\d\d.{0,12}\S)\s+LINK[ _](UP|DOWN)$")
_COUNTER = re.compile(
    r"([a-z][a-z0-9_]{0,80}(?:[\[(]\d{1,3}[\])])?) *: *(\d{1,20}|0x[0-9a-f]{1,16})$"
)
_PORT_COUNTER = re.compile(r"(?:mac|roce|nic)_")
_QUEUE_COUNTER = re.compile(r"(?:pd|mr|mw|cq|qp|srq|ah|xrcd)_(?:alloc|dealloc|active)$|aeqe$|ceqe$")
_SETTINGS = re.compile(r"(?:Netdev status:)?\s*Settings for (\S+?):$")
_REMARK = re.compile(r"\s+#.*$")
_TLV = re.compile(r"[A-Za-z][\w ().,/-]{0,80} TLV$")
_SUBTYPE = re.compile(r"(Ifname|MAC|IPv4|IPv6|Local|Ifalias|ifIndex)\s*:\s*(\S.*)$", re.I)
_NEIGHBOUR = re.compile(r"\[dev_name: ?\S+\]", re.I)


def read_lines(
    text: str, records: Records[R], read: Callable[[str, Records[R]], bool]
) -> Reading[tuple[R, ...]]:
    """Give each line to `read`; what it refuses is a complaint about an NPU, or left over."""
    capture, leftovers = read_capture(text), Leftovers()
    for block in capture.blocks:
        records.end()
        records.context(device=block.device)
        for line in block.lines:
            named, rest = device_tag(line)
            if named is not None:
                records.context(device=named)
            if read(rest, records) or is_rule(rest):
                continue
            error = leftovers.add(line)
            if error is not None:
                leftovers.errors.pop()
                records.add(error=error)
        records.end()
    return conclude_records(text, records.done, leftovers, cut=capture.elided)


@dataclass(frozen=True)
class LinkChange:
    """The link of a port came up or went down; udie and port on a 950 only."""

    time: str
    state: str
    udie: int | None = None
    port: int | None = None


@dataclass(frozen=True)
class HccnLinkStat:
    """`-link_stat`: changes of the link since the driver was loaded, the newest first."""

    device: int | None = None
    current_time: str | None = None
    link_up_count: int | None = None
    link_down_count: int | None = None
    changes: tuple[LinkChange, ...] = ()
    error: ToolError | None = None


def parse_link_stat(text: str) -> Reading[tuple[HccnLinkStat, ...]]:
    """One record an NPU."""
    return read_lines(text, Records(HccnLinkStat), _link_stat_line)


def _link_stat_line(line: str, records: Records[HccnLinkStat]) -> bool:
    row = cells(line) if line.lstrip().startswith("|") else []
    change, pair = _CHANGE.match(line.strip()), label(line)
    name = key(pair[0]) if pair else ""
    if row[3:] == ["Link_Status", "Time_Stamp"]:
        records.extend("changes", ())
    elif len(row) == 5 and row[3].upper() in ("LINK_UP", "LINK_DOWN"):
        place = [int(cell) if cell.isdecimal() and len(cell) < 6 else None for cell in row[1:3]]
        records.extend("changes", (LinkChange(row[4], row[3].upper()[5:], *place),))
    elif change and not change[1].startswith("["):
        records.extend("changes", (LinkChange(change[1], change[2]),))
    elif pair and name == "currenttime" and pair[1]:
        records.put("current_time", pair[1])
    elif pair and name in ("linkupcount", "linkdowncount") and pair[1].isdecimal():
        records.put("link_up_count" if "up" in name else "link_down_count", int(pair[1][:15]))
    elif pair and name == "linkchangerecords":
        records.extend("changes", ())
    else:
        return False
    return True


@dataclass(frozen=True)
class HccnStat:
    """`-stat` and `-hw_stats`: counters by their printed names."""

    device: int | None = None
    counters: Mapping[str, int] = field(default_factory=dict)
    error: ToolError | None = None


def parse_stat(text: str) -> Reading[tuple[HccnStat, ...]]:
    """One record for each `packet statistics:`, or where a counter comes again."""
    return read_lines(text, Records(HccnStat), _stat_line)


def _stat_line(line: str, records: Records[HccnStat]) -> bool:
    counter = _COUNTER.match(line.strip())
    if line.strip().lower() in ("packet statistics:", "tc packet statistics:"):
        records.end()
        records.put("counters", {})
    elif counter and (records.has("counters") or _PORT_COUNTER.match(counter[1])):
        records.note("counters", counter[1], integer(counter[2]))
    else:
        return False
    return True


def parse_hw_stats(text: str) -> Reading[tuple[HccnStat, ...]]:
    """One record an NPU."""
    return read_lines(text, Records(HccnStat), _hw_stats_line)


def _hw_stats_line(line: str, records: Records[HccnStat]) -> bool:
    counter = _COUNTER.match(line.strip())
    if not counter or not (records.has("counters") or _QUEUE_COUNTER.match(counter[1])):
        return False
    records.note("counters", counter[1], integer(counter[2]))
    return True


@dataclass(frozen=True)
class HccnOptical:
    """`-optical`. Powers, bias and signal-to-noise ratios have one value a lane.

    present  whether a module is in the cage
    tx_los … rx_lol  a bit a lane: signal lost, lock lost
    """

    device: int | None = None
    present: bool | None = None
    temperature_c: float | None = None
    high_power_enabled: bool | None = None
    vendor_name: str | None = None
    vendor_part_number: str | None = None
    vendor_serial_number: str | None = None
    vendor_org_id: str | None = None
    identifier: str | None = None
    wave_length_nm: float | None = None
    manufacture_date: str | None = None
    vcc_mv: float | None = None
    vcc_high_mv: float | None = None
    vcc_low_mv: float | None = None
    temperature_high_c: float | None = None
    temperature_low_c: float | None = None
    tx_power_mw: tuple[float | None, ...] = ()
    rx_power_mw: tuple[float | None, ...] = ()
    tx_power_high_mw: float | None = None
    tx_power_low_mw: float | None = None
    rx_power_high_mw: float | None = None
    rx_power_low_mw: float | None = None
    tx_bias_ma: tuple[float | None, ...] = ()
    tx_los: int | None = None
    rx_los: int | None = None
    tx_lol: int | None = None
    rx_lol: int | None = None
    host_snr_db: tuple[float | None, ...] = ()
    media_snr_db: tuple[float | None, ...] = ()
    physical_code: str | None = None
    vendor_revision: str | None = None
    compliance: str | None = None
    error: ToolError | None = None


def _is(yes: str, no: str) -> Callable[[str], bool | None]:
    def convert(value: str) -> bool | None:
        if value.lower() in NOTHING:
            return None
        return {yes: True, no: False}[value.lower()]

    return lambda value: _or_value_error(convert, value)


def _or_value_error(convert: Callable[[str], Any], value: str) -> Any:
    try:
        return convert(value)
    except KeyError as error:
        raise ValueError(value) from error


def _measured(unit: str) -> Callable[[str], float | None]:
    convert = quantity(unit)
    unknown = ("not supported", "get failed")
    return lambda value: None if value.lower() in unknown else convert(value)


_LANES = {
    "tx_power_mw": ("Tx Power{}", "mW"),
    "rx_power_mw": ("Rx Power{}", "mW"),
    "tx_bias_ma": ("Tx Bias{}", "mA"),
    "host_snr_db": ("Host SNR Lane{}", "dB"),
    "media_snr_db": ("Media SNR Lane{}", "dB"),
}


def _optical(**fields: Any) -> HccnOptical:
    lanes: dict[str, list[Any]] = {}
    for name in [name for name in fields if name.rpartition("#")[0] in _LANES]:
        lanes.setdefault(name.rpartition("#")[0], []).append(fields.pop(name))
    fields.pop("heading", None)
    several: dict[str, Any] = {name: tuple(values) for name, values in lanes.items()}
    return HccnOptical(**fields, **several)


OPTICAL = Layout(
    _optical,
    {
        "optical info": ("heading", text_or_none),
        "present": ("present", _is("present", "not present")),
        "temperature": ("temperature_c", _measured("C")),
        "high power enable reg": ("high_power_enabled", _is("enabled", "not enabled")),
        "vendor name": ("vendor_name", text_or_none),
        "vendor part number": ("vendor_part_number", text_or_none),
        "vendor serial number": ("vendor_serial_number", text_or_none),
        "vendor org unique id": ("vendor_org_id", text_or_none),
        "xsfp identifier": ("identifier", text_or_none),
        "xsfp wave length": ("wave_length_nm", _measured("nm")),
        "manufact date code": ("manufacture_date", text_or_none),
        "Vcc": ("vcc_mv", _measured("mV")),
        "Vcc High Thres": ("vcc_high_mv", _measured("mV")),
        "Vcc Low Thres": ("vcc_low_mv", _measured("mV")),
        "Temp High Thres": ("temperature_high_c", _measured("C")),
        "Temp Low Thres": ("temperature_low_c", _measured("C")),
        "TxPower High Thres": ("tx_power_high_mw", _measured("mW")),
        "TxPower Low Thres": ("tx_power_low_mw", _measured("mW")),
        "RxPower High Thres": ("rx_power_high_mw", _measured("mW")),
        "RxPower Low Thres": ("rx_power_low_mw", _measured("mW")),
        "Tx Los Flag": ("tx_los", integer),
        "Rx Los Flag": ("rx_los", integer),
        "Tx LoL Flag": ("tx_lol", integer),
        "Rx LoL Flag": ("rx_lol", integer),
        "Physical Code": ("physical_code", text_or_none),
        "vendor rev": ("vendor_revision", text_or_none),
        "Specification compliance": ("compliance", text_or_none),
        **{
            printed.format(lane): (f"{name}#{lane}", _measured(unit))
            for name, (printed, unit) in _LANES.items()
            for lane in ("", *range(8))
        },
    },
    minor=frozenset({"heading"}),
    starts=frozenset({"heading"}),
)


@dataclass(frozen=True)
class HccnLldp:
    """`-lldp`: what the switch says of itself. `tlvs`: every TLV with its lines.

    port_id  the switch's port, `400GE1/1/20:2`
    """

    device: int | None = None
    chassis_id: str | None = None
    port_id: str | None = None
    port_description: str | None = None
    system_name: str | None = None
    system_description: str | None = None
    management_address: str | None = None
    ttl_s: int | None = None
    max_frame_bytes: int | None = None
    tlvs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    error: ToolError | None = None


def parse_lldp(text: str) -> Reading[tuple[HccnLldp, ...]]:
    """One record a neighbour, from `Chassis ID TLV` to `End of LLDPDU TLV`, or a grepped Ifname."""
    return read_lines(text, Records(_lldp), _lldp_line)


def _lldp_line(line: str, records: Records[HccnLldp]) -> bool:
    stripped = line.strip()
    if _TLV.match(stripped):
        name = stripped.removesuffix(" TLV")
        if name.startswith("End of"):
            records.end()
            return True
        if name == "Chassis ID":
            records.end()
        found = records.get("tlvs") or {}
        # A TLV that comes again (an organisation's own) goes on where it was; the last is current.
        records.set(
            "tlvs", {**{n: v for n, v in found.items() if n != name}, name: found.get(name, [])}
        )
    elif records.has("tlvs") and stripped:
        tlvs = records.get("tlvs")
        tlvs[list(tlvs)[-1]].append(stripped)
    elif stripped.lower().startswith("ifname"):  # what `| grep Ifname` leaves
        records.end()
        records.note("tlvs", "Port ID", [stripped])
        records.end()
    elif not _NEIGHBOUR.match(stripped):
        return False
    return True


def _lldp(device: int | None = None, error: ToolError | None = None, **fields: Any) -> HccnLldp:
    tlvs = {name: tuple(lines) for name, lines in fields.get("tlvs", {}).items()}
    first = {name: lines[0] for name, lines in tlvs.items() if lines}
    return HccnLldp(
        device=device,
        chassis_id=_subtyped(first.get("Chassis ID")),
        port_id=_subtyped(first.get("Port ID")),
        port_description=first.get("Port Description"),
        system_name=first.get("System Name"),
        system_description="\n".join(tlvs.get("System Description", ())) or None,
        management_address=_subtyped(first.get("Management Address")),
        ttl_s=_whole(first.get("Time to Live")),
        max_frame_bytes=_whole(first.get("Maximum Frame Size")),
        tlvs=tlvs,
        error=error,
    )


def _subtyped(text: str | None) -> str | None:
    """`Ifname: 400GE1/1/20:2` → the name; None where somebody put dots for it."""
    found = _SUBTYPE.match(text or "")
    value = found[2].strip() if found else text
    return None if value is not None and is_rule(value) else value


def _whole(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() and len(text) < 10 else None


@dataclass(frozen=True)
class HccnStatus:
    """`-status`: the network device as ethtool shows it; `settings` has all of it."""

    device: int | None = None
    interface: str | None = None
    speed_mbps: int | None = None
    duplex: str | None = None
    link_detected: bool | None = None
    settings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    error: ToolError | None = None


def parse_status(text: str) -> Reading[tuple[HccnStatus, ...]]:
    """One record for each `Settings for eth3:`."""
    return read_lines(text, Records(_status), _status_line)


def _status_line(line: str, records: Records[HccnStatus]) -> bool:
    plain = _REMARK.sub("", line).strip()
    heading, pair = _SETTINGS.match(plain), label(plain)
    if heading:
        records.end()
        records.put("interface", heading[1])
    elif plain.lower() == "netdev status:":
        records.end()
    elif pair and pair[0] and (records.has("interface") or pair[0] in ("Speed", "Link detected")):
        records.note("settings", pair[0], [pair[1]] if pair[1] else [])
    elif plain and records.has("settings"):
        settings = records.get("settings")
        settings[list(settings)[-1]].append(plain)
    else:
        return False
    return True


def _status(device: int | None = None, error: ToolError | None = None, **fields: Any) -> HccnStatus:
    settings = {name: tuple(lines) for name, lines in fields.get("settings", {}).items()}
    speed = re.match(r"(\d{1,9}) ?Mb/s", "".join(settings.get("Speed", ())))
    detected = "".join(settings.get("Link detected", ())).lower()
    return HccnStatus(
        device=device,
        interface=fields.get("interface"),
        speed_mbps=int(speed[1]) if speed else None,
        duplex="".join(settings.get("Duplex", ())) or None,
        link_detected=detected == "yes" if detected in ("yes", "no") else None,
        settings=settings,
        error=error,
    )

"""`npu-smi info -t health`, `current-fault-event`, `proc-mem`, any other type, and the help.

Formats: github.com/hicann/driver, `npucli/src/npu_info.c`, `npu_info_print*.c`, `npu_chip_info*.c`,
and recordings of npu-smi 22 to 26.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ropeway.facts.base import Output, Reading
from ropeway.facts.captures import flag_value, is_rule, marked, read_capture
from ropeway.facts.complaints import Leftovers, conclude, conclude_records
from ropeway.facts.labelled import NOTHING, Records, integer, key, label, text_or_none, word
from ropeway.facts.npu_smi_cards import BOARD, COMMON, ECC, MEMORY, SPOD, USAGES, card_layout
from ropeway.facts.npu_smi_lists import parse_list, parse_mapping, parse_topo

_PROCESS = re.compile(
    r"Process id:\s*(\d+)\s+Process name:(.*?)\s*Process memory\((\w+)\):\s*(\d+)"
)
_PAIR = re.compile(r"([a-z][a-z ]*?)\s*=\s*(0x[0-9A-Fa-f]{1,16}|\d{1,18})(?:,|$)")
_USAGE = re.compile(r"Usage:\s*npu-smi\b", re.I)
_OPTION = re.compile(r"(-\w+(?:, --\w+)?(?: %d| type)?|watch|proc)\s{2,}(\S.*)$")


@dataclass(frozen=True)
class Health:
    """`-t health`. error_codes and error_information belong together in their order.

    health  OK, Warning, Alarm, Critical, UNKNOWN
    """

    npu: int | None = None
    chip: int | None = None
    chip_count: int | None = None
    chip_name: str | None = None
    health: str | None = None
    error_codes: tuple[str, ...] = ()
    error_information: tuple[str, ...] = ()


def parse_health(text: str) -> Reading[tuple[Health, ...]]:
    """One record for each chip; information goes on over lines that have no label."""
    capture, leftovers = read_capture(text), Leftovers()
    place = frozenset({"npu", "chip_count"})
    records = Records(Health, place, frozenset({"chip", "chip_name"}))
    for block in capture.blocks:
        records.end()
        records.context(npu=block.device, chip=flag_value(block.command or "", "-c"))
        for line in block.lines:
            if not is_rule(line) and not _health_line(line, records):
                leftovers.add(line)
    records.end()
    leftovers.unread += records.orphans
    return conclude_records(text, records.done, leftovers, cut=capture.elided)


def _health_line(line: str, records: Records[Health]) -> bool:
    pair = label(line)
    if pair is None:
        return False
    name, value = key(pair[0]), pair[1]
    given = () if value.lower() in NOTHING else (value,)
    if name in ("npuid", "chipid", "chipcount") and value.isdecimal() and len(value) < 10:
        field_name = {"npuid": "npu", "chipid": "chip", "chipcount": "chip_count"}[name]
        records.put(field_name, int(value))
    elif name in ("health", "healthstatus"):
        records.put("health", text_or_none(value))
    elif name == "chipname":
        records.put("chip_name", text_or_none(value))
    elif name == "errorcode":
        records.put("error_codes", tuple(value.split()) if given else ())
    elif name == "errorinformation":
        records.put("error_information", given)
    elif not name and records.has("error_information"):
        records.extend("error_information", given)
    else:
        return False
    records.source(line.strip())
    return True


@dataclass(frozen=True)
class FaultEvent:
    """severity: 0 warning, 1 minor, 2 major, 3 critical (DCMI API, `dcmi_dms_fault_event`)."""

    event_id: str
    severity: int | None = None
    node_type_ex: int | None = None
    node_id: int | None = None
    sub_node_type_ex: int | None = None
    sub_node_id: int | None = None


@dataclass(frozen=True)
class FaultEvents:
    """`-t current-fault-event`."""

    npu: int | None = None
    chip: int | None = None
    count: int | None = None
    events: tuple[FaultEvent, ...] = ()


def parse_fault_events(text: str) -> Reading[tuple[FaultEvents, ...]]:
    """One record for each `Fault Event Count`."""
    capture, leftovers = read_capture(text), Leftovers()
    records = Records(FaultEvents)
    for block in capture.blocks:
        records.end()
        records.context(npu=block.device, chip=flag_value(block.command or "", "-c"))
        for line in block.lines:
            pair = label(line)
            name = key(pair[0]) if pair else None
            if pair and name == "faulteventcount" and pair[1].isdecimal() and len(pair[1]) < 10:
                records.put("count", int(pair[1]))
            elif pair and name in ("faulteventinformation", "") and records.has("count"):
                event = _fault_event(pair[1])
                if event is None and pair[1].lower() not in NOTHING:
                    leftovers.add(line)
                records.extend("events", (event,) if event else ())
            elif not is_rule(line):
                leftovers.add(line)
    records.end()
    short = any(record.count != len(record.events) for record in records.done)
    return conclude_records(text, records.done, leftovers, cut=capture.elided or short)


def _fault_event(text: str) -> FaultEvent | None:
    values = dict(_PAIR.findall(text))
    event_id = values.pop("event id", None)
    if event_id is None:
        return None
    known = ("severity", "node type ex", "node id", "sub node type ex", "sub node id")
    fields = {name.replace(" ", "_"): integer(values[name]) for name in known if name in values}
    return FaultEvent(event_id, **fields)


@dataclass(frozen=True)
class DeviceProcess:
    """A process that holds device memory; name is cut by the tool."""

    pid: int
    name: str
    memory_mb: int


@dataclass(frozen=True)
class DeviceProcesses:
    """`-t proc-mem`: the processes of one chip; none of them is an empty tuple."""

    npu: int | None = None
    chip: int | None = None
    chip_count: int | None = None
    processes: tuple[DeviceProcess, ...] = ()


def parse_proc_mem(text: str) -> Reading[tuple[DeviceProcesses, ...]]:
    """One record for each chip."""
    capture, leftovers = read_capture(text), Leftovers()
    records = Records(DeviceProcesses, frozenset({"npu", "chip_count"}), frozenset({"chip"}))
    for block in capture.blocks:
        records.end()
        records.context(npu=block.device, chip=flag_value(block.command or "", "-c"))
        for line in block.lines:
            if not is_rule(line) and not _proc_mem_line(line, records):
                leftovers.add(line)
    records.end()
    leftovers.unread += records.orphans
    return conclude_records(text, records.done, leftovers, cut=capture.elided)


def _proc_mem_line(line: str, records: Records[DeviceProcesses]) -> bool:
    process = _PROCESS.search(line)
    pair = label(line)
    name = key(pair[0]) if pair else ""
    names = {"npuid": "npu", "chipid": "chip", "chipcount": "chip_count"}
    if process and process[3].upper() == "MB" and len(process[1]) + len(process[4]) < 24:
        found = DeviceProcess(int(process[1]), process[2].strip(), int(process[4]))
        if records.has("chip"):  # the chip's number stands behind its processes
            records.end()
        records.extend("processes", (found,))
    elif "no process in device" in line.lower():
        records.put("processes", ())
    elif pair and name in names and pair[1].isdecimal() and len(pair[1]) < 10:
        records.put(names[name], int(pair[1]))
    else:
        return False
    records.source(line.strip())
    return True


@dataclass(frozen=True)
class Detail:
    """Any other `-t` query: label → value as they are printed."""

    npu: int | None = None
    chip: int | None = None
    chip_count: int | None = None
    chip_name: str | None = None
    values: Mapping[str, str] = field(default_factory=dict)


# The labels of temp, power, volt, sensors, flash, product, ecc-enable, p2p-enable, pcie-err,
# sio-info, hccs, xlink, sys-time, phyid-remap, key-manage, tls-cert, sys-log-info, vnpu-mode …
_DETAIL_LABELS = """
Temperature (C); NPU Temperature (C); Chip Temperature (C); NPU Real-time Power(W);
Chip Real-time Power(W); Power Dissipation(W); Rated Power Dissipation(W); Voltage(V);
Soc Max Temperature (C); SFP Temperature (C); NDIE Temperature (C); HBM Temperature (C);
Flash Count; Flash ID; Manufacturer ID; Product Type; HBM ECC-Enable Status; DDR ECC-Enable Status;
ECC-Enable Status; P2P-Enable Status; SSH-Enable Status; Device-share Status;
Device-share config recover mode; MCU Monitor Status; Pcs Rx Error Count; Phy Lane Error Count;
Dl Lcrc Error Count; Dl Dcrc Error Count; TX Error Count; RX Error Count; Lcrc Error Count;
Ecrc Error Count; Retry Count; System Time(local); Chip Phy-ID; Chip Physical ID; Chip Logic ID;
service auto startup; service running status; Alarm status; Start time; End time; Common name;
Certificate validity period; Current syslog dump config recover mode;
Current syslog dump config gear; Current syslog dump config path; Boot Select; CPU-Freq Info;
Current AI CPU number; Current control CPU number; Current data CPU number; Number of AI CPUs set;
Number of control CPUs set; Custom-op Status; Custom-op config recover mode; Multi_die policy;
Multi-die-policy config recover mode; First power-on date(local); Pkcs-enable Status;
Rootkey-Support Status; VNPU config recover mode; vnpu-mode; work-mode; nve level; pwm-mode;
pwm-duty-ratio(%); p2p-mem-cfg Status; curr uboot area is; hccs health status; hccs lane mode;
hccs link lane list; hccs link speed; hccs tx packets; hccs tx bytes; hccs rx packets;
hccs rx bytes; hccs retry count; hccs error count; hccs first error lane; xlink health status;
xlink lane mode; xlink link lane list; xlink link speed; xlink tx packets; xlink tx bytes;
xlink rx packets; xlink rx bytes; xlink retry count; xlink error count; xlink first error lane;
Timeout Exponent; Timeout Duration; VRD Count; VRD Name; VDM Count; VDM Name; Current Version;
Target Version; Remaining Upgrade Count; npu-smi version; Slot ID; Capacity(MB)
"""
_DETAIL_NAMES = {" ".join(name.split()) for name in _DETAIL_LABELS.split(";")}
_DETAILS = card_layout(
    lambda npu=None, chip=None, chip_count=None, chip_name=None, **values: Detail(
        npu, chip, chip_count, chip_name, values
    ),
    {"Chip Name": ("chip_name", text_or_none), **{name: (name, word) for name in _DETAIL_NAMES}},
    others="",
)


@dataclass(frozen=True)
class Help:
    """`-h`: what this version can be asked. `types` are those of `-t`."""

    usage: str
    types: tuple[str, ...]
    options: Mapping[str, str]


def parse_help(text: str) -> Reading[Help]:
    """The usage line, the types, and the options with what is said of them."""
    capture, leftovers = read_capture(text), Leftovers()
    usage: str | None = None
    types: list[str] = []
    options: dict[str, str] = {}
    listing = False
    for line in (line.strip() for line in capture.lines):
        option = _OPTION.match(line)
        if _USAGE.match(line):
            usage = usage or line.split(":", 1)[1].strip()
        elif option:
            options[option[1]], listing = option[2], False
        elif line.startswith("type:") or listing:
            listing = not line.endswith(".")
            types += line.removeprefix("type:").replace(",", " ").rstrip(".").split()
        elif line not in ("Commands:", "Options:"):
            leftovers.add(line)
    value = Help(usage, tuple(types), options) if usage and (types or options) else None
    return conclude(text, value, leftovers, cut=capture.elided or listing)


def _type(name: str, *marks: tuple[float, str]) -> Any:
    """A `recognise` for `-t NAME`: marks of its own, and the tool's refusal that names it."""
    return marked(*marks, (0.9, rf"does not support querying {re.escape(name)}\b"))


OUTPUTS: tuple[Output[Any], ...] = (
    Output(
        "npu-smi-m",
        "npu-smi info -m",
        parse_mapping,
        marked((0.97, r"^[ \t>]*NPU ID[ \t]+(?:Slot ID[ \t]+)?Chip (?:Logic )?ID\b")),
    ),
    Output(
        "npu-smi-l",
        "npu-smi info -l",
        parse_list,
        marked(
            (0.95, r"^[ \t>]*(?:Total|Card) Count[ \t]*:[ \t]*\d"),
            (0.4, r"^[ \t>]*NPU ID[ \t]*:[ \t]*\d"),
            (0.3, r"no NPU card on this"),
        ),
    ),
    Output(
        "npu-smi-board",
        "npu-smi info -t board -i N",
        BOARD.read,
        _type(
            "board",
            (0.9, r"^[ \t>]*(?:PCIe Bus Info|PCB ID|BOM ID|Compatibility|PCI Vendor ID)[ \t]*:"),
            (0.7, r"^[ \t>]*(?:Software|Firmware) Version[ \t]*:"),
            (0.6, r"^[ \t>]*(?:Chip|Product) Name[ \t]*:"),
            (0.5, r"Invalid (?:card|chip) id\."),
        ),
    ),
    Output(
        "npu-smi-board-chip",
        "npu-smi info -t board -i N -c C",
        BOARD.read,
        _type("board", (0.92, r"^[ \t>]*(?:VDie ID|NDie ID|Chip Type)[ \t]*:")),
    ),
    Output(
        "npu-smi-health",
        "npu-smi info -t health -i N -c C",
        parse_health,
        _type(
            "health",
            (0.95, r"^[ \t>]*Health(?: Status)?[ \t]*:"),
            (0.9, r"^[ \t>]*Error (?:Code|Information)[ \t]*:"),
        ),
    ),
    Output(
        "npu-smi-usages",
        "npu-smi info -t usages -i N",
        USAGES.read,
        _type(
            "usages",
            (0.95, r"^[ \t>]*(?:Aicpu|Ctrlcpu) Usage Rate"),
            (0.85, r"^[ \t>]*(?:DDR|HBM) Usage Rate|^[ \t>]*HBM Bandwidth Usage Rate"),
        ),
    ),
    Output(
        "npu-smi-common",
        "npu-smi info -t common -i N",
        COMMON.read,
        _type("common", (0.96, r"^[ \t>]*Aicore (?:cur)?Freq\(MHZ\)|^[ \t>]*Aicore Count")),
    ),
    Output(
        "npu-smi-memory",
        "npu-smi info -t memory -i N",
        MEMORY.read,
        _type("memory", (0.95, r"^[ \t>]*(?:DDR |HBM )?Clock Speed\(MHz\)")),
    ),
    Output(
        "npu-smi-ecc",
        "npu-smi info -t ecc -i N",
        ECC.read,
        _type("ecc", (0.95, r"(?:Single|Double)[ -]Bit (?:Error|Aggregate|Isolated|Next)")),
    ),
    Output(
        "npu-smi-proc-mem",
        "npu-smi info -t proc-mem -i N",
        parse_proc_mem,
        _type("proc-mem", (0.97, r"Process id:[ \t]*\d+|No process in device")),
    ),
    Output(
        "npu-smi-topo",
        "npu-smi info -t topo",
        parse_topo,
        _type(
            "topo",
            (0.97, r"^[ \t>]*(?:NPU|Phy-ID)\d+[ \t]+(?:NPU|Phy-ID)\d+"),
            (0.9, r"^[ \t>]*(?:NPU|Phy-ID)\d+[ \t]+(?:X|HCCS|SYS|SIO|PHB|PIX|PXB|UB|HCCS_SW)[ \t]"),
        ),
    ),
    Output(
        "npu-smi-spod",
        "npu-smi info -t spod-info -i N -c C",
        SPOD.read,
        _type("spod-info", (0.97, r"^[ \t>]*(?:SDID|Super Pod (?:Size|ID))[ \t]*:")),
    ),
    Output(
        "npu-smi-fault-event",
        "npu-smi info -t current-fault-event -i N",
        parse_fault_events,
        _type("current-fault-event", (0.97, r"^[ \t>]*Fault Event (?:Count|Information)[ \t]*:")),
    ),
    Output(
        "npu-smi-help",
        "npu-smi info -h",
        parse_help,
        marked(
            (
                0.95,
                r"^[ \t>]*Usage: npu-smi \w*[^\n]*\n\s{0,9}(?:Commands|Options|npu-smi Command):",
            )
        ),
    ),
    Output(
        "npu-smi-details",
        "npu-smi info -t TYPE -i N",
        _DETAILS.read,
        marked(
            (
                0.6,
                r"^[ \t>]*(?:NPU |Chip )?(?:Temperature ?\(C\)|Real-time Power\(W\)|Voltage\(V\))",
            ),
            (0.5, r"does not support (?:querying|setting)|^[ \t>]*(?:NPU|Chip) ID[ \t]*:"),
            (0.5, r"^[ \t>]*(?:Flash Count|hccs health status|xlink health status)"),
            (0.45, r"Invalid (?:card|chip|phy) id\.|Error parameter of -\w|npu-smi version:"),
        ),
    ),
)

"""`hccn_tool`: the network port of each NPU, and `/etc/hccn.conf`, which sets it up.

The value of each query is a tuple of records, because people run it in a loop over the NPUs. The
NPU's number comes from the output, an echoed command or a heading; it is None where nothing names
it: it is never counted out. An NPU that answered with a complaint has a record with `error`.
Formats: github.com/hicann/driver, `hccn/ascend910B/hccn_tool/*.c`, `hccn/ascend950/hccn_tool/*.c`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ropeway.facts.base import Output, Reading
from ropeway.facts.captures import Block, marked, read_capture
from ropeway.facts.complaints import Leftovers, conclude
from ropeway.facts.hccn_details import (
    OPTICAL,
    parse_hw_stats,
    parse_link_stat,
    parse_lldp,
    parse_stat,
    parse_status,
)
from ropeway.facts.hccn_ping import parse_ping, parse_route, parse_tls
from ropeway.facts.hccn_ports import parse_dev_info, parse_fec, parse_speed, parse_ub_connect
from ropeway.facts.hccn_records import (
    GATEWAY,
    IP,
    LINK,
    MTU,
    NET_HEALTH,
    NETDETECT,
    OTHER,
    VNIC,
    parse_hccn_conf,
)


@dataclass(frozen=True)
class HccnPart:
    """One query of several: the output's name and its reading."""

    name: str
    device: int | None
    reading: Reading[Any]


def parse_multi(text: str) -> Reading[tuple[HccnPart, ...]]:
    """A capture of different queries, split at the echoed commands, or where the output changes."""
    capture, leftovers = read_capture(text), Leftovers()
    parts: list[HccnPart] = []
    for block in capture.blocks:
        for name, lines in _pieces(block):
            if name is None:
                for line in lines:
                    leftovers.add(line)
            elif any(map(str.strip, lines)):
                reading = _QUERIES[name].parse("\n".join((*_around(block), *lines)))
                parts.append(HccnPart(name, _device(block, reading), reading))
    kept = tuple(parts) if any(part.reading.state != "unknown" for part in parts) else None
    cut = capture.elided or any(part.reading.state in ("partial", "unknown") for part in parts)
    return conclude(text, kept, leftovers, cut=cut)


def query_of(command: str) -> str | None:
    """The output's name for a line with `hccn_tool -i 0 -link -g`; None for any other line."""
    if not re.search(r"\bhccn_tool\s+-", command):
        return None
    flags = re.findall(r"(?<!\S)(-[a-z][a-z0-9_]*)(?=[\s;|)]|$)", command.split("hccn_tool", 1)[1])
    asked = [flag for flag in flags if len(flag) > 2 and flag not in ("-clear", "-host", "-inet6")]
    if not asked:
        return None
    return _FLAGS.get(asked[0], "hccn-other")


# The first line of an output, and whether lines that no other output begins with belong to it.
_BEGINNINGS: tuple[tuple[str, str, bool], ...] = (
    ("hccn-optical", r"optical info:", True),
    ("hccn-lldp", r"Chassis ID TLV", True),
    ("hccn-status", r"Netdev status:|Settings for \S+:$", True),
    ("hccn-stat", r"packet statistics:", True),
    ("hccn-route", r"Routing table:|Destination\s+Gateway\s", True),
    ("hccn-link-stat", r"\[\w+ ?\d+\] ?current time\b|link up count\b", True),
    ("hccn-hw-stats", r"\[\w+ ?\d+\] ?[a-z]+_(?:alloc|dealloc|active):", True),
    ("hccn-tls", r"dev_id:\d+, ?tls switch|device \d+, ?tls switch", True),
    ("hccn-ping", r"device \d+ .*(?:PING|EID) |recv (?:seq|time ?out)", True),
    ("hccn-vnic", r"vnic (?:link status|ipaddr|netmask) ?:", False),
    ("hccn-net-health", r"net health status ?:", False),
    ("hccn-netdetect", r"netdetect addr(?:ess)? ?:", False),
    ("hccn-gateway", r"default gateway ?:", False),
    ("hccn-ip", r"(?:ipaddr|netmask|ipv6_address|prefix_length) ?:|.*no ip was preset", False),
    ("hccn-link", r"link status ?: ?(?:UP|DOWN)$", False),
    ("hccn-fec", r"fec mode ?:", False),
    ("hccn-mtu", r"mtu ?: ?\d", False),
)
_STARTS = tuple((name, re.compile(start, re.I), more) for name, start, more in _BEGINNINGS)


def _pieces(block: Block) -> list[tuple[str | None, list[str]]]:
    """The block by what was asked; where no command says it, by how the lines begin."""
    asked = query_of(block.command or "")
    only = (block.command or "").count("hccn_tool") == 1
    if asked and only and "$" not in (block.command or ""):
        return [(asked, list(block.lines))]
    pieces: list[tuple[str | None, list[str]]] = []
    open_ended = False
    for line in filter(str.strip, block.lines):
        found = _begins(line.strip())
        if found and not (pieces and pieces[-1][0] == found[0]):
            pieces.append((found[0], []))
        if found:
            open_ended = found[1]
        elif not open_ended or not pieces:
            pieces.append((None, []))
        pieces[-1][1].append(line)
    return pieces


def _begins(line: str) -> tuple[str, bool] | None:
    return next(((name, more) for name, start, more in _STARTS if start.match(line)), None)


def _around(block: Block) -> tuple[str, ...]:
    """What a part must know of its block: command, heading, and that lines are missing."""
    echoed = (block.command,) if block.command else ()
    heading = () if block.device is None else (f"NPU {block.device}:",)
    return (*echoed, *heading, *(("...",) if block.elided else ()))


def _device(block: Block, reading: Reading[Any]) -> int | None:
    """The NPU of a part: of its command, or of all its records where they are of one."""
    named = {getattr(record, "device", None) for record in reading.value or ()}
    only = named.pop() if len(named) == 1 else None
    return block.device if only is None else only


def _recognise_multi(text: str) -> float:
    """Whether different queries were echoed, or their outputs follow each other."""
    capture = read_capture(text[:100_000])
    asked = {query_of(command) for command in capture.commands} - {None}
    pieces = [piece for block in capture.blocks for piece in _pieces(block)]
    names = {name for name, lines in pieces if name and any(map(str.strip, lines))}
    if len(names) < 2:
        return 0.0
    return 0.98 if len(asked) > 1 or all(name for name, _ in pieces) else 0.93


def _query(
    name: str, flag: str, parse: Callable[[str], Reading[Any]], *marks: tuple[float, str]
) -> Output[Any]:
    command = f"hccn_tool -i N -{flag}" + (" -g address A" if "ping" in flag else " -g")
    return Output(name, command, parse, marked(*marks))


_START = r"^[ \t>]*"
OUTPUTS: tuple[Output[Any], ...] = (
    _query(
        "hccn-ip",
        "ip",
        IP.read,
        (0.95, _START + r"(?:ipaddr|ipv6_address) ?:"),
        (0.9, r"no ip was preset there"),
        (0.5, _START + r"netmask ?:"),
    ),
    _query("hccn-link", "link", LINK.read, (0.9, _START + r"link status ?: ?(?:UP|DOWN)\b")),
    _query(
        "hccn-link-stat",
        "link_stat",
        parse_link_stat,
        (
            0.96,
            r"link (?:up|down) count *:|link change records *:|LINK (?:UP|DOWN)$|Link_Status",
        ),
    ),
    _query("hccn-net-health", "net_health", NET_HEALTH.read, (0.95, r"net health status ?:")),
    _query("hccn-netdetect", "netdetect", NETDETECT.read, (0.95, r"netdetect addr(?:ess)? ?:")),
    _query(
        "hccn-gateway",
        "gateway",
        GATEWAY.read,
        (0.95, r"default gateway ?:|no gateway was preset"),
        (0.6, _START + r"gateway ?:"),
    ),
    _query(
        "hccn-lldp",
        "lldp",
        parse_lldp,
        (0.96, r"^[ \t>]*(?:Chassis|Port) ID TLV|End of LLDPDU TLV"),
        (0.9, r"^[ \t>]*Ifname ?: ?\S"),
        (0.8, r"^[ \t>]*[A-Z][\w ]{2,40} TLV$"),
    ),
    _query("hccn-tls", "tls", parse_tls, (0.97, r"tls switch ?\[\d"), (0.7, r"\[\w+ cert\] info:")),
    _query(
        "hccn-optical",
        "optical",
        OPTICAL.read,
        (0.96, r"^[ \t>]*optical info ?:"),
        (0.9, r"^[ \t>]*(?:[TR]xPower (?:High|Low) Thres|[TR]x (?:Power|Bias|Los|LoL)\w*|xsfp )"),
        (0.85, r"^[ \t>]*present +: (?:not )?present$"),
    ),
    _query(
        "hccn-stat",
        "stat",
        parse_stat,
        (
            0.95,
            r"^[ \t>]*(?:tc )?packet statistics ?:|^[ \t>]*(?:mac_[tr]x|roce_|nic_[tr]x)_?\w+ ?:",
        ),
    ),
    _query(
        "hccn-hw-stats",
        "hw_stats",
        parse_hw_stats,
        (0.96, r"\b(?:pd|mr|cq|qp)_(?:alloc|dealloc|active) ?:"),
    ),
    _query(
        "hccn-status",
        "status",
        parse_status,
        (0.96, r"^[ \t>]*Netdev status ?:|^[ \t>]*Settings for eth\d+:"),
    ),
    _query(
        "hccn-fec",
        "fec",
        parse_fec,
        (
            0.95,
            r"^[ \t>]*fec mode ?: ?\w+ FEC|rs_mode \| auto_change_mode|support switching fec mode",
        ),
        (0.9, r"^[ \t>]*fec mode ?:"),
    ),
    _query(
        "hccn-speed",
        "speed",
        parse_speed,
        (0.8, r"^[ \t>]*Speed ?: ?(?:\d+ ?Mb/s|Unknown!)"),
        (0.95, r"\bSpeed +\| Cap +\| Width"),
    ),
    _query(
        "hccn-route",
        "route",
        parse_route,
        (0.95, r"^[ \t>]*Routing table:|^[ \t>]*Destination[ \t]+(?:Gateway|Next Hop)[ \t]"),
    ),
    _query(
        "hccn-ping",
        "ping",
        parse_ping,
        (0.96, r"packets transmitted, *\d+ received|recv seq ?[=: ]|recv time ?out,? *seq"),
        (0.9, r"^[ \t>]*device \d+ .{0,60}PING"),
    ),
    Output(
        "hccn-ub-ping",
        "hccn_tool -t -ub_ping -i N -src_eid E -dst_eid E",
        parse_ping,
        marked((0.97, r"^[ \t>]*device \d+ +(?:dev +)?EID ")),
    ),
    _query("hccn-hccs-ping", "hccs_ping", parse_ping, (0.97, r"L1 plane check result")),
    _query("hccn-vnic", "vnic", VNIC.read, (0.96, r"vnic (?:link status|ipaddr|netmask) ?:")),
    _query("hccn-mtu", "mtu", MTU.read, (0.9, r"^[ \t>]*mtu ?: ?\d")),
    _query(
        "hccn-dev-info",
        "dev_info",
        parse_dev_info,
        (0.97, r"\| UDie ID \| Port ID|\| EID Index \|"),
    ),
    _query(
        "hccn-ub-connect",
        "ub_connect",
        parse_ub_connect,
        (
            0.95,
            r"^[ \t>]*link status ?: ?(?:PARTIAL|FULL)|^[ \t>]*port \d+ ?: ?(?:UP|DOWN|PART)",
        ),
    ),
    Output(
        "hccn-conf",
        "cat /etc/hccn.conf",
        parse_hccn_conf,
        marked((0.97, r"^[ \t>]*(?:address|netmask|netdetect|tls_enable|send_arp_status)_\d+ ?=")),
    ),
    Output(
        "hccn-other",
        "hccn_tool -i N -mac|-version|-process|-bandwidth|… -g",
        OTHER.read,
        marked(
            (0.8, r"^[ \t>]*(?:mac addr|device hccp process|config status|Network \w+ Version) ?:"),
            (0.8, r"^[ \t>]*(?:Peak )?Bandwidth [TR]X ?:|^[ \t>]*dcqcn enable"),
            (0.6, r"hccn_tool is busy|pls check (?:this cmd|cmd) run|Enter \[ hccn_tool -h"),
            (0.5, r"C(?:omman|m)d execute failed!|device is not exist|Get unknown option!"),
            (0.4, r"\bhccn_tool: (?:command not|not|No such)|Get invalid device id"),
        ),
    ),
    Output("hccn-multi", "several hccn_tool queries in one text", parse_multi, _recognise_multi),
)
_QUERIES = {output.name: output for output in OUTPUTS}
_FLAGS = {
    f"-{output.name.removeprefix('hccn-').replace('-', '_')}": output.name
    for output in OUTPUTS
    if output.name not in ("hccn-multi", "hccn-other", "hccn-conf")
}

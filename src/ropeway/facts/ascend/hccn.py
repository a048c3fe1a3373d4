"""`hccn_tool`: the RoCE port of each NPU, and `/etc/hccn.conf`, which sets it up.

Formats: github.com/hicann/driver, `hccn/ascend910B/hccn_tool/*.c`,
`hccn/ascend910B/hccn_product_ext/ds_net_ext.c`, `hccn/ascend950/hccn_tool/*.c`, its documents, and
recordings.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from ropeway.facts.complaints import labelled, to_parsed
from ropeway.facts.host import Optical, Vnic
from ropeway.facts.question import Parsed, Question
from ropeway.facts.text import or_none, parse_int, plain_lines

T = TypeVar("T")

_DEVICE = re.compile(r"\s*\[(?:devid|dev_id|device|dev|npu)[ :_]*\d{1,4}\][ :]*", re.I)
_ADDRESS = re.compile(r"[0-9A-Za-z*]{0,32}(?:[.:][0-9A-Za-z*%]{0,16}){1,8}(?:/\d{1,3})?")


def _query(name: str, parse: Callable[[str], Parsed[T]]) -> Question[T]:
    argv = ("hccn_tool", "-i", "N", f"-{name}", "-g")
    return Question(f"hccn-{name.replace('_', '-')}", argv, parse, each="device")


def _lines(text: str) -> list[str]:
    """Return the lines without the NPU that they may begin with: `[devid 3] aeqe: 0`."""
    return [_DEVICE.sub("", line, count=1) for line in plain_lines(text)]


def _values(
    text: str, names: tuple[str, ...], addresses: tuple[str, ...] = ()
) -> tuple[dict[str, str], list[str]]:
    """Return label → the first value, and the leftovers. Values of `addresses` must be some,
    masked digits included."""
    pairs, leftovers = labelled(_lines(text), (*names, *addresses))
    values: dict[str, str] = {}
    for name, value in pairs:
        if value and (name in names or _ADDRESS.fullmatch(value)):
            values.setdefault(name, value)
        else:
            leftovers.append(f"{name}: {value}")
    return values, leftovers


def _single(*names: str, address: bool = False) -> Callable[[str], Parsed[str]]:
    """Return the parser of an output that is one labelled value, the label being one of these."""

    def parse(text: str) -> Parsed[str]:
        values, leftovers = _values(text, *((), names) if address else (names,))
        return to_parsed(text, next(iter(values.values()), None), leftovers)

    return parse


@dataclass(frozen=True)
class Address:
    """`-ip`: the RoCE address of an NPU."""

    address: str | None
    netmask: str | None


def parse_ip(text: str) -> Parsed[Address]:
    """Read `-ip -g`."""
    values, leftovers = _values(text, (), ("ipaddr", "netmask"))
    address = Address(values.get("ipaddr"), values.get("netmask"))
    return to_parsed(text, address if values else None, leftovers)


def parse_gateway(text: str) -> Parsed[str]:
    """Return the address from `default gateway:10.0.0.1, Iface:eth0`."""
    values, leftovers = _values(text, ("defaultgateway", "gateway"))
    gateway = next(iter(values.values()), "").partition(",")[0].strip()
    return to_parsed(text, gateway or None, leftovers)


def parse_lldp(text: str) -> Parsed[str]:
    """Return the port of the switch, `400GE1/1/20:2`, from what the switch says of itself.

    That is a list of `NAME TLV`, each with lines of any kind below it.
    """
    port: str | None = None
    leftovers: list[str] = []
    block = ""
    for line in map(str.strip, _lines(text)):
        if line.endswith(" TLV"):
            block = "" if line.startswith("End of") else line
        elif block == "Port ID TLV" or (not block and line.lower().startswith("ifname")):
            match = _PORT_ID.match(line)
            port = port or (match[1].strip() if match else line)
        elif not block and not line.startswith("[dev_name:"):
            leftovers.append(line)
    return to_parsed(text, port, leftovers)


_PORT_ID = re.compile(r"(?:Ifname|MAC|IPv4|IPv6|Local|Ifalias|ifIndex)\s*:\s*(\S.*)$", re.I)


def parse_tls(text: str) -> Parsed[int]:
    """Return the switch: 1 on, 0 off. It must be the same on all NPUs of a cluster."""
    switch: int | None = None
    leftovers: list[str] = []
    for line in _lines(text):
        match = _TLS.search(line)
        if match and switch is None:
            switch = int(match[1])
        elif match is None and not _CERTIFICATE.search(line):
            leftovers.append(line)
    return to_parsed(text, switch, leftovers)


_TLS = re.compile(r"\btls switch ?\[([01])\]")
_CERTIFICATE = re.compile(r"\[[\w ]{1,60} cert\]|^\s*[A-Za-z_ ]{1,60}\[")


def parse_optical(text: str) -> Parsed[Optical]:
    """Read `-optical -g`."""
    values, leftovers = _values(text, ("present", "rxpowerlowthres", "rxlosflag", *_LANES))
    powers: dict[str, float] = {}
    for name in values.keys() - {"present", "rxlosflag"}:
        match = _POWER.fullmatch(values[name])
        if match:
            powers[name] = float(match[1])
        elif or_none(values[name]) and values[name] not in ("not supported", "get failed"):
            leftovers.append(f"{name}: {values[name]}")
    flag = _FLAG.fullmatch(values.get("rxlosflag", ""))
    optical = Optical(
        {"present": True, "not present": False}.get(values.get("present", "")),
        min((powers[lane] for lane in _LANES if lane in powers), default=None),
        powers.get("rxpowerlowthres"),
        int(flag[1], 16) != 0 if flag else None,
    )
    return to_parsed(text, optical if values else None, leftovers)


_LANES = ("rxpower", *(f"rxpower{lane}" for lane in range(8)))
_POWER = re.compile(r"(-?\d{1,9}(?:\.\d{1,9})?) ?(?:mW)?", re.A | re.I)
_FLAG = re.compile(r"(?:0x)?([0-9a-f]{1,16})", re.I)


def parse_counters(text: str) -> Parsed[Mapping[str, int]]:
    """Return the counters of `-stat -g` by their printed names."""
    counters: dict[str, int] = {}
    leftovers: list[str] = []
    headed = False
    for line in map(str.strip, _lines(text)):
        match = _COUNTER.match(line)
        if line.lower() in ("packet statistics:", "tc packet statistics:"):
            headed = True
        elif match and (headed or _PORT_COUNTER.match(match[1])):
            counters.setdefault(match[1], int(match[2], 0))
        else:
            leftovers.append(line)
    return to_parsed(text, counters or None, leftovers)


_PORT_COUNTER = re.compile(r"(?:mac|roce|nic)_")
_COUNTER = re.compile(
    r"([a-z][a-z0-9_]{0,80}(?:[\[(]\d{1,3}[\])])?) *: *(0x[0-9a-f]{1,16}|[1-9]\d{0,17}|0)$", re.A
)


def parse_link_downs(text: str) -> Parsed[int]:
    """Return how often the link went down since the driver was loaded, as far as the tool knows.

    Where the tool does not count that, the link went down before each time but the first that it
    came up. Otherwise the listed changes are counted; a 950 draws them as a table.
    """
    changes: list[bool] = []
    rest: list[str] = []
    for line in _lines(text):
        match = _CHANGE.search(line)
        if match:
            changes.append(match[1] == "DOWN")
        elif not line.lstrip().startswith("|"):
            rest.append(line)
    pairs, leftovers = labelled(rest, ("linkupcount", "linkdowncount", "linkchangerecords"))
    counts = {
        name: number for name, value in reversed(pairs) if (number := parse_int(value)) is not None
    }
    downs = sum(changes)
    if "linkdowncount" in counts:
        downs = counts["linkdowncount"]
    elif "linkupcount" in counts:
        downs = max(0, counts["linkupcount"] - 1)
    return to_parsed(text, downs if pairs or changes else None, leftovers)


_CHANGE = re.compile(r"\bLINK[ _](UP|DOWN)\b")


def parse_vnic(text: str) -> Parsed[Vnic]:
    """Read `-vnic -g`."""
    values, leftovers = _values(text, ("vniclinkstatus",), ("vnicipaddr",))
    vnic = Vnic(values.get("vniclinkstatus"), values.get("vnicipaddr"))
    return to_parsed(text, vnic if values else None, leftovers)


def parse_ping(text: str) -> Parsed[float]:
    """Return the percentage of packets lost, from the counts: half a million of them are read."""
    match = _COUNTS.search(text)
    sent = int(match[1]) if match else 0
    if match and sent:
        return Parsed("ok", (sent - int(match[2])) * 100 / sent)
    return to_parsed(text, None, [line for line in plain_lines(text) if not _PACKET.search(line)])


_COUNTS = re.compile(r"([0-9]{1,9}) packets transmitted, *([0-9]{1,9}) received,")
_PACKET = re.compile(r"recv (?:seq|time ?out)|pkt send fail|^device \d")


def parse_conf(text: str) -> Parsed[Mapping[int, str]]:
    """Return device → the RoCE address that /etc/hccn.conf sets."""
    addresses: dict[int, str] = {}
    leftovers: list[str] = []
    known = False
    for line in map(str.strip, plain_lines(text)):
        match = _SETTING.fullmatch(line)
        if match and match[1] == "address" and match[3]:
            leftovers += [line] if int(match[2]) in addresses else []
            addresses.setdefault(int(match[2]), match[3].strip())
        elif not line.startswith("#") and not (match and match[3]):
            leftovers.append(line)
        known |= match is not None
    return to_parsed(text, addresses if known else None, leftovers)


_SETTING = re.compile(r"([A-Za-z][A-Za-z0-9_]{0,60}?)_([0-9]{1,3}) ?= ?(.*)")

IP = _query("ip", parse_ip)
LINK = _query("link", _single("linkstatus"))
# Success, Init (no address to try was set), Socket fail, Receive timeout …
NET_HEALTH = _query("net_health", _single("nethealthstatus"))
# The address that net_health tries.
NETDETECT = _query("netdetect", _single("netdetectaddr", "netdetectaddress", address=True))
GATEWAY = _query("gateway", parse_gateway)
LLDP = replace(_query("lldp", parse_lldp), optional=True)  # a switch need not say anything
TLS = _query("tls", parse_tls)
OPTICAL = _query("optical", parse_optical)
STAT = _query("stat", parse_counters)
LINK_STAT = _query("link_stat", parse_link_downs)
VNIC = replace(_query("vnic", parse_vnic), optional=True)
CONF = Question("hccn-conf", ("cat", "/etc/hccn.conf"), parse_conf, optional=True)
# Many addresses are pinged by one line of the script, `Pings`.
PING = Question("hccn-ping", ("hccn_tool", "-i", "N", "-ping", "-g", "address"), parse_ping)

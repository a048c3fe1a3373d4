"""`hccn_tool` queries that print a few labelled lines, and `/etc/hccn.conf`.

Formats: github.com/hicann/driver, `hccn/ascend910B/hccn_tool/tool.c`, `tool_ops.c`,
`tool_ops_ext.c` and `cfg.c`, `hccn/ascend950/hccn_tool/*.c`, and recordings.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ropeway.facts.base import Reading, ToolError
from ropeway.facts.captures import read_capture
from ropeway.facts.complaints import Leftovers, conclude
from ropeway.facts.labelled import Layout, integer, text_or_none, word

_ADDRESS = re.compile(r"[0-9A-Za-z*]{0,32}(?:[.:][0-9A-Za-z*%]{0,16}){1,8}(?:/\d{1,3})?")
_CONF = re.compile(r"([A-Za-z][A-Za-z0-9_]{0,60}?)_(\d{1,3}) ?= ?(.*)$")
_REPEATED = ("arp", "route", "ip_route", "ip_rule", "neigh")


def address(value: str) -> str:
    """An address as it is printed, digits masked or not; ValueError for anything else."""
    if not _ADDRESS.fullmatch(value):
        raise ValueError(value)
    return value


@dataclass(frozen=True)
class HccnIp:
    """`-ip`: the RoCE address of an NPU."""

    device: int | None = None
    address: str | None = None
    netmask: str | None = None
    ipv6_address: str | None = None
    prefix_length: int | None = None
    error: ToolError | None = None


IP = Layout(
    HccnIp,
    {
        "ipaddr": ("address", address),
        "netmask": ("netmask", address),
        "ipv6_address": ("ipv6_address", address),
        "prefix_length": ("prefix_length", integer),
    },
)


@dataclass(frozen=True)
class HccnLink:
    """`-link`: UP or DOWN."""

    device: int | None = None
    status: str | None = None
    down_fault_time: str | None = None
    error: ToolError | None = None


LINK = Layout(
    HccnLink,
    {"link status": ("status", word), "down_fault_time": ("down_fault_time", text_or_none)},
)


@dataclass(frozen=True)
class HccnNetHealth:
    """`-net_health`: Success, Init (no address to try was set), Socket fail, Receive timeout …"""

    device: int | None = None
    status: str | None = None
    error: ToolError | None = None


NET_HEALTH = Layout(HccnNetHealth, {"net health status": ("status", word)})


@dataclass(frozen=True)
class HccnNetdetect:
    """`-netdetect`: the address that net_health tries."""

    device: int | None = None
    address: str | None = None
    error: ToolError | None = None


NETDETECT = Layout(
    HccnNetdetect,
    {"netdetect addr": ("address", address), "netdetect address": ("address", address)},
)


@dataclass(frozen=True)
class HccnGateway:
    """`-gateway`."""

    device: int | None = None
    gateway: str | None = None
    interface: str | None = None
    error: ToolError | None = None


def _gateway(gateway: str | None = None, **fields: Any) -> HccnGateway:
    """`default gateway:10.0.0.1, Iface:eth0` has two values behind one label."""
    address, _, rest = (gateway or "").partition(",")
    interface = rest.partition(":")[2].strip() if "iface" in rest.lower() else None
    return HccnGateway(gateway=address.strip() or None, interface=interface or None, **fields)


GATEWAY = Layout(_gateway, {"default gateway": ("gateway", word), "gateway": ("gateway", word)})


@dataclass(frozen=True)
class HccnVnic:
    """`-vnic`: the virtual interface between the chips of a host or a super node."""

    device: int | None = None
    link: str | None = None
    address: str | None = None
    netmask: str | None = None
    error: ToolError | None = None


VNIC = Layout(
    HccnVnic,
    {
        "vnic link status": ("link", word),
        "vnic ipaddr": ("address", address),
        "vnic netmask": ("netmask", address),
    },
)


@dataclass(frozen=True)
class HccnMtu:
    """`-mtu`, in bytes."""

    device: int | None = None
    mtu: int | None = None
    error: ToolError | None = None


MTU = Layout(HccnMtu, {"mtu": ("mtu", integer)})


@dataclass(frozen=True)
class HccnOther:
    """Any other query that prints labelled lines, as they are printed."""

    device: int | None = None
    values: Mapping[str, str] = field(default_factory=dict)
    error: ToolError | None = None


_OTHER_LABELS = (
    "mac addr; device hccp process; config status; Network Driver Version; udp_port; status; "
    "Network Firmware Version; Bandwidth TX; Bandwidth RX; Peak Bandwidth TX; Peak Bandwidth RX; "
    "Duplex; qp_count; listen_port; dcqcn enable status; dcqcn enable alg_mode; cnp_dscp; "
    "current enable status; gratuitous arp period; Diagnostic mode; down_fault_time; port_id"
)
OTHER = Layout(
    lambda device=None, error=None, **values: HccnOther(device, values, error),
    {name: (name, word) for name in _OTHER_LABELS.split("; ")},
    minor=frozenset({"status", "port_id"}),
)


@dataclass(frozen=True)
class HccnConf:
    """What `/etc/hccn.conf` sets for one NPU. `others`: keys that are not ours."""

    device: int
    address: str | None = None
    netmask: str | None = None
    gateway: str | None = None
    netdetect: str | None = None
    mtu: int | None = None
    send_arp_status: int | None = None
    tls_enabled: bool | None = None
    arp: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()
    others: Mapping[str, str] = field(default_factory=dict)


def parse_hccn_conf(text: str) -> Reading[tuple[HccnConf, ...]]:
    """One record an NPU, in the order of the file."""
    capture, leftovers = read_capture(text), Leftovers()
    settings: dict[int, dict[str, list[str]]] = {}
    for line in capture.lines:
        found = _CONF.match(line.strip())
        mine = settings.setdefault(int(found[2]), {}) if found else {}
        if not found or not found[3] or (found[1] in mine and found[1] not in _REPEATED):
            leftovers.add(line)
        else:
            mine.setdefault(found[1], []).append(found[3].strip())
    records = [_conf(device, mine) for device, mine in settings.items() if mine]
    return conclude(text, tuple(records) or None, leftovers, cut=capture.elided)


def _conf(device: int, mine: dict[str, list[str]]) -> HccnConf:
    rest = dict(mine)
    fields: dict[str, Any] = {}
    for name in ("address", "netmask", "gateway", "netdetect"):
        fields[name] = rest.pop(name, [None])[0]
    for name, to in (("mtu", "mtu"), ("send_arp_status", "send_arp_status")):
        if name in rest and rest[name][0].isdecimal() and len(rest[name][0]) < 10:
            fields[to] = int(rest.pop(name)[0])
    if rest.get("tls_enable", [""])[0] in ("0", "1"):
        fields["tls_enabled"] = rest.pop("tls_enable")[0] == "1"
    arp = tuple(rest.pop("arp", ()))
    routes = tuple(value for name in _REPEATED[1:] for value in rest.pop(name, ()))
    others = {name: values[0] for name, values in rest.items()}
    return HccnConf(device, arp=arp, routes=routes, others=others, **fields)

"""The Ethernet side of a host: interfaces, addresses, link speeds and routes."""

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ropeway.facts.base import Output, Reading
from ropeway.facts.printed import (
    Documents,
    decimal,
    documents,
    items_at,
    printed,
    refusal,
    seen,
    text_at,
    texts_at,
    whole,
    whole_at,
)

COMMANDS: Mapping[str, tuple[str, ...]] = {
    # Plain, because iproute2 before 4.13 and busybox know no -j.
    "ip-addr": ("ip", "addr"),
    "ip-route": ("ip", "route"),
    "link-speed": (
        "sh",
        "-c",
        'grep "" /sys/class/net/*/speed /sys/class/net/*/operstate 2>/dev/null; true',
    ),
}


@dataclass(frozen=True)
class Address:
    """`prefix` is the length of the network's part; None where it was not printed."""

    address: str
    prefix: int | None
    scope: str | None = None


@dataclass(frozen=True)
class Interface:
    """One network interface.

    state    as the kernel calls it: UP, DOWN, UNKNOWN (of loopback), …; None where not printed
    up       it was switched on; `running`: there is a carrier
    kind     `ether`, `loopback`, `infiniband`, …
    """

    name: str
    state: str | None
    up: bool
    running: bool
    mtu: int | None
    kind: str | None
    mac: str | None
    addresses: tuple[Address, ...]


@dataclass(frozen=True)
class Interfaces:
    """In the order of the output."""

    interfaces: tuple[Interface, ...]


@dataclass(frozen=True)
class Route:
    """`destination` is `default` or a network; `type` is `local`, `unreachable`, … where given."""

    destination: str
    gateway: str | None
    interface: str | None
    source: str | None
    metric: int | None = None
    type: str | None = None


@dataclass(frozen=True)
class Routes:
    """In the order of the output; `ip route get ADDRESS` has one."""

    routes: tuple[Route, ...]


@dataclass(frozen=True)
class LinkSpeed:
    """What one interface's hardware says; `speed_mbps` is None where it tells none."""

    interface: str
    speed_mbps: int | None
    duplex: str | None = None
    state: str | None = None
    link_detected: bool | None = None
    auto_negotiation: bool | None = None


@dataclass(frozen=True)
class LinkSpeeds:
    """In the order of the output."""

    links: tuple[LinkSpeed, ...]


def route_command(address: str) -> tuple[str, ...]:
    """Which way the host takes to an address; read with `parse_ip_route`."""
    return ("ip", "route", "get", address)


def default_route(routes: Routes) -> Route | None:
    """The default route that is taken: the one with the least metric, none counting as 0."""
    found = [route for route in routes.routes if route.destination in ("default", "0.0.0.0/0")]
    return min(found, key=lambda route: route.metric or 0, default=None)


def parse_ip_addr(text: str) -> Reading[Interfaces]:
    """Read `ip addr`, with -j or without, of iproute2 or busybox."""
    found = documents(text, "ip")
    interfaces = [
        interface
        for value in found.values
        for item in (value if isinstance(value, list) else [value])
        if (interface := _json_interface(item))
    ]
    if interfaces:
        return Reading.of(Interfaces(tuple(interfaces)), found.unread, cut=found.cut)
    return _blocks(text, "ip", _IP_HEAD, _read_ip_line)


def parse_ifconfig(text: str) -> Reading[Interfaces]:
    """Read ifconfig of net-tools (both layouts) or busybox."""
    return _blocks(text, "ifconfig", _IFCONFIG_HEAD, _read_ifconfig_line)


def parse_ip_route(text: str) -> Reading[Routes]:
    """Read `ip route` or `ip route get ADDRESS`, with -j or without."""
    found: Documents = documents(text, "ip")
    routes = [
        route
        for value in found.values
        for item in (value if isinstance(value, list) else [value])
        if (route := _json_route(item))
    ]
    if routes:
        return Reading.of(Routes(tuple(routes)), found.unread, cut=found.cut)
    out = printed(text, "ip")
    unread = []
    for line in out.lines:
        route = _route(line.split())
        if route:
            routes.append(route)
        elif line.split()[0] not in ("cache", "nexthop"):
            unread.append(line)
    if not routes:
        return refusal(text)
    return Reading.of(Routes(tuple(routes)), tuple(unread), cut=out.cut)


def parse_link_speed(text: str) -> Reading[LinkSpeeds]:
    """Read /sys/class/net/*/speed and operstate as `grep ""` prints them, or ethtool."""
    out = printed(text, "ethtool", "grep")
    found: dict[str, dict[str, str]] = {}
    unread = []
    name = ""
    for line in out.lines:
        sys_file = _SYS_FILE.search(line)
        settings = _SETTINGS.match(line)
        key, colon, value = line.strip().partition(":")
        if sys_file:
            found.setdefault(sys_file[1], {})[sys_file[2]] = sys_file[3]
        elif settings:
            name = settings[1]
            found.setdefault(name, {})
        elif name and colon and line[:1].isspace():
            found[name].setdefault(key.lower(), value.strip())
        elif not (name and line[:1].isspace()) and "Invalid argument" not in line:
            unread.append(line)
    if not found:
        return refusal(text)
    links = tuple(_link(name, fields) for name, fields in found.items())
    return Reading.of(LinkSpeeds(links), tuple(unread), cut=out.cut)


@dataclass
class _Draft:
    """An interface while its lines are read."""

    name: str
    fields: dict[str, Any] = field(default_factory=dict)
    flags: frozenset[str] = frozenset()
    addresses: list[Address] = field(default_factory=list)

    def done(self) -> Interface:
        return Interface(
            name=self.name,
            state=self.fields.get("state"),
            up="UP" in self.flags,
            running=bool(self.flags & {"LOWER_UP", "RUNNING"}),
            mtu=self.fields.get("mtu"),
            kind=self.fields.get("kind"),
            mac=self.fields.get("mac"),
            addresses=tuple(self.addresses),
        )


def _blocks(
    text: str, program: str, head: re.Pattern[str], read: Callable[[_Draft, str], bool]
) -> Reading[Interfaces]:
    """Interfaces, each a line that `head` knows and the indented lines after it."""
    out = printed(text, program)
    drafts: list[_Draft] = []
    unread = []
    for line in out.lines:
        found = head.match(line)
        if found:
            drafts.append(_Draft(found[1]))
            read(drafts[-1], line[found.end(1) :])
        elif not drafts or not line[:1].isspace() or not read(drafts[-1], line):
            unread.append(line)
    if not drafts:
        return refusal(text)
    value = Interfaces(tuple(draft.done() for draft in drafts))
    return Reading.of(value, tuple(unread), cut=out.cut)


def _read_ip_line(draft: _Draft, line: str) -> bool:
    words = line.split()
    flags = _FLAGS.search(line)
    if flags:
        draft.flags = frozenset(flags[1].split(","))
        draft.fields["mtu"] = whole(_after(words, "mtu"))
        draft.fields["state"] = _after(words, "state") or None
        return True
    if words[0].startswith("link/"):
        kind = words[0].removeprefix("link/")
        mac = words[1] if len(words) > 1 and kind == "ether" else None
        draft.fields.update(kind=kind, mac=mac)
        return True
    if words[0] in ("inet", "inet6") and len(words) > 1:
        address, _, prefix = words[1].partition("/")
        if not _is_address(address):
            return False
        draft.addresses.append(Address(address, whole(prefix), _after(words, "scope") or None))
        return True
    return words[0].startswith(("valid_lft", "vlan", "bond", "altname", "RX:", "TX:", "vf"))


def _read_ifconfig_line(draft: _Draft, line: str) -> bool:
    plain = line.replace("Mask: ", "Mask:")
    words = plain.split()
    flags = _FLAGS.search(plain)
    if flags:  # net-tools 2
        draft.flags = frozenset(flags[1].split(","))
        draft.fields["mtu"] = whole(_after(words, "mtu"))
    elif "MTU:" in plain:  # net-tools 1 and busybox
        draft.flags = frozenset(words)
        draft.fields["mtu"] = whole(_colon(words, "MTU"))
    mac = _MAC.search(plain)
    if mac:
        draft.fields.update(kind="ether", mac=mac[1].lower())
    if "Local Loopback" in plain:
        draft.fields["kind"] = "loopback"
    if words and words[0] == "inet" and len(words) > 1:
        mask = _after(words, "netmask") or _colon(words, "Mask")
        address = words[1].removeprefix("addr:")
        if not _is_address(address):
            return False
        draft.addresses.append(Address(address, _prefix(mask)))
    elif words and words[0] == "inet6" and len(words) > 1:
        address, _, prefix = words[2 if words[1] == "addr:" and len(words) > 2 else 1].partition(
            "/"
        )
        if not _is_address(address):
            return False
        draft.addresses.append(Address(address, whole(prefix or _after(words, "prefixlen"))))
    return flags is not None or _IFCONFIG_KNOWN.match(plain) is not None


def _json_interface(item: object) -> Interface | None:
    name = text_at(item, "ifname")
    if not name:
        return None
    flags = frozenset(texts_at(item, "flags"))
    addresses = [
        Address(address, whole_at(entry, "prefixlen"), text_at(entry, "scope"))
        for entry in items_at(item, "addr_info")
        if (address := text_at(entry, "local"))
    ]
    kind = text_at(item, "link_type")
    return Interface(
        name=name,
        state=text_at(item, "operstate"),
        up="UP" in flags,
        running="LOWER_UP" in flags,
        mtu=whole_at(item, "mtu"),
        kind=kind,
        mac=text_at(item, "address") if kind == "ether" else None,
        addresses=tuple(addresses),
    )


def _json_route(item: object) -> Route | None:
    destination = text_at(item, "dst")
    if not destination:
        return None
    return Route(
        destination=destination,
        gateway=text_at(item, "gateway"),
        interface=text_at(item, "dev"),
        source=text_at(item, "prefsrc"),
        metric=whole_at(item, "metric"),
        type=text_at(item, "type"),
    )


def _route(words: list[str]) -> Route | None:
    kind = words[0] if words[0] in _ROUTE_TYPES else None
    rest = words[1:] if kind else words
    if not rest or not (rest[0] == "default" or _is_address(rest[0].partition("/")[0])):
        return None
    if len(rest) < 2 and not kind:
        return None
    return Route(
        destination=rest[0],
        gateway=_after(rest, "via") or None,
        interface=_after(rest, "dev") or None,
        source=_after(rest, "src") or None,
        metric=whole(_after(rest, "metric")),
        type=kind,
    )


def _link(name: str, fields: Mapping[str, str]) -> LinkSpeed:
    speed = _SPEED.match(fields.get("speed", ""))
    number = decimal(speed[1]) if speed else None
    if number is not None and speed and speed[2] == "Gb/s":
        number *= 1000
    duplex = fields.get("duplex", "")
    return LinkSpeed(
        interface=name,
        speed_mbps=int(number) if number is not None and number > 0 else None,
        duplex=duplex if duplex in ("Full", "Half") else None,
        state=fields.get("operstate"),
        link_detected=_YES.get(fields.get("link detected", "")),
        auto_negotiation=_YES.get(fields.get("auto-negotiation", "")),
    )


def _after(words: list[str], word: str) -> str:
    """The word after this one; "" where there is none."""
    place = words.index(word) + 1 if word in words else len(words)
    return words[place] if place < len(words) else ""


def _colon(words: list[str], name: str) -> str:
    return next((w.partition(":")[2] for w in words if w.startswith(f"{name}:")), "")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return True


def _prefix(mask: str) -> int | None:
    """255.255.255.0 → 24."""
    try:
        return ipaddress.ip_network(f"0.0.0.0/{mask}").prefixlen if mask else None
    except ValueError:
        return None


_YES = {"yes": True, "on": True, "no": False, "off": False}
_ROUTE_TYPES = frozenset(
    ("local", "broadcast", "unicast", "unreachable", "blackhole", "prohibit", "throw", "multicast")
)
_IP_HEAD = re.compile(r"[0-9]{1,6}: ([^\s:@]{1,60})(?:@[^\s:]{1,60})?: (?=<)")
_IFCONFIG_HEAD = re.compile(r"([^\s:]{1,60}(?::[0-9]{1,4})?)(?:: flags=|[ \t]+Link encap:)")
_IFCONFIG_KNOWN = re.compile(
    r"\s*(?:inet6?|ether|loop|unspec|infiniband|sit|tunnel|RX|TX|collisions|device|Interrupt"
    r"|Memory|Link|UP|BROADCAST|LOOPBACK|NOARP|POINTOPOINT|MULTICAST|nd6|txqueuelen)\b"
)
_FLAGS = re.compile(r"<([A-Z0-9_,-]{0,400})>")
_MAC = re.compile(r"(?:\bether|HWaddr) ((?:[0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2})\b")
_SYS_FILE = re.compile(r"/sys/class/net/([^/\s]{1,60})/(speed|operstate|duplex): ?(\S+)$")
_SETTINGS = re.compile(r"\s*Settings for ([^\s:]{1,60}):$")
_SPEED = re.compile(r"(-?[0-9]{1,9})(Mb/s|Gb/s)?(?:\s|$)")

_IP_ADDR_LINE = re.compile(r"^[> \t]*[0-9]+: \S+: <[A-Z]|\"ifname\" ?:", re.MULTILINE)
_IP_ADDR_MORE = re.compile(r"^[> \t]*link/|\"addr_info\"", re.MULTILINE)
_IFCONFIG_LINE = re.compile(r"^[> \t]*\S+: flags=[0-9]+<|^\S+ +Link encap:", re.MULTILINE)
_ROUTE_LINE = re.compile(
    r"^[> \t]*(?:default via \S+|[0-9a-f.:]+/[0-9]+ (?:via|dev) \S+"
    r"|(?:local )?[0-9a-f.:]+ (?:via \S+ )?dev \S+ .*src \S+)",
    re.MULTILINE,
)
_ROUTE_JSON = re.compile(r"\"dst\" ?: ?\"[^\"]{1,60}\".{0,200}\"dev\" ?:", re.DOTALL)
_SPEED_LINE = re.compile(r"/sys/class/net/[^/\s]+/speed:|^[> \t]*Settings for \S+:$", re.MULTILINE)

OUTPUTS: tuple[Output[Any], ...] = (
    Output(
        "ip-addr",
        "ip addr",
        parse_ip_addr,
        lambda text: seen(text, 0.95, _IP_ADDR_LINE, _IP_ADDR_MORE),
    ),
    Output("ifconfig", "ifconfig", parse_ifconfig, lambda text: seen(text, 0.95, _IFCONFIG_LINE)),
    Output(
        "ip-route",
        "ip route",
        parse_ip_route,
        lambda text: seen(text, 0.9, _ROUTE_LINE) or seen(text, 0.9, _ROUTE_JSON),
    ),
    Output(
        "link-speed", "ethtool NIC", parse_link_speed, lambda text: seen(text, 0.95, _SPEED_LINE)
    ),
)

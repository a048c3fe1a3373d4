"""The Ethernet side of a host: interfaces, routes, names, ports that are listened on, pings."""

import ipaddress
import re
from collections.abc import Mapping

from ropeway.facts.complaints import to_parsed
from ropeway.facts.host import Nic
from ropeway.facts.question import Parsed, Question, shell
from ropeway.facts.text import parse_int, plain_lines, rows, word_after


def parse_nics(text: str) -> Parsed[tuple[Nic, ...]]:
    """Read `ip addr`, of iproute2 or busybox, in its order."""
    nics: list[Nic] = []
    leftovers: list[str] = []
    for line in plain_lines(text):
        head = _HEAD.match(line)
        words = line.split()
        address = words[1].partition("/")[0] if len(words) > 1 else ""
        if head:
            up = "UP" in head[2].split(",")
            nics.append(Nic(head[1], (), parse_int(word_after(words, "mtu")), up))
        elif nics and words[0] in ("inet", "inet6") and _is_address(address):
            last = nics[-1]
            nics[-1] = Nic(last.name, (*last.addresses, address), last.mtu, last.up)
        elif not nics or not line[0].isspace() or not words[0].startswith(_DETAILS):
            leftovers.append(line)
    return to_parsed(text, tuple(nics) or None, leftovers)


_HEAD = re.compile(r"[0-9]{1,6}: ([^\s:@]{1,60})(?:@[^\s:]{1,60})?: <([A-Z0-9_,-]{0,400})>")
_DETAILS = ("link/", "valid_lft", "vlan", "bond", "altname", "RX:", "TX:", "vf")
# Plain, because iproute2 before 4.13 and busybox have no `-j`.
NICS = Question("ip-addr", ("ip", "addr"), parse_nics)


def parse_default_nic(text: str) -> Parsed[str]:
    """Return the interface of the default route with the least metric, from `ip route`; "" when
    there is no default route."""
    best: tuple[int, str] | None = None
    known = False
    leftovers: list[str] = []
    for line in plain_lines(text):
        words = line.split()
        if words[0] == "default":
            route = (parse_int(word_after(words, "metric")) or 0, word_after(words, "dev"))
            best = min(best, route, key=lambda pair: pair[0]) if best else route
        elif not _is_address(words[0].partition("/")[0]) and words[0] not in _ROUTES:
            leftovers.append(line)
            continue
        known = True
    return to_parsed(text, (best[1] if best else "") if known else None, leftovers)


_ROUTES = frozenset(
    ("local", "broadcast", "unicast", "unreachable", "blackhole", "prohibit", "throw", "multicast",
     "nexthop", "cache")
)  # fmt: skip
DEFAULT_NIC = Question("ip-route", ("ip", "route"), parse_default_nic)


def parse_own_name(text: str) -> Parsed[str]:
    """Return the first address of the host's own name; "" when it does not resolve: vLLM then takes
    the loopback (gpustack#2125)."""
    lines = plain_lines(text)
    addresses = [first for line in lines if _is_address(first := line.split()[0])]
    names = [line for line in lines if line.startswith("hostname:")]
    leftovers = [line for line in lines if line.split()[0] not in addresses and line not in names]
    address = next(iter(addresses), "") if names else None
    return to_parsed(
        text, address, [line for line in leftovers if not line.lstrip().startswith("#")]
    )


# The name as the kernel has it, then what it resolves to: first as any program sees it, then the
# IPv4 side, which is what Ray and gloo ask for. Without getent (busybox), /etc/hosts itself.
_OWN_NAME = """\
n=$(cat /proc/sys/kernel/hostname)
echo "hostname: $n"
if command -v getent >/dev/null; then getent hosts "$n"; getent ahostsv4 "$n"
else grep -w -e "$n" /etc/hosts; fi
true"""
OWN_NAME = Question("own-name", shell(_OWN_NAME), parse_own_name)


def parse_ss(text: str) -> Parsed[Mapping[int, str | None]]:
    """Return the TCP ports that are listened on → the program, from `ss -ltnp`.

    Programs of other users are told to root only.
    """
    ports: dict[int, str | None] = {}
    known = False
    leftovers: list[str] = []
    for line in plain_lines(text):
        words = line.split()
        port = parse_int(words[3].rpartition(":")[2]) if len(words) > 4 else None
        if words[0] == "LISTEN" and port is not None and port <= 65_535:
            program = _PROGRAM.search(line)
            ports[port] = program[1] if program else ports.get(port)
        elif words[0] not in ("State", "状态"):
            leftovers.append(line)
            continue
        known = True
    return to_parsed(text, ports if known else None, leftovers)


_PROGRAM = re.compile(r'\("((?:[^"\\]|\\.){1,60})",pid=')
SS = Question("ss", ("ss", "-ltnp"), parse_ss)


def parse_proc_net_tcp(text: str) -> Parsed[frozenset[int]]:
    """Return the TCP ports that are listened on, from /proc/net/tcp and tcp6."""
    lines, leftovers = rows(text, _SOCKET)
    # TCP_LISTEN of the kernel's tcp_states.h
    ports = frozenset(int(line[1], 16) for line in lines if line[2] == "0A")
    return to_parsed(text, ports if lines else None, leftovers)


# A socket, or the header.
_SOCKET = re.compile(
    r"[0-9]+:\s+(?:[0-9A-Fa-f]{8}){1,4}:([0-9A-Fa-f]{4})\s+[0-9A-Fa-f]+:[0-9A-Fa-f]{4}"
    r"\s+([0-9A-F]{2})(?:\s.*)?|sl(?:\s.*)?"
)
PROC_NET_TCP = Question(
    "proc-net-tcp",
    shell("cat /proc/net/tcp /proc/net/tcp6 2>/dev/null"),
    parse_proc_net_tcp,
    unless=SS.key,
)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return True

"""Names and addresses of hosts: /etc/hosts, the resolver, and what a host takes itself for."""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ropeway.facts.base import Output, Reading
from ropeway.facts.printed import printed, refusal, seen

# The name as the kernel has it, then what it resolves to: first as any program sees it, then the
# IPv4 side, which is what Ray and gloo ask for. Without getent (busybox), /etc/hosts itself.
_OWN_NAME = """\
n=$(cat /proc/sys/kernel/hostname)
echo "hostname: $n"
if command -v getent >/dev/null; then getent hosts "$n"; getent ahostsv4 "$n"
else grep -w -e "$n" /etc/hosts; fi
true"""

COMMANDS: Mapping[str, tuple[str, ...]] = {
    "hosts": ("cat", "/etc/hosts"),
    "resolv-conf": ("cat", "/etc/resolv.conf"),
    "own-name": ("sh", "-c", _OWN_NAME),
}


@dataclass(frozen=True)
class HostsEntry:
    """One address and the names it goes by."""

    address: str
    names: tuple[str, ...]


@dataclass(frozen=True)
class Hosts:
    """/etc/hosts, or what `getent hosts` says; an address stands once for each line."""

    entries: tuple[HostsEntry, ...]


@dataclass(frozen=True)
class OwnName:
    """What a host's own name resolves to, in the order of the resolver.

    addresses  empty when it does not resolve; vLLM then takes the loopback (gpustack#2125)
    """

    hostname: str
    addresses: tuple[str, ...]


@dataclass(frozen=True)
class Resolver:
    """/etc/resolv.conf."""

    nameservers: tuple[str, ...]
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


def getent_command(name: str) -> tuple[str, ...]:
    """What a name resolves to on the host; read with `parse_hosts`."""
    return ("getent", "hosts", name)


def resolve(hosts: Hosts, name: str) -> tuple[str, ...]:
    """The addresses that carry this name."""
    wanted = name.lower()
    return tuple(
        entry.address
        for entry in hosts.entries
        if wanted in (known.lower() for known in entry.names)
    )


def is_loopback(address: str) -> bool:
    """Whether an address reaches only the host itself: 127.0.0.0/8 or ::1."""
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False


def parse_hosts(text: str) -> Reading[Hosts]:
    """Read /etc/hosts or `getent hosts NAME`."""
    out = printed(text, "getent")
    entries = []
    unread = []
    for line in out.lines:
        entry = _entry(line)
        if entry:
            entries.append(entry)
        else:
            unread.append(line)
    if not entries:
        return refusal(text)
    return Reading.of(Hosts(tuple(entries)), tuple(unread), cut=out.cut)


def parse_own_name(text: str) -> Reading[OwnName]:
    """Read the answer to the command `own-name`."""
    out = printed(text, "getent")
    hostname = None
    addresses: dict[str, None] = {}
    unread = []
    for line in out.lines:
        name = _HOSTNAME.match(line)
        entry = _entry(line)
        if name:
            hostname = name[1]
        elif entry:
            addresses[entry.address] = None
        else:
            unread.append(line)
    if not hostname:
        return refusal(text)
    return Reading.of(OwnName(hostname, tuple(addresses)), tuple(unread), cut=out.cut)


def parse_resolv_conf(text: str) -> Reading[Resolver]:
    """Read /etc/resolv.conf."""
    out = printed(text)
    found: dict[str, list[str]] = {"nameserver": [], "search": [], "domain": [], "options": []}
    unread = []
    for line in out.lines:
        words = line.split()
        if words[0].startswith(";"):
            continue
        if words[0] in found and len(words) > 1:
            found[words[0]] += words[1:]
        elif words[0] != "sortlist":
            unread.append(line)
    if not any(found.values()):
        return refusal(text)
    value = Resolver(
        nameservers=tuple(found["nameserver"]),
        search=tuple(found["search"] or found["domain"]),
        options=tuple(found["options"]),
    )
    return Reading.of(value, tuple(unread), cut=out.cut)


def _entry(line: str) -> HostsEntry | None:
    """`10.0.0.5  node5 node5.local  # comment`; `10.0.0.5  STREAM node5` of getent ahosts."""
    words = line.partition("#")[0].split()
    if not words:
        return None
    try:
        ipaddress.ip_address(words[0].partition("%")[0])
    except ValueError:
        return None
    names = words[2:] if words[1:2] in (["STREAM"], ["DGRAM"], ["RAW"]) else words[1:]
    return HostsEntry(words[0], tuple(names)) if len(words) > 1 else None


_HOSTNAME = re.compile(r"\s*hostname: ?(\S{1,255})$")
_HOSTS_LINE = re.compile(r"^[> \t]*(?:127\.[0-9.]+|::1)\s+[a-zA-Z]", re.MULTILINE)
_OWN_LINE = re.compile(r"\A\s*hostname: \S+\s*$", re.MULTILINE)
_RESOLV_LINE = re.compile(r"^[> \t]*nameserver\s+[0-9a-f.:]+", re.MULTILINE)

OUTPUTS: tuple[Output[Any], ...] = (
    Output("hosts", "cat /etc/hosts", parse_hosts, lambda text: seen(text, 0.8, _HOSTS_LINE)),
    Output(
        "own-name",
        "hostname; getent hosts HOSTNAME",
        parse_own_name,
        lambda text: seen(text, 0.9, _OWN_LINE),
    ),
    Output(
        "resolv-conf",
        "cat /etc/resolv.conf",
        parse_resolv_conf,
        lambda text: seen(text, 0.9, _RESOLV_LINE),
    ),
)

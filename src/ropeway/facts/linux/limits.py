"""What a host allows: limits of a process, kernel parameters, and room on its disks."""

import re
from dataclasses import dataclass

from ropeway.facts.complaints import conclude
from ropeway.facts.question import Parsed, Question
from ropeway.facts.text import plain_lines, whole


@dataclass(frozen=True)
class Limits:
    """What a process meets: open files, and locked memory in bytes. None for `unlimited`."""

    nofile: int | None
    memlock_bytes: int | None


def parse_limits(text: str) -> Parsed[Limits]:
    """Read /proc/self/limits: `Max open files     1024     524288     files`."""
    soft: dict[str, int | None] = {}
    leftovers: list[str] = []
    for line in map(str.strip, plain_lines(text)):
        match = _LIMIT.fullmatch(line)
        if match:
            soft[match[1]] = whole(match[2])
        elif not line.startswith("Limit "):
            leftovers.append(line)
    limits = Limits(soft.get("open files"), soft.get("locked memory"))
    return conclude(text, limits if soft else None, leftovers)


_LIMIT = re.compile(r"Max ([a-z ]{3,40}?)\s+(unlimited|[0-9]+)\s+(?:unlimited|[0-9]+)(?:\s+\w+)?")
LIMITS = Question("proc-limits", ("cat", "/proc/self/limits"), parse_limits)


@dataclass(frozen=True)
class Sysctl:
    """Kernel parameters.

    numa_balancing  0 is off
    local_ports     first and last of those from which the kernel takes one for who asks for any
    reserved_ports  which it leaves out
    """

    numa_balancing: int | None
    local_ports: tuple[int, int] | None
    reserved_ports: frozenset[int]


_FILES = (
    "/proc/sys/kernel/numa_balancing",
    "/proc/sys/net/ipv4/ip_local_port_range",
    "/proc/sys/net/ipv4/ip_local_reserved_ports",
)


def parse_sysctl(text: str) -> Parsed[Sysctl]:
    """Read files below /proc/sys as `grep ""` prints them, each line with its file's name."""
    values: dict[str, str] = {}
    leftovers: list[str] = []
    for line in map(str.strip, plain_lines(text)):
        path, colon, value = line.partition(":")
        if colon and path in _FILES:
            values[path] = value.strip()
        else:
            leftovers.append(line)
    if values:  # not every kernel has every file
        leftovers = [line for line in leftovers if "No such file" not in line]
    balancing, local, reserved = (values.get(path, "") for path in _FILES)
    ports: set[int] = set()
    for part in reserved.split(","):
        if (ends := _ends(part.split("-"))) is not None:
            ports.update(range(ends[0], ends[1] + 1))
    sysctl = Sysctl(whole(balancing), _ends(local.split()), frozenset(ports))
    return conclude(text, sysctl if values else None, leftovers)


def _ends(words: list[str]) -> tuple[int, int] | None:
    """Return the first and the last port of a range; a port alone is both."""
    ports = [whole(word.strip()) for word in words]
    if not 1 <= len(ports) <= 2 or ports[0] is None or ports[-1] is None or ports[-1] > 65_535:
        return None
    return ports[0], ports[-1]


# `grep` because `sysctl` may be missing from PATH.
SYSCTL = Question("sysctl", ("grep", "", *_FILES), parse_sysctl)


@dataclass(frozen=True)
class Filesystem:
    """A mounted file system; None where it has no size."""

    size_bytes: int | None
    available_bytes: int | None


def parse_disks(text: str) -> Parsed[dict[str, Filesystem]]:
    """Return mount point → file system from `df -Pk`, of coreutils or busybox."""
    disks: dict[str, Filesystem] = {}
    leftovers: list[str] = []
    for line in map(str.strip, plain_lines(text)):
        match = _ROW.fullmatch(line)
        if match:
            sizes = (whole(match[1]), whole(match[2]))
            disks[match[3]] = Filesystem(*(size and size * 1024 for size in sizes))
        elif not _HEADER.match(line):
            leftovers.append(line)
    return conclude(text, disks or None, leftovers)


# Device, blocks, used, available, percent, mount point; both ends may have blanks.
_ROW = re.compile(
    r"\S.*?\s+([0-9]{1,15}|-)\s+(?:[0-9]{1,15}|-)\s+([0-9]{1,15}|-)\s+(?:[0-9]{1,3}%|-)\s+(/.*)"
)
_HEADER = re.compile(r"Filesystem\s|文件系统\s")


# Of the paths that it is asked about.
DISKS = Question("df", ("df", "-Pk"), parse_disks)

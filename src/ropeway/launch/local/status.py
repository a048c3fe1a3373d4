"""What is running, read back from the hosts: labels of processes, and the record beside them."""

from dataclasses import dataclass
from pathlib import Path

from ropeway.engines.vllm_cpu import Deployment
from ropeway.hosts import processes
from ropeway.hosts.base import Host
from ropeway.hosts.processes import Process
from ropeway.launch.local.record import RECORD, SCRATCH_PARENT, from_record, scratch_of


@dataclass(frozen=True)
class Part:
    """The processes of one role on one host, taken together."""

    host: str
    role: str
    pids: tuple[int, ...]
    ranks: int
    memory_bytes: int


def running(service: str) -> tuple[Process, ...]:
    """The service's processes on this machine."""
    return processes.find(service)


def services(user: int) -> tuple[str, ...]:
    """Names of this user's services that run here or left something behind."""
    prefix = Path(scratch_of("", user)).name
    left = {path.name.removeprefix(prefix) for path in Path(SCRATCH_PARENT).glob(f"{prefix}*")}
    return tuple(sorted(left | {process.service for process in processes.find()}))


def deployment_of(service: str, user: int, host: Host) -> Deployment | None:
    """What the record says; None when there is none. Raises HostError when it cannot be read."""
    path = f"{scratch_of(service, user)}/{RECORD}"
    if not Path(path).exists():
        return None
    return from_record(host.get(path).decode(errors="replace"), path)


def parts(found: tuple[Process, ...]) -> tuple[Part, ...]:
    """Group processes by host and role; `ranks` are those that hold a piece of the model."""
    groups: dict[tuple[str, str], list[Process]] = {}
    for process in found:
        groups.setdefault((process.host, process.role), []).append(process)
    return tuple(
        Part(
            host, role, tuple(process.pid for process in group),
            sum(is_rank(process) for process in group),
            sum(process.memory_bytes for process in group),
        )
        for (host, role), group in sorted(groups.items())
    )  # fmt: skip


def is_rank(process: Process) -> bool:
    """Whether this process holds a piece of the model, by the titles that vLLM 0.32 gives."""
    return "RayWorkerProc" in process.title or process.title.startswith("VLLM::Worker")

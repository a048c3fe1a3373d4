"""What is running, read back from the hosts: labels of processes, and the record beside them."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ropeway.engines.vllm_cpu import Deployment
from ropeway.hosts.base import Host, run_command
from ropeway.hosts.processes import Process, find
from ropeway.launch.local.record import RECORD, SCRATCH_PARENT, from_record, scratch_of
from ropeway.launch.local.steps import probe_of


@dataclass(frozen=True)
class Part:
    """The processes of one role on one host, taken together."""

    host: str
    role: str
    pids: tuple[int, ...]
    ranks: int
    memory_bytes: int


def running(service: str) -> tuple[Process, ...]:
    """Return the service's processes on this machine."""
    return find(service)


def services(user: int) -> tuple[str, ...]:
    """Return the names of this user's services that run here or left something behind."""
    prefix = Path(scratch_of("", user)).name
    remains = {path.name.removeprefix(prefix) for path in Path(SCRATCH_PARENT).glob(f"{prefix}*")}
    return tuple(sorted(remains | {process.service for process in find()}))


def deployment_of(service: str, user: int, host: Host) -> Deployment | None:
    """Return the record of a service; None when there is none.

    Raises HostError when it cannot be read.
    """
    path = f"{scratch_of(service, user)}/{RECORD}"
    if not Path(path).exists():
        return None
    return from_record(host.get(path).decode(errors="replace"), path)


def reason_not_serving(deployment: Deployment | None, host: Host) -> str:
    """Ask for one token: why none came, empty when one did."""
    if deployment is None:
        return "no record of it"
    answer = run_command(host, probe_of(deployment, seconds=20.0), timeout=30.0)
    return "" if answer.ok else (answer.stderr.strip() or "no answer")


def new_log_text(log: Path, begin: int, service: str) -> Iterator[str]:
    """Yield what is written to a log from this position on, until the service has ended."""
    with log.open(errors="replace") as file:
        file.seek(begin)
        while True:
            if piece := file.read():
                yield piece
            elif not running(service):
                return
            else:
                time.sleep(0.3)


def parts(processes: tuple[Process, ...]) -> tuple[Part, ...]:
    """Group processes by host and role; `ranks` are those that hold a piece of the model."""
    groups: dict[tuple[str, str], list[Process]] = {}
    for process in processes:
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
    """Return whether this process holds a piece of the model, by the titles of vLLM 0.32."""
    return "RayWorkerProc" in process.title or process.title.startswith("VLLM::Worker")

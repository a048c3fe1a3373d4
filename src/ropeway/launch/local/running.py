"""What runs on this machine, read back from labels and the record; and taking it down whole."""

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ropeway.engines.vllm_cpu import CpuReplica
from ropeway.errors import HostError
from ropeway.hosts import processes
from ropeway.hosts.base import Host, run_command
from ropeway.hosts.processes import Process, find
from ropeway.launch.local.steps import RECORD, SCRATCH_PARENT, from_record, probe_of, scratch_of
from ropeway.phrases import phrase

_SHARED_MEMORY_LIST = "shared-memory"  # in the service's scratch folder: one path on each line


@dataclass(frozen=True)
class TakenDown:
    """What has been removed."""

    processes: int
    shared_memory: tuple[str, ...]
    folders: tuple[str, ...]

    @property
    def nothing(self) -> bool:
        return not (self.processes or self.shared_memory or self.folders)


def note_shared_memory(service: str, scratch: str) -> None:
    """Write down which shared memory the service has now: after a crash nobody can say."""
    files = processes.shared_memory(processes.find(service))
    if files:
        (Path(scratch) / _SHARED_MEMORY_LIST).write_text("\n".join(sorted(files | _noted(scratch))))


def take_down(service: str, scratch: str, patience: float = 3.0) -> TakenDown:
    """End and remove all that carries the service's name. It is not an error if there is nothing.

    Processes are looked for again until none is left: one that was just being started when we
    looked has the label too. Raises HostError when something does not end.
    """
    count = 0
    shared = set(_noted(scratch))
    for _ in range(5):
        running = processes.find(service)
        if not running:
            break
        count += len(running)
        shared |= processes.shared_memory(running)
        if survivors := processes.end(running, patience):
            raise HostError(
                phrase("{n} processes of `{name}` do not end", n=len(survivors), name=service),
                evidence=[f"pid {process.pid}: {process.title[:80]}" for process in survivors],
                hint="kill -9 " + " ".join(str(process.pid) for process in survivors),
            )
    # An engine that ends by itself removes its own.
    gone = tuple(path for path in sorted(shared) if Path(path).exists())
    for path in gone:
        Path(path).unlink(missing_ok=True)
    folders = (scratch,) if Path(scratch).exists() else ()
    shutil.rmtree(scratch, ignore_errors=True)
    return TakenDown(count, gone, folders)


def _noted(scratch: str) -> frozenset[str]:
    try:
        return frozenset((Path(scratch) / _SHARED_MEMORY_LIST).read_text().splitlines())
    except FileNotFoundError:
        return frozenset()


@dataclass(frozen=True)
class RoleOnHost:
    """The processes of one role on one host, taken together."""

    host: str
    role: str
    pids: tuple[int, ...]
    ranks: int
    memory_bytes: int


def services(user: int) -> tuple[str, ...]:
    """Return the names of this user's services that run here or left something behind."""
    prefix = Path(scratch_of("", user)).name
    remains = {path.name.removeprefix(prefix) for path in Path(SCRATCH_PARENT).glob(f"{prefix}*")}
    return tuple(sorted(remains | {process.service for process in find()}))


def deployment_of(service: str, user: int, host: Host) -> CpuReplica | None:
    """Return the record of a service; None when there is none.

    Raises HostError when it cannot be read.
    """
    path = f"{scratch_of(service, user)}/{RECORD}"
    if not Path(path).exists():
        return None
    return from_record(host.get(path).decode(errors="replace"), path)


def reason_not_serving(deployment: CpuReplica | None, host: Host) -> str:
    """Ask for one token: why none came, empty when one did."""
    if deployment is None:
        return phrase("no record of it")
    answer = run_command(host, probe_of(deployment, seconds=20.0), timeout=30.0)
    return "" if answer.ok else (answer.stderr.strip() or phrase("no answer"))


def new_log_text(log: Path, begin: int, service: str) -> Iterator[str]:
    """Yield what is written to a log from this position on, until the service has ended."""
    with log.open(errors="replace") as file:
        file.seek(begin)
        while True:
            if piece := file.read():
                yield piece
            elif not find(service):
                return
            else:
                time.sleep(0.3)


def parts(processes: tuple[Process, ...]) -> tuple[RoleOnHost, ...]:
    """Group processes by host and role; `ranks` are those that hold a piece of the model."""
    groups: dict[tuple[str, str], list[Process]] = {}
    for process in processes:
        groups.setdefault((process.host, process.role), []).append(process)
    return tuple(
        RoleOnHost(
            host, role, tuple(process.pid for process in group),
            sum(is_rank(process) for process in group),
            sum(process.memory_bytes for process in group),
        )
        for (host, role), group in sorted(groups.items())
    )  # fmt: skip


def is_rank(process: Process) -> bool:
    """Return whether this process holds a piece of the model, by the titles of vLLM 0.32."""
    return "RayWorkerProc" in process.title or process.title.startswith("VLLM::Worker")

"""Takes a service down so that nothing of it stays: processes, shared memory, scratch folder."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from ropeway.errors import HostError
from ropeway.hosts import processes

_NOTED = "shared-memory"  # below the service's scratch folder: one path on each line


@dataclass(frozen=True)
class TakenDown:
    """What was there and is gone."""

    processes: int
    shared_memory: tuple[str, ...]
    folders: tuple[str, ...]

    @property
    def nothing(self) -> bool:
        return not (self.processes or self.shared_memory or self.folders)


def note_shared_memory(service: str, scratch: str) -> None:
    """Write down which shared memory the service has now: once it has crashed, nobody can say."""
    found = processes.shared_memory(processes.find(service))
    if found:
        (Path(scratch) / _NOTED).write_text("\n".join(sorted(found | _noted(scratch))))


def take_down(service: str, scratch: str, patience: float = 3.0) -> TakenDown:
    """End all that carries the service's name. What is not there is no error.

    Processes are looked for again until none is left: one that was just being started when we
    looked has the label too. Raises HostError when something does not go.
    """
    count = 0
    shared = set(_noted(scratch))
    for _ in range(5):
        found = processes.find(service)
        if not found:
            break
        count += len(found)
        shared |= processes.shared_memory(found)
        if left := processes.end(found, patience):
            raise HostError(
                f"{len(left)} processes of `{service}` do not end",
                evidence=[f"pid {process.pid}: {process.title[:80]}" for process in left],
                hint="kill -9 " + " ".join(str(process.pid) for process in left),
            )
    gone = tuple(path for path in sorted(shared) if _unlink(path))
    folders = (scratch,) if Path(scratch).exists() else ()
    shutil.rmtree(scratch, ignore_errors=True)
    return TakenDown(count, gone, folders)


def _noted(scratch: str) -> frozenset[str]:
    try:
        return frozenset((Path(scratch) / _NOTED).read_text().splitlines())
    except FileNotFoundError:
        return frozenset()


def _unlink(path: str) -> bool:
    """Whether the file was still there: an engine that ends by itself removes its own."""
    try:
        Path(path).unlink()
    except FileNotFoundError:
        return False
    return True

"""Takes a service down so that nothing of it stays: processes, shared memory, scratch folder."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from ropeway.errors import HostError
from ropeway.hosts import processes

_NOTED = "shared-memory"  # below the service's scratch folder: one path on each line


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
        (Path(scratch) / _NOTED).write_text("\n".join(sorted(files | _noted(scratch))))


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
                f"{len(survivors)} processes of `{service}` do not end",
                evidence=[f"pid {process.pid}: {process.title[:80]}" for process in survivors],
                hint="kill -9 " + " ".join(str(process.pid) for process in survivors),
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
    """Return whether the file still existed: an engine that ends by itself removes its own."""
    try:
        Path(path).unlink()
    except FileNotFoundError:
        return False
    return True

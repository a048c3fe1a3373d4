"""What labels are to containers, environment variables are to plain processes.

Every process that Ropeway starts on a virtual host carries `ROPEWAY_SERVICE`, `ROPEWAY_HOST` and
`ROPEWAY_ROLE`, and its children inherit them. Some programs overwrite the memory that
`/proc/PID/environ` shows (they set their title), so a process is also ours when it lives in the
session of one that is labelled: `setsid` gave each of our commands a session of its own. A session
that somebody else leads is not ours, whoever lives there: a labelled command that was pasted into a
terminal must not make that terminal's shell ours. Nor is session 0, which is how /proc in a
container shows every session whose leader lives outside of it.

Linux only: it reads /proc.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

SERVICE = "ROPEWAY_SERVICE"
HOST = "ROPEWAY_HOST"
ROLE = "ROPEWAY_ROLE"

_PROC = Path("/proc")
_SHARED_MEMORY = "/dev/shm/"
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Process:
    """A running process. `started` is in clock ticks since boot; pid and started name it for good.

    memory_bytes  resident, pages shared with others included
    """

    pid: int
    parent: int
    session: int
    started: int
    title: str
    memory_bytes: int
    service: str = ""
    host: str = ""
    role: str = ""


def find(service: str | None = None) -> tuple[Process, ...]:
    """Our processes on this machine, of one service or (None) of all, by pid."""
    found = {process.pid: process for process in _all()}
    labels: dict[int, Process] = {}  # by session; the labelled process that started first speaks
    for process in sorted(found.values(), key=lambda process: process.started):
        if process.service and process.session and not _is_strange(found.get(process.session)):
            labels.setdefault(process.session, process)
    ours = []
    for process in found.values():
        speaker = process if process.service else labels.get(process.session)
        if speaker is None or process.pid == os.getpid():
            continue
        if not process.service and process.session not in found and _shows_environment(process.pid):
            continue  # nobody says whose session it was: perhaps a terminal's, closed since
        if service is None or speaker.service == service:
            ours.append(_labelled(process, speaker))
    return tuple(sorted(ours, key=lambda process: process.pid))


def end(processes: Iterable[Process], patience: float = 10.0) -> tuple[Process, ...]:
    """Ask them to end, after `patience` seconds make them; return those that are still there.

    Only these very processes are signalled: a pid that was given to another since is left alone.
    """
    left = tuple(processes)
    for what, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, 5.0)):
        for process in left:
            if _alive(process):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(process.pid, what)
        deadline = time.monotonic() + seconds
        while (left := tuple(filter(_alive, left))) and time.monotonic() < deadline:
            time.sleep(0.05)
    return left


def shared_memory(processes: Iterable[Process]) -> frozenset[str]:
    """Files under /dev/shm that these processes have mapped; a killed engine leaves them behind."""
    found = set()
    for process in processes:
        with contextlib.suppress(OSError):
            for line in (_PROC / str(process.pid) / "maps").read_text().splitlines():
                path = line.partition(_SHARED_MEMORY)[2]
                if path and not path.endswith(" (deleted)"):
                    found.add(_SHARED_MEMORY + path)
    return frozenset(found)


def _all() -> Iterable[Process]:
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                if process := _read(entry):
                    yield process


def _read(entry: Path) -> Process | None:
    # The title stands in brackets and may hold anything, brackets too: what follows the last one
    # are the fields from the third on (man 5 proc_pid_stat).
    fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
    if fields[0] == "Z":
        return None
    environment = _environment(entry)
    argv = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
    return Process(
        pid=int(entry.name),
        parent=int(fields[1]),
        session=int(fields[3]),
        started=int(fields[19]),
        title=" ".join(argv).strip(),
        memory_bytes=int((entry / "statm").read_text().split()[1]) * _PAGE,
        service=environment.get(SERVICE, ""),
        host=environment.get(HOST, ""),
        role=environment.get(ROLE, ""),
    )


def _environment(entry: Path) -> Mapping[str, str]:
    try:
        raw = (entry / "environ").read_bytes()
    except PermissionError:  # another user's
        return {}
    pairs = (item.partition("=") for item in raw.decode(errors="replace").split("\0"))
    return {name: value for name, _, value in pairs if name.startswith("ROPEWAY_")}


def _is_strange(leader: Process | None) -> bool:
    """Whether the leader of a session shows an environment, and no label of ours in it."""
    return leader is not None and not leader.service and _shows_environment(leader.pid)


def _shows_environment(pid: int) -> bool:
    """Not overwritten: a new title, padded with zeros, covers the beginning and leaves the end."""
    try:
        return b"=" in (_PROC / str(pid) / "environ").read_bytes().partition(b"\0")[0]
    except OSError:  # another user's, or just gone: nothing of ours
        return True


def _labelled(process: Process, speaker: Process) -> Process:
    return Process(
        **{**vars(process), "service": speaker.service, "host": speaker.host, "role": speaker.role}
    )


def _alive(process: Process) -> bool:
    try:
        now = _read(_PROC / str(process.pid))
    except (OSError, ValueError, IndexError):
        return False
    return now is not None and now.started == process.started

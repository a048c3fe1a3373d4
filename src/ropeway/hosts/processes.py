"""Ropeway's own processes on this machine, known by variables in their environment.

What labels are to containers, environment variables are to plain processes: every process that
Ropeway starts on a virtual host carries `ROPEWAY_SERVICE`, `ROPEWAY_HOST` and `ROPEWAY_ROLE`, and
its children inherit them. Some programs overwrite the memory that `/proc/PID/environ` shows, by
setting their title; so a process also counts as ours when it is in the session of a labelled one:
`setsid` gave each of our commands a session of its own. A session led by a process of somebody else
is not ours, even with a labelled process in it: a labelled command pasted into a terminal must not
make that terminal's shell ours. Neither is session 0, which is how /proc in a container shows every
session whose leader is outside of it.

Linux only: it reads /proc.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

SERVICE = "ROPEWAY_SERVICE"
HOST = "ROPEWAY_HOST"
ROLE = "ROPEWAY_ROLE"

_PROC = Path("/proc")
_SHARED_MEMORY = "/dev/shm/"
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Process:
    """A running process, identified by `pid` and `started` even after its pid is reused.

    started       clock ticks since boot
    memory_bytes  resident, including pages shared with others
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
    """Return our processes on this machine, of one service or (None) of all, sorted by pid."""
    running = {process.pid: process for process in _all()}
    labels: dict[int, Process] = {}  # session → the labelled process in it that started first
    for process in sorted(running.values(), key=lambda process: process.started):
        if process.service and process.session and not _is_foreign(running.get(process.session)):
            labels.setdefault(process.session, process)
    ours = []
    for process in running.values():
        labelled = process if process.service else labels.get(process.session)
        if labelled is None or process.pid == os.getpid():
            continue
        leaderless = process.session not in running
        if not process.service and leaderless and _shows_environment(process.pid):
            continue  # its session may have been that of a terminal, closed since
        if service is None or labelled.service == service:
            ours.append(_with_labels(process, labelled))
    return tuple(sorted(ours, key=lambda process: process.pid))


def end(processes: Iterable[Process], patience: float = 10.0) -> tuple[Process, ...]:
    """Send SIGTERM, after `patience` seconds SIGKILL; return the processes that still run.

    A process that was given the pid of one of these since is left alone.
    """
    remaining = tuple(processes)
    for number, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, 5.0)):
        for process in remaining:
            if _alive(process):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(process.pid, number)
        deadline = time.monotonic() + seconds
        while (remaining := tuple(filter(_alive, remaining))) and time.monotonic() < deadline:
            time.sleep(0.05)
    return remaining


def shared_memory(processes: Iterable[Process]) -> frozenset[str]:
    """Return the files in /dev/shm that these processes map; a killed engine leaves them."""
    paths = set()
    for process in processes:
        with contextlib.suppress(OSError):
            for line in (_PROC / str(process.pid) / "maps").read_text().splitlines():
                path = line.partition(_SHARED_MEMORY)[2]
                if path and not path.endswith(" (deleted)"):
                    paths.add(_SHARED_MEMORY + path)
    return frozenset(paths)


def _all() -> Iterable[Process]:
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                if process := _read(entry):
                    yield process


def _read(entry: Path) -> Process | None:
    # The title is in brackets and may itself contain some: the fields from the third on follow the
    # last one (man 5 proc_pid_stat).
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


def _is_foreign(leader: Process | None) -> bool:
    """Return whether a session's leader shows an environment without a label of ours."""
    return leader is not None and not leader.service and _shows_environment(leader.pid)


def _shows_environment(pid: int) -> bool:
    """Return whether /proc shows a process's environment as it was, and not overwritten.

    A new title, padded with zeros, covers the beginning and leaves the end.
    """
    try:
        return b"=" in (_PROC / str(pid) / "environ").read_bytes().partition(b"\0")[0]
    except OSError:  # another user's, or just gone: not ours
        return True


def _with_labels(process: Process, labelled: Process) -> Process:
    return replace(process, service=labelled.service, host=labelled.host, role=labelled.role)


def _alive(process: Process) -> bool:
    try:
        now = _read(_PROC / str(process.pid))
    except (OSError, ValueError, IndexError):
        return False
    return now is not None and now.started == process.started

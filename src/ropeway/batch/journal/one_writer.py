"""One writer at a time for a journal, on this machine and over a network file system.

The lock is `flock`, which Linux passes on to an NFS server. Some mounts keep it to themselves or
have none, so the lock's file also says who holds it, and its time is set anew every second as a
sign of life. A lock that is free but names another machine is taken when there was no such sign for
a while.

It keeps two runs from paying for the same rows. That a writer who has lost it adds nothing is for
the journal's epochs to ensure (`segments`).
"""

import errno
import fcntl
import json
import os
import platform
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from ropeway.durable import PRIVATE, sync_folder
from ropeway.errors import Refused
from ropeway.outside import parse_json
from ropeway.phrases import phrase

NAME = "lock"
BEAT = 1.0  # seconds between signs of life
# Longer than NFS keeps what it knows of a file (acregmin is 3 s), and some beats.
SILENCE = 6.0

_TAKEN = (errno.EAGAIN, errno.EACCES)
_MOST = 4096


class OneWriter:
    """The lock on a journal's folder, held until `release`, with a thread that shows life."""

    def __init__(self, folder: Path, silence: float = SILENCE) -> None:
        """Take it, or raise Refused that says who has it."""
        self._path = folder / NAME
        self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT, PRIVATE)
        try:
            ours, holder = locked(self._handle), _holder(self._path)
            if ours is False:
                raise _taken(self._path, holder)
            # A lock of this machine's kernel is proof; another machine's may have stayed there.
            if holder and not (ours and holder.get("machine") == _machine()):
                self._wait_for_life(holder, silence)
            self._text = json.dumps(_ourselves()).encode()
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, self._text, 0)
            os.fsync(self._handle)
            sync_folder(folder)  # a folder without a lock is not ours
        except BaseException:
            os.close(self._handle)
            raise
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lock", daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        """Show that we live, whatever else is done meanwhile."""
        while not self._released.wait(BEAT):
            with suppress(OSError):  # a sign of life can be given later
                os.utime(self._handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Let others in at once, unless another has it already."""
        self._released.set()
        self._thread.join()
        with suppress(OSError):  # then the next one waits a while for a sign of life
            if os.pread(self._handle, _MOST, 0) == self._text:
                os.ftruncate(self._handle, 0)
        os.close(self._handle)

    def _wait_for_life(self, holder: dict[str, object], silence: float) -> None:
        begun = _sign(self._path)
        end = time.monotonic() + silence
        while time.monotonic() < end:
            time.sleep(min(BEAT, silence) / 4)
            if _sign(self._path) != begun:
                raise _taken(self._path, holder)


def locked(handle: int) -> bool | None:
    """Lock a file; False where another has it, None where its file system has no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in _TAKEN else None
    return True


def writer() -> str:
    """Return who we are, for people."""
    return f"process {os.getpid()} on {platform.node()}"


def _ourselves() -> dict[str, str]:
    began = datetime.now(UTC).isoformat(timespec="seconds")
    return {
        "process": str(os.getpid()),
        "node": platform.node(),
        "machine": _machine(),
        "began": began,
    }


def _machine() -> str:
    """Return what no other machine has, and all containers on this one share."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return platform.node()


def _holder(path: Path) -> dict[str, object]:
    """Return who holds the lock, or ended without letting go of it; empty when nobody does."""
    # Opened anew, since a network file system only then asks its server.
    with path.open("rb") as file:
        text = file.read(_MOST)
    try:
        document = parse_json(text)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _sign(path: Path) -> tuple[int, bytes]:
    with path.open("rb") as file:
        return os.fstat(file.fileno()).st_mtime_ns, file.read(_MOST)


class Taken(Refused):
    """Another run has the journal, which may soon notice that its time is over."""


def _taken(path: Path, holder: dict[str, object]) -> Taken:
    known = {key: holder.get(key, "?") for key in ("process", "node", "began")}
    who = phrase("process {process} on {node}, since {began}", **known)
    return Taken(
        phrase("another run is writing to this output"),
        where=str(path.parent),
        evidence=[who] if holder else [],
        hint=phrase("wait until it ends, or end it; what it has done is kept"),
    )

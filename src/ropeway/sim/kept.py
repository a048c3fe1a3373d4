"""A rehearsal that was kept, seen from another process: its hosts answer through a socket.

One connection is one command, as with SSH, and whoever closes it ends the command. Both sides write
lines of JSON: a command, then the lines that it prints as far as somebody wants them at once, then
its result or an error. Without a command the answer is what the rehearsal is; `end` ends it.
keeper.py is the other side, and holds a lock beside the socket as long as it lives.
"""

import base64
import fcntl
import json
import math
import os
import secrets
import shlex
import socket
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ropeway import errors
from ropeway.errors import HostError, Refused, RopewayError, reason_of
from ropeway.hosts.base import Result
from ropeway.hosts.child import sleep_cancellable
from ropeway.hosts.connect import ssh_hosts
from ropeway.phrases import phrase
from ropeway.sim.brief import Brief
from ropeway.sim.without_files import WithoutFiles
from ropeway.spec.cluster import Cluster
from ropeway.spec.model import Spec

_TICK_SECONDS = 0.1  # how late a cancelled command is noticed
_ANSWER_SECONDS = 1.0  # of patience with a keeper that is asked what it keeps
_END_SECONDS = 5.0
_GONE = phrase("the rehearsal has ended")
ELSEWHERE = "export XDG_RUNTIME_DIR=$(mktemp -d)"


def socket_path(*, make: bool = False) -> Path:
    """Return where this user's rehearsal listens.

    make  make its folder, for the user alone
    Raises Refused when the folder is somebody else's, or cannot be made.
    """
    parent = os.environ.get("XDG_RUNTIME_DIR") or "/tmp"
    folder = Path(parent) / f"ropeway-rehearsal-{os.getuid()}"
    try:
        if make:
            folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        if not make:  # nobody has kept anything there
            return folder / "socket"
        raise Refused(
            phrase("cannot make `{path}`: {reason}", path=folder, reason=reason_of(error)),
            hint=ELSEWHERE,
        ) from None
    if found.st_uid != os.getuid():
        hint = ELSEWHERE
    elif not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o077:
        hint = f"rm -r {shlex.quote(str(folder))}"
    else:
        return folder / "socket"
    raise Refused(phrase("`{path}` is not a folder of yours alone", path=folder), hint=hint)


def lock_path(path: Path) -> Path:
    """Return the file that the process behind a socket has locked, with its number in it."""
    return path.with_name("lock")


@dataclass(frozen=True)
class Kept:
    """The rehearsal that a user has kept.

    fleet  its hosts
    url    where it answers requests
    """

    socket: Path
    fleet: Brief
    url: str
    spec: Spec

    @property
    def title(self) -> str:
        """What is rehearsed, in words."""
        return phrase("`{name}` on {fleet}", name=self.spec.name, fleet=self.fleet.title)

    @contextmanager
    def connected(
        self, cluster: Cluster, *, ssh_config: str | None = None
    ) -> Iterator[tuple["KeptHost", ...]]:
        """Connect to the cluster's hosts, as hosts/connect.py does to real ones."""
        session = secrets.token_hex(8)
        real = ssh_hosts(cluster, "", ssh_config)
        yield tuple(
            KeptHost(host.name, host.address, host.by_hand, self.socket, session) for host in real
        )

    def end(self) -> None:
        """End it, with whatever runs there, and wait for its process. Raises HostError."""
        with suppress(OSError, StopIteration, ValueError):
            next(_exchange(self.socket, {"end": True}, patience=_ANSWER_SECONDS))
        due = time.monotonic() + _END_SECONDS
        while _is_locked(self.socket):
            if time.monotonic() > due:
                raise HostError(phrase("the rehearsal does not end"), hint=_kill(self.socket))
            time.sleep(_TICK_SECONDS / 10)


def find_kept() -> Kept | None:
    """Return the rehearsal of this user; None where none is kept.

    Raises Refused for one that does not answer, or not as this version does.
    """
    path = socket_path()
    try:
        about = next(_exchange(path, {}, patience=_ANSWER_SECONDS))
        spec = Spec.model_validate_json(str(about["spec"]), strict=False)
        return Kept(path, Brief(**about["fleet"]), str(about["url"]), spec)  # type: ignore[arg-type]
    except TimeoutError:
        what = phrase("the rehearsal that is kept does not answer")
    except (OSError, StopIteration):
        return None
    except (ValueError, KeyError, TypeError):
        what = phrase("the rehearsal that is kept is one of another version of Ropeway")
    raise Refused(what, hint=_kill(path))


def _is_locked(path: Path) -> bool:
    """Return whether a process is there that keeps a rehearsal, or is about to."""
    try:
        lock = os.open(lock_path(path), os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _kill(path: Path) -> str | None:
    """Return the command that ends a process that does not end itself."""
    try:
        return f"kill -9 {int(lock_path(path).read_text())}"
    except (OSError, ValueError):
        return None


@dataclass(frozen=True)
class KeptHost(WithoutFiles):
    """A virtual host of another process. `session`: the connection that this command is part of."""

    name: str
    address: str
    by_hand: str
    socket: Path
    session: str
    as_flags: str = "--rehearsal"

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        on_line: Callable[[str], None] | None = None,
        **_: object,
    ) -> Result:
        """See Host.run."""
        began = time.monotonic()
        command = {
            "host": self.name,
            "session": self.session,
            "argv": list(argv),
            "stdin": base64.b64encode(stdin).decode(),
            "follow": on_line is not None,
        }
        try:
            for answer in _exchange(self.socket, command):
                if "line" in answer and on_line is not None:
                    on_line(str(answer["line"]))
                elif "error" in answer:
                    raise _error(answer["error"])
                elif "code" in answer:
                    seconds = time.monotonic() - began
                    texts = str(answer["stdout"]), str(answer["stderr"])
                    return Result(tuple(argv), int(str(answer["code"])), *texts, seconds)
        except OSError:
            pass
        raise HostError(_GONE, where=self.name)


def _exchange(
    path: Path, request: Mapping[str, object], *, patience: float = math.inf
) -> Iterator[Mapping[str, object]]:
    """Send a request, and yield what is answered. Raises OSError, and Cancelled.

    patience  seconds until it is a TimeoutError
    """
    due = time.monotonic() + patience
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(json.dumps(request).encode() + b"\n")
        connection.settimeout(_TICK_SECONDS)
        rest = b""
        while True:
            try:
                chunk = connection.recv(65536)
            except TimeoutError:
                if time.monotonic() > due:
                    raise
                sleep_cancellable(0.001)  # raises Cancelled where we are
                continue
            if not chunk:
                return
            *lines, rest = (rest + chunk).split(b"\n")
            yield from map(json.loads, lines)


def _error(data: object) -> RopewayError:
    """Return the error that the other side has sent, of its own kind."""
    assert isinstance(data, Mapping)
    kind = getattr(errors, str(data["kind"]), HostError)
    error: RopewayError = kind(
        data["what"], where=data["where"], evidence=data["evidence"], hint=data["hint"]
    )
    return error

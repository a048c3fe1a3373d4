"""A rehearsal that was kept, seen from another process: its hosts answer through a socket.

One connection is one command, as with SSH, and whoever closes it ends the command. Both sides write
lines of JSON: a command, then the lines that it prints as far as somebody wants them at once, then
its result or an error. Without a command the answer is what the rehearsal is; `end` ends it.
keeper.py is the other side.
"""

import base64
import json
import os
import secrets
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
from ropeway.sim.hosts import WithoutFiles
from ropeway.spec.cluster import Cluster
from ropeway.spec.model import Spec

_TICK_SECONDS = 0.1  # how late a cancelled command is noticed
_GONE = phrase("the rehearsal has ended")


def socket_path() -> Path:
    """Return where this user's rehearsal listens; its folder is made, for the user alone.

    Raises Refused when the folder is somebody else's.
    """
    parent = os.environ.get("XDG_RUNTIME_DIR") or "/tmp"
    folder = Path(parent) / f"ropeway-rehearsal-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise Refused(
            phrase("cannot make `{path}`: {reason}", path=folder, reason=reason_of(error))
        ) from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise Refused(
            phrase("`{path}` is not a folder of yours alone", path=folder), hint=f"rm -r {folder}"
        )
    return folder / "socket"


@dataclass(frozen=True)
class Kept:
    """The rehearsal that a user has kept.

    title  what is rehearsed, in words
    url    where it answers requests
    """

    socket: Path
    title: str
    url: str
    spec: Spec

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
        """End it, with whatever runs there."""
        with suppress(OSError, StopIteration):
            next(_exchange(self.socket, {"end": True}))


def find_kept() -> Kept | None:
    """Return the rehearsal of this user; None where none is kept. Raises Refused."""
    path = socket_path()
    try:
        about = next(_exchange(path, {}))
    except (OSError, StopIteration, ValueError):
        return None
    spec = Spec.model_validate_json(str(about["spec"]), strict=False)
    return Kept(path, str(about["title"]), str(about["url"]), spec)


@dataclass(frozen=True)
class KeptHost(WithoutFiles):
    """A virtual host of another process. `session`: the connection that this command is part of."""

    name: str
    address: str
    by_hand: str
    socket: Path
    session: str

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


def _exchange(path: Path, request: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    """Send a request, and yield what is answered. Raises OSError, and Cancelled."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(json.dumps(request).encode() + b"\n")
        connection.settimeout(_TICK_SECONDS)
        rest = b""
        while True:
            try:
                chunk = connection.recv(65536)
            except TimeoutError:
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

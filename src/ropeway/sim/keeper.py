"""The process that holds a rehearsal's virtual hosts after `ropeway up` has ended."""

import base64
import fcntl
import gc
import json
import os
import signal
import socketserver
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from ropeway.errors import Refused, RopewayError, reason_of
from ropeway.hosts.child import CancelToken, cancellable
from ropeway.phrases import phrase
from ropeway.sim.brief import Brief
from ropeway.sim.kept import ELSEWHERE, Kept, find_kept, lock_path, socket_path
from ropeway.sim.launching import LaunchHost, Rehearsal
from ropeway.sim.virtual_endpoint import VirtualEndpoint
from ropeway.spec.model import Spec

_LONGEST_SECONDS = 3600.0  # after the last command; then one that nobody took down ends by itself
_EMPTY_SECONDS = 60.0  # the same without containers: a command of a start or of a verb may come
_TICK_SECONDS = 0.25
_CLAIM_SECONDS = 2.0  # that another start, or the end of the one before, may take


@dataclass(frozen=True)
class About:
    """What the rehearsal is; see Kept."""

    fleet: Brief
    url: str
    spec: str


def keep(rehearsal: Rehearsal, spec: Spec) -> Kept:
    """Give the virtual hosts to a process of their own; return how to reach them.

    It ends when it is told to, or after an hour without a command. The sockets listen before it
    begins, so there is nothing to wait for. Raises Refused.
    """
    path, fleet = socket_path(make=True), rehearsal.fleet.brief
    with (
        _claimed(path) as lock,
        VirtualEndpoint(rehearsal, spec.serve.port, _name(spec)) as endpoint,
        _listening(path, rehearsal, About(fleet, endpoint.url, spec.model_dump_json())) as server,
    ):
        if os.fork() == 0:
            _become(server, endpoint, lock)
        return Kept(path, fleet, endpoint.url, spec)


def _name(spec: Spec) -> str:
    return spec.model.served_name or Path(spec.model.path or "").name


@contextmanager
def _claimed(path: Path) -> Iterator[int]:
    """Hold the lock of this user's only rehearsal; a child that has it too keeps it.

    Raises Refused when another process has it.
    """
    lock = os.open(lock_path(path), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        due = time.monotonic() + _CLAIM_SECONDS
        while not _locked(lock):
            if (other := find_kept()) is not None:
                raise Refused(
                    phrase("a rehearsal is kept already: {title}", title=other.title),
                    hint="ropeway down --rehearsal",
                )
            if time.monotonic() > due:
                raise Refused(phrase("another rehearsal is being started or ended"))
            time.sleep(_TICK_SECONDS / 10)
        yield lock
    finally:
        os.close(lock)


def _locked(lock: int) -> bool:
    with suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _listening(path: Path, rehearsal: Rehearsal, about: About) -> "_Server":
    """Return the server at a path that nobody else has. Raises Refused."""
    try:
        path.unlink(missing_ok=True)
        return _Server(path, rehearsal, about)
    except OSError as error:  # without a number it is Python's: about a hundred bytes are allowed
        long = phrase("the path is too long for a socket")
        reason = reason_of(error) if error.errno else long
        raise Refused(
            phrase("cannot listen at `{path}`: {reason}", path=path, reason=reason), hint=ELSEWHERE
        ) from None


def _become(server: "_Server", endpoint: VirtualEndpoint, lock: int) -> None:
    """Be the process that holds them, and end with it."""
    try:
        os.setsid()
        os.chdir("/")
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.ftruncate(lock, 0)
        os.write(lock, str(os.getpid()).encode())
        _let_go({server.fileno(), endpoint.fileno(), lock})
        for one in (server, endpoint):
            threading.Thread(target=one.serve_forever, daemon=True).start()
        server.wait_until_unused()
    finally:
        server.unlink()
        os._exit(0)


def _let_go(ours: set[int]) -> None:
    """Close every descriptor but ours: whoever waits for the end of a pipe must not wait for us."""
    gc.freeze()  # a file object of before must not close a number that is another's by then
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nothing, stream)
    for number in {int(one.name) for one in Path("/dev/fd").iterdir()} - ours - {0, 1, 2}:
        with suppress(OSError):  # the listing's own is closed already
            os.close(number)


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Carries out the commands that come through the socket."""

    daemon_threads = True
    request_queue_size = 4096  # a command of each host at once

    def __init__(self, path: Path, rehearsal: Rehearsal, about: About) -> None:
        self.path, self.rehearsal, self.about = path, rehearsal, about
        self._hosts: dict[tuple[str, str], LaunchHost] = {}
        self._lock = threading.Lock()
        self.running = 0
        self.over = threading.Event()
        self.last = time.monotonic()
        super().__init__(str(path), _Command)
        self._inode = path.stat().st_ino

    def unlink(self) -> None:
        """Remove the socket, unless another's has come in its place."""
        with suppress(OSError):
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()

    def host(self, name: str, session: str) -> LaunchHost:
        """Return a session's connection to a host. Raises Refused for one that is not there."""
        with self._lock:
            if (session, name) not in self._hosts:
                self._hosts[session, name] = self.rehearsal.connect(name)
            return self._hosts[session, name]

    def count(self, change: int) -> None:
        """Note that a command has begun (1) or ended (-1)."""
        with self._lock:
            self.running += change
            self.last = time.monotonic()

    def wait_until_unused(self) -> None:
        """Wait for the end of the rehearsal."""
        while not self.over.wait(_TICK_SECONDS):
            idle = 0.0 if self.running else time.monotonic() - self.last
            if idle > (_LONGEST_SECONDS if self.rehearsal.containers else _EMPTY_SECONDS):
                return


class _Command(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        """Carry out one command; whoever closes the connection ends it."""
        request = json.loads(self.rfile.readline())
        token = CancelToken()
        threading.Thread(target=self._watch, args=(token,), daemon=True).start()
        self.server.count(1)
        try:
            with suppress(OSError), cancellable(token):
                self._send(
                    self._answer(request) if "host" in request else asdict(self.server.about)
                )
                if "end" in request:
                    self.server.over.set()
        finally:
            self.server.count(-1)

    def _answer(self, request: Mapping[str, object]) -> Mapping[str, object]:
        try:
            host = self.server.host(str(request["host"]), str(request["session"]))
            argv = [str(word) for word in request["argv"]]  # type: ignore[attr-defined]
            stdin = base64.b64decode(str(request["stdin"]))
            result = host.run(argv, stdin=stdin, on_line=self._say if request["follow"] else None)
        except RopewayError as error:
            return {"error": error.as_json()}
        return {"code": result.exit_code, "stdout": result.stdout, "stderr": result.stderr}

    def _say(self, line: str) -> None:
        self._send({"line": line})

    def _send(self, answer: Mapping[str, object]) -> None:
        self.wfile.write(json.dumps(answer).encode() + b"\n")

    def _watch(self, token: CancelToken) -> None:
        with suppress(OSError, ValueError):
            self.rfile.read(1)
        token.cancel("the command was given up")

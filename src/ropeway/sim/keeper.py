"""The process that holds a rehearsal's virtual hosts after `ropeway up` has ended."""

import base64
import json
import os
import signal
import socketserver
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ropeway.errors import Refused, RopewayError
from ropeway.hosts.child import CancelToken, cancellable
from ropeway.phrases import phrase
from ropeway.sim.kept import Kept, find_kept, socket_path
from ropeway.sim.launching import LaunchHost, Rehearsal
from ropeway.sim.virtual_endpoint import VirtualEndpoint
from ropeway.spec.model import Spec

_LONGEST_SECONDS = 3600.0  # after the last command; then one that nobody took down ends by itself
# Before one without containers ends: the start's first command, or a verb's next one, may come.
_BEFORE_SECONDS, _AFTER_SECONDS = 60.0, 2.0
_TICK_SECONDS = 0.25


@dataclass(frozen=True)
class About:
    """What the rehearsal is; see Kept."""

    title: str
    url: str
    spec: str


def keep(rehearsal: Rehearsal, spec: Spec, title: str) -> Kept:
    """Give the virtual hosts to a process of their own; return how to reach them.

    It ends when its last container is gone and no command runs, or after an hour without any. The
    sockets listen before it begins, so there is nothing to wait for. Raises Refused.
    """
    if (other := find_kept()) is not None:
        raise Refused(
            phrase("a rehearsal is kept already: {title}", title=other.title),
            hint="ropeway down --rehearsal",
        )
    path = socket_path()
    path.unlink(missing_ok=True)
    endpoint = VirtualEndpoint(rehearsal, spec.serve.port, _name(spec))
    about = About(title, endpoint.url, spec.model_dump_json())
    server = _Server(path, rehearsal, about)
    if os.fork() == 0:
        _become(server, endpoint)
    server.server_close()
    endpoint.server_close()
    return Kept(path, title, endpoint.url, spec)


def _name(spec: Spec) -> str:
    return spec.model.served_name or Path(spec.model.path or "").name


def _become(server: "_Server", endpoint: VirtualEndpoint) -> None:
    """Be the process that holds them, and end with it."""
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(nothing, stream)
        for one in (server, endpoint):
            threading.Thread(target=one.serve_forever, daemon=True).start()
        server.wait_until_unused()
    finally:
        with suppress(OSError):
            server.path.unlink()
        os._exit(0)


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Carries out the commands that come through the socket."""

    daemon_threads = True
    request_queue_size = 4096  # a command of each host at once

    def __init__(self, path: Path, rehearsal: Rehearsal, about: About) -> None:
        self.path, self.rehearsal, self.about = path, rehearsal, about
        self._hosts: dict[tuple[str, str], LaunchHost] = {}
        self._lock = threading.Lock()
        self.running = 0
        self.over = False
        self.last = time.monotonic()
        super().__init__(str(path), _Command)

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
        patience = _BEFORE_SECONDS
        while not self.over:
            time.sleep(_TICK_SECONDS)
            idle = 0.0 if self.running else time.monotonic() - self.last
            if self.rehearsal.containers:
                patience = _LONGEST_SECONDS
            elif patience > _BEFORE_SECONDS:
                patience = _AFTER_SECONDS
            self.over = self.over or idle > patience


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
                self.server.over |= "end" in request
                self._send(self._answer(request) if "host" in request else vars(self.server.about))
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

"""This machine as a host, or as several virtual hosts that differ by their loopback address."""

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ropeway.errors import HostError
from ropeway.hosts.base import Result
from ropeway.hosts.interrupts import uninterrupted


@dataclass(frozen=True)
class LocalHost:
    """Runs commands as children of this process."""

    name: str = "localhost"
    address: str = "127.0.0.1"

    def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        timeout: float = 60.0,
        on_line: Callable[[str], None] | None = None,
    ) -> Result:
        """See Host.run.

        The child gets a session of its own: Ctrl-C at the terminal is ours alone to pass on, and a
        labelled command does not lend its label to the terminal's session (processes.find).
        """
        started = time.monotonic()
        child = None
        try:
            with uninterrupted():  # cut off in here, it would leave a child that nobody knows
                child = self._begin(tuple(argv), env)
            out, err = _Reader(child.stdout, on_line), _Reader(child.stderr, on_line)
            threading.Thread(target=_feed, args=(child, stdin), daemon=True).start()
            try:
                child.wait(timeout)
            except subprocess.TimeoutExpired:
                _end_group(child)
                raise HostError(
                    f"`{argv[0]}` did not end within {timeout:g} s and was stopped",
                    where=self.name,
                    evidence=(*out.lines()[-4:], *err.lines()[-4:]),
                ) from None
        except BaseException:
            if child is not None:
                _end_group(child)
            raise
        out.join(started + timeout)
        err.join(started + timeout)
        seconds = time.monotonic() - started
        return Result(tuple(argv), child.returncode, out.text(), err.text(), seconds)

    def put(self, content: bytes, path: str, *, mode: int = 0o644) -> None:
        """See Host.put."""
        target = Path(path)
        try:
            handle, draft = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
            try:
                os.fchmod(handle, mode)
                with os.fdopen(handle, "wb") as file:
                    file.write(content)
                os.replace(draft, target)  # noqa: PTH105 - Path.replace hides that it is atomic
            except BaseException:
                Path(draft).unlink(missing_ok=True)
                raise
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise HostError(f"cannot write `{path}`: {reason}", where=self.name) from error

    def get(self, path: str) -> bytes:
        """See Host.get."""
        try:
            return Path(path).read_bytes()
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise HostError(f"cannot read `{path}`: {reason}", where=self.name) from error

    def _begin(
        self, argv: tuple[str, ...], env: Mapping[str, str] | None
    ) -> "subprocess.Popen[bytes]":
        try:
            return subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, **env} if env else None,
                start_new_session=True,
            )
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise HostError(f"cannot run `{argv[0]}`: {reason}", where=self.name) from error


class _Reader:
    """Reads a pipe to its end in a thread, so that neither pipe can fill up and block the child."""

    def __init__(self, pipe: IO[bytes] | None, on_line: Callable[[str], None] | None) -> None:
        assert pipe is not None
        self._pipe = pipe
        self._on_line = on_line
        self._chunks: list[bytes] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with self._pipe:
            for line in self._pipe:
                self._chunks.append(line)
                if self._on_line:
                    self._on_line(line.decode(errors="replace").rstrip("\n"))

    def join(self, deadline: float) -> None:
        # A detached grandchild may hold the pipe open; its output is not ours to wait for.
        self._thread.join(min(1.0, max(0.0, deadline - time.monotonic())))

    def text(self) -> str:
        return b"".join(self._chunks).decode(errors="replace")

    def lines(self) -> list[str]:
        return self.text().splitlines()


def _feed(child: "subprocess.Popen[bytes]", stdin: bytes) -> None:
    """In a thread: a child that does not read its input must not hold us past the time limit."""
    assert child.stdin is not None
    with contextlib.suppress(BrokenPipeError), child.stdin:
        child.stdin.write(stdin)


def _end_group(child: "subprocess.Popen[bytes]") -> None:
    """End a command that was cut off, whole, except what it put into a session of its own.

    The group is asked until it is empty: what the command started may outlive the command itself.
    """
    for what in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + 2.0
        try:
            os.killpg(child.pid, what)
            while time.monotonic() < deadline:
                child.poll()
                os.killpg(child.pid, 0)
                time.sleep(0.01)
        except (ProcessLookupError, PermissionError):
            break
    child.wait()

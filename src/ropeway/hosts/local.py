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
        """See Host.run. The child gets a process group of its own, which ends with this call."""
        started = time.monotonic()
        try:
            child = subprocess.Popen(
                tuple(argv),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, **env} if env else None,
                process_group=0,
            )
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise HostError(f"cannot run `{argv[0]}`: {reason}", where=self.name) from error
        out, err = _Reader(child.stdout, on_line), _Reader(child.stderr, on_line)
        try:
            with contextlib.suppress(BrokenPipeError):
                _feed(child, stdin)
            child.wait(timeout)
            out.join(started + timeout)
            err.join(started + timeout)
        except subprocess.TimeoutExpired:
            raise HostError(
                f"`{argv[0]}` did not end within {timeout:g} s and was stopped",
                where=self.name,
                evidence=(*out.lines()[-4:], *err.lines()[-4:]),
            ) from None
        finally:
            _end_group(child)
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
    assert child.stdin is not None
    with child.stdin:
        child.stdin.write(stdin)


def _end_group(child: "subprocess.Popen[bytes]") -> None:
    """Nothing of a command outlives it, except what it put into a session of its own."""
    for what in (signal.SIGTERM, signal.SIGKILL):
        if child.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, what)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(2.0)

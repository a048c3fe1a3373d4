"""A child process: its output as it comes, its input, its timeout, its end.

The thread that waits for a command also reads its pipes, in one loop. So a command on one of a
thousand hosts costs one thread and three file descriptors while it runs.
"""

import contextlib
import math
import os
import selectors
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar

from ropeway.errors import Cancelled, HostError
from ropeway.hosts.interrupts import uninterrupted
from ropeway.phrases import phrase
from ropeway.units import format_bytes

# How late we notice what no pipe reports: that we were cancelled, or that the child has ended while
# another process holds its pipes.
_TICK_SECONDS = 0.1
_LINGER_SECONDS = 1.0
_CHUNK = 65536
# Output is kept in memory: one host that prints without end must not take all of ours.
_MAX_OUTPUT = 256 * 2**20
_MAX_HEARD = 2**20  # of what somebody gets line by line: for evidence
_UNKNOWN_EXIT = 255


class CancelToken:
    """Cancels, from another thread, all commands that run under it or start later."""

    def __init__(self) -> None:
        self._reason = ""

    def cancel(self, reason: str) -> None:
        """End every command that runs under this token; each raises Cancelled with the reason."""
        self._reason = reason

    def check(self) -> None:
        """Raise Cancelled once the token has been cancelled."""
        if self._reason:
            raise Cancelled(self._reason)


_TOKEN: ContextVar[CancelToken] = ContextVar("token", default=CancelToken())  # noqa: B039


@contextlib.contextmanager
def cancellable(token: CancelToken) -> Iterator[None]:
    """Let the token cancel what this thread runs inside the block."""
    before = _TOKEN.set(token)
    try:
        yield
    finally:
        _TOKEN.reset(before)


def sleep_cancellable(seconds: float) -> None:
    """Sleep. Raises Cancelled as soon as the token of this thread is cancelled."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        _TOKEN.get().check()
        time.sleep(min(_TICK_SECONDS, left))


class Output:
    """The bytes from one pipe.

    where    the host, to name when a command prints too much
    on_line  gets each line as soon as it is complete; then only the end of all is kept
    """

    def __init__(self, where: str, on_line: Callable[[str], None] | None = None) -> None:
        self.where = where
        self._on_line = on_line
        self._chunks: deque[bytes] = deque()
        self._line: list[bytes] = []
        self._length = 0

    def feed(self, chunk: bytes) -> None:
        """Add the next bytes; `b""` means the end. Raises HostError when there are too many."""
        if self._length > _MAX_OUTPUT:
            return
        self._chunks.append(chunk)
        self._length += len(chunk)
        if self._length > _MAX_OUTPUT:
            what = phrase(
                "a command printed more than {size} and was stopped",
                size=format_bytes(_MAX_OUTPUT),
            )
            raise HostError(
                what, where=self.where, evidence=[self._chunks[0][:200].decode(errors="replace")]
            )
        if self._on_line is None:
            return
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            self._emit(end)
        while ends and self._length > _MAX_HEARD:
            self._length -= len(self._chunks.popleft())
        if chunk:
            self._line.append(rest)
        elif any(self._line):
            self._emit(b"")

    def _emit(self, end: bytes) -> None:
        line = b"".join([*self._line, end]).decode(errors="replace")
        self._line = []
        if self._on_line is None:
            return
        try:
            self._on_line(line)
        except BaseException:
            self._on_line = None  # nobody reads what comes while the command is being ended
            raise

    def content(self) -> bytes:
        """Return all bytes."""
        return b"".join(self._chunks)

    def text(self) -> str:
        """Return all of it as text, broken UTF-8 replaced."""
        return self.content().decode(errors="replace")

    def last_lines(self, count: int = 4) -> tuple[str, ...]:
        """Return the last lines, as evidence."""
        return tuple(self.text().splitlines()[-count:])


class Child:
    """A running command in a session of its own, so that Ctrl-C at the terminal reaches only us.

    consumers   get the bytes of stdout and of stderr as they come, and `b""` at the end
    stdin       is written as fast as the child reads it
    keep_input  leaves its input open until `close_input`

    Raises OSError when the program cannot be started.
    """

    def __init__(
        self,
        argv: Sequence[str],
        consumers: tuple[Callable[[bytes], None], Callable[[bytes], None]],
        *,
        stdin: bytes = b"",
        keep_input: bool = False,
    ) -> None:
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
        pipes = self._process
        assert pipes.stdin and pipes.stdout and pipes.stderr
        self._keep_input = keep_input
        self._pending = memoryview(b"")
        self._selector = selectors.PollSelector()  # other kinds take a file descriptor each
        outputs = (pipes.stdout.fileno(), pipes.stderr.fileno())
        self._consumers = dict(zip(outputs, consumers, strict=True))
        self._pipes = {pipe.fileno(): pipe for pipe in (pipes.stdin, pipes.stdout, pipes.stderr)}
        for pipe in self._consumers:
            self._selector.register(pipe, selectors.EVENT_READ)
        self._input = pipes.stdin.fileno()
        os.set_blocking(self._input, False)
        self.send(stdin)

    @property
    def exit_code(self) -> int | None:
        """Return None while it runs, and a negative number when a signal ended it.

        Popen.poll takes a lock, and a Ctrl-C between taking and releasing it leaves it locked: the
        next Popen.wait hangs for ever. So we ask the kernel ourselves, without a lock.
        """
        if self._process.returncode is None:
            try:
                pid, status = os.waitpid(self._process.pid, os.WNOHANG)
            except ChildProcessError:  # reaped, but interrupted before we noted it
                self._process.returncode = _UNKNOWN_EXIT
            else:
                if pid:
                    self._process.returncode = os.waitstatus_to_exitcode(status)
        return self._process.returncode

    def send(self, content: bytes) -> None:
        """Append to the input that is still to be written."""
        if self._input not in self._pipes:
            return
        self._pending = memoryview(bytes(self._pending) + content)
        if self._input not in self._selector.get_map():
            self._selector.register(self._input, selectors.EVENT_WRITE)

    def close_input(self) -> None:
        """Close the input, and drop what is still to be written."""
        self._drop(self._input)

    def wait(self, deadline: float, done: Callable[[], bool] = lambda: False) -> bool:
        """Wait until the child has ended and all its output is read, or until `done()`.

        Return False when `deadline` (of time.monotonic) comes first. Output of a grandchild that
        holds the pipes after the child's end is waited for only a second. Raises TimeLimit when
        this thread is cancelled.
        """
        linger = None
        while not done():
            _TOKEN.get().check()
            now = time.monotonic()
            if self.exit_code is not None:
                linger = linger or now + _LINGER_SECONDS
                if now >= linger or not self._consumers.keys() & self._pipes.keys():
                    break
            if now >= deadline:
                return False
            self._poll(min(_TICK_SECONDS, deadline - now))
        return True

    def end_group(self) -> None:
        """End the child's whole process group.

        Its members are signalled until none is left: what a command started may outlive it.
        Processes that moved to a session of their own stay.
        """
        for number in (signal.SIGTERM, signal.SIGKILL):
            deadline = time.monotonic() + 2.0
            try:
                os.killpg(self._process.pid, number)
                while time.monotonic() < deadline:
                    _ = self.exit_code  # reaps the child, or its group would never be empty
                    os.killpg(self._process.pid, 0)
                    self._poll(0.01)
            except (ProcessLookupError, PermissionError):
                break
        self._await_exit()

    def end(self) -> None:
        """End the child alone, and leave the other processes of its group alone."""
        for number, seconds in ((signal.SIGTERM, 2.0), (signal.SIGKILL, math.inf)):
            if self.exit_code is None:
                os.kill(self._process.pid, number)
            if self._await_exit(seconds):
                return

    def close(self) -> None:
        """Close its pipes."""
        for pipe in tuple(self._pipes):
            self._drop(pipe)
        self._selector.close()

    def _await_exit(self, seconds: float = math.inf) -> bool:
        """Wait for the child's end, at most `seconds`; return whether it has ended."""
        deadline = time.monotonic() + seconds
        pause = 0.0005
        while self.exit_code is None:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            pause = min(2 * pause, left, 0.05)
            time.sleep(pause)
        return True

    def _poll(self, seconds: float) -> None:
        """Read and write what is ready, and wait for that at most `seconds`."""
        if not self._selector.get_map():
            if self.exit_code is not None:  # only other processes of its group still run
                time.sleep(seconds)
            else:
                self._await_exit(seconds)
            return
        for key, _ in self._selector.select(seconds):
            if key.fd == self._input:
                self._write()
            else:
                self._read(key.fd)

    def _read(self, pipe: int) -> None:
        chunk = os.read(pipe, _CHUNK)
        if not chunk:
            self._drop(pipe)
        self._consumers[pipe](chunk)

    def _write(self) -> None:
        try:
            self._pending = self._pending[os.write(self._input, self._pending[:_CHUNK]) :]
        except BrokenPipeError:
            self._drop(self._input)
            return
        if not self._pending:
            self._selector.unregister(self._input)
            if not self._keep_input:
                self._drop(self._input)

    def _drop(self, pipe: int) -> None:
        file = self._pipes.pop(pipe, None)
        if file is None:
            return
        if pipe in self._selector.get_map():
            self._selector.unregister(pipe)
        file.close()


@contextlib.contextmanager
def running(
    start: Callable[[], Child], stop: Callable[[Child], None] = Child.end_group
) -> Iterator[Child]:
    """Yield a child that is never left behind: whatever interrupts the block, `stop` is called.

    Raises Cancelled instead of starting it when this thread is cancelled.
    """
    _TOKEN.get().check()
    child = None
    try:
        with uninterrupted():  # an interrupt in here would leave a child that nobody knows
            child = start()
        yield child
    except BaseException:
        if child is not None:
            with uninterrupted(), cancellable(CancelToken()):
                stop(child)
        raise
    finally:
        if child is not None:
            child.close()

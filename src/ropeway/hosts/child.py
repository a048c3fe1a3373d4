"""A child process of ours: its output as it comes, its input, its time limit, its end.

Who asks reads: one loop over the three pipes, in the thread that waits for the answer. So a command
on one of a thousand hosts costs one thread and three file descriptors while it runs.
"""

import contextlib
import math
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar

from ropeway.errors import HostError, TimeLimit
from ropeway.hosts.interrupts import uninterrupted
from ropeway.units import format_bytes

# How late we notice what no pipe tells: that we are to stop, or that the child has ended while
# somebody else holds its pipes.
_TICK_SECONDS = 0.1
_LINGER_SECONDS = 1.0
_CHUNK = 65536
# What is kept is kept in memory: one host that prints without end must not take all of ours.
_MOST_OUTPUT = 256 * 2**20
_UNKNOWN_EXIT = 255


class CancelToken:
    """Cancels, from another thread, whatever runs `cancellable` by it, and what starts later."""

    def __init__(self) -> None:
        self._reason = ""

    def cancel(self, reason: str) -> None:
        """End every command that runs under this token; each raises TimeLimit with the reason."""
        self._reason = reason

    def check(self) -> None:
        """Raises TimeLimit once the token was cancelled."""
        if self._reason:
            raise TimeLimit(self._reason)


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
    """Sleep. Raises TimeLimit as soon as the token of this thread is cancelled."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        _TOKEN.get().check()
        time.sleep(min(_TICK_SECONDS, left))


class Output:
    """What came out of one pipe; `on_line` hears each line as soon as it is whole.

    where  names the host when a command prints too much
    """

    def __init__(self, where: str, on_line: Callable[[str], None] | None = None) -> None:
        self.where = where
        self._on_line = on_line
        self._chunks: list[bytes] = []
        self._line: list[bytes] = []
        self._length = 0

    def hear(self, chunk: bytes) -> None:
        """The next bytes; none at the end. Raises HostError when it has become too much."""
        if self._length > _MOST_OUTPUT:
            return
        self._chunks.append(chunk)
        self._length += len(chunk)
        if self._length > _MOST_OUTPUT:
            what = f"a command printed more than {format_bytes(_MOST_OUTPUT)} and was stopped"
            raise HostError(
                what, where=self.where, evidence=[self._chunks[0][:200].decode(errors="replace")]
            )
        if self._on_line is None:
            return
        *lines, begun = chunk.split(b"\n")
        for line in lines:
            self._tell(line)
        if chunk:
            self._line.append(begun)
        elif any(self._line):
            self._tell(b"")

    def _tell(self, end: bytes) -> None:
        line = b"".join([*self._line, end]).decode(errors="replace")
        self._line = []
        if self._on_line is None:
            return
        try:
            self._on_line(line)
        except BaseException:
            self._on_line = None  # what comes while the command is being ended is for nobody
            raise

    def content(self) -> bytes:
        """All of it, as it came."""
        return b"".join(self._chunks)

    def text(self) -> str:
        """All of it, broken UTF-8 replaced."""
        return self.content().decode(errors="replace")

    def last_lines(self, count: int = 4) -> tuple[str, ...]:
        """The end of it, as evidence."""
        return tuple(self.text().splitlines()[-count:])


class Child:
    """A running command in a session of its own: Ctrl-C at the terminal is ours alone to pass on.

    stdin is written as the child takes it. With `hold`, its input stays open until `close_input`.
    Raises OSError when the program cannot be started.
    """

    def __init__(
        self,
        argv: Sequence[str],
        hear: tuple[Callable[[bytes], None], Callable[[bytes], None]],
        *,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        hold: bool = False,
    ) -> None:
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=env,
            start_new_session=True,
        )
        pipes = self._process
        assert pipes.stdin and pipes.stdout and pipes.stderr
        self._hold = hold
        self._pending = memoryview(b"")
        self._selector = selectors.PollSelector()  # the others take a file descriptor of their own
        self._hear = dict(zip((pipes.stdout.fileno(), pipes.stderr.fileno()), hear, strict=True))
        self._pipes = {pipe.fileno(): pipe for pipe in (pipes.stdin, pipes.stdout, pipes.stderr)}
        for pipe in self._hear:
            self._selector.register(pipe, selectors.EVENT_READ)
        self._input = pipes.stdin.fileno()
        os.set_blocking(self._input, False)
        self.send(stdin)

    @property
    def exit_code(self) -> int | None:
        """None while it runs; below zero when a signal ended it.

        Popen asks under a lock, and a Ctrl-C between taking and releasing it leaves it locked: the
        next Popen.wait hangs for ever. Without a lock nothing can be left behind.
        """
        if self._process.returncode is None:
            try:
                pid, status = os.waitpid(self._process.pid, os.WNOHANG)
            except ChildProcessError:  # asked before, and interrupted before it was written down
                self._process.returncode = _UNKNOWN_EXIT
            else:
                if pid:
                    self._process.returncode = os.waitstatus_to_exitcode(status)
        return self._process.returncode

    def send(self, content: bytes) -> None:
        """More input, after what is still to be written."""
        if self._input not in self._pipes:
            return
        self._pending = memoryview(bytes(self._pending) + content)
        if self._input not in self._selector.get_map():
            self._selector.register(self._input, selectors.EVENT_WRITE)

    def close_input(self) -> None:
        """End of input, whatever is still to be written."""
        self._drop(self._input)

    def wait(self, deadline: float, done: Callable[[], bool] = lambda: False) -> bool:
        """Until it has ended and all that it said is heard, or `done`; False when time is up first.

        A grandchild may hold the pipes after the child's end; its output is not ours to wait for.
        Raises TimeLimit when a Stop that we are under has come.
        """
        linger = None
        while not done():
            _TOKEN.get().check()
            now = time.monotonic()
            if self.exit_code is not None:
                linger = linger or now + _LINGER_SECONDS
                if now >= linger or not self._hear.keys() & self._pipes.keys():
                    break
            if now >= deadline:
                return False
            self._turn(min(_TICK_SECONDS, deadline - now))
        return True

    def end_group(self) -> None:
        """End it whole, except what it put into a session of its own.

        The group is asked until it is empty: what the command started may outlive the command.
        """
        for what in (signal.SIGTERM, signal.SIGKILL):
            deadline = time.monotonic() + 2.0
            try:
                os.killpg(self._process.pid, what)
                while time.monotonic() < deadline:
                    _ = self.exit_code  # reaps it, or its group would never be empty
                    os.killpg(self._process.pid, 0)
                    self._turn(0.01)
            except (ProcessLookupError, PermissionError):
                break
        self._await_exit()

    def end(self) -> None:
        """End the child alone, and leave to themselves those that it left in its group."""
        for what, seconds in ((signal.SIGTERM, 2.0), (signal.SIGKILL, math.inf)):
            if self.exit_code is None:
                os.kill(self._process.pid, what)
            if self._await_exit(seconds):
                return

    def close(self) -> None:
        """Let go of its pipes."""
        for pipe in tuple(self._pipes):
            self._drop(pipe)
        self._selector.close()

    def _await_exit(self, seconds: float = math.inf) -> bool:
        """Whether the child has ended, after waiting for that at most so long."""
        deadline = time.monotonic() + seconds
        pause = 0.0005
        while self.exit_code is None:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            pause = min(2 * pause, left, 0.05)
            time.sleep(pause)
        return True

    def _turn(self, seconds: float) -> None:
        """Read and write what can be, waiting for it at most so long."""
        if not self._selector.get_map():
            if self.exit_code is not None:  # others of its group are still there
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
        self._hear[pipe](chunk)

    def _write(self) -> None:
        try:
            self._pending = self._pending[os.write(self._input, self._pending[:_CHUNK]) :]
        except BrokenPipeError:
            self._drop(self._input)
            return
        if not self._pending:
            self._selector.unregister(self._input)
            if not self._hold:
                self._drop(self._input)

    def _drop(self, pipe: int) -> None:
        found = self._pipes.pop(pipe, None)
        if found is None:
            return
        if pipe in self._selector.get_map():
            self._selector.unregister(pipe)
        found.close()


@contextlib.contextmanager
def running(
    begin: Callable[[], Child], let_go: Callable[[Child], None] = Child.end_group
) -> Iterator[Child]:
    """A child that is never left behind: whatever interrupts us, `let_go` is called for it.

    Raises TimeLimit instead of beginning when a Stop that we are under has come.
    """
    _TOKEN.get().check()
    child = None
    try:
        with uninterrupted():  # cut off in here, it would leave a child that nobody knows
            child = begin()
        yield child
    except BaseException:
        if child is not None:
            with uninterrupted(), cancellable(CancelToken()):
                let_go(child)
        raise
    finally:
        if child is not None:
            child.close()

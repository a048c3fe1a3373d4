"""The clients' connections: how many there may be, and which are closed for want of a request.

A connection takes one of the process's open files, and a running request a second one, to its
replica. Whoever sends nothing, or sends slowly, gives way to those who are served.
"""

import resource
import time
from collections.abc import Callable
from typing import Protocol

from ropeway.router.config import Limits
from ropeway.router.replicas import Clock

# Left free twice: for files that are not counted, and for connections that get nothing but a
# refusal in words, which need one file and no replica.
_SPARE_FILES = 32
_GRACE_S = 0.2
_SPARE_SHARE = 16


class Connection(Protocol):
    """A connection as the server has it."""

    def force_close(self) -> None: ...


def raise_limit() -> int:
    """Raise this process's limit of open files as far as it may; return it.

    The usual soft limit of 1,024 is there for programs that use select(), which we do not.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        return soft
    return hard


class Connections:
    """All connections of clients: those that wait, for whatever we are sent, and those we serve.

    others  returns how many connections to replicas there are
    files   this process's limit of open files
    """

    def __init__(
        self,
        limits: Limits,
        others: Callable[[], int],
        files: int = 2**20,
        clock: Clock = time.monotonic,
    ) -> None:
        self._limits = limits
        self._others = others
        self._clock = clock
        self._spare = max(_SPARE_FILES, files // _SPARE_SHARE)
        self._files = files
        self._room = files - 2 * self._spare
        # Connection → since when it waits, and until when it may; the longest comes first.
        self._waiting: dict[Connection, tuple[float, float]] = {}
        self._served: set[Connection] = set()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._served)

    def opened(self, connection: Connection) -> None:
        self._waiting[connection] = (self._clock(), self._clock() + self._limits.head_s)
        self._make_room(-self._spare)

    def closed(self, connection: Connection) -> None:
        self._waiting.pop(connection, None)
        self._served.discard(connection)

    def sending(self, connection: Connection) -> None:
        """Note that a request has begun. Its handler limits its time; we only count it."""
        self._wait(connection, float("inf"))

    def served(self, connection: Connection) -> bool:
        """Note that a whole request has come; return whether there is a file to serve it with."""
        if self._waiting.pop(connection, None) is not None:
            self._served.add(connection)
        self._make_room(1)
        return len(self) + self._others() < self._room

    def idle(self, connection: Connection) -> None:
        """Note that a request was answered; the connection is kept for the next one."""
        self._wait(connection, self._limits.idle_s)

    def close_overdue(self) -> None:
        """Close those that have waited for too long, and the oldest while there are too many."""
        now = self._clock()
        for connection in [each for each, (_, until) in self._waiting.items() if until < now]:
            self._close(connection)
        self._make_room(-self._spare)

    def _wait(self, connection: Connection, seconds: float) -> None:
        if connection in self._waiting or connection in self._served:
            self.closed(connection)
            self._waiting[connection] = (self._clock(), self._clock() + seconds)

    def _make_room(self, more: int) -> None:
        """Close the connections that have waited longest until `more` files are free, if it may.

        Those that have only just come stay: their requests are on their way. A new connection may
        take spare files, so it asks for less than none: whether it is served or refused, and so
        whether it needs a second file, shows only with its request.
        """
        while self._crowded(more):
            oldest, (since, _) = next(iter(self._waiting.items()), (None, (0.0, 0.0)))
            if oldest is None or self._clock() - since < _GRACE_S:
                return
            self._close(oldest)

    def _crowded(self, more: int) -> bool:
        used = len(self) + self._others() + more
        # A quarter of the files for those who only wait: so many others may come at once.
        many = len(self) > self._limits.connections or len(self._waiting) > self._files // 4
        return many or used > self._room

    def _close(self, connection: Connection) -> None:
        self.closed(connection)
        connection.force_close()

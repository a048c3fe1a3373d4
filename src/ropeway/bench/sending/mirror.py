"""An endpoint on this machine that says in its answers when it did what.

What we measure of it can be held against the truth. Times are nanoseconds of the monotonic clock,
which all processes of a machine share.
"""

import heapq
import select
import socket
import time
from contextlib import suppress
from multiprocessing.connection import Connection as Pipe

from ropeway.bench.sending.connection import read_stamped, stamp_arrivals

FIRST_NS, NEXT_NS, PIECES = 10_000_000, 20_000_000, 16
"""When the first piece of an answer is sent, when each other one, and how many there are."""

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"%b"},"finish_reason":%b}]}\n\n'
_DONE = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


def mirror(pipe: Pipe) -> None:
    """Serve on loopback until the pipe, over which the port is told, is closed."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
        pipe.send(listener.getsockname()[1])
        _Mirror(listener).serve(pipe)


class _Mirror:
    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._poll = select.epoll()
        self._connections: dict[int, socket.socket] = {}
        self._held: dict[int, bytes] = {}
        self._due: list[tuple[int, int, int, int]] = []  # moment, connection, arrived, pieces left

    def serve(self, pipe: Pipe) -> None:
        """Answer every request until the pipe is closed."""
        for number in (self._listener.fileno(), pipe.fileno()):
            self._poll.register(number, select.EPOLLIN)
        while True:
            wait = (self._due[0][0] - time.monotonic_ns()) / 1e9 if self._due else 1.0
            # epoll takes whole milliseconds only, so `select` waits for epoll.
            select.select((self._poll,), (), (), max(0.0, wait))
            for number, _ in self._poll.poll(0):
                if number == pipe.fileno():
                    return
                if number == self._listener.fileno():
                    self._accept()
                else:
                    self._read(number)
            while self._due and self._due[0][0] <= time.monotonic_ns():
                self._send(*heapq.heappop(self._due))

    def _accept(self) -> None:
        taken, _ = self._listener.accept()
        taken.setblocking(False)
        taken.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stamp_arrivals(taken)
        self._connections[taken.fileno()], self._held[taken.fileno()] = taken, b""
        self._poll.register(taken.fileno(), select.EPOLLIN)

    def _read(self, number: int) -> None:
        try:
            stamp, data = read_stamped(self._connections[number])
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(number)
            return
        head, found, body = (self._held[number] + data).partition(b"\r\n\r\n")
        length = head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0]
        if not found or len(body) < int(length):
            self._held[number] += data
            return
        self._held[number] = b""
        now = time.monotonic_ns()
        arrived = stamp + now - time.time_ns() if stamp else now
        heapq.heappush(self._due, (now + FIRST_NS, number, arrived, PIECES))

    def _send(self, due: int, number: int, arrived: int, left: int) -> None:
        """Send a piece, which holds when it was sent; the first one also when the request came."""
        connection = self._connections.get(number)
        if connection is None:
            return
        first, last = left == PIECES, left == 1
        came = b"%d " % arrived if first else b""
        text = b"%b%d " % (came, time.monotonic_ns())
        event = _EVENT % (text, b'"length"' if last else b"null")
        head, end = _HEAD if first else b"", _DONE if last else b""
        with suppress(OSError):  # it is gone, which is read too
            connection.send(b"%b%x\r\n%b\r\n%b" % (head, len(event), event, end))
        if not last:
            heapq.heappush(self._due, (due + NEXT_NS, number, arrived, left - 1))

    def _drop(self, number: int) -> None:
        self._poll.unregister(number)
        self._connections.pop(number).close()
        del self._held[number]

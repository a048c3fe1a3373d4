"""Servers on a socket, and talks that a sender has with them."""

import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from ropeway.bench.sending.answers import AnswerReader
from ropeway.bench.sending.flight import Flight
from ropeway.bench.sending.lateness import Lateness
from ropeway.bench.sending.sender import Ended, Sender
from ropeway.bench.sending.worker import way_to
from ropeway.endpoint.address import Endpoint
from ropeway.endpoint.stream import Timing

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
SECOND = 1_000_000_000


def event(text: str, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    data = b"data: %b\n\n" % json.dumps({"choices": [choice]}).encode()
    return b"%x\r\n%b\r\n" % (len(data), data)


def answer(text: str) -> bytes:
    done = b"data: [DONE]\n\n"
    end = b"%x\r\n%b\r\n0\r\n\r\n" % (len(done), done)
    return HEAD + event(text) + event("", "stop") + end


@contextlib.contextmanager
def listening(
    serve: Callable[[socket.socket, int], None], tls: ssl.SSLContext | None = None, port: int = 0
) -> Iterator[str]:
    """Give each connection and its number to `serve`, in a thread of its own."""
    with socket.create_server(("127.0.0.1", port), backlog=64) as server:

        def accept() -> None:
            for number in range(10_000):
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=one, args=(connection, number), daemon=True).start()

        def one(connection: socket.socket, number: int) -> None:
            with (
                contextlib.suppress(OSError),
                contextlib.closing(connection),
                tls.wrap_socket(connection, server_side=True) if tls else connection as ready,
            ):
                serve(ready, number)

        threading.Thread(target=accept, daemon=True).start()
        scheme = "https" if tls else "http"
        yield f"{scheme}://localhost:{server.getsockname()[1]}/v1"
        server.shutdown(socket.SHUT_RDWR)


def request(connection: socket.socket) -> bytes:
    """Return the body of the next request; raise OSError at the end of the connection."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += received(connection)
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.rpartition(b"Content-Length: ")[2])
    while len(body) < length:
        body += received(connection)
    return body


def received(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise OSError("closed")
    return data


def echoing(connection: socket.socket, _: int) -> None:
    while True:
        connection.sendall(answer(request(connection).decode()))


@dataclass
class Talk:
    """Questions that name each other: the next one is what was answered, and a letter more."""

    first: str
    turns: int = 1
    due: float | None = None

    @property
    def more(self) -> bool:
        return self.turns > 0

    def question(self, answer: str) -> bytes:
        self.turns -= 1
        return (answer + "+" if answer else self.first).encode()


@dataclass
class Run:
    """What became of the talks; `start`: when they began, seconds of the monotonic clock."""

    ended: Ended
    start: float
    timings: list[Timing] = field(default_factory=list)
    repeated: int = 0
    first_early: list[float] = field(default_factory=list)
    sent_late: Lateness = field(default_factory=Lateness)

    @property
    def texts(self) -> list[str]:
        return [timing.text for timing in self.timings]

    @property
    def errors(self) -> list[str]:
        return [f"{one.error.kind}: {one.error.message}" for one in self.timings if one.error]


def send(
    url: str,
    talks: list[Talk],
    clients: int = 1,
    *,
    silence: float = 10,
    limit: float | None = None,
    warm_up: Sequence[Talk] = (),
    connected: bool = True,
    on_look: Callable[[], None] = lambda: None,
) -> Run:
    """Have talks with what listens at a URL, over connections that are open before or not."""
    endpoint = Endpoint(url, timeout_s=silence)
    start = time.monotonic_ns()
    run = Run("complete", start / SECOND)

    def read(flight: Flight) -> str:
        flight.reader = flight.reader or AnswerReader(flight, endpoint, start)
        text: str = flight.reader.read()
        if flight.ended:
            run.timings.append(flight.reader.timing())
            run.first_early.append(flight.reader.first_early / SECOND)
        return text

    with contextlib.closing(Sender(way_to(endpoint), clients, on_look)) as sends:
        if connected:
            sends.connect(clients)
        if warm_up:
            sends.run(iter(warm_up), lambda _: "", start, lambda: False)
        run.ended = sends.run(iter(talks), read, start, lambda: False, limit)
    run.repeated, run.sent_late = sends.repeated, sends.sent_late
    return run

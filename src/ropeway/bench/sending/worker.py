"""The process that sends: it does nothing else, so that nothing of ours makes it late.

Whoever started it gets messages over a pipe: `Look` four times a second, `Rows` to be kept, and at
the end `Share`, which says how much of what was measured is this process itself.
"""

import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import SplitResult, quote, urlsplit

import msgspec

from ropeway.bench.sending.answers import AnswerReader
from ropeway.bench.sending.connection import Address, no_way
from ropeway.bench.sending.flight import Flight, Talk
from ropeway.bench.sending.lateness import Lateness
from ropeway.bench.sending.sender import Ended, Sender, Way
from ropeway.endpoint.address import Endpoint
from ropeway.endpoint.failures import RequestFailed
from ropeway.endpoint.stream import Timing
from ropeway.errors import RopewayError, reason_of
from ropeway.phrases import phrase

_ROWS_BYTES = 2**16
# For an address that does not answer, while there is another.
_TRY_S = 2.0
# What a path may have as it is (RFC 3986); `%` stands before what is quoted already.
_IN_PATHS = "/%:@!$&'()*+,;=~"
_ENCODER = msgspec.json.Encoder()


class Workload(Protocol):
    """What is sent; `talks` of the `index`-th of `count` processes. It is pickled."""

    def talks(self, index: int, count: int) -> Iterator[Talk]: ...


@dataclass(frozen=True)
class Task:
    """What is to be sent, and how.

    clients  requests in flight at most
    warm_up  what is sent before, and forgotten, as many at once as there are clients
    limit_s  ends the run so long after its start
    duration_s
             no request begins so long after it, and those in flight come to their end
    """

    endpoint: Endpoint
    workload: Workload
    warm_up: Workload
    clients: int
    limit_s: float | None = None
    duration_s: float | None = None
    index: int = 0
    count: int = 1


@dataclass(frozen=True)
class Start:
    """Tells a process that is warm when to start: a moment of the monotonic clock, nanoseconds."""

    at: int


@dataclass(frozen=True)
class Warm:
    """A process has warmed up, and waits for its start."""


@dataclass(frozen=True)
class Look:
    """How far a process is."""

    done: int
    errors: int
    in_flight: int
    tokens: int


@dataclass(frozen=True)
class Rows:
    """Timings as lines of JSON, to be kept."""

    lines: bytes


@dataclass(frozen=True)
class Share:
    """How a process ended, and what of its figures is its own.

    cpu        CPU seconds that it used, of `seconds`
    waited     seconds for which it was ready to run, and others had the processors
    read_late  how long pieces had arrived before it read them
    sent_late  how long requests waited for it that were due, with a client free
    repeated   requests that were sent again, since the server had closed their connection
    first_early  how much earlier than is told first tokens may have come
    failure    why it could not begin, or not go on
    """

    ended: Ended
    cpu: float
    waited: float
    seconds: float
    read_late: Lateness
    sent_late: Lateness
    failure: RopewayError | None = None
    repeated: int = 0
    first_early: Lateness = field(default_factory=Lateness)


NOTHING = Share("interrupted", 0.0, 0.0, 0.0, Lateness(), Lateness())
"""Of a process that has sent nothing, or can no longer say what."""


class Halt:
    """Tells a process to end early."""


def work(task: Task, pipe: Pipe) -> None:
    """Do a task, and say so over the pipe. Ends by itself when nobody holds its other end.

    Whoever starts it decides what Ctrl-C means: `start_deaf`.
    """
    try:
        pipe.send(_Work(task, pipe).run())
    except (ConnectionError, EOFError):
        return


class _Work:
    def __init__(self, task: Task, pipe: Pipe) -> None:
        self._task, self._pipe = task, pipe
        self._done = self._errors = self._tokens = 0
        self._rows = bytearray()
        self._zero = 0
        self._failure: RequestFailed | None = None
        self._first_early = Lateness()

    def run(self) -> Share:
        """Warm up, wait for the start, send; what cannot begin or go on is a share with a failure.

        Raises ConnectionError or EOFError when nobody holds the other end of the pipe.
        """
        task = self._task
        try:
            try:
                way = way_to(task.endpoint)
            except OSError as error:
                raise no_way(task.endpoint, error) from error
            with closing(Sender(way, task.clients, self._look)) as sender:
                return self._send(sender)
        except RopewayError as error:
            failure = error
        except ConnectionError:
            raise
        except OSError as error:
            what = phrase("the process that sends cannot go on: {why}", why=reason_of(error))
            failure = RopewayError(what, where=error.filename and str(error.filename))
        self._look()
        return replace(NOTHING, failure=failure)

    def _send(self, sender: Sender) -> Share:
        """Raises RequestFailed when nothing of the warm-up is answered, or nobody is there."""
        task, self._sender = self._task, sender
        sender.connect(task.clients)
        if not self._warm_up(sender):
            return NOTHING
        self._done = self._errors = self._tokens = 0
        self._pipe.send(Warm())
        start = self._pipe.recv()
        if not isinstance(start, Start):
            return NOTHING
        self._zero = start.at
        cpu, waited = time.process_time(), _waited()
        talks = task.workload.talks(task.index, task.count)
        ended = sender.run(
            talks, self._read, start.at, self._pipe.poll, task.limit_s, duration_s=task.duration_s
        )
        cpu, waited = time.process_time() - cpu, _waited() - waited
        seconds = (time.monotonic_ns() - start.at) / 1e9
        self._look()
        return Share(
            ended,
            cpu,
            waited,
            seconds,
            sender.read_late,
            sender.sent_late,
            repeated=sender.repeated,
            first_early=self._first_early,
        )

    def _warm_up(self, sender: Sender) -> bool:
        """Return whether it came to its end."""
        talks = self._task.warm_up.talks(self._task.index, self._task.count)
        ended = sender.run(talks, self._forget, time.monotonic_ns(), self._pipe.poll)
        if self._failure and (self._errors == self._done or ended == "server away"):
            raise self._failure
        sender.read_late, sender.sent_late, sender.repeated = Lateness(), Lateness(), 0
        return ended == "complete"

    def _forget(self, flight: Flight) -> str:
        reader = self._reader(flight)
        text = reader.read()
        if flight.ended:
            self._done += 1
            if error := reader.failure:
                self._errors += 1
                self._failure = self._failure or error
        return text

    def _read(self, flight: Flight) -> str:
        reader = self._reader(flight)
        before = reader.tokens
        text = reader.read()
        self._tokens += reader.tokens - before
        if flight.ended:
            timing = reader.timing()
            if timing.first_token is not None:
                self._first_early.add(reader.first_early)
            self._done += 1
            self._errors += timing.error is not None
            self._rows += row_of(timing)
            flight.reader = None
            if len(self._rows) > _ROWS_BYTES:
                self._give()
        return text

    def _reader(self, flight: Flight) -> AnswerReader:
        if flight.reader is None:
            flight.reader = AnswerReader(flight, self._task.endpoint, self._zero)
        reader: AnswerReader = flight.reader
        return reader

    def _give(self) -> None:
        self._pipe.send(Rows(bytes(self._rows)))
        self._rows.clear()

    def _look(self) -> None:
        if not self._zero:
            return
        if self._rows:
            self._give()
        self._pipe.send(Look(self._done, self._errors, self._sender.in_flight, self._tokens))


def _waited() -> float:
    """Return the seconds for which this thread has waited for a processor (proc(5) schedstat)."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):  # the kernel does not count them
        return 0.0


def row_of(timing: Timing) -> bytes:
    """Return a line of the record; times in seconds, to the microsecond."""
    return _ENCODER.encode(
        {
            "due": _at(timing.due),
            "sent": _at(timing.sent),
            "first_token": _at(timing.first_token),
            "chunks": [(round(at, 6), tokens) for at, tokens in timing.chunks],
            "last": _at(timing.last),
            "ended": _at(timing.ended),
            "late_s": round(timing.late_s, 6),
            "input_tokens": timing.input_tokens,
            "cached_tokens": timing.cached_tokens,
            "output_tokens": timing.output_tokens,
            "counted": timing.counted,
            "finish_reason": timing.finish_reason,
            "text": timing.text,
            "reasoning": timing.reasoning,
            "error": timing.error,
        }
    ) + b"\n"  # fmt: skip


def way_to(endpoint: Endpoint) -> Way:
    """Return how requests reach an endpoint: at the first of its addresses where somebody listens.

    Raises OSError when its name is unknown.
    """
    url = urlsplit(endpoint.url)
    secure = url.scheme == "https"
    host, port = url.hostname or "", url.port or (443 if secure else 80)
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    family, to = _reached([(family, to) for family, _, _, _, to in found])
    tls = ssl.create_default_context() if secure else None
    lines = [
        f"POST {quote(url.path, safe=_IN_PATHS)}/chat/completions HTTP/1.1",
        f"Host: {_host_of(url)}",
        "Accept: text/event-stream",
        "Accept-Encoding: identity",
        "Content-Type: application/json",
        *([f"Authorization: Bearer {endpoint.key}"] if endpoint.key else []),
        "Content-Length: ",
    ]
    head = "\r\n".join(lines).encode("latin-1")
    return Way(endpoint, Address(family, to, tls, host), head)


def _host_of(url: SplitResult) -> str:
    """Return what a request's head says of the host, which is to be ASCII."""
    if url.netloc.isascii():
        return url.netloc
    name = (url.hostname or "").encode("idna").decode("ascii")
    return f"{name}:{url.port}" if url.port else name


def _reached(addresses: Sequence[tuple[int, tuple[Any, ...]]]) -> tuple[int, tuple[Any, ...]]:
    """Return the first address that takes a connection; the last one is not tried."""
    for family, to in addresses[:-1]:
        try:
            with socket.socket(family, socket.SOCK_STREAM) as tried:
                tried.settimeout(_TRY_S)
                tried.connect(to)
        except OSError:
            continue
        return family, to
    return addresses[-1]


def _at(moment: float | None) -> float | None:
    return None if moment is None else round(moment, 6)

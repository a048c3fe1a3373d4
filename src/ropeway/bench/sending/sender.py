"""Sends requests when they are due, over as many connections as are needed, from one thread.

An event loop costs more for each piece of an answer than everything else, and stamps pieces when
it comes to them. So this waits for sockets itself (epoll), keeps what came with the kernel's time
of its arrival, and reads it when there is nothing else to do.
"""

import errno
import select
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from ropeway.bench.sending.connection import Address, Connection, no_way
from ropeway.bench.sending.flight import Flight, Talk
from ropeway.bench.sending.framing import Malformed
from ropeway.bench.sending.lateness import Lateness
from ropeway.endpoint.address import Endpoint
from ropeway.endpoint.failures import (
    RequestFailed,
    ServerAway,
    no_connection_within,
    not_openai,
)
from ropeway.endpoint.request import CONNECT_S, KEEPALIVE_S

Ended = Literal["complete", "interrupted", "time limit", "server away"]

# Talks that are made ahead, so that none has to be made when it is due.
_AHEAD = 256
_LOOK_NS = 250_000_000
# What may wait to be read, before it is read in the middle of other work: flights that have ended,
# and pieces of all flights, of which each takes about 400 bytes.
_MOST_UNREAD, _MOST_PIECES = 2048, 100_000
# A piece that the kernel seems to have had for longer came while the clock was set.
_MOST_LATE_NS = 10_000_000_000
# A connection that the server closes sooner after a request than this was closed while it was idle,
# and both were on their way; a request that has been with the server for longer is lost.
_CROSSED_NS = 1_000_000_000
_SECOND = 1_000_000_000
# A client that found no server rests for so long, or a restart would be met by a storm.
_REST_NS = 500_000_000
# After so long with nothing but that, nobody is there to be measured.
_AWAY_NS = 5_000_000_000
# Sockets that one poll tells of at most; after as many, there may be more.
_MOST_EVENTS = 256
# A poll that takes longer has waited: nothing had come before.
_WAITED_NS = 200_000
_NEVER = 2**63
_IN, _OUT = select.EPOLLIN | select.EPOLLRDHUP, select.EPOLLOUT


@dataclass(frozen=True)
class Way:
    """How requests reach an endpoint: its addresses, and the head of each request but for the
    length of its body."""

    endpoint: Endpoint
    address: Address
    head: bytes


class Sender:
    """Has talks with a server, `clients` at once.

    on_look    called four times a second
    read_late  how long pieces lay in the kernel before we read them
    sent_late  how long requests waited for us after they were due and a client was free
    in_flight, sent  requests in flight, and requests that this run has sent
    repeated   requests that were sent again, since the server closed their connection
    """

    def __init__(
        self,
        way: Way,
        clients: int,
        on_look: Callable[[], None],
    ) -> None:
        self.way, self.clients = way, clients
        self.read_late, self.sent_late = Lateness(), Lateness()
        self.in_flight = self.sent = self.repeated = 0
        self._on_look = on_look
        self._poll = select.epoll()
        self._connections: dict[int, Connection] = {}
        self._idle: list[Connection] = []
        self._unread: deque[Flight] = deque()
        self._pieces = 0
        self._ahead: deque[Talk] = deque()
        self._looked = 0
        # What is read has come since `_since`, the poll before that told of all (`_polled`: the
        # last one); what came after `_asked` came while we waited for it, and was read at once.
        self._polled, self._since, self._asked = 0, 0, _NEVER
        self._closes: int | None = None
        self._free_since: deque[int] = deque()
        self._resting: deque[int] = deque()
        self._away = 0  # since when no server was found; 0: it was found last

    def connect(self, count: int) -> None:
        """Open connections, and wait until they are open. Raises RequestFailed."""
        for _ in range(count):
            try:
                self._open(None)
            except OSError as error:
                raise no_way(self.way.endpoint, error) from error
        end = time.monotonic() + CONNECT_S
        while not all(one.ready for one in self._connections.values()):
            if time.monotonic() > end:
                raise no_connection_within(self.way.endpoint, CONNECT_S)
            for number, mask in self._poll.poll(0.1):
                connection = self._connections[number]
                try:
                    if mask & (_OUT | select.EPOLLERR | select.EPOLLHUP):
                        connection.write()
                    if mask & _IN:
                        connection.read()
                except OSError as error:
                    raise no_way(self.way.endpoint, error) from error
                self._watch(connection)
        now = time.monotonic_ns()
        self._idle = list(self._connections.values())
        for connection in self._idle:
            connection.idle_since = now

    def run(
        self,
        talks: Iterator[Talk],
        read: Callable[[Flight], str],
        start: int,
        stopped: Callable[[], bool],
        limit_s: float | None = None,
        *,
        duration_s: float | None = None,
    ) -> Ended:
        """Have every talk; return how that ended. What is in flight then ends without an error.

        read     called when there is time with a flight of which something is to be read, and with
                 each that has ended; returns the text of an answer on which a next question hangs
        start    the moment that dues count from, nanoseconds of the monotonic clock
        stopped  asked four times a second whether to end now
        limit_s  seconds after which all ends; duration_s: after which no question is asked, and
                 what is in flight comes to its end
        """
        self._read_flight, self._start = read, start
        self._closes = start + int(duration_s * _SECOND) if duration_s is not None else None
        self._free_since = deque([start] * self.clients)
        self._resting.clear()
        self.sent = self._away = 0
        self._polled = time.monotonic_ns()
        end = start + int(limit_s * _SECOND) if limit_s is not None else None
        self._fill(talks)
        more = True
        while True:
            now = time.monotonic_ns()
            if end is not None and now >= end:
                return self._cut("time limit")
            if now - self._looked >= _LOOK_NS:
                self._looked = now
                self._look(now)
                if stopped():
                    return self._cut("interrupted")
                if self._is_away(now):
                    return self._cut("server away")
            if self._closes is not None and now >= self._closes:
                self._ahead.clear()
                talks, more = iter(()), False
            self._begin_due(now)
            if not self._ahead and not self.in_flight:
                more = self._fill(talks)
                if not self._ahead:
                    self._read_all()
                    return "complete"
                continue
            idle = (len(self._ahead) < _AHEAD and more) or self._unread
            wait = 0.0 if idle else self._until(start, end, now)
            events = self._serve_all(wait)
            while len(self._unread) > _MOST_UNREAD or (
                self._unread and self._pieces > _MOST_PIECES
            ):
                self._read_next()
            if self._unread and not events:
                self._read_next()
            elif not events and idle:
                more = self._fill(talks, 1)

    def close(self) -> None:
        """Close every connection."""
        for connection in list(self._connections.values()):
            self._drop(connection)
        self._poll.close()

    # Talks

    def _fill(self, talks: Iterator[Talk], most: int = _AHEAD) -> bool:
        """Make talks ahead; return whether there may be more."""
        for _ in range(most):
            if len(self._ahead) >= _AHEAD:
                return True
            talk = next(talks, None)
            if talk is None:
                return False
            self._ahead.append(talk)
        return True

    def _begin_due(self, now: int) -> None:
        """Begin what is due, as long as clients are free."""
        start = self._start
        if self._closes is not None and now >= self._closes:
            return
        while self._ahead and self._free_since:
            talk = self._ahead[0]
            due = start + int(talk.due * _SECOND) if talk.due is not None else 0
            if due > now or (talk.due is None and start > now):
                return
            self._ahead.popleft()
            free = self._free_since.popleft()
            self._ask(talk, "", due or max(free, start), max(free, due, start))

    def _ask(self, talk: Talk, answer: str, due: int, free: int) -> None:
        """Send the next question of a talk. `free`: since when we could have."""
        flight = Flight(talk, talk.question(answer), due)
        self.in_flight += 1
        while self._idle:
            connection = self._idle.pop()
            connection.flight = flight
            try:
                self._send(connection, flight)
            except OSError:  # it was closed while it was idle
                self._drop(connection)
                flight.sent = 0
                continue
            # All at once begin together, which takes its time, and is no lateness.
            if self.sent > self.clients or talk.due is not None:
                self.sent_late.add(max(0, flight.sent - free))
            return
        self._call(flight)

    def _call(self, flight: Flight) -> None:
        """Make a connection for a flight, which is sent when that is open."""
        try:
            self._open(flight)
        except OSError as error:
            self._fail(flight, no_way(self.way.endpoint, error))

    def _open(self, flight: Flight | None) -> Connection:
        connection = Connection(self.way.address)
        connection.flight = flight
        connection.idle_since = time.monotonic_ns()
        self._connections[connection.number] = connection
        self._poll.register(connection.number, _IN | _OUT)
        return connection

    def _send(self, connection: Connection, flight: Flight) -> None:
        data = b"%b%d\r\n\r\n%b" % (self.way.head, len(flight.body), flight.body)
        flight.heard = time.monotonic_ns()
        if not flight.sent:  # one that is sent again has waited since it was sent first
            flight.sent = flight.heard
        self.sent += 1
        connection.send(data)
        if connection.waits_to_write:
            self._watch(connection)

    # Sockets

    def _serve_all(self, wait: float) -> list[tuple[int, int]]:
        """Do what sockets are ready for, within `wait` seconds; return which, and for what."""
        asked = time.monotonic_ns() if wait else _NEVER
        events = self._wait(wait)
        now = time.monotonic_ns()
        self._asked = asked if now - asked > _WAITED_NS else _NEVER
        self._since = self._polled
        if len(events) < _MOST_EVENTS:
            self._polled = now
        offset = now - time.time_ns()
        for number, mask in events:
            connection = self._connections.get(number)
            if connection is not None:
                self._serve(connection, mask, offset)
        return events

    def _wait(self, seconds: float) -> list[tuple[int, int]]:
        """Wait for sockets. epoll takes whole milliseconds only, so `select` waits for epoll."""
        if 0 < seconds < 0.05:
            if not select.select((self._poll,), (), (), seconds)[0]:
                return []
            seconds = 0.0
        return self._poll.poll(seconds, _MOST_EVENTS)

    def _until(self, start: int, end: int | None, now: int) -> float:
        """Return how long there is nothing to do but to wait for sockets, in seconds."""
        until = self._looked + _LOOK_NS
        for moment in (end, self._closes):
            if moment is not None and moment > now:
                until = min(until, moment)
        if self._ahead and self._free_since:
            until = min(until, start + int((self._ahead[0].due or 0.0) * _SECOND))
        return max(0.0, (until - now) / _SECOND)

    def _watch(self, connection: Connection) -> None:
        out = _OUT if connection.waits_to_write else 0
        self._poll.modify(connection.number, _IN | out)

    def _serve(self, connection: Connection, mask: int, offset: int) -> None:
        """Do what a socket is ready for. `offset`: of the monotonic clock to the wall's."""
        try:
            was_ready = connection.ready
            if mask & _OUT or (mask & (select.EPOLLERR | select.EPOLLHUP) and not was_ready):
                connection.write()
                self._watch(connection)
            if mask & (_IN | select.EPOLLERR | select.EPOLLHUP):
                self._read(connection, offset)
            flight = connection.flight
            if connection.ready and not was_ready:
                self._away = 0
                if flight is not None:
                    self._send(connection, flight)
        except OSError as error:
            self._lost(connection, error)

    def _read(self, connection: Connection, offset: int) -> None:
        came = connection.read()
        if came is None:
            return
        stamp, data = came
        flight = connection.flight
        if not data:
            self._closed(connection)
            return
        if flight is None:  # an answer that nobody asked for
            self._drop(connection)
            return
        now = time.monotonic_ns()
        arrived = stamp + offset
        late = now - arrived
        if not stamp or not 0 <= late < _MOST_LATE_NS:
            arrived, late = now, 0
        self.read_late.add(late)
        if late > flight.late:
            flight.late = late
        earlier = 0 if arrived >= self._asked else arrived - self._since
        flight.pieces.append((arrived, data, earlier))
        self._pieces += 1
        flight.heard = arrived
        try:
            if flight.response.take(data):
                self._answered(connection, arrived)
        except Malformed as error:
            self._fail(flight, not_openai(self.way.endpoint, error.args[0]), connection)

    def _answered(self, connection: Connection, at: int) -> None:
        """Take a whole answer, and go on with its talk or with the next one."""
        flight = connection.flight
        assert flight is not None
        self._away = 0
        if flight.response.close:
            self._drop(connection)
        else:
            connection.flight, connection.idle_since, connection.used = None, at, True
            self._idle.append(connection)
        self._end(flight, at)
        self._begin_due(at)

    def _closed(self, connection: Connection) -> None:
        """Take the end of a connection, which may be the end of an answer."""
        flight = connection.flight
        if flight is not None and flight.response.at_close():
            self._answered(connection, flight.heard)
        else:
            self._lost(connection, OSError(errno.ECONNRESET, "closed"))

    def _lost(self, connection: Connection, error: OSError) -> None:
        flight, ready = connection.flight, connection.ready
        self._drop(connection)
        if flight is None or flight.ended:
            return
        if not ready:
            self._fail(flight, no_way(self.way.endpoint, error))
        elif connection.used and not flight.response.begun and _crossed(flight):
            self.repeated += 1
            self._call(flight)
        else:
            why = "the server closed the connection before the end"
            if error.errno != errno.ECONNRESET:
                why = str(error.strerror or error)
            flight.broken = why
            self._end(flight, time.monotonic_ns())

    def _drop(self, connection: Connection) -> None:
        if self._connections.pop(connection.number, None) is not None:
            self._poll.unregister(connection.number)
            connection.close()
        if connection in self._idle:
            self._idle.remove(connection)

    # Ends

    def _end(self, flight: Flight, at: int) -> None:
        """Note the end of a flight. Its client asks the next question of the talk, or is free."""
        flight.ended = at
        self.in_flight -= 1
        if flight.talk.more and flight.whole:
            answer = self._parse(flight)
            over = self._closes is not None and at >= self._closes
            if flight.whole and not over:  # what was read may be no answer
                self._ask(flight.talk, answer, at, at)
                return
        else:
            self._to_read(flight)
        self._free_since.append(at)

    def _fail(
        self, flight: Flight, error: RequestFailed, connection: Connection | None = None
    ) -> None:
        if connection is not None:
            self._drop(connection)
        now = time.monotonic_ns()
        flight.error = error
        self._end(flight, now)
        if isinstance(error, ServerAway):
            self._resting.append(self._free_since.pop())
            self._away = self._away or now

    def _is_away(self, now: int) -> bool:
        """Return whether no server has been found for long, and none is answering."""
        if not self._away or now - self._away < _AWAY_NS:
            return False
        return not any(one.ready and one.flight for one in self._connections.values())

    def _look(self, now: int) -> None:
        """Give up what is silent or cannot connect, let go of what is idle, read what has come.

        Clients that have rested are free again.
        """
        while self._resting and now - self._resting[0] >= _REST_NS:
            self._resting.popleft()
            self._free_since.append(now)
        silence = int(self.way.endpoint.timeout_s * _SECOND)
        for connection in list(self._connections.values()):
            flight = connection.flight
            if flight is None:
                if connection.ready and now - connection.idle_since > KEEPALIVE_S * _SECOND:
                    self._drop(connection)
            elif not connection.ready:
                if now - connection.idle_since > CONNECT_S * _SECOND:
                    failure = no_connection_within(self.way.endpoint, CONNECT_S)
                    self._fail(flight, failure, connection)
            elif flight.error is not None:  # what came so far is no answer, whatever follows
                self._drop(connection)
                self._end(flight, now)
            elif now - flight.heard > silence:
                self._drop(connection)
                flight.silent = True
                self._end(flight, now)
            elif flight.pieces:
                self._to_read(flight)
        self._on_look()

    def _cut(self, how: Ended) -> Ended:
        """End now: what is in flight is cut off, and what has ended is read."""
        now = time.monotonic_ns()
        for connection in list(self._connections.values()):
            if (flight := connection.flight) is not None:
                self._drop(connection)
                flight.cut = True
                self._end(flight, now)
        self._read_all()
        return how

    def _read_all(self) -> None:
        while self._unread:
            self._read_next()

    def _to_read(self, flight: Flight) -> None:
        if not flight.unread:
            flight.unread = True
            self._unread.append(flight)

    def _read_next(self) -> None:
        flight = self._unread.popleft()
        if flight.unread:
            self._parse(flight)

    def _parse(self, flight: Flight) -> str:
        flight.unread = False
        self._pieces -= len(flight.pieces)
        return self._read_flight(flight)


def _crossed(flight: Flight) -> bool:
    """Return whether a request may have met the end of its connection on its way."""
    return time.monotonic_ns() - flight.sent < _CROSSED_NS

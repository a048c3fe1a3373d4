"""An endpoint and a client that take little CPU time, so that what is between them shows.

An endpoint and a client made of aiohttp fill two cores with 256 streams of 125 tokens/s, so that
whatever is put in between takes from them. These two read and write bytes on asyncio's protocols
and know no more HTTP than they need of each other: no chunked requests, `Expect` or pipelining.

    python benchmarks/raw_http.py --port 8000 --ttft 0 --tpot 0.008
"""

import argparse
import asyncio
import heapq
import json
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
_END = b"0\r\n\r\n"
_MARK = b"data: "
# Longer than `streams` takes on a machine with much else to do, by far.
PATIENCE_S = 120.0
_TICK_S = 0.0005
PROMPT = "The lift goes up the hill and comes down every day. " * 4


def _event(text: str, finish: str | None) -> bytes:
    # With what both a completion and a chat have, so that either client finds its own.
    said = {"text": text, "delta": {"content": text}}
    choice = {"index": 0, **said, "logprobs": None, "finish_reason": finish}
    chunk = {"id": "cmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "fake"}
    data = f"data: {json.dumps(chunk | {'choices': [choice], 'usage': None})}\n\n".encode()
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


_TOKEN, _LAST = _event(" up", None), _event(" up", "length")
_DONE = b"e\r\ndata: [DONE]\n\n\r\n" + _END


@dataclass
class RawEndpoint:
    """Streams `max_tokens` events to a request: the first after `ttft_s`, then every `tpot_s`.

    slots  requests that are answered at once, each for as long as its answer takes; the others
           wait for one, first come, first served. None: all
    """

    ttft_s: float
    tpot_s: float
    due: list[tuple[float, int, "Served", int]] = field(default_factory=list)
    count: int = 0
    record: list[tuple[float, float, float, int]] | None = None
    """When each request arrived, and its first and last token were sent, by the monotonic clock,
    and how many tokens it had; None: not kept."""
    slots: int | None = None
    waiting: deque[tuple[int, "Served", int]] = field(default_factory=deque)
    busy: int = 0

    async def run(self, port: int) -> None:
        """Serve until the process ends."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Served(self), "127.0.0.1", port, backlog=4096)
        print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
        while True:
            await asyncio.sleep(_TICK_S if self.due else 0.002)
            now = time.monotonic()
            while self.due and self.due[0][0] <= now:
                self._send(*heapq.heappop(self.due))

    def _send(self, due: float, number: int, to: "Served", left: int) -> None:
        if to.transport.is_closing():
            self._free(due)
            return
        if self.record is not None:
            now = time.monotonic()
            to.first = to.first or now
            if left == 1:
                self.record.append((to.arrived, to.first, now, to.tokens))
        to.transport.write(_TOKEN if left > 1 else _LAST + _DONE)
        if left > 1:
            heapq.heappush(self.due, (due + self.tpot_s, number, to, left - 1))
            return
        self._free(due)
        if to.last:
            to.transport.close()

    def _free(self, at: float) -> None:
        """Give a slot to the next that waits, from the moment at which it was to become free."""
        self.busy -= 1
        if self.waiting:
            self._begin(at, *self.waiting.popleft())

    def _begin(self, at: float, number: int, to: "Served", tokens: int) -> None:
        self.busy += 1
        heapq.heappush(self.due, (at + self.ttft_s, number, to, tokens))

    def take(self, connection: "Served", head: bytes, body: bytes) -> None:
        """Answer one request."""
        if not head.startswith(b"POST"):
            plain = b'{"object":"list","data":[{"id":"fake"}]}'
            if head.startswith(b"GET /record"):
                plain = json.dumps(self.record).encode()
            connection.transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (len(plain), plain)
            )
            return
        connection.last = b"connection: close" in head.lower()
        self.count += 1
        if head.startswith(b"POST /tokenize"):
            connection.transport.write(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")
            return
        connection.arrived, connection.first = time.monotonic(), 0.0
        asked = json.loads(body)
        tokens = int(asked.get("max_tokens") or asked.get("max_completion_tokens") or 16)
        connection.tokens = tokens
        connection.transport.write(_HEAD)
        if self.slots is not None and self.busy >= self.slots:
            self.waiting.append((self.count, connection, tokens))
        else:
            self._begin(time.monotonic(), self.count, connection, tokens)


class Served(asyncio.Protocol):
    """A connection of a client, which hands each whole request to `endpoint.take`."""

    transport: asyncio.Transport

    def __init__(self, endpoint: Any) -> None:
        self.endpoint = endpoint
        self.held = b""
        self.last = False
        self.arrived = self.first = 0.0
        self.tokens = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.held += data
        head, found, body = self.held.partition(b"\r\n\r\n")
        if found:
            length = int((head.lower().partition(b"content-length:")[2].split() or [b"0"])[0])
            if len(body) >= length:
                self.held = body[length:]
                self.endpoint.take(self, head, body[:length])


@dataclass(frozen=True)
class Streamed:
    """One answer: seconds to its first event, and how many events it had."""

    first_s: float
    events: int


class _Client(asyncio.Protocol):
    """One connection, which sends its requests one after the other."""

    transport: asyncio.Transport

    def __init__(self, request: bytes, each: int) -> None:
        self.request, self.left = request, each
        self.answers: list[Streamed] = []
        self.ended: asyncio.Future[list[Streamed]] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._next()

    def _next(self) -> None:
        self.began, self.first, self.events, self.last = time.monotonic(), 0.0, 0, b""
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        data = self.last + data
        # Too short for a whole mark, and long enough for all but the last byte of either.
        self.last = data[1 - len(_MARK) :]
        events = data.count(_MARK)
        if events and not self.events:
            self.first = time.monotonic()
        self.events += events
        if not data.endswith(_END):
            return
        self.answers.append(Streamed(self.first - self.began, self.events))
        self.left -= 1
        if self.left:
            self._next()
        else:
            self.transport.close()

    def connection_lost(self, _: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(self.answers)


async def streams(url: str, clients: int, each: int, tokens: int) -> list[list[Streamed]]:
    """Send `each` requests from every client, and return its answers, up to one that broke off.

    Raises TimeoutError when this takes longer than PATIENCE_S.
    """
    loop = asyncio.get_running_loop()
    host = urlsplit(url)
    body = json.dumps(
        {"model": "fake", "prompt": PROMPT, "stream": True, "max_tokens": tokens}
    ).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host.netloc}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    connected: list[_Client] = []
    try:
        async with asyncio.timeout(PATIENCE_S):
            for _ in range(clients):
                _, client = await loop.create_connection(
                    lambda: _Client(head.encode() + body, each), host.hostname, host.port
                )
                connected.append(client)
            return await asyncio.gather(*(client.ended for client in connected))
    finally:
        for client in connected:
            client.transport.abort()


def main() -> None:
    """Serve at 127.0.0.1, and print the URL."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--ttft", type=float, default=0.0, help="seconds to the first token")
    parser.add_argument("--tpot", type=float, default=0.008, help="seconds between tokens")
    parser.add_argument("--record", action="store_true", help="keep what `GET /record` tells")
    parser.add_argument("--slots", type=int, help="requests that are answered at once")
    args = parser.parse_args()
    record = [] if args.record else None
    served = RawEndpoint(args.ttft, args.tpot, record=record, slots=args.slots)
    asyncio.run(served.run(args.port))


if __name__ == "__main__":
    main()

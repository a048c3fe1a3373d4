"""An endpoint for batch jobs that takes little CPU time, and fails in all the ways they must stand.

It reads and writes bytes on asyncio's protocols, as `raw_http.py` does, and does not stream. Each
answer holds a hash of the body that asked for it, so that whoever reads the output can tell whether
a row has its own. `/metrics` has vLLM's figures of an engine that runs `--at-once` rows, lets the
rest wait, and preempts one for each that is begun beyond `--fits`. What it takes and what it says
to whom goes into the file `--said`, which `batch_said.py` reads.

    python benchmarks/batch_endpoint.py --port 8000 --seconds 0.2 --errors 0.05 --die-after 2000
"""

import argparse
import asyncio
import hashlib
import os
import random
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from raw_http import Served

_ANSWER = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"fake","choices":'
    b'[{"index":0,"message":{"role":"assistant","content":"%b"},"logprobs":null,'
    b'"finish_reason":"%b"}],"usage":{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d}}'
)
_ERROR = (
    b'{"error":{"message":"the engine failed, as it was told to","type":"InternalServerError"}}'
)
# An engine that dies answers nobody, and takes what comes until for so long nothing has.
_DYING_S = 0.1
_NAME = b"x-request-id:"


def answer_text(body: bytes) -> bytes:
    """Return what the answer to this body says."""
    return hashlib.blake2b(body, digest_size=16).hexdigest().encode()


@dataclass
class Faults:
    """Shares of the requests, from 0 to 1, that end otherwise than with a whole answer."""

    errors: float = 0.0
    resets: float = 0.0
    forgets: float = 0.0
    cuts: float = 0.0
    silences: float = 0.0
    limited: float = 0.0
    refused: float = 0.0
    length: float = 0.0


@dataclass
class BatchEndpoint:
    """Answers each request after `seconds`, `at_once` of them at the same time.

    die_after  requests until it dies
    outage     after how many requests, and for how many seconds, a balancer before it finds no
               engine; what is no completion is answered all the while
    idle       seconds after which a connection is forgotten: what comes on it is not answered
    said       a file for what is said to whom
    """

    seconds: float = 0.0
    at_once: int = 1_000_000
    fits: int = 1_000_000
    tokens: int = 64
    die_after: int | None = None
    outage: tuple[int, float] | None = None
    idle: float | None = None
    said: Path | None = None
    faults: Faults = field(default_factory=Faults)
    lots: random.Random = field(default_factory=lambda: random.Random(0))
    running: int = 0
    preemptions: int = 0
    requests: int = 0
    waiting: deque[tuple["_Served", bytes, bytes]] = field(default_factory=deque)
    most_running: int = 0
    dying: bool = False
    outage_ends: float | None = None

    def __post_init__(self) -> None:
        """Open the record."""
        how = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        self._record = os.open(self.said, how, 0o644) if self.said else None

    async def start(self, port: int = 0) -> asyncio.Server:
        """Listen at 127.0.0.1."""
        loop = asyncio.get_running_loop()
        return await loop.create_server(lambda: _Served(self), "127.0.0.1", port, backlog=4096)

    def take(self, connection: "_Served", head: bytes, body: bytes) -> None:
        """Answer one request."""
        asked = head.startswith(b"POST")
        name = self._name(head) if asked else b""
        if asked:
            self.requests += 1
            self._say(name, b"taken")
            if self.die_after is not None and self.requests == self.die_after:
                self.dying = True
                asyncio.get_running_loop().call_later(_DYING_S, self._die, self.requests)
        if self.dying:
            return
        if self.idle is not None and connection.idle() > self.idle:
            connection.transport.close()
            self._say(name, b"forgets")
        elif head.startswith(b"GET /metrics"):
            figures = (
                f'vllm:num_requests_running{{engine="0"}} {self.running}.0\n'
                f'vllm:num_requests_waiting{{engine="0"}} {len(self.waiting)}.0\n'
                f'vllm:num_preemptions_total{{engine="0"}} {self.preemptions}.0\n'
            )
            connection.write(200, figures.encode(), b"text/plain")
        elif not asked:
            connection.write(200, b'{"object":"list","data":[{"id":"fake"}]}')
        elif fault := self._fails(connection):
            self._say(name, fault)
        else:
            self.waiting.append((connection, name, body))
            self._begin()

    def _name(self, head: bytes) -> bytes:
        """Return what the request is called, where that is noted."""
        return head[head.lower().index(_NAME) + len(_NAME) :].split()[0] if self.said else b""

    def _say(self, name: bytes, what: bytes) -> None:
        """Note what a request gets, at once: we may be killed."""
        if self._record is not None and name:
            line = b"%d %b %.6f %b\n" % (os.getpid(), name, time.monotonic(), what)
            os.write(self._record, line)

    def _die(self, requests: int) -> None:
        """Die, unless requests have come since there were so many."""
        if self.requests > requests:
            asyncio.get_running_loop().call_later(_DYING_S, self._die, self.requests)
            return
        self._say(b"-", b"died")
        os._exit(137)

    def _fails(self, connection: "_Served") -> bytes:
        """Fail, if it is to be; return how."""
        if self._has_outage():
            connection.write(self.lots.choice((502, 503, 504)), b"<h1>no engine</h1>", b"text/html")
            return b"outage"
        faults, lot = self.faults, self.lots.random()
        for share, name, fail in (
            (faults.errors, b"errors", lambda: connection.write(500, _ERROR)),
            (faults.resets, b"resets", connection.transport.abort),
            (faults.forgets, b"forgets", connection.transport.close),
            (faults.cuts, b"cuts", connection.cut),
            (faults.silences, b"silences", lambda: None),
            (
                faults.limited,
                b"limited",
                lambda: connection.write(429, b"", more=b"Retry-After: 0\r\n"),
            ),
            (faults.refused, b"refused", lambda: connection.write(400, _ERROR)),
        ):
            if lot < share:
                fail()
                return name
            lot -= share
        return b""

    def _has_outage(self) -> bool:
        if self.outage is None or self.requests < self.outage[0]:
            return False
        now = time.monotonic()
        if self.outage_ends is None:
            self.outage_ends = now + self.outage[1]
        return now < self.outage_ends

    def _begin(self) -> None:
        while self.waiting and self.running < self.at_once:
            sending = self.waiting.popleft()
            self.running += 1
            self.most_running = max(self.most_running, self.running)
            self.preemptions += self.running > self.fits
            if self.seconds:
                delay = self.seconds * self.lots.uniform(0.5, 1.5)
                asyncio.get_running_loop().call_later(delay, self._end, *sending)
            else:
                self._end(*sending)

    def _end(self, connection: "_Served", name: bytes, body: bytes) -> None:
        self.running -= 1
        if self.dying:
            return
        if connection.transport.is_closing():
            self._say(name, b"gone")
        else:
            cut = self.faults.length > self.lots.random()
            prompt = len(body) // 4
            counts = (prompt, prompt + self.tokens, self.tokens)
            reason = b"length" if cut else b"stop"
            connection.write(200, _ANSWER % (answer_text(body), reason, *counts))
            self._say(name, b"cut" if cut else b"answered")
        self._begin()


class _Served(Served):
    used: float | None = None

    def idle(self) -> float:
        """Return for how many seconds a connection that was used has not been."""
        return 0.0 if self.used is None else time.monotonic() - self.used

    def write(
        self, status: int, body: bytes, kind: bytes = b"application/json", more: bytes = b""
    ) -> None:
        """Send a whole answer."""
        self.used = time.monotonic()
        if not self.transport.is_closing():
            self.transport.write(
                b"HTTP/1.1 %d X\r\nContent-Type: %b\r\n%bContent-Length: %d\r\n\r\n%b"
                % (status, kind, more, len(body), body)
            )

    def cut(self) -> None:
        """Send half an answer, and close."""
        self.transport.write(b'HTTP/1.1 200 X\r\nContent-Length: 500\r\n\r\n{"id":"chatcmpl-1","ob')
        self.transport.close()


async def serve(args: argparse.Namespace) -> None:
    """Serve until the process ends, and print the URL."""
    names = ("errors", "resets", "forgets", "cuts", "silences", "limited", "refused", "length")
    endpoint = BatchEndpoint(
        seconds=args.seconds, at_once=args.at_once, fits=args.fits, tokens=args.tokens,
        die_after=args.die_after, outage=args.outage, idle=args.idle, said=args.said,
        faults=Faults(**{name: getattr(args, name) for name in names}),
        lots=random.Random(args.seed),
    )  # fmt: skip
    server = await endpoint.start(args.port)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await server.serve_forever()


def _outage(text: str) -> tuple[int, float]:
    after, _, seconds = text.partition(":")
    return int(after), float(seconds)


def main() -> None:
    """Read the flags, and serve."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=0.0, help="what a row takes, ± a half")
    parser.add_argument("--at-once", type=int, default=1_000_000, help="rows that run")
    parser.add_argument("--fits", type=int, default=1_000_000, help="rows before preemptions")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of an answer")
    parser.add_argument("--die-after", type=int, help="requests until the process ends at once")
    parser.add_argument(
        "--outage",
        type=_outage,
        metavar="N:SECONDS",
        help="a balancer finds no engine: after how many requests, how long",
    )
    parser.add_argument("--idle", type=float, help="seconds until a kept connection is forgotten")
    parser.add_argument("--said", type=Path, help="file for what is said to whom")
    parser.add_argument("--seed", type=int, default=0)
    for name, what in (
        ("errors", "status 500"), ("resets", "the connection is reset"),
        ("forgets", "the connection is closed"), ("cuts", "half an answer"),
        ("silences", "no answer, ever"), ("limited", "status 429"),
        ("refused", "status 400"), ("length", "finish_reason length"),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=float, default=0.0, help=f"share with: {what}")
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()

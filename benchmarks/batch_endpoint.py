"""An endpoint for batch jobs that takes little CPU time, and fails in all the ways they must stand.

It reads and writes bytes on asyncio's protocols, as `raw_http.py` does, and does not stream. Each
answer holds a hash of the body that asked for it, so that whoever reads the output can tell whether
a row has its own. `/metrics` has vLLM's figures of an engine that runs `--at-once` rows, lets the
rest wait, and preempts one for each that is begun beyond `--fits`.

    python benchmarks/batch_endpoint.py --port 8000 --seconds 0.2 --errors 0.05 --die-after 2000
"""

import argparse
import asyncio
import hashlib
import os
import random
from collections import deque
from dataclasses import dataclass, field

from raw_http import Served

_ANSWER = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"fake","choices":'
    b'[{"index":0,"message":{"role":"assistant","content":"%b"},"logprobs":null,'
    b'"finish_reason":"%b"}],"usage":{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d}}'
)
_ERROR = (
    b'{"error":{"message":"the engine failed, as it was told to","type":"InternalServerError"}}'
)


def answer_text(body: bytes) -> bytes:
    """Return what the answer to this body says."""
    return hashlib.blake2b(body, digest_size=16).hexdigest().encode()


@dataclass
class Faults:
    """Shares of the requests, from 0 to 1, that end otherwise than with a whole answer."""

    errors: float = 0.0
    resets: float = 0.0
    cuts: float = 0.0
    silences: float = 0.0
    limited: float = 0.0
    refused: float = 0.0
    length: float = 0.0


@dataclass
class BatchEndpoint:
    """Answers each request after `seconds`, `at_once` of them at the same time."""

    seconds: float = 0.0
    at_once: int = 1_000_000
    fits: int = 1_000_000
    tokens: int = 64
    die_after: int | None = None
    faults: Faults = field(default_factory=Faults)
    lots: random.Random = field(default_factory=lambda: random.Random(0))
    running: int = 0
    preemptions: int = 0
    requests: int = 0
    waiting: deque[tuple["_Served", bytes]] = field(default_factory=deque)
    most_running: int = 0

    async def start(self, port: int = 0) -> asyncio.Server:
        """Listen at 127.0.0.1."""
        loop = asyncio.get_running_loop()
        return await loop.create_server(lambda: _Served(self), "127.0.0.1", port, backlog=4096)

    def take(self, connection: "_Served", head: bytes, body: bytes) -> None:
        """Answer one request."""
        if head.startswith(b"GET /metrics"):
            figures = (
                f'vllm:num_requests_running{{engine="0"}} {self.running}.0\n'
                f'vllm:num_requests_waiting{{engine="0"}} {len(self.waiting)}.0\n'
                f'vllm:num_preemptions_total{{engine="0"}} {self.preemptions}.0\n'
            )
            connection.write(200, figures.encode(), b"text/plain")
        elif head.startswith(b"GET"):
            connection.write(200, b'{"object":"list","data":[{"id":"fake"}]}')
        else:
            self.requests += 1
            if self.die_after is not None and self.requests > self.die_after:
                os._exit(137)
            if not self._fails(connection):
                self.waiting.append((connection, body))
                self._begin()

    def _fails(self, connection: "_Served") -> bool:
        faults, lot = self.faults, self.lots.random()
        for share, fail in (
            (faults.errors, lambda: connection.write(500, _ERROR)),
            (faults.resets, connection.transport.abort),
            (faults.cuts, connection.cut),
            (faults.silences, lambda: None),
            (faults.limited, lambda: connection.write(429, b"", more=b"Retry-After: 0\r\n")),
            (faults.refused, lambda: connection.write(400, _ERROR)),
        ):
            if lot < share:
                fail()
                return True
            lot -= share
        return False

    def _begin(self) -> None:
        while self.waiting and self.running < self.at_once:
            connection, body = self.waiting.popleft()
            self.running += 1
            self.most_running = max(self.most_running, self.running)
            self.preemptions += self.running > self.fits
            if self.seconds:
                delay = self.seconds * self.lots.uniform(0.5, 1.5)
                asyncio.get_running_loop().call_later(delay, self._end, connection, body)
            else:
                self._end(connection, body)

    def _end(self, connection: "_Served", body: bytes) -> None:
        self.running -= 1
        reason = b"length" if self.faults.length > self.lots.random() else b"stop"
        prompt = len(body) // 4
        counts = (prompt, prompt + self.tokens, self.tokens)
        connection.write(200, _ANSWER % (answer_text(body), reason, *counts))
        self._begin()


class _Served(Served):
    def write(
        self, status: int, body: bytes, kind: bytes = b"application/json", more: bytes = b""
    ) -> None:
        """Send a whole answer."""
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
    names = ("errors", "resets", "cuts", "silences", "limited", "refused", "length")
    endpoint = BatchEndpoint(
        seconds=args.seconds, at_once=args.at_once, fits=args.fits, tokens=args.tokens,
        die_after=args.die_after, faults=Faults(**{name: getattr(args, name) for name in names}),
        lots=random.Random(args.seed),
    )  # fmt: skip
    server = await endpoint.start(args.port)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await server.serve_forever()


def main() -> None:
    """Read the flags, and serve."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=0.0, help="what a row takes, ± a half")
    parser.add_argument("--at-once", type=int, default=1_000_000, help="rows that run")
    parser.add_argument("--fits", type=int, default=1_000_000, help="rows before preemptions")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of an answer")
    parser.add_argument("--die-after", type=int, help="requests until the process ends at once")
    parser.add_argument("--seed", type=int, default=0)
    for name, what in (
        ("errors", "status 500"), ("resets", "the connection is reset"),
        ("cuts", "half an answer"), ("silences", "no answer, ever"), ("limited", "status 429"),
        ("refused", "status 400"), ("length", "finish_reason length"),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=float, default=0.0, help=f"share with: {what}")
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()

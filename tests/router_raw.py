"""Replicas and clients that speak byte by byte, for what no server or client does by itself."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

TOKEN = b'data: {"choices": [{"index": 0, "text": "Hi"}]}\n\ndata: [DONE]\n\n'
OK = b"HTTP/1.1 200 OK\r\n"
STREAM = OK + b"Content-Type: text/event-stream\r\n"

Say = Callable[[bytes], Awaitable[None]]


def chunk(data: bytes) -> bytes:
    """A piece of an answer in chunks."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def sized(head: bytes, body: bytes) -> bytes:
    """An answer of a known length."""
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


@dataclass
class Raw:
    """A replica that answers with these bytes, and then closes, or hangs.

    probe, metrics  what probes and /metrics get; None: the same as anybody
    piece           bytes in one write; 0: all at once
    endless         what is said for ever behind it, each time after so many seconds
    heard           the requests, probes left out
    said            bytes of `endless` that were taken
    """

    answer: bytes
    probe: bytes | None = sized(STREAM, TOKEN)
    metrics: bytes | None = None
    piece: int = 0
    hangs: bool = False
    endless: bytes = b""
    pause_s: float = 0.0
    heard: list[bytes] = field(default_factory=list)
    said: int = 0
    url: str = ""
    _tasks: set["asyncio.Task[None]"] = field(default_factory=set)

    @contextlib.asynccontextmanager
    async def served(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=2**27)
        host, port = server.sockets[0].getsockname()[:2]
        self.url = f"http://{host}:{port}"
        try:
            yield self.url
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await asyncio.sleep(0)  # connections end in the loop's next step

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._talk(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
                body = await reader.readexactly(int(length or 0))
                if not await self._answer(head, body, writer):
                    break

    async def _answer(self, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> bool:
        special = None
        if head.startswith(b"GET /metrics"):
            special = self.metrics
        elif b'"prompt": "Hi"' in body:
            special = self.probe
        else:
            self.heard.append(head + body)
        if special is not None:
            writer.write(special)
            return True
        answer = self.answer
        for at in range(0, len(answer), self.piece or len(answer) or 1):
            writer.write(answer[at : at + (self.piece or len(answer))])
            await writer.drain()
            if self.piece:
                await asyncio.sleep(0.001)
        while self.endless:
            writer.write(self.endless)
            await writer.drain()
            self.said += len(self.endless)
            await asyncio.sleep(self.pause_s)
        if self.hangs:
            await asyncio.sleep(3600)
        return False


async def said_to(url: str, request: bytes, *, most_s: float = 60) -> bytes:
    """All that a server answers to these bytes until it closes the connection."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        async with asyncio.timeout(most_s):
            with contextlib.suppress(OSError):
                writer.write(request)
                return await reader.read()
        return b""
    finally:
        writer.close()

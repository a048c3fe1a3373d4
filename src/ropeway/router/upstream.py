"""Requests to replicas, over connections that are kept for the next request.

aiohttp's own parser of answers, without its client: that also follows redirects, keeps cookies,
finds proxies and more, none of which a router may do, and takes more time for a request than all
else here together (docs/router.md).
"""

import asyncio
import contextlib
import errno
import re
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp import StreamReader
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import StreamWriter
from aiohttp.http_exceptions import HttpProcessingError

from ropeway.router.replicas import Clock

# Below the 5 s after which vLLM's server closes an idle connection (VLLM_HTTP_TIMEOUT_KEEP_ALIVE);
# otherwise requests are sent into connections that are being closed.
KEEP_S = 2.0
# One write for all that is smaller; more is handed over piece by piece, as the replica takes it.
_SMALL_BYTES = 2**18
# A server may say "100 Continue" or "103 Early Hints" before it answers, but not for ever.
_INTERIM_ANSWERS = 8
_TRIES, _PAUSE_S = 3, 0.1
_BODILESS = ("GET", "HEAD", "OPTIONS", "DELETE", "TRACE")
# A function that is offered whole chunks as they came, and what is in them, and returns whether it
# took them. What it does not take is kept until it is read.
Sink = Callable[[bytes, bytes], bool]
_CHUNK = re.compile(rb"([0-9a-fA-F]{1,6})\r\n")
# More than a few events: through the reader, so that others have their turn.
_FLOOD_BYTES = 2**14
_UNSAFE = re.compile(r"[^\x21-\x7e]")


class CannotConnect(Exception):
    """No connection: the replica has not seen the request.

    ours  this machine is to blame: no file, port or memory was left for a connection
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(f"cannot connect: {error.strerror or error or type(error).__name__}")
        self.ours = error.errno in (
            errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL
        )  # fmt: skip


class _Connection(ResponseHandler):
    """aiohttp's protocol; whole chunks of a body may pass it by.

    aiohttp calls its parser after each piece that is read, in case that kept something back. It
    does so only after it was told to pause, so otherwise `resume_reading` saves the call.

    sink    is offered what comes, while somebody waits for a body
    within  whether the parser may be within a chunk, or was not seen to be between two
    body    of the answer that is being read
    """

    sink: Sink | None = None
    within = True
    body: StreamReader | None = None

    def set_response_params(self, **how: Any) -> None:
        self.within, self.body = True, None
        super().set_response_params(**how)

    def set_exception(self, exc: BaseException, *cause: Any) -> None:
        # aiohttp tells the reader of a body that the connection ended, but not of what is no HTTP.
        body, wrong = self.body, isinstance(exc, HttpProcessingError)
        if wrong and body is not None and not body.is_eof():
            body.set_exception(_no_http(exc))
        super().set_exception(exc, *cause)

    def data_received(self, data: bytes) -> None:
        if self.sink is not None:
            events = b"" if self.within else _whole_chunks(data)
            if events and self.sink(data, events):
                return
            self.sink = None  # until this was read: what follows must not overtake it
        super().data_received(data)
        # Else the first digits of a chunk's length are in the parser.
        self.within = self.within or not data.endswith(b"\r\n")

    def resume_reading(self, *args: Any, **more: Any) -> None:
        if getattr(self, "_reading_paused", True):  # its own name for it, which may change
            super().resume_reading(*args, **more)


class _Body(StreamReader):
    """aiohttp's stream of a body, which tells its connection where chunks begin and end."""

    __slots__ = ()  # the parser's own object becomes one of these, so nothing can be added
    _protocol: _Connection

    def begin_http_chunk_receiving(self) -> None:
        self._protocol.within = True
        super().begin_http_chunk_receiving()

    def end_http_chunk_receiving(self) -> None:
        self._protocol.within = False
        super().end_http_chunk_receiving()


@dataclass(frozen=True, slots=True)
class Answer:
    """The head of a replica's answer, and the stream of its body."""

    status: int
    headers: Mapping[str, str]
    content: StreamReader
    connection: _Connection

    @property
    def content_type(self) -> str:
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()

    async def read(self, most: int, sink: Sink | None) -> bytes:
        """Return the next bytes, b"" at the end; what `sink` takes meanwhile is not among them."""
        self.connection.sink = sink
        try:
            return await self.content.read(most)
        finally:
            self.connection.sink = None


@dataclass(frozen=True, slots=True)
class _Address:
    host: str
    port: int
    tls: bool
    name: str


class Upstreams:
    """The connections to all replicas."""

    def __init__(self, connect_s: float, clock: Clock) -> None:
        self._connect_s = connect_s
        self._clock = clock
        self._addresses: dict[str, _Address] = {}
        self._idle: dict[str, deque[tuple[_Connection, float]]] = {}
        self._busy = 0

    def __len__(self) -> int:
        return self._busy + sum(map(len, self._idle.values()))

    @contextlib.asynccontextmanager
    async def request(
        self,
        url: str,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | bytearray,
    ) -> AsyncIterator[Answer]:
        """Send a request to the server at `url`. `target` is path and query, encoded.

        Raises CannotConnect, aiohttp.ClientError, OSError; and ValueError when it cannot be sent.
        """
        address = self._address(url)
        head = _head(method, target, address.name, headers, len(body))
        self._busy += 1
        connection, writing, reusable = None, None, False
        try:
            connection = self._kept(url)
            if connection is None:
                connection = await self._connect(address)
            connection.set_response_params(
                skip_payload=method == "HEAD", read_until_eof=True, auto_decompress=False
            )
            if len(body) <= _SMALL_BYTES:
                transport = connection.transport
                if transport is None:
                    raise aiohttp.ServerDisconnectedError
                transport.write(head + body)
            else:  # the replica may answer before it has read it all
                writing = asyncio.create_task(_write(connection, head, body))
            answer = await _answer(connection)
            reusable = True
            yield answer
        finally:
            self._busy -= 1
            if writing is not None and not writing.done():
                writing.cancel()
                reusable = False  # half of a request was sent
            if connection is not None:
                if not reusable:  # an answer that comes later is not that of the next request
                    connection.force_close()
                self._keep(url, connection)

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return ssl.create_default_context()  # takes tens of milliseconds

    def close_overdue(self, keep_s: float = KEEP_S) -> None:
        """Close the connections that nobody has used for so long."""
        now = self._clock()
        for idle in self._idle.values():
            while idle and now - idle[0][1] >= keep_s:
                idle.popleft()[0].close()

    def _address(self, url: str) -> _Address:
        if url not in self._addresses:
            parts = urlsplit(url)
            tls = parts.scheme == "https"
            port = parts.port or (443 if tls else 80)
            self._addresses[url] = _Address(parts.hostname or "", port, tls, parts.netloc)
        return self._addresses[url]

    async def _connect(self, address: _Address) -> _Connection:
        for _ in range(_TRIES):
            try:
                return await self._connect_once(address)
            except CannotConnect as error:
                if not error.ours:
                    raise
            # Files come back when others end; those of connections that we only keep, at once.
            self.close_overdue(0)
            await asyncio.sleep(_PAUSE_S)
        return await self._connect_once(address)

    async def _connect_once(self, address: _Address) -> _Connection:
        loop = asyncio.get_running_loop()
        tls = self._tls if address.tls else None
        try:
            async with asyncio.timeout(self._connect_s):
                _, connection = await loop.create_connection(
                    partial(_Connection, loop), address.host, address.port, ssl=tls
                )
        except TimeoutError:
            why = f"no connection within {self._connect_s:g} s"
            raise CannotConnect(TimeoutError(errno.ETIMEDOUT, why)) from None
        except OSError as error:
            raise CannotConnect(error) from error
        return connection

    def _kept(self, url: str) -> _Connection | None:
        idle = self._idle.get(url)
        while idle:
            connection, since = idle.pop()
            usable = connection.is_connected() and not connection.should_close
            if usable and self._clock() - since < KEEP_S:
                return connection
            connection.close()
        return None

    def _keep(self, url: str, connection: _Connection) -> None:
        if connection.should_close or not connection.is_connected():
            connection.close()
        else:
            self._idle.setdefault(url, deque()).append((connection, self._clock()))


async def read(answer: Answer, most: int) -> bytes:
    """Return the body of an answer. Raises ValueError when it is larger than that."""
    content = bytearray()
    while piece := await answer.content.readany():
        content += piece
        if len(content) > most:
            raise ValueError(f"the answer has more than {most:,} bytes")
    return bytes(content)


def _head(method: str, target: str, host: str, headers: Mapping[str, str], length: int) -> bytes:
    if _UNSAFE.search(target):
        raise ValueError(f"not a path: {target!r}")
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if length or method not in _BODILESS:
        lines.append(f"Content-Length: {length}")
    return "\r\n".join((*lines, "\r\n")).encode()


def _whole_chunks(data: bytes) -> bytes:
    """Return what is in these bytes if they are chunks whose ends are ends of events; else b""."""
    pieces, at = [], 0
    while at < len(data) <= _FLOOD_BYTES:
        head = _CHUNK.match(data, at)
        if head is None:
            return b""
        start = head.end()
        at = start + int(head[1], 16) + 2
        piece = data[start : at - 2]
        if not (piece.endswith(b"\n\n") and data[at - 2 : at] == b"\r\n"):
            return b""
        pieces.append(piece)
    return b"".join(pieces)


async def _write(connection: _Connection, head: bytes, body: bytes | bytearray) -> None:
    writer = StreamWriter(connection, asyncio.get_running_loop())
    with contextlib.suppress(aiohttp.ClientError, OSError):  # its reader is told as well
        await writer.write(head)
        for at in range(0, len(body), _SMALL_BYTES):
            await writer.write(body[at : at + _SMALL_BYTES])


async def _answer(connection: _Connection) -> Answer:
    message: Any
    try:
        for _ in range(_INTERIM_ANSWERS):
            message, content = await connection.read()
            if message.code >= 200:
                if type(content) is StreamReader:
                    # A layout of aiohttp's that does not allow it: no chunk passes its parser by.
                    with contextlib.suppress(TypeError):
                        content.__class__ = _Body
                connection.body = content
                return Answer(message.code, message.headers, content, connection)
    except HttpProcessingError as error:
        raise _no_http(error) from error
    raise aiohttp.ClientPayloadError(f"HTTP {message.code}, and no answer after it")


def _no_http(error: BaseException) -> aiohttp.ClientPayloadError:
    what = getattr(error, "message", "") or type(error).__name__
    return aiohttp.ClientPayloadError(f"its answer is no HTTP: {what}")

"""The router's HTTP side: routes, the key, its own state, and the graceful end."""

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from ropeway.router import events, headers
from ropeway.router.config import Config
from ropeway.router.connections import Connections
from ropeway.router.exchange import SHUTDOWN, Exchange, Totals
from ropeway.router.metrics import exposition, snapshot
from ropeway.router.probe import Watch
from ropeway.router.replicas import Clock, Pool
from ropeway.router.request import parse_request
from ropeway.router.upstream import Upstreams

log = logging.getLogger("ropeway.router")

# After the drain, for error events to reach their clients.
_LAST_WORDS_S = 2.0
# After this long, nothing is worth waiting for.
_CLEANUP_S = 0.5
# Besides /v1: what clients of vLLM use and every replica answers alike.
_BESIDE_V1 = ("/tokenize", "/detokenize", "/version",
              "/rerank", "/score", "/classify", "/pooling", "/v2/{rest:.*}")  # fmt: skip
_BACKLOG = 2048
_SWEEP_S = 0.25


class Router:
    """The server of one configuration. `clock` gives seconds that never go back."""

    def __init__(self, config: Config, clock: Clock = time.monotonic, files: int = 2**20) -> None:
        self.config = config
        self.pool = Pool(config, clock)
        self.upstreams = Upstreams(config.limits.connect_s, clock)
        self.connections = Connections(config.limits, self.upstreams.__len__, files, clock)
        self.totals = Totals()
        self.draining = False
        self._running = 0
        self._about: dict[str, Callable[[web.BaseRequest], web.Response]] = {
            "/health": self._health,
            "/metrics": self._metrics,
            "/ropeway/backends": self._backends,
        }
        self._sent_key = None if config.key is None else f"Bearer {config.key}"

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request, and note what its connection does meanwhile."""
        connection, path = request.protocol, request.rel_url.raw_path
        self.connections.sending(connection)
        try:
            if path.startswith("/v1/") or path in _BESIDE_V1:
                response = await self._proxy(request)
            elif path in (about := self._about) and request.method in ("GET", "HEAD"):
                response = about[path](request)
            else:
                response = _error(f"there is nothing at {path}", 404)
            with contextlib.suppress(ConnectionError):
                await response.prepare(request)
                await response.write_eof()
            return response
        finally:
            self.connections.idle(connection)

    async def drain(self) -> None:
        """Let running requests end for up to `drain_s`; then end the others with an error."""
        self.draining = True
        if await self._idle(self.config.limits.drain_s):
            return
        for replica in self.pool:
            for attempt in list(replica.attempts):
                attempt.end(SHUTDOWN)
        await self._idle(_LAST_WORDS_S)

    async def _idle(self, within_s: float) -> bool:
        end = self.pool.clock() + within_s
        while self._running and self.pool.clock() < end:
            await asyncio.sleep(0.02)
        return not self._running

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Watch over replicas and connections until the block ends."""
        key = {"Authorization": self._sent_key} if self._sent_key else {}
        running = Watch(self.config.model, self.pool, self.upstreams, key).run()
        tasks = [asyncio.create_task(running), asyncio.create_task(self._sweep())]
        for task in tasks:
            task.add_done_callback(_must_not_end)
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.upstreams.close_overdue(0)

    async def _sweep(self) -> None:
        while True:
            self.connections.close_overdue()
            self.upstreams.close_overdue()
            await asyncio.sleep(_SWEEP_S)

    async def _proxy(self, request: web.BaseRequest) -> web.StreamResponse:
        if not self._allowed(request):
            return _error("the API key is missing or wrong", 401)
        if self.draining:
            return _error(SHUTDOWN, 503)
        self._running += 1
        try:
            content = await self._content(request)
            if not self.connections.served(request.protocol):
                return _error("the router has as many connections as it can", 503)
            parsed = parse_request(request.path, content)
            sent = headers.forward(request.headers, self._sent_key)
            return await Exchange(
                request, parsed, content, sent, self.pool, self.upstreams, self.totals
            ).run()
        except web.HTTPRequestEntityTooLarge:
            limit = self.config.limits.body_bytes
            return _error(f"the request has more than {limit:,} bytes", 413)
        except TimeoutError:
            return _error(f"the request took longer than {self.config.limits.body_s:g} s", 408)
        except web.RequestPayloadError as error:
            return _error(f"the request cannot be read: {error}", 400)
        finally:
            self._running -= 1

    async def _content(self, request: web.BaseRequest) -> bytearray:
        """Read the body, as it came. Raises HTTPRequestEntityTooLarge, TimeoutError."""
        limits = self.config.limits
        content = bytearray()
        if not request.body_exists:
            return content
        async with asyncio.timeout(limits.body_s):
            while piece := await request.content.readany():
                content += piece
                if len(content) > limits.body_bytes:
                    raise web.HTTPRequestEntityTooLarge(limits.body_bytes, len(content))
        return content

    def _health(self, _: web.BaseRequest) -> web.Response:
        alive = bool(self.pool.alive) and not self.draining
        return web.Response(status=200 if alive else 503)

    def _metrics(self, _: web.BaseRequest) -> web.Response:
        text = exposition(self.pool, self.totals)
        return web.Response(text=text, headers={"Content-Type": "text/plain; version=0.0.4"})

    def _backends(self, request: web.BaseRequest) -> web.Response:
        if not self._allowed(request):
            return _error("the API key is missing or wrong", 401)
        return web.json_response(snapshot(self.pool, self.totals, draining=self.draining))

    def _allowed(self, request: web.BaseRequest) -> bool:
        key = self.config.key
        return key is None or headers.authorized(request.headers.get("Authorization"), key)


class _Connection(web.RequestHandler):
    """A client's connection, which is counted as long as it lives."""

    connections: Connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.connections.opened(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.connections.closed(self)
        super().connection_lost(exc)

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Log faults of ours, and not what is no HTTP: anybody can send that, without a key."""
        if not isinstance(kw.get("exc_info"), HttpProcessingError):
            super().log_exception(*args, **kw)


@contextlib.asynccontextmanager
async def listening(router: Router) -> AsyncIterator[asyncio.Server]:
    """Serve until the block ends. Raises OSError when the port is taken."""
    config, loop = router.config, asyncio.get_running_loop()
    # With handler_cancellation a client that disconnects ends its request on the replica at once.
    manager = web.Server(router.answer, handler_cancellation=True, loop=loop)

    def connection() -> _Connection:
        # Without auto_decompress a body passes as it came.
        made = _Connection(
            manager,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]
            auto_decompress=False,
            keepalive_timeout=config.limits.idle_s,
        )
        made.connections = router.connections
        return made

    server = await loop.create_server(connection, config.host, config.port, backlog=_BACKLOG)
    async with router.watching():
        try:
            yield server
        finally:
            server.close()
            manager.pre_shutdown()
            await manager.shutdown(_CLEANUP_S)


async def serve(config: Config, files: int, announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT, then end gracefully.

    `files` is this process's limit of open files; `announce` is called with the URL. Raises OSError
    when the port is taken.
    """
    router, stop = Router(config, files=files), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with listening(router) as server:
        announce(url_of(server))
        await stop.wait()
        log.info("draining, at most %g s", config.limits.drain_s)
        server.close()
        await router.drain()


def url_of(server: asyncio.Server) -> str:
    """Return the URL at which a server listens."""
    host, port = server.sockets[0].getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _error(message: str, code: int) -> web.Response:
    retry = {"Retry-After": "1"} if code == 503 else {}
    return web.json_response(events.error_body(message, code), status=code, headers=retry)


def _must_not_end(task: asyncio.Task[None]) -> None:
    """End the router so that it is restarted: without the watch nothing is probed."""
    if not task.cancelled():
        log.critical("the watch ended", exc_info=task.exception())
        signal.raise_signal(signal.SIGTERM)

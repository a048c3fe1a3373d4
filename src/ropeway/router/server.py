"""The router's HTTP side: routes, the key, its own state, and the graceful end."""

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import AsyncIterator, Callable

import aiohttp
from aiohttp import web

from ropeway.router import events, headers
from ropeway.router.config import Config
from ropeway.router.exchange import SHUTDOWN, Exchange, Totals
from ropeway.router.metrics import exposition, snapshot
from ropeway.router.probe import Watch
from ropeway.router.replicas import Clock, Pool
from ropeway.router.request import parse_request

log = logging.getLogger("ropeway.router")

# Below the 5 s after which vLLM's server closes an idle connection (VLLM_HTTP_TIMEOUT_KEEP_ALIVE);
# otherwise requests are sent into connections that are being closed.
_KEEPALIVE_S = 2.0
# After the drain, for error events to reach their clients.
_LAST_WORDS_S = 2.0
# After this long, nothing is worth waiting for.
_CLEANUP_S = 0.5
# Besides /v1: what clients of vLLM use and every replica answers alike.
_BESIDE_V1 = ("/tokenize", "/detokenize", "/version")
_BACKLOG = 2048


class Router:
    """The application of one configuration. `clock` gives seconds that never go back."""

    _session: aiohttp.ClientSession

    def __init__(self, config: Config, clock: Clock = time.monotonic) -> None:
        self._config = config
        self.pool = Pool(config, clock)
        self.totals = Totals()
        self.draining = False
        self._running = 0
        self._sent_key = None if config.key is None else f"Bearer {config.key}"

    def app(self) -> web.Application:
        """Return the application; the watch over the replicas runs as long as it does."""
        app = web.Application(client_max_size=self._config.limits.body_bytes)
        app.cleanup_ctx.append(self._session_and_watch)
        app.router.add_get("/health", self._health)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/ropeway/backends", self._backends)
        for path in (*_BESIDE_V1, "/v1/{rest:.*}"):
            app.router.add_route("*", path, self._proxy)
        return app

    async def drain(self) -> None:
        """Let running requests end for up to `drain_s`; then end the others with an error."""
        self.draining = True
        if await self._idle(self._config.limits.drain_s):
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

    async def _session_and_watch(self, _: web.Application) -> AsyncIterator[None]:
        limits = self._config.limits
        connector = aiohttp.TCPConnector(
            limit=0,  # a replica that hangs must not use up the connections of the others
            keepalive_timeout=_KEEPALIVE_S,
            ttl_dns_cache=60,
        )
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=limits.connect_s)
        async with aiohttp.ClientSession(
            connector=connector,
            timeout=timeout,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept", "Content-Type"),
        ) as self._session:
            key = {"Authorization": self._sent_key} if self._sent_key else {}
            running = Watch(self._config.model, self.pool, self._session, key).run()
            watch = asyncio.create_task(running, name="watch")
            watch.add_done_callback(_must_not_end)
            yield
            watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watch

    async def _proxy(self, request: web.Request) -> web.StreamResponse:
        if not self._allowed(request):
            return _error("the API key is missing or wrong", 401)
        if self.draining:
            return _error(SHUTDOWN, 503)
        self._running += 1
        try:
            content = await request.read()
            parsed = parse_request(request.path, content)
            sent = headers.forward(request.headers, self._sent_key)
            return await Exchange(
                request, parsed, content, sent, self.pool, self._session, self.totals
            ).run()
        except web.HTTPRequestEntityTooLarge:
            limit = self._config.limits.body_bytes
            return _error(f"the request has more than {limit:,} bytes", 413)
        finally:
            self._running -= 1

    async def _health(self, _: web.Request) -> web.Response:
        alive = bool(self.pool.alive) and not self.draining
        return web.Response(status=200 if alive else 503)

    async def _metrics(self, _: web.Request) -> web.Response:
        text = exposition(self.pool, self.totals)
        return web.Response(text=text, headers={"Content-Type": "text/plain; version=0.0.4"})

    async def _backends(self, request: web.Request) -> web.Response:
        if not self._allowed(request):
            return _error("the API key is missing or wrong", 401)
        return web.json_response(snapshot(self.pool, self.totals, draining=self.draining))

    def _allowed(self, request: web.Request) -> bool:
        key = self._config.key
        return key is None or headers.authorized(request.headers.get("Authorization"), key)


async def serve(config: Config, listening: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT, then end gracefully.

    `listening` is called with the URL. Raises OSError when the port is taken.
    """
    router, stop = Router(config), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # With handler_cancellation a client that disconnects ends its request on the replica at once.
    runner = web.AppRunner(
        router.app(), access_log=None, handler_cancellation=True, shutdown_timeout=_CLEANUP_S
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, config.host, config.port, backlog=_BACKLOG)
        await site.start()
        host, port = runner.addresses[0][:2]
        listening(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        await stop.wait()
        log.info("draining, at most %g s", config.limits.drain_s)
        await site.stop()
        await router.drain()
    finally:
        await runner.cleanup()


def _error(message: str, code: int) -> web.Response:
    return web.json_response(events.error_body(message, code), status=code)


def _must_not_end(watch: asyncio.Task[None]) -> None:
    """End the router so that it is restarted: without the watch nothing is probed."""
    if not watch.cancelled():
        log.critical("the watch over the replicas ended", exc_info=watch.exception())
        signal.raise_signal(signal.SIGTERM)

"""Replicas to put behind a router, and a router in front of them, for its tests and benchmark.

A replica answers as vLLM does, token by token, always with the same text: it looks how far its
prompt has already come in ANSWER and goes on from there, as a greedy model would. What it does
wrong is chosen by a `Fault`, at any time.

    python tests/router_backends.py PORT [SECONDS_PER_TOKEN]      # one of them as a process
"""

import asyncio
import contextlib
import copy
import inspect
import json
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web

import virtual_time
from ropeway.router.config import Backend, Config, Limits
from ropeway.router.server import Router, listening, url_of

MODEL = "fake"
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
# A token each. Some end in blanks or are nothing else, as a model's tokens do.
ANSWER = (
    "One", " two,", "\n", "three", " four ", " five", ";", " sechs", "\n\n", "七", "八", " 9", "."
)  # fmt: skip
TEXT = "".join(ANSWER)
# Patient enough for two slow cores, quick enough for a test.
QUICK = Limits(
    connect_s=1, first_byte_s=20, stall_s=20, backoff_s=0.1, backoff_max_s=0.4, probe_timeout_s=1,
    drain_s=10,
)  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """How a replica fails.

    kind   cut: the connection; half: in the middle of an event; end: as if all was well; undone:
           after the finish, without the mark of the end; hang: silent for ever; error: vLLM's error
           event; abort: vLLM's finish at shutdown; a number: that HTTP status
    after  tokens before it; -1: before the headers of the answer
    probes whether probes meet it, too
    """

    kind: str = ""
    after: int = 0
    probes: bool = False


@dataclass
class Engine:
    """A replica's server. `bodies` and `heads` are what it was sent, probes left out.

    key      what requests must carry, probes too; any when empty
    padding  events of 64 KiB, with nothing in them, before a stream
    """

    tpot_s: float = 0.0
    fault: Fault = field(default_factory=Fault)
    reasoning: tuple[str, ...] = ()
    tokenizes: bool = True
    padding: int = 0
    key: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    heads: list[dict[str, str]] = field(default_factory=list)
    probes: int = 0
    given_up: int = 0
    tokens: int = 0
    url: str = ""

    def app(self) -> web.Application:
        app = web.Application(client_max_size=2**30)
        for path in (CHAT, COMPLETIONS, "/v1/responses"):
            app.router.add_post(path, self._complete)
        app.router.add_post("/tokenize", self._tokenize)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/health", _health)
        app.router.add_route("*", "/v1/echo/{rest:.*}", self._echo)
        return app

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        if self.key and request.headers.get("Authorization") != f"Bearer {self.key}":
            return web.json_response({"error": {"message": "no key", "code": 401}}, status=401)
        if request.content_type != "application/json":  # as vLLM's `validate_json_request`
            return web.json_response({"error": {"message": "no JSON", "code": 400}}, status=400)
        body = await request.json()
        probe = _is_probe(body)
        fault = Fault() if probe and not self.fault.probes else self.fault
        if probe:
            self.probes += 1
        else:
            self.bodies.append(body)
            self.heads.append(dict(request.headers))
        try:
            if fault.kind.isdigit():
                error = {"message": "told to", "type": "X", "param": None, "code": int(fault.kind)}
                return web.json_response({"error": error}, status=int(fault.kind))
            if fault.kind and fault.after < 0:
                await self._break(request, fault)
            if body.get("continue_final_message") and body.get("add_generation_prompt", True):
                return web.json_response({"error": {"message": "both", "code": 400}}, status=400)
            if body.get("stream"):
                return await self._stream(request, body, fault)
            return await self._whole(request, body, fault)
        except asyncio.CancelledError:
            self.given_up += 1
            raise

    async def _stream(
        self, request: web.Request, body: dict[str, Any], fault: Fault
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        done = 0
        pieces, finish = answer(body)
        if fault.kind and not fault.after:
            await self._break(request, fault, response)
            return response
        if "messages" in body:
            await response.write(event(body, {"role": "assistant", "content": ""}, None))
        for _ in range(0 if _is_probe(body) else self.padding):
            await response.write(encode(body, {"choices": [], "padding": "x" * 2**16}))
        for thought in self.reasoning:
            await response.write(event(body, {"reasoning": thought}, None))
        for number, piece in enumerate(pieces, 1):
            await asyncio.sleep(self.tpot_s)
            last = finish if number == len(pieces) and fault.after != number else None
            await response.write(event(body, {"content": piece}, last))
            done = number
            self.tokens += 1
            if fault.kind and number == fault.after:
                await self._break(request, fault, response)
                return response
        if (body.get("stream_options") or {}).get("include_usage"):
            await response.write(encode(body, {"choices": [], "usage": usage(body, done)}))
        if fault.kind != "undone":
            await response.write(b"data: [DONE]\n\n")
        return response

    async def _whole(
        self, request: web.Request, body: dict[str, Any], fault: Fault
    ) -> web.StreamResponse:
        pieces, finish = answer(body)
        await asyncio.sleep(self.tpot_s * len(pieces))
        choice = {"index": 0, "text": "".join(pieces), "finish_reason": finish}
        completion = {"choices": [choice], "usage": usage(body, len(pieces))}
        if fault.kind:
            response = web.StreamResponse(headers={"Content-Length": "1000"})
            await response.prepare(request)
            await response.write(json.dumps(completion).encode()[:20])
            await self._break(request, fault, response)
        return web.json_response(completion)

    async def _break(
        self, request: web.Request, fault: Fault, response: web.StreamResponse | None = None
    ) -> None:
        if fault.kind == "hang":
            await asyncio.sleep(3600)
        if response is not None and fault.kind == "half":
            await response.write(b'data: {"choices": [{"index": 0, "te')
        if response is not None and fault.kind == "error":
            error = {"message": "EngineCore died", "type": "InternalServerError", "code": 500}
            await response.write(
                encode(await request.json(), {"error": error}) + b"data: [DONE]\n\n"
            )
        if response is not None and fault.kind == "abort":
            await response.write(event(await request.json(), {"content": ""}, "abort"))
            await response.write(b"data: [DONE]\n\n")
        if fault.kind in ("cut", "half"):
            await asyncio.sleep(0.01)  # what was written goes out first
            request.transport.abort()
            await asyncio.sleep(3600)

    async def _tokenize(self, request: web.Request) -> web.Response:
        wrong = request.content_type != "application/json"
        text = "" if wrong else (await request.json())["prompt"]
        known = next((n for n in range(1, len(ANSWER)) if text == joined(n).rstrip()), None)
        status = 200 if self.tokenizes and known is not None else 404
        return web.json_response({"count": known, "tokens": []}, status=status)

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(text=f'vllm:generation_tokens_total{{engine="0"}} {self.tokens}\n')

    async def _echo(self, request: web.Request) -> web.Response:
        self.heads.append(dict(request.headers))
        content = await request.read()
        echo = {"method": request.method, "path": request.raw_path, "bytes": len(content)}
        return web.json_response(
            echo, headers={"X-Theirs": "1", "Connection": "X-Hop", "X-Hop": "1"}
        )


def _is_probe(body: dict[str, Any]) -> bool:
    return bool(body.get("prompt") == "Hi" and body.get("max_tokens") == 1)


async def _health(_: web.Request) -> web.Response:
    return web.Response()


def joined(tokens: int) -> str:
    return "".join(ANSWER[:tokens])


def answer(body: dict[str, Any]) -> tuple[tuple[str, ...], str]:
    """The tokens that follow the prompt, and why they end."""
    prompt = body.get("prompt") or ""
    if "messages" in body:
        last = body["messages"][-1]
        # As many chat templates do: blanks at the end of a message are dropped.
        prompt = last["content"].strip() if body.get("continue_final_message") else ""
    ends = [n for n in range(1, len(ANSWER) + 1) if prompt.endswith(joined(n).rstrip())]
    # The furthest; of those that only blanks tell apart the first, whose blanks come again.
    count = max(ends, key=lambda n: (len(joined(n).rstrip()), -n), default=0)
    blanks = joined(count)[len(joined(count).rstrip()) :]
    rest = (blanks + ANSWER[count], *ANSWER[count + 1 :]) if count < len(ANSWER) else ()
    most = body.get("max_tokens") or body.get("max_completion_tokens")
    cut = rest if most is None else rest[:most]
    return cut, "stop" if len(cut) == len(rest) else "length"


def event(body: dict[str, Any], delta: dict[str, Any], finish: str | None) -> bytes:
    choice: dict[str, Any] = {"index": 0, "finish_reason": finish}
    choice |= {"delta": delta} if "messages" in body else {"text": delta.get("content", "")}
    return encode(body, {"choices": [choice]})


def encode(body: dict[str, Any], chunk: dict[str, Any]) -> bytes:
    """An event of the answer to that request, whose name all of its events have."""
    head = {"id": f"cmpl-{id(body)}", "created": 1, "model": MODEL}
    return f"data: {json.dumps(head | chunk)}\n\n".encode()


def usage(body: dict[str, Any], tokens: int) -> dict[str, int]:
    """A prompt has ten tokens, and those of the answer that it ends with."""
    prompt = 10 + len(ANSWER) - len(answer(body | {"max_tokens": 10**6})[0])
    return {
        "prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens
    }  # fmt: skip


@contextlib.asynccontextmanager
async def served(app: web.Application, port: int = 0) -> AsyncIterator[str]:
    """The URL of an application while it is served in this event loop."""
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", port, backlog=2048)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def until(condition: Callable[[], object], within_s: float = 60) -> None:
    """Wait, in the loop's own time, until the condition holds. Raises TimeoutError."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.005)


@dataclass
class Bench:
    """A router and its replicas, and a client for it."""

    router: Router
    engines: list[Engine]
    url: str
    session: aiohttp.ClientSession

    async def ask(self, path: str = COMPLETIONS, **body: Any) -> "Reply":
        """Send one request with a prompt, streamed by default, and read its whole answer."""
        about: dict[str, Any] = {"model": MODEL, "stream": True}
        if path == CHAT:
            about["messages"] = [{"role": "user", "content": "Count."}]
        else:
            about["prompt"] = "Count: "
        post = self.session.post(self.url + path, json=about | body, allow_redirects=False)
        async with post as response:
            return Reply(
                response.status,
                dict(response.headers),
                (await response.read()).decode(errors="replace"),
            )

    async def alive(self, count: int, within_s: float = 60) -> None:
        """Wait until so many replicas are trusted."""
        await until(lambda: len(self.router.pool.alive) == count, within_s)

    def replica(self, number: int) -> Any:
        return self.router.pool.replicas[f"r{number}"]

    def first(self, number: int) -> None:
        """Let the next request without a known beginning go there: it has had the fewest."""
        for each in self.router.pool:
            each.requests = 0 if each.name == f"r{number}" else 100


@dataclass(frozen=True)
class Reply:
    """An answer as a client sees it."""

    status: int
    headers: dict[str, str]
    content: str

    @property
    def chunks(self) -> list[dict[str, Any]]:
        assert self.content.endswith("\n\n"), "a stream ends with a whole event"
        rows = [row.removeprefix("data: ") for row in self.content.split("\n\n")[:-1]]
        return [json.loads(row) for row in rows if row != "[DONE]"]

    @property
    def choices(self) -> list[dict[str, Any]]:
        return [choice for chunk in self.chunks for choice in chunk.get("choices", ())]

    @property
    def text(self) -> str:
        return "".join(
            choice["text"] if "text" in choice else choice["delta"].get("content", "")
            for choice in self.choices
        )

    @property
    def error(self) -> dict[str, Any] | None:
        return next((chunk["error"] for chunk in self.chunks if "error" in chunk), None)

    @property
    def done(self) -> bool:
        return self.content.endswith("data: [DONE]\n\n")

    @property
    def finish(self) -> list[str]:
        return [choice["finish_reason"] for choice in self.choices if choice["finish_reason"]]


@contextlib.asynccontextmanager
async def bench(
    *engines: Engine, limits: Limits = QUICK, key: str | None = None, urls: tuple[str, ...] = ()
) -> AsyncIterator[Bench]:
    """A router before these replicas, and before others that run already."""
    async with contextlib.AsyncExitStack() as stack:
        for engine in engines:
            engine.url = await stack.enter_async_context(served(engine.app()))
        every = [*(engine.url for engine in engines), *urls]
        backends = tuple(Backend(f"r{number}", url) for number, url in enumerate(every))
        config = Config("127.0.0.1", 0, MODEL, backends, limits, key)
        router = Router(config, asyncio.get_running_loop().time)
        url = url_of(await stack.enter_async_context(listening(router)))
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        many = aiohttp.TCPConnector(limit=0)
        session = await stack.enter_async_context(
            aiohttp.ClientSession(headers=headers, connector=many, auto_decompress=False)
        )
        yield Bench(router, list(engines), url, session)


Play = Callable[..., Coroutine[Any, Any, None]]


def scene(
    *engines: Engine | Callable[..., Engine],
    first: int | None = 0,
    alive: int | None = None,
    **options: Any,
) -> Callable[[Play], Callable[..., None]]:
    """Decorate a test `async def test(b: Bench, …)`: it runs in virtual time, before such replicas.

    engines  copied for each test; a function of parameters of the test makes one of its own
    first    the replica that gets the first request
    alive    how many replicas are alive before the test begins: all
    """

    def decorate(play: Play) -> Callable[..., None]:
        _, *own = inspect.signature(play).parameters

        def test(**parameters: Any) -> None:
            async def whole() -> None:
                made = [_made(engine, parameters) for engine in engines]
                async with bench(*made, **options) as b:
                    await b.alive(len(engines) if alive is None else alive)
                    if first is not None:
                        b.first(first)
                    await play(b, **{name: parameters[name] for name in own})

            virtual_time.run(whole())

        makers = [engine for engine in engines if not isinstance(engine, Engine)]
        names = (name for each in makers for name in inspect.signature(each).parameters)
        test.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY)
             for name in dict.fromkeys((*own, *names))]
        )  # fmt: skip
        test.__name__, test.__doc__ = play.__name__, play.__doc__
        return test

    return decorate


def _made(engine: Engine | Callable[..., Engine], parameters: dict[str, Any]) -> Engine:
    if isinstance(engine, Engine):
        return copy.deepcopy(engine)
    return engine(*(parameters[name] for name in inspect.signature(engine).parameters))


def fault(kind: str, after: int = 0, **more: Any) -> Engine:
    return Engine(fault=Fault(kind, after, **more))


async def _forever(port: int, tpot_s: float) -> None:
    async with served(Engine(tpot_s).app(), port) as url:
        sys.stdout.write(f"{url}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_forever(int(sys.argv[1]), float((sys.argv[2:] or ["0"])[0])))

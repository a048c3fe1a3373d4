"""A fake OpenAI-shaped endpoint whose speed is known exactly.

It answers `/v1/models`, `/v1/chat/completions`, `/v1/completions`, `/tokenize` and `/health` as
vLLM does, with a given time to first token, time per token and number of concurrent requests, and
fails in a given way. `/sim/served` returns what it did and when, on the monotonic clock.

    python benchmarks/fake_endpoint.py --port 8000 --ttft 0.2 --tpot 0.02

Its tokenizer counts a word of up to 8 letters as one token and a longer one as two, and adds 4 for
each message.
"""

import argparse
import asyncio
import contextlib
import json
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from aiohttp import web

Fault = Literal["none", "error", "full", "cut", "hang", "stream-error", "html", "no-finish"]

_TEMPLATE_TOKENS = 4
_ANSWER = ("The", "lift", "goes", "up", "the", "hill", "and", "comes", "down", "every", "day.")


@dataclass(frozen=True)
class Behaviour:
    """How the endpoint acts. Times are in seconds, lengths in tokens.

    capacity    requests answered at the same time; the others queue, first come, first served
    fault       how every `fault_every`-th request fails: `error` is status 500, `full` is 429,
                `cut` closes the connection after `fault_after` tokens, `hang` falls silent there,
                `stream-error` sends an error object there, `no-finish` ends there without a finish
                reason, `html` answers with a page
    answer      the pieces of the answer, one token each, repeated when more are needed
    per_piece   tokens in one event, as vLLM sends when it is ahead of its client
    cached      tokens of each prompt that it says were cached; None: it says nothing
    key         the API key it requires; None accepts any
    """

    models: tuple[str, ...] = ("fake",)
    ttft_s: float = 0.05
    tpot_s: float = 0.01
    capacity: int = 1024
    context: int = 8192
    answer: tuple[str, ...] = _ANSWER
    answer_tokens: int = 32
    reasoning: tuple[str, ...] = ()
    reasoning_field: str = "reasoning"
    per_piece: int = 1
    cached: int | None = None
    tokenizer: bool = True
    key: str | None = None
    fault: Fault = "none"
    fault_every: int = 1
    fault_after: int = 3


@dataclass(frozen=True)
class Served:
    """What the endpoint did for one request; times are of the monotonic clock."""

    arrived: float
    admitted: float
    first_sent: float
    last_sent: float
    tokens: int


@dataclass
class FakeEndpoint:
    """The endpoint's state. `app()` builds the web application; `url` is set by `start`."""

    behaviour: Behaviour
    clock: Callable[[], float] = time.monotonic
    served: list[Served] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    """The bodies received; only the last 1000."""
    figures: Callable[["FakeEndpoint"], str] | None = None
    """What `/metrics` says; None: there is no such path."""
    present: int = 0
    """Requests that are answered or queue."""
    url: str = ""
    _count: int = 0
    _slots: asyncio.Semaphore | None = None

    def app(self) -> web.Application:
        """Build the routes. Call it in the event loop that will serve them."""
        self._slots = asyncio.Semaphore(self.behaviour.capacity)
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_get("/health", _health)
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_post("/v1/completions", self._complete)
        app.router.add_get("/sim/served", self._served)
        if self.figures:
            app.router.add_get("/metrics", self._metrics)
        if self.behaviour.tokenizer:
            app.router.add_post("/tokenize", self._tokenize)
        return app

    async def _models(self, request: web.Request) -> web.Response:
        if refusal := self._wrong_key(request):
            return refusal
        rows = [
            {"id": name, "object": "model", "max_model_len": self.behaviour.context}
            for name in self.behaviour.models
        ]
        return web.json_response({"object": "list", "data": rows})

    async def _tokenize(self, request: web.Request) -> web.Response:
        body = await request.json()
        return web.json_response({"count": _count_tokens(body), "max_model_len": 0, "tokens": []})

    async def _served(self, _: web.Request) -> web.Response:
        return web.json_response([asdict(served) for served in self.served])

    async def _metrics(self, _: web.Request) -> web.Response:
        assert self.figures is not None
        return web.Response(text=self.figures(self))

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        arrived = self.clock()
        if refusal := self._wrong_key(request):
            return refusal
        body = await request.json()
        self.requests = [*self.requests[-999:], body]
        if refusal := self._wrong_request(body):
            return refusal
        self._count += 1
        fault = self.behaviour.fault if self._count % self.behaviour.fault_every == 0 else "none"
        if fault == "error":
            return _error(500, "the engine core died", "InternalServerError")
        if fault == "full":
            return _error(429, "too many requests in the queue", "RateLimitError")
        if fault == "html":
            return web.Response(text="<html>Welcome to nginx!</html>", content_type="text/html")
        if self._slots is None:
            raise RuntimeError("the application was not built with `app()`")
        self.present += 1
        try:
            async with self._slots:
                return await self._stream(request, body, fault, arrived)
        except ConnectionResetError:  # the client has left, as it may
            return web.Response()
        finally:
            self.present -= 1

    async def _stream(
        self, request: web.Request, body: dict[str, Any], fault: Fault, arrived: float
    ) -> web.StreamResponse:
        admitted = self.clock()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        pieces, finish = _answer(self.behaviour, body)
        first = last = sent = 0.0
        async for start, events in self._paced(admitted, pieces, body, finish):
            if fault != "none" and start >= self.behaviour.fault_after:
                return await _fail(response, request, fault)
            await response.write(events)
            sent = self.clock()
            first = first or sent
            last = sent
        self.served.append(Served(arrived, admitted, first, last, len(pieces)))
        usage: dict[str, Any] = _usage(body, len(pieces))
        if self.behaviour.cached is not None:
            usage["prompt_tokens_details"] = {"cached_tokens": self.behaviour.cached}
        await response.write(_event({"choices": [], "usage": usage}))
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    async def _paced(
        self, admitted: float, pieces: list[tuple[str, str]], body: dict[str, Any], finish: str
    ) -> AsyncIterator[tuple[int, bytes]]:
        """Yield (number of the first token, bytes) when due, counted from admission: no drift.

        Events that are overdue go out in one write, as those of an engine that is late would.
        """
        chat, step = "messages" in body, self.behaviour.per_piece
        held, start = (_event(_role()) if chat else b""), 0
        for at in range(0, len(pieces), step):
            batch = pieces[at : at + step]
            done = finish if at + step >= len(pieces) else None
            piece = _piece(
                batch, chat=chat, finish=done, reasoning_field=self.behaviour.reasoning_field
            )
            held += _event(piece)
            upcoming = admitted + self.behaviour.ttft_s + (at + step) * self.behaviour.tpot_s
            due = admitted + self.behaviour.ttft_s + at * self.behaviour.tpot_s
            if (wait := due - self.clock()) > 0:
                await asyncio.sleep(wait)
            if done is None and upcoming <= self.clock() and self.behaviour.fault == "none":
                continue
            yield start, held
            held, start = b"", at + step

    def _wrong_key(self, request: web.Request) -> web.Response | None:
        key = self.behaviour.key
        if key is None or request.headers.get("Authorization") == f"Bearer {key}":
            return None
        return web.json_response({"error": "Unauthorized"}, status=401)

    def _wrong_request(self, body: dict[str, Any]) -> web.Response | None:
        model, context = body.get("model"), self.behaviour.context
        if model not in self.behaviour.models:
            return _error(404, f"The model `{model}` does not exist.", "NotFoundError")
        length = _count_tokens(body) + (body.get("max_tokens") or 1)
        if length > context:
            words = (
                f"This model's maximum context length is {context} tokens. "
                f"However, you requested {length} tokens."
            )
            return _error(400, words, "BadRequestError")
        return None


async def start(fake: FakeEndpoint, host: str, port: int) -> web.AppRunner:
    """Listen, on a free port for 0, and set `fake.url`. `cleanup()` of the result ends it."""
    runner = web.AppRunner(fake.app(), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, host, port, backlog=2048).start()
    fake.url = f"http://{host}:{runner.addresses[0][1]}/v1"
    return runner


@contextlib.contextmanager
def running(
    behaviour: Behaviour, figures: Callable[[FakeEndpoint], str] | None = None
) -> Iterator[FakeEndpoint]:
    """Serve in a thread, on a free port of 127.0.0.1; the result's `url` ends in /v1.

    figures  what `/metrics` says
    """
    fake = FakeEndpoint(behaviour, figures=figures)
    loop = asyncio.new_event_loop()
    runner = loop.run_until_complete(start(fake, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(runner.cleanup())
        loop.close()


def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Serve a fake endpoint of known speed.")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one")
    parser.add_argument("--ttft", type=float, default=0.05, help="time to first token, seconds")
    parser.add_argument("--tpot", type=float, default=0.01, help="time per further token, seconds")
    parser.add_argument("--capacity", type=int, default=1024, help="requests answered at once")
    args = parser.parse_args()
    behaviour = Behaviour(ttft_s=args.ttft, tpot_s=args.tpot, capacity=args.capacity)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(FakeEndpoint(behaviour), args.port))


async def _serve(fake: FakeEndpoint, port: int) -> None:
    runner = await start(fake, "127.0.0.1", port)
    sys.stdout.write(f"{fake.url}\n")
    sys.stdout.flush()
    try:
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def _answer(behaviour: Behaviour, body: dict[str, Any]) -> tuple[list[tuple[str, str]], str]:
    """Return the answer as (text, reasoning) pairs, a token each, and its finish reason."""
    length = behaviour.answer_tokens + len(behaviour.reasoning)
    limit = body.get("max_tokens") or length
    count = limit if body.get("ignore_eos") else min(limit, length)
    pieces = [("", piece) for piece in behaviour.reasoning][:count]
    spaced = behaviour.answer is _ANSWER
    for at in range(count - len(pieces)):
        word = behaviour.answer[at % len(behaviour.answer)]
        pieces.append((f" {word}" if spaced and at else word, ""))
    whole = count >= length and not body.get("ignore_eos")
    return pieces, "stop" if whole else "length"


def _role() -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}


def _piece(
    batch: list[tuple[str, str]], *, chat: bool, finish: str | None, reasoning_field: str
) -> dict[str, Any]:
    text = "".join(piece[0] for piece in batch)
    reasoning = "".join(piece[1] for piece in batch)
    choice: dict[str, Any] = {"index": 0, "finish_reason": finish}
    if chat:
        choice["delta"] = {"content": text} | ({reasoning_field: reasoning} if reasoning else {})
    else:
        choice["text"] = text
    return {"choices": [choice]}


def _event(body: dict[str, Any]) -> bytes:
    full = {"id": "chatcmpl-fake", "object": "chat.completion.chunk", "model": "fake"} | body
    return b"data: " + json.dumps(full, ensure_ascii=False).encode() + b"\n\n"


def _usage(body: dict[str, Any], tokens: int) -> dict[str, int]:
    prompt = _count_tokens(body)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": tokens,
        "total_tokens": prompt + tokens,
    }


def _count_tokens(body: dict[str, Any]) -> int:
    if isinstance(body.get("prompt"), list):
        return len(body["prompt"])
    messages = body.get("messages") or [{"content": body.get("prompt") or ""}]
    words = [word for message in messages for word in _text(message).split()]
    return _TEMPLATE_TOKENS * len(messages) + sum(1 if len(word) <= 8 else 2 for word in words)


def _text(message: dict[str, Any]) -> str:
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return " ".join(part.get("text", "") for part in content)


def _error(status: int, message: str, kind: str) -> web.Response:
    error = {"message": message, "type": kind, "param": None, "code": status}
    return web.json_response({"error": error}, status=status)


async def _fail(
    response: web.StreamResponse, request: web.Request, fault: Fault
) -> web.StreamResponse:
    if fault == "hang":
        await asyncio.sleep(3600)
    elif fault == "stream-error":
        error = {"message": "EngineCore encountered an issue", "type": "InternalServerError"}
        await response.write(_event({"error": error}) + b"data: [DONE]\n\n")
    elif fault == "cut" and request.transport is not None:
        request.transport.abort()
    return response


async def _health(_: web.Request) -> web.Response:
    return web.Response()


if __name__ == "__main__":
    main()

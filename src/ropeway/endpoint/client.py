"""The streaming client for OpenAI-compatible servers: one request in, times and tokens out.

All times are seconds of one monotonic clock. A request is watched by a `Stopwatch`, which can be
frozen into a `Timing` at any moment: what arrived before a failure or a Ctrl-C is never lost.
"""

import asyncio
import contextlib
import errno
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self
from urllib.parse import urlsplit

import aiohttp

from ropeway.endpoint.stream import Clock, Delta, SseParser, Stopwatch, Timing
from ropeway.errors import EndpointError, Refused
from ropeway.phrases import joined, phrase
from ropeway.suggest import nearest

Message = Mapping[str, Any]

REHEARSAL_OWNER = "ropeway rehearsal"  # what `owned_by` says at a rehearsal's endpoint
_CONNECT_S = 10.0
# uvicorn, which vLLM serves with, drops idle connections after 5 s; a request sent just then would
# fail although nothing is wrong. We let go of them first.
_KEEPALIVE_S = 2.0


class RequestFailed(EndpointError):
    """One request failed, or its answer is incomplete. Failures are grouped by `kind`."""

    kind: ClassVar[str]

    def __init_subclass__(cls, kind: str) -> None:
        cls.kind = kind


class ServerAway(RequestFailed, kind="server away"):
    """No server answers at this address."""


class ModelUnknown(RequestFailed, kind="model unknown"):
    """The server does not serve this model."""


class KeyRefused(RequestFailed, kind="key refused"):
    """The server requires another API key."""


class BadRequest(RequestFailed, kind="bad request"):
    """The server refuses the request as it is: too long, a wrong parameter."""


class ServerFailed(RequestFailed, kind="server error"):
    """The server reports a fault of its own (5xx, or 429 when it is overloaded)."""


class StreamBroke(RequestFailed, kind="stream broke"):
    """The stream of the answer ended too early."""


class TimedOut(RequestFailed, kind="timeout"):
    """Nothing arrived within the endpoint's timeout."""


class NotOpenAI(RequestFailed, kind="not an OpenAI server"):
    """Something answers at this address that is not an OpenAI-compatible server."""


@dataclass(frozen=True)
class Endpoint:
    """Where requests go: base URL (see `normalise_url`), key, and the longest silence."""

    url: str
    key: str | None = field(default=None, repr=False)
    key_name: str = "OPENAI_API_KEY"
    """The environment variable the key came from, to be named when the key is refused."""
    timeout_s: float = 300.0
    """The longest wait for the next piece of a stream, the first one included."""
    way_there: str = ""
    """What opens a way to an address that is not reached from everywhere."""


@dataclass(frozen=True)
class Request:
    """One chat completion. `max_tokens` and `temperature` None: the server decides."""

    model: str
    messages: Sequence[Message]
    max_tokens: int | None = None
    temperature: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ServedModel:
    """A row of `/v1/models`; `context` is vLLM's `max_model_len`, tokens, None elsewhere.

    rehearsed  whether it is no model: the virtual endpoint of a rehearsal answers in its name
    """

    name: str
    context: int | None
    rehearsed: bool = False


def normalise_url(text: str) -> str:
    """Return the base URL for what a user typed: `host:8000`, `http://host:8000`, `…/v1`, `…/v1/`.

    A missing scheme is http; a missing path is `/v1`; any other path stays. Raises Refused.
    """
    typed = text.strip()
    full = typed if "://" in typed else f"http://{typed}"
    full = full.replace("://:", "://127.0.0.1:", 1)
    hint = "write it like `http://127.0.0.1:8000/v1`"
    try:
        parts = urlsplit(full)
        port = parts.port
    except ValueError as error:
        why = str(error).lower()
        raise Refused(
            phrase("`{typed}` is not a URL: {why}", typed=typed, why=why), hint=hint
        ) from error
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise Refused(phrase("`{typed}` is not the URL of an HTTP server", typed=typed), hint=hint)
    if parts.username is not None or parts.query or parts.fragment:
        raise Refused("the URL may have only host, port and path, no password or query", hint=hint)
    if any(ch.isspace() for ch in typed):
        raise Refused(phrase("`{typed}` has a space in it", typed=typed), hint=hint)
    path = parts.path.rstrip("/").removesuffix("/completions").removesuffix("/chat")
    return f"{parts.scheme}://{parts.netloc}{path.rstrip('/') or '/v1'}"


async def served_model(endpoint: Endpoint, name: str | None) -> ServedModel:
    """Return the model of this name, or the first that the server lists.

    A name that is not listed is returned too: the server knows its aliases, and refuses a wrong
    name itself. Raises RequestFailed, and Refused when there is no name at all.
    """
    async with Client(endpoint) as client:
        models = await client.models()
    if name is not None:
        rehearsed = any(model.rehearsed for model in models)
        alias = ServedModel(name, None, rehearsed)
        return next((model for model in models if model.name == name), alias)
    if not models:
        raise Refused("the server lists no model", where=endpoint.url, hint="name it: `--model`")
    return models[0]


class Client:
    """A session with one endpoint: `async with Client(endpoint) as client`.

    Proxies of the environment are not used: an endpoint on this machine or in the cluster is never
    behind one, and a proxy that cannot reach it would answer in its place.
    """

    _session: aiohttp.ClientSession

    def __init__(self, endpoint: Endpoint, clock: Clock = time.monotonic) -> None:
        self.endpoint = endpoint
        self.clock = clock

    async def __aenter__(self) -> Self:
        key = self.endpoint.key
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_S),
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=_CONNECT_S, sock_read=self.endpoint.timeout_s
            ),
            trust_env=False,
            trace_configs=[_starts_watch()],
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def ask(
        self,
        request: Request,
        *,
        watch: Stopwatch | None = None,
        on_delta: Callable[[Delta], None] | None = None,
    ) -> Timing:
        """Send one request and follow its stream to the end.

        `on_delta` is called for each piece as it comes. Raises RequestFailed; `watch` then has
        what arrived before.
        """
        watch = watch or Stopwatch(self.clock)
        url, body, model = self.endpoint.url + "/chat/completions", _body(request), request.model
        async with self._answer(url, watch, json=body, model=model) as response:
            await self._follow(response, watch, on_delta)
        return watch.timing()

    async def models(self) -> tuple[ServedModel, ...]:
        """Return the models that the server lists. Raises RequestFailed."""
        url = self.endpoint.url + "/models"
        async with self._answer(url, Stopwatch(self.clock)) as response:
            listed = _loads(await response.read())
        if not isinstance(listed, dict) or not isinstance(listed.get("data"), list):
            raise _not_openai(self.endpoint, "answers `/models` with something that is not a list")
        return tuple(
            ServedModel(
                str(row["id"]), row.get("max_model_len"), row.get("owned_by") == REHEARSAL_OWNER
            )
            for row in listed["data"]
            if isinstance(row, dict) and "id" in row
        )

    async def count_tokens(self, model: str, messages: Sequence[Message]) -> int | None:
        """Count this chat and its template with vLLM's `/tokenize`; None if the server has none."""
        url = self.endpoint.url.removesuffix("/v1") + "/tokenize"
        body = {"model": model, "messages": list(messages)}
        try:
            async with self._answer(url, Stopwatch(self.clock), json=body) as response:
                answer = _loads(await response.read())
        except RequestFailed:
            return None
        count = answer.get("count") if isinstance(answer, dict) else None
        return count if isinstance(count, int) else None

    @contextlib.asynccontextmanager
    async def _answer(
        self, url: str, watch: Stopwatch, *, json: object = None, model: str | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Yield the response to a request, for `model` if any. Raises RequestFailed unless 200."""
        method = "GET" if json is None else "POST"
        sending = self._session.request(method, url, json=json, trace_request_ctx=watch)
        try:
            async with sending as response:
                if response.status != 200:
                    raise await self._refusal(response, model)
                yield response
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _explain(error, self.endpoint, watch) from error

    async def _follow(
        self,
        response: aiohttp.ClientResponse,
        watch: Stopwatch,
        on_delta: Callable[[Delta], None] | None,
    ) -> None:
        if "event-stream" not in response.content_type:
            raise await self._no_stream(response)
        parser = SseParser()
        async for received in response.content.iter_any():
            for data in parser.feed(received):
                if data == "[DONE]":
                    await _drain(response)
                    return self._closed(watch, done=True)
                self._take(data, watch, on_delta)
        for data in parser.close():
            if data != "[DONE]" and _loads(data) is not None:
                self._take(data, watch, on_delta)
        return self._closed(watch, done=False)

    def _take(self, data: str, watch: Stopwatch, on_delta: Callable[[Delta], None] | None) -> None:
        event = _loads(data)
        try:
            if event.get("error") or event.get("object") == "error":
                raise _broke(
                    self.endpoint,
                    watch,
                    phrase("the server says: {message}", message=_message(event)),
                )
            delta = watch.add(event)
        except (TypeError, AttributeError, LookupError) as error:
            why = phrase("`{data}` is not an event of a completion", data=data[:80])
            raise _broke(self.endpoint, watch, why) from error
        if delta is not None and on_delta is not None:
            on_delta(delta)

    def _closed(self, watch: Stopwatch, *, done: bool) -> None:
        """Check that a stream that has ended was complete. Raises StreamBroke."""
        if watch.finish_reason == "abort":
            raise _broke(self.endpoint, watch, "the server aborted the request")
        if watch.finish_reason or (done and watch.tokens):
            return
        raise _broke(self.endpoint, watch, "the stream ended without a finish reason")

    async def _no_stream(self, response: aiohttp.ClientResponse) -> RequestFailed:
        body = _loads(await response.read())
        if isinstance(body, dict) and (body.get("error") or body.get("object") == "error"):
            return ServerFailed(
                phrase("the server says: {message}", message=_message(body)),
                where=self.endpoint.url,
            )
        return _not_openai(
            self.endpoint,
            phrase("answers with `{kind}` instead of an event stream", kind=response.content_type),
        )

    async def _refusal(self, response: aiohttp.ClientResponse, model: str | None) -> RequestFailed:
        status, where = response.status, self.endpoint.url
        body = _loads(await response.read())
        message = _message(body) or response.reason or "no reason given"
        if status in (401, 403):
            return _key_refused(self.endpoint, status, message)
        if status == 404 and model is not None and isinstance(body, dict):
            return await self._not_found(model, message)
        if status in (404, 405):
            return _not_openai(
                self.endpoint, phrase("answers a basic request with `{status}`", status=status)
            )
        if status >= 500 or status == 429:
            what = phrase(
                "the server failed with {status}: {message}", status=status, message=message
            )
            return ServerFailed(what, where=where, hint="read the engine's log with `ropeway logs`")
        too_long = "context length" in message or "max_tokens" in message
        hint = "send less text, or ask for fewer tokens with `--max-tokens`" if too_long else None
        return BadRequest(
            phrase("the server refuses the request: {message}", message=message),
            where=where,
            hint=hint,
        )

    async def _not_found(self, model: str, message: str) -> RequestFailed:
        names = [served.name for served in await self.models()]
        if model in names or not names:
            return _not_openai(
                self.endpoint,
                phrase(
                    "has no such call for model `{model}`: {message}", model=model, message=message
                ),
            )
        near = nearest(model, names)
        hint = (
            phrase("did you mean {names}?", names=f"`--model {near[0]}`")
            if near
            else "name one of these: `--model`"
        )
        return ModelUnknown(
            phrase("the server has no model `{model}`", model=model),
            where=self.endpoint.url,
            evidence=(
                phrase("it serves: {names}", names=", ".join(f"`{name}`" for name in names)),
            ),
            hint=hint,
        )


def _starts_watch() -> aiohttp.TraceConfig:
    """Start a request's watch when its headers are written, not when we begin to build it.

    With 256 clients starting together the difference is 130 ms of our own work (building requests,
    opening connections), which would count as the server's time to first token.
    """

    async def on_sent(_: object, context: Any, __: object) -> None:
        if isinstance(context.trace_request_ctx, Stopwatch):
            context.trace_request_ctx.start()

    trace = aiohttp.TraceConfig()
    trace.on_request_headers_sent.append(on_sent)
    return trace


def _body(request: Request) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": request.model,
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": list(request.messages),
    }
    if request.max_tokens is not None:
        body["max_tokens"] = request.max_tokens
    if request.temperature is not None:
        body["temperature"] = request.temperature
    return body | dict(request.extra)


async def _drain(response: aiohttp.ClientResponse) -> None:
    """Try for a second to read the end of the body, so that the connection can be used again."""
    with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
        async with asyncio.timeout(1.0):
            await response.read()


def _loads(data: bytes | str) -> Any:
    try:
        return json.loads(data)
    except ValueError:
        return None


def _message(body: object) -> str:
    """Return the server's message, in any of the usual shapes; at most 400 characters."""
    if not isinstance(body, dict):
        return ""
    error = body.get("error", body)
    message = error.get("message") if isinstance(error, dict) else error
    if not message and "detail" in body:
        message = body["detail"]
    text = message if isinstance(message, str) else json.dumps(message, ensure_ascii=False)
    return " ".join(text.split())[:400] if message else ""


def _explain(error: Exception, endpoint: Endpoint, watch: Stopwatch) -> RequestFailed:
    """Translate a transport error."""
    url = endpoint.url
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        what = phrase("no connection within {limit:.0f} s", limit=_CONNECT_S)
        return ServerAway(what, where=url, hint="check the host, and any firewall in front of it")
    if isinstance(error, TimeoutError):
        template = "nothing arrived for {limit:g} s"
        if watch.tokens:
            template = "nothing arrived for {limit:g} s after {tokens} tokens"
        return TimedOut(
            phrase(template, limit=endpoint.timeout_s, tokens=watch.tokens),
            where=url,
            hint="wait longer with `--timeout`, or read the engine's log with `ropeway logs`",
        )
    if isinstance(error, aiohttp.ClientSSLError):
        hint = "if the server has no TLS, begin the URL with `http://`"
        return ServerAway(
            phrase("the TLS handshake failed: {error}", error=error), where=url, hint=hint
        )
    if isinstance(error, aiohttp.ClientConnectorError):
        return _cannot_connect(error, endpoint)
    if isinstance(error, aiohttp.ClientResponseError | aiohttp.InvalidURL):
        return _not_openai(endpoint, "does not answer in HTTP")
    if isinstance(error, aiohttp.ClientPayloadError | aiohttp.ServerDisconnectedError):
        return _broke(endpoint, watch, "the server closed the connection before the end")
    return _broke(endpoint, watch, str(error) or type(error).__name__)


def _cannot_connect(error: aiohttp.ClientConnectorError, endpoint: Endpoint) -> RequestFailed:
    url = endpoint.url
    # asyncio puts words of its own into `strerror`.
    number = error.os_error.errno
    reason = os.strerror(number) if number else str(error.os_error)
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return ServerAway("the host name is unknown", where=url, hint="check its spelling")
    if number in (errno.EMFILE, errno.ENFILE):
        hint = "raise the limit with `ulimit -n 8192`, or use fewer clients"
        return ServerAway("this process has too many open files", where=url, hint=hint)
    return ServerAway(
        phrase("no server answers: {reason}", reason=reason.lower()),
        where=url,
        hint=joined(
            filter(
                None,
                (
                    endpoint.way_there,
                    phrase("check the URL, or see what is running with `ropeway status`"),
                ),
            ),
            "\n",
        ),
    )


def _broke(endpoint: Endpoint, watch: Stopwatch, why: str) -> RequestFailed:
    template = "the stream broke before the first token"
    if watch.tokens:
        template = "the stream broke after {tokens} tokens"
    return StreamBroke(
        phrase(template, tokens=watch.tokens),
        where=endpoint.url,
        evidence=(why,),
        hint="check the engine with `ropeway status` and `ropeway logs`",
    )


def _key_refused(endpoint: Endpoint, status: int, message: str) -> RequestFailed:
    name = endpoint.key_name
    what = phrase("the server refuses the API key ({status})", status=status)
    if endpoint.key is None:
        what = phrase(
            "the server requires an API key, and `{name}` is not set ({status})",
            name=name,
            status=status,
        )
    hint = phrase(
        "set it with `export {name}=…`, or name another variable with `--key-env`", name=name
    )
    return KeyRefused(what, where=endpoint.url, evidence=(message,), hint=hint)


def _not_openai(endpoint: Endpoint, why: str) -> RequestFailed:
    return NotOpenAI(
        phrase("this is not an OpenAI-compatible server: it {why}", why=why),
        where=endpoint.url,
        hint="check host and port; the base URL usually ends in `/v1`",
    )

"""The streaming client for OpenAI-compatible servers: one request in, times and tokens out.

All times are seconds of one monotonic clock. A request is watched by a `Stopwatch`, which can be
frozen into a `Timing` at any moment: what arrived before a failure or a Ctrl-C is never lost.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Self

import aiohttp

from ropeway.endpoint.address import Endpoint
from ropeway.endpoint.failures import (
    BadRequest,
    ModelUnknown,
    NotOpenAI,
    RequestFailed,
    ServerAway,
    broke,
    cannot_connect,
    no_connection_within,
    no_handshake,
    not_openai,
    not_trusted,
    nothing_within,
)
from ropeway.endpoint.follower import Follower, check_plain, no_stream, refusal, too_long
from ropeway.endpoint.metrics import LONGEST_METRICS, Reading, read_metrics
from ropeway.endpoint.request import (
    CONNECT_S,
    KEEPALIVE_S,
    LONGEST_DOCUMENT,
    Message,
    Request,
)
from ropeway.endpoint.stream import Clock, Delta, Stopwatch, Timing
from ropeway.endpoint.words import LONGEST_WORDS, server_words
from ropeway.errors import Refused
from ropeway.models.task import PATHS, QUESTIONS, curl_line, task_words
from ropeway.outside import parse_json
from ropeway.phrases import phrase
from ropeway.suggest import nearest

REHEARSAL_OWNER = "ropeway rehearsal"  # what `owned_by` says at a rehearsal's endpoint
_NOTHING: Mapping[str, Any] = MappingProxyType({})
_LONGEST_REST = 2**16
_MOST_MODELS = 1000
_MOST_SHOWN = 30


@dataclass(frozen=True)
class ServedModel:
    """A row of `/v1/models`; `context` is vLLM's `max_model_len`, tokens, None elsewhere.

    rehearsed  whether it is no model: the virtual endpoint of a rehearsal answers in its name
    """

    name: str
    context: int | None
    rehearsed: bool = False


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


def open_session(
    endpoint: Endpoint, silence_s: float, *, connector: Mapping[str, Any] = _NOTHING, **more: Any
) -> aiohttp.ClientSession:
    """Return a session with one endpoint, which ends a request only after so long a silence.

    Proxies of the environment are not used: an endpoint on this machine or in the cluster is never
    behind one, and a proxy that cannot reach it would answer in its place. `more`, and `connector`
    for its connector: see aiohttp.
    """
    key = {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
    options = {"limit": 0, "keepalive_timeout": KEEPALIVE_S, **connector}
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(**options),
        headers={"Accept-Encoding": "identity", **key},
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=silence_s),
        trust_env=False,
        auto_decompress=False,
        **more,
    )


class Client:
    """A session with one endpoint: `async with Client(endpoint) as client`."""

    _session: aiohttp.ClientSession

    def __init__(self, endpoint: Endpoint, clock: Clock = time.monotonic) -> None:
        self.endpoint = endpoint
        self.clock = clock

    async def __aenter__(self) -> Self:
        self._session = open_session(
            self.endpoint, self.endpoint.timeout_s, trace_configs=[_starts_watch()]
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
        url, body, model = self.endpoint.url + "/chat/completions", request.body(), request.model
        async with self._answer(url, watch, json=body, model=model) as response:
            await self._follow(response, watch, on_delta)
        return watch.timing()

    async def models(self) -> tuple[ServedModel, ...]:
        """Return the models that the server lists. Raises RequestFailed."""
        url = self.endpoint.url + "/models"
        async with self._answer(url, Stopwatch(self.clock)) as response:
            listed = await self._document(response)
        rows = listed.get("data") if isinstance(listed, dict) else None
        if not isinstance(rows, list):
            raise not_openai(self.endpoint, "answers `/models` with something that is not a list")
        served = (_served(row) for row in rows[:_MOST_MODELS])
        return tuple(model for model in served if model is not None)

    async def metrics(self) -> Reading | None:
        """Return what the engines say of themselves; None where nobody says anything of vLLM's.

        Raises RequestFailed when there is no answer, or none that is whole within the timeout.
        """
        url = self.endpoint.url.removesuffix("/v1") + "/metrics"
        try:
            async with self._answer(url, Stopwatch(self.clock)) as response:
                return read_metrics(await self._whole(response, LONGEST_METRICS))
        except NotOpenAI:  # it has no such path, or something else there
            return None

    async def beside(self, path: str) -> Any:
        """Return the JSON that a server has beside its API; None where it has no such path."""
        url = self.endpoint.url.removesuffix("/v1") + path
        try:
            async with self._answer(url, Stopwatch(self.clock)) as response:
                return await self._document(response)
        except RequestFailed:
            return None

    async def count_tokens(self, model: str, messages: Sequence[Message]) -> int | None:
        """Count this chat and its template with vLLM's `/tokenize`; None if the server has none."""
        return await self._count({"model": model, "messages": list(messages)})

    async def count_text(self, model: str, text: str) -> int | None:
        """Count the tokens of a text alone, likewise."""
        return await self._count({"model": model, "prompt": text, "add_special_tokens": False})

    async def _count(self, body: Mapping[str, Any]) -> int | None:
        url = self.endpoint.url.removesuffix("/v1") + "/tokenize"
        try:
            async with self._answer(url, Stopwatch(self.clock), json=body) as response:
                answer = await self._document(response)
        except RequestFailed:
            return None
        count = answer.get("count") if isinstance(answer, dict) else None
        return count if type(count) is int and count > 0 else None

    @contextlib.asynccontextmanager
    async def _answer(
        self, url: str, watch: Stopwatch, *, json: object = None, model: str | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Yield the response to a request, for `model` if any. Raises RequestFailed unless 200."""
        method = "GET" if json is None else "POST"
        sending = self._session.request(
            method, url, json=json, allow_redirects=False, trace_request_ctx=watch
        )
        begins = asyncio.timeout(CONNECT_S + self.endpoint.timeout_s)
        try:
            async with begins, sending as response:
                begins.reschedule(None)  # what follows has bounds of its own
                if response.status != 200:
                    raise await self._refusal(response, model)
                yield response
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise explain(error, self.endpoint, watch.tokens) from error

    async def _follow(
        self,
        response: aiohttp.ClientResponse,
        watch: Stopwatch,
        on_delta: Callable[[Delta], None] | None,
    ) -> None:
        if "event-stream" not in response.content_type:
            body = await self._document(response)
            raise no_stream(self.endpoint, response.content_type, body)
        check_plain(self.endpoint, response.headers.get("Content-Encoding", "identity"))
        follower = Follower(self.endpoint, watch)
        on_delta = on_delta or _ignore
        async for received in response.content.iter_any():
            for delta in follower.feed(received):
                on_delta(delta)
            if follower.done:
                await _drain(response)
                break
        for delta in follower.close():
            on_delta(delta)

    async def _document(self, response: aiohttp.ClientResponse) -> Any:
        """Return the JSON of an answer that is no stream, None for anything else.

        Raises NotOpenAI or TimeoutError.
        """
        return _parsed(await self._whole(response, LONGEST_DOCUMENT))

    async def _whole(self, response: aiohttp.ClientResponse, most: int) -> bytes:
        """Return an answer of at most so many bytes.

        It is read piece by piece, so that one that does not end fills neither memory nor time.
        Raises NotOpenAI or TimeoutError.
        """
        check_plain(self.endpoint, response.headers.get("Content-Encoding", "identity"))
        data = bytearray()
        async with asyncio.timeout(self.endpoint.timeout_s):
            async for received in response.content.iter_any():
                data += received
                if len(data) > most:
                    raise too_long(self.endpoint, most)
        return bytes(data)

    async def _refusal(self, response: aiohttp.ClientResponse, model: str | None) -> RequestFailed:
        status = response.status
        target = response.headers.get("Location")
        if target and 300 <= status < 400:
            return refusal(self.endpoint, status, "", target[:LONGEST_WORDS])
        try:
            body = await self._document(response)
        except NotOpenAI:  # too long to be a reason
            body = None
        message = server_words(body) or response.reason or "no reason given"
        if status in (401, 403):
            return refusal(self.endpoint, status, message)
        wrong_task = status in (404, 405, 501) or "not support" in message
        if model is not None and wrong_task and (other := await self._other_task(model)):
            return other
        if status == 404 and model is not None and isinstance(body, dict):
            return await self._not_found(model, message)
        return refusal(self.endpoint, status, message)

    async def _other_task(self, model: str) -> RequestFailed | None:
        """Say what a server that refuses to generate does instead; releases refuse differently."""
        for task, question in QUESTIONS.items():
            url, body = self.endpoint.url.removesuffix("/v1") + PATHS[task], {"model": model}
            with contextlib.suppress(RequestFailed):
                async with self._answer(url, Stopwatch(self.clock), json=body | dict(question)):
                    what = phrase("the model {does}, and generates nothing", does=task_words(task))
                    return BadRequest(what, where=url, hint=curl_line(task, url, model))
        return None

    async def _not_found(self, model: str, message: str) -> RequestFailed:
        names = [served.name for served in await self.models()]
        if model in names or not names:
            return not_openai(
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
            evidence=(phrase("it serves: {names}", names=listed([f"`{name}`" for name in names])),),
            hint=hint,
        )


def _ignore(_: Delta) -> None:
    pass


def listed(names: Sequence[str]) -> str:
    """Return names of models as one line, of very many the first."""
    rest = ("…",) if len(names) > _MOST_SHOWN else ()
    return ", ".join((*names[:_MOST_SHOWN], *rest))


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


async def _drain(response: aiohttp.ClientResponse) -> None:
    """Try for a second to read the end of the body, so that the connection can be used again."""
    with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
        async with asyncio.timeout(1.0):
            rest = 0
            async for received in response.content.iter_any():
                rest += len(received)
                if rest > _LONGEST_REST:
                    return


def _parsed(data: bytes | str) -> Any:
    """Return a document, None when it is none, or more than we take."""
    with contextlib.suppress(ValueError):
        return parse_json(data)
    return None


def _served(row: object) -> ServedModel | None:
    """Return a row of `/v1/models`; None for one without a name that can be shown."""
    name = row.get("id") if isinstance(row, dict) else None
    if not isinstance(row, dict) or not isinstance(name, str) or len(name) > LONGEST_WORDS:
        return None
    context = row.get("max_model_len")
    known = type(context) is int and context > 0
    return ServedModel(name, context if known else None, row.get("owned_by") == REHEARSAL_OWNER)


def explain(error: Exception, endpoint: Endpoint, tokens: int = 0) -> RequestFailed:
    """Return a transport error, after so many tokens of an answer, in the words for the user."""
    url = endpoint.url
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return no_connection_within(endpoint, CONNECT_S)
    if isinstance(error, TimeoutError):
        single_bytes = not isinstance(error, aiohttp.ServerTimeoutError)
        return nothing_within(endpoint, tokens, single_bytes=single_bytes)
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        why = getattr(error.certificate_error, "verify_message", error)
        return not_trusted(endpoint, str(why))
    if isinstance(error, aiohttp.ClientSSLError):
        return no_handshake(endpoint, error)
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return ServerAway("the host name is unknown", where=url, hint="check its spelling")
    if isinstance(error, aiohttp.ClientConnectorError):
        # asyncio puts words of its own into `strerror`.
        return cannot_connect(endpoint, error.os_error.errno, str(error.os_error))
    if isinstance(error, aiohttp.ClientResponseError | aiohttp.InvalidURL):
        return not_openai(endpoint, "does not answer in HTTP")
    if isinstance(error, aiohttp.ClientPayloadError | aiohttp.ServerDisconnectedError):
        return broke(endpoint, tokens, "the server closed the connection before the end")
    return broke(endpoint, tokens, str(error) or type(error).__name__)

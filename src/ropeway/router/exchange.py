"""One request, from the client to a replica and back, on another replica if that one fails.

Nothing is sent to the client before a replica has generated something. Until then another replica
is asked after a failure; later a stream is continued elsewhere (`resume`) or ends with an error
event. An answer that is not streamed is read completely first, so it never breaks.
"""

import asyncio
import contextlib
import json
import logging
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web
from aiohttp.http import HttpVersion11
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDict

from ropeway.router import events, headers
from ropeway.router.probe import ENGINE_PATHS, count_tokens
from ropeway.router.replicas import Attempt, Pool, Replica
from ropeway.router.request import ParsedRequest
from ropeway.router.resume import CannotResume, Splice, prefix_of, resumption
from ropeway.router.transcript import PartialAnswer, Transcript
from ropeway.router.upstream import Answer, CannotConnect, Sink, Upstreams

log = logging.getLogger("ropeway.router")

SHUTDOWN = "the router is shutting down"
# What a replica says of its failure is handed on so far.
_WHY_CHARS = 2000
# Events as small as they can be: some thousand, which are read in 20 ms.
_PIECE_BYTES = 2**15
# A client that is behind by more than this is waited for.
_UNSENT_BYTES = 2**16
# After `[DONE]`, for the end of the answer, so that the connection can be used again.
_END_S = 0.2
# Of the tokens of a stream that come in less than this only one is looked for.
_TOKEN_S = 0.05
_EVENTS = "text/event-stream"


class ReplicaFailed(Exception):
    """A replica failed to answer.

    held     it had received the request, which may be the cause; False: nobody was listening
    suspect  only a suspect: the request may be to blame, until another replica has answered it
    answer   its own answer, if that was a 5xx
    """

    def __init__(
        self,
        why: str,
        *,
        held: bool = True,
        suspect: bool = False,
        answer: web.Response | None = None,
    ) -> None:
        super().__init__(why[:_WHY_CHARS])
        self.held = held
        self.suspect = suspect
        self.answer = answer


class GiveUp(Exception):
    """No further replica is asked; the text says why."""

    def __init__(self, why: str, code: int = 502) -> None:
        super().__init__(why)
        self.code = code


class ClientGone(Exception):
    """The client has closed its connection; nobody is left to answer."""


class _Streamed(web.StreamResponse):
    """Sends its head together with its first events: one packet less (aiohttp 3.12 and later)."""

    _send_headers_immediately = False


_OUTCOMES = (ReplicaFailed, GiveUp, ClientGone, CannotResume)


@dataclass
class Totals:
    """Counts of requests since the start, by what became of them."""

    retried: int = 0
    continued: int = 0
    broken: int = 0
    unanswered: int = 0


@dataclass
class Exchange:
    """One client's request. Call `run` once.

    content   its body as bytes; when a stream is continued, the body of the continuation
    response  the answer that the client is being sent; None before the first byte
    """

    request: web.BaseRequest
    parsed: ParsedRequest
    content: bytes | bytearray
    sent_headers: CIMultiDict[str]
    pool: Pool
    upstreams: Upstreams
    totals: Totals
    response: web.StreamResponse | None = None
    _transcript: Transcript = field(default_factory=Transcript)
    _splice: Splice | None = None
    _done: bool = False
    _failures: list[tuple[Replica, ReplicaFailed]] = field(default_factory=list)

    async def run(self) -> web.StreamResponse:
        """Return the response, sent already or still to be sent."""
        try:
            while True:
                replica = self._pick_replica()
                if self.response is not None and not await self._resume(replica):
                    break
                try:
                    answer = await self._forward(replica)
                except ReplicaFailed as failure:
                    self._note_failure(replica, failure)
                else:
                    if self._transcript.pieces:
                        self.pool.note_length(self._transcript.pieces)
                    self._assign_blame(answered=True)
                    return answer
            return await self._finish()
        except (GiveUp, CannotResume) as why:
            self._assign_blame(answered=False)
            return await self._fail(str(why), getattr(why, "code", 502))
        except ClientGone:
            # 499 is nginx's code for this; nobody reads it.
            return self.response or web.Response(status=499)
        except Exception as error:  # a fault of ours is told like any other: no answer is just cut
            log.exception("%s", self.parsed.path)
            return await self._fail(f"the router failed: {type(error).__name__}", 500)

    def _pick_replica(self) -> Replica:
        """Choose the replica to ask. Raises GiveUp."""
        if sum(failure.held for _, failure in self._failures) >= self.pool.limits.deaths:
            raise GiveUp("the request is not tried on more replicas: it may be the cause")
        tried = {replica.name for replica, _ in self._failures}
        replica = self.pool.pick(self.parsed, tried)
        if replica is None:
            raise GiveUp(f"no {'other ' * bool(tried)}replica is alive", 502 if tried else 503)
        self.totals.retried += bool(tried) and self.response is None
        return replica

    async def _forward(self, replica: Replica) -> web.StreamResponse:
        """Forward one replica's answer. Raises ReplicaFailed, GiveUp, CannotResume, ClientGone."""
        scope = asyncio.timeout(None)
        attempt = self.pool.attempt(self.parsed, scope)
        try:
            async with scope:
                with self.pool.in_flight(replica, attempt):
                    async with self._send(replica) as upstream:
                        return await self._answer(replica, upstream, attempt)
        except _OUTCOMES:
            raise
        except Exception as error:
            if self._done:  # the answer is complete, only its connection was not
                return await self._finish()
            raise self._outcome(error, replica, attempt) from error

    def _outcome(self, error: Exception, replica: Replica, attempt: Attempt) -> Exception:
        """Return what an error means for the request."""
        why = str(error) or type(error).__name__
        if isinstance(error, CannotConnect):
            if error.ours:
                return GiveUp(f"the router {why}", 503)
            return ReplicaFailed(why, held=False)
        if isinstance(error, TimeoutError):
            if attempt.reason == SHUTDOWN:
                return GiveUp(SHUTDOWN, 503)
            return ReplicaFailed(attempt.reason or f"timeout: {why}")
        if isinstance(error, aiohttp.ClientError | HttpProcessingError | OSError):
            return ReplicaFailed(f"the connection broke: {why}")
        # Whatever a replica sends, it fails one request at most.
        log.error("%s: the answer of %s", self.parsed.path, replica.name, exc_info=error)
        return ReplicaFailed(
            f"its answer cannot be handled: {type(error).__name__}: {why}", suspect=True
        )

    def _send(self, replica: Replica) -> AbstractAsyncContextManager[Answer]:
        url, query = self.request.rel_url, self.request.rel_url.raw_query_string
        target = f"{url.raw_path}{'?' * bool(query)}{query}"
        return self.upstreams.request(
            replica.url, self.request.method, target, self.sent_headers, self.content
        )

    async def _answer(
        self, replica: Replica, upstream: Answer, attempt: Attempt
    ) -> web.StreamResponse:
        # We ask for no compression; a stream that is compressed all the same is passed on as bytes.
        plain = upstream.headers.get("Content-Encoding", "identity") == "identity"
        stream = upstream.content_type == _EVENTS and self.parsed.streamed is not False
        if upstream.status == 200 and plain and stream:
            return await self._stream(replica, upstream, attempt)
        if self.response is not None and upstream.status < 500:
            raise CannotResume(f"the other replica answered HTTP {upstream.status}")
        content = bytearray()
        while piece := await self._piece(upstream, attempt):
            content += piece
            if len(content) > self.pool.limits.answer_bytes:
                raise GiveUp(f"the answer has more than {self.pool.limits.answer_bytes:,} bytes")
        answer = web.Response(
            status=upstream.status,
            body=content,
            headers=headers.back(upstream.headers, replica.name),
        )
        if upstream.status >= 500:
            raise ReplicaFailed(f"HTTP {upstream.status}", suspect=True, answer=answer)
        if self._unfit(upstream, content, plain=plain):
            what = upstream.content_type or "no content type"
            raise ReplicaFailed(f"HTTP {upstream.status}, {what}", suspect=True, answer=answer)
        if upstream.status == 200 and self.parsed.path in ENGINE_PATHS:
            replica.last_token = self.pool.clock()
        return answer

    def _unfit(self, upstream: Answer, content: bytearray, *, plain: bool) -> bool:
        """Return whether an answer that claims success is not the completion asked for."""
        streamed = self.parsed.streamed
        if streamed is None or not self.parsed.ends_with_done or not 200 <= upstream.status < 300:
            return False
        if upstream.status != 200 or upstream.content_type == _EVENTS:
            return upstream.status != 200 or not streamed
        # vLLM answers a stream with beam search so, too.
        return plain and not events.completion(content)

    async def _stream(
        self, replica: Replica, upstream: Answer, attempt: Attempt
    ) -> web.StreamResponse:
        """Pass a stream on in whole events, so that an error event can follow at any time.

        What comes before the first token waits for it: until then another replica can be asked.
        """
        splitter, held = events.Splitter(self.pool.limits.event_bytes), bytearray()
        while piece := await self._piece(
            upstream, attempt, self._relay(replica, attempt, splitter)
        ):
            try:
                whole = splitter.feed(piece)
            except ValueError as error:
                raise ReplicaFailed(str(error)) from error
            if not whole:
                continue
            failure = events.broken(whole)
            whole = failure.before if failure else whole
            held += whole
            token = events.generated(whole)
            if token and not failure:
                self.pool.note_token(replica, attempt, self.parsed)
            if token or self.response is not None or events.done(whole):
                await self._pass_on(bytes(held), replica, upstream)
                held.clear()
            if failure:
                raise ReplicaFailed(failure.message)
            if len(held) > self.pool.limits.event_bytes:
                raise ReplicaFailed(f"{len(held):,} bytes came, and no token")
            if self._done and self.response is not None:
                await _end_of(upstream)
                return self.response
        if self.parsed.ends_with_done:
            raise ReplicaFailed("the stream ended early")
        if splitter.within or self.response is None:
            raise ReplicaFailed("the stream ended in the middle of an event")
        return await self._finish()

    def _relay(self, replica: Replica, attempt: Attempt, splitter: events.Splitter) -> Sink | None:
        """Return what passes chunks on at once that are whole events of an answer that goes well.

        Nothing is parsed and no task wakes, which would take as long as all else (docs/router.md).
        """
        client, pool, transcript = self.request.transport, self.pool, self._transcript
        chunked = self.response is not None and self.request.version >= HttpVersion11
        if not chunked or client is None or self._splice or not self.parsed.ends_with_done:
            return None

        def relay(chunks: bytes, whole: bytes) -> bool:
            if (
                not (splitter.empty and events.plain(whole))
                or client.is_closing()
                or client.get_write_buffer_size() > _UNSENT_BYTES
            ):
                return False
            client.write(chunks)
            transcript.add(whole)
            now = pool.clock()
            if now - attempt.silent_since > _TOKEN_S and events.generated(whole):
                replica.last_token = attempt.silent_since = now
            return True

        return relay

    async def _piece(self, upstream: Answer, attempt: Attempt, relay: Sink | None = None) -> bytes:
        """Wait for bytes; while we wait for a slow client the replica is not to blame."""
        attempt.wait(self.pool.clock())
        piece = await upstream.read(_PIECE_BYTES, relay)
        if len(piece) == _PIECE_BYTES:  # a flood, which never waits: others have their turn
            await asyncio.sleep(0)
        attempt.pause(self.pool.clock())
        return piece

    async def _pass_on(self, whole: bytes, replica: Replica, upstream: Answer) -> None:
        """Send whole events to the client. Raises ClientGone, CannotResume."""
        if self._splice is not None:
            whole = self._splice.rewrite(whole)
        if not whole:
            return
        if self.response is None:
            await self._open(replica, upstream)
        if self.parsed.ends_with_done:
            self._transcript.add(whole)
            self._done = events.done(whole)
        else:
            self._transcript.count(whole)
        if self._done:
            await self._finish(whole)
        else:
            await self._write(whole)

    async def _open(self, replica: Replica, upstream: Answer) -> None:
        response = _Streamed(headers=headers.back(upstream.headers, replica.name))
        if self.request.version < HttpVersion11:
            response.force_close()  # the only mark of its end
        try:
            await response.prepare(self.request)
        except ConnectionError as error:
            raise ClientGone from error
        self.response = response

    async def _resume(self, replica: Replica) -> bool:
        """Prepare the rest of a broken stream for a replica; return False if nothing was left.

        Raises CannotResume.
        """
        answer = self._transcript.answer()
        tokens = await self._tokens(replica, answer)
        rest = resumption(self.parsed, answer, tokens)
        self.totals.continued += 1
        log.info("a stream continues on %s after %d tokens", replica.name, tokens)
        if rest.body is None:
            await self._write(rest.ending)
            return False
        self.content = json.dumps(rest.body).encode()
        self._splice = Splice(answer, rest.prefix, tokens, replica.name)
        return True

    async def _tokens(self, replica: Replica, answer: PartialAnswer) -> int:
        """Return the length of the prefix in tokens, from the most exact source there is.

        The replica's tokenizer comes first: other counts include blanks that the prefix lacks.
        """
        prefix = prefix_of(answer)
        if not prefix or answer.finish is not None or self.parsed.body is None:
            return 0
        key = {"Authorization": self.sent_headers.get("Authorization", "")}
        model = self.parsed.body.get("model")
        counted = await count_tokens(self.upstreams, replica, model, prefix, key)
        return next(n for n in (counted, answer.counted, answer.pieces) if n is not None)

    async def _fail(self, why: str, code: int) -> web.StreamResponse:
        """Tell the client of an error: by status, or in the stream once it has begun."""
        tried = [f"{replica.name}: {failure}" for replica, failure in self._failures]
        message = "; ".join([*tried, why])
        log.warning("%s: %s", self.parsed.path, message)
        if self.response is not None:
            self.totals.broken += 1
            await self._write(events.error(message, code, named=not self.parsed.ends_with_done))
            return await self._finish()
        self.totals.unanswered += 1
        last = self._failures[-1][1].answer if self._failures else None
        if last is not None:  # an answer without keys of its own is false until aiohttp 3.12
            return last
        retry = {"Retry-After": "1"} if code == 503 else {}
        return web.json_response(events.error_body(message, code), status=code, headers=retry)

    async def _write(self, data: bytes) -> None:
        """Send bytes to the client. Raises ClientGone."""
        assert self.response is not None
        try:
            await self.response.write(data)
        except ConnectionError as error:
            raise ClientGone from error

    async def _finish(self, last: bytes = b"") -> web.StreamResponse:
        assert self.response is not None
        with contextlib.suppress(ConnectionError):
            await self.response.write_eof(last)
        return self.response

    def _note_failure(self, replica: Replica, failure: ReplicaFailed) -> None:
        self._failures.append((replica, failure))
        log.warning("%s failed: %s", replica.name, failure)
        if not failure.suspect:
            self.pool.note_failure(replica, str(failure), refused=not failure.held)

    def _assign_blame(self, *, answered: bool) -> None:
        """Blame replicas for their 5xx, unless several answered so: then it may be the request."""
        suspects = [(replica, failure) for replica, failure in self._failures if failure.suspect]
        for replica, failure in suspects:
            if answered or len(suspects) == 1:
                self.pool.note_failure(replica, str(failure))
            else:
                self.pool.note_5xx(replica, str(failure))


async def _end_of(upstream: Answer) -> None:
    """Wait for the end of an answer that is complete; without it its connection is closed."""
    if not upstream.content.at_eof():
        with contextlib.suppress(TimeoutError, aiohttp.ClientError, OSError):
            async with asyncio.timeout(_END_S):
                await upstream.content.readany()

"""What a server's answer means: the stream of a completion as it comes, or a refusal. Pure."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from ropeway.endpoint.address import Endpoint
from ropeway.endpoint.failures import (
    BadRequest,
    RequestFailed,
    ServerFailed,
    broke,
    key_refused,
    not_openai,
    redirected,
)
from ropeway.endpoint.request import LONGEST_DOCUMENT
from ropeway.endpoint.stream import Delta, SseParser, Stopwatch
from ropeway.endpoint.words import server_words
from ropeway.outside import parse_json
from ropeway.phrases import phrase
from ropeway.units import format_bytes

_DECODER = msgspec.json.Decoder()
_USUAL = 2048  # the characters that an event has fewer of, unless something is odd about it


class Follower:
    """Follows a stream with a watch: `feed` its bytes, and `close` when there are no more.

    done  whether the stream said that it is complete, so that nothing of it is left to read
    """

    def __init__(self, endpoint: Endpoint, watch: Stopwatch) -> None:
        self.done = False
        self._endpoint, self._watch = endpoint, watch
        self._parser = SseParser()

    def feed(self, received: bytes) -> Iterator[Delta]:
        """Yield the pieces of the answer that these bytes complete. Raises StreamBroke."""
        with self._blamed():
            for data in self._parser.feed(received):
                if data == "[DONE]":
                    self.done = True
                    return
                if delta := self._take(data):
                    yield delta

    def close(self) -> Iterator[Delta]:
        """Yield what the last, unfinished event held. Raises StreamBroke unless all is there."""
        watch = self._watch
        with self._blamed():
            for data in self._parser.close() if not self.done else ():
                if data != "[DONE]" and _is_json(data) and (delta := self._take(data)):
                    yield delta
        if watch.finish_reason == "abort":
            raise broke(self._endpoint, watch.tokens, "the server aborted the request")
        if not (watch.finish_reason or (self.done and watch.tokens)):
            why = "the stream ended without a finish reason"
            raise broke(self._endpoint, watch.tokens, why)

    @contextlib.contextmanager
    def _blamed(self) -> Iterator[None]:
        """Raise StreamBroke for a ValueError, which says what is wrong with the stream."""
        try:
            yield
        except ValueError as error:
            raise broke(self._endpoint, self._watch.tokens, error.args[0]) from error

    def _take(self, data: str) -> Delta | None:
        event = _event(data)
        if event.get("error") or event.get("object") == "error":
            raise ValueError(phrase("the server says: {message}", message=server_words(event)))
        return self._watch.add(event)


def refusal(endpoint: Endpoint, status: int, message: str, target: str = "") -> RequestFailed:
    """Return what a status other than 200 says. `target`: where the server redirects to."""
    if target and 300 <= status < 400:
        return redirected(endpoint, status, target)
    if status in (401, 403):
        return key_refused(endpoint, status, message)
    if status in (404, 405):
        return not_openai(
            endpoint, phrase("answers a basic request with `{status}`", status=status)
        )
    if status >= 500 or status == 429:
        what = phrase("the server failed with {status}: {message}", status=status, message=message)
        hint = "read the engine's log with `ropeway logs`"
        return ServerFailed(what, where=endpoint.url, hint=hint)
    too_long = "context length" in message or "max_tokens" in message
    hint = "send less text, or ask for fewer tokens with `--max-tokens`" if too_long else ""
    return BadRequest(
        phrase("the server refuses the request: {message}", message=message),
        where=endpoint.url,
        hint=hint or None,
    )


def no_stream(endpoint: Endpoint, kind: str, body: object) -> RequestFailed:
    """Return what it means that a server answers 200 and no stream of events."""
    if isinstance(body, dict) and (body.get("error") or body.get("object") == "error"):
        return ServerFailed(
            phrase("the server says: {message}", message=server_words(body)), where=endpoint.url
        )
    why = phrase("answers with `{kind}` instead of an event stream", kind=kind)
    return not_openai(endpoint, why)


def check_plain(endpoint: Endpoint, encoding: str) -> None:
    """Raise NotOpenAI for a compressed answer, unasked: a few kB of one may fill the memory."""
    if encoding != "identity":
        why = phrase("compresses its answer (`{encoding}`) unasked", encoding=encoding)
        raise not_openai(endpoint, why)


def too_long(endpoint: Endpoint, most: int = LONGEST_DOCUMENT) -> RequestFailed:
    """Return what an answer is that is no stream and longer than any document of the API."""
    size = format_bytes(most)
    return not_openai(endpoint, phrase("answers with more than {size}", size=size))


def _is_json(data: str) -> bool:
    """Return whether this is a JSON document that we take."""
    try:
        return parse_json(data) is not None
    except ValueError:
        return False


def _fast(data: str) -> Any:
    """Return a document as `parse_json` does, in a third of its time where all is well."""
    try:
        return _DECODER.decode(data)
    except (msgspec.DecodeError, RecursionError):
        return parse_json(data)


def _event(data: str) -> Mapping[str, Any]:
    """Return an event of a stream. Raises ValueError, which says what is wrong with it."""
    template, why = "`{data}` is not an event of a completion", ""
    try:
        event = _fast(data) if len(data) < _USUAL else parse_json(data)
        if isinstance(event, dict):
            return event
    except ValueError as error:
        template, why = "`{data}` is not an event of a completion: {why}", error.args[0]
    raise ValueError(phrase(template, data=data[:80], why=why))

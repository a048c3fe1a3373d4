"""Server-sent events as bytes: where they end, and which of them report a failed engine."""

import codecs
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ropeway.router.request import readable

DONE = b"data: [DONE]\n\n"
# Lines of one event that are read; an event of vLLM has one.
_MOST_LINES = 10_000
_DONE = re.compile(rb"(?:\A|[\r\n])(?:\xef\xbb\xbf)?data: ?\[DONE\][\r\n]")


@dataclass(frozen=True)
class Broken:
    """A stream whose engine failed: the events before it, and the engine's message."""

    before: bytes
    message: str


class Splitter:
    """Cuts one stream into whole events, however its pieces come, in linear time and memory."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._tail = bytearray()

    def feed(self, piece: bytes) -> bytes:
        """Return the whole events that have come. Raises ValueError when one is too large."""
        if not self._tail and piece.endswith(b"\n\n"):  # vLLM writes whole events: no search then
            return piece
        start = max(0, len(self._tail) - 2)
        self._tail += piece
        # Lines end with CR LF, LF or CR, an event with an empty line (the HTML standard's
        # "Server-sent events"); so each end has one of these pairs.
        end = max(self._tail.rfind(pair, start) for pair in (b"\n\n", b"\n\r", b"\r\r")) + 2
        end = 0 if end == 1 else end + self._tail.startswith(b"\r\n", end - 1)
        whole = bytes(self._tail[:end])
        del self._tail[:end]
        if len(self._tail) > self._most:
            raise ValueError(f"an event of the stream has more than {self._most:,} bytes")
        return whole

    @property
    def empty(self) -> bool:
        """Whether nothing of what came is kept back."""
        return not self._tail

    @property
    def within(self) -> bool:
        """Whether the stream is in the middle of an event."""
        return bool(self._tail.strip(b"\r\n"))


def each(data: bytes) -> Iterator[bytes]:
    """Yield each of these whole events that has data, with LF as its end."""
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    for event in filter(None, data.split(b"\n\n")):
        if b"data:" in event:
            yield event + b"\n\n"


def payload(event: bytes) -> dict[str, Any] | None:
    """Return the JSON object of an event; None when it has none (a comment, `[DONE]`).

    None, too, when it cannot be read in a moment.
    """
    if not readable(event) or event.count(b"\n") > _MOST_LINES:
        return None
    text = b"\n".join(
        line[5:].removeprefix(b" ")
        for line in event.removeprefix(codecs.BOM_UTF8).splitlines()
        if line.startswith(b"data:")
    )
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def choices(chunk: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the choices of a chunk; what is none is left out."""
    listed = chunk.get("choices")
    return [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []


def done(whole_events: bytes) -> bool:
    """Return whether the mark of a complete answer is among these events."""
    return b"[DONE]" in whole_events and (
        whole_events.endswith(DONE) or _DONE.search(whole_events) is not None
    )


def generated(whole_events: bytes) -> bool:
    """Return whether the engine has generated any of these events.

    Comments, `data: {}` and pings are not: a server sends them while its engine is stuck.
    """
    return _has_choice(whole_events) or any(
        map(_generated, filter(None, map(payload, each(whole_events))))
    )


def plain(whole_events: bytes) -> bool:
    """Return whether these events neither end an answer nor tell of a failure: three searches."""
    return not (b"[DONE]" in whole_events or _suspicious(whole_events))


def _suspicious(data: bytes | bytearray) -> bool:
    # In generated text these quotation marks are escaped, so only real errors pass.
    return b'"error"' in data or b'"abort"' in data


def encode(body: Mapping[str, Any]) -> bytes:
    """Return a JSON object as an event."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return b"data: " + text.encode(errors="replace") + b"\n\n"


def broken(data: bytes) -> Broken | None:
    """Return a failure of the replica that these whole events report; None for client errors."""
    if not _suspicious(data):
        return None
    before: list[bytes] = []
    for event in each(data):
        if message := _failure(payload(event) or {}):
            return Broken(b"".join(before), message)
        before.append(event)
    return None


def error(message: str, code: int, *, named: bool = False) -> bytes:
    """Return the event that ends a broken stream, in OpenAI's form.

    `named` is for the APIs whose events have names (`/v1/responses`, `/v1/messages`).
    """
    body = error_body(message, code)
    if not named:
        return encode(body)
    return b"event: error\n" + encode({"type": "error", "message": message, "code": code} | body)


def error_body(message: str, code: int) -> dict[str, Any]:
    """Return an error in the form of OpenAI's and vLLM's servers."""
    kinds = {
        401: "AuthenticationError", 404: "NotFoundError", 413: "BadRequestError",
        503: "ServiceUnavailableError", 504: "GatewayTimeoutError",
    }  # fmt: skip
    kind = kinds.get(code, "BadGatewayError")
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def completion(content: bytes | bytearray) -> bool:
    """Return whether an answer that is not streamed has a choice, and tells of no failure."""
    if not readable(content):
        return b'"choices"' in content
    if _has_choice(content) and not _suspicious(content):
        return True
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError):
        return False
    return isinstance(parsed, dict) and bool(choices(parsed)) and _failure(parsed) is None


def _has_choice(data: bytes | bytearray) -> bool:
    # As engines write it; quotation marks in generated text are escaped.
    return b'"choices":[{' in data or b'"choices": [{' in data


def _generated(event: Mapping[str, Any]) -> bool:
    # A choice without text, too: tokens that are no text yet, or are not shown, come so. Other APIs
    # have no choices, and `{"type": "ping"}`.
    return bool(choices(event)) if "choices" in event else event.get("type") != "ping"


def _failure(event: Mapping[str, Any]) -> str | None:
    # Before vLLM 0.10.1 (its pull request 22099) errors had no outer object.
    error = event if event.get("object") == "error" else event.get("error")
    if isinstance(error, dict):
        code, message = error.get("code"), error.get("message")
        by_client = isinstance(code, int) and 400 <= code < 500
        text = message if message and isinstance(message, str) else "an error without a message"
        return None if by_client else text
    for choice in choices(event):
        # vLLM's `FINISH_REASON_STRINGS`: what its engine sends while it shuts down or fails.
        if choice.get("finish_reason") in ("abort", "error"):
            return f"the engine ended the answer with `{choice['finish_reason']}`"
    return None

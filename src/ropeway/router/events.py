"""Server-sent events as bytes: where they end, which of them say that the engine failed."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

DONE = b"data: [DONE]\n\n"
# The cheap sieve, two searches in every piece of a stream; what passes is parsed. In a generated
# text these words stand behind backslashes, so it passes only what is meant.
_SUSPECT = (b'"error"', b'"abort"')


@dataclass(frozen=True)
class Broken:
    """A stream whose engine failed: the events before, and what it said."""

    before: bytes
    message: str


def split(data: bytes) -> tuple[bytes, bytes]:
    """(whole events, the beginning of the next one). vLLM writes whole events: no search then."""
    if data.endswith(b"\n\n"):
        return data, b""
    end = max(data.rfind(b"\n\n") + 2, data.rfind(b"\r\n\r\n") + 4)
    # Not found: -1 + 2 or -1 + 4, and no event ends so early.
    return (data[:end], data[end:]) if end > 3 else (b"", data)


def each(data: bytes) -> Iterator[bytes]:
    """The events of whole events, each with its end."""
    data = data.replace(b"\r\n", b"\n")
    start = 0
    while (end := data.find(b"\n\n", start)) >= 0:
        yield data[start : end + 2]
        start = end + 2


def payload(event: bytes) -> dict[str, Any] | None:
    """The JSON object of an event; None when it has none (a comment, `[DONE]`)."""
    text = b"\n".join(
        line[5:].removeprefix(b" ") for line in event.splitlines() if line.startswith(b"data:")
    )
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def encode(body: Mapping[str, Any]) -> bytes:
    """An event of a JSON object."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return b"data: " + text.encode(errors="replace") + b"\n\n"


def broken(data: bytes) -> Broken | None:
    """What a replica's own failure says in whole events, or None. Errors of clients are none."""
    if not any(mark in data for mark in _SUSPECT):
        return None
    before = b""
    for event in each(data):
        if message := _failure(payload(event) or {}):
            return Broken(before, message)
        before += event
    return None


def error(message: str, code: int, *, named: bool = False) -> bytes:
    """The event that ends a broken stream, in OpenAI's form.

    `named` is for the APIs whose events have names (`/v1/responses`, `/v1/messages`).
    """
    body = error_body(message, code)
    if not named:
        return encode(body)
    return b"event: error\n" + encode({"type": "error", "message": message, "code": code} | body)


def error_body(message: str, code: int) -> dict[str, Any]:
    """An error as OpenAI's and vLLM's servers answer it."""
    kinds = {
        401: "AuthenticationError", 404: "NotFoundError", 413: "BadRequestError",
        503: "ServiceUnavailableError", 504: "GatewayTimeoutError",
    }  # fmt: skip
    kind = kinds.get(code, "BadGatewayError")
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def _failure(event: Mapping[str, Any]) -> str | None:
    # Before vLLM 0.10.1 (its pull request 22099) errors had no outer object.
    found = event if event.get("object") == "error" else event.get("error")
    if isinstance(found, dict):
        code = found.get("code")
        theirs = isinstance(code, int) and 400 <= code < 500
        return None if theirs else str(found.get("message") or "an error without words")
    for choice in event.get("choices") or ():
        # vLLM's `FINISH_REASON_STRINGS`: what its engine sends while it shuts down, or fails.
        if isinstance(choice, dict) and choice.get("finish_reason") in ("abort", "error"):
            return f"the engine ended the answer with `{choice['finish_reason']}`"
    return None

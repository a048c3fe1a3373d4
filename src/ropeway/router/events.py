"""Server-sent events as bytes: where they end, and which of them report a failed engine."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

DONE = b"data: [DONE]\n\n"
# A cheap filter, two searches in every piece of a stream; what passes is parsed. In generated text
# these quotation marks are escaped, so only real errors pass.
_SUSPECT = (b'"error"', b'"abort"')


@dataclass(frozen=True)
class Broken:
    """A stream whose engine failed: the events before it, and the engine's message."""

    before: bytes
    message: str


def split(data: bytes) -> tuple[bytes, bytes]:
    """Return (whole events, the start of the next). vLLM writes whole events: no search then."""
    if data.endswith(b"\n\n"):
        return data, b""
    end = max(data.rfind(b"\n\n") + 2, data.rfind(b"\r\n\r\n") + 4)
    # Not found: -1 + 2 or -1 + 4, and no event ends so early.
    return (data[:end], data[end:]) if end > 3 else (b"", data)


def each(data: bytes) -> Iterator[bytes]:
    """Yield each event with its end."""
    data = data.replace(b"\r\n", b"\n")
    start = 0
    while (end := data.find(b"\n\n", start)) >= 0:
        yield data[start : end + 2]
        start = end + 2


def payload(event: bytes) -> dict[str, Any] | None:
    """Return the JSON object of an event; None when it has none (a comment, `[DONE]`)."""
    text = b"\n".join(
        line[5:].removeprefix(b" ") for line in event.splitlines() if line.startswith(b"data:")
    )
    try:
        parsed = json.loads(text)
    except ValueError:
        return None
    return parsed if isinstance(parsed, dict) else None


def encode(body: Mapping[str, Any]) -> bytes:
    """Return a JSON object as an event."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return b"data: " + text.encode(errors="replace") + b"\n\n"


def broken(data: bytes) -> Broken | None:
    """Return a failure of the replica that these whole events report; None for client errors."""
    if not any(mark in data for mark in _SUSPECT):
        return None
    before = b""
    for event in each(data):
        if message := _failure(payload(event) or {}):
            return Broken(before, message)
        before += event
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


def _failure(event: Mapping[str, Any]) -> str | None:
    # Before vLLM 0.10.1 (its pull request 22099) errors had no outer object.
    error = event if event.get("object") == "error" else event.get("error")
    if isinstance(error, dict):
        code = error.get("code")
        by_client = isinstance(code, int) and 400 <= code < 500
        return None if by_client else str(error.get("message") or "an error without a message")
    for choice in event.get("choices") or ():
        # vLLM's `FINISH_REASON_STRINGS`: what its engine sends while it shuts down or fails.
        if isinstance(choice, dict) and choice.get("finish_reason") in ("abort", "error"):
            return f"the engine ended the answer with `{choice['finish_reason']}`"
    return None

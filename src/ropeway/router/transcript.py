"""What a client has been sent of a streamed answer.

In the normal case nobody ever asks, so the bytes are only kept; they are read when they have become
many, to hold the memory of a stream to FOLD_BYTES and its text, and when the stream breaks.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ropeway.router import events

FOLD_BYTES = 64 * 1024


@dataclass(frozen=True)
class Said:
    """An answer so far.

    text     the answer's text, reasoning not included
    pieces   events that carried some of it; each has at least one token
    counted  the server's own count of tokens, when it tells it in every event
    finish   why the answer ended; None while it has not
    foreign  what was in it besides text of one choice (reasoning, tool calls); None: nothing
    first    the first chunk, whose `id` and `created` all of an answer share
    usage    whether the client was sent the final usage
    """

    text: str = ""
    pieces: int = 0
    counted: int | None = None
    finish: str | None = None
    foreign: str | None = None
    first: Mapping[str, Any] = field(default_factory=dict)
    usage: bool = False


class Transcript:
    """Takes whole events; `said()` reads what has not been read."""

    def __init__(self) -> None:
        self._said = Said()
        self._raw = bytearray()

    def add(self, whole_events: bytes) -> None:
        self._raw += whole_events
        if len(self._raw) > FOLD_BYTES:
            self.said()

    def said(self) -> Said:
        for event in events.each(bytes(self._raw)):
            if chunk := events.payload(event):
                self._said = heard(self._said, chunk)
        self._raw.clear()
        return self._said


def heard(said: Said, chunk: Mapping[str, Any]) -> Said:
    """An answer and one more chunk of it."""
    if not said.first:
        said = replace(said, first=chunk)
    usage = chunk.get("usage")
    if isinstance(usage, dict) and isinstance(usage.get("completion_tokens"), int):
        said = replace(said, counted=usage["completion_tokens"])
    choices = chunk.get("choices") or ()
    if not choices:
        return replace(said, usage=said.usage or isinstance(usage, dict))
    for choice in choices:
        text, foreign = content(choice)
        said = replace(
            said,
            text=said.text + text,
            pieces=said.pieces + bool(text),
            finish=choice.get("finish_reason") or said.finish,
            foreign=said.foreign or foreign,
        )
    return said


def content(choice: Mapping[str, Any]) -> tuple[str, str | None]:
    """The text of a choice, and what else it holds that a prefix cannot hand on."""
    if choice.get("index"):
        return "", "several choices"
    if "delta" not in choice:
        return str(choice.get("text") or ""), None
    delta = choice["delta"] or {}
    foreign = next(
        (key for key, value in delta.items() if key not in ("role", "content") and value), None
    )
    return str(delta.get("content") or ""), foreign

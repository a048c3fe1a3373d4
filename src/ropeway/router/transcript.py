"""What a client has been sent of a streamed answer.

Usually nobody asks, so the bytes are only kept; they are parsed when the stream breaks, and when
there are more than FOLD_BYTES of them, to limit the memory of a stream.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ropeway.router import events

FOLD_BYTES = 64 * 1024


@dataclass(frozen=True)
class PartialAnswer:
    """An answer so far.

    text     the answer's text, without reasoning
    pieces   events with some of it; each has at least one token
    counted  the server's own count of tokens, if it is in every event
    finish   why the answer ended; None while it has not
    foreign  what it has besides the text of one choice (reasoning, tool calls); None: nothing
    first    the first chunk, whose `id` and `created` all chunks of an answer share
    """

    text: str = ""
    pieces: int = 0
    counted: int | None = None
    finish: str | None = None
    foreign: str | None = None
    first: Mapping[str, Any] = field(default_factory=dict)


class Transcript:
    """Takes whole events; `answer()` reads what has not been read."""

    def __init__(self) -> None:
        self._answer = PartialAnswer()
        self._raw = bytearray()

    def add(self, whole_events: bytes) -> None:
        self._raw += whole_events
        if len(self._raw) > FOLD_BYTES:
            self.answer()

    def answer(self) -> PartialAnswer:
        for event in events.each(bytes(self._raw)):
            if chunk := events.payload(event):
                self._answer = with_chunk(self._answer, chunk)
        self._raw.clear()
        return self._answer


def with_chunk(answer: PartialAnswer, chunk: Mapping[str, Any]) -> PartialAnswer:
    """Return the answer with one more chunk."""
    if not answer.first:
        answer = replace(answer, first=chunk)
    usage = chunk.get("usage")
    if isinstance(usage, dict) and isinstance(usage.get("completion_tokens"), int):
        answer = replace(answer, counted=usage["completion_tokens"])
    for choice in chunk.get("choices") or ():
        text, foreign = content(choice)
        answer = replace(
            answer,
            text=answer.text + text,
            pieces=answer.pieces + bool(text),
            finish=choice.get("finish_reason") or answer.finish,
            foreign=answer.foreign or foreign,
        )
    return answer


def content(choice: Mapping[str, Any]) -> tuple[str, str | None]:
    """Return the text of a choice, and what else it has that cannot be part of a prefix."""
    if choice.get("index"):
        return "", "several choices"
    if "delta" not in choice:
        return str(choice.get("text") or ""), None
    delta = choice["delta"] or {}
    foreign = next(
        (key for key, value in delta.items() if key not in ("role", "content") and value), None
    )
    return str(delta.get("content") or ""), foreign

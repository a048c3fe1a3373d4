"""What a client has been sent of a streamed answer.

Usually nobody asks, so the bytes are only kept; they are parsed when the stream breaks, and when
there are more than FOLD_BYTES of them, to limit the memory of a stream.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ropeway.router import events
from ropeway.router.request import readable

FOLD_BYTES = 64 * 1024
# Beyond any answer of a model: what is longer is not read, so that it costs no more than its bytes.
MOST_BYTES = 64 * 2**20
MOST_EVENTS = 200_000


@dataclass(frozen=True)
class PartialAnswer:
    """An answer so far.

    text     the answer's text, without reasoning
    pieces   events with some of it; each has at least one token
    counted  the server's own count of tokens, if it is in every event
    finish   why the answer ended; None while it has not
    foreign  what it has besides the text of one choice, as an error calls it (`tool_calls`, more
             bytes than are kept); None: nothing
    first    the first chunk, whose `id` and `created` all chunks of an answer share
    """

    text: str = ""
    pieces: int = 0
    counted: int | None = None
    finish: str | None = None
    foreign: str | None = None
    first: Mapping[str, Any] = field(default_factory=dict)


class Transcript:
    """Takes whole events; `answer()` reads what has not been read.

    pieces  events with data so far, about as many as tokens
    """

    def __init__(self) -> None:
        self.pieces = 0
        self._answer = PartialAnswer()
        self._raw = bytearray()
        self._bytes = MOST_BYTES

    def count(self, whole_events: bytes) -> None:
        """Count events that are not to be read."""
        self.pieces += whole_events.count(b"data:")

    def add(self, whole_events: bytes) -> None:
        """Keep events, to be read if the stream breaks."""
        self.count(whole_events)
        self._bytes -= len(whole_events)
        few = self._bytes >= 0 and self.pieces <= MOST_EVENTS
        if not few or not readable(whole_events):
            most = (
                f"more than {MOST_BYTES // 2**20} MiB or {MOST_EVENTS:,} events, or one too large,"
            )
            self._answer = replace(self._answer, foreign=most)
            return
        self._raw += whole_events
        if len(self._raw) > FOLD_BYTES:
            self.answer()

    def answer(self) -> PartialAnswer:
        chunks = filter(None, map(events.payload, events.each(bytes(self._raw))))
        self._answer = with_chunks(self._answer, chunks)
        self._raw.clear()
        return self._answer


def with_chunks(answer: PartialAnswer, chunks: Iterable[Mapping[str, Any]]) -> PartialAnswer:
    """Return the answer with more chunks, which may be anything."""
    texts, counted, finish, foreign = [answer.text], answer.counted, answer.finish, answer.foreign
    first = answer.first
    for chunk in chunks:
        first = first or chunk
        usage = chunk.get("usage")
        tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
        if isinstance(tokens, int) and tokens >= 0:
            counted = tokens
        for choice in events.choices(chunk):
            text, other = content(choice)
            if text:
                texts.append(text)
            finish = finish_of(choice) or finish
            foreign = foreign or other
    pieces = answer.pieces + len(texts) - 1
    return PartialAnswer("".join(texts), pieces, counted, finish, foreign, first)


def content(choice: Mapping[str, Any]) -> tuple[str, str | None]:
    """Return the text of a choice, and what else it has that cannot be part of a prefix."""
    if choice.get("index"):
        return "", "several choices"
    if "delta" not in choice:
        return _text(choice.get("text")), None
    delta = choice["delta"]
    if not isinstance(delta, dict):
        return "", None
    foreign = next(
        (f"`{key}`" for key, value in delta.items() if key not in ("role", "content") and value),
        None,
    )
    return _text(delta.get("content")), foreign


def finish_of(choice: Mapping[str, Any]) -> str | None:
    """Return why a choice ended; None while it has not."""
    return _text(choice.get("finish_reason")) or None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""

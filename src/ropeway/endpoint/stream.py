"""A streamed answer: bytes → events → pieces with their times → one `Timing`.

Nothing here touches the network. All times are seconds of one monotonic clock.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ropeway.phrases import phrase
from ropeway.units import format_bytes

# A piece of an answer is some hundred bytes; servers that do not stream send all in one.
LONGEST_EVENT = 4 * 2**20
# An answer that does not end would fill the memory: 2 million pieces, or as much text.
LONGEST_ANSWER = 2**26
_PIECE_SIZE = 32
_MOST_TOKENS = 10**9

Clock = Callable[[], float]


@dataclass(frozen=True)
class Delta:
    """One piece of a stream: its time, its tokens (1 unless the server counts), its text."""

    at: float
    tokens: int
    text: str
    reasoning: str


@dataclass(frozen=True)
class Failure:
    """Why a request failed, as plain data."""

    kind: str
    message: str


@dataclass(frozen=True)
class Timing:
    """One request, seen from outside. Times are seconds of the client's monotonic clock.

    sent           the request's headers were written; the connection was open already. Of one that
                   failed before: when it was due
    first_token    the first piece that carries a token; None when there was none
    chunks         (time, tokens) of each piece; the tokens are a guess of 1 a piece unless the
                   server counts in every piece, so rates come from `output_tokens` instead
    last           the last piece of the answer (its finish mark included)
    ended          when the stream was closed or failed
    output_tokens  from the server's usage when `counted` is true, else the sum over the chunks
    due            when it was to be sent: what lies between is waiting for the client
    cached_tokens  of the prompt, from the server's prefix cache; None: it does not say
    late_s         the longest that a piece may have lain here before this process read it, where
                   the times of pieces are those of their arrival
    """

    sent: float
    first_token: float | None
    chunks: tuple[tuple[float, int], ...]
    last: float | None
    ended: float
    input_tokens: int | None
    output_tokens: int
    counted: bool
    finish_reason: str | None
    text: str
    reasoning: str
    error: Failure | None = None
    due: float | None = None
    late_s: float = 0.0
    cached_tokens: int | None = None

    @property
    def ttft_s(self) -> float | None:
        """Time to first token, seconds."""
        return None if self.first_token is None else self.first_token - self.sent

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first: (last − first) / (tokens − 1), seconds."""
        if self.first_token is None or self.last is None or self.output_tokens < 2:
            return None
        return (self.last - self.first_token) / (self.output_tokens - 1)

    @property
    def decode_tokens_per_s(self) -> float | None:
        """Tokens per second after the first; None when there is no second token to time."""
        return 1 / self.tpot_s if self.tpot_s else None

    @property
    def e2e_s(self) -> float | None:
        """From sending to the last piece of the answer, seconds."""
        return None if self.last is None else self.last - self.sent


class Stopwatch:
    """What one request has received so far. `add` the stream's events; `timing` freezes it."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._sent: float | None = None
        self._chunks: list[tuple[float, int]] = []
        self._last: float | None = None
        self._input: int | None = None
        self._cached: int | None = None
        self._output: int | None = None
        self._counts_each: bool | None = None
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._size = 0
        self.finish_reason: str | None = None
        self.tokens = 0
        """Tokens so far, by pieces."""

    @property
    def started(self) -> bool:
        """Whether the request has been sent."""
        return self._sent is not None

    @property
    def text(self) -> str:
        """The answer so far, without reasoning."""
        return "".join(self._text)

    def start(self, at: float | None = None) -> None:
        """Note when the request is sent: now, or `at`."""
        self._sent = self._clock() if at is None else at

    def add(self, event: Mapping[str, Any]) -> Delta | None:
        """Add one parsed event; return the piece of the answer in it, or None (usage, role).

        Raises ValueError, which says why, when it is not shaped like an event.
        """
        at = self._clock()
        before = self._output or 0
        usage = event.get("usage")
        if isinstance(usage, dict):
            self._input = _count(usage, "prompt_tokens", self._input)
            self._output = _count(usage, "completion_tokens", self._output)
            details = usage.get("prompt_tokens_details")
            if isinstance(details, dict):
                self._cached = _count(details, "cached_tokens", self._cached)
        choices = event.get("choices")
        if not choices:
            return None
        if not isinstance(choices, list):
            raise _misshapen("choices", choices)
        choice = _table(choices[0], "choices")
        delta = _table(choice.get("delta") or {}, "delta")
        text = _text(delta, "content")
        reasoning = _text(delta, "reasoning") or _text(delta, "reasoning_content")
        finish_reason = _text(choice, "finish_reason")
        self.finish_reason = finish_reason or self.finish_reason
        tokens = 1 if text or reasoning else int(_is_silent_token(choice))
        # vLLM counts in every piece when asked (`continuous_usage_stats`). Others put the total in
        # the finishing piece; that is not the size of that piece.
        if self._counts_each is None and tokens:
            self._counts_each = isinstance(usage, dict)
        if self._counts_each and isinstance(usage, dict):
            tokens = max(0, (self._output or 0) - before)
        if tokens or finish_reason:
            self._last = at
        if not (tokens or text or reasoning):
            return None
        self._chunks.append((at, tokens))
        self.tokens += tokens
        self._size += _PIECE_SIZE + len(text) + len(reasoning)
        if self._size > LONGEST_ANSWER:
            raise ValueError(phrase("the answer is longer than any model's"))
        self._text.append(text)
        self._reasoning.append(reasoning)
        return Delta(at, tokens, text, reasoning)

    def timing(self, error: Failure | None = None) -> Timing:
        """Return everything so far as a record that no longer changes."""
        now = self._clock()
        output = self.tokens if self._output is None else self._output
        first = self._chunks[0][0] if self._chunks else None
        return Timing(
            sent=now if self._sent is None else self._sent,
            first_token=self._last if first is None and output else first,
            chunks=tuple(self._chunks),
            last=self._last,
            ended=now,
            input_tokens=self._input,
            cached_tokens=self._cached,
            output_tokens=output,
            counted=self._output is not None,
            finish_reason=self.finish_reason,
            text=self.text,
            reasoning="".join(self._reasoning),
            error=error,
        )


class SseParser:
    """Server-sent events from bytes, wherever they are split: `feed` returns the `data` of each.

    Lines may end in LF, CR LF or CR; comments and other fields are skipped; several `data`
    lines of one event are joined with a newline. Text is decoded line by line, never mid-character.
    """

    def __init__(self) -> None:
        self._rest = bytearray()
        self._data: list[str] = []
        self._size = 0

    def feed(self, received: bytes) -> list[str]:
        """Return the events that these bytes complete.

        Raises ValueError for an event that is longer than `LONGEST_EVENT`.
        """
        # A CR at the very end may be the first half of CR LF: wait for the next byte.
        held_back = self._rest.endswith(b"\r")
        self._rest += received
        events: list[str] = []
        # Without a line end there is nothing to do, or a long line would be read again each time.
        if held_back or b"\n" in received or b"\r" in received:
            lines = bytes(self._rest).splitlines(keepends=True)
            self._rest.clear()
            if not lines[-1].endswith(b"\n"):
                self._rest += lines.pop()
            for line in lines:
                self._take(line.rstrip(b"\r\n"), events)
        if self._size + len(self._rest) > LONGEST_EVENT:
            size = format_bytes(LONGEST_EVENT)
            raise ValueError(phrase("an event of the stream is longer than {size}", size=size))
        return events

    def close(self) -> list[str]:
        """Return the last event when the server left out the blank line after it."""
        events: list[str] = []
        self._take(bytes(self._rest).rstrip(b"\r"), events)
        self._take(b"", events)
        self._rest.clear()
        return events

    def _take(self, line: bytes, events: list[str]) -> None:
        if line.startswith(b"data:"):
            self._size += len(line)
            self._data.append(line[5:].removeprefix(b" ").decode("utf-8", "replace"))
        elif not line and self._data:
            events.append("\n".join(self._data))
            self._data, self._size = [], 0


def _table(value: object, key: str) -> Mapping[str, Any]:
    if isinstance(value, dict):
        return value
    raise _misshapen(key, value)


def _text(table: Mapping[str, Any], key: str) -> str:
    value = table.get(key)
    if value is None or isinstance(value, str):
        return value or ""
    raise _misshapen(key, value)


def _count(table: Mapping[str, Any], key: str, before: int | None) -> int | None:
    value = table.get(key)
    if value is None or (type(value) is int and 0 <= value <= _MOST_TOKENS):
        return before if value is None else value
    raise _misshapen(key, value)


def _misshapen(key: str, value: object) -> ValueError:
    return ValueError(
        phrase("`{key}` in the answer is `{value}`", key=key, value=json.dumps(value)[:80])
    )


def _is_silent_token(choice: Mapping[str, Any]) -> bool:
    """Return whether this is a token that decodes to nothing yet: an empty text without a role."""
    delta = choice.get("delta") or {}
    has_text = any(delta.get(name) == "" for name in ("content", "reasoning"))
    return has_text and "role" not in delta and not choice.get("finish_reason")

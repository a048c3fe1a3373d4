"""A streamed answer: bytes → events → pieces with their times → one `Timing`.

Nothing here touches the network. All times are seconds of one monotonic clock.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

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

    sent           the request's headers were written; the connection was open already
    first_token    the first piece that carries a token; None when there was none
    chunks         (time, tokens) of each piece; the tokens are a guess of 1 a piece unless the
                   server counts in every piece, so rates come from `output_tokens` instead
    last           the last piece of the answer (its finish mark included)
    ended          when the stream was closed or failed
    output_tokens  from the server's usage when `counted` is true, else the sum over the chunks
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
        self._output: int | None = None
        self._counts_each: bool | None = None
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self.finish_reason: str | None = None
        self.tokens = 0
        """Tokens so far, by pieces."""

    @property
    def started(self) -> bool:
        """Whether the request has been sent."""
        return self._sent is not None

    def start(self) -> None:
        """Note that the request is being sent now."""
        self._sent = self._clock()

    def add(self, event: Mapping[str, Any]) -> Delta | None:
        """Add one parsed event; return the piece of the answer in it, or None (usage, role).

        Raises TypeError, AttributeError or LookupError when it is not shaped like an event.
        """
        at = self._clock()
        before = self._output or 0
        usage = event.get("usage")
        if isinstance(usage, dict):
            self._input = usage.get("prompt_tokens", self._input)
            self._output = usage.get("completion_tokens", self._output)
        choices = event.get("choices")
        if not choices:
            return None
        choice = choices[0]
        delta = choice.get("delta") or {}
        text = _without_surrogates(delta.get("content") or "")
        reasoning = _without_surrogates(
            delta.get("reasoning") or delta.get("reasoning_content") or ""
        )
        self.finish_reason = choice.get("finish_reason") or self.finish_reason
        tokens = 1 if text or reasoning else int(_is_silent_token(choice))
        # vLLM counts in every piece when asked (`continuous_usage_stats`). Others put the total in
        # the finishing piece; that is not the size of that piece.
        if self._counts_each is None and tokens:
            self._counts_each = isinstance(usage, dict)
        if self._counts_each and isinstance(usage, dict):
            tokens = (self._output or 0) - before
        if tokens or choice.get("finish_reason"):
            self._last = at
        if not (tokens or text or reasoning):
            return None
        self._chunks.append((at, tokens))
        self.tokens += tokens
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
            output_tokens=output,
            counted=self._output is not None,
            finish_reason=self.finish_reason,
            text="".join(self._text),
            reasoning="".join(self._reasoning),
            error=error,
        )


class SseParser:
    """Server-sent events from bytes, wherever they are split: `feed` returns the `data` of each.

    Lines may end in LF, CR LF or CR; comments and other fields are skipped; several `data`
    lines of one event are joined with a newline. Text is decoded line by line, never mid-character.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[str] = []

    def feed(self, received: bytes) -> list[str]:
        """Return the events that these bytes complete."""
        lines = (self._rest + received).splitlines(keepends=True)
        self._rest = b""
        # A CR at the very end may be the first half of CR LF: wait for the next byte.
        if lines and not lines[-1].endswith(b"\n"):
            self._rest = lines.pop()
        events: list[str] = []
        for line in lines:
            self._take(line.rstrip(b"\r\n"), events)
        return events

    def close(self) -> list[str]:
        """Return the last event when the server left out the blank line after it."""
        events: list[str] = []
        self._take(self._rest.rstrip(b"\r"), events)
        self._take(b"", events)
        self._rest = b""
        return events

    def _take(self, line: bytes, events: list[str]) -> None:
        if line.startswith(b"data:"):
            self._data.append(line[5:].removeprefix(b" ").decode("utf-8", "replace"))
        elif not line and self._data:
            events.append("\n".join(self._data))
            self._data = []


def _without_surrogates(text: str) -> str:
    """Replace half a surrogate pair, which cannot be encoded, by U+FFFD."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _is_silent_token(choice: Mapping[str, Any]) -> bool:
    """Return whether this is a token that decodes to nothing yet: an empty text without a role."""
    delta = choice.get("delta") or {}
    has_text = any(delta.get(name) == "" for name in ("content", "reasoning"))
    return has_text and "role" not in delta and not choice.get("finish_reason")

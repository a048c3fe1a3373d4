"""A model's answer on the terminal, piece by piece, and the figures below it."""

from ropeway.endpoint.stream import Delta, Timing
from ropeway.report.console import Screen


class AnswerView:
    """Shows one answer as it comes: the reasoning aside, between marks; then the answer."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._thinking = False

    def show(self, delta: Delta) -> None:
        """Print one piece."""
        if delta.reasoning:
            if not self._thinking:
                self._screen.end_line()
                self._screen.write("── thinking ──\n", aside=True)
                self._thinking = True
            self._screen.write(delta.reasoning, aside=True)
        if delta.text:
            self._end_thinking()
            self._screen.write(delta.text)

    def close(self) -> None:
        """Leave both streams at the beginning of a line."""
        self._end_thinking()
        self._screen.end_line()

    def _end_thinking(self) -> None:
        if self._thinking:
            self._screen.write("\n── end of thinking ──\n", aside=True)
            self._thinking = False


def answer_figures(timing: Timing) -> str:
    """Return the figures of an answer: `TTFT 0.21 s · 34.5 tokens/s · 120 tokens`."""
    parts = []
    if timing.ttft_s is not None:
        parts.append(f"TTFT {timing.ttft_s:.2f} s")
    if rate := timing.decode_tokens_per_s:
        parts.append(f"{rate:.1f} tokens/s")
    estimate = "" if timing.counted else " (estimated)"
    parts.append(f"{timing.output_tokens:,} tokens{estimate}")
    if timing.finish_reason == "length":
        parts.append("truncated at the token limit")
    return " · ".join(parts)

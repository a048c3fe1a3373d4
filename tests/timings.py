"""A request's timing, for tests that need some."""

from dataclasses import replace
from typing import Any

from ropeway.endpoint.stream import Timing


def timing(
    sent: float, first: float | None, last: float | None, tokens: int, **more: Any
) -> Timing:
    """Return a request of ten input tokens that ended with its last token, or after a second."""
    ended = sent + 1 if last is None else last
    whole = Timing(
        sent=sent, first_token=first, chunks=(), last=last, ended=ended, input_tokens=10,
        output_tokens=tokens, counted=True, finish_reason="length", text="", reasoning="",
    )  # fmt: skip
    return replace(whole, **more)

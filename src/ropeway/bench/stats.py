"""From raw timings to figures. Pure: the same timings always give the same summary."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ropeway.endpoint.stream import Timing

UNFINISHED = "unfinished"
"""The failure kind of a request that we cancelled, at Ctrl-C or the time limit."""


@dataclass(frozen=True)
class Quantiles:
    """Mean and quantiles of a set of durations, in seconds."""

    mean: float
    p50: float
    p90: float
    p99: float


@dataclass(frozen=True)
class Summary:
    """The figures of a run.

    requests       sent in all: completed + failed (`errors`, counted by kind) + unfinished
    duration_s     from the first request sent to the last one ended
    input_tokens   of the completed requests, template included, as the server counted
    output_tokens  of completed and unfinished requests: the tokens that arrived in `duration_s`
    counted        whether the server counted every completed request's tokens itself; otherwise
                   they are counted by pieces of the stream, which can be too few
    ttft_s, tpot_s, e2e_s
                   of the completed requests (tpot: of those with two tokens or more); None when
                   there are none
    """

    requests: int
    completed: int
    errors: dict[str, int]
    unfinished: int
    duration_s: float
    input_tokens: int
    output_tokens: int
    counted: bool
    output_tokens_per_s: float
    requests_per_s: float
    ttft_s: Quantiles | None
    tpot_s: Quantiles | None
    e2e_s: Quantiles | None

    @property
    def failed(self) -> int:
        """The number of requests that failed."""
        return sum(self.errors.values())


def span(timings: Iterable[Timing]) -> float:
    """Return the seconds from the first request sent to the last one ended; 0 without requests."""
    requests = list(timings)
    if not requests:
        return 0.0
    return max(timing.ended for timing in requests) - min(timing.sent for timing in requests)


def first_messages(timings: Iterable[Timing]) -> dict[str, str]:
    """Return the message of the first failure of each kind."""
    messages: dict[str, str] = {}
    for timing in timings:
        if timing.error:
            messages.setdefault(timing.error.kind, timing.error.message)
    return messages


def summarise(timings: Sequence[Timing], duration: float) -> Summary:
    """Return the figures of a run; `duration` in seconds, 0 gives rates of 0."""
    completed = [timing for timing in timings if timing.error is None]
    errors = Counter(timing.error.kind for timing in timings if timing.error)
    unfinished = errors.pop(UNFINISHED, 0)
    arrived = sum(
        timing.output_tokens
        for timing in timings
        if timing.error is None or timing.error.kind == UNFINISHED
    )
    return Summary(
        requests=len(timings),
        completed=len(completed),
        errors=dict(sorted(errors.items())),
        unfinished=unfinished,
        duration_s=duration,
        input_tokens=sum(timing.input_tokens or 0 for timing in completed),
        output_tokens=arrived,
        counted=all(timing.counted for timing in completed),
        output_tokens_per_s=arrived / duration if duration else 0.0,
        requests_per_s=len(completed) / duration if duration else 0.0,
        ttft_s=_quantiles(timing.ttft_s for timing in completed),
        tpot_s=_quantiles(timing.tpot_s for timing in completed),
        e2e_s=_quantiles(timing.e2e_s for timing in completed),
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return the value below which `share` (0 to 1) of the sorted values lie, interpolated.

    With n values the smallest is the quantile 0 and the largest the quantile 1; in between, the
    quantile q lies at position q·(n − 1) counted from 0 (type 7 of Hyndman and Fan, which NumPy
    calls linear). Raises ValueError when there are no values.
    """
    if not ordered:
        raise ValueError("there are no values to take a quantile of")
    position = share * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def _quantiles(seconds: Iterable[float | None]) -> Quantiles | None:
    known = sorted(value for value in seconds if value is not None)
    if not known:
        return None
    mean = sum(known) / len(known)
    return Quantiles(mean, quantile(known, 0.5), quantile(known, 0.9), quantile(known, 0.99))

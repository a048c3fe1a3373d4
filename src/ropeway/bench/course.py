"""A run as a page draws it: what happened in each step of its time, and how latencies spread."""

import math
import operator
from collections.abc import Iterable, Sequence
from itertools import accumulate, compress

from ropeway.bench.figures import Course
from ropeway.bench.stats import PLACE_S, Columns

_MOST_STEPS = 120
# Shorter ones hold a token or none of each stream, and a line over them says nothing.
_SHORTEST_STEP_S = 0.2
_MOST_POINTS = 241


def course_of(columns: Columns, *, from_due: bool) -> Course | None:
    """Return how a run went; None when nothing was sent.

    from_due  requests had a time to be sent at, so latencies are told from then too
    """
    end_s = max(columns.ended, default=0.0)
    if end_s <= 0:
        return None
    step_s = _step(end_s)
    # The last step takes what is left, half a step to one and a half of them.
    count = max(1, round(end_s / step_s))
    ends = (*(step_s * number for number in range(1, count)), end_s)
    lengths = [now - before for now, before in zip(ends, (0.0, *ends), strict=False)]
    tokens = _counts(((at * PLACE_S, n) for at, n in columns.tokens.items()), step_s, count)
    good = _counts(((at, 1.0) for at in compress(columns.ended, columns.good)), step_s, count)
    bad = map(operator.not_, columns.good)
    failed = _counts(((at, 1.0) for at in compress(columns.ended, bad)), step_s, count)
    return Course(
        ends_s=ends,
        tokens_per_s=_rates(tokens, lengths),
        in_flight=_in_flight(columns, ends, step_s),
        completed=_rates(good, lengths),
        failed=_rates(failed, lengths),
        spreads={
            name: spread
            for name, values in _durations(columns, from_due=from_due)
            if (spread := thin(values))
        },
    )


def thin(values: Iterable[float]) -> tuple[float, ...]:
    """Return those that are numbers, sorted; of many only some, evenly spaced by rank."""
    ordered = sorted(value for value in values if not math.isnan(value))
    last = len(ordered) - 1
    if last < _MOST_POINTS:
        return tuple(ordered)
    return tuple(ordered[round(at * last / (_MOST_POINTS - 1))] for at in range(_MOST_POINTS))


def _durations(columns: Columns, *, from_due: bool) -> Iterable[tuple[str, Iterable[float]]]:
    yield from (("ttft", columns.ttft), ("tpot", columns.tpot), ("e2e", columns.e2e))
    if from_due:
        yield "due_ttft", map(operator.add, columns.wait, columns.ttft)
        yield "due_e2e", map(operator.add, columns.wait, columns.e2e)


def _step(end_s: float) -> float:
    """Return the length of a step: 1, 2 or 5 times a power of ten, in seconds."""
    least = max(end_s / _MOST_STEPS, _SHORTEST_STEP_S)
    steps = (factor * 10.0**power for power in range(-1, 9) for factor in (1, 2, 5))
    return next(step for step in steps if step >= least)


def _place(at: float, step_s: float, count: int) -> int:
    """Return the step of a moment; a moment of 0.6 s that is stored as 0.5999… is still 0.6."""
    return max(0, min(count - 1, int(at / step_s + 1e-9)))


def _counts(moments: Iterable[tuple[float, float]], step_s: float, count: int) -> list[float]:
    """Return the sum of what came in each step, from (moment, number)."""
    sums = [0.0] * count
    for at, number in moments:
        sums[_place(at, step_s, count)] += number
    return sums


def _rates(sums: Sequence[float], lengths: Sequence[float]) -> tuple[float, ...]:
    return tuple(number / seconds for number, seconds in zip(sums, lengths, strict=True))


def _in_flight(columns: Columns, ends: Sequence[float], step_s: float) -> tuple[float, ...]:
    """Return how many requests were in flight in each step, on average."""
    count = len(ends)
    # A request that is sent adds the rest of its step to that, and the whole of all later ones;
    # its end takes the same away.
    part, more = [0.0] * count, [0] * (count + 1)
    for moments, one in ((columns.sent, 1), (columns.ended, -1)):
        for at in moments:
            place = _place(at, step_s, count)
            part[place] += one * (ends[place] - max(0.0, at))
            more[place + 1] += one
    averages, begin = [], 0.0
    for rest, whole, end in zip(part, accumulate(more), ends, strict=False):
        averages.append(max(0.0, rest / (end - begin) + whole))
        begin = end
    return tuple(averages)

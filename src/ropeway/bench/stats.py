"""From raw timings to figures. Pure: the same timings always give the same summary."""

import math
import operator
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from heapq import heappop, heappush
from itertools import compress

from ropeway.bench.figures import Failures, Goodput, Quantiles, Steady, Summary
from ropeway.bench.load_test import LoadTest
from ropeway.bench.sending.answers import UNFINISHED
from ropeway.bench.trend import trend_of
from ropeway.endpoint.stream import Timing

# Fewer requests in a window say nothing of a steady state.
_FEWEST_STEADY = 20
_LATE_S = 0.05
# Requests that are due at once are, as far as their record tells, which is to the microsecond.
_AT_ONCE_S = 2e-6
# The steps in which tokens are counted, in seconds.
PLACE_S = 0.05


class Columns:
    """What figures need of a run, 70 bytes a request: `add` each timing.

    Durations are NaN where there are none. met: 1 met every goal, 0 missed one, -1 is not known.
    """

    def __init__(self, load: LoadTest) -> None:
        self._goals, self._from_due = load.goals, load.is_open
        self.sent, self.ended = array("d"), array("d")
        self.wait, self.ttft, self.tpot, self.e2e = (array("d") for _ in range(4))
        self.good, self.met = array("b"), array("b")
        self.input = self.output = self.completed_output = 0
        self.cached: int | None = None
        self.counted = True
        self.errors: Counter[str] = Counter()
        self.failed_s: dict[str, list[float]] = defaultdict(list)
        self.messages: dict[str, str] = {}
        self.tokens: defaultdict[int, float] = defaultdict(float)  # by their step

    def add(self, timing: Timing) -> None:
        """Take one request."""
        good = timing.error is None
        self.sent.append(timing.sent)
        self.ended.append(timing.ended)
        self.good.append(good)
        due = timing.sent if timing.due is None else timing.due
        self.wait.append(timing.sent - due)
        for column, value in (
            (self.ttft, timing.ttft_s), (self.tpot, timing.tpot_s), (self.e2e, timing.e2e_s),
        ):  # fmt: skip
            column.append(value if good and value is not None else math.nan)
        if self._goals is not None:
            met = self._goals.met(timing, from_due=self._from_due)
            self.met.append(-1 if met is None else met)
        if timing.error is not None:
            self.errors[timing.error.kind] += 1
            self.failed_s[timing.error.kind].append(timing.ended - timing.sent)
            self.messages.setdefault(timing.error.kind, timing.error.message)
        if timing.error is None or timing.error.kind == UNFINISHED:
            self.output += timing.output_tokens
            self._place(timing)
        if good:
            self.completed_output += timing.output_tokens
            self.input += timing.input_tokens or 0
            if timing.cached_tokens is not None:
                self.cached = (self.cached or 0) + timing.cached_tokens
            self.counted &= timing.counted

    def _place(self, timing: Timing) -> None:
        """Note when the tokens came; the server's count goes before a count of pieces."""
        pieces = sum(tokens for _, tokens in timing.chunks)
        each = timing.output_tokens / pieces if pieces else 0.0
        for at, tokens in timing.chunks:
            self.tokens[int(at / PLACE_S)] += tokens * each


def columns_of(timings: Iterable[Timing], load: LoadTest) -> Columns:
    """Return what figures need of all timings."""
    columns = Columns(load)
    for timing in timings:
        columns.add(timing)
    return columns


def summarise(timings: Iterable[Timing], load: LoadTest) -> Summary:
    """Return the figures of a run under a load."""
    return summary_of(columns_of(timings, load), load)


def summary_of(columns: Columns, load: LoadTest) -> Summary:
    """Return the figures of a run under a load."""
    errors = Counter(columns.errors)
    unfinished = errors.pop(UNFINISHED, 0)
    begin, end = (min(columns.sent), max(columns.ended)) if columns.sent else (0.0, 0.0)
    duration = end - begin
    completed = sum(columns.good)
    open_loop = load.is_open
    dues = sorted(map(operator.sub, columns.sent, columns.wait)) if open_loop else []
    last = sum(due > dues[-1] - _AT_ONCE_S for due in dues)
    late = sum(wait > _LATE_S for wait in columns.wait) if open_loop else 0
    return Summary(
        requests=len(columns.sent),
        completed=completed,
        errors=dict(sorted(errors.items())),
        unfinished=unfinished,
        begins_s=begin,
        duration_s=duration,
        input_tokens=columns.input,
        output_tokens=columns.output,
        completed_output_tokens=columns.completed_output,
        counted=columns.counted,
        output_tokens_per_s=columns.output / duration if duration else 0.0,
        requests_per_s=completed / duration if duration else 0.0,
        concurrency=_in_flight(columns, begin, end),
        ttft_s=_quantiles(columns.ttft),
        tpot_s=_quantiles(columns.tpot),
        e2e_s=_quantiles(columns.e2e),
        wait_s=_quantiles(compress(columns.wait, columns.good)) if open_loop else None,
        due_ttft_s=_quantiles(map(operator.add, columns.wait, columns.ttft)) if open_loop else None,
        due_e2e_s=_quantiles(map(operator.add, columns.wait, columns.e2e)) if open_loop else None,
        failures={
            kind: Failures(columns.messages[kind], figures)
            for kind, durations in sorted(columns.failed_s.items())
            if kind != UNFINISHED and (figures := _quantiles(durations))
        },
        steady=_steady(columns, load),
        due_per_s=_pace(dues, last),
        sent_per_s=_pace(sorted(columns.sent), last) if open_loop else None,
        late=late,
        late_busy=_late_busy(columns, load.clients) if late else 0,
        cached_share=_share(columns.cached, columns.input),
        goodput=_goodput(columns.met, duration),
    )


def _steady(columns: Columns, load: LoadTest) -> Steady | None:
    """Return the figures of the steady part; None where it is too short.

    In less time than an answer takes, a rate depends on which piece of the answers was caught: with
    clients in step all their first tokens, or none.
    """
    begins, ends = _window(columns, load)
    inside = [at for at, sent in enumerate(columns.sent) if begins <= sent < ends]
    if len(inside) < _FEWEST_STEADY:
        return None
    # Tokens are placed in steps, so the window's ends are moved to steps.
    first, last = math.ceil(begins / PLACE_S), int(ends / PLACE_S)
    e2e = _quantiles(columns.e2e[at] for at in inside)
    if last <= first or (e2e is not None and ends - begins < e2e.mean):
        return None
    tokens = sum(count for place, count in columns.tokens.items() if first <= place < last)
    ended = zip(columns.ended, columns.good, strict=True)
    finished = sum(1 for at, good in ended if good and begins <= at < ends)
    seconds = ends - begins
    return Steady(
        begins_s=begins,
        ends_s=ends,
        requests=len(inside),
        output_tokens_per_s=tokens / ((last - first) * PLACE_S),
        requests_per_s=finished / seconds,
        concurrency=_in_flight(columns, begins, ends),
        ttft_s=_quantiles(columns.ttft[at] for at in inside),
        tpot_s=_quantiles(columns.tpot[at] for at in inside),
        e2e_s=e2e,
        goodput=_goodput([columns.met[at] for at in inside] if columns.met else [], seconds),
        trend=trend_of(_from_due(columns), begins, ends) if load.rate is not None else None,
        due=sum(begins <= due < ends for due, _ in _from_due(columns)) if load.is_open else None,
        ended=sum(begins <= at < ends for at in columns.ended),
    )


def _late_busy(columns: Columns, clients: int) -> int:
    """Return how many requests were late since no client was free.

    Clients take requests in the order in which these are due, and are free again when they end.
    """
    dues = array("d", map(operator.sub, columns.sent, columns.wait))
    free: list[float] = []
    busy = 0
    for at in sorted(range(len(dues)), key=dues.__getitem__):
        begins = heappop(free) if len(free) >= clients else dues[at]
        heappush(free, columns.ended[at])
        busy += columns.wait[at] > _LATE_S and begins - dues[at] > _LATE_S
    return busy


def _goodput(met: Sequence[int], seconds: float) -> Goodput | None:
    """Return what met its goals (1; 0: did not; -1: not known); None without any."""
    good, bad = sum(one == 1 for one in met), sum(one == 0 for one in met)
    if not good + bad or seconds <= 0:
        return None
    return Goodput(good, good / (good + bad), good / seconds)


def _from_due(columns: Columns) -> Iterator[tuple[float, float]]:
    """Yield when each request was due, and how long it took from then."""
    for sent, wait, e2e in zip(columns.sent, columns.wait, columns.e2e, strict=True):
        yield sent - wait, wait + e2e


def _window(columns: Columns, load: LoadTest) -> tuple[float, float]:
    """Return when the load became steady, and when it ceased to be."""
    if not columns.sent:
        return 0.0, 0.0
    ends = max(columns.sent)
    if load.is_open:
        typical = _quantiles(columns.e2e)
        return (2 * typical.p50 if typical else ends), ends
    ended = sorted(columns.ended)
    return (ended[load.clients - 1] if len(ended) >= load.clients else ends), ends


def _in_flight(columns: Columns, begin: float, end: float) -> float:
    """Return how many requests were in flight between two moments, on average."""
    if end <= begin:
        return 0.0
    spans = zip(columns.sent, columns.ended, strict=True)
    overlaps = (min(ended, end) - max(sent, begin) for sent, ended in spans)
    return sum(seconds for seconds in overlaps if seconds > 0) / (end - begin)


def _share(part: int | None, whole: int) -> float | None:
    return part / whole if part is not None and whole else None


def _pace(ordered: Sequence[float], last: int) -> float | None:
    """Return how many moments come in a second, from the first to where the `last` ones begin.

    Nobody knows how long after these another one would come. None where there is no time between.
    """
    count = len(ordered) - last
    span = ordered[count] - ordered[0] if count > 0 else 0.0
    return count / span if span else None


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


def _quantiles(seconds: Iterable[float]) -> Quantiles | None:
    """Return the quantiles of the values that are numbers; None where there are none."""
    known = sorted(value for value in seconds if not math.isnan(value))
    if not known:
        return None
    mean = math.fsum(known) / len(known)
    return Quantiles(mean, quantile(known, 0.5), quantile(known, 0.9), quantile(known, 0.99))

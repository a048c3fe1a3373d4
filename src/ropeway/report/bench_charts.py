"""What the page of a load test draws: places in percent, and points of SVG lines.

In points x and y go from 0 to 100, y downwards.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from math import log10

from ropeway.bench.figures import Course, Quantiles, Steady, Summary
from ropeway.bench.rungs import By, Rung
from ropeway.bench.samples import Sample
from ropeway.bench.stats import quantile
from ropeway.report.compare import axis, curve_points, ticks_of
from ropeway.report.figures import asked, digits, percent

# An axis ends here at the latest: one outlier would press all others against its beginning.
_EDGE = 1.5
# An axis of latencies to here, in seconds, is in ms.
_LONG_S = 2.0
# From such a ratio of the largest to the smallest on, an axis is logarithmic.
_LOGARITHMIC = 10.0
# Labels of an axis that are nearer than this, in percent, would touch on a narrow screen.
_NEAREST = 9.0

Rows = dict[str, Sequence[float]]
"""The values of lines, by their names."""
Ticks = tuple[tuple[float, str], ...]
"""Places on an axis in percent, and what stands there."""


@dataclass(frozen=True)
class Line:
    """One line; `segments` are the points of its parts, between which nothing is known."""

    name: str
    segments: tuple[str, ...]
    dots: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Chart:
    """Lines over one axis of values, which begins at 0; `ticks` from the bottom."""

    key: str
    ticks: Ticks
    lines: tuple[Line, ...]
    unit: str = ""


@dataclass(frozen=True)
class TimeLine:
    """Charts over the time of a run; `steady`: left edge and width of its steady part."""

    ticks: Ticks
    steady: tuple[float, float] | None
    charts: tuple[Chart, ...]


@dataclass(frozen=True)
class Spread:
    """How one latency is spread: the share of requests that had it within a time.

    due     the same from when requests were due; empty where there is no such time
    beyond  the share that took longer than the axis shows; empty: none
    """

    key: str
    ticks: Ticks
    points: str
    due: str
    quantiles: Quantiles
    longest_s: float
    beyond: str


@dataclass(frozen=True)
class Curve:
    """A sweep: charts over what was asked."""

    by: By
    ticks: Ticks
    charts: tuple[Chart, ...]


def time_line(
    course: Course,
    steady: Steady | None,
    samples: Sequence[Sample] = (),
    *,
    clients: int | None = None,
    rate: float | None = None,
) -> TimeLine:
    """Return the run over time, what was sampled of the server below it.

    clients, rate  requests in flight, and by the second, that were asked for; None: no such number
    """
    end, count = course.ends_s[-1], len(course.ends_s)
    tokens: Rows = {"tokens": course.tokens_per_s}
    flying: Rows = {"asked": (clients,) * count} if clients else {}
    ended: Rows = {"asked": (rate,) * count} if rate else {}
    flying["in_flight"], ended["completed"] = course.in_flight, course.completed
    if any(course.failed):
        ended["failed"] = course.failed
    rows = {"tokens": tokens, "in_flight": flying, "ended": ended}
    charts = [_steps(key, course.ends_s, values) for key, values in rows.items()]
    return TimeLine(
        ticks=_time_ticks(end),
        steady=_span(steady.begins_s, steady.ends_s, end) if steady else None,
        charts=(*charts, *server_charts(samples, end)),
    )


def server_charts(samples: Sequence[Sample], end_s: float) -> tuple[Chart, ...]:
    """Return what the engine runs and lets wait, and how full its KV cache is, as far as known."""
    inside = [one for one in samples if 0 <= one.at <= end_s]
    places = [_at(one.at, end_s) for one in inside]
    requests = {
        "running": [one.running for one in inside],
        "waiting": [one.waiting for one in inside],
    }
    charts = []
    if known := [n for values in requests.values() for n in values if n is not None]:
        top, ticks = _value_axis(max(known))
        lines = (_line(name, places, values, top) for name, values in requests.items())
        charts.append(Chart("requests", ticks, tuple(line for line in lines if line.segments)))
    cache = [one.kv_use for one in inside]
    if any(share is not None for share in cache):
        ticks = ((0.0, "0"), (50.0, "50%"), (100.0, "100%"))
        charts.append(Chart("kv_use", ticks, (_line("kv_use", places, cache, 1.0),)))
    return tuple(charts)


def spreads_of(course: Course, summary: Summary) -> tuple[Spread, ...]:
    """Return the distribution of each latency that there is."""
    spreads = []
    for key in ("ttft", "tpot", "e2e"):
        quantiles: Quantiles | None = getattr(summary, f"{key}_s")
        ordered = [1000 * value for value in course.spreads.get(key, ())]
        if quantiles is None or not ordered:
            continue
        due = [1000 * value for value in course.spreads.get(f"due_{key}", ())]
        end, ticks = axis(max(_edge(ordered), _edge(due)))
        beyond = sum(value > end for value in ordered) / len(ordered)
        spreads.append(
            Spread(
                key=key,
                ticks=ticks_of(ticks, end),
                points=curve_points(ordered, end),
                due=curve_points(due, end) if due else "",
                quantiles=quantiles,
                longest_s=ordered[-1] / 1000,
                beyond=percent(beyond) if beyond else "",
            )
        )
    return tuple(spreads)


def curve_of(rungs: Sequence[Rung], by: By) -> Curve | None:
    """Return the curve of a sweep: throughput and latencies over what was asked of each rung.

    Rungs may come in any order. None for fewer than two, which are no curve.
    """
    ordered = sorted(rungs, key=lambda rung: rung.asked(by))
    if len(ordered) < 2:
        return None
    every = [rung.asked(by) for rung in ordered]
    place = _places(every)
    places = [place(value) for value in every]
    rows: dict[str, dict[str, list[float | None]]] = {
        "output": {"output": [rung.tokens_per_s for rung in ordered]}
    }
    if by == "rate":
        rows["achieved"] = {
            "asked": [*every],
            "achieved": [rung.requests_per_s for rung in ordered],
        }
    charts = [_over_rungs(key, places, lines) for key, lines in rows.items()]
    for key in ("ttft", "tpot"):
        latencies = [getattr(rung, f"{key}_s") for rung in ordered]
        longest = max((one.p99 for one in latencies if one), default=0.0)
        unit, factor = ("s", 1.0) if longest >= _LONG_S else ("ms", 1000.0)
        values = {
            name: [factor * getattr(one, name) if one else None for one in latencies]
            for name in ("p50", "p99")
        }
        charts.append(replace(_over_rungs(key, places, values), unit=unit))
    ticks = sorted({(place(value), asked(value, by)) for value in every})
    return Curve(by, _apart(ticks), tuple(chart for chart in charts if chart.lines))


def _over_rungs(key: str, places: Sequence[float], rows: dict[str, list[float | None]]) -> Chart:
    top, ticks = _value_axis(max((n for row in rows.values() for n in row if n), default=0.0))
    lines = (_line(name, places, values, top, dots=True) for name, values in rows.items())
    return Chart(key, ticks, tuple(line for line in lines if line.segments))


def _steps(key: str, ends_s: Sequence[float], rows: Rows) -> Chart:
    """Return a chart of values that hold from one moment to the next."""
    end = ends_s[-1]
    edges = [_at(moment, end) for moment in (0.0, *ends_s)]
    top, ticks = _value_axis(max(value for values in rows.values() for value in values))
    lines = []
    for name, values in rows.items():
        steps = zip(pairwise(edges), values, strict=True)
        points = [point for (left, right), value in steps
                  for point in ((left, value), (right, value))]  # fmt: skip
        lines.append(Line(name, (_points(points, top),)))
    return Chart(key, ticks, tuple(lines))


def _line(
    name: str,
    places: Sequence[float],
    values: Sequence[float | None],
    top: float,
    *,
    dots: bool = False,
) -> Line:
    """Return a line that is broken where nothing is known.

    With `dots` it goes through the mean of the values that have the same place.
    """
    parts: list[list[tuple[float, float]]] = [[]]
    for place, value in zip(places, values, strict=True):
        if value is None:
            parts.append([])
        else:
            parts[-1].append((place, value))
    known = [part for part in parts if part]
    marks = tuple((place, _at(value, top)) for part in known for place, value in part)
    if dots:
        return Line(name, tuple(_points(_means(part), top) for part in known), marks)
    return Line(name, tuple(_points(part, top) for part in known))


def _means(points: Sequence[tuple[float, float]]) -> Iterable[tuple[float, float]]:
    """Yield each place once, with the mean of its values."""
    for place, group in groupby(points, key=lambda point: point[0]):
        values = [value for _, value in group]
        yield place, sum(values) / len(values)


def _points(points: Iterable[tuple[float, float]], top: float) -> str:
    return " ".join(f"{place:.2f},{100 - _at(value, top):.2f}" for place, value in points)


def _at(value: float, end: float) -> float:
    """Return a place in percent of an axis from 0 to `end`."""
    return max(0.0, min(100.0, 100 * value / end)) if end else 0.0


def _span(begin: float, end: float, last: float) -> tuple[float, float]:
    """Return the left edge and the width of a span on an axis from 0 to `last`."""
    left = _at(begin, last)
    return left, _at(end, last) - left


def _edge(ordered: Sequence[float]) -> float:
    return min(ordered[-1], _EDGE * quantile(ordered, 0.99)) if ordered else 0.0


def _value_axis(largest: float) -> tuple[float, Ticks]:
    """Return the end of an axis from 0, and its ticks, of which there are few."""
    end, marks = axis(largest)
    shown = marks if len(marks) <= 4 else (marks[0], *marks[2::2])
    return end, tuple((_at(mark, end), _short(mark)) for mark in shown)


def _short(value: float) -> str:
    """Return the label of a tick: 0, 0.5, 2, 1,500, 20k."""
    if value >= 10_000:
        return f"{value / 1000:,.6g}k"
    return f"{value:,.6g}" if value < 1000 else digits(value)


def _time_ticks(end_s: float) -> Ticks:
    marks = [mark for mark in axis(end_s)[1] if mark <= end_s]
    unit, factor = ("min", 60.0) if end_s >= 600 else ("s", 1.0)
    if factor > 1:
        marks = [mark * factor for mark in axis(end_s / factor)[1] if mark * factor <= end_s]
    return tuple((_at(mark, end_s), f"{mark / factor:g} {unit}") for mark in marks)


def _places(asked: Sequence[float]) -> Callable[[float], float]:
    """Return what places a rung on its axis; a wide one is logarithmic."""
    first, last = min(asked), max(asked)
    scale = log10 if first > 0 and last / first > _LOGARITHMIC else float
    begin, end = scale(first), scale(last)
    return lambda value: 100 * (scale(value) - begin) / (end - begin) if end > begin else 50.0


def _apart(ticks: Iterable[tuple[float, str]]) -> Ticks:
    """Return the ticks, without the labels that would touch the one before them."""
    shown: list[tuple[float, str]] = []
    free = 0.0
    for at, label in ticks:
        shown.append((at, label if at >= free else ""))
        if at >= free:
            free = at + _NEAREST
    return tuple(shown)

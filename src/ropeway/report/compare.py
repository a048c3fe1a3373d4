"""The page of a comparison: one HTML file that needs neither the network nor a script.

This module computes positions and widths in percent; all words are in `compare.html.j2`, in English
and Chinese.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Literal, TypeVar

from ropeway.bench.comparison import (
    BLOG,
    Comparison,
    LayoutResult,
    RecordedFigure,
    Shape,
    fastest,
    in_order,
    shape_of,
)
from ropeway.bench.figures import Quantiles
from ropeway.bench.stats import quantile
from ropeway.endpoint.stream import Timing
from ropeway.report.bench import lengths_words, sending_words
from ropeway.report.figures import milliseconds, percent, rate, seconds
from ropeway.report.page import render_page

CURVE_POINTS = 120
LAST_INNER_TICK = 0.7

T = TypeVar("T")


@dataclass(frozen=True)
class Pair:
    """One kind of layout, here and elsewhere; widths are percent of each side's fastest."""

    name: str
    hosts: int
    ours: LayoutResult | None
    our_width: float | None
    theirs: RecordedFigure | None
    their_width: float | None


@dataclass(frozen=True)
class Curve:
    """The share of requests completed within a time: SVG points, x and y from 0 to 100, y down."""

    layout: str
    p50_ms: float
    p99_ms: float
    points: str


@dataclass(frozen=True)
class Plot(Generic[T]):
    """What is drawn of each layout over one axis of time, whose end is in ms."""

    key: Literal["ttft", "tpot", "e2e"]
    end: float
    ticks: tuple[tuple[float, str], ...]
    rows: tuple[T, ...]

    def at(self, ms: float) -> float:
        """Return a position on the axis in percent."""
        return ms / self.end * 100


def render_html(comparison: Comparison, timings: Mapping[str, Sequence[Timing]]) -> str:
    """Render the page. `timings`: the raw requests of each layout, by its name; may be empty.

    Strings from outside (model names, errors, answers) are escaped.
    """
    results = in_order(comparison)
    return render_page(
        "compare.html.j2",
        {"rate": rate, "ms": milliseconds, "pct": percent, "sec": seconds, "when": when},
        comparison=comparison,
        lengths=lengths_words(comparison.load),
        sending=sending_words(comparison.load),
        results=results,
        best=comparison.best,
        best_parallel=fastest(
            result for result in comparison.results if result.layout != comparison.baseline
        ),
        reference=comparison.reference,
        throughput=_widths([result.output_tokens_per_s for result in results]),
        starts=_widths([result.start_s for result in results]),
        pairs=pairs(comparison),
        blog=BLOG,
        ranges=[plot for plot in _range_plots(results) if plot.rows],
        curves=[plot for plot in _curve_plots(results, timings) if plot.rows],
    )


def pairs(comparison: Comparison) -> tuple[Pair, ...]:
    """Pair our layouts with the recorded ones of their kind; one without a partner stands alone.

    A single process is left out: the source has none.
    """
    parallel = [
        result
        for result in in_order(comparison)
        if result.layout != comparison.baseline and (result.npus > 1 or result.hosts > 1)
    ]
    most = max((result.output_tokens_per_s or 0.0 for result in parallel), default=0.0)
    shaped = [(shape_of(result.layout, result.hosts), result) for result in parallel]
    rows: list[Pair] = []
    for figure in BLOG.figures:
        partners = [result for shape, result in shaped if shape == figure.shape]
        rows += [_pair(figure.shape, ours, figure, most) for ours in (partners or (None,))]
    known = {figure.shape for figure in BLOG.figures}
    rows += [_pair(shape, ours, None, most) for shape, ours in shaped if shape not in known]
    return tuple(rows)


def axis(largest: float) -> tuple[float, tuple[float, ...]]:
    """Return a round end of the axis at or above `largest`, and the ticks from 0 to it.

    Ticks are 1, 2 or 5 times a power of ten apart, at most six; `largest` is from 1e-6 to 1e12.
    """
    if largest <= 0:
        return 1.0, (0.0, 1.0)
    steps = (factor * 10.0**power for power in range(-6, 12) for factor in (1, 2, 5))
    step = next(step for step in steps if largest / step <= 5)
    count = int(-(-largest // step))
    return count * step, tuple(number * step for number in range(count + 1))


def curve_points(ordered: Sequence[float], end: float) -> str:
    """Return the cumulative distribution of sorted values as steps from (0, 100) up to y = 0."""
    total = len(ordered)
    every = max(1, total // CURVE_POINTS)
    points = [(0.0, 100.0)]
    for index in [*range(0, total - 1, every), total - 1]:
        x = min(ordered[index] / end * 100, 100.0)
        points.append((x, points[-1][1]))
        points.append((x, 100 - (index + 1) / total * 100))
    points.append((100.0, points[-1][1]))
    return " ".join(f"{x:.2f},{y:.2f}" for x, y in points)


def when(moment: str) -> str:
    """Return ISO 8601 for people: "2026-01-31 10:12 UTC"; any other text as it is."""
    try:
        time = datetime.fromisoformat(moment)
    except ValueError:
        return moment
    return f"{time:%Y-%m-%d %H:%M} {time.tzname() or ''}".rstrip()


def _pair(
    shape: Shape, ours: LayoutResult | None, theirs: RecordedFigure | None, most: float
) -> Pair:
    here = ours.output_tokens_per_s if ours else None
    there = theirs.output_tokens_per_s if theirs else None
    return Pair(
        name=shape.kinds,
        hosts=2 if shape.many_hosts else 1,
        ours=ours,
        our_width=here / most * 100 if here is not None and most else None,
        theirs=theirs,
        their_width=there / BLOG.best * 100 if there is not None else None,
    )


def _widths(values: Sequence[float | None]) -> list[float | None]:
    largest = max((value for value in values if value is not None), default=0.0)
    return [value / largest * 100 if value is not None and largest else None for value in values]


def _range_plots(results: Sequence[LayoutResult]) -> Iterable[Plot[tuple[str, Quantiles]]]:
    """Yield the p50, p90 and p99 of each layout, in ms."""
    for key in ("ttft", "tpot", "e2e"):
        measured = [
            (result.layout, Quantiles(*(1000 * value for value in vars(quantiles).values())))
            for result in results
            if result.summary and (quantiles := getattr(result.summary, f"{key}_s"))
        ]
        end, ticks = axis(max((quantiles.p99 for _, quantiles in measured), default=0.0))
        yield Plot(key, end, ticks_of(ticks, end), tuple(measured))


def _curve_plots(
    results: Sequence[LayoutResult], timings: Mapping[str, Sequence[Timing]]
) -> Iterable[Plot[Curve]]:
    for key in ("ttft", "e2e"):
        values = {
            result.layout: sorted(
                span * 1000
                for timing in timings.get(result.layout, ())
                if not timing.error and (span := getattr(timing, f"{key}_s")) is not None
            )
            for result in results
        }
        measured = {layout: ordered for layout, ordered in values.items() if ordered}
        end, ticks = axis(max((ordered[-1] for ordered in measured.values()), default=0.0))
        yield Plot(
            key,
            end,
            ticks_of(ticks, end),
            tuple(
                Curve(layout, quantile(ms, 0.5), quantile(ms, 0.99), curve_points(ms, end))
                for layout, ms in measured.items()
            ),
        )


def ticks_of(ticks: Sequence[float], end: float) -> tuple[tuple[float, str], ...]:
    """Return the places in percent and the labels of an axis of time, which is given in ms."""
    unit, factor = ("s", 1000.0) if end >= 2000 else ("ms", 1.0)
    # A label close to the last one would touch it on a narrow panel.
    labelled = [tick for tick in ticks if tick == ticks[-1] or tick / end < LAST_INNER_TICK]
    return tuple(
        (tick / end * 100, f"{tick / factor:g}{f' {unit}' if tick == ticks[-1] else ''}")
        for tick in labelled
    )

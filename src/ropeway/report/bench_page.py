"""The page of a load test: what was measured, whether to trust it, and how to measure it again.

Words that the terminal has too come from `report.bench`; all others are in `bench.html.j2`, in
English and Chinese.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ropeway.bench.figures import Course, Figures, Quantiles, Summary
from ropeway.bench.load_test import MEASURED, NOT_STATED, Conditions
from ropeway.bench.rungs import Rung, Sweep
from ropeway.bench.samples import Sample
from ropeway.phrases import phrase
from ropeway.plan.candidate import Expectation
from ropeway.report.bench import (
    ENDINGS,
    LATENCIES,
    NOT_COUNTED,
    cached_row,
    clients_words,
    failed_words,
    late_words,
    latencies_of,
    lengths_words,
    own_words,
    plan_words,
    rate_words,
    sending_words,
    stated,
    steady_words,
    tokens_words,
)
from ropeway.report.bench_charts import TimeLine, curve_of, spreads_of, time_line
from ropeway.report.compare import when
from ropeway.report.figures import asked, milliseconds, percent, rate, seconds
from ropeway.report.page import prose, render_page
from ropeway.units import counted


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What a page tells of a load test. A sweep by itself has no figures of its own.

    command  what to type to measure it again
    ended    `complete`, or why it ended early
    planned  what the planner expected
    samples  the server's state during the run
    causes   why the server was as fast as it was, a sentence each
    """

    conditions: Conditions
    command: str
    figures: Figures | None = None
    ended: str = "complete"
    planned: Expectation | None = None
    samples: Sequence[Sample] = ()
    causes: Sequence[str] = ()
    sweep: Sweep | None = None


@dataclass(frozen=True)
class Bars:
    """What was measured beside what was expected, all in percent of one axis.

    low, high  ends of the interval
    """

    measured: float
    expected: float
    low: float
    high: float
    ceiling: float


@dataclass(frozen=True)
class Failed:
    """Requests that failed in one way: how many, how long they took, what the first one said."""

    kind: str
    count: int
    duration_s: Quantiles | None
    message: str


@dataclass(frozen=True)
class Row:
    """One latency in the table: of the whole run, and of its steady part."""

    name: str
    whole: Quantiles | None
    steady: Quantiles | None


def render_html(report: LoadReport, language: str = "en") -> str:
    """Return the whole page, with all values escaped; it opens in `language`."""
    conditions, figures = report.conditions, report.figures
    summary = figures.summary if figures else None
    course = figures.course if figures else None
    load = conditions.load
    sweep = report.sweep
    rungs = rungs_of(sweep) if sweep else []
    return render_page(
        "bench.html.j2",
        {
            "rate": rate,
            "asked": asked,
            "ms": lambda s: milliseconds(None if s is None else s * 1000),
            "sec": seconds,
            "pct": percent,
            "when": when,
            "prose": prose,
        },
        language=language,
        report=report,
        conditions=conditions,
        load=load,
        figures=figures,
        summary=summary,
        stated=stated(conditions),
        hardware="" if conditions.hardware == NOT_STATED else conditions.hardware,
        rehearsed=conditions.label != MEASURED,
        unknown=NOT_STATED,
        ending=ENDINGS.get(report.ended),
        rate_words=rate_words(load),
        lengths=lengths_words(load),
        sending=sending_words(load),
        cached=cached_row(summary) if summary else (),
        clients_words=clients_words(load),
        steady_words=steady_words(summary.steady) if summary else None,
        tokens=tokens_words(summary) if summary else None,
        own=own_words(figures.own) if figures else None,
        notes=_notes(summary, report) if summary else [],
        plan=plan_words(summary, report.planned) if summary and report.planned else None,
        bars=_bars(summary, report.planned) if summary and report.planned else None,
        failures=_failures(summary) if summary else [],
        rows=_rows(summary) if summary else [],
        spreads=spreads_of(course, summary) if course and summary else (),
        time=_time_line(course, summary, report) if course and summary else None,
        sweep=sweep,
        remarks=[sweep.knee.sentence] if sweep and sweep.knee else [],
        found=sweep.found if sweep else None,
        rungs=rungs,
        best=max(rungs, key=lambda rung: rung.tokens_per_s, default=None),
        curve=curve_of(rungs, sweep.by) if sweep else None,
        started=when(conditions.started_at),
    )


def rungs_of(sweep: Sweep) -> list[Rung]:
    """Return the rungs that the page shows, from the smallest load to the largest.

    A search for a rate begins with measurements that have none.
    """
    rungs = [rung for rung in sweep.rungs if sweep.by == "clients" or rung.load.rate is not None]
    return sorted(rungs, key=lambda rung: rung.asked(sweep.by))


def _time_line(course: Course, summary: Summary, report: LoadReport) -> TimeLine:
    load = report.conditions.load
    clients = load.clients if load.rate is None else None
    return time_line(course, summary.steady, report.samples, clients=clients, rate=load.rate)


def _notes(summary: Summary, report: LoadReport) -> list[str]:
    """Return what a reader must know of the run, besides its figures and doubts."""
    notes: list[str | None] = [
        failed_words(summary) if summary.failed else None,
        *late_words(summary, report.conditions.load),
        None if summary.counted else NOT_COUNTED,
    ]
    if summary.unfinished:
        requests = counted(summary.unfinished, "request")
        notes.append(phrase("{requests} cancelled in flight", requests=requests))
    return [note for note in notes if note]


def _bars(summary: Summary, planned: Expectation) -> Bars:
    forecast = planned.forecast
    values = (
        summary.output_tokens_per_s,
        forecast.output_tokens_per_s,
        forecast.output_low,
        forecast.output_high,
        forecast.ceiling_tokens_per_s,
    )
    most = max(values) or 1.0
    return Bars(*(100 * value / most for value in values))


def _failures(summary: Summary) -> list[Failed]:
    """Return what failed, the most frequent first."""
    ordered = sorted(summary.errors.items(), key=lambda item: (-item[1], item[0]))
    found = ((kind, count, summary.failures.get(kind)) for kind, count in ordered)
    return [
        Failed(kind, count, one.duration_s if one else None, one.message if one else "")
        for kind, count, one in found
    ]


def _rows(summary: Summary) -> list[Row]:
    steady = summary.steady
    return [
        Row(LATENCIES[key], whole, getattr(steady, f"{key}_s", None))
        for key, whole in latencies_of(summary)
    ]

"""The page of a plan: one HTML file without scripts or anything to load.

This module computes positions and widths in percent; `plan.html.j2` has the words, in English and
Chinese. Sentences that come with the plan are translated by chinese/plan.json.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, floor, inf, log10

from ropeway.phrases import phrase
from ropeway.plan.candidate import Candidate, Plan, PlanRequest
from ropeway.report.figures import milliseconds, percent, rate, seconds
from ropeway.report.page import prose, render_page
from ropeway.report.plan import (
    GIB,
    KINDS,
    STEP_PARTS,
    best,
    faults_of,
    is_chosen,
    price,
    rejected_groups,
    shown,
)
from ropeway.report.plan_words import honesty, no_answer, request_words, typical_error

# A page with more dots or rows than these is harder to read.
_DOTS = 300
_BARS = 12
_REJECTED = 400
_TABLE = 60
# Up to this many powers of ten, ticks at these multiples of each.
_TICKS: tuple[tuple[float, tuple[float, ...]], ...] = (
    (0.5, (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)),
    (1.3, (1, 1.5, 2, 3, 5, 7)),
    (3.0, (1, 2, 5)),
    (inf, (1,)),
)


@dataclass(frozen=True)
class Dot:
    """A layout in the chart; all positions are percent, from the left and from the bottom.

    number       of a Pareto-optimal layout, from 1; 0 for others
    left, right  ends of the interval of the time per token
    low, high    ends of the interval of the throughput
    """

    number: int
    chosen: bool
    x: float
    y: float
    left: float
    right: float
    low: float
    high: float
    title: str


@dataclass(frozen=True)
class Scatter:
    """Throughput against time per token, both logarithmic; `front` are SVG points, y downwards."""

    dots: tuple[Dot, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    front: str


@dataclass(frozen=True)
class Slice:
    """A piece of a bar. `kind` is weights, engine, activations, cache, graphs, free, or the words
    for a part of a step."""

    kind: str
    width: float
    amount: str


@dataclass(frozen=True)
class Bar:
    """One NPU of a layout."""

    layout: str
    chosen: bool
    slices: tuple[Slice, ...]
    whole: str
    sequences: int


@dataclass(frozen=True)
class Constant:
    """A figure that the forecast depends on; `key` says which, for the words in the template.

    source  of its published part; shares reached, and figures without a source, were fitted
    """

    key: str
    value: str
    source: str = ""


def render_html(plan: Plan, *, when: str, language: str = "en") -> str:
    """Return the whole page, with all values escaped; it opens in `language`."""
    filters: dict[str, Callable[..., object]] = {
        "rate": rate, "ms": milliseconds, "sec": seconds, "price": price, "shown": shown,
        "gib": _gib, "prose": prose,
    }  # fmt: skip
    what, conditions = request_words(plan.request)
    first = plan.candidates[:_TABLE]
    table = (*first, *(item for item in plan.front if item not in first))
    return render_page(
        "plan.html.j2",
        filters,
        language=language,
        plan=plan,
        chosen=plan.chosen,
        reasons=KINDS,
        when=when,
        what=what,
        conditions=conditions,
        honesty=honesty(plan),
        no_answer=no_answer(plan),
        error=typical_error(plan),
        beyond=plan.beyond_measured,
        reads=plan.request.reads_only,
        scatter=scatter(plan) if plan.candidates and not plan.request.reads_only else None,
        along=_along(plan.front),
        bars=[bar(plan, item) for item in best(plan)[:_BARS]],
        step=_step(plan.chosen) if plan.chosen else (),
        constants=constants(plan.request),
        table=table,
        faults=faults_of(table),
        groups=rejected_groups(plan),
        rejected=plan.rejected[:_REJECTED],
        notes=plan.notes,
    )


def scatter(plan: Plan) -> Scatter:
    """Return the chart of the best layouts and of all Pareto-optimal ones."""
    front = {str(item.layout): number for number, item in enumerate(_along(plan.front), start=1)}
    drawn = [
        item
        for place, item in enumerate(plan.candidates)
        if place < _DOTS or str(item.layout) in front
    ]
    forecasts = [item.forecast for item in drawn]
    x = _Scale.over([t * 1000 for each in forecasts for t in (each.tpot_low, each.tpot_high)])
    y = _Scale.over([rate_ for each in forecasts for rate_ in (each.output_low, each.output_high)])
    dots = [
        Dot(
            number=front.get(str(item.layout), 0),
            chosen=is_chosen(plan, item),
            x=x.at(forecast.tpot_s * 1000),
            y=y.at(forecast.output_tokens_per_s),
            left=x.at(forecast.tpot_low * 1000),
            right=x.at(forecast.tpot_high * 1000),
            low=y.at(forecast.output_low),
            high=y.at(forecast.output_high),
            title=_title(item),
        )
        for item, forecast in zip(drawn, forecasts, strict=True)
    ]
    dots.sort(key=lambda dot: (dot.chosen, dot.number > 0))  # what matters is drawn last
    line = sorted((dot.x, 100 - dot.y) for dot in dots if dot.number)
    points = " ".join(f"{left:.2f},{top:.2f}" for left, top in line)
    return Scatter(tuple(dots), x.ticks(), y.ticks(), points)


def _title(item: Candidate) -> str:
    """Return a dot's figures; a title is in no language, since it cannot be in two."""
    forecast = item.forecast
    tokens, quick = rate(forecast.output_tokens_per_s), milliseconds(forecast.tpot_s * 1000)
    replicas = f"{item.replicas} × " if item.replicas > 1 else ""
    return f"{replicas}{item.layout}: {tokens} tokens/s, {quick}"


def bar(plan: Plan, item: Candidate) -> Bar:
    """Return what fills one NPU; slices add up to all of its memory."""
    memory = item.memory
    used = {
        "weights": memory.weights,
        "engine": memory.engine,
        "activations": memory.activations,
        "cache": max(0, memory.kv_cache),
        "graphs": memory.reserve,
    }
    used["free"] = max(0, memory.hbm - sum(used.values()))  # a virtual NPU has no memory of its own
    whole = sum(used.values()) or 1
    slices = (
        Slice(kind, bytes_ / whole * 100, f"{_gib(bytes_)} GiB")
        for kind, bytes_ in used.items()
        if bytes_
    )
    amount = f"{_gib(whole)} GiB"
    return Bar(item.name, is_chosen(plan, item), tuple(slices), amount, memory.sequences)


def constants(request: PlanRequest) -> tuple[Constant, ...]:
    """Return the five constants that a forecast depends on most."""
    machine, chip = request.machine, request.chip
    if machine is None:
        return ()
    published = chip.source if chip else ""
    layer = machine.moe_layer if request.shape.experts else machine.layer
    return (
        Constant("memory", _share(machine.memory, machine.memory_bandwidth, "B/s"), published),
        Constant("arithmetic", _share(machine.matrix, machine.bf16, "FLOP/s"), published),
        Constant("host", milliseconds(layer * 1000)),
        Constant("collective", f"{machine.reduce * 1e6:.0f} µs"),
        Constant("between", _share(machine.wire, machine.between.bandwidth, "B/s"),
                 machine.between.source),
    )  # fmt: skip


def _share(part: float, peak: float, unit: str) -> str:
    """Return `520 GB/s (65% of 800)`."""
    factor, prefix = next(
        ((size, name) for size, name in ((1e12, "T"), (1e9, "G"), (1e6, "M")) if peak >= size),
        (1.0, ""),
    )
    reached, whole = part * peak / factor, peak / factor
    return phrase(
        "{reached:.3g} {unit} ({share} of {whole:.3g})",
        reached=reached,
        unit=prefix + unit,
        share=percent(part),
        whole=whole,
    )


def _step(chosen: Candidate) -> tuple[Slice, ...]:
    """Return the parts of the average step, the longest first; widths are shares of the step."""
    parts = chosen.forecast.parts
    whole = max(chosen.forecast.step_s, sum(parts.values())) or 1.0
    return tuple(
        Slice(STEP_PARTS.get(name, name), seconds / whole * 100, milliseconds(seconds * 1000))
        for name, seconds in parts.items()
    )


def _along(front: Sequence[Candidate]) -> list[Candidate]:
    """Return Pareto-optimal layouts from the least latency to the most throughput."""
    return sorted(front, key=lambda item: item.forecast.tpot_s)


def _gib(bytes_: float) -> str:
    return f"{bytes_ / GIB:.1f}"


@dataclass(frozen=True)
class _Scale:
    """A logarithmic axis: exponents of its two ends."""

    first: float
    last: float

    @classmethod
    def over(cls, values: Sequence[float]) -> "_Scale":
        """Return an axis around all values above zero, with a margin."""
        known = [log10(value) for value in values if value > 0] or [0.0]
        margin = max(0.03, (max(known) - min(known)) * 0.05)
        return cls(min(known) - margin, max(known) + margin)

    def at(self, value: float) -> float:
        """Return a position in percent of the axis, an end of it for values beyond."""
        if value <= 0:
            return 0.0
        return min(100.0, max(0.0, (log10(value) - self.first) / (self.last - self.first) * 100))

    def ticks(self) -> tuple[tuple[float, str], ...]:
        """Return ticks at multiples of powers of ten, more of them on a shorter axis."""
        span = self.last - self.first
        decades = range(floor(self.first), ceil(self.last) + 1)
        steps = next(steps for most, steps in _TICKS if span <= most)
        values = [factor * 10.0**power for power in decades for factor in steps]
        return tuple(
            (self.at(value), f"{value:,.10g}")
            for value in values
            if self.first <= log10(value) <= self.last
        )

"""The page of a plan: one HTML file that needs nothing else, no network and no script.

This module works out positions and widths in percent; `plan.html.j2` says everything in words, in
English and Chinese.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, inf, log10
from typing import Literal

from ropeway.plan.candidate import Candidate, Plan, Wanted
from ropeway.plan.memory import Memory
from ropeway.report.figures import milliseconds, percent, rate, seconds
from ropeway.report.page import render_page
from ropeway.report.plan import (
    GIB,
    best,
    honesty,
    price,
    rejected_groups,
    shown,
    typical_error,
    wanted_words,
)

# A page of more dots or lines than these says less, not more.
_DOTS = 300
_BARS = 12
_REJECTED = 400
_TABLE = 60
# Up to so many powers of ten, ticks at these multiples of each.
_TICKS: tuple[tuple[float, tuple[float, ...]], ...] = (
    (0.5, (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)),
    (1.3, (1, 1.5, 2, 3, 5, 7)),
    (3.0, (1, 2, 5)),
    (inf, (1,)),
)


@dataclass(frozen=True)
class Dot:
    """A layout in the chart; all positions are percent, from the left and from the bottom.

    number       on the front, from 1; 0 elsewhere
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
    """Throughput against time per token, both logarithmic. `front`: SVG points, y downwards."""

    dots: tuple[Dot, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    front: str


@dataclass(frozen=True)
class Slice:
    """A piece of a bar. kind: weights, engine, activations, cache, graphs, free; a part's name."""

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
    """A figure that the forecast hangs on; key says which, for the words in the template.

    source  of the published part of it; the share that is reached, and what has none, were fitted
    """

    key: str
    value: str
    source: str = ""


def render_html(plan: Plan, *, when: str, language: Literal["en", "zh"] = "en") -> str:
    """The whole page. Everything from outside is escaped."""
    filters = {"rate": rate, "ms": milliseconds, "sec": seconds, "price": price}
    filters |= {"shown": shown, "gib": _gib}
    what, asked = wanted_words(plan.wanted)
    return render_page(
        "plan.html.j2",
        filters,
        plan=plan,
        chosen=plan.chosen,
        language=language,
        when=when,
        what=what,
        asked=asked,
        honesty=honesty(plan),
        error=typical_error(plan),
        scatter=scatter(plan) if plan.candidates else None,
        along=_along(plan.front),
        bars=[bar(plan, item) for item in best(plan)[:_BARS]],
        step=_step(plan.chosen) if plan.chosen else (),
        constants=constants(plan.wanted),
        table=(*plan.candidates[:_TABLE], *(one for one in plan.front if _beyond(plan, one))),
        groups=rejected_groups(plan),
        rejected=plan.rejected[:_REJECTED],
        notes=_notes(plan),
    )


def scatter(plan: Plan) -> Scatter:
    """The best layouts and the whole front."""
    front = {str(item.layout): number for number, item in enumerate(_along(plan.front), start=1)}
    drawn = [
        item
        for place, item in enumerate(plan.candidates)
        if place < _DOTS or str(item.layout) in front
    ]
    forecasts = [item.forecast for item in drawn]
    x = _Scale.over([t * 1000 for one in forecasts for t in (one.tpot_low, one.tpot_high)])
    y = _Scale.over([rate_ for one in forecasts for rate_ in (one.output_low, one.output_high)])
    dots = []
    for item in drawn:
        one = item.forecast
        quick, fast = milliseconds(one.tpot_s * 1000), rate(one.output_tokens_per_s)
        dots.append(
            Dot(
                number=front.get(str(item.layout), 0),
                chosen=_is_chosen(plan, item),
                x=x.at(one.tpot_s * 1000),
                y=y.at(one.output_tokens_per_s),
                left=x.at(one.tpot_low * 1000),
                right=x.at(one.tpot_high * 1000),
                low=y.at(one.output_low),
                high=y.at(one.output_high),
                title=f"{item.layout}: {fast} tokens/s, {quick} per token",
            )
        )
    dots.sort(key=lambda dot: (dot.chosen, dot.number > 0))  # what matters is drawn last
    line = sorted((dot.x, 100 - dot.y) for dot in dots if dot.number)
    return Scatter(
        tuple(dots), x.ticks(), y.ticks(), " ".join(f"{left:.2f},{top:.2f}" for left, top in line)
    )


def bar(plan: Plan, item: Candidate) -> Bar:
    """What fills one NPU; slices add up to all of its memory."""
    taken = _taken(item.memory)
    whole = sum(taken.values()) or 1
    slices = (
        Slice(kind, bytes_ / whole * 100, f"{_gib(bytes_)} GiB")
        for kind, bytes_ in taken.items()
        if bytes_
    )
    return Bar(
        str(item.layout),
        _is_chosen(plan, item),
        tuple(slices),
        f"{_gib(whole)} GiB",
        item.memory.sequences,
    )


def constants(wanted: Wanted) -> tuple[Constant, ...]:
    """The five that a forecast depends on most."""
    machine, chip = wanted.machine, wanted.chip
    if machine is None:
        return ()
    published = chip.source if chip else ""
    layer = machine.moe_layer if wanted.shape.experts else machine.layer
    return (
        Constant("memory", _share(machine.memory, machine.memory_bandwidth, "B/s"), published),
        Constant("arithmetic", _share(machine.matrix, machine.bf16, "FLOP/s"), published),
        Constant("host", milliseconds(layer * 1000)),
        Constant("collective", f"{machine.reduce * 1e6:.0f} µs"),
        Constant("between", _share(machine.wire, machine.between.bandwidth, "B/s"),
                 machine.between.source),
    )  # fmt: skip


def _share(part: float, peak: float, unit: str) -> str:
    """`520 GB/s (65 % of 800)`."""
    factor, prefix = next(
        ((size, name) for size, name in ((1e12, "T"), (1e9, "G"), (1e6, "M")) if peak >= size),
        (1.0, ""),
    )
    reached, whole = part * peak / factor, peak / factor
    return f"{reached:.3g} {prefix}{unit} ({percent(part)} of {whole:.3g})"


def _taken(memory: Memory) -> dict[str, int]:
    """Bytes by kind; a virtual NPU has no memory of its own to leave free."""
    taken = {
        "weights": memory.weights,
        "engine": memory.engine,
        "activations": memory.activations,
        "cache": max(0, memory.kv_cache),
        "graphs": memory.reserve,
    }
    return {**taken, "free": max(0, memory.hbm - sum(taken.values()))}


def _step(chosen: Candidate) -> tuple[Slice, ...]:
    """Parts of the average step, the longest first; widths are of the whole step."""
    forecast = chosen.forecast
    whole = max(forecast.step_s, sum(part.seconds for part in forecast.parts)) or 1.0
    parts = sorted(forecast.parts, key=lambda part: -part.seconds)
    return tuple(
        Slice(part.name, part.seconds / whole * 100, milliseconds(part.seconds * 1000))
        for part in parts
        if part.seconds > 0
    )


def _notes(plan: Plan) -> tuple[str, ...]:
    told = [*plan.notes]
    if plan.chosen:
        told += [*plan.chosen.notes, *plan.chosen.forecast.notes]
    return tuple(dict.fromkeys((*told, *plan.wanted.shape.assumed)))


def _along(front: Sequence[Candidate]) -> list[Candidate]:
    """From the quickest to the fastest."""
    return sorted(front, key=lambda item: item.forecast.tpot_s)


def _beyond(plan: Plan, item: Candidate) -> bool:
    return item not in plan.candidates[:_TABLE]


def _is_chosen(plan: Plan, item: Candidate) -> bool:
    return plan.chosen is not None and item.layout == plan.chosen.layout


def _gib(bytes_: float) -> str:
    return f"{bytes_ / GIB:.1f}"


@dataclass(frozen=True)
class _Scale:
    """A logarithmic axis: exponents of its two ends."""

    first: float
    last: float

    @classmethod
    def over(cls, values: Sequence[float]) -> "_Scale":
        """Around all values above zero, with a little air."""
        known = [log10(value) for value in values if value > 0] or [0.0]
        air = max(0.03, (max(known) - min(known)) * 0.05)
        return cls(min(known) - air, max(known) + air)

    def at(self, value: float) -> float:
        """Percent of the axis, its ends for what lies beyond."""
        if value <= 0:
            return 0.0
        return min(100.0, max(0.0, (log10(value) - self.first) / (self.last - self.first) * 100))

    def ticks(self) -> tuple[tuple[float, str], ...]:
        """Times powers of ten: the fewer of these the axis spans, the more between."""
        span = self.last - self.first
        decades = range(floor(self.first), ceil(self.last) + 1)
        steps = next(steps for most, steps in _TICKS if span <= most)
        values = [factor * 10.0**power for power in decades for factor in steps]
        return tuple(
            (self.at(value), f"{value:,.10g}")
            for value in values
            if self.first <= log10(value) <= self.last
        )

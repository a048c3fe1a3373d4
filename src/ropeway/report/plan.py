"""A plan on the terminal: the answer, values with reasons, other layouts, rejected ones, notes."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import log2
from operator import attrgetter

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.styled import Styled
from rich.table import Table
from rich.text import Text

from ropeway.phrases import Phrase, count, phrase
from ropeway.plan.candidate import Candidate, Plan, PlanRequest, Rejected, Value
from ropeway.plan.estimate import Forecast
from ropeway.report.figures import NONE, digits, milliseconds, percent, rate, seconds
from ropeway.report.line import one_line, shrink
from ropeway.report.table import ByWidth, pairs, table
from ropeway.units import counted

GIB = 2**30
_LABEL = "predicted; not verified on NPU hardware"
_LOCAL_LABEL = "predicted from constants measured on this machine"
# Rows on a screen; `-v` shows all.
_CANDIDATES = 8
_GROUPS = 8
# In this order; the page says the same.
_KINDS = {
    "memory": "does not fit",
    "bound": "too slow",
    "engine": "engine cannot",
    "shape": "cannot be split",
}
_SOURCE = {False: 16, True: 60}  # cells of a source on a narrow and a wide screen
_ADDRESS = re.compile(r"https?://([^/\s]+)/\S*?([^/\s]+)/?(?=\s|$)")
_NUMBER = re.compile(r"\d[\d,.]*")


@dataclass(frozen=True)
class RejectedGroup:
    """Layouts rejected for the same kind of reason; `example` is the nearest to the chosen."""

    kind: str
    count: int
    example: Rejected


def plan_text(plan: Plan, *, verbose: bool = False) -> RenderableType:
    """Return the screen; with `verbose`, every candidate and every rejection."""
    what, conditions = request_words(plan.request)
    parts: list[RenderableType] = [Text(what, style="bold")]
    parts += [Text(" · ".join(conditions), style="dim"), Text()]
    parts += _answer(plan, plan.chosen) if plan.chosen else _no_answer(plan)
    if plan.values:
        parts += [Text(), Text("values", style="bold")]
        parts.append(ByWidth(lambda wide: _values(plan.values, wide=wide)))
    if plan.candidates:
        shown = plan.candidates if verbose else best(plan)
        parts += [Text(), *_candidates_heading(plan, shown)]
        parts.append(ByWidth(lambda wide: _candidates(plan, shown, wide=wide)))
    if plan.rejected:
        parts += [Text(), *_rejected(plan, verbose=verbose)]
    if plan.notes:
        assumed = plan.request.shape.assumed
        notes = [("model" if note in assumed else "note", one_line(note)) for note in plan.notes]
        parts += [Text(), Styled(pairs(notes), "dim")]
    return Group(*parts)


def values_text(values: Sequence[Value]) -> RenderableType:
    """Return values with their whole reasons, for `--why`."""
    parts: list[RenderableType] = []
    for value in values:
        parts.append(Text.assemble((one_line(value.key), "bold"), f"  {shown(value.value)}"))
        parts.append(pairs((("why", one_line(value.why)), ("source", one_line(value.source)))))
    return Group(*parts)


def layout_text(plan: Plan, name: str) -> RenderableType:
    """Return one layout of the plan with its reasons, for `--why`."""
    lines = (Padding(one_line(reason), (0, 0, 0, 2)) for reason in layout_reasons(plan, name))
    return Group(Text(name, style="bold"), *lines)


def layout_reasons(plan: Plan, name: str) -> tuple[str, ...]:
    """Return why a layout was chosen, how it compares with the chosen, or why it was rejected."""
    chosen = plan.chosen
    reasons = [item.reason for item in plan.rejected if str(item.layout) == name]
    for place, item in enumerate(plan.candidates, start=1):
        if str(item.layout) != name or chosen is None:
            continue
        what = "chosen" if item.layout == chosen.layout else "runs"
        summary = f"{what}, {place} of {len(plan.candidates)}: {in_short(item)}"
        if item.layout != chosen.layout:
            summary += f"; {chosen.layout}: {in_short(chosen)}"
        reasons = [summary, f"bottleneck: {item.forecast.bottleneck}", *item.notes, *reasons]
    return tuple(reasons) or ("not among the layouts examined: judge it with `--layout`",)


def best(plan: Plan) -> tuple[Candidate, ...]:
    """Return the candidates for a screen: the first ones, and other Pareto-optimal ones."""
    first = plan.candidates[:_CANDIDATES]
    front = [item for item in plan.candidates[_CANDIDATES:] if item.on_front]
    return (*first, *front[:_CANDIDATES])


def rejected_groups(plan: Plan) -> tuple[RejectedGroup, ...]:
    """Group what was rejected by reasons that differ only in numbers.

    Order: memory, bound, engine, shape; within each the largest group first.
    """
    by_reason: dict[tuple[str, str], list[Rejected]] = {}
    for item in plan.rejected:
        by_reason.setdefault((item.kind, _NUMBER.sub("#", item.reason)), []).append(item)
    groups = [
        RejectedGroup(kind, len(items), min(items, key=lambda item: _distance(item, plan.chosen)))
        for (kind, _), items in by_reason.items()
    ]
    return tuple(sorted(groups, key=lambda group: ([*_KINDS].index(group.kind), -group.count)))


def request_words(request: PlanRequest) -> tuple[Phrase, tuple[Phrase, ...]]:
    """Return what is planned, `Qwen3-32B on 2 hosts × 8 910B4`, and for what, part by part."""
    cluster, load = request.cluster, request.load
    values = {
        "model": one_line(request.model_name),
        "hosts": count(cluster.host_count, "{n:,} host", "{n:,} hosts"),
        "chip": request.chip.name if request.chip else "virtual NPUs",
    }
    each, total = cluster.npus_per_host, cluster.total_npus
    what = phrase("{model} on {hosts} × {npus} {chip}", npus=each, **values)
    if cluster.host_count * each != total:
        what = phrase("{model} on {hosts} with {npus} {chip} in all", npus=total, **values)
    parts = [phrase("with {file}", file=one_line(request.spec_file))] if request.spec_file else []
    if request.chip:
        version, graph = request.traits.version, request.traits.graph
        parts.append(phrase("vLLM-Ascend {version}, graph {graph}", version=version, graph=graph))
    arrivals = (
        phrase("{n:,} clients", n=load.clients)
        if load.clients
        else phrase("{rate} requests per second", rate=rate(load.rate))
    )
    parts.append(
        phrase(
            "{arrivals}, {inputs:,} tokens in, {outputs:,} out",
            arrivals=arrivals,
            inputs=load.input_tokens,
            outputs=load.output_tokens,
        )
    )
    if request.context:
        parts.append(phrase("context {n:,}", n=request.context))
    parts.append(phrase("objective: {objective}", objective=request.objective))
    if request.tpot_s is not None:
        parts.append(phrase("at most {time} per token", time=milliseconds(request.tpot_s * 1000)))
    if request.ttft_s is not None:
        time = milliseconds(request.ttft_s * 1000)
        parts.append(phrase("at most {time} to the first token", time=time))
    return what, tuple(parts)


def honesty(plan: Plan) -> str:
    """Return the label of every forecast."""
    return _LABEL if plan.request.chip else _LOCAL_LABEL


def typical_error(plan: Plan) -> str:
    """Say how far measurements were from forecasts like the chosen: what its interval means."""
    if plan.chosen is None or plan.request.chip is None:
        return ""
    forecast = plan.chosen.forecast
    below = percent(1 - forecast.output_low / forecast.output_tokens_per_s)
    above = percent(forecast.output_high / forecast.output_tokens_per_s - 1)
    return phrase("80% of measurements: -{below} to +{above}", below=below, above=above)


def is_chosen(plan: Plan, item: Candidate) -> bool:
    """Return whether this layout is the plan's answer."""
    return plan.chosen is not None and item.layout == plan.chosen.layout


def shown(value: object) -> str:
    """Return a value of the plan as text: 32768 → "32,768"."""
    if value is None:
        return NONE
    if isinstance(value, Phrase):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:g}" if value < 1000 else f"{value:,.0f}"
    return one_line(str(value))


def price(amount: float) -> str:
    """An amount of money to three digits: 0.4213 → "0.421", 12.345 → "12.3", 1234.5 → "1,234"."""
    return digits(amount) if amount >= 1 else f"{amount:.3f}"


def _answer(plan: Plan, chosen: Candidate) -> list[RenderableType]:
    forecast = chosen.forecast
    hosts = counted(chosen.hosts, "host")
    npus = counted(chosen.npus, "NPU")
    outputs = (forecast.output_tokens_per_s, forecast.output_low, forecast.output_high)
    times = (forecast.tpot_s, forecast.tpot_low, forecast.tpot_high)
    speeds, latencies = [*map(rate, outputs)], [milliseconds(time * 1000) for time in times]
    rows: list[tuple[str, Text | str]] = [
        ("run", Text.assemble((str(chosen.layout), "bold green"), f" on {hosts}, {npus}")),
        ("output", _ranged(f"{speeds[0]} tokens/s", *speeds[1:])),
        ("per token", _ranged(*latencies)),
        ("first token", milliseconds(forecast.ttft_s * 1000)),
        *_money(plan, chosen),
        ("bottleneck", one_line(forecast.bottleneck)),
        ("advice", one_line(forecast.advice)),
        ("one step", _step(forecast)),
    ]
    label = "; ".join(filter(None, (honesty(plan), typical_error(plan))))
    return [pairs(row for row in rows if row[1]), Text(label, style="yellow")]


def _no_answer(plan: Plan) -> list[RenderableType]:
    what = "nothing fits the request" if plan.rejected else "there is no layout"
    lines = (Padding(one_line(line), (0, 0, 0, 2)) for line in plan.missing)
    return [Text(what, style="bold red"), *lines]


def _ranged(value: str, low: str, high: str) -> Text:
    return Text.assemble((value, "bold"), f"   80% interval: {low} to {high}")


def _money(plan: Plan, chosen: Candidate) -> Iterable[tuple[str, str]]:
    cost = chosen.cost
    if not cost:
        return
    unit = one_line(cost.currency)
    million = f"{price(cost.per_million_tokens)} {unit} per million output tokens"
    yield "cost", f"{million}, {price(cost.per_hour)} {unit} an hour"
    if cost.job_hours is not None and cost.job_price is not None and plan.request.job_prompts:
        prompts = f"{plan.request.job_prompts:,} prompts"
        yield "job", f"{prompts}: {seconds(cost.job_hours * 3600)}, {price(cost.job_price)} {unit}"


def _step(forecast: Forecast) -> str:
    times = [f"{name} {_ms(seconds)}" for name, seconds in forecast.parts.items() if seconds > 5e-5]
    return f"{_ms(forecast.step_s)} ms: {', '.join(times)}"


def _ms(count: float) -> str:
    return f"{count * 1000:.1f}" if count < 0.0995 else f"{count * 1000:,.0f}"


def in_short(item: Candidate) -> str:
    """Return the speed of a layout: `2,846 tokens/s, 82.6 ms per token`."""
    forecast = item.forecast
    quick = milliseconds(forecast.tpot_s * 1000)
    return f"{rate(forecast.output_tokens_per_s)} tokens/s, {quick} per token"


def _values(values: Sequence[Value], *, wide: bool) -> Table:
    """Return a table of value, reason, source; on a narrow screen the source is truncated."""
    room = _SOURCE[wide]
    grid = table()
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_column(ratio=1, overflow="fold")
    grid.add_column(style="dim", no_wrap=True)
    for value in values:
        key = one_line(value.key).removeprefix("serve.")
        source = _ADDRESS.sub(r"\1/…/\2", one_line(value.source))
        grid.add_row(key, shown(value.value), one_line(value.why), shrink(source, room))
    return grid


def _candidates_heading(plan: Plan, items: Sequence[Candidate]) -> list[Text]:
    number = len(plan.candidates)
    rest = "" if len(items) == number else f" of {number:,} (`-v`: all)"
    legend = "● Pareto-optimal: nothing else has more throughput and less latency"
    heading = Text(f"layouts that run: {len(items):,}{rest}", style="bold")
    return [heading, Text(legend, style="dim")]


def _candidates(plan: Plan, items: Sequence[Candidate], *, wide: bool) -> Table:
    sizes = [">GiB weights\n+ cache"]
    if wide:
        parts = ("weights", "engine", "activations", "cache", "of HBM")
        sizes = [*(f">{part}\nGiB" for part in parts), ">running\nat once"]
    speeds = [">tokens/s", ">80%\nwithin", ">TTFT\ns", ">ms per\ntoken"]
    speeds += [">80%\nwithin"] if wide else []
    grid = table("layout", ">NPUs\n(hosts)", *sizes, *speeds, no_wrap=True)
    if unit := next((item.cost.currency for item in items if item.cost), None):
        grid.add_column(f"{one_line(unit)}\n/M", justify="right")
    for item in items:
        grid.add_row(*_candidate(plan, item, wide=wide, priced=unit is not None))
    return grid


def _candidate(plan: Plan, item: Candidate, *, wide: bool, priced: bool) -> list[str | Text]:
    memory, forecast = item.memory, item.forecast
    chosen = is_chosen(plan, item)
    mark = "●" if item.on_front else " "
    name = Text(f"{mark} {item.layout}", style="bold green" if chosen else "")
    row: list[str | Text] = [name, f"{item.npus} ({item.hosts})"]
    if wide:
        sizes = (memory.weights, memory.engine, memory.activations, memory.kv_cache, memory.hbm)
        row += [f"{bytes_ / GIB:.1f}" if bytes_ else NONE for bytes_ in sizes]
        row.append(f"{forecast.running:,.0f}")
    else:
        row.append(f"{memory.weights / GIB:.1f} + {memory.kv_cache / GIB:.1f}")
    low, high = rate(forecast.output_low), rate(forecast.output_high)
    row.append(Text(rate(forecast.output_tokens_per_s), style="bold" if chosen else ""))
    row += [f"{low}–{high}", rate(forecast.ttft_s), _ms(forecast.tpot_s)]
    if wide:
        row.append(f"{_ms(forecast.tpot_low)}–{_ms(forecast.tpot_high)}")
    if priced:
        row.append(price(item.cost.per_million_tokens) if item.cost else NONE)
    return row


def _rejected(plan: Plan, *, verbose: bool) -> list[RenderableType]:
    count = len(plan.rejected)
    heading = Text(f"rejected: {counted(count, 'layout')}", style="bold")
    grid = table()
    grid.add_column(style="dim")
    grid.add_column(justify="right", style="dim")
    grid.add_column(no_wrap=True)
    grid.add_column(ratio=1, overflow="fold")
    groups = () if verbose else rejected_groups(plan)
    rows = [(f"{group.count:,}", group.example) for group in groups[:_GROUPS]]
    for number, item in rows or [("", item) for item in plan.rejected]:
        grid.add_row(_KINDS[item.kind], number, str(item.layout), one_line(item.reason))
    if len(groups) > _GROUPS:
        rest = sum(group.count for group in groups[_GROUPS:])
        grid.add_row("", f"{rest:,}", "", "for other reasons; `-v` names each")
    return [heading, grid]


def _distance(item: Rejected, chosen: Candidate | None) -> tuple[float, float]:
    """Return a sort key: by number of NPUs, then sizes; where nothing was chosen, most NPUs."""
    if chosen is None:
        return -item.layout.npus, 0.0
    sizes = attrgetter("tensor", "pipeline", "data")
    pairs = zip(sizes(item.layout), sizes(chosen.layout), strict=True)
    apart = sum(abs(log2(here / there)) for here, there in pairs)
    more = abs(log2(item.layout.npus / chosen.npus))
    return round(more, 9), round(apart + (item.layout.expert != chosen.layout.expert), 9)

"""A plan on the terminal: the answer, the values and their reasons, what else, and what not."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import log2

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ropeway.plan.candidate import Candidate, Plan, Rejected, Value, Wanted
from ropeway.plan.estimate import Forecast
from ropeway.report.figures import NONE, milliseconds, percent, rate, seconds
from ropeway.report.line import one_line, shrink
from ropeway.report.text import WIDE

GIB = 2**30
_LABEL = "predicted; not verified on NPU hardware"
_CEILING = "if a step took only what memory, arithmetic and wires need"
_LOCAL_LABEL = "predicted from constants measured on this machine"
# On a screen; `-v` shows all.
_CANDIDATES = 8
_GROUPS = 8
_KINDS = ("memory", "bound", "engine", "shape")
_SOURCE = {False: 14, True: 60}  # cells of a source on a narrow and a wide screen
_ADDRESS = re.compile(r"https?://([^/\s]+)/\S*?([^/\s]+)/?(?=\s|$)")
_NUMBER = re.compile(r"\d[\d,.]*")


@dataclass(frozen=True)
class RejectedGroup:
    """Layouts that were not taken for the same kind of reason.

    example  of them, the one nearest to the layout that was chosen
    """

    kind: str
    count: int
    example: Rejected


def plan_text(plan: Plan, *, verbose: bool = False) -> RenderableType:
    """The readable screen; with `verbose` every candidate, every rejection and every note."""
    parts: list[RenderableType] = [*_head(plan.wanted), Text()]
    if plan.chosen:
        parts += _answer(plan, plan.chosen)
    else:
        parts += _no_answer(plan)
    if plan.values:
        parts += [Text(), _heading("values")]
        parts.append(_ByWidth(lambda wide: _values(plan.values, wide=wide)))
    if plan.candidates:
        shown = plan.candidates if verbose else best(plan)
        parts += [Text(), _candidates_heading(plan, shown)]
        parts.append(_ByWidth(lambda wide: _candidates(plan, shown, wide=wide)))
    if plan.rejected:
        parts += [Text(), *_rejected(plan, verbose=verbose)]
    if notes := _notes(plan, verbose=verbose):
        parts += [Text(), *notes]
    return Group(*parts)


def values_text(values: Sequence[Value]) -> RenderableType:
    """The values asked for by `--why`, whole."""
    parts: list[RenderableType] = []
    for value in values:
        parts.append(Text.assemble((one_line(value.key), "bold"), f"  {shown(value.value)}"))
        parts.append(_pairs((("why", one_line(value.why)), ("source", one_line(value.source)))))
    return Group(*parts)


def layout_text(plan: Plan, name: str) -> RenderableType:
    """One layout of the plan, as `--why` tells it."""
    lines = (Padding(one_line(reason), (0, 0, 0, 2)) for reason in layout_reasons(plan, name))
    return Group(Text(name, style="bold"), *lines)


def layout_reasons(plan: Plan, name: str) -> tuple[str, ...]:
    """Why this layout was taken, how it compares with the one that was, or why it cannot be."""
    chosen = plan.chosen
    found = [one.reason for one in plan.rejected if str(one.layout) == name]
    for place, item in enumerate(plan.candidates, start=1):
        if str(item.layout) != name or chosen is None:
            continue
        what = "chosen" if item.layout == chosen.layout else "runs"
        told = f"{what}, {place} of {len(plan.candidates)}: {_in_short(item)}"
        if item.layout != chosen.layout:
            told += f", against {_in_short(chosen)} of {chosen.layout}"
        found = [told, item.forecast.bottleneck, *item.notes, *found]
    searched = "not among the layouts that were looked at: judge it with `--layout`"
    return tuple(found) or (searched,)


def best(plan: Plan) -> tuple[Candidate, ...]:
    """What a screen has room for: the first ones, and what else is on the front."""
    first = plan.candidates[:_CANDIDATES]
    front = [item for item in plan.candidates[_CANDIDATES:] if item.on_front]
    return (*first, *front[:_CANDIDATES])


def rejected_groups(plan: Plan) -> tuple[RejectedGroup, ...]:
    """What was rejected, alike reasons together: memory, bound, engine, shape; the largest first.

    Reasons are alike when only their numbers differ.
    """
    found: dict[tuple[str, str], list[Rejected]] = {}
    for item in plan.rejected:
        found.setdefault((item.kind, _NUMBER.sub("#", item.reason)), []).append(item)
    groups = [
        RejectedGroup(kind, len(items), min(items, key=lambda one: _distance(one, plan.chosen)))
        for (kind, _), items in found.items()
    ]
    return tuple(sorted(groups, key=lambda group: (_KINDS.index(group.kind), -group.count)))


def wanted_words(wanted: Wanted) -> tuple[str, str]:
    """What is planned, and for what: `Qwen3-32B on 2 hosts × 8 910B4`, `256 clients, …`."""
    cluster = wanted.cluster
    chip = wanted.chip.name if wanted.chip else "virtual NPUs"
    hosts = f"{cluster.host_count:,} host{'s' * (cluster.host_count != 1)}"
    equal = cluster.host_count * cluster.npus_per_host == cluster.total_npus
    each = f"{hosts} × {cluster.npus_per_host} {chip}"
    many = each if equal else f"{hosts} with {cluster.total_npus} {chip} in all"
    where = f"{one_line(wanted.model_name)} on {many}"
    load = wanted.load
    arrivals = (
        f"{load.clients:,} clients" if load.clients else f"{rate(load.rate)} requests a second"
    )
    asked = [
        f"vLLM-Ascend {wanted.traits.version}, graph {wanted.traits.graph}" if wanted.chip else "",
        f"{arrivals}, {load.input_tokens:,} tokens in, {load.output_tokens:,} out",
        f"context {wanted.context:,}" if wanted.context else "",
        _objective(wanted),
    ]
    return where, " · ".join(filter(None, asked))


def honesty(plan: Plan) -> str:
    """What every forecast is labelled with."""
    return _LABEL if plan.wanted.chip else _LOCAL_LABEL


def typical_error(plan: Plan) -> str:
    """How far measurements have been from such a forecast: what its interval stands for."""
    if plan.chosen is None or plan.wanted.chip is None:
        return ""
    forecast = plan.chosen.forecast
    below = percent(1 - forecast.output_low / forecast.output_tokens_per_s)
    above = percent(forecast.output_high / forecast.output_tokens_per_s - 1)
    return f"four of five measurements lie between {below} below and {above} above such a forecast"


def shown(value: object) -> str:
    """A value of the plan as text: 32768 → "32,768"."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:g}" if value < 1000 else f"{value:,.0f}"
    return one_line(str(value))


def price(amount: float) -> str:
    """An amount of money to three digits: 0.4213 → "0.421", 12.345 → "12.3", 1234.5 → "1,234"."""
    if amount >= 100:
        return f"{amount:,.0f}"
    return f"{amount:.1f}" if amount >= 10 else f"{amount:.2f}" if amount >= 1 else f"{amount:.3f}"


def _objective(wanted: Wanted) -> str:
    bounds = [
        f"at most {milliseconds(bound * 1000)} {name}"
        for name, bound in (("per token", wanted.tpot_s), ("to the first token", wanted.ttft_s))
        if bound is not None
    ]
    return ", ".join((f"for {wanted.objective}", *bounds))


def _head(wanted: Wanted) -> list[Text]:
    what, asked = wanted_words(wanted)
    return [Text(what, style="bold"), Text(asked, style="dim")]


def _answer(plan: Plan, chosen: Candidate) -> list[RenderableType]:
    forecast = chosen.forecast
    ceiling = f"{rate(forecast.ceiling_tokens_per_s)} tokens/s"
    hosts = f"{chosen.hosts:,} host{'s' * (chosen.hosts != 1)}"
    npus = f"{chosen.npus:,} NPU{'s' * (chosen.npus != 1)}"
    rows: list[tuple[str, Text | str]] = [
        ("run", Text.assemble((str(chosen.layout), "bold green"), f" on {hosts}, {npus}")),
        ("output", _ranged(*_throughput(forecast))),
        ("per token", _ranged(*_per_token(forecast))),
        ("first token", milliseconds(forecast.ttft_s * 1000)),
        *_money(plan, chosen),
        ("bound by", one_line(forecast.bottleneck)),
        ("advice", one_line(forecast.advice)),
        ("one step", _step(forecast)),
        ("ceiling", "" if ceiling in forecast.bottleneck else f"{ceiling} {_CEILING}"),
    ]
    said = "; ".join(filter(None, (honesty(plan), typical_error(plan))))
    rows = [row for row in rows if row[1]]
    return [_pairs(rows), Text(said, style="yellow")]


def _no_answer(plan: Plan) -> list[RenderableType]:
    what = "nothing fits what is asked" if plan.rejected else "no layout was found"
    told = (Padding(one_line(line), (0, 0, 0, 2)) for line in plan.missing)
    return [Text(what, style="bold red"), *told]


def _throughput(forecast: Forecast) -> tuple[str, str]:
    low, high = rate(forecast.output_low), rate(forecast.output_high)
    return f"{rate(forecast.output_tokens_per_s)} tokens/s", f"{low} to {high}"


def _per_token(forecast: Forecast) -> tuple[str, str]:
    low, high = (milliseconds(s * 1000) for s in (forecast.tpot_low, forecast.tpot_high))
    return milliseconds(forecast.tpot_s * 1000), f"{low} to {high}"


def _ranged(value: str, interval: str) -> Text:
    return Text.assemble((value, "bold"), f"   80 % of such runs: {interval}")


def _money(plan: Plan, chosen: Candidate) -> Iterable[tuple[str, str]]:
    cost = chosen.cost
    if not cost:
        return
    unit = one_line(cost.currency)
    million = f"{price(cost.per_million_tokens)} {unit} per million output tokens"
    yield "cost", f"{million}, {price(cost.per_hour)} {unit} an hour"
    if cost.job_hours is not None and cost.job_price is not None and plan.wanted.job_prompts:
        prompts = f"{plan.wanted.job_prompts:,} prompts"
        yield "job", f"{prompts}: {seconds(cost.job_hours * 3600)}, {price(cost.job_price)} {unit}"


def _step(forecast: Forecast) -> str:
    parts = sorted(forecast.parts, key=lambda part: -part.seconds)
    told = [f"{one_line(part.name)} {_ms(part.seconds)}" for part in parts if part.seconds > 5e-5]
    return f"{_ms(forecast.step_s)} ms: {', '.join(told)}"


def _ms(count: float) -> str:
    return f"{count * 1000:.1f}" if count < 0.0995 else f"{count * 1000:,.0f}"


def _in_short(item: Candidate) -> str:
    forecast = item.forecast
    quick = milliseconds(forecast.tpot_s * 1000)
    return f"{rate(forecast.output_tokens_per_s)} tokens/s, {quick} per token"


def _values(values: Sequence[Value], *, wide: bool) -> Table:
    """Value, why, source; on a narrow screen the source is cut, `--why` has it whole."""
    room = _SOURCE[wide]
    table = _table()
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_column(ratio=1, overflow="fold")
    table.add_column(style="dim", no_wrap=True)
    for value in values:
        key = one_line(value.key).removeprefix("serve.")
        source = _ADDRESS.sub(r"\1/…/\2", one_line(value.source))
        table.add_row(key, shown(value.value), one_line(value.why), shrink(source, room))
    return table


def _candidates_heading(plan: Plan, told: Sequence[Candidate]) -> Text:
    count = len(plan.candidates)
    rest = "" if len(told) == count else f" of {count:,} (`-v`: all)"
    what = f"layouts that run: {len(told):,}{rest}"
    return Text.assemble((what, "bold"), ("   ● none is both faster and quicker", "dim"))


def _candidates(plan: Plan, told: Sequence[Candidate], *, wide: bool) -> Table:
    table = _table(header=True)
    table.add_column("layout", no_wrap=True)
    table.add_column("NPUs\n(hosts)", justify="right", no_wrap=True)
    if wide:
        for name in ("weights", "engine", "activations", "cache", "of HBM"):
            table.add_column(f"{name}\nGiB", justify="right", no_wrap=True)
        table.add_column("sequences\nat once", justify="right", no_wrap=True)
    else:
        table.add_column("GiB weights\n+ cache", justify="right", no_wrap=True)
    table.add_column("tokens/s", justify="right", no_wrap=True)
    table.add_column("80 %\nwithin", justify="right", no_wrap=True)
    table.add_column("TTFT\ns", justify="right", no_wrap=True)
    table.add_column("ms per\ntoken", justify="right", no_wrap=True)
    if wide:
        table.add_column("80 %\nwithin", justify="right", no_wrap=True)
    if unit := next((item.cost.currency for item in told if item.cost), None):
        table.add_column(f"{one_line(unit)}\n/M", justify="right")
    for item in told:
        table.add_row(*_candidate(plan, item, wide=wide, priced=unit is not None))
    return table


def _candidate(plan: Plan, item: Candidate, *, wide: bool, priced: bool) -> list[str | Text]:
    memory, forecast = item.memory, item.forecast
    chosen = plan.chosen is not None and item.layout == plan.chosen.layout
    mark = "●" if item.on_front else " "
    name = Text(f"{mark} {item.layout}", style="bold green" if chosen else "")
    row: list[str | Text] = [name, f"{item.npus} ({item.hosts})"]
    if wide:
        taken = (memory.weights, memory.engine, memory.activations, memory.kv_cache, memory.hbm)
        row += [f"{bytes_ / GIB:.1f}" if bytes_ else NONE for bytes_ in taken]
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
    heading = _heading(f"rejected: {count:,} layout{'s' * (count != 1)}")
    table = _table()
    table.add_column(style="dim")
    table.add_column(justify="right", style="dim")
    table.add_column(no_wrap=True)
    table.add_column(ratio=1, overflow="fold")
    if verbose:
        for one in plan.rejected:
            table.add_row(one.kind, "", str(one.layout), one_line(one.reason))
        return [heading, table]
    groups = rejected_groups(plan)
    for group in groups[:_GROUPS]:
        like = group.example
        table.add_row(group.kind, f"{group.count:,}", f"{like.layout}", one_line(like.reason))
    if len(groups) > _GROUPS:
        rest = sum(group.count for group in groups[_GROUPS:])
        table.add_row("", f"{rest:,}", "", "for other reasons; `-v` names each")
    return [heading, table]


def _notes(plan: Plan, *, verbose: bool) -> list[RenderableType]:
    told = [*plan.notes]
    if plan.chosen:
        told += [*plan.chosen.notes, *plan.chosen.forecast.notes]
    if verbose:
        told += plan.wanted.shape.assumed
    table = _table()
    table.add_column(style="dim", no_wrap=True)
    table.add_column(style="dim", ratio=1, overflow="fold")
    for note in dict.fromkeys(told):
        table.add_row("model" if note in plan.wanted.shape.assumed else "note", one_line(note))
    return [table] if table.rows else []


def _distance(one: Rejected, chosen: Candidate | None) -> tuple[float, float]:
    """As many NPUs first, then alike sizes; where nothing was chosen the most NPUs."""
    if chosen is None:
        return -one.layout.npus, 0.0
    pairs = zip(_grid(one), _grid(chosen), strict=True)
    apart = sum(abs(log2(here / there)) for here, there in pairs)
    more = abs(log2(one.layout.npus / chosen.npus))
    return round(more, 9), round(apart + (one.layout.expert != chosen.layout.expert), 9)


def _grid(item: Rejected | Candidate) -> tuple[int, int, int]:
    return item.layout.tensor, item.layout.pipeline, item.layout.data


def _table(*, header: bool = False) -> Table:
    return Table(
        box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=header, header_style="dim"
    )


def _heading(text: str) -> Text:
    return Text(text, style="bold")


def _pairs(rows: Iterable[tuple[str, Text | str]]) -> Table:
    table = _table()
    table.add_column(style="dim", no_wrap=True)
    table.add_column(ratio=1, overflow="fold")
    for name, value in rows:
        table.add_row(name, value)
    return table


@dataclass(frozen=True)
class _ByWidth:
    """A table that shows more where there is room."""

    draw: Callable[[bool], RenderableType]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.draw(options.max_width >= WIDE)

"""A plan on the terminal: the answer, values with reasons, other layouts, rejected ones, notes."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from math import log2
from operator import attrgetter

from rich.console import Group, RenderableType
from rich.styled import Styled
from rich.table import Table
from rich.text import Text

from ropeway.phrases import Phrase, count, joined, phrase
from ropeway.plan.candidate import Candidate, Plan, Rejected, Value
from ropeway.plan.estimate import Forecast
from ropeway.report.chinese import Say, in_language
from ropeway.report.figures import NONE, digits, milliseconds, rate, seconds
from ropeway.report.line import one_line
from ropeway.report.plan_words import honesty, no_answer, request_words, typical_error
from ropeway.report.table import ByWidth, Rows, pairs, prose, table
from ropeway.units import counted

GIB = 2**30
# Rows on a screen; `-v` shows all.
_CANDIDATES = 5
_GROUPS = 8
# In this order.
KINDS = {
    "memory": phrase("does not fit"),
    "bound": phrase("too slow"),
    "engine": phrase("engine cannot"),
    "shape": phrase("cannot be split"),
}
# What the parts of a step (`Forecast.parts`) are called.
STEP_PARTS = {
    "weights": phrase("reading weights"),
    "KV cache": phrase("reading the KV cache"),
    "arithmetic": phrase("arithmetic"),
    "routing": phrase("moving tokens to experts"),
    "all-reduce": phrase("all-reduce"),
    "all-to-all": phrase("all-to-all"),
    "launch": phrase("launching kernels"),
    "host": phrase("scheduling"),
    "send": phrase("sends between stages"),
    "requests": phrase("accepting requests"),
}
_NUMBER = re.compile(r"\d[\d,.]*")


@dataclass(frozen=True)
class RejectedGroup:
    """Layouts rejected for the same kind of reason; `example` is the nearest to the chosen."""

    kind: str
    count: int
    example: Rejected


def plan_text(plan: Plan, *, verbose: bool = False, language: str = "en") -> RenderableType:
    """Return the screen: the choice, why, its figures, and the best of the others.

    With `verbose` the reason of every value, every layout, every rejection and every note too.
    """
    say = partial(in_language, language=language)
    what, conditions = request_words(plan.request)
    parts: list[RenderableType] = [prose(say(what), "bold")]
    parts += [prose(say(joined(conditions, " · ")), "dim"), Text()]
    if plan.chosen:
        parts += _answer(plan, plan.chosen, say, verbose=verbose)
    else:
        parts += _no_answer(plan, say)
    if plan.values and verbose:
        parts += [Text(), Text(say(phrase("values")), style="bold")]
        parts.append(_values(plan.values, say))
    if plan.candidates:
        shown = plan.candidates if verbose else best(plan)
        parts += [Text(), *_candidates_heading(plan, shown, say)]
        parts.append(ByWidth(lambda wide: _candidates(plan, shown, say, wide=wide)))
    if plan.rejected and (verbose or not plan.chosen):
        parts += [Text(), *_rejected(plan, say, verbose=verbose)]
    if notes := [*_notes(plan, say, verbose=verbose)]:
        parts += [Text(), Styled(pairs(notes), "dim")]
    if plan.chosen and not verbose:
        parts += [Text(), prose(one_line(say(_more(plan))), "dim")]
    return Group(*parts)


def values_text(values: Sequence[Value], language: str = "en") -> RenderableType:
    """Return values with their whole reasons, for `--why`."""
    say = partial(in_language, language=language)
    parts: list[RenderableType] = []
    for value in values:
        parts.append(Text.assemble((one_line(value.key), "bold"), f"  {say(shown(value.value))}"))
        rows = ((phrase("why"), value.why), (phrase("source"), value.source))
        parts.append(pairs((say(name), one_line(say(text))) for name, text in rows))
    return Group(*parts)


def layout_text(plan: Plan, name: str, language: str = "en") -> RenderableType:
    """Return one layout of the plan with its reasons, for `--why`."""
    reasons = (one_line(in_language(text, language)) for text in layout_reasons(plan, name))
    return Group(Text(name, style="bold"), Rows([(text,) for text in reasons], indent=2))


def layout_reasons(plan: Plan, name: str) -> tuple[str, ...]:
    """Return why a layout was chosen, how it compares with the chosen, or why it was rejected."""
    chosen = plan.chosen
    reasons = [item.reason for item in plan.rejected if str(item.layout) == name]
    for place, item in enumerate(plan.candidates, start=1):
        if str(item.layout) != name or chosen is None:
            continue
        speed = in_short(plan, item)
        if item.replicas > 1:
            speed = phrase("{layout}: {reason}", layout=item.name, reason=speed)
        summary = phrase(
            "chosen; rank {place} of the {n} that fit: {speed}"
            if is_chosen(plan, item)
            else "reported to fail; rank {place} of the {n} that fit: {speed}"
            if item.faults
            else "runs; rank {place} of the {n} that fit: {speed}",
            place=place,
            n=len(plan.candidates),
            speed=speed,
        )
        if not is_chosen(plan, item):
            other = phrase("{layout}: {reason}", layout=chosen.name, reason=in_short(plan, chosen))
            summary = joined((summary, other))
        bottleneck = phrase("bottleneck: {what}", what=item.forecast.bottleneck)
        reasons = [summary, bottleneck, *item.notes, *reasons]
    if not reasons:
        reasons.append(phrase("not among the layouts examined: judge it with `--layout`"))
    return tuple(reasons)


def best(plan: Plan) -> tuple[Candidate, ...]:
    """Return the candidates for a screen: the first ones, and other Pareto-optimal ones."""
    first = plan.candidates[:_CANDIDATES]
    front = [item for item in plan.candidates[_CANDIDATES:] if item.on_front]
    return (*first, *front[:_CANDIDATES])


def faults_of(items: Sequence[Candidate]) -> tuple[str, ...]:
    """Return all reports that one of these layouts fails."""
    return tuple(dict.fromkeys(fault for item in items for fault in item.faults))


def rejected_groups(plan: Plan) -> tuple[RejectedGroup, ...]:
    """Group what was rejected by reasons that differ only in numbers.

    Order: memory, bound, engine, shape; within each the largest group first.
    """
    by_reason: dict[tuple[str, str], list[Rejected]] = {}
    for item in plan.rejected:
        by_reason.setdefault((item.kind, _NUMBER.sub("#", item.reason)), []).append(item)
    groups = [
        RejectedGroup(kind, len(items), min(items, key=lambda item: _distance(item, plan)))
        for (kind, _), items in by_reason.items()
    ]
    return tuple(sorted(groups, key=lambda group: ([*KINDS].index(group.kind), -group.count)))


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
        return phrase("yes") if value else phrase("no")
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:g}" if value < 1000 else f"{value:,.0f}"
    return one_line(str(value))


def price(amount: float) -> str:
    """An amount of money to three digits: 0.4213 → "0.421", 12.345 → "12.3", 1234.5 → "1,234"."""
    return digits(amount) if amount >= 1 else f"{amount:.3f}"


def _answer(plan: Plan, chosen: Candidate, say: Say, *, verbose: bool) -> list[RenderableType]:
    forecast = chosen.forecast
    layout = chosen.name
    where = phrase(
        "{layout} on {hosts}, {npus}",
        layout=layout,
        hosts=counted(chosen.hosts, "host"),
        npus=counted(chosen.npus, "NPU"),
    )
    run = Text(say(where))
    run.highlight_words((say(layout),), "bold green")
    rows: list[tuple[str, Text | str]] = [
        (phrase("run"), run),
        *_reasons(plan),
        *_speeds(plan, forecast, say),
        *_money(plan, chosen),
        (phrase("bottleneck"), forecast.bottleneck),
        (phrase("advice"), forecast.advice),
        (phrase("one step"), _step(forecast) if verbose else ""),
        (phrase("settings"), "" if verbose else _settings(plan)),
        *((phrase("doubt"), doubt) for doubt in plan.doubts),
    ]
    label = joined(filter(None, (honesty(plan), typical_error(plan))))
    grid = pairs(
        (say(name), text if isinstance(text, Text) else one_line(say(text)))
        for name, text in rows
        if text
    )
    return [grid, prose(say(label), "yellow")]


def _speeds(plan: Plan, forecast: Forecast, say: Say) -> Iterable[tuple[str, Text | str]]:
    """Yield throughput and latency; of an engine that only reads, by the request."""
    ends = [rate(forecast.output_low), rate(forecast.output_high)]
    if plan.request.reads_only:
        prompts = rate(forecast.requests_per_s * plan.request.load.input_tokens)
        speed = say(plan.request.speed(forecast))
        yield phrase("throughput"), _ranged(plan, speed, ends, say)
        yield phrase("prompts"), phrase("{n} prompt tokens/s", n=prompts)
        yield phrase("answer after"), milliseconds(forecast.ttft_s * 1000)
        return
    times = [milliseconds(time * 1000) for time in (forecast.tpot_low, forecast.tpot_high)]
    output = f"{rate(forecast.output_tokens_per_s)} tokens/s"
    yield phrase("output"), _ranged(plan, output, ends, say)
    yield phrase("per token"), _ranged(plan, milliseconds(forecast.tpot_s * 1000), times, say)
    yield phrase("first token"), milliseconds(forecast.ttft_s * 1000)


def _reasons(plan: Plan) -> Iterable[tuple[str, str]]:
    """Yield why this layout, and how many requests in flight where the planner chose."""
    for value in plan.values:
        if value.key == "serve.layout":
            yield phrase("why"), value.why
        if value.key == "workload.clients" and plan.request.free_clients:
            yield phrase("clients"), joined((shown(value.value), value.why))


def _settings(plan: Plan) -> Phrase:
    """Return the other values of the spec, each with its source unless the planner chose it."""
    texts = []
    for value in plan.values:
        key = value.key.removeprefix("serve.")
        ours = value.source in ("planner", "default")
        said = key == "layout" or (key == "replicas" and ours)
        if value.key not in (f"serve.{key}", "workload") or said:
            continue
        text = joined((key, shown(value.value)), " ")
        texts.append(
            text if ours else phrase("{value} ({source})", value=text, source=value.source)
        )
    return joined(texts, ", ")


def _more(plan: Plan) -> Phrase:
    """Say what else there is to see, and what to do with the choice."""
    parts = [phrase("all values with reasons")]
    if plan.rejected:
        rejected = count(len(plan.rejected), "{n:,} rejected layout", "{n:,} rejected layouts")
        parts.append(rejected)
    if plan.notes:
        parts.append(count(len(plan.notes), "{n:,} note", "{n:,} notes"))
    more = phrase("`-v`: {more}", more=joined(parts, ", "))
    if not plan.request.spec_file:
        return more
    return joined((more, phrase("`--write`: into {file}", file=one_line(plan.request.spec_file))))


def _no_answer(plan: Plan, say: Say) -> list[RenderableType]:
    lines = Rows([(one_line(say(line)),) for line in plan.missing], indent=2)
    return [prose(say(no_answer(plan)), "bold red"), lines]


def _ranged(plan: Plan, value: str, ends: Sequence[str], say: Say) -> Text:
    words = "range: {low} to {high}" if plan.beyond_measured else "80% interval: {low} to {high}"
    interval = phrase(words, low=ends[0], high=ends[1])
    return Text.assemble((value, "bold"), f"   {say(interval)}")


def _money(plan: Plan, chosen: Candidate) -> Iterable[tuple[str, str]]:
    cost, job_s = chosen.cost, plan.request.job_s(chosen.forecast)
    unit = one_line(cost.currency) if cost else ""
    if cost:
        words = "{million} {unit} per million output tokens, {hour} {unit} an hour"
        if plan.request.reads_only:
            words = "{million} {unit} per million prompt tokens, {hour} {unit} an hour"
        million, hour = price(cost.per_million_tokens), price(cost.per_hour)
        yield phrase("cost"), phrase(words, million=million, hour=hour, unit=unit)
    if job_s is not None:
        job = {"n": plan.request.job_prompts, "time": seconds(job_s)}
        words = phrase("{n:,} prompts: {time}", **job)
        if cost and cost.job_price is not None:
            paid = {"price": price(cost.job_price), "unit": unit}
            words = phrase("{n:,} prompts: {time}, {price} {unit}", **job, **paid)
        yield phrase("job"), words


def _step(forecast: Forecast) -> Phrase:
    times = [
        joined((STEP_PARTS.get(name, name), _ms(seconds)), " ")
        for name, seconds in forecast.parts.items()
        if seconds > 5e-5
    ]
    return phrase("{ms} ms: {parts}", ms=_ms(forecast.step_s), parts=joined(times, ", "))


def _ms(count: float) -> str:
    return f"{count * 1000:.1f}" if count < 0.0995 else f"{count * 1000:,.0f}"


def in_short(plan: Plan, item: Candidate) -> Phrase:
    """Return the speed of a layout: `2,846 tokens/s, 82.6 ms per token`."""
    if plan.request.reads_only:
        return plan.request.speed(item.forecast)
    return phrase(
        "{rate} tokens/s, {time} per token",
        rate=rate(item.forecast.output_tokens_per_s),
        time=milliseconds(item.forecast.tpot_s * 1000),
    )


def _notes(plan: Plan, say: Say, *, verbose: bool) -> Iterable[tuple[str, str]]:
    """Yield the notes; on the short screen without what was assumed in the model and forecast."""
    usual = (*plan.request.shape.assumed, *(plan.chosen.forecast.notes if plan.chosen else ()))
    for note in plan.notes:
        if plan.chosen and not verbose and note in usual:
            continue
        kind = phrase("model") if note in plan.request.shape.assumed else phrase("note")
        yield say(kind), one_line(say(note))


def _values(values: Sequence[Value], say: Say) -> Rows:
    """Return a table of key, value, and reason with source."""
    rows = []
    for value in values:
        key = Text(one_line(value.key).removeprefix("serve."), style="dim")
        source = Text(one_line(say(value.source)), style="dim")
        why = Text.assemble(one_line(say(value.why)), (" · ", "dim"), source)
        rows.append((key, one_line(say(shown(value.value))), why if value.why else source))
    return Rows(rows)


def _candidates_heading(plan: Plan, items: Sequence[Candidate], say: Say) -> list[RenderableType]:
    number = len(plan.candidates)
    heading = phrase(
        "layouts that run: {n:,}"
        if len(items) == number
        else "layouts that run: {n:,} of {all:,} (`-v`: all)",
        n=len(items),
        all=number,
    )
    legend = [phrase("● Pareto-optimal: nothing else has more throughput and less latency")]
    legend += [phrase("✗ reported to fail: {fault}", fault=fault) for fault in faults_of(items)]
    return [Text(say(heading), style="bold"), *(prose(say(line), "dim") for line in legend)]


def _candidates(plan: Plan, items: Sequence[Candidate], say: Say, *, wide: bool) -> Table:
    within = phrase("range") if plan.beyond_measured else phrase("80%\nwithin")
    sizes = [phrase("GiB weights\n+ cache")]
    speeds = ["tokens/s", "TTFT\ns", phrase("ms per\ntoken")]
    if plan.request.reads_only:
        speeds = ["requests/s", phrase("answer\ns")]
    if wide:
        speeds.insert(1, within)
        sizes = [
            phrase("weights\nGiB"),
            phrase("engine\nGiB"),
            phrase("activations\nGiB"),
            phrase("cache\nGiB"),
            phrase("of HBM\nGiB"),
            phrase("running\nat once"),
        ]
        speeds += [] if plan.request.reads_only else [within]
    several = any(item.replicas > 1 for item in items)
    replicas = [phrase("repli-\ncas")] if several else []
    figures = (f">{say(title)}" for title in (*replicas, phrase("NPUs\n(hosts)"), *sizes, *speeds))
    grid = table(say(phrase("layout")), *figures, no_wrap=True)
    if unit := next((item.cost.currency for item in items if item.cost), None):
        grid.add_column(f"{one_line(unit)}\n/M", justify="right")
    for item in items:
        name, *rest = _candidate(plan, item, wide=wide, priced=unit is not None)
        grid.add_row(name, *([f"{item.replicas:,}"] if several else []), *rest)
    return grid


def _candidate(plan: Plan, item: Candidate, *, wide: bool, priced: bool) -> list[str | Text]:
    memory, forecast = item.memory, item.forecast
    chosen = is_chosen(plan, item)
    mark = "●" if item.on_front else "✗" if item.faults else " "
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
    row += [f"{low}–{high}"] if wide else []
    row.append(rate(forecast.ttft_s))
    if not plan.request.reads_only:
        row.append(_ms(forecast.tpot_s))
    if wide and not plan.request.reads_only:
        row.append(f"{_ms(forecast.tpot_low)}–{_ms(forecast.tpot_high)}")
    if priced:
        row.append(price(item.cost.per_million_tokens) if item.cost else NONE)
    return row


def _rejected(plan: Plan, say: Say, *, verbose: bool) -> list[RenderableType]:
    heading = phrase("rejected: {layouts}", layouts=counted(len(plan.rejected), "layout"))
    groups = () if verbose else rejected_groups(plan)
    shown = [(f"{group.count:,}", group.example) for group in groups[:_GROUPS]]
    rows = [
        (say(KINDS[item.kind]), number, str(item.layout), one_line(say(item.reason)))
        for number, item in shown or [("", item) for item in plan.rejected]
    ]
    if len(groups) > _GROUPS:
        rest = sum(group.count for group in groups[_GROUPS:])
        rows.append(("", f"{rest:,}", "", say(phrase("for other reasons; `-v` names each"))))
    digits_ = max(len(number) for _, number, _, _ in rows)
    grid = Rows(
        [
            (Text(kind, style="dim"), Text(number.rjust(digits_), style="dim"), layout, reason)
            for kind, number, layout, reason in rows
        ]
    )
    return [Text(say(heading), style="bold"), grid]


def _distance(item: Rejected, plan: Plan) -> tuple[float, float]:
    """Return a sort key: by number of NPUs, then sizes; where nothing was chosen, the spec's own
    layout first, then most NPUs."""
    chosen = plan.chosen
    if chosen is None:
        return item.layout != plan.request.serve.layout, -item.layout.npus
    sizes = attrgetter("tensor", "pipeline", "data")
    pairs = zip(sizes(item.layout), sizes(chosen.layout), strict=True)
    apart = sum(abs(log2(here / there)) for here, there in pairs)
    more = abs(log2(item.layout.npus / chosen.npus))
    return round(more, 9), round(apart + (item.layout.expert != chosen.layout.expert), 9)

"""Which layout to run: all that can, how fast and how dear each is, and the best for the aim.

layouts ─ refused by the model's shape, by the engine's release, by memory, by a bound
        └ candidates, each with its memory fraction and number of sequences ─ front ─ chosen
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import log

from ropeway.engines.ascend_layouts import Case, limits, notes, runs_from
from ropeway.errors import LayoutError, Refused
from ropeway.plan.candidate import Candidate, Objective, Plan, Rejected, Value, Wanted
from ropeway.plan.cost import Cost, cost
from ropeway.plan.estimate import Forecast, Question, estimate
from ropeway.plan.fit import Setting, fitting, setting, wider_fit
from ropeway.plan.layout import check, problems, working
from ropeway.plan.memory import Memory
from ropeway.plan.missing import missing
from ropeway.plan.values import memory_words, shortfall, values
from ropeway.spec.model import Layout, Spec, dump_spec, parse_spec

__all__ = [
    "Candidate", "Cost", "Objective", "Plan", "Rejected", "Value", "Wanted", "choose", "written",
]  # fmt: skip

# Outputs that differ by less are taken as equal: then what takes less or is better known wins.
_ALIKE = 0.01


def choose(wanted: Wanted) -> Plan:
    """Look at every layout that can run and take the best.

    Raises Refused for a context that cannot be, LayoutError where the one layout asked for cannot
    run; both with the numbers. What does not fit is no error: then `chosen` is None.
    """
    given = setting(wanted)
    layouts = _layouts(wanted)
    rejected: list[Rejected] = []
    found: list[Candidate] = []
    for layout in layouts:
        judged = _judged(wanted, given, layout)
        if isinstance(judged, Rejected):
            rejected.append(judged)
        else:
            found.append(judged)
    if wanted.layout is None:
        rejected += _unsplittable(wanted, layouts)
    elif refusal := next((item for item in rejected if item.kind == "engine"), None):
        raise _barred(wanted, given, refusal)
    ranked = sorted(_with_front(found), key=lambda item: _rank(wanted, item))
    chosen = ranked[0] if ranked else None
    plan = Plan(
        wanted=wanted,
        chosen=chosen,
        candidates=tuple(ranked),
        front=tuple(
            sorted(
                (item for item in ranked if item.on_front), key=lambda item: item.forecast.tpot_s
            )
        ),
        rejected=tuple(rejected),
        values=(),
        notes=_notes(wanted, chosen),
        searched=len(layouts),
        missing=() if chosen else missing(wanted, given, rejected),
    )
    return replace(plan, values=values(plan, given)) if chosen else plan


def written(spec: Spec, plan: Plan) -> Spec:
    """The spec with the choice in it, as if written by hand. Raises Refused without a choice."""
    chosen = plan.chosen
    if chosen is None:
        raise Refused("there is no choice to write: nothing fits", evidence=plan.missing or ())
    update: dict[str, object] = {
        "layout": chosen.layout,
        "context": setting(plan.wanted).context,
        "max_sequences": chosen.max_sequences,
    }
    if spec.serve.kv_cache is None and chosen.fraction:
        update["memory"] = chosen.fraction
    if plan.wanted.chip is not None:
        update["version"] = plan.wanted.traits.version
    serve = spec.serve.model_copy(update=update)
    return parse_spec(dump_spec(spec.model_copy(update={"serve": serve})), "the plan")


def _layouts(wanted: Wanted) -> tuple[Layout, ...]:
    if wanted.layout is None:
        return working(wanted.shape, wanted.cluster)
    check(wanted.layout, wanted.shape, wanted.cluster, wanted.model_name)
    return (wanted.layout,)


def _barred(wanted: Wanted, given: Setting, refusal: Rejected) -> LayoutError:
    """The release cannot run the one layout asked for."""
    layout, version = refusal.layout, wanted.traits.version
    family = wanted.chip.family if wanted.chip else ""
    later = runs_from(Case(layout, wanted.shape, family, given.hosts(wanted, layout)), version)
    other = "another layout: `ropeway plan` without one lists them"
    return LayoutError(
        f"layout `{layout}` cannot run with vLLM-Ascend {version}",
        evidence=(refusal.reason,),
        hint=f"take {later} or newer, or {other}" if later else f"take {other}",
    )


def _judged(wanted: Wanted, given: Setting, layout: Layout) -> Candidate | Rejected:
    """What a layout comes to, or why it is not taken."""
    clients = wanted.load.clients
    if clients is not None and layout.data > clients:
        many = f"{clients:,} client{'s' * (clients != 1)}"
        idle = f"{layout.data} replicas for {many}: {layout.data - clients} would idle"
        return Rejected(layout, "bound", idle, layout.data / clients)
    hosts = given.hosts(wanted, layout)
    doubts: tuple[str, ...] = ()
    if wanted.chip is not None:
        case = Case(layout, wanted.shape, wanted.chip.family, hosts, wanted.traits.graph)
        if reasons := limits(case, wanted.traits.version):
            return Rejected(layout, "engine", "; ".join(reasons))
        doubts = notes(case, wanted.traits.version)
    fit = fitting(wanted, given, layout)
    if not fit.memory.fits:
        words = memory_words(fit.memory, given.context)
        return Rejected(layout, "memory", words, shortfall(fit.memory, given.context))
    most, forecast = _within_bounds(wanted, given, layout, fit.memory, fit.max_sequences)
    if _falls_behind(wanted, forecast) and (wider := wider_fit(wanted, given, layout, fit)):
        more, quicker = _within_bounds(wanted, given, layout, wider.memory, wider.max_sequences)
        if quicker.output_tokens_per_s > forecast.output_tokens_per_s:
            fit, most, forecast = wider, more, quicker
    words, times = _too_slow(wanted, forecast)
    if words:
        return Rejected(layout, "bound", words, times)
    return Candidate(
        layout, hosts, layout.npus, fit.fraction, most, fit.memory, forecast,
        _cost(wanted, hosts, forecast), on_front=False, notes=doubts,
    )  # fmt: skip


def _within_bounds(
    wanted: Wanted, given: Setting, layout: Layout, memory: Memory, most: int
) -> tuple[int, Forecast]:
    """With as many sequences as the load has use for, or fewer where a token takes too long.

    Fewer never make a token slower, so the most that keep the bound are found by halving the
    range of powers of two. Where not even one does, the answer is that of one.
    """
    question = Question(
        shape=wanted.shape,
        layout=layout,
        machine=given.machine,
        load=wanted.load,
        npus_per_host=given.npus_per_host,
        max_sequences=most,
        kv_tokens=given.load_tokens(wanted, layout, memory, most),
        max_batched_tokens=given.batched(layout),
        precision=wanted.precision,
        kv_bits=wanted.kv_bits,
    )
    forecast = estimate(question)
    if wanted.tpot_s is None or wanted.max_sequences is not None:
        return most, forecast
    if forecast.tpot_s <= wanted.tpot_s or most == 1:
        return most, forecast
    low, high = 0, most.bit_length() - 1  # 2^high is too many
    best = 1, estimate(replace(question, max_sequences=1))
    if best[1].tpot_s > wanted.tpot_s:
        return best
    while high - low > 1:
        middle = (low + high) // 2
        forecast = estimate(replace(question, max_sequences=1 << middle))
        if forecast.tpot_s <= wanted.tpot_s:
            low, best = middle, (1 << middle, forecast)
        else:
            high = middle
    return best


def _falls_behind(wanted: Wanted, forecast: Forecast) -> bool:
    """Whether requests come faster than they are answered."""
    rate = wanted.load.rate
    return rate is not None and forecast.requests_per_s < 0.98 * rate


def _too_slow(wanted: Wanted, forecast: Forecast) -> tuple[str, float]:
    """Which bounds are not held, with the numbers ("" when all are), and how many times over."""
    parts, times = [], 1.0
    for what, value, bound in (
        ("a token", forecast.tpot_s, wanted.tpot_s),
        ("the first token", forecast.ttft_s, wanted.ttft_s),
    ):
        if bound is not None and value > bound:
            parts.append(
                f"{what} takes {value * 1e3:,.0f} ms; asked for at most {bound * 1e3:,.0f}"
            )
            times = max(times, value / bound)
    return "; ".join(parts), times


def _cost(wanted: Wanted, hosts: int, forecast: Forecast) -> Cost | None:
    if wanted.price_per_host_hour is None or forecast.output_tokens_per_s <= 0:
        return None
    prompts = wanted.job_prompts
    return cost(
        hosts,
        wanted.price_per_host_hour,
        forecast.output_tokens_per_s,
        currency=wanted.currency,
        job_tokens=None if prompts is None else prompts * wanted.load.output_tokens,
    )


def _with_front(found: Sequence[Candidate]) -> list[Candidate]:
    """Each marked whether no other has both more output and less time per token."""
    best = float("inf")
    marked: dict[int, Candidate] = {}
    order = sorted(
        range(len(found)),
        key=lambda at: (-found[at].forecast.output_tokens_per_s, found[at].forecast.tpot_s),
    )
    for at in order:
        if found[at].forecast.tpot_s < best:
            best = found[at].forecast.tpot_s
            marked[at] = replace(found[at], on_front=True)
    return [marked.get(at, item) for at, item in enumerate(found)]


def _rank(wanted: Wanted, item: Candidate) -> tuple[float, ...]:
    """Smallest is best: the aim, then what is better known, takes less, or is simpler."""
    forecast, layout = item.forecast, item.layout
    output = max(forecast.output_tokens_per_s, 1e-9)
    bounded = wanted.tpot_s is not None or wanted.ttft_s is not None
    if wanted.objective == "cost":
        aim = item.hosts / output
    elif wanted.objective == "latency" and not bounded:
        aim = forecast.ttft_s + forecast.tpot_s * max(0, wanted.load.output_tokens - 1)
    else:
        aim = 1 / output
    return (
        round(log(max(aim, 1e-12)) / _ALIKE),
        len(item.notes),
        item.hosts,
        item.npus,
        layout.expert,
        layout.pipeline,
        layout.data,
        aim,
    )


def _unsplittable(wanted: Wanted, able: Sequence[Layout]) -> Iterator[Rejected]:
    """Layouts of round sizes that the model's shape or the cluster does not allow, with reasons."""
    known = set(able)
    for layout in _round_layouts(wanted):
        if layout not in known and (reasons := problems(layout, wanted.shape, wanted.cluster)):
            yield Rejected(layout, "shape", "; ".join(reasons))


def _round_layouts(wanted: Wanted) -> Iterator[Layout]:
    total = wanted.cluster.total_npus
    sizes = [2**power for power in range(total.bit_length()) if 2**power <= total]
    for tensor in sizes:
        for pipeline in sizes:
            for data in sizes:
                if tensor * pipeline * data > total:
                    break
                for expert in (False, True) if wanted.shape.experts else (False,):
                    yield Layout(tensor=tensor, pipeline=pipeline, data=data, expert=expert)


def _notes(wanted: Wanted, chosen: Candidate | None) -> tuple[str, ...]:
    """What was assumed, of the model and of the forecast that was chosen."""
    told = [*wanted.shape.assumed]
    if chosen is not None:
        told += [*chosen.notes, *chosen.forecast.notes]
        idle = wanted.cluster.total_npus - chosen.npus
        copies = wanted.cluster.host_count // chosen.hosts
        if copies > 1:
            told.append(
                f"{idle} NPUs stay idle: {copies} such services side by side would use "
                f"{copies * chosen.npus} of {wanted.cluster.total_npus}"
            )
    return tuple(dict.fromkeys(told))

"""Which layout to run: all that can, their speed and cost, and the best for the objective.

layouts ─ rejected for the model's shape, the engine's release, memory, or a bound
        └ candidates, each with its memory fraction and number of sequences ─ front ─ chosen
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from math import log
from operator import itemgetter

from ropeway.engines.ascend_layouts import limits, notes, runs_from
from ropeway.errors import LayoutError
from ropeway.phrases import count, joined, phrase
from ropeway.plan.candidate import Candidate, Plan, PlanRequest, Rejected
from ropeway.plan.cost import cost
from ropeway.plan.estimate import Forecast, estimate
from ropeway.plan.fit import Fit, Search, fit_layout, search_of, wider_fit
from ropeway.plan.layout import check, host_sizes_of, problems, working
from ropeway.plan.missing import missing
from ropeway.plan.question import Question
from ropeway.plan.values import memory_words, shortfall, values
from ropeway.spec.model import Layout

# Results that differ by less are equal: then the simpler or better known layout wins.
_TIE = 0.01


def choose(request: PlanRequest) -> Plan:
    """Judge every layout that can run and take the best.

    Raises Refused for an impossible context, LayoutError where the only requested layout
    cannot run; both with the numbers. It is not an error if nothing fits: then `chosen` is None.
    """
    search = search_of(request)
    layouts = _layouts(request)
    verdicts = [_judge(search, layout) for layout in layouts]
    rejected = [item for item in verdicts if isinstance(item, Rejected)]
    if request.layout is None:
        rejected += _unsplittable(request, layouts)
    elif refusal := next((item for item in rejected if item.kind == "engine"), None):
        raise _cannot_run(search, refusal)
    candidates = _with_front([item for item in verdicts if isinstance(item, Candidate)])
    ranked = sorted(candidates, key=lambda item: _rank(request, item))
    chosen = ranked[0] if ranked else None
    front = [item for item in ranked if item.on_front]
    plan = Plan(
        request=request,
        chosen=chosen,
        candidates=tuple(ranked),
        front=tuple(sorted(front, key=lambda item: item.forecast.tpot_s)),
        rejected=tuple(rejected),
        values=(),
        notes=_notes(request, chosen),
        searched=len(layouts),
        missing=() if chosen else missing(search, rejected),
    )
    return replace(plan, values=values(plan, chosen, search)) if chosen else plan


def _layouts(request: PlanRequest) -> tuple[Layout, ...]:
    if request.layout is None:
        return working(request.shape, request.cluster)
    check(request.layout, request.shape, request.cluster, request.model_name)
    return (request.layout,)


def _cannot_run(search: Search, refusal: Rejected) -> LayoutError:
    """Return the error for the only requested layout, which the release cannot run."""
    version, layout = search.request.traits.version, refusal.layout
    later = runs_from(search.case(layout), version)
    other = "another layout: `ropeway plan` without one lists them"
    return LayoutError(
        f"layout `{layout}` cannot run with vLLM-Ascend {version}",
        evidence=(refusal.reason,),
        hint=f"take {later} or newer, or {other}" if later else f"take {other}",
    )


def _judge(search: Search, layout: Layout) -> Candidate | Rejected:
    """Return the layout as a candidate, or why it is rejected."""
    request = search.request
    clients = request.load.clients
    if clients is not None and layout.data > clients:
        idle = phrase(
            "{ranks} DP ranks for {clients}: {idle} would be idle",
            ranks=layout.data,
            clients=count(clients, "{n:,} client", "{n:,} clients"),
            idle=layout.data - clients,
        )
        return Rejected(layout, "bound", idle, layout.data / clients)
    case, release = search.case(layout), request.traits.version
    doubts: tuple[str, ...] = ()
    if request.chip is not None:
        if reasons := limits(case, release):
            return Rejected(layout, "engine", joined(reasons))
        doubts = notes(case, release)
    fit = fit_layout(search, layout)
    if not fit.memory.fits:
        words = memory_words(fit.memory, search.context)
        return Rejected(layout, "memory", words, shortfall(fit.memory, search.context))
    most, forecast = _within_bounds(search, layout, fit)
    rate = request.load.rate
    behind = rate is not None and forecast.requests_per_s < 0.98 * rate
    if behind and (wider := wider_fit(search, layout, fit)):
        more, faster = _within_bounds(search, layout, wider)
        if faster.output_tokens_per_s > forecast.output_tokens_per_s:
            fit, most, forecast = wider, more, faster
    slow, times = _too_slow(request, forecast)
    if slow:
        return Rejected(layout, "bound", slow, times)
    hosts, prompts, paid = case.hosts, request.job_prompts, None
    if request.price_per_host_hour is not None:
        paid = cost(
            hosts,
            request.price_per_host_hour,
            forecast.output_tokens_per_s,
            currency=request.currency,
            job_tokens=None if prompts is None else prompts * request.load.output_tokens,
        )
    return Candidate(
        layout, hosts, layout.npus, fit.fraction, most, False, forecast, fit.memory, paid, doubts
    )


def _within_bounds(search: Search, layout: Layout, fit: Fit) -> tuple[int, Forecast]:
    """Return how many sequences to run at once, and the forecast with these.

    As many as the load has use for, or fewer where a token takes too long. Fewer never make a token
    slower, so the most that keep the bound are found by bisecting the powers of two. Where not even
    one sequence keeps it, the answer is one.
    """
    request, most = search.request, fit.max_sequences
    question = Question(
        shape=request.shape,
        layout=layout,
        machine=request.machine,
        load=request.load,
        npus_per_host=search.npus_per_host,
        max_sequences=most,
        kv_tokens=search.load_tokens(layout, fit.memory, most),
        max_batched_tokens=search.batched(layout),
        kv_bits=request.kv_bits,
    )
    forecast, bound = estimate(question), request.tpot_s
    if bound is None or request.max_sequences is not None:
        return most, forecast
    if forecast.tpot_s <= bound or most == 1:
        return most, forecast
    low, high = 0, most.bit_length() - 1  # 2^high is too many
    best = 1, estimate(replace(question, max_sequences=1))
    if best[1].tpot_s > bound:
        return best
    while high - low > 1:
        middle = (low + high) // 2
        forecast = estimate(replace(question, max_sequences=1 << middle))
        if forecast.tpot_s <= bound:
            low, best = middle, (1 << middle, forecast)
        else:
            high = middle
    return best


def _too_slow(request: PlanRequest, forecast: Forecast) -> tuple[str, float]:
    """Return which bounds are exceeded ("" for none), and by what factor at most."""
    parts, times = [], 1.0
    for what, value, bound in (
        ("each token", forecast.tpot_s, request.tpot_s),
        ("the first token", forecast.ttft_s, request.ttft_s),
    ):
        if bound is not None and value > bound:
            parts.append(
                phrase(
                    "{what} takes {value:,.0f} ms, more than the {bound:,.0f} ms allowed",
                    what=what,
                    value=value * 1e3,
                    bound=bound * 1e3,
                )
            )
            times = max(times, value / bound)
    return joined(parts), times


def _with_front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Mark the Pareto-optimal: no other has both more output and less time per token."""
    speeds = [(-item.forecast.output_tokens_per_s, item.forecast.tpot_s) for item in candidates]
    best, front = float("inf"), set()
    for (_, latency), item in sorted(zip(speeds, candidates, strict=True), key=itemgetter(0)):
        if latency < best:
            best = latency
            front.add(item.layout)
    return [replace(item, on_front=item.layout in front) for item in candidates]


def _rank(request: PlanRequest, item: Candidate) -> tuple[float, ...]:
    """Return a sort key, smallest for the best: the objective, then doubts, size, simplicity."""
    layout, aim = item.layout, request.aim(item.hosts, item.forecast)
    return (
        round(log(max(aim, 1e-12)) / _TIE),
        len(item.notes),
        item.hosts,
        item.npus,
        layout.expert,
        layout.pipeline,
        layout.data,
        aim,
    )


def _unsplittable(request: PlanRequest, layouts: Sequence[Layout]) -> Iterator[Rejected]:
    """Yield layouts of power-of-two sizes that the model's shape or the cluster does not allow."""
    able, total = set(layouts), request.cluster.total_npus
    sizes = [2**power for power in range(total.bit_length())]
    spreads = (False, True) if request.shape.experts else (False,)
    for tensor, pipeline, data, expert in product(sizes, sizes, sizes, spreads):
        if tensor * pipeline * data > total:
            continue
        layout = Layout(tensor=tensor, pipeline=pipeline, data=data, expert=expert)
        if layout not in able and (reasons := problems(layout, request.shape, request.cluster)):
            yield Rejected(layout, "shape", joined(reasons))


def _notes(request: PlanRequest, chosen: Candidate | None) -> tuple[str, ...]:
    """Return what was assumed, of the model and in the chosen forecast."""
    if chosen is None:
        return tuple(dict.fromkeys(request.shape.assumed))
    lines = [*request.shape.assumed, *chosen.notes, *chosen.forecast.notes]
    total = request.cluster.total_npus
    copies = request.cluster.host_count // chosen.hosts
    if copies > 1 and len(host_sizes_of(request.cluster)) == 1:
        idle = phrase(
            "{idle} NPUs stay idle: {copies} replicas of this layout would use {used} of {total}",
            idle=total - chosen.npus,
            copies=copies,
            used=copies * chosen.npus,
            total=total,
        )
        lines.append(idle)
    return tuple(dict.fromkeys(lines))

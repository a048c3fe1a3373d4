"""Which layout to run: all that can, their speed and cost, and the best for the objective.

layouts ─ rejected for the model's shape, the engine's release, memory, or a bound
        └ candidates, each with its memory fraction and number of sequences ─ front ─ chosen
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from math import inf
from operator import itemgetter
from typing import Any

from ropeway.engines import ascend_serve
from ropeway.engines.ascend_layouts import faults, notes
from ropeway.engines.ascend_quantisation import quantisation_fault, scheme_of
from ropeway.engines.ascend_releases import later_than, rules_of
from ropeway.engines.placement import hosts_of_replicas, replicas_that_fit
from ropeway.engines.vllm import context_doubt
from ropeway.errors import LayoutError, Refused
from ropeway.models.known import without_formats
from ropeway.phrases import Phrase, count, joined, phrase
from ropeway.plan.candidate import Candidate, Plan, PlanRequest, Rejected
from ropeway.plan.cost import cost
from ropeway.plan.doubts import doubts, most_measured
from ropeway.plan.estimate import Forecast, estimate, most_running, time_per_token
from ropeway.plan.fit import MOST_SEQUENCES, Fit, Search, fit_layout, search_of, wider_fit
from ropeway.plan.layout import check, problems, working
from ropeway.plan.load import Load
from ropeway.plan.missing import missing
from ropeway.plan.question import Question
from ropeway.plan.reports import measured, unreported
from ropeway.plan.values import figure_of, memory_words, shortfall, values
from ropeway.spec.engine_flags import flag_value
from ropeway.spec.model import Layout

# Results that differ by less are equal: then the simpler or better known layout wins.
_TIE = 0.01
# By so much another context makes the result better where it is worth a word.
_MUCH = 1.1
# Sequences of a step are captured as a graph in multiples of this (cycle.largest_graph).
_STEP = 8


def choose(request: PlanRequest) -> Plan:
    """Judge every layout that can run and take the best.

    Raises Refused for an impossible context, for weights that the chips cannot load and for flags
    that the release does not take, LayoutError where the only requested layout cannot run; with the
    numbers. It is not an error if nothing fits: then `chosen` is None.
    """
    _check_engine(request)
    search = search_of(request)
    layouts = _layouts(search)
    ranked, rejected = _ranked(search, layouts)
    if request.layout is None:
        rejected += _unsplittable(request, layouts)
    elif refusal := next((item for item in rejected if item.kind == "engine"), None):
        raise _cannot_run(search, refusal)
    chosen = ranked[0] if ranked else None
    front = [item for item in ranked if item.on_front]
    made_of = chosen.forecast.notes if chosen else ()
    most = most_measured(search, chosen) if chosen else None
    beyond = most is not None or request.reads_only
    plan = Plan(
        request=request,
        chosen=chosen,
        candidates=tuple(ranked),
        front=tuple(sorted(front, key=lambda item: item.forecast.tpot_s)),
        rejected=tuple(rejected),
        values=(),
        doubts=(
            *doubts(search, ranked),
            *_context_words(search, layouts, chosen),
            *context_doubt(request.shape, None if request.leaves_context else search.context),
        ),
        beyond_measured=beyond,
        notes=tuple(dict.fromkeys((*request.shape.assumed, *made_of))),
        searched=len(layouts),
        missing=() if chosen else missing(search, rejected),
    )
    return replace(plan, values=values(plan, chosen, search)) if chosen else plan


def _ranked(search: Search, layouts: Sequence[Layout]) -> tuple[list[Candidate], list[Rejected]]:
    """Return the layouts that can run, the best first, and those that are rejected."""
    verdicts = [_judge(search, layout) for layout in layouts]
    candidates = _with_front([item for item in verdicts if isinstance(item, Candidate)])
    ranked = _in_rank(search.request, candidates)
    return ranked, [item for item in verdicts if isinstance(item, Rejected)]


def _check_engine(request: PlanRequest) -> None:
    """Raise Refused where no layout helps: what `up` refuses is not planned."""
    if request.chip is None:
        return
    scheme, traits = scheme_of(request.shape), request.traits
    try:
        ascend_serve.check(request.serve, rules_of(traits.version), request.chip.family)
    except Refused as error:
        error.where = _at_its_line(request, (error.where or "").partition(",")[0], error.where)
        raise
    asked = flag_value(request.serve.engine_args, "quantization")
    fault = quantisation_fault(scheme, request.shape, traits.version, request.chip.family, asked)
    if fault is not None:
        more = phrase(
            "with such weights: `--model {model}-W8A8`", model=without_formats(request.model_name)
        )
        said = fault.refused(
            traits.version, request.model_name, "" if scheme == "ascend" or fault.asked else more
        )
        said.where = _at_its_line(request, "model.path", said.where)
        raise said


def _at_its_line(request: PlanRequest, key: str, where: str | None) -> str | None:
    """Return a place with the line of the spec that its key came from, where there is one."""
    line = request.sources.get(key)
    return f"{line}, {where}" if line else where


def _layouts(search: Search) -> tuple[Layout, ...]:
    request = search.request
    if request.layout is None:
        return working(request.shape, request.cluster, request.contexts)
    check(request.layout, request.shape, request.cluster, request.model_name)
    if not _replica_numbers(search, request.layout):
        raise LayoutError(
            _no_room(search, request.layout),
            where="serve.replicas",
            hint=phrase("fewer replicas, a smaller layout, or more hosts"),
        )
    return (request.layout,)


def _cannot_run(search: Search, refusal: Rejected) -> LayoutError:
    """Return the error for the only requested layout, which the release cannot run."""
    version, layout = search.request.traits.version, refusal.layout
    newer = (row.version for row in later_than(version))
    later = next((each for each in newer if not search.refusals(layout, each)), "")
    hint = phrase("take another layout: `ropeway plan` without `--layout` lists them")
    if later:
        hint = joined((phrase("take {version} or newer", version=later), hint))
    return LayoutError(
        phrase(
            "layout `{layout}` cannot run with vLLM-Ascend {version}",
            layout=layout,
            version=version,
        ),
        evidence=(refusal.reason,),
        hint=hint,
    )


def _judge(search: Search, layout: Layout) -> Candidate | Rejected:
    """Return the layout as a candidate, with its best number of replicas, or why it is rejected."""
    request = search.request
    clients = _fixed_clients(request)
    if clients is not None and layout.data > clients:
        idle = phrase(
            "{ranks} DP ranks for {clients}: {idle} would be idle",
            ranks=layout.data,
            clients=count(clients, "{n:,} client", "{n:,} clients"),
            idle=layout.data - clients,
        )
        return Rejected(layout, "bound", idle, layout.data / clients)
    if reasons := search.refusals(layout, request.traits.version):
        return Rejected(layout, "engine", joined(reasons))
    numbers = _replica_numbers(search, layout)
    if not numbers:
        return Rejected(layout, "shape", _no_room(search, layout))
    return _simplest(request, _with_replicas(search, layout, numbers))


def _replica_numbers(search: Search, layout: Layout) -> list[int]:
    """Return how many replicas to try: as many as there is room for, then powers of two below."""
    request = search.request
    most = replicas_that_fit(layout, search.host_sizes)
    if request.replicas is not None:
        return [request.replicas] if request.replicas <= most else []
    if request.cluster.local:
        return [1]
    if clients := _fixed_clients(request):
        most = min(most, clients // layout.data)
    return [most, *(1 << power for power in reversed(range((most - 1).bit_length())))]


def _no_room(search: Search, layout: Layout) -> Phrase:
    """Say that the replicas which the request fixes have no room."""
    number = search.request.replicas or 1
    return phrase(
        "{replicas:,} replicas of {layout} take {npus:,} NPUs, and there is room for {room:,}",
        replicas=number,
        layout=layout,
        npus=number * layout.npus,
        room=replicas_that_fit(layout, search.host_sizes),
    )


def _with_replicas(
    search: Search, layout: Layout, numbers: Sequence[int]
) -> Iterator[Candidate | Rejected]:
    """Yield the layout with each number of replicas, down to the first that cannot keep up."""
    for replicas in numbers:
        loads = _loads(search, layout, replicas)
        item = _simplest(
            search.request, (_try(search.of(load), layout, replicas) for load in loads)
        )
        yield item
        if isinstance(item, Rejected):
            return


def _loads(search: Search, layout: Layout, replicas: int) -> Iterator[Load]:
    """Yield the loads of one replica to try: one, or with free clients from the most to the fewest.

    The most are those that can run at once, so that none waits for another.
    """
    request = search.request
    if _fixed_clients(request) is not None or request.load.clients is None:
        yield request.load.share(replicas)
        return
    one, most = request.load.share(replicas), MOST_SEQUENCES
    for _ in range(2):  # the fewer run at once, the more of the memory is left for their cache
        one = replace(one, clients=most * layout.data)
        fit = fit_layout(search.of(one), layout)
        tokens = search.of(one).load_tokens(layout, fit.memory, fit.max_sequences)
        most = int(most_running(one, MOST_SEQUENCES, tokens))
    most = most // _STEP * _STEP or most
    for each in (most, *(1 << power for power in reversed(range((most - 1).bit_length())))):
        yield replace(one, clients=each * layout.data)


def _fixed_clients(request: PlanRequest) -> int | None:
    """Return how many requests are in flight, where that is not the planner's to choose.

    For the least latency without a bound, one at a time would always be best.
    """
    free = request.free_clients and request.minimised != "latency"
    return None if free else request.load.clients


def _simplest(request: PlanRequest, items: Iterable[Candidate | Rejected]) -> Candidate | Rejected:
    """Return the last of `items` that is as good as any before it; they come from most to least.

    Without any that is not rejected, the last rejection.
    """
    kept: Candidate | None = None
    best = inf
    refused: Rejected | None = None
    for item in items:
        if isinstance(item, Rejected):
            if kept is not None:
                break
            refused = item
            continue
        aim = request.aim(item.hosts, item.forecast)
        if aim > best * (1 + _TIE):
            break
        kept, best = item, min(best, aim)
    answer = kept or refused
    assert answer is not None  # there is always one to try
    return answer


def _try(search: Search, layout: Layout, replicas: int) -> Candidate | Rejected:
    """Return so many replicas as a candidate, or why they are rejected. The load is that of one."""
    request, load = search.request, search.request.load
    fit = fit_layout(search, layout)
    if not fit.memory.fits:
        words = memory_words(fit.memory, search.context)
        return Rejected(layout, "memory", words, shortfall(fit.memory, search.context))
    most, forecast = _within_bounds(search, layout, fit, replicas)
    behind = load.rate is not None and forecast.requests_per_s < 0.98 * load.rate * replicas
    if behind and (wider := wider_fit(search, layout, fit)):
        more, faster = _within_bounds(search, layout, wider, replicas)
        if faster.output_tokens_per_s > forecast.output_tokens_per_s:
            fit, most, forecast = wider, more, faster
    slow, times = _too_slow(request, forecast)
    if slow:
        return Rejected(layout, "bound", slow, times)
    hosts = hosts_of_replicas(layout, replicas, search.host_sizes)
    prompts, paid = request.job_prompts, None
    tokens = load.input_tokens if request.reads_only else load.output_tokens
    if request.price_per_host_hour is not None:
        paid = cost(
            hosts,
            request.price_per_host_hour,
            forecast.requests_per_s * tokens,
            currency=request.currency,
            job_tokens=None if prompts is None else prompts * tokens,
        )
    return Candidate(
        layout=layout,
        hosts=hosts,
        npus=replicas * layout.npus,
        fraction=fit.fraction,
        max_sequences=most,
        on_front=False,
        forecast=forecast,
        memory=fit.memory,
        cost=paid,
        replicas=replicas,
        clients=load.clients and load.clients * replicas,
        **_doubts(search, layout),
    )


def _within_bounds(search: Search, layout: Layout, fit: Fit, replicas: int) -> tuple[int, Forecast]:
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
        replicas=replicas,
    )
    forecast, bound = estimate(question), request.tpot_s
    if bound is None or request.max_sequences is not None:
        return most, forecast
    if forecast.tpot_s <= bound or most == 1:
        return most, forecast
    low, high = 0, most.bit_length() - 1  # 2^high is too many
    while high - low > 1:
        middle = (low + high) // 2
        if time_per_token(replace(question, max_sequences=1 << middle)) <= bound:
            low = middle
        else:
            high = middle
    return 1 << low, estimate(replace(question, max_sequences=1 << low))


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
    """Mark the Pareto-optimal among those that were not reported to fail: no other has both more
    output and less time per token."""
    sound = [item for item in candidates if not item.faults]
    speeds = [(-item.forecast.output_tokens_per_s, item.forecast.tpot_s) for item in sound]
    best, front = float("inf"), set()
    for (_, latency), item in sorted(zip(speeds, sound, strict=True), key=itemgetter(0)):
        if latency < best:
            best = latency
            front.add(item.layout)
    return [replace(item, on_front=item.layout in front) for item in candidates]


def _in_rank(request: PlanRequest, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates, best first: those that were not reported to fail, by the objective.

    What comes within 1% of the best that is left counts as equal to it.
    """

    def aim(item: Candidate) -> tuple[int, float]:
        return len(item.faults), request.aim(item.hosts, item.forecast)

    ranked: list[Candidate] = []
    equal: list[Candidate] = []
    for item in sorted(candidates, key=aim):
        if equal:
            faults, best = aim(equal[0])
            if aim(item) > (faults, best * (1 + _TIE)):
                ranked += sorted(equal, key=_merits)
                equal.clear()
        equal.append(item)
    return ranked + sorted(equal, key=_merits)


def _merits(item: Candidate) -> tuple[float, ...]:
    """Return a sort key for equals, smallest for the best: what others have measured, doubts, size,
    simplicity, time per token."""
    layout = item.layout
    return (
        not item.measured,
        len(item.notes) - item.remarks,
        item.remarks,
        item.hosts,
        item.npus,
        item.replicas,
        layout.expert,
        layout.pipeline,
        layout.data,
        item.forecast.tpot_s,
    )


def _unsplittable(request: PlanRequest, layouts: Sequence[Layout]) -> Iterator[Rejected]:
    """Yield layouts that the model's shape or the cluster does not allow: the spec's own, and those
    of power-of-two sizes."""
    able, total = set(layouts), request.cluster.total_npus
    sizes = [2**power for power in range(total.bit_length())]
    spreads = (False, True) if request.shape.experts else (False,)
    keys, (prefill, decode) = ("tensor", "pipeline", "data", "expert"), request.contexts
    base = Layout(prefill_context=prefill, decode_context=decode)
    grids = product(sizes, sizes, sizes, spreads)
    made = (base.model_copy(update=dict(zip(keys, grid, strict=True))) for grid in grids)
    for layout in dict.fromkeys((request.serve.layout, *made)):
        if layout.npus > total:
            continue
        if layout not in able and (reasons := problems(layout, request.shape, request.cluster)):
            yield Rejected(layout, "shape", joined(reasons))


def _context_words(
    search: Search, layouts: Sequence[Layout], chosen: Candidate | None
) -> Iterator[str]:
    """Yield what a context of the load's length would do, where a blank one costs much."""
    request = search.request
    if chosen is None or not request.leaves_context:
        return
    shorter = search_of(replace(request, blank_context=None))
    better = next(iter(_ranked(shorter, layouts)[0]), chosen)
    aims = [request.aim(item.hosts, item.forecast) for item in (chosen, better)]
    if aims[0] > _MUCH * aims[1]:
        yield phrase(
            "`serve.context` is blank, so the engine takes {context:,} tokens; {tokens:,} would be "
            "enough for this load, and allow {layout} with {figure}",
            context=search.context,
            tokens=shorter.context,
            layout=better.name,
            figure=figure_of(request, better),
        )


def _doubts(search: Search, layout: Layout) -> dict[str, Any]:
    """Return why a layout may not run, though nothing says that it cannot: fields of Candidate."""
    request, version = search.request, search.request.traits.version
    if request.chip is None:
        return {}
    case = search.case(layout, version)
    said, reported = notes(case, version), faults(case, version)
    if request.reads_only:
        return {"notes": said, "faults": reported}
    experts, family = bool(request.shape.experts), case.family
    words = unreported(layout, case.hosts, experts=experts, family=family, version=version)
    known = measured(layout, case.hosts, experts=experts, family=family)
    return {
        "notes": (*filter(None, (words,)), *said),
        "faults": reported,
        "measured": known,
        "remarks": int(known and words is not None),
    }

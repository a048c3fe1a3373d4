"""Why each value of a plan is what it is, and where it comes from, in figures one can check."""

from collections.abc import Iterator, Sequence

from ropeway.engines.ascend_releases import NEWEST_STABLE
from ropeway.engines.placement import replicas_that_fit
from ropeway.hardware import Chip
from ropeway.phrases import Phrase, count, joined, phrase
from ropeway.plan.candidate import Candidate, Plan, PlanRequest, Value
from ropeway.plan.fit import Search
from ropeway.plan.layout import problems
from ropeway.plan.memory import MEMORY_ERROR, Memory, gpustack_bytes
from ropeway.plan.request import set_context_words
from ropeway.spec.model import Layout
from ropeway.units import format_bytes

_GIB = 2**30
_PLANNER, _DEFAULT = phrase("planner"), phrase("default")


def memory_words(memory: Memory, context: int) -> Phrase:
    """Say why a layout does not fit, in GiB of one NPU."""
    taken = memory.weights + memory.engine + memory.activations
    parts = phrase(
        "{weights} weights + {engine} engine + {activations} activations", **_parts(memory)
    )
    if memory.mask > memory.visible - taken > 0:
        return phrase(
            "on this chip the attention mask of a context of {context:,} tokens takes {mask} GiB "
            "(the square of the context, in float16), and {parts} leave {rest} of {visible} GiB",
            context=context,
            mask=_gib(memory.mask),
            parts=parts,
            rest=_gib(memory.visible - taken),
            visible=_gib(memory.visible),
        )
    if memory.kv_cache <= 0:
        return phrase(
            "{parts} are {taken} GiB, but only {usable} GiB can be used",
            parts=parts,
            taken=_gib(taken),
            usable=_gib(memory.usable),
        )
    if memory.sequences < 1:
        return phrase(
            "{parts} leave {cache} of {usable} GiB = {tokens:,} tokens of cache, but one sequence "
            "has {context:,}",
            parts=parts,
            cache=_gib(memory.kv_cache),
            usable=_gib(memory.usable),
            tokens=memory.kv_tokens,
            context=context,
        )
    return phrase(
        "{parts} + {cache} cache leave {rest} GiB, but graphs, memory in use before the start and "
        "an attention mask need {reserve} GiB"
        if memory.mask
        else "{parts} + {cache} cache leave {rest} GiB, but graphs and memory in use before the "
        "start need {reserve} GiB",
        parts=parts,
        cache=_gib(memory.kv_cache),
        rest=_gib(memory.spare + memory.reserve),
        reserve=_gib(memory.reserve),
    )


def shortfall(memory: Memory, context: int) -> float:
    """Return the bytes missing on each NPU for one sequence of the context to run."""
    beside = float(max(0, -memory.spare))
    if memory.kv_cache <= 0:
        return beside + -memory.kv_cache if memory.mask else float(-memory.kv_cache)
    if memory.sequences < 1:
        return max(beside, memory.kv_cache * (context / max(1, memory.kv_tokens) - 1))
    return beside


def tight_words(layout: Layout, left: int) -> Phrase:
    """Say that a layout fits by less than the figures may be off; by nothing at all, where not all
    copies of a mask have room (Memory.left)."""
    if not left:
        return phrase(
            "{layout} fits, but not while its attention mask is made: there are three copies of it "
            "then",
            layout=layout,
        )
    return phrase(
        "{layout} fits by {spare} an NPU, and such figures may be off by {error}",
        layout=layout,
        spare=format_bytes(left),
        error=format_bytes(MEMORY_ERROR),
    )


def left_over(request: PlanRequest, memory: Memory, context: int) -> int:
    """Return the bytes of an NPU by which a layout fits; a cache of fixed size takes its own from
    what all else leaves."""
    left = memory.left(context)
    return min(left, memory.spare) if request.kv_cache is not None else left


def memory_doubts(search: Search, chosen: Candidate) -> Iterator[Phrase]:
    """Yield that a layout fits by little, and that a context is set which nobody named."""
    request = search.request
    left = left_over(request, chosen.memory, search.context)
    if request.chip is not None and left < MEMORY_ERROR:
        yield tight_words(chosen.layout, left)
    if request.sets_context:
        yield set_context_words(search.context)


def values(plan: Plan, chosen: Candidate, search: Search) -> tuple[Value, ...]:
    """Return the values of the chosen layout: first those of the spec, then what follows."""
    return (*_settings(plan, chosen, search), *_derived(chosen, search))


def _settings(plan: Plan, chosen: Candidate, search: Search) -> Iterator[Value]:
    request = plan.request
    layout = str(chosen.layout)
    if request.layout is not None:
        yield _fixed(request, "layout", layout)
    else:
        yield Value("serve.layout", layout, _best_words(plan, chosen), _PLANNER)
        for key in ("tensor", "pipeline", "data", *(("expert",) if request.shape.experts else ())):
            yield Value(key, getattr(chosen.layout, key), _size_words(plan, chosen, key), _PLANNER)
    if request.replicas is not None:
        yield _fixed(request, "replicas", chosen.replicas)
    elif request.chip is not None:
        yield Value(
            "serve.replicas", chosen.replicas, _replica_words(plan, chosen, search), _PLANNER
        )
    if request.free_clients:
        yield Value("workload.clients", chosen.clients, _client_words(request), _PLANNER)
    yield _context(search)
    yield _sequences(chosen, search)
    if chosen.fraction:
        yield _fraction(chosen, search)
    if request.kv_cache is not None:
        yield _fixed(request, "kv_cache", format_bytes(request.kv_cache), phrase("on each NPU"))
    yield _workload(request, chosen.clients if request.free_clients else request.load.clients)
    if request.chip is None:
        return
    version = request.traits.version
    if version == NEWEST_STABLE.version and "serve.version" not in request.sources:
        yield Value("serve.version", version, phrase("the newest stable release"), _DEFAULT)
    elif asked := request.traits.asked:
        taken = phrase("taken as {version}", version=version)
        yield _fixed(request, "version", asked, taken)
    else:
        yield _fixed(request, "version", version)
    yield _chip(request.chip, request.sources.get("cluster.chip"))


def _workload(request: PlanRequest, clients: int | None) -> Value:
    """Return the load, and which of its figures came from where if not all from one place."""
    load = request.load
    keys = ("rate" if clients is None else "clients", "input_tokens", "output_tokens")
    places = [request.sources.get(f"workload.{key}", _DEFAULT) for key in keys]
    if request.free_clients:
        places[0] = _PLANNER
    if clients is None:
        value = phrase("{rate:g} requests/s", rate=load.rate)
    else:
        value = count(clients, "{n:,} client", "{n:,} clients")
    parts = [phrase("{n:,} tokens in", n=load.input_tokens)]
    if request.reads_only:
        del places[2]
    else:
        parts.append(phrase("{n:,} tokens out", n=load.output_tokens))
    if len(set(places)) > 1:
        parts = [
            phrase("{part} ({place})", part=part, place=place)
            for part, place in zip(parts, places[1:], strict=True)
        ]
    return Value("workload", value, joined(parts), joined(_by_file(places)))


def _by_file(places: Sequence[str]) -> list[str]:
    """Return places without repeating the file's name: `ropeway.yaml:68, 70`."""
    lines: dict[str, list[str]] = {}
    for place in dict.fromkeys(places):
        file, _, line = place.rpartition(":")
        lines.setdefault(file or place, []).extend([line] if file else [])
    return [f"{file}:{', '.join(own)}" if own else file for file, own in lines.items()]


def _chip(chip: Chip, place: str | None) -> Value:
    figures = phrase(
        "{hbm:.0f} GiB, {bandwidth:.2g} TB/s, {flops:.0f} TFLOP/s in bf16",
        hbm=chip.hbm_bytes / _GIB,
        bandwidth=chip.hbm_bandwidth / 1e12,
        flops=chip.bf16 / 1e12,
    )
    why = joined((figures, chip.note)) if chip.note else figures
    return Value("cluster.chip", chip.name, why, joined(filter(None, (place, chip.source))))


def _context(search: Search) -> Value:
    request, load = search.request, search.request.load
    tokens = phrase("a request has {inputs:,} tokens", inputs=load.input_tokens)
    if not request.reads_only:
        tokens = phrase(
            "a request has {inputs:,} + {outputs:,} tokens",
            inputs=load.input_tokens,
            outputs=load.output_tokens,
        )
    if request.context is not None:
        return _fixed(request, "context", search.context, tokens)
    if request.sets_context:
        why = joined((set_context_words(search.context), tokens))
        return Value("serve.context", search.context, why, _PLANNER)
    if request.leaves_context:
        engines = phrase("what the engine takes where none is named")
        return Value("serve.context", search.context, joined((engines, tokens)), _DEFAULT)
    why = joined((tokens, phrase("rounded up to a multiple of 1,024")))
    return Value("serve.context", search.context, why, _PLANNER)


def _sequences(chosen: Candidate, search: Search) -> Value:
    request, key, most = search.request, "serve.max_sequences", chosen.max_sequences
    if request.max_sequences is not None:
        return _fixed(request, "max_sequences", most)
    load, ranks = request.load, chosen.layout.data * chosen.replicas
    room = chosen.memory.kv_tokens // request.tokens
    if chosen.clients is None:
        why = phrase(
            "about {n:,.0f} run at once at {rate:g} requests/s",
            n=chosen.forecast.running,
            rate=(load.rate or 0.0) / chosen.replicas,
        )
        return Value(key, most, _rounded(why, most), _PLANNER)
    each = chosen.clients / ranks
    why = phrase("{n:,} clients", n=chosen.clients)
    if ranks > 1:
        shared = "{n:,} clients over {ranks:,} replicas, {each:,.0f} each"
        if chosen.layout.data > 1:
            shared = "{n:,} clients over {ranks:,} DP ranks, {each:,.0f} each"
        why = phrase(shared, n=chosen.clients, ranks=ranks, each=each)
    why = _rounded(why, most)
    if most < each and request.tpot_s is not None and room >= most * 2:
        why = phrase(
            "{n} at once keep the time per token within {ms:,.0f} ms",
            n=most,
            ms=request.tpot_s * 1e3,
        )
    elif most < each:
        why = joined((why, phrase("the cache has room for {n:,}", n=room)))
    return Value(key, most, why, _PLANNER)


def _rounded(why: Phrase, sequences: int) -> Phrase:
    is_power = sequences > 1 and sequences & (sequences - 1) == 0
    return joined((why, phrase("the next power of two"))) if is_power else why


def _fraction(chosen: Candidate, search: Search) -> Value:
    memory, share, default = chosen.memory, chosen.fraction, search.engine.fraction
    why = phrase(
        "{usable} of the {visible} GiB that the driver leaves of {hbm}: {weights} weights + "
        "{engine} engine + {activations} activations + {cache} cache",
        usable=_gib(memory.usable),
        visible=_gib(memory.visible),
        hbm=_gib(memory.hbm),
        cache=_gib(memory.kv_cache),
        **_parts(memory),
    )
    if search.request.memory is not None:
        return _fixed(search.request, "memory", share, why)
    if share == default:
        return Value("serve.memory", share, why, _DEFAULT)
    reason = (
        phrase("{share:g} would hold fewer sequences than are in flight", share=default)
        if share > default
        else phrase("{share:g} would leave no room for graphs", share=default)
    )
    return Value("serve.memory", share, joined((why, reason)), _PLANNER)


def _derived(chosen: Candidate, search: Search) -> Iterator[Value]:
    request, memory, layout = search.request, chosen.memory, chosen.layout
    where = phrase("on the fullest NPU")
    if layout.pipeline > 1:
        where = phrase(
            "on the fullest NPU, in stage {n} of {stages}",
            n=memory.stage + 1,
            stages=layout.pipeline,
        )
    weights = phrase(
        "{where}, {scheme} (rule of thumb weights × 1.2: {rule} GiB in total)",
        where=where,
        scheme=request.shape.precision.scheme,
        rule=_gib(gpustack_bytes(request.shape, layout)),
    )
    yield Value("weights", f"{_gib(memory.weights)} GiB", weights, "config.json")
    source = "measured on a CPU host"
    if request.chip:
        source = phrase("vllm-ascend {version}, from logs", version=request.traits.version)
    words = phrase("its process and its communicators")
    yield Value("engine", f"{_gib(memory.engine)} GiB", words, source)
    step = phrase("at the peak of a step of {n:,} tokens", n=search.batched(layout))
    yield Value("activations", f"{_gib(memory.activations)} GiB", step, _PLANNER)
    cache = phrase("an encoder keeps none")
    if request.shape.caches:
        cache = phrase(
            "{n:,} tokens in each DP rank, {kib:,.1f} KiB per token on an NPU",
            n=memory.kv_tokens,
            kib=memory.kv_cache / memory.kv_tokens / 1024 if memory.kv_tokens else 0.0,
        )
    fixed = request.kv_cache is not None
    source = request.sources.get("serve.kv_cache", "spec") if fixed else _PLANNER
    yield Value("cache", f"{_gib(memory.kv_cache)} GiB", cache, source)
    sequences = phrase(
        "of {context:,} tokens at once in each DP rank, or {n:,} of your {tokens:,}-token requests",
        context=search.context,
        n=memory.kv_tokens // request.tokens,
        tokens=request.tokens,
    )
    yield Value("sequences", memory.sequences, sequences, _PLANNER)


def _best_words(plan: Plan, chosen: Candidate) -> Phrase:
    request = plan.request
    sound = [item for item in plan.candidates if len(item.faults) <= len(chosen.faults)]
    aims = [request.aim(item.hosts, item.forecast) for item in sound]
    best = {"cost": "the cheapest", "latency": "the quickest"}.get(request.minimised, "the most")
    figure, number = figure_of(request, chosen), len(sound)
    words = phrase("{figure}, {best} of {n:,} that fit", figure=figure, best=best, n=number)
    if number == 1:
        words = phrase("{figure}, the only one that fits", figure=figure)
    if request.aim(chosen.hosts, chosen.forecast) > min(aims):
        words = phrase(
            "{figure}, within 1% of the best of {n:,} that fit, and simpler or better known",
            figure=figure,
            n=number,
        )
    if number < len(plan.candidates):
        faulty = phrase(
            "{n:,} more fit, but were reported to fail in this release",
            n=len(plan.candidates) - number,
        )
        words = joined((words, faulty))
    if number == 1:
        return words
    second = sound[1]
    ranked = "next {layout} with {figure}"
    if request.aim(second.hosts, second.forecast) > min(aims[1:]):
        ranked = "next in rank, where 1% counts as equal, {layout} with {figure}"
    following = phrase(ranked, layout=second.name, figure=figure_of(request, second))
    return joined((words, following))


def figure_of(request: PlanRequest, item: Candidate) -> Phrase:
    """Return the figure that the objective looks at."""
    forecast = item.forecast
    if request.objective == "cost" and item.cost is not None:
        return phrase(
            "{price:,.3g} {currency} per million tokens",
            price=item.cost.per_million_tokens,
            currency=item.cost.currency,
        )
    if request.objective == "cost":
        return phrase("{speed} per host", speed=request.speed(forecast, item.hosts))
    if request.minimised == "latency":
        return phrase("{s:,.1f} s for an answer", s=request.aim(item.hosts, forecast))
    return request.speed(forecast)


def _replica_words(plan: Plan, chosen: Candidate, search: Search) -> Phrase:
    """Say what there is room for, what the replicas share, and what one engine would do."""
    room = count(
        replicas_that_fit(chosen.layout, search.host_sizes),
        "the hosts have room for {n:,} replica",
        "the hosts have room for {n:,} replicas",
    )
    if chosen.replicas == 1:
        return room
    shared = phrase("{n:,} requests/s", n=round(chosen.forecast.requests_per_s))
    if chosen.clients is not None:
        shared = phrase("{n:,} clients", n=chosen.clients)
    words = [room, phrase("a router spreads {load} over them", load=shared)]
    singles = (item for item in plan.candidates if item.replicas == 1 and not item.faults)
    if single := next(singles, None):
        figure = figure_of(plan.request, single)
        words.append(
            phrase(
                "the best single engine: {layout} with {figure}",
                layout=single.layout,
                figure=figure,
            )
        )
    return joined(words)


def _client_words(request: PlanRequest) -> Phrase:
    """Say why so many requests are in flight, where the planner chose."""
    if request.tpot_s is not None or request.ttft_s is not None:
        return phrase("the most throughput within the limits; more would be slower than allowed")
    return phrase("the most throughput; more would wait for room in the cache")


def _size_words(plan: Plan, chosen: Candidate, key: str) -> Phrase:
    """Say how the nearest other sizes do: with as many NPUs where possible, else fewer or more."""
    request = plan.request
    runs = {item.layout: item for item in plan.candidates if not item.faults or chosen.faults}
    fails = {item.layout: item.reason for item in plan.rejected}
    fails |= {item.layout: joined(item.faults) for item in plan.candidates if item.faults}
    comparisons = []
    for others in _neighbours(chosen.layout, key):
        other = min(others, key=lambda item: (item not in runs, item not in fails))
        reasons = [fails[other]] if other in fails else []
        reasons = reasons or [*problems(other, request.shape, request.cluster)]
        if other in runs or reasons:
            comparisons.append(_against(request, chosen, other, key, runs.get(other), reasons))
    return joined(comparisons) if comparisons else phrase("no other size was tried")


def _against(
    request: PlanRequest,
    chosen: Candidate,
    other: Layout,
    key: str,
    run: Candidate | None,
    reasons: list[str],
) -> Phrase:
    size = getattr(other, key)
    name = ("with EP" if size else "without EP") if isinstance(size, bool) else f"{size}"
    if run is None:
        return phrase(
            "{name} ({layout}): {reasons}", name=name, layout=other, reasons=joined(reasons)
        )
    change = run.forecast.output_tokens_per_s / chosen.forecast.output_tokens_per_s - 1
    difference = phrase(
        "the same" if abs(change) < 0.005 else "{n:.0%} less" if change < 0 else "{n:.0%} more",
        n=abs(change),
    )
    return phrase(
        "{name} ({layout}): {speed}, {difference}",
        name=name,
        layout=run.name,
        speed=request.speed(run.forecast),
        difference=difference,
    )


def _neighbours(layout: Layout, key: str) -> Iterator[tuple[Layout, ...]]:
    """Yield, for half and twice the size, layouts of as many NPUs, then with only this changed."""
    size = getattr(layout, key)
    if key == "expert":
        yield (layout.model_copy(update={key: not size}),)
        return
    others = {name: getattr(layout, name) for name in ("data", "tensor", "pipeline") if name != key}
    doubled = [{name: number * 2} for name, number in others.items()]
    halved = [{name: number // 2} for name, number in others.items() if number % 2 == 0]
    half = [(size // 2, doubled)] if size % 2 == 0 else []
    for changed, partners in (*half, (size * 2, halved)):
        updates = [{key: changed, **partner} for partner in (*partners, {})]
        yield tuple(layout.model_copy(update=update) for update in updates)


def _fixed(request: PlanRequest, key: str, value: object, *more: Phrase) -> Value:
    why = joined((phrase("as requested"), *more))
    return Value(f"serve.{key}", value, why, request.sources.get(f"serve.{key}", "spec"))


def _parts(memory: Memory) -> dict[str, str]:
    return {
        "weights": _gib(memory.weights),
        "engine": _gib(memory.engine),
        "activations": _gib(memory.activations),
    }


def _gib(count: float) -> str:
    return f"{count / _GIB:,.1f}"

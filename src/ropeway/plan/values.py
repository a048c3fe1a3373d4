"""Why each value of a plan is what it is, and where it comes from; words that can be checked."""

from collections.abc import Iterator

from ropeway.engines.ascend_releases import RELEASES
from ropeway.hardware import Chip
from ropeway.plan.candidate import Candidate, Plan, Value, Wanted
from ropeway.plan.fit import Setting
from ropeway.plan.layout import problems
from ropeway.plan.memory import Memory, gpustack_bytes
from ropeway.spec.model import Layout

_GIB = 2**30
_PLANNER = "planner"


def memory_words(memory: Memory, context: int) -> str:
    """Why a layout does not fit, in GiB of one NPU."""
    taken = memory.weights + memory.engine + memory.activations
    sum_ = (
        f"{_gib(memory.weights)} weights + {_gib(memory.engine)} engine + "
        f"{_gib(memory.activations)} activations"
    )
    if memory.kv_cache <= 0:
        return f"{sum_} are {_gib(taken)} GiB, and {_gib(memory.usable)} may be taken"
    if memory.sequences < 1:
        return (
            f"{sum_} leave {_gib(memory.kv_cache)} of {_gib(memory.usable)} GiB = "
            f"{memory.kv_tokens:,} tokens of cache, and one sequence has {context:,}"
        )
    return (
        f"{sum_} + {_gib(memory.kv_cache)} cache leave {_gib(memory.spare + memory.reserve)} GiB, "
        f"and graphs and what is in use already take {_gib(memory.reserve)}"
    )


def shortfall(memory: Memory, context: int) -> float:
    """Bytes that are missing on each NPU for one sequence of the context to run."""
    if memory.kv_cache <= 0:
        return float(-memory.kv_cache)
    if memory.sequences < 1:
        return memory.kv_cache * (context / max(1, memory.kv_tokens) - 1)
    return float(max(0, -memory.spare))


def values(plan: Plan, given: Setting) -> tuple[Value, ...]:
    """Of the layout that was chosen: what goes into the spec first, then what follows from it."""
    wanted, chosen = plan.wanted, plan.chosen
    assert chosen is not None
    return (*_settings(plan, chosen, given), *_derived(wanted, chosen, given))


def _settings(plan: Plan, chosen: Candidate, given: Setting) -> Iterator[Value]:
    wanted = plan.wanted
    asked = wanted.layout is not None
    yield Value(
        "serve.layout",
        str(chosen.layout),
        "as asked" if asked else _best_words(plan, chosen),
        _source(wanted, "layout") if asked else _PLANNER,
    )
    if not asked:
        for key in ("tensor", "pipeline", "data", *(("expert",) if wanted.shape.experts else ())):
            yield Value(key, getattr(chosen.layout, key), _size_words(plan, chosen, key), _PLANNER)
    yield _context(wanted, given)
    yield _sequences(wanted, chosen, given)
    if chosen.fraction:
        yield _fraction(wanted, chosen, given)
    if wanted.chip is not None:
        yield _version(wanted)
        yield _chip(wanted.chip)


def _version(wanted: Wanted) -> Value:
    version = wanted.traits.version
    if version == RELEASES[-1].version:
        return Value("serve.version", version, "the newest release that we know", "default")
    return Value("serve.version", version, "as asked", _source(wanted, "version"))


def _chip(chip: Chip) -> Value:
    what = (
        f"{chip.hbm_bytes / _GIB:.0f} GiB, {chip.hbm_bandwidth / 1e12:.2g} TB/s, "
        f"{chip.bf16 / 1e12:.0f} TFLOP/s in bf16"
    )
    return Value(
        "cluster.chip", chip.name, f"{what}; {chip.note}" if chip.note else what, chip.source
    )


def _context(wanted: Wanted, given: Setting) -> Value:
    load = wanted.load
    takes = f"a request takes {load.input_tokens:,} + {load.output_tokens:,} tokens"
    if wanted.context is not None:
        return Value(
            "serve.context", given.context, f"as asked; {takes}", _source(wanted, "context")
        )
    return Value("serve.context", given.context, f"{takes}; the next multiple of 1,024", _PLANNER)


def _sequences(wanted: Wanted, chosen: Candidate, given: Setting) -> Value:
    key, most = "serve.max_sequences", chosen.max_sequences
    if wanted.max_sequences is not None:
        return Value(key, most, "as asked", _source(wanted, "max_sequences"))
    load, data = wanted.load, chosen.layout.data
    room = chosen.memory.kv_tokens // given.per_request
    if load.clients is None:
        why = f"about {chosen.forecast.running:,.0f} run at once at {load.rate:g} requests/s"
    else:
        why = f"{load.clients:,} clients"
        why += f" over {data} replicas are {load.clients / data:,.0f} each" if data > 1 else ""
        why += "; the next power of two" if most & (most - 1) == 0 and most > 1 else ""
    if load.clients is not None and most < load.clients / data:
        why = (
            f"{most} at once keep a token within {wanted.tpot_s * 1e3:,.0f} ms"
            if wanted.tpot_s is not None and room >= most * 2
            else f"{why}, and the cache has room for {room:,}"
        )
    return Value(key, most, why, _PLANNER)


def _fraction(wanted: Wanted, chosen: Candidate, given: Setting) -> Value:
    memory, share = chosen.memory, chosen.fraction
    of = (
        f"of {_gib(memory.visible)} GiB that the driver leaves of {_gib(memory.hbm)} = "
        f"{_gib(memory.usable)} per NPU: {_gib(memory.weights)} weights + "
        f"{_gib(memory.engine)} engine + {_gib(memory.activations)} activations + "
        f"{_gib(memory.kv_cache)} cache"
    )
    if wanted.memory is not None:
        return Value("serve.memory", share, of, _source(wanted, "memory"))
    if share == given.engine.fraction:
        return Value("serve.memory", share, of, "default")
    why = (
        f"{of}; {given.engine.fraction:g} would hold fewer sequences than are under way"
        if share > given.engine.fraction
        else f"{of}; with {given.engine.fraction:g} the graphs have no room"
    )
    return Value("serve.memory", share, why, _PLANNER)


def _derived(wanted: Wanted, chosen: Candidate, given: Setting) -> Iterator[Value]:
    memory, layout = chosen.memory, chosen.layout
    where = "of the fullest NPU" + (
        f", stage {memory.stage + 1} of {layout.pipeline}" if layout.pipeline > 1 else ""
    )
    rule = gpustack_bytes(wanted.shape, layout)
    yield Value(
        "weights",
        f"{_gib(memory.weights)} GiB",
        f"{where}, {(wanted.precision or wanted.shape.precision).scheme}; "
        f"the rule weights × 1.2 says {_gib(rule)} for all it takes",
        "config.json",
    )
    engine = f"vllm-ascend {wanted.traits.version}, from logs" if wanted.chip else "measured here"
    yield Value("engine", f"{_gib(memory.engine)} GiB", "its process and its communicators", engine)
    yield Value(
        "activations",
        f"{_gib(memory.activations)} GiB",
        f"at the peak of a step of {given.batched(layout):,} tokens",
        _PLANNER,
    )
    each = memory.kv_cache / memory.kv_tokens if memory.kv_tokens else 0.0
    yield Value(
        "cache",
        f"{_gib(memory.kv_cache)} GiB",
        f"{memory.kv_tokens:,} tokens in each replica, {each / 1024:,.1f} KiB each on an NPU",
        _PLANNER,
    )
    running = memory.kv_tokens // given.per_request
    yield Value(
        "sequences",
        memory.sequences,
        f"of {given.context:,} tokens at once in each replica; {running:,} of the load's "
        f"{given.per_request:,}",
        _PLANNER,
    )


def _best_words(plan: Plan, chosen: Candidate) -> str:
    wanted, count = plan.wanted, len(plan.candidates)
    bounded = wanted.tpot_s is not None or wanted.ttft_s is not None
    best = {"cost": "the cheapest", "latency": "the most" if bounded else "the quickest answer"}
    what = best.get(wanted.objective, "the most")
    within = " within the bounds" if bounded else ""
    told = f"{_figure(wanted, chosen)}, {what} of {count:,} that fit{within}"
    if count == 1:
        return told
    second = plan.candidates[1]
    return f"{told}; next {second.layout} with {_figure(wanted, second)}"


def _figure(wanted: Wanted, item: Candidate) -> str:
    """What the aim looks at."""
    forecast = item.forecast
    if wanted.objective == "cost" and item.cost is not None:
        return f"{item.cost.per_million_tokens:,.3g} {item.cost.currency} per million tokens"
    if wanted.objective == "cost":
        return f"{forecast.output_tokens_per_s / item.hosts:,.0f} tokens/s of a host"
    if wanted.objective == "latency" and wanted.tpot_s is None and wanted.ttft_s is None:
        rest = forecast.tpot_s * max(0, wanted.load.output_tokens - 1)
        return f"{forecast.ttft_s + rest:,.1f} s for an answer"
    return f"{forecast.output_tokens_per_s:,.0f} tokens/s"


def _size_words(plan: Plan, chosen: Candidate, key: str) -> str:
    """How the nearest other sizes do: on as many NPUs where there is one, else fewer or more."""
    runs = {item.layout: item for item in plan.candidates}
    fails = {item.layout: item for item in plan.rejected}
    told = []
    for others in _neighbours(chosen.layout, key):
        able = [other for other in others if other in runs]
        barred = [other for other in others if other in fails]
        other = (*able, *barred, *others)[0]
        reasons = [fails[other].reason] if other in fails else _problems(plan.wanted, other)
        if able or reasons:
            told.append(_against(chosen, other, key, runs.get(other), reasons))
    return "; ".join(told) or "no other size was looked at"


def _problems(wanted: Wanted, layout: Layout) -> list[str]:
    return list(problems(layout, wanted.shape, wanted.cluster))


def _against(
    chosen: Candidate, other: Layout, key: str, run: Candidate | None, reasons: list[str]
) -> str:
    size = getattr(other, key)
    name = ("with it" if size else "without it") if isinstance(size, bool) else f"{size}"
    if run is None:
        return f"{name} ({other}): {'; '.join(reasons)}"
    there = run.forecast.output_tokens_per_s
    change = there / chosen.forecast.output_tokens_per_s - 1
    much = (
        "as much"
        if abs(change) < 0.005
        else f"{abs(change):.0%} {'more' if change > 0 else 'less'}"
    )
    return f"{name} ({other}): {there:,.0f} tokens/s, {much}"


def _neighbours(layout: Layout, key: str) -> Iterator[tuple[Layout, ...]]:
    """For half and for twice the size: layouts with as many NPUs, then the same but for this."""
    sizes = {"tensor": layout.tensor, "pipeline": layout.pipeline, "data": layout.data}
    if key == "expert":
        yield (Layout(**sizes, expert=not layout.expert),)
        return
    partners = [name for name in ("data", "tensor", "pipeline") if name != key]
    for down in (True, False):
        if down and sizes[key] % 2:
            continue
        mine = sizes[key] // 2 if down else sizes[key] * 2
        found = []
        for partner in partners:
            theirs = sizes[partner] * 2 if down else sizes[partner] // 2
            if theirs and (down or sizes[partner] % 2 == 0):
                found.append(Layout(**{**sizes, key: mine, partner: theirs}, expert=layout.expert))
        found.append(Layout(**{**sizes, key: mine}, expert=layout.expert))
        yield tuple(found)


def _source(wanted: Wanted, key: str) -> str:
    return wanted.sources.get(key) or wanted.sources.get(f"serve.{key}") or "spec"


def _gib(count: float) -> str:
    return f"{count / _GIB:,.1f}"

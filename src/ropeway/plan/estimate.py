"""How fast a model runs in a layout under a load, and why not faster.

Pure arithmetic over `step` and `cycle`; `correction` adds what similar public measurements say
beyond it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import exp, expm1, log

from ropeway.phrases import Phrase, joined, phrase
from ropeway.plan.correction import Case, Correction, correction
from ropeway.plan.cycle import Cycle, DataRank, cycle_of
from ropeway.plan.interval import HOLD_80, Scatter, ends, scatter
from ropeway.plan.load import Load
from ropeway.plan.machine import ideal
from ropeway.plan.question import MeasurementSetup, Question
from ropeway.plan.step import PARTS
from ropeway.spec.model import Layout

# Share of the output that a running sequence holds in the cache on average; it grows from 0 to 1.
_CACHED_OUTPUT = 0.6
# In a long closed loop, the share of requests that come in a burst like the first.
_BURSTS = 0.25
# Rounds of a fixed-point iteration.
_ROUNDS = 12

# Parts of a step by what they wait for.
_GROUPS = {
    phrase("host work"): ("launch", "host", "requests"),
    phrase("reading weights"): ("weights",),
    phrase("reading the KV cache"): ("KV cache",),
    phrase("arithmetic"): ("arithmetic",),
    phrase("moving tokens to experts"): ("routing",),
    phrase("the links between NPUs"): ("all-reduce", "all-to-all", "send"),
}
# What helps against each, whatever the load.
_ADVICE = {
    "reading weights": phrase("quantise the weights"),
    "reading the KV cache": phrase("use an 8-bit KV cache or shorter contexts"),
    "arithmetic": phrase(
        "let prompts share prefixes, or add DP ranks: prompts take most of the time"
    ),
    "the links between NPUs": phrase(
        "use fewer tensor ranks and more DP ranks, each within one host"
    ),
    "moving tokens to experts": phrase("spread the experts over more DP ranks"),
}
_ROOM = 0.9  # share of the possible sequences below which more clients would help


@dataclass(frozen=True, slots=True)
class Forecast:
    """What to expect. Rates are of all ranks and replicas together; times in seconds.

    output_low … tpot_high  the interval that holds 80 % of measurements
    running      sequences at once in one data-parallel rank
    step_s       the average step, and seconds of the `parts` of it, the longest first: those of
                 `step.PARTS`, "send" and "requests"
    bottleneck   what limits it, in words, with the numbers
    advice       what would make it faster; empty where nothing is known to help
    ceiling_tokens_per_s  output if a step took only what memory, arithmetic and links need
    notes        what was assumed
    """

    output_tokens_per_s: float
    requests_per_s: float
    ttft_s: float
    tpot_s: float
    output_low: float
    output_high: float
    tpot_low: float
    tpot_high: float
    running: float
    step_s: float
    parts: Mapping[str, float]
    bottleneck: str
    advice: str
    ceiling_tokens_per_s: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Flow:
    """How one data-parallel rank runs under its load.

    running     sequences in a step, and their `cycle`
    rate        requests/s that leave it
    ttft, tpot  means in seconds
    queue       the part of ttft that is spent waiting for room
    full        whether more requests come than it can serve
    """

    running: float
    cycle: Cycle
    rate: float
    ttft: float
    tpot: float
    queue: float
    full: bool


def flow(question: Question) -> Flow:
    """Return the steady state that the load brings a data-parallel rank to."""
    if question.setup.readers is not None:
        return _split(question, question.setup.readers)
    return _closed(question) if question.load.clients is not None else _open(question)


def _split(question: Question, readers: Layout) -> Flow:
    """Return the state where other NPUs read the prompts first, which takes time and may limit."""
    load, factor = question.load, question.factor
    own = replace(question, setup=replace(question.setup, readers=None))
    reading = replace(
        own, layout=readers, setup=MeasurementSetup(), load=replace(load, output_tokens=1)
    )
    batch = cycle_of(DataRank.of(reading), 8.0)
    first = batch.first * factor
    limit = 8.0 / (batch.seconds * factor) * readers.data / question.layout.data
    if load.clients is None:
        state = _open(own)
        return replace(state, rate=min(state.rate, limit), ttft=state.ttft + first)
    clients = load.clients / question.layout.data
    busy = clients
    state = _closed(own)
    for _ in range(_ROUNDS):
        # Of all clients, those whose prompts are being read do not generate.
        rate = min(limit, clients / (first + busy / state.rate))
        busy = (busy + rate * busy / state.rate) / 2
        generating = max(1, round(busy * question.layout.data))
        state = _closed(replace(own, load=replace(load, clients=generating)))
    rate = min(limit, state.rate)
    waiting = max(first, clients / rate - state.cycle.seconds * factor)
    return replace(state, rate=rate, ttft=waiting, queue=waiting - first)


def _most_running(question: Question) -> float:
    return most_running(question.load, question.max_sequences, question.kv_tokens)


def most_running(load: Load, max_sequences: int, kv_tokens: int | None) -> float:
    """Return how many sequences a data-parallel rank can run at once."""
    most = float(max_sequences)
    if kv_tokens is not None:
        own = load.input_tokens * (1 - load.prefix_hit) + _CACHED_OUTPUT * load.output_tokens
        shared = load.input_tokens * load.prefix_hit
        most = min(most, max(1.0, (kv_tokens - shared) / own))
    return most


def _closed(question: Question) -> Flow:
    """Return the state under clients that each send a request when the last was answered."""
    load, data, factor = question.load, question.layout.data, question.factor
    clients = max(1.0, min(load.clients or 1, load.requests or 10**9) / data)
    running = min(clients, _most_running(question))
    cycle = cycle_of(DataRank.of(question), running)
    seconds = cycle.seconds * factor
    waves = load.requests / data / running if load.requests else None
    share = min(1.0, clients / running / waves) if waves else _BURSTS
    first = cycle.first * factor
    first += share * max(0.0, cycle.burst * factor - first) / 2
    if waves is not None and waves <= clients / running:
        queue = max(0.0, waves - 1) / 2 * seconds  # all were given at once, and none came after
    else:
        queue = (clients - running) / running * seconds
    rest = max(0.0, seconds - first)
    tpot = rest / max(1, load.output_tokens - 1) if load.output_tokens > 1 else 0.0
    return Flow(running, cycle, running / seconds, first + queue, tpot, queue, clients > running)


def _open(question: Question) -> Flow:
    """Return the state under requests that come at a rate.

    As many run as Little's law says, or as there is room for.
    """
    load, factor = question.load, question.factor
    rank, most = DataRank.of(question), _most_running(question)
    rate = (load.rate or 0.0) / question.layout.data
    running, cycle, stay = 1.0, cycle_of(rank, 1.0), 0.0
    low, high = 0.0, most
    for _ in range(_ROUNDS):
        cycle = cycle_of(rank, running)
        stay = cycle.seconds * factor
        # The mean over time; the mean over steps, each of at least one sequence, is larger.
        mean = min(_mean_running(load, rate, stay), 10.0 * most)
        target = mean / -expm1(-mean) if 1e-9 < mean < 30 else max(mean, 1.0)
        if abs(target - running) < 0.01 * running:
            break
        if target > running:
            low = running
        else:
            high = running
        guess = (running * target) ** 0.5
        running = guess if low < guess < high else (low + high) / 2
    full = running > 0.98 * most
    if full:
        # A request that waits is let in when another ends, as in a closed loop.
        crowd = replace(load, clients=max(1, round(most * question.layout.data)), rate=None)
        cycle = cycle_of(replace(rank, load=crowd), running)
        stay = cycle.seconds * factor
    tpot = max(0.0, stay - cycle.first * factor) / max(1, load.output_tokens - 1)
    leaving = running / stay if full else rate
    queue = _backlog(load, rate, leaving) if full and rate > leaving else 0.0
    ttft = cycle.first * factor + queue
    return Flow(running, cycle, min(rate, leaving), ttft, tpot, queue, full)


def _mean_running(load: Load, rate: float, stay: float) -> float:
    """Return the mean number of requests in flight over the life of one that counts.

    `stay` are the seconds each takes. A run of n requests fills up while they arrive and empties
    while the last ones end, over the shorter of arrival and stay. A window fills up too; what does
    not end in it does not count.
    """
    steady = rate * stay
    if load.requests is not None:
        arrival = load.requests / rate
        if arrival < stay:
            return load.requests * (1 - arrival / (3 * stay))
        return steady * (1 - stay / (3 * arrival))
    if load.window is None:
        return steady
    if stay >= load.window:
        return rate * load.window / 2
    left = load.window - stay
    short = max(0.0, 2 * stay - load.window)
    return max(1e-9, steady * (1 - (stay**3 - short**3) / (6 * stay**2 * left)))


def _backlog(load: Load, rate: float, leaving: float) -> float:
    """Return the mean wait in seconds where requests arrive faster than they leave."""
    if load.requests is not None:
        return load.requests / 2 * (1 / leaving - 1 / rate)
    return (load.window or 600.0) / 2 * (1 - leaving / rate)


def output_rate(question: Question, state: Flow) -> float:
    """Return output tokens/s of all data-parallel ranks, as a load test would count them."""
    load = question.load
    rate = state.rate * question.layout.data
    stay = state.ttft - state.queue + state.tpot * (load.output_tokens - 1)
    if load.rate is not None and load.requests is not None:
        rate = load.requests / (load.requests / rate + stay)
    elif load.rate is not None and load.window is not None:
        rate *= max(0.05, 1 - stay / load.window)
    return rate * load.output_tokens


def case_of(question: Question, state: Flow) -> Case:
    """Return the case that similar measurements are looked up by."""
    load, layout, machine = question.load, question.layout, question.machine
    return Case(
        family=question.shape.model_type,
        chips=machine.chips,
        scheme=question.shape.precision.scheme,
        engine=machine.engine,
        month=machine.month,
        method=question.setup.method,
        split=question.setup.split,
        running=log(state.running),
        context=log(load.input_tokens + load.output_tokens),
        npus=log(layout.world_size),
        source=question.setup.source,
    )


def estimate(question: Question) -> Forecast:
    """Return the forecast for a question, corrected by similar measurements."""
    state = flow(question)
    return forecast(question, state, _correction(question, state))


def time_per_token(question: Question) -> float:
    """Return the forecast's `tpot_s` alone, which takes a third of the time: searches try many."""
    state = flow(question)
    corrected = _correction(question, state)
    if corrected.mean:
        state = flow(replace(question, factor=question.factor * exp(corrected.mean)))
    return state.tpot


def _correction(question: Question, state: Flow) -> Correction:
    if not question.machine.engine:
        return Correction(0.0)
    return correction(case_of(question, state))


def forecast(
    question: Question,
    state: Flow,
    corrected: Correction,
    widths: Scatter | None = None,
) -> Forecast:
    """Return the forecast from a state as the arithmetic has it and a correction of its steps.

    `widths`: what the 80 % interval is made of; by default the fitted ones.
    """
    widths = widths or scatter()
    if corrected.mean:
        question = replace(question, factor=question.factor * exp(corrected.mean))
        state = flow(question)
    plain = output_rate(question, state)
    output = plain * question.replicas
    step = state.cycle.seconds * question.factor / max(1.0, state.cycle.steps)
    parts = parts_of(question, state.cycle)
    ceiling = max(question.replicas * ceiling_of(question, state), output)
    seconds, first = max(
        (sum([parts.get(part, 0.0) for part in group]), name) for name, group in _GROUPS.items()
    )
    spread = HOLD_80 * widths.step(question, corrected, state.running)
    fast, slow = (_at(question, state, plain, exp(off)) for off in (-spread, spread))
    outputs = ends(plain, (fast[0], slow[0]), widths.figure("output", question))
    tpots = ends(state.tpot, (fast[1], slow[1]), widths.figure("tpot", question))
    words = (
        "{what}, {part} of {step} ms a step, prompts included "
        "(hardware ceiling {ceiling:,.0f} tokens/s)"
    )
    if question.load.output_tokens == 1:
        words = "{what}, {part} of {step} ms a step (hardware ceiling {ceiling:,.0f} requests/s)"
    bottleneck = phrase(
        words,
        what=first,
        part=_ms(seconds),
        step=_ms(step),
        ceiling=ceiling,
    )
    note = corrected.note()
    return Forecast(
        output_tokens_per_s=output,
        requests_per_s=output / question.load.output_tokens,
        ttft_s=state.ttft,
        tpot_s=state.tpot,
        output_low=outputs[0] * question.replicas,
        output_high=outputs[1] * question.replicas,
        tpot_low=tpots[0],
        tpot_high=tpots[1],
        running=state.running,
        step_s=step,
        parts=parts,
        bottleneck=bottleneck,
        advice=_advice(question, state, first),
        ceiling_tokens_per_s=ceiling,
        notes=(note,) if note else (),
    )


def _at(question: Question, state: Flow, output: float, slower: float) -> tuple[float, float]:
    """Return output and time per token if steps took `slower` times as long."""
    if question.load.clients is not None:
        return output / slower, state.tpot * slower
    other = replace(question, factor=question.factor * slower)
    then = flow(other)
    return output_rate(other, then), then.tpot


def _advice(question: Question, state: Flow, first: str) -> Phrase:
    """Return what to try first against a bottleneck; `first` is one of _GROUPS."""
    hints, clients = [], question.load.clients
    if first == "host work" and question.machine.graph in ("eager", "piecewise"):
        hints.append(phrase("enable full graph mode, or use a release that has it"))
    if first in ("host work", "reading weights") and clients is not None:
        if state.running < _ROOM * _most_running(question):
            more = 2 ** max(1, (clients * question.replicas * 3).bit_length() - 1)
            hints.append(
                phrase("raise concurrency to {n:,}: larger steps take little longer", n=more)
            )
        elif state.full:
            hints.append(phrase("raise `max_sequences` if the cache has room: requests are queued"))
    if first in _ADVICE:
        hints.append(_ADVICE[first])
    return joined(hints)


def _ms(seconds: float) -> str:
    value = seconds * 1e3
    return f"{value:.0f}" if value >= 20 else f"{value:.1f}"


def parts_of(question: Question, cycle: Cycle) -> dict[str, float]:
    """Return the seconds of the parts of the average step that take time, the longest first."""
    share = cycle.mixed_steps / cycle.steps if cycle.steps else 1.0
    scale = question.factor * cycle.passes
    seconds = {
        name: scale * ((1 - share) * plain + share * mixed)
        for name, plain, mixed in zip(PARTS, cycle.plain, cycle.mixed, strict=True)
    }
    seconds["send"] = scale * cycle.sent
    seconds["requests"] = question.factor * cycle.requests / max(1.0, cycle.steps)
    longest = sorted(seconds.items(), key=lambda part: -part[1])
    return {name: value for name, value in longest if value > 1e-7}


def ceiling_of(question: Question, state: Flow) -> float:
    """Return output tokens/s if steps took only what bytes and products need at peak rates."""
    perfect = replace(question, machine=ideal(question.machine))
    best = cycle_of(DataRank.of(perfect), state.running)
    if not best.seconds:
        return 0.0
    rate = state.running / best.seconds * question.layout.data
    if question.load.rate is not None:
        rate = min(rate, question.load.rate)
    return rate * question.load.output_tokens

"""How fast a model runs in a layout under a load, and why not faster.

Pure arithmetic over `step` and `cycle`. What public measurements of the like say beyond it is in
`correction`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from math import exp, log

from ropeway.models import ModelShape, Precision
from ropeway.plan.bottleneck import Bound, advice, bottleneck
from ropeway.plan.correction import Case, Correction, correction
from ropeway.plan.cycle import Cycle, Replica, cycle
from ropeway.plan.load import Load
from ropeway.plan.machine import Machine, ideal, one_of
from ropeway.plan.step import PARTS, Place, stage_costs
from ropeway.spec.model import Layout

# Of the output, what a running sequence holds in the cache on average; it grows from 0 to all.
_HELD = 0.6
# In a long closed loop, the share of requests that come in a burst like the first.
_BURSTS = 0.25
_ROUNDS = 12
# Of a machine that was measured by itself.
_OWN_SPREAD = 0.1


@dataclass(frozen=True, slots=True)
class Setting:
    """How a measurement was taken, where one is to be predicted.

    source  the document it was published in
    method  of speculative decoding
    split   prompts are read by other NPUs (disaggregated prefill); these only generate
    readers the layout of those others, where it is known
    """

    source: str = ""
    method: str = ""
    split: bool = False
    readers: Layout | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be estimated.

    npus_per_host       decides which ranks share a host
    max_sequences       running at once, of one data-parallel replica
    kv_tokens           that the cache of one replica holds; None is no limit
    max_batched_tokens  of one step, prompt pieces included
    precision, kv_bits  of the weights where they differ from the model's own; of a cached number
    setting             of a measurement that is to be predicted
    factor              every step takes this much longer than the arithmetic says
    """

    shape: ModelShape
    layout: Layout
    machine: Machine
    load: Load
    npus_per_host: int = 8
    max_sequences: int = 256
    kv_tokens: int | None = None
    max_batched_tokens: int = 8192
    precision: Precision | None = None
    kv_bits: float = 16
    setting: Setting = Setting()
    factor: float = 1.0


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the time of one step."""

    name: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """What to expect; rates are of all replicas together.

    output_low … tpot_high  the interval that holds 80 % of measurements
    running      sequences at once, of one replica
    step_s       of the average step, and `parts` of it
    bottleneck   what bounds it, in words, with the numbers
    advice       what would make it faster
    ceiling_tokens_per_s  output if a step took only what memory, arithmetic and wires need
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
    parts: tuple[Part, ...]
    bottleneck: str
    advice: str
    ceiling_tokens_per_s: float
    notes: tuple[str, ...] = ()

    @property
    def figures(self) -> dict[str, tuple[float, float | None, float | None]]:
        """What a measurement is compared with: the value, and the ends of its interval."""
        return {
            "output": (self.output_tokens_per_s, self.output_low, self.output_high),
            "tpot": (self.tpot_s, self.tpot_low, self.tpot_high),
            "ttft": (self.ttft_s, None, None),
        }


@dataclass(frozen=True, slots=True)
class Flow:
    """Of one replica: how it runs under its load.

    running  sequences in a step
    cycle    of these
    rate     requests/s that leave it
    ttft, tpot  seconds, means
    queue    of ttft, the wait until there is room
    full     more is asked than it can do
    """

    running: float
    cycle: Cycle
    rate: float
    ttft: float
    tpot: float
    queue: float
    full: bool


def flow(question: Question) -> Flow:
    """The state that the load brings a replica to."""
    if question.setting.readers is not None:
        return _split(question, question.setting.readers)
    replica = _replica(question)
    most = _most_running(question)
    if question.load.clients is not None:
        return _closed(question, replica, most)
    return _open(question, replica, most)


def _split(question: Question, readers: Layout) -> Flow:
    """Prompts are read by other NPUs first: they add their time, and may be what limits."""
    load, factor = question.load, question.factor
    own = replace(question, setting=replace(question.setting, readers=None))
    reading = replace(own, layout=readers, setting=Setting(), load=replace(load, output_tokens=1))
    many = cycle(_replica(reading), 8.0)
    first = many.first * factor
    limit = 8.0 / (many.seconds * factor) * readers.data / question.layout.data
    if load.clients is None:
        state = _open(own, _replica(own), _most_running(own))
        rate = min(state.rate, limit)
        return replace(state, rate=rate, ttft=state.ttft + first)
    clients = load.clients / question.layout.data
    busy = clients
    state = _closed(own, _replica(own), _most_running(own))
    for _ in range(_ROUNDS):
        # Of all clients, those whose prompts are being read do not generate.
        rate = min(limit, clients / (first + busy / state.rate))
        busy = (busy + rate * busy / state.rate) / 2
        share = max(1, round(busy * question.layout.data))
        state = _closed(
            replace(own, load=replace(load, clients=share)), _replica(own), _most_running(own)
        )
    rate = min(limit, state.rate)
    waiting = max(first, clients / rate - state.cycle.seconds * factor)
    return replace(state, rate=rate, ttft=waiting, queue=waiting - first)


def _replica(question: Question) -> Replica:
    layout = question.layout
    precision = question.precision or question.shape.precision
    place = Place(question.shape, layout, question.npus_per_host, precision, question.kv_bits)
    # A pipeline with fewer sequences than stages has stages that wait, and share nothing.
    busy = min(layout.pipeline, max(1.0, (question.load.clients or layout.npus) / layout.data))
    machine = one_of(question.machine, layout.tensor * layout.data * busy)
    stages = stage_costs(place, machine)
    lockstep = layout.data if question.shape.experts else 1
    return Replica(
        stages, layout.pipeline, lockstep, question.max_batched_tokens,
        largest_graph(question.max_sequences, question.load.draft_tokens),
        machine, question.load, not question.setting.split,
    )  # fmt: skip


def largest_graph(max_sequences: int, draft_tokens: int = 0) -> int:
    """Tokens of the largest decoding step that is captured as a graph.

    vLLM captures 1, 2, 4, then multiples of 8 up to 256 and of 16 beyond; vLLM-Ascend up to the
    tokens of `max_sequences`, 512 at most (vllm_ascend/platform.py). So with 12 sequences the
    largest is 8, and steps of 9 to 12 run without a graph.
    """
    limit = min(max_sequences * (1 + draft_tokens), 512)
    if limit < 8:
        return 4 if limit >= 4 else limit if limit < 3 else 2
    return limit // 8 * 8 if limit < 256 else limit // 16 * 16


def _most_running(question: Question) -> float:
    """Sequences that a replica can run at once."""
    load = question.load
    most = float(question.max_sequences)
    if question.kv_tokens is not None:
        own = load.input_tokens * (1 - load.prefix_hit) + _HELD * load.output_tokens
        shared = load.input_tokens * load.prefix_hit
        most = min(most, max(1.0, (question.kv_tokens - shared) / own))
    return most


def _closed(question: Question, replica: Replica, most: float) -> Flow:
    """Clients that each ask again when answered."""
    load = question.load
    clients = max(1.0, min(load.clients or 1, load.requests or 10**9) / question.layout.data)
    running = min(clients, most)
    found = cycle(replica, running)
    factor = question.factor
    seconds = found.seconds * factor
    waves = load.requests / question.layout.data / running if load.requests else None
    share = min(1.0, clients / running / waves) if waves else _BURSTS
    first = found.first * factor
    first += share * max(0.0, found.burst * factor - first) / 2
    if waves is not None and waves <= clients / running:
        queue = max(0.0, waves - 1) / 2 * seconds  # all were given at once, and none came after
    else:
        queue = (clients - running) / running * seconds
    rest = max(0.0, seconds - first)
    tpot = rest / max(1, load.output_tokens - 1) if load.output_tokens > 1 else 0.0
    return Flow(running, found, running / seconds, first + queue, tpot, queue, clients > running)


def _open(question: Question, replica: Replica, most: float) -> Flow:
    """Requests that come at a rate: as many run as Little's law says, or as there is room for."""
    load, factor = question.load, question.factor
    rate = (load.rate or 0.0) / question.layout.data
    running, found, stay = 1.0, cycle(replica, 1.0), 0.0
    low, high = 0.0, most
    for _ in range(_ROUNDS):
        found = cycle(replica, running)
        stay = found.seconds * factor
        # Mean over time; of the steps, which need at least one sequence, it is somewhat more.
        mean = min(_mean_running(load, rate, stay), 10.0 * most)
        wanted = mean / (1 - exp(-mean)) if mean < 30 else mean
        if abs(wanted - running) < 0.01 * running:
            break
        if wanted > running:
            low = running
        else:
            high = running
        guess = (running * wanted) ** 0.5
        running = guess if low < guess < high else (low + high) / 2
    full = running > 0.98 * most
    if full:
        # Whoever waits is let in when another ends, as in a closed loop.
        crowd = replace(load, clients=max(1, round(most * question.layout.data)), rate=None)
        found = cycle(replace(replica, load=crowd), running)
        stay = found.seconds * factor
    tpot = max(0.0, stay - found.first * factor) / max(1, load.output_tokens - 1)
    leaving = running / stay if full else rate
    queue = _backlog(load, rate, leaving) if full and rate > leaving else 0.0
    ttft = found.first * factor + queue
    return Flow(running, found, min(rate, leaving), ttft, tpot, queue, full)


def _mean_running(load: Load, rate: float, stay: float) -> float:
    """Requests under way beside one that counts, averaged over its life, if each stays so long.

    A run of n requests fills up while they arrive and empties while the last ones end, over the
    shorter of arrival and stay. A window fills up too; what does not end in it does not count.
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
    """Mean wait when more come than leave."""
    if load.requests is not None:
        return load.requests / 2 * (1 / leaving - 1 / rate)
    return (load.window or 600.0) / 2 * (1 - leaving / rate)


def output_rate(question: Question, state: Flow) -> float:
    """Output tokens/s of all replicas, as a benchmark of this load counts them."""
    load = question.load
    rate = state.rate * question.layout.data
    stay = state.ttft - state.queue + state.tpot * (load.output_tokens - 1)
    if load.rate is not None and load.requests is not None:
        rate = load.requests / (load.requests / rate + stay)
    elif load.rate is not None and load.window is not None:
        rate *= max(0.05, 1 - stay / load.window)
    return rate * load.output_tokens


def settled(question: Question, rate: float) -> Question:
    """Of clients that are let in at `rate` requests/s at most: whichever limits."""
    state = flow(question)
    if state.rate * question.layout.data <= rate:
        return question
    return replace(question, load=replace(question.load, clients=None, rate=rate))


def case_of(question: Question, state: Flow) -> Case:
    """What measurements it is to be compared with."""
    load, layout, machine = question.load, question.layout, question.machine
    precision = question.precision or question.shape.precision
    return Case(
        family=question.shape.model_type,
        chips=machine.chips,
        scheme=precision.scheme,
        engine=machine.engine,
        month=machine.month,
        method=question.setting.method,
        split=question.setting.split,
        running=log(state.running),
        context=log(load.input_tokens + load.output_tokens),
        npus=log(layout.tensor * layout.pipeline),
        source=question.setting.source,
    )


def estimate(question: Question) -> Forecast:
    """The forecast for one question, corrected by what was measured of the like."""
    state = flow(question)
    if not question.machine.engine:
        return forecast(question, state, Correction(0.0, _OWN_SPREAD))
    return forecast(question, state, correction(case_of(question, state)))


def forecast(
    question: Question,
    state: Flow,
    found: Correction,
    widths: Mapping[str, float] | None = None,
) -> Forecast:
    """With `state` as the arithmetic has it, and a correction of its steps.

    `widths` of the interval default to the fitted ones.
    """
    widths = widths or interval()
    if found.mean:
        question = replace(question, factor=question.factor * exp(found.mean))
        state = flow(question)
    plain = output_rate(question, state)
    output, tpot, ttft = (
        value * exp(rest)
        for value, rest in zip((plain, state.tpot, state.ttft), found.rest, strict=True)
    )
    slow_output, slow = _at(question, state, plain, exp(found.spread * widths["output"]))
    fast_output, fast = _at(question, state, plain, exp(-found.spread * widths["output"]))
    ratio = exp(found.spread * (widths["tpot"] - widths["output"]))
    floor = 1 + widths["floor"]
    step = state.cycle.seconds * question.factor / max(1.0, state.cycle.steps)
    parts = parts_of(question, state.cycle)
    ceiling = ceiling_of(question, state)
    bound = Bound(
        step=step,
        seconds={part.name: part.seconds for part in parts},
        running=state.running,
        room=_most_running(question),
        clients=question.load.clients,
        graph=question.machine.graph,
        full=state.full,
        output=output,
        ceiling=max(ceiling, output),
    )
    note = found.note()
    return Forecast(
        output_tokens_per_s=output,
        requests_per_s=output / question.load.output_tokens,
        ttft_s=ttft,
        tpot_s=tpot,
        output_low=min(slow_output / plain, 1 / floor) * output,
        output_high=max(fast_output / plain, floor) * output,
        tpot_low=min(fast / ratio, state.tpot / floor) * exp(found.rest[1]),
        tpot_high=max(slow * ratio, state.tpot * floor) * exp(found.rest[1]),
        running=state.running,
        step_s=step,
        parts=parts,
        bottleneck=bottleneck(bound),
        advice=advice(bound),
        ceiling_tokens_per_s=bound.ceiling,
        notes=(note,) if note else (),
    )


def _at(question: Question, state: Flow, output: float, slower: float) -> tuple[float, float]:
    """Output and time per token if steps took `slower` times as long."""
    if question.load.clients is not None:
        return output / slower, state.tpot * slower
    other = replace(question, factor=question.factor * slower)
    then = flow(other)
    return output_rate(other, then), then.tpot


def parts_of(question: Question, found: Cycle) -> tuple[Part, ...]:
    """Of the average step, each part that takes time, the longest first."""
    share = found.mixed_steps / found.steps if found.steps else 1.0
    scale = question.factor * found.turn
    seconds = [
        (name, scale * ((1 - share) * plain + share * mixed))
        for name, plain, mixed in zip(PARTS, found.plain.each(), found.mixed.each(), strict=True)
    ]
    seconds.append(("send", scale * found.sent))
    intake = question.factor * found.requests / max(1.0, found.steps)
    seconds.append(("requests", intake))
    kept = [Part(name, value) for name, value in seconds if value > 1e-7]
    return tuple(sorted(kept, key=lambda part: -part.seconds))


def ceiling_of(question: Question, state: Flow) -> float:
    """Output tokens/s if steps took only what their bytes and products need at full rates."""
    best = cycle(_replica(replace(question, machine=ideal(question.machine))), state.running)
    if not best.seconds:
        return 0.0
    rate = state.running / best.seconds * question.layout.data
    if question.load.rate is not None:
        rate = min(rate, question.load.rate)
    return rate * question.load.output_tokens


@cache
def interval() -> Mapping[str, float]:
    """Standard deviations from the middle to the ends that hold 80 % of measurements."""
    text = resources.files("ropeway.plan").joinpath("constants.json").read_text(encoding="utf-8")
    found: Mapping[str, float] = json.loads(text)["interval"]
    return found

"""Continuous batching in a steady state: how long a replica's sequences take, all together.

A cycle is the time in which each of the B running sequences comes and goes once: its prompt is
read, in pieces that share steps with the others' generating, and its output generated. So B / cycle
requests leave a replica every second, and each stays for one cycle.
"""

from dataclasses import dataclass
from math import exp

from ropeway.plan.load import Load
from ropeway.plan.machine import Machine
from ropeway.plan.step import Batch, Costs, Times

_NONE = Times(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Replica:
    """One data-parallel replica under a load.

    stages      costs of the pipeline stages that differ
    pipeline    stages in all
    lockstep    replicas that wait for each other in every step, because they share experts
    prefill     whether it reads prompts itself
    budget      tokens of one step at most
    captured    tokens of the largest step that runs as a captured graph
    """

    stages: tuple[Costs, ...]
    pipeline: int
    lockstep: int
    budget: int
    captured: int
    machine: Machine
    load: Load
    prefill: bool = True


@dataclass(frozen=True, slots=True)
class Cycle:
    """seconds     of the cycle
    steps          in it, of one micro-batch
    first          s until a prompt that starts at once has its first token
    burst          s until all B prompts, given at once, have theirs
    plain, mixed   one step without, and with, prompt tokens; `mixed_steps` of the latter
    turn           passes of a stage that one step of all takes, waiting included (pipelines)
    sent           s of a pass in which a pipeline sends
    requests       s of the cycle in which requests are taken in
    """

    seconds: float
    steps: float
    first: float
    burst: float
    plain: Times
    mixed: Times
    mixed_steps: float
    turn: float
    sent: float
    requests: float


def cycle(replica: Replica, running: float) -> Cycle:
    """Of `running` sequences at once, at least one."""
    load = replica.load
    each = 1 + load.draft_tokens
    prompt = load.input_tokens * (1 - load.prefix_hit) if replica.prefill else 0.0
    steps = (load.output_tokens - 1) / (1 + load.accepted)
    batches = min(float(replica.pipeline), max(1.0, running))
    own = running / batches
    reads = _mixed_steps(own, prompt, steps, replica)
    context = load.input_tokens + load.output_tokens / 2
    seen = load.input_tokens * load.prefix_hit + prompt / 2
    plain_steps = max(0.0, steps - reads)
    generating = own if reads <= steps else own * steps / reads
    plain, plain_sent = _NONE, 0.0
    if plain_steps:
        plain, plain_sent = _slowest(
            replica, Batch(own, own * each, 0.0, context, 0.0, own * each < replica.captured + 0.5)
        )
    mixed, mixed_sent, single, chunks = _NONE, 0.0, 0.0, 1.0
    if prompt:
        size = own * prompt / reads
        batch = Batch(generating, generating * each, size, context, seen)
        mixed, mixed_sent = _slowest(replica, batch)
        chunks = max(1.0, prompt / replica.budget)
        alone, alone_sent = _slowest(
            replica, Batch(generating, generating * each, prompt / chunks, context, seen)
        )
        single = alone.total + alone_sent
    # Others that share the experts make this replica wait while they read prompts.
    others = _together(reads, steps, replica.lockstep) - reads
    plain_steps = max(0.0, plain_steps - others)
    waits = reads + others
    pause = 1 + replica.machine.blocked * (replica.pipeline - 1) / replica.pipeline
    # As many micro-batches as stages take turns; with fewer, stages idle, which takes as long.
    turn = replica.pipeline * pause
    seconds = turn * (plain_steps * (plain.total + plain_sent) + waits * (mixed.total + mixed_sent))
    requests = replica.machine.request * running * replica.lockstep
    burst = turn * waits * (mixed.total + mixed_sent)
    first = (chunks + replica.pipeline - 1) * single * pause
    taken = plain_steps + waits
    sent = (plain_steps * plain_sent + waits * mixed_sent) / taken if taken else 0.0
    return Cycle(seconds + requests, taken, first, burst, plain, mixed, waits, turn, sent, requests)


def _mixed_steps(running: float, prompt: float, steps: float, replica: Replica) -> float:
    """Steps that hold prompt tokens, in one cycle.

    At least what the budget of a step makes of all prompts. Prompts that come at random share a
    step when they come in the same one: of `steps` in which `running` come, 1 - exp(-running/steps)
    have one or more. Clients that began together and ask for equal lengths stay together for long:
    between the two, the geometric mean.
    """
    if not prompt:
        return 0.0
    least = max(1.0, running * prompt / replica.budget)
    if not steps:
        return least
    alone = max(least, steps * (1 - exp(-running / steps)))
    return float((least * alone) ** 0.5) if replica.load.clients is not None else alone


def _together(reads: float, steps: float, replicas: int) -> float:
    """Steps in which at least one of the replicas reads a prompt."""
    if replicas == 1 or not reads:
        return reads
    if steps <= reads:
        return reads
    alone = 1 - reads / steps
    return float(steps * (1 - alone**replicas))


def _slowest(replica: Replica, batch: Batch) -> tuple[Times, float]:
    """The stage that decides, and what it takes to send on."""
    times = max((stage.times(batch) for stage in replica.stages), key=lambda item: item.total)
    if replica.pipeline == 1:
        return times, 0.0
    return times, replica.stages[0].send(batch.tokens + batch.prompt)

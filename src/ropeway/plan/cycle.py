"""Continuous batching in a steady state: how long the sequences of a data-parallel rank take.

A cycle is the time in which each of the B running sequences comes and goes once: its prompt is
read, in pieces that share steps with the others' generating, and its output generated. So B / cycle
requests leave a data-parallel rank every second, and each stays for one cycle.
"""

from dataclasses import dataclass
from math import exp

from ropeway.plan.load import Load
from ropeway.plan.machine import Machine, share_of
from ropeway.plan.question import Question
from ropeway.plan.step import Batch, Costs, Times, stage_costs

_NONE = Times(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class DataRank:
    """One data-parallel rank under its load, with what its steps cost.

    stages      costs of the pipeline stages that differ
    pipeline    stages in all
    coupled     data-parallel ranks that wait for each other in every step, as they share experts
    budget      largest number of tokens in one step
    captured    tokens of the largest step that runs as a captured graph
    prefill     whether it reads prompts itself
    """

    stages: tuple[Costs, ...]
    pipeline: int
    coupled: int
    budget: int
    captured: int
    machine: Machine
    load: Load
    prefill: bool = True

    @classmethod
    def of(cls, question: Question) -> "DataRank":
        """Return the data-parallel rank of a question."""
        layout, load = question.layout, question.load
        # A pipeline with fewer sequences than stages has stages that wait, and share nothing.
        busy = min(layout.pipeline, max(1.0, (load.clients or layout.npus) / layout.data))
        machine = share_of(question.machine, layout.npus / layout.pipeline * busy)
        return cls(
            stages=stage_costs(question, machine),
            pipeline=layout.pipeline,
            coupled=layout.data if question.shape.experts else 1,
            budget=question.max_batched_tokens,
            captured=largest_graph(question.max_sequences, load.draft_tokens),
            machine=machine,
            load=load,
            prefill=not question.setup.split,
        )


@dataclass(frozen=True, slots=True)
class Cycle:
    """The time of one cycle, and what it is made of. Times in seconds.

    steps          steps of one micro-batch
    first          until a prompt that starts at once has its first token
    burst          until all B prompts, given at once, have theirs
    plain, mixed   one step without and with prompt tokens; `mixed_steps` counts the latter
    passes         passes of a stage in the time of one step of all micro-batches (pipelines)
    sent           of a pass, the part in which a pipeline sends
    requests       of the cycle, the part in which requests are taken in
    """

    seconds: float
    steps: float
    first: float
    burst: float
    plain: Times
    mixed: Times
    mixed_steps: float
    passes: float
    sent: float
    requests: float


def cycle_of(rank: DataRank, running: float) -> Cycle:
    """Return the cycle of `running` sequences at once, which must be at least one."""
    load = rank.load
    each = 1 + load.draft_tokens
    prompt = load.input_tokens * (1 - load.prefix_hit) if rank.prefill else 0.0
    steps = (load.output_tokens - 1) / (1 + load.accepted)
    own = running / min(float(rank.pipeline), max(1.0, running))  # of one micro-batch
    reads = _mixed_steps(own, prompt, steps, rank)
    context = load.input_tokens + load.output_tokens / 2
    prompt_context = load.input_tokens * load.prefix_hit + prompt / 2
    plain_steps = max(0.0, steps - reads)
    generating = own if reads <= steps else own * steps / reads
    plain, plain_sent = _NONE, 0.0
    if plain_steps:
        captured = own * each < rank.captured + 0.5
        plain, plain_sent = _slowest(rank, Batch(own, own * each, 0.0, context, 0.0, captured))
    mixed, mixed_sent, single, chunks = _NONE, 0.0, 0.0, 1.0
    if prompt:
        size = own * prompt / reads
        tokens, chunks = generating * each, max(1.0, prompt / rank.budget)
        batch = Batch(generating, tokens, size, context, prompt_context)
        mixed, mixed_sent = _slowest(rank, batch)
        # Not by `replace`, which takes a tenth of the time of a search.
        batch = Batch(generating, tokens, prompt / chunks, context, prompt_context)
        alone, alone_sent = _slowest(rank, batch)
        single = alone.total + alone_sent
    # Others that share the experts make this rank wait while they read prompts.
    others = _any_reads(reads, steps, rank.coupled) - reads
    plain_steps = max(0.0, plain_steps - others)
    waits = reads + others
    pause = 1 + rank.machine.blocked * (rank.pipeline - 1) / rank.pipeline
    # As many micro-batches as stages take turns; with fewer, stages idle, which takes as long.
    passes = rank.pipeline * pause
    mixed_pass = mixed.total + mixed_sent
    seconds = passes * (plain_steps * (plain.total + plain_sent) + waits * mixed_pass)
    requests = rank.machine.request * running * rank.coupled
    all_steps = plain_steps + waits
    sent = (plain_steps * plain_sent + waits * mixed_sent) / all_steps if all_steps else 0.0
    return Cycle(
        seconds=seconds + requests,
        steps=all_steps,
        first=(chunks + rank.pipeline - 1) * single * pause,
        burst=passes * waits * mixed_pass,
        plain=plain,
        mixed=mixed,
        mixed_steps=waits,
        passes=passes,
        sent=sent,
        requests=requests,
    )


def largest_graph(max_sequences: int, draft_tokens: int = 0) -> int:
    """Return the tokens of the largest decoding step that is captured as a graph.

    vLLM captures 1, 2, 4, then multiples of 8 up to 256 and of 16 beyond; vLLM-Ascend up to the
    tokens of `max_sequences`, 512 at most (vllm_ascend/platform.py). So with 12 sequences the
    largest is 8, and steps of 9 to 12 run without a graph.
    """
    limit = min(max_sequences * (1 + draft_tokens), 512)
    if limit < 8:
        return 4 if limit >= 4 else limit if limit < 3 else 2
    return limit // 8 * 8 if limit < 256 else limit // 16 * 16


def _mixed_steps(running: float, prompt: float, steps: float, rank: DataRank) -> float:
    """Return how many steps of a cycle hold prompt tokens.

    At least as many as the token budget of a step makes of all prompts. Prompts that come at random
    share a step when they come in the same one: of `steps` in which `running` come,
    1 - exp(-running/steps) have one or more. Clients that began together and ask for equal lengths
    stay together for long: for them the geometric mean of the two.
    """
    if not prompt:
        return 0.0
    least = max(1.0, running * prompt / rank.budget)
    if not steps:
        return least
    alone = max(least, steps * (1 - exp(-running / steps)))
    return float((least * alone) ** 0.5) if rank.load.clients is not None else alone


def _any_reads(reads: float, steps: float, ranks: int) -> float:
    """Return in how many steps at least one of the data-parallel ranks reads a prompt."""
    if ranks == 1 or not reads or steps <= reads:
        return reads
    return float(steps * (1 - (1 - reads / steps) ** ranks))


def _slowest(rank: DataRank, batch: Batch) -> tuple[Times, float]:
    """Return the times of the slowest stage, and the seconds it takes to send on."""
    times = max((stage.times(batch) for stage in rank.stages), key=lambda item: item.total)
    if rank.pipeline == 1:
        return times, 0.0
    return times, rank.stages[0].send(batch.tokens + batch.prompt)

"""The time of one engine step, part by part.

In a step a rank reads its weights once and the cache of each sequence that generates, and
multiplies every token with both; the longer of memory and arithmetic counts (a roofline). Between
layers ranks exchange activations, which takes a latency and bytes over a bandwidth. Meanwhile the
host launches the layers, partly hidden behind the NPU's work; then it plans the next step, which is
not hidden. docs/planning.md works one case out by hand.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from ropeway.models.shape import ModelShape, Precision
from ropeway.plan.machine import Machine
from ropeway.plan.question import Question
from ropeway.plan.shards import StageShard, shard, touched_experts
from ropeway.spec.model import Layout

# Activations travel in 16 bits.
_ACTIVATION_BYTES = 2
# Components whose products run in the precision of their weights; the rest is 16-bit.
_QUANTISED = ("attention", "dense", "routed", "shared")

# Names of the parts of a step, in the order of Times.
PARTS = (
    "weights", "KV cache", "arithmetic", "routing", "all-reduce", "all-to-all", "launch", "host",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step of one data-parallel rank works on (with PP, of one micro-batch).

    sequences       sequences that generate
    tokens          their tokens in this step: one each, more with speculative decoding
    prompt          prompt tokens
    context         tokens that a generating sequence attends to
    prompt_context  tokens that a prompt token attends to, on average
    captured        whether a graph of this size was captured
    """

    sequences: float
    tokens: float
    prompt: float = 0.0
    context: float = 0.0
    prompt_context: float = 0.0
    captured: bool = True


class Times(NamedTuple):
    """Seconds of one pass through one stage, by part.

    weights, cache    reading them
    arithmetic        what multiplying takes beyond the reading
    routing           moving tokens to experts and back, within the NPU
    reduce, exchange  all-reduces over tensor ranks, all-to-alls over expert ranks
    launch            the host's launching that does not hide behind all these
    host              planning the step, sampling, preparing inputs
    """

    weights: float
    cache: float
    arithmetic: float
    routing: float
    reduce: float
    exchange: float
    launch: float
    host: float

    @property
    def total(self) -> float:
        return sum(self)


@dataclass(frozen=True, slots=True)
class Costs:
    """One stage on one machine: seconds for each unit of work. Made once, used for every batch.

    data_ranks           in the layout
    fixed, routed        to read all weights but routed experts; to read all routed experts held
    token, expert_token  to multiply a token with either
    route_token          to move the copies of a token to experts
    cache_rate           for each byte of cache
    attention_rate       for each FLOP of attention
    wire, latency        of all all-reduces of a pass: for each token, and once
    exchange_wire, exchange_latency  the same of all all-to-alls
    launch, mixed, eager  of the host: a captured step, one with prompt tokens, one without a graph
    step                 of the host for each step
    send_token, send_latency  to hand activations to the next stage
    """

    stage: StageShard
    machine: Machine
    data_ranks: int
    fixed: float
    routed: float
    token: float
    expert_token: float
    route_token: float
    cache_rate: float
    attention_rate: float
    wire: float
    latency: float
    exchange_wire: float
    exchange_latency: float
    launch: float
    mixed: float
    eager: float
    step: float
    send_token: float
    send_latency: float

    def times(self, batch: Batch) -> Times:
        """Return the time of one pass of this batch."""
        tokens, experts = batch.tokens + batch.prompt, self.stage.all_experts
        visits = self.stage.experts_per_token
        touched = touched_experts(experts, visits, tokens * self.data_ranks)
        share = touched / experts if experts else 0.0
        fixed, fixed_work = self.fixed, self.token * tokens
        routed, routed_work = self.routed * share, self.expert_token * tokens
        cache, cache_work = self._attention(batch)
        arithmetic = (
            max(0.0, fixed_work - fixed)
            + max(0.0, routed_work - routed)
            + max(0.0, cache_work - cache)
        )
        routing = self.route_token * tokens
        reduce = self.latency + self.wire * tokens
        exchange = self.exchange_latency + self.exchange_wire * tokens
        device = fixed + routed + cache + arithmetic + routing + reduce + exchange
        launch = self.mixed if batch.prompt else self.launch if batch.captured else self.eager
        hidden = self.machine.overlap * min(launch, device)
        host = self.step + self.machine.sequence * (batch.sequences + (1 if batch.prompt else 0))
        return Times(
            fixed + routed, cache, arithmetic, routing, reduce, exchange, launch - hidden, host
        )

    def _attention(self, batch: Batch) -> tuple[float, float]:
        """Return the seconds to read the cache that a step attends to, and to multiply with it."""
        read = 2 * self.stage.state_bytes * batch.sequences  # read and written back
        work = 0.0
        for group in self.stage.caches:
            kept = group.kept(batch.context)
            attended = group.read(batch.context)
            read += batch.sequences * (
                attended * group.bytes_per_token + kept * group.index_bytes_per_token
            )
            work += batch.tokens * (attended * group.decode_flops + kept * group.index_flops)
            if batch.prompt:
                kept = group.kept(batch.prompt_context)
                attended = group.read(batch.prompt_context)
                work += batch.prompt * (attended * group.prefill_flops + kept * group.index_flops)
        return read * self.cache_rate, work * self.attention_rate

    def send(self, tokens: float) -> float:
        """Return the seconds to hand the activations of `tokens` to the next stage."""
        return self.send_latency + self.send_token * tokens


def stage_costs(question: Question, machine: Machine | None = None) -> tuple[Costs, ...]:
    """Return the costs of each stage that differs from the ones before it, first stage first.

    `machine` is each rank's share of the question's machine; by default the whole.
    """
    machine, npus = machine or question.machine, question.npus_per_host
    ranks = _Ranks(machine, question.layout, npus, question.shape, question.kv_bits)
    return _stage_costs(ranks)


class _Ranks(NamedTuple):
    """The part of a question that costs depend on: a layout on hosts of a machine."""

    machine: Machine
    layout: Layout
    npus_per_host: int
    shape: ModelShape
    kv_bits: float


@lru_cache(maxsize=65_536)
def _stage_costs(ranks: _Ranks) -> tuple[Costs, ...]:
    stages = shard(ranks.shape, ranks.layout, kv_bits=ranks.kv_bits)
    return tuple(_costs(ranks, stage) for stage in dict.fromkeys(stages))


def _costs(ranks: _Ranks, stage: StageShard) -> Costs:
    layout, machine = ranks.layout, ranks.machine
    memory = 1 / (machine.memory_bandwidth * machine.memory)
    idle = stage.weights.embedding + stage.weights.vision + stage.weights.routed
    precision = ranks.shape.precision
    # Routed experts in 4 bits are unpacked to 16 first, which leaves a share of the bandwidth.
    packed = "a16" in precision.scheme and precision.routed < 8
    unpacked = machine.unpacked if packed else 1.0
    token, expert_token = _work(stage, precision, machine)
    spread = stage.moe_layers > 0 and layout.data > 1
    uneven = machine.imbalance if stage.moe_layers and layout.expert else 1.0
    copies: float = stage.experts_per_token * stage.moe_layers
    if layout.expert and (spread or machine.splits_tokens):
        copies *= uneven / layout.tensor
    # With data parallel, all-to-alls stand in for the all-reduce after the experts.
    reduces = stage.all_reduces - (stage.moe_layers if spread and layout.tensor > 1 else 0)
    wire, latency = _all_reduce(ranks)
    exchange_wire, exchange_latency = _exchange(ranks, stage) if spread else (0.0, 0.0)
    dense = stage.layers - stage.moe_layers
    crosses = layout.world_size > ranks.npus_per_host
    link = machine.between if crosses else machine.inside
    width = ranks.shape.hidden_size * _ACTIVATION_BYTES
    return Costs(
        stage=stage,
        machine=machine,
        data_ranks=layout.data,
        fixed=(stage.weights.total - idle) * memory,
        routed=stage.weights.routed * memory * uneven / unpacked,
        token=token,
        expert_token=expert_token * uneven,
        route_token=machine.expert_token * copies,
        cache_rate=1 / (machine.memory_bandwidth * machine.cache),
        attention_rate=1 / (machine.bf16 * machine.attention),
        wire=reduces * wire,
        latency=reduces * latency,
        exchange_wire=exchange_wire,
        exchange_latency=exchange_latency,
        launch=dense * machine.layer + stage.moe_layers * machine.moe_layer,
        mixed=dense * machine.mixed_layer + stage.moe_layers * machine.mixed_moe_layer,
        eager=dense * machine.eager_layer + stage.moe_layers * machine.eager_moe_layer,
        step=machine.step + (machine.processes if layout.world_size > 1 else 0.0),
        send_token=width / layout.tensor / (link.bandwidth * machine.wire),
        send_latency=machine.reduce + (machine.between_reduce if crosses else 0.0),
    )


def _work(stage: StageShard, precision: Precision, machine: Machine) -> tuple[float, float]:
    """Return the seconds to multiply one token: with all but routed experts, and with those."""
    seconds = {}
    for name in ("attention", "dense", "shared", "router", "head", "routed"):
        narrow = name in _QUANTISED and getattr(precision, name) < 9
        rate = machine.bf16
        if narrow and "a16" not in precision.scheme:
            floating = "fp" in precision.scheme
            rate = (machine.fp8 if floating else machine.int8) * machine.narrow or machine.bf16
        share = machine.experts if name == "routed" else machine.matrix
        seconds[name] = getattr(stage.flops, name) / (rate * share)
    routed = seconds.pop("routed")
    return sum(seconds.values()), routed


def _all_reduce(ranks: _Ranks) -> tuple[float, float]:
    """Return the seconds of one all-reduce over the tensor ranks: for each token, and once.

    In a ring 2 (n-1)/n of the bytes leave each of n ranks. Across hosts it is hierarchical: scatter
    within the host, reduce that share between hosts, gather within.
    """
    machine, count = ranks.machine, ranks.layout.tensor
    if count == 1:
        return 0.0, 0.0
    size = ranks.shape.hidden_size * _ACTIVATION_BYTES
    near = min(count, ranks.npus_per_host)
    wire = 2 * (near - 1) / near * size / _bandwidth(machine, near)
    latency = machine.reduce + machine.reduce_rank * count
    if count > near:
        hosts = count / near
        far = machine.between.bandwidth * machine.wire
        wire += 2 * (hosts - 1) / hosts * size / near / far
        latency += machine.between_reduce
    return wire, latency


def _exchange(ranks: _Ranks, stage: StageShard) -> tuple[float, float]:
    """Return the seconds of all all-to-alls of a pass: for each token, and once.

    There are two in each layer with experts. A rank sends 1/tensor of its DP rank's tokens, each to
    the DP ranks that hold its experts: one copy for each expert, at most one to each DP rank.
    """
    machine, layout = ranks.machine, ranks.layout
    count = layout.expert_ranks
    near = min(count, ranks.npus_per_host)
    copies = min(stage.experts_per_token, layout.data)
    size = ranks.shape.hidden_size * _ACTIVATION_BYTES * copies / layout.tensor
    number = 2 * stage.moe_layers
    away = 1 - near / count
    wire = (1 - 1 / near) * (1 - away) * size / _bandwidth(machine, near)
    latency = machine.exchange + machine.reduce_rank * count
    if away:
        wire += away * size / (machine.between.bandwidth * machine.wire)
        latency += machine.between_reduce
    return number * wire, number * latency


def _bandwidth(machine: Machine, ranks: int) -> float:
    """Return the bytes/s that one of `ranks` in a host sends; in a mesh, over links to the rest."""
    share = (ranks - 1) / (machine.mesh - 1) if machine.mesh else 1.0
    return machine.inside.bandwidth * min(1.0, share or 1.0) * machine.wire

"""The time of one engine step, part by part.

A rank reads its weights once in a step, the cache of each sequence that generates, and multiplies
every token with both; whichever of memory and arithmetic takes longer counts (a roofline). Between
layers ranks exchange activations: a latency and bytes over a bandwidth. Meanwhile the host launches
the layers, which hides behind the NPU's work in part, and after it plans the next step, which does
not. All of it is worked out in docs/planning.md for one case by hand.
"""

from dataclasses import dataclass
from functools import lru_cache

from ropeway.models import ModelShape, Precision
from ropeway.plan.machine import Machine
from ropeway.plan.shards import CacheGroup, StageShard, shard, touched_experts
from ropeway.spec.model import Layout

# Activations travel in 16 bits.
_ACTIVATION_BYTES = 2
# Components whose products run in the precision of their weights; the rest is 16-bit.
_QUANTISED = ("attention", "dense", "routed", "shared")


# What the parts of a step are called, in the order of Times.
PARTS = (
    "weights", "KV cache", "arithmetic", "routing", "all-reduce", "all-to-all", "launch", "host",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step works on, of one data-parallel replica (PP: of one micro-batch).

    sequences       that generate
    tokens          that they put in: one each, more with speculative decoding
    prompt          prompt tokens
    context         tokens that a generating sequence sees
    prompt_context  tokens that a prompt token sees, on average
    captured        whether a graph of this size was captured
    """

    sequences: float
    tokens: float
    prompt: float = 0.0
    context: float = 0.0
    prompt_context: float = 0.0
    captured: bool = True


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of one pass through one stage.

    weights, cache   reading them, or multiplying with them where that takes longer by less
    arithmetic       what multiplying takes beyond the reading
    routing          moving tokens to experts and back, within the NPU
    reduce, exchange all-reduces over tensor ranks, all-to-alls over expert ranks
    launch           of the host, what does not hide behind all these
    host             planning the step, sampling, preparing inputs
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
        return (
            self.weights + self.cache + self.arithmetic + self.routing
            + self.reduce + self.exchange + self.launch + self.host
        )  # fmt: skip

    def each(self) -> tuple[float, ...]:
        """In the order of PARTS."""
        return (
            self.weights, self.cache, self.arithmetic, self.routing,
            self.reduce, self.exchange, self.launch, self.host,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Costs:
    """One stage on one machine: seconds for each unit of work. Made once, used for every batch.

    fixed, routed       to read all weights but routed experts, all routed experts held
    token, expert_token, route_token  to multiply a token with these; to move its copies
    decode, prefill     attention: to multiply one token with one token of context, by cache group
    wire, exchange_wire to move one token's activations in all reduces, all exchanges
    latency, exchange_latency  of all of them in one pass
    launch, mixed, eager  of the host, without and with prompt tokens, without a graph
    """

    fixed: float
    routed: float
    all_experts: int
    experts_per_token: int
    replicas: int
    token: float
    expert_token: float
    route_token: float
    caches: tuple[CacheGroup, ...]
    state: float
    cache_rate: float
    attention_rate: float
    wire: float
    latency: float
    exchange_wire: float
    exchange_latency: float
    launch: float
    mixed: float
    eager: float
    overlap: float
    step: float
    sequence: float
    send_token: float
    send_latency: float

    def times(self, batch: Batch) -> Times:
        """Of one pass of this batch."""
        tokens = batch.tokens + batch.prompt
        touched = touched_experts(self.all_experts, self.experts_per_token, tokens * self.replicas)
        share = touched / self.all_experts if self.all_experts else 0.0
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
        hidden = self.overlap * min(launch, device)
        host = self.step + self.sequence * (batch.sequences + (1 if batch.prompt else 0))
        return Times(
            fixed + routed, cache, arithmetic, routing, reduce, exchange, launch - hidden, host
        )

    def _attention(self, batch: Batch) -> tuple[float, float]:
        """Seconds to read what the step sees of the cache, and to multiply with it."""
        read = self.state * batch.sequences
        work = 0.0
        for group in self.caches:
            kept = group.kept(batch.context)
            seen = group.read(batch.context)
            read += batch.sequences * (
                seen * group.bytes_per_token + kept * group.index_bytes_per_token
            )
            work += batch.tokens * (seen * group.decode_flops + kept * group.index_flops)
            if batch.prompt:
                kept = group.kept(batch.prompt_context)
                seen = group.read(batch.prompt_context)
                work += batch.prompt * (seen * group.prefill_flops + kept * group.index_flops)
        return read * self.cache_rate, work * self.attention_rate

    def send(self, tokens: float) -> float:
        """Seconds to hand the activations of so many tokens to the next stage."""
        return self.send_latency + self.send_token * tokens


@dataclass(frozen=True, slots=True)
class Place:
    """A model in a layout on a machine, as far as costs depend on it."""

    shape: ModelShape
    layout: Layout
    npus_per_host: int
    precision: Precision
    kv_bits: float = 16

    @property
    def grid(self) -> tuple[int, int, int, bool]:
        layout = self.layout
        return layout.tensor, layout.pipeline, layout.data, layout.expert


def stage_costs(place: Place, machine: Machine) -> tuple[Costs, ...]:
    """The costs of each stage that differs from the ones before it, first stage first."""
    return _stage_costs(
        place.shape, place.grid, place.npus_per_host, place.precision, place.kv_bits, machine
    )


@lru_cache(maxsize=65_536)
def _stage_costs(
    shape: ModelShape,
    grid: tuple[int, int, int, bool],
    npus_per_host: int,
    precision: Precision,
    kv_bits: float,
    machine: Machine,
) -> tuple[Costs, ...]:
    layout = Layout(tensor=grid[0], pipeline=grid[1], data=grid[2], expert=grid[3])
    place = Place(shape, layout, npus_per_host, precision, kv_bits)
    stages = dict.fromkeys(shard(shape, layout, precision=precision, kv_bits=kv_bits))
    return tuple(_costs(place, machine, stage) for stage in stages)


def _costs(place: Place, machine: Machine, stage: StageShard) -> Costs:
    layout = place.layout
    memory = 1 / (machine.memory_bandwidth * machine.memory)
    idle = stage.weights.embedding + stage.weights.vision + stage.weights.routed
    token, expert_token = _work(stage, place.precision, machine)
    spread = stage.moe_layers > 0 and layout.data > 1
    uneven = machine.imbalance if stage.moe_layers and layout.expert else 1.0
    copies: float = stage.experts_per_token * stage.moe_layers
    if layout.expert and (spread or machine.splits_tokens):
        copies *= uneven / layout.tensor
    # With data parallel, exchanges stand in for the reduce after the experts.
    reduces = stage.all_reduces - (stage.moe_layers if spread and layout.tensor > 1 else 0)
    wire, latency = _reduce(place, machine, layout.tensor)
    exchange_wire, exchange_latency = _exchange(place, machine, stage) if spread else (0.0, 0.0)
    dense = stage.layers - stage.moe_layers
    crosses = layout.tensor * layout.pipeline > place.npus_per_host
    link = machine.between if crosses else machine.inside
    width = place.shape.hidden_size * _ACTIVATION_BYTES
    return Costs(
        fixed=(stage.weights.total - idle) * memory,
        routed=stage.weights.routed * memory * uneven / _unpacking(place.precision, machine),
        all_experts=stage.all_experts,
        experts_per_token=stage.experts_per_token,
        replicas=layout.data,
        token=token,
        expert_token=expert_token * uneven,
        route_token=machine.expert_token * copies,
        caches=stage.caches,
        state=2 * stage.state_bytes,  # read and written back
        cache_rate=1 / (machine.memory_bandwidth * machine.cache),
        attention_rate=1 / (machine.bf16 * machine.attention),
        wire=reduces * wire,
        latency=reduces * latency,
        exchange_wire=exchange_wire,
        exchange_latency=exchange_latency,
        launch=dense * machine.layer + stage.moe_layers * machine.moe_layer,
        mixed=dense * machine.mixed_layer + stage.moe_layers * machine.mixed_moe_layer,
        eager=dense * machine.eager_layer + stage.moe_layers * machine.eager_moe_layer,
        overlap=machine.overlap,
        step=machine.step + (machine.processes if layout.tensor * layout.pipeline > 1 else 0.0),
        sequence=machine.sequence,
        send_token=width / layout.tensor / (link.bandwidth * machine.wire),
        send_latency=machine.reduce + (machine.between_reduce if crosses else 0.0),
    )


def _unpacking(precision: Precision, machine: Machine) -> float:
    """What is left of the bandwidth for routed experts that are unpacked to 16 bits."""
    return machine.unpacked if "a16" in precision.scheme and precision.routed < 8 else 1.0


def _work(stage: StageShard, precision: Precision, machine: Machine) -> tuple[float, float]:
    """Seconds to multiply one token: with all but routed experts, and with those."""
    found = {}
    for name in ("attention", "dense", "shared", "router", "head", "routed"):
        narrow = name in _QUANTISED and getattr(precision, name) < 9
        rate = machine.bf16
        if narrow and "a16" not in precision.scheme:
            floating = "fp" in precision.scheme
            rate = (machine.fp8 if floating else machine.int8) * machine.narrow or machine.bf16
        share = machine.experts if name == "routed" else machine.matrix
        found[name] = getattr(stage.flops, name) / (rate * share)
    routed = found.pop("routed")
    return sum(found.values()), routed


def _reduce(place: Place, machine: Machine, ranks: int) -> tuple[float, float]:
    """Of one all-reduce: seconds for each token, and before the first.

    Within a host 2 (n-1)/n of the bytes leave each rank. Across hosts it is hierarchical: scatter
    within the host, reduce that share between hosts, gather within.
    """
    if ranks == 1:
        return 0.0, 0.0
    size = place.shape.hidden_size * _ACTIVATION_BYTES
    near = min(ranks, place.npus_per_host)
    wire = 2 * (near - 1) / near * size / _bandwidth(machine, near)
    latency = machine.reduce + machine.reduce_rank * ranks
    if ranks > near:
        hosts = ranks / near
        far = machine.between.bandwidth * machine.wire
        wire += 2 * (hosts - 1) / hosts * size / near / far
        latency += machine.between_reduce
    return wire, latency


def _exchange(place: Place, machine: Machine, stage: StageShard) -> tuple[float, float]:
    """Of all exchanges of a pass, two in each layer with experts: seconds a token, and before it.

    A rank sends 1/tensor of its replica's tokens, each to the replicas that hold its experts: once
    for each of its experts, or where those are more than the replicas, once to each (all-gather).
    """
    layout = place.layout
    ranks = layout.tensor * layout.data
    near = min(ranks, place.npus_per_host)
    copies = min(stage.experts_per_token, layout.data)
    size = place.shape.hidden_size * _ACTIVATION_BYTES * copies / layout.tensor
    number = 2 * stage.moe_layers
    away = 1 - near / ranks
    wire = (1 - 1 / near) * (1 - away) * size / _bandwidth(machine, near)
    latency = machine.exchange + machine.reduce_rank * ranks
    if away:
        wire += away * size / (machine.between.bandwidth * machine.wire)
        latency += machine.between_reduce
    return number * wire, number * latency


def _bandwidth(machine: Machine, ranks: int) -> float:
    """Bytes/s that one of `ranks` within a host sends: in a mesh over the links to the others."""
    share = (ranks - 1) / (machine.mesh - 1) if machine.mesh else 1.0
    return machine.inside.bandwidth * min(1.0, share or 1.0) * machine.wire

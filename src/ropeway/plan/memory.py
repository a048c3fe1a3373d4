"""What fills one NPU's memory, and how many tokens of cache are left.

    HBM ─ kept by the driver
        └ visible ─ usable = fraction × visible ─ weights, engine, activations, KV cache
                  └ the rest: captured graphs of releases that do not count them

Follows what vLLM does at its start: a run of the largest step, then all that is left of the budget
becomes blocks of cache. How it counts blocks was read in vLLM 0.32.0 (v1/core/kv_cache_utils.py).
"""

from dataclasses import dataclass
from functools import lru_cache
from math import ceil

from ropeway.engines.ascend_memory import EngineMemory, engine_bytes, visible_bytes
from ropeway.models import ModelShape, Precision
from ropeway.plan.shards import CacheGroup, StageShard, shard
from ropeway.spec.model import Layout

_ACTIVATION_BYTES = 2  # numbers between layers are in 16 bits, whatever the weights are in

# Choosing a token at the end of the largest step sorts all logits: 32-bit logits, probabilities,
# sorted logits and their running sum, and 64-bit indices (vllm/v1/sample/ops/topk_topp_sampler.py).
_SAMPLING_BYTES = 4 + 4 + 4 + 4 + 8

# The start-up run of a model that sees has one image of the largest size in it: 16,384 tokens in
# logs of Qwen3-VL, of 4 patches each. About eight rows of the encoder's width are alive at once,
# and its output is kept for the language model, in Qwen3-VL that of four layers ("deepstack").
_IMAGE_TOKENS = 16_384
_PATCHES = 4
_ENCODER_ROWS = 8
_ENCODER_OUTPUTS = 4


@dataclass(frozen=True, slots=True)
class MemoryNeeds:
    """What decides the memory besides the model and the layout.

    engine              what it keeps for itself
    fraction            of the visible HBM that it may take; None is its default
    kv_cache            bytes of cache per NPU where that is fixed instead
    context             tokens of one sequence, prompt and answer together
    max_sequences       running at once in a data-parallel replica
    max_batched_tokens  of one step
    precision, kv_bits  where they differ from the model's own
    vision              whether the encoders are loaded
    """

    engine: EngineMemory
    fraction: float | None = None
    kv_cache: int | None = None
    context: int = 4096
    max_sequences: int = 256
    max_batched_tokens: int = 8192
    precision: Precision | None = None
    kv_bits: float = 16
    vision: bool = True


@dataclass(frozen=True, slots=True)
class Memory:
    """One NPU of the fullest stage, in bytes, and the cache of one data-parallel replica.

    hbm          as sold
    visible      what the driver leaves
    usable       what the engine may take of that
    weights      resident
    engine       the process's own, the buffers of its communicators, graphs where they count
    activations  at the peak of the largest step
    kv_cache     what is left; below 0 is what is missing
    stage        the fullest pipeline stage: the one with room for the fewest tokens
    kv_tokens    of a replica, whole blocks; with windows or states, at the context asked
    blocks       of a replica
    sequences    that fit at once at the context asked
    reserve      graphs that need room beside `usable`
    """

    hbm: int
    visible: int
    usable: int
    weights: int
    engine: int
    activations: int
    kv_cache: int
    stage: int
    kv_tokens: int
    blocks: int
    sequences: int
    reserve: int = 0

    @property
    def spare(self) -> int:
        """Of the visible memory, what nobody takes; below 0 is what is missing."""
        taken = self.weights + self.engine + self.activations + max(0, self.kv_cache)
        return self.visible - taken - self.reserve

    @property
    def fits(self) -> bool:
        """Whether a sequence of the context asked can run, and the graphs have room."""
        return self.sequences >= 1 and self.spare >= 0


def memory(shape: ModelShape, layout: Layout, hbm_bytes: int, needs: MemoryNeeds) -> Memory:
    """Of the NPU with the least room for cache; every stage holds each token, so it decides.

    Without `hbm_bytes` (0, of the local cluster) what is taken counts as all there is.
    """
    engine = needs.engine
    graphs = engine.graphs_of_experts if shape.experts else engine.graphs
    own = engine_bytes(engine, layout) + (graphs if engine.counts_graphs else 0)
    idle = 0 if engine.counts_idle else engine.idle
    reserve = idle + (0 if engine.counts_graphs else graphs)
    visible = visible_bytes(hbm_bytes)
    share = needs.fraction if needs.fraction is not None else engine.fraction
    stages = shard(
        shape, layout, precision=needs.precision, kv_bits=needs.kv_bits, vision=needs.vision
    )
    found: list[Memory] = []
    seen: set[int] = set()
    for index, stage in enumerate(stages):
        if id(stage) in seen:  # stages alike are one object
            continue
        seen.add(id(stage))
        weights = ceil(stage.weights.total)
        peak = activation_bytes(shape, layout, stage, needs)
        taken = weights + own + peak
        usable = int(visible * share) if needs.kv_cache is None else taken + needs.kv_cache
        room = usable - taken
        if needs.kv_cache is None and room > 0:
            room = int(room * engine.cache_share)
        tokens, sequences = _held((stage,), room, needs.context, engine.block_size, needs)
        found.append(
            Memory(
                hbm_bytes, visible if hbm_bytes else usable, usable, weights, own, peak, room,
                index, tokens, tokens // engine.block_size, sequences, reserve,
            )
        )  # fmt: skip
    return min(found, key=lambda one: (one.sequences, one.kv_tokens, one.kv_cache))


def kv_tokens_from_bytes(
    shape: ModelShape,
    layout: Layout,
    kv_bytes: int,
    *,
    block_size: int = 128,
    kv_bits: float = 16,
    context: int | None = None,
    max_batched_tokens: int = 2048,
) -> int:
    """Tokens that `kv_bytes` per NPU hold, of one data-parallel replica.

    With `context` (the engine's longest) as vLLM prints it since 0.32: what so many sequences of
    that length would be, partly filled blocks taken off. Without, whole blocks.
    """
    stages = shard(shape, layout, kv_bits=kv_bits)
    longest = context or block_size
    if all(map(_is_plain, stages)):
        blocks = min(_blocks(stage, kv_bytes, block_size) for stage in stages)
        return int(blocks / ceil(longest / block_size) * longest)
    each = max(_sequence_bytes(one, longest, block_size, max_batched_tokens) for one in stages)
    return int(kv_bytes / each * longest)


def gpustack_bytes(shape: ModelShape, layout: Layout) -> int:
    """What GPUStack takes a model to need per NPU, for comparison: weights × 1.2, evenly spread.

    gpustack/gpustack, gpustack/policies/utils.py; it knows neither cache nor activations.
    """
    stages = shard(shape, Layout())
    whole = sum(stage.weights.total for stage in stages)
    return ceil(1.2 * whole / (layout.tensor * layout.pipeline))


def activation_bytes(
    shape: ModelShape, layout: Layout, stage: StageShard, needs: MemoryNeeds
) -> int:
    """Peak of what a step of `max_batched_tokens` has alive besides weights, on one NPU.

    The stream, its copy in the norm and the residual (3 × hidden), and the wider of: the dense part
    (gate and up, their product, the result), the experts (a token once for every expert it visits:
    in, gate and up, product, out). Attention is narrower than either in every model known here.
    After the last layer instead: the logits and what choosing a token sorts.
    """
    tokens, wide = needs.max_batched_tokens, shape.hidden_size
    stream = 3 * tokens * wide
    dense = tokens * (3 * ceil(shape.intermediate_size / layout.tensor) + wide)
    experts = 0
    if stage.moe_layers:
        rows = tokens * (layout.data if needs.engine.gathers else 1) * stage.experts_per_token
        ranks = 1 if layout.expert else layout.tensor * layout.data
        experts = rows * (2 * wide + 3 * ceil(shape.expert_size / ranks))
    peak = _ACTIVATION_BYTES * (stream + max(dense, experts))
    if stage.last:
        chosen = min(needs.max_sequences, tokens) * shape.vocab_size * _SAMPLING_BYTES
        peak = max(peak, _ACTIVATION_BYTES * tokens * wide + chosen)
    return peak + (_encoder_bytes(shape) if stage.first and needs.vision else 0)


def _encoder_bytes(shape: ModelShape) -> int:
    """Of the image in the start-up run; 0 where nothing is seen or heard."""
    width = max((tower.hidden_size for tower in shape.towers), default=0)
    rows = _IMAGE_TOKENS * _PATCHES * _ENCODER_ROWS * width
    kept = _IMAGE_TOKENS * _ENCODER_OUTPUTS * shape.hidden_size if shape.towers else 0
    return _ACTIVATION_BYTES * (rows + kept)


def _held(
    stages: tuple[StageShard, ...], room: int, context: int, block: int, needs: MemoryNeeds
) -> tuple[int, int]:
    """Tokens and sequences at `context` that `room` bytes hold; the pool keeps one block back."""
    if room <= 0:
        return 0, 0
    if all(map(_is_plain, stages)):
        blocks = min(_blocks(stage, room, block) for stage in stages)
        return blocks * block, max(0, blocks - 1) // ceil(context / block)
    each = max(_sequence_bytes(stage, context, block, needs.max_batched_tokens) for stage in stages)
    many = room / each if each else 0.0
    return int(many * context) // block * block, int(many)


def _is_plain(stage: StageShard) -> bool:
    """Every layer keeps the whole context, so that a token takes the same room wherever it is."""
    return not stage.state_bytes and all(not group.window for group in stage.caches)


def _blocks(stage: StageShard, room: int, block: int) -> int:
    """get_kv_cache_config_from_groups: whole blocks of all layers of the stage."""
    each = stage.kv_bytes_per_token * block
    return int(room // each) if each else 0


@lru_cache(maxsize=65_536)
def _sequence_bytes(stage: StageShard, context: int, block: int, batched: int) -> float:
    """Cache of one sequence in whole blocks, and its recurrent state.

    SlidingWindowSpec.max_memory_usage_bytes (v1/kv_cache_interface.py): of a window what a step may
    add is kept too, and one block more for where it begins.
    """
    return stage.state_bytes + sum(
        _group_blocks(group, context, block, batched)
        * block
        * (group.bytes_per_token + group.index_bytes_per_token)
        for group in stage.caches
    )


def _group_blocks(group: CacheGroup, context: int, block: int, batched: int) -> int:
    whole = ceil(context / block)
    if not group.window:
        return whole
    kept = min(group.window - 1 + batched, context)
    return min(whole, ceil(kept / block) + 1)

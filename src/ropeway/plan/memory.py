"""What fills one NPU's memory, and how many tokens of cache are left.

    HBM ─ kept by the driver
        └ visible ─ usable = fraction × visible ─ weights, engine, activations, KV cache
                  └ the rest: captured graphs of releases that do not count them

Follows what vLLM does at its start: a run of the largest step, then all that is left of the budget
becomes blocks of cache. How it counts blocks was read in vLLM 0.32.0 (v1/core/kv_cache_utils.py).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from operator import itemgetter

from ropeway.engines.ascend_memory import EngineMemory, engine_bytes, visible_bytes
from ropeway.models.shape import ModelShape
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

    engine              memory that the engine keeps for itself
    fraction            share of the visible HBM that it may take; None is its default
    kv_cache            bytes of cache per NPU, where that is fixed instead
    context             tokens of one sequence, prompt and answer together
    max_sequences       running at once in a data-parallel rank
    max_batched_tokens  of one step
    kv_bits             of a cached number
    """

    engine: EngineMemory
    fraction: float | None = None
    kv_cache: int | None = None
    context: int = 4096
    max_sequences: int = 256
    max_batched_tokens: int = 8192
    kv_bits: float = 16


@dataclass(frozen=True, slots=True)
class Memory:
    """One NPU of the fullest stage, in bytes, and the cache of one data-parallel rank.

    hbm          as sold
    visible      what the driver leaves
    usable       what the engine may take of that
    weights      resident
    engine       its process, the buffers of its communicators, graphs where they count
    activations  at the peak of the largest step
    kv_cache     the rest; negative is what is missing
    stage        index of the fullest pipeline stage: the one with room for the fewest tokens
    kv_tokens    of a DP rank, in whole blocks; with windows or states, at the requested context
    blocks       of a DP rank
    sequences    that fit at once at the requested context
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
        """Visible memory that stays free; negative is what is missing."""
        taken = self.weights + self.engine + self.activations + max(0, self.kv_cache)
        return self.visible - taken - self.reserve

    @property
    def fits(self) -> bool:
        """Whether a sequence of the requested context can run, and the graphs have room."""
        return self.sequences >= 1 and self.spare >= 0


def memory(shape: ModelShape, layout: Layout, hbm_bytes: int, needs: MemoryNeeds) -> Memory:
    """Return the memory of the NPU with the least room for cache, which decides for all stages.

    With `hbm_bytes` 0 (the local cluster), the memory in use counts as all there is.
    """
    engine = needs.engine
    graphs = engine.graphs_of_experts if shape.experts else engine.graphs
    own = engine_bytes(engine, layout) + (graphs if engine.counts_graphs else 0)
    idle = 0 if engine.counts_idle else engine.idle
    reserve = idle + (0 if engine.counts_graphs else graphs)
    visible = visible_bytes(hbm_bytes)
    share = needs.fraction if needs.fraction is not None else engine.fraction
    by_stage: list[Memory] = []
    for index, stage in _stages(shape, layout, needs):
        weights = ceil(stage.weights.total)
        peak = activation_bytes(shape, layout, stage, needs)
        taken = weights + own + peak
        usable = int(visible * share) if needs.kv_cache is None else taken + needs.kv_cache
        room = usable - taken
        if needs.kv_cache is None and room > 0:
            room = int(room * engine.cache_share)
        tokens, sequences = _capacity(stage, room, needs)
        by_stage.append(
            Memory(
                hbm_bytes, visible if hbm_bytes else usable, usable, weights, own, peak, room,
                index, tokens, tokens // engine.block_size, sequences, reserve,
            )
        )  # fmt: skip
    return min(by_stage, key=lambda item: (item.sequences, item.kv_tokens, item.kv_cache))


def cache_tokens(shape: ModelShape, layout: Layout, room: int, needs: MemoryNeeds) -> int:
    """Return the tokens of `needs.context`-long sequences that `room` bytes on each NPU hold."""
    capacities = (_capacity(stage, room, needs) for _, stage in _stages(shape, layout, needs))
    return min(capacities, key=itemgetter(1, 0))[0]


def gpustack_bytes(shape: ModelShape, layout: Layout) -> int:
    """Return the bytes per NPU by GPUStack's rule of thumb: weights × 1.2, evenly spread.

    gpustack/gpustack, gpustack/policies/utils.py.
    """
    stages = shard(shape, Layout())
    whole = sum(stage.weights.total for stage in stages)
    return ceil(1.2 * whole / (layout.tensor * layout.pipeline))


def activation_bytes(
    shape: ModelShape, layout: Layout, stage: StageShard, needs: MemoryNeeds
) -> int:
    """Return the peak bytes that a step of `max_batched_tokens` takes besides weights, on one NPU.

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
    return peak + (_encoder_bytes(shape) if stage.first else 0)


def _encoder_bytes(shape: ModelShape) -> int:
    """Return the bytes of the image in the start-up run; 0 without encoders."""
    width = max((encoder.hidden_size for encoder in shape.encoders), default=0)
    rows = _IMAGE_TOKENS * _PATCHES * _ENCODER_ROWS * width
    kept = _IMAGE_TOKENS * _ENCODER_OUTPUTS * shape.hidden_size if shape.encoders else 0
    return _ACTIVATION_BYTES * (rows + kept)


def _stages(
    shape: ModelShape, layout: Layout, needs: MemoryNeeds
) -> Iterable[tuple[int, StageShard]]:
    """Return the first of each kind of stage and its index; `shard` makes equal ones one object."""
    stages = shard(shape, layout, kv_bits=needs.kv_bits)
    # Backwards, so that the first of equal ones stays.
    first = {id(stage): (index, stage) for index, stage in reversed([*enumerate(stages)])}
    return reversed(first.values())


def _capacity(stage: StageShard, room: int, needs: MemoryNeeds) -> tuple[int, int]:
    """Return the tokens, and the sequences of `needs.context`, that `room` bytes of a stage hold.

    Whole blocks count, as in get_kv_cache_config_from_groups; the pool keeps one back.
    """
    context, block = needs.context, needs.engine.block_size
    if room <= 0:
        return 0, 0
    # Where every layer keeps the whole context, all tokens take the same room.
    if not stage.state_bytes and not any(group.window for group in stage.caches):
        each = stage.kv_bytes_per_token * block
        blocks = int(room // each) if each else 0
        return blocks * block, max(0, blocks - 1) // ceil(context / block)
    size = _sequence_bytes(stage, context, block, needs.max_batched_tokens)
    count = room / size if size else 0.0
    return int(count * context) // block * block, int(count)


@lru_cache(maxsize=65_536)
def _sequence_bytes(stage: StageShard, context: int, block: int, batched: int) -> float:
    """Return the bytes of one sequence: its cache in whole blocks, and its recurrent state.

    SlidingWindowSpec.max_memory_usage_bytes (v1/kv_cache_interface.py): beside a window, the tokens
    that a step may add are kept, and one block more because it may begin within a block.
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

"""What fills one NPU's memory, and how many tokens of cache are left.

    HBM ─ kept by the driver
        └ visible ─ usable = fraction × visible ─ weights, engine, activations, KV cache
                  └ the rest: captured graphs of releases that do not count them

Follows what vLLM does at its start: a run of the largest step, then all that is left of the budget
becomes blocks of cache. How it counts blocks was read in vLLM 0.32.0 (v1/core/kv_cache_utils.py).
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil
from operator import itemgetter

from ropeway.engines.ascend_memory import EngineMemory, engine_bytes, visible_bytes
from ropeway.models.shape import Attention, Block, ModelShape
from ropeway.plan.shards import CacheGroup, StageShard, shard
from ropeway.spec.model import Layout

# How far engine and activations were from published start-up logs, at most (docs/planning.md).
MEMORY_ERROR = int(0.7 * 2**30)

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
    drafts              whether the model's MTP layers run too
    dispatch            bytes of MC2's buffers, where they are not the engine's usual ones
    """

    engine: EngineMemory
    fraction: float | None = None
    kv_cache: int | None = None
    context: int = 4096
    max_sequences: int = 256
    max_batched_tokens: int = 8192
    kv_bits: float = 16
    drafts: bool = False
    dispatch: int | None = None


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
    reserve      what needs room beside `usable`: graphs, memory in use before, a mask
    mask         of that, the attention mask of 310P
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
    mask: int = 0

    @property
    def spare(self) -> int:
        """Visible memory that stays free; negative is what is missing."""
        taken = self.weights + self.engine + self.activations + max(0, self.kv_cache)
        return self.visible - taken - self.reserve

    def sequence_bytes(self, context: int) -> int:
        """Return what a sequence of so many tokens takes of the cache."""
        return self.kv_cache * context // self.kv_tokens if self.kv_tokens else 0

    def left(self, context: int) -> int:
        """Return what is left once one sequence of the context has its cache, if it has any.

        Or once the mask has been made, of which there are three copies then: as it is made, and in
        the two layouts that it is cast between (AttentionMaskBuilder310).
        """
        room = self.kv_cache or self.usable - self.weights - self.engine - self.activations
        rest = room - self.sequence_bytes(context)
        return min(rest, max(0, self.spare - 2 * self.mask)) if self.mask else rest

    @property
    def fits(self) -> bool:
        """Whether a sequence of the requested context can run, and the graphs have room."""
        return self.sequences >= 1 and self.spare >= 0


def memory(shape: ModelShape, layout: Layout, hbm_bytes: int, needs: MemoryNeeds) -> Memory:
    """Return the memory of the NPU with the least room for cache, which decides for all stages.

    With `hbm_bytes` 0 (the local cluster), the memory in use counts as all there is.
    """
    engine = needs.engine
    if needs.dispatch is not None:
        engine = replace(engine, dispatch_buffers=needs.dispatch)
    graphs = engine.graphs_of_experts if shape.experts else engine.graphs
    own = engine_bytes(engine, layout) + engine.counted_graphs
    idle = 0 if engine.counts_idle else engine.idle
    mask = engine.mask * needs.context**2 if shape.kv_layers else 0
    reserve = idle + max(0, graphs - engine.counted_graphs) + mask
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
        room = room if stage.is_cached else min(room, 0)
        by_stage.append(
            Memory(
                hbm_bytes, visible if hbm_bytes else usable, usable, weights, own, peak, room,
                index, tokens, tokens // engine.block_size, sequences, reserve, mask,
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
    return ceil(1.2 * whole / layout.world_size)


def activation_bytes(
    shape: ModelShape, layout: Layout, stage: StageShard, needs: MemoryNeeds
) -> int:
    """Return the peak bytes that a step of `max_batched_tokens` takes besides weights, on one NPU.

    The stream, its copy in the norm and the residual (3 × hidden, of each residual stream), and the
    larger of: the dense part (gate and up, their product, the result), the experts. Attention is
    narrower than either in every model known here. After the last layer instead: the logits and
    what choosing a token sorts.
    """
    tokens, wide = needs.max_batched_tokens, shape.hidden_size
    stream = 3 * tokens * wide * shape.streams
    dense = tokens * (3 * ceil(shape.intermediate_size / layout.tensor) + wide)
    experts = _expert_bytes(shape, layout, needs) if stage.moe_layers else 0
    peak = _ACTIVATION_BYTES * stream + max(_ACTIVATION_BYTES * dense, experts)
    if stage.last and shape.has_head:
        chosen = min(needs.max_sequences, tokens) * shape.vocab_size * _SAMPLING_BYTES
        peak = max(peak, _ACTIVATION_BYTES * tokens * wide + chosen)
    return peak + (_encoder_bytes(shape) if stage.first else 0)


def _expert_bytes(shape: ModelShape, layout: Layout, needs: MemoryNeeds) -> int:
    """Return the peak bytes of routed experts: a token is there once for every expert it visits.

    Where tokens are gathered, every rank makes room for those of all data-parallel ranks, whichever
    experts they visit: `active_num` of npu_moe_init_routing. What is alive at once was read in
    vllm_ascend/ops/fused_moe (moe_mlp.py, token_dispatcher.py) of v0.18.0: gate and up with what
    they are made of, or the result with their product. Tokens for 8-bit products are in 8 bits,
    and let go of after the first product; those in 16 bits stay until the end.
    """
    gathered = layout.data > 1 and (needs.engine.gathers or not layout.expert)
    tokens = needs.max_batched_tokens * (layout.data if gathered else 1)
    ranks = 1 if layout.expert else layout.expert_ranks
    wide, inner = shape.hidden_size, ceil(shape.expert_size / ranks)
    if shape.precision.narrow("routed"):
        row = max(wide + 4 * inner, 5 * inner, 2 * wide + inner)
    else:
        row = max(2 * wide + 6 * inner, 4 * wide + 2 * inner)
    # The gathered tokens, and the sum for each.
    ends = 2 * _ACTIVATION_BYTES * tokens * wide if gathered else 0
    return tokens * shape.experts_per_token * row + ends


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
    if needs.engine.indexes_all:
        shape = _indexed(shape)
    stages = shard(shape, layout, kv_bits=needs.kv_bits, drafts=needs.drafts)
    # Backwards, so that the first of equal ones stays.
    first = {id(stage): (index, stage) for index, stage in reversed([*enumerate(stages)])}
    return reversed(first.values())


@lru_cache
def _indexed(shape: ModelShape) -> ModelShape:
    """Return the shape with an index in every latent's layer, where any has one."""
    width = max((item.index_width for item in _latents(shape.blocks)), default=0)
    if not width:
        return shape

    def widened(blocks: tuple[Block, ...]) -> tuple[Block, ...]:
        latents = _latents(blocks)
        return tuple(
            replace(block, attention=replace(block.attention, index_width=width))
            if block.attention in latents
            else block
            for block in blocks
        )

    return replace(shape, blocks=widened(shape.blocks), mtp=widened(shape.mtp))


def _latents(blocks: Iterable[Block]) -> list[Attention]:
    return [item for block in blocks if (item := block.attention) and item.kind == "latent"]


def _capacity(stage: StageShard, room: int, needs: MemoryNeeds) -> tuple[int, int]:
    """Return the tokens, and the sequences of `needs.context`, that `room` bytes of a stage hold.

    Whole blocks count, as in get_kv_cache_config_from_groups; the pool keeps one back.
    """
    context, block = needs.context, needs.engine.block_size
    if room <= 0:
        return 0, 0
    if not stage.is_cached:  # an encoder: all is in the activations
        whole = ceil((context + 1) / block) * block
        return needs.max_sequences * whole, needs.max_sequences
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

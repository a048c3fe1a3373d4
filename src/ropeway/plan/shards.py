"""What each rank of a layout holds of a model, and what it computes for a token.

Pure arithmetic over `models.ModelShape` that follows how vLLM splits a model (read in vLLM 0.32.0;
each rule names its place). Bytes are exact but for scales and paddings; times are in `step`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil
from operator import sub
from typing import NamedTuple

from ropeway.models.shape import (
    COMPONENTS,
    Attention,
    Block,
    FeedForward,
    ModelShape,
    Precision,
    Weight,
)
from ropeway.spec.model import Layout

# vllm/model_executor/layers/vocab_parallel_embedding.py, DEFAULTVOCAB_PADDING_SIZE
VOCAB_PADDING = 64

# More than the shapes × layouts of a search over 4,096 NPUs.
_REMEMBERED = 65_536


class Amounts(NamedTuple):
    """One figure for each component of a model: bytes, or FLOPs per token.

    A tied table counts as `embedding` on the first stage and as `head` on the last; where a stage
    is both, once, as `head`. `vision` are encoders; their work is not counted.
    """

    attention: float = 0.0
    dense: float = 0.0
    routed: float = 0.0
    shared: float = 0.0
    router: float = 0.0
    norm: float = 0.0
    embedding: float = 0.0
    head: float = 0.0
    vision: float = 0.0

    @property
    def total(self) -> float:
        return sum(self)


class CacheGroup(NamedTuple):
    """Layers of a stage that keep the same part of the context; figures are sums over `layers`.

    bytes_per_token        KV cache of one token, read for each token that is attended to
    window                 number of last tokens that are kept and attended to; 0 is all
    read_limit             largest number of kept tokens that a query reads; 0 is all
    index_bytes_per_token  index by which those are chosen, kept and read for every token
    index_flops            per query token and kept token, to choose
    decode_flops           per query token and token it reads, when generating
    prefill_flops          per query token and token it reads, over a prompt
    """

    layers: int
    bytes_per_token: float
    window: int = 0
    read_limit: int = 0
    index_bytes_per_token: float = 0.0
    index_flops: float = 0.0
    decode_flops: float = 0.0
    prefill_flops: float = 0.0

    def kept(self, tokens: float) -> float:
        """Return how many tokens of a context the cache still holds."""
        return min(tokens, self.window) if self.window else tokens

    def read(self, tokens: float) -> float:
        """Return how many of those a query reads."""
        kept = self.kept(tokens)
        return min(kept, self.read_limit) if self.read_limit else kept


class StageShard(NamedTuple):
    """One pipeline stage as its largest rank holds it. All figures are of one rank (one NPU).

    first, last        whether it has the embedding table, the head
    layers             layers of the model
    moe_layers         layers with routed experts
    weights            resident bytes by component
    flops              per token of this rank's own data-parallel rank, by component, spread
                       evenly over experts; attention over the context is in `caches`
    caches             what grows with the context, an entry for each kind of layer
    state_bytes        recurrent state of one sequence (linear attention, Mamba)
    experts            routed experts of a layer on this rank: whole, or a slice of each
    expert_bytes       bytes of one of those in one layer, as this rank holds it
    experts_per_token  routed experts that each token visits
    all_experts        routed experts of a layer, over all ranks
    all_reduces        over the tensor ranks in one pass, each of hidden_size numbers per token
    """

    first: bool
    last: bool
    layers: int
    moe_layers: int
    weights: Amounts
    flops: Amounts
    caches: tuple[CacheGroup, ...]
    state_bytes: float
    experts: int
    expert_bytes: float
    experts_per_token: int
    all_experts: int
    all_reduces: int

    @property
    def is_cached(self) -> bool:
        """Whether a sequence leaves something behind; in an encoder it does not."""
        return bool(self.caches or self.state_bytes)

    @property
    def kv_bytes_per_token(self) -> float:
        """Cache of a token that every layer still keeps, index included."""
        return sum(group.bytes_per_token + group.index_bytes_per_token for group in self.caches)


@lru_cache(maxsize=_REMEMBERED)
def shard(
    shape: ModelShape, layout: Layout, *, kv_bits: float = 16, drafts: bool = False
) -> tuple[StageShard, ...]:
    """Return one StageShard for each pipeline stage; equal stages are one object.

    `kv_bits` are those of a cached number. Encoders are cut by TP, on every stage (vLLM builds them
    on each). A layout that vLLM refuses is not refused here: uneven pieces are rounded up. With
    `drafts` the last stage also holds the model's MTP layers, whose work is not counted.
    """
    if drafts and shape.mtp:
        *stages, last = shard(shape, layout, kv_bits=kv_bits)
        return (*stages, _with_drafts(last, shape, layout, kv_bits))
    costs = _costs(shape, layout.tensor, layout.prefill_context * layout.decode_context, kv_bits)
    ranks = layout.expert_ranks
    experts = tuple(_experts_per_rank(kind, ranks, layout.expert) for kind in costs.kinds)
    equal: dict[tuple[tuple[int, ...], bool, bool], StageShard] = {}
    made, begin = [], 0
    for index, size in enumerate(stage_layers(shape.layers, layout.pipeline)):
        before, after = costs.kinds_before[begin], costs.kinds_before[begin + size]
        counts = tuple(map(sub, after, before))
        key = (counts, index == 0, index == layout.pipeline - 1)
        if key not in equal:
            equal[key] = _with_experts(_without_experts(costs, *key), counts, experts)
        made.append(equal[key])
        begin += size
    return tuple(made)


def _with_drafts(last: StageShard, shape: ModelShape, layout: Layout, kv_bits: float) -> StageShard:
    """Return the last stage with the MTP layers, which share the model's table and head.

    (_maybe_share_embeddings and _maybe_share_lm_head in vllm_ascend/spec_decode/eagle_proposer.py.)
    """
    own = tuple(item for item in shape.mtp_outer if item.component not in ("embedding", "head"))
    alone = replace(shape, blocks=shape.mtp, outer=own, mtp=(), mtp_outer=(), encoders=())
    (draft,) = shard(alone, layout.model_copy(update={"pipeline": 1}), kv_bits=kv_bits)
    return last._replace(
        weights=Amounts._make(_plus(last.weights, draft.weights, 1)),
        caches=_joined((group, 1) for group in (*last.caches, *draft.caches)),
        state_bytes=last.state_bytes + draft.state_bytes,
    )


def touched_experts(experts: int, per_token: int, tokens: float) -> float:
    """Return how many experts of a layer a batch of tokens visits, if each token chooses evenly.

    E (1 - (1 - k/E)^T): each of T tokens misses an expert with probability 1 - k/E.
    """
    if not experts:
        return 0.0
    return float(experts * (1 - (1 - per_token / experts) ** tokens))


def stage_layers(layers: int, stages: int) -> tuple[int, ...]:
    """Return the layers of each stage, as get_pp_indices (vllm/distributed/utils.py) divides them.

    The remainder goes to the stages before the last, which has the head.
    """
    each, rest = divmod(layers, stages)
    return tuple(each + (stages - 1 - rest <= index < stages - 1) for index in range(stages))


@dataclass(frozen=True, slots=True)
class _Kind:
    """One rank's part of a kind of layer, without its routed experts.

    experts, expert_width, expert_bytes  of the layer's whole mixture; 0 without
    """

    weights: Amounts
    flops: Amounts
    caches: tuple[CacheGroup, ...] = ()
    state_bytes: float = 0.0
    all_reduces: int = 0
    experts: int = 0
    experts_per_token: int = 0
    expert_width: int = 0
    expert_bytes: float = 0.0


# Compared by identity, since it is the key of a cache and made once for its arguments.
@dataclass(frozen=True, eq=False, slots=True)
class _Costs:
    """What stages are summed from.

    kinds_before  for each layer and the end, how many layers of each kind come before it
    """

    kinds: tuple[_Kind, ...]
    kinds_before: tuple[tuple[int, ...], ...]
    table: _Kind
    head: _Kind
    tied: bool
    vision: float


@lru_cache(maxsize=_REMEMBERED)
def _costs(shape: ModelShape, tensor: int, contexts: int, kv_bits: float) -> _Costs:
    distinct: dict[tuple[Attention | None, FeedForward | None, int], int] = {}
    kinds: list[_Kind] = []
    order: list[int] = []
    for block in shape.blocks:
        key = (block.attention, block.feed, block.all_reduces)
        if key not in distinct:
            distinct[key] = len(kinds)
            kinds.append(_kind(block, tensor, contexts, shape.precision, kv_bits))
        order += [distinct[key]] * block.count
    before = [[0] * len(kinds)]
    for kind in order:
        before.append([*before[-1]])
        before[-1][kind] += 1
    encoders = sum(encoder.numbers or 0 for encoder in shape.encoders)
    table = [item for item in shape.outer if item.component == "embedding"]
    rest = [item for item in shape.outer if item.component != "embedding"]
    return _Costs(
        tuple(kinds),
        tuple(tuple(row) for row in before),
        _kind_of(table, tensor, shape.precision),
        _kind_of(rest, tensor, shape.precision),
        shape.tied_embeddings,
        encoders * 2 / tensor,  # encoders stay in 16 bits
    )


def _kind(block: Block, tensor: int, contexts: int, precision: Precision, kv_bits: float) -> _Kind:
    attention, feed = block.attention, block.feed
    kind = _kind_of(block.weights, tensor, precision)
    kind = replace(kind, all_reduces=block.all_reduces if tensor > 1 else 0)
    if attention:
        heads = _share(attention.heads, tensor)
        work = kind.flops.attention + attention.state_flops * heads
        kind = replace(
            kind,
            flops=kind.flops._replace(attention=work),
            caches=_caches(attention, tensor, contexts, kv_bits),
            state_bytes=attention.state_bytes * heads,
        )
    if not feed or not feed.experts:
        return kind
    routed = [item for item in feed.weights if item.component == "routed"]
    return replace(
        kind,
        experts=feed.experts,
        experts_per_token=feed.experts_per_token,
        expert_width=feed.expert_width,
        expert_bytes=sum(item.numbers * precision.bits(item) / 8 for item in routed) / feed.experts,
    )


def _kind_of(weights: Iterable[Weight], tensor: int, precision: Precision) -> _Kind:
    """Return bytes and FLOPs of one rank; of routed experts only FLOPs, even over tensor ranks."""
    resident, flops = dict.fromkeys(COMPONENTS, 0.0), dict.fromkeys(COMPONENTS, 0.0)
    for weight in weights:
        part = weight.component
        if part == "routed":
            flops[part] += weight.flops / tensor
            continue
        padded = part in ("embedding", "head") and weight.pieces > 1
        share = _share(weight.pieces, tensor, padding=VOCAB_PADDING if padded else 1)
        resident[part] += weight.numbers * share * precision.bits(weight) / 8
        flops[part] += weight.flops * share
    return _Kind(Amounts(**resident), Amounts(**flops))


def _share(pieces: int, ranks: int, padding: int = 1) -> float:
    """Return the share that the largest of `ranks` holds of something cut into `pieces`."""
    padded = ceil(pieces / padding) * padding
    return ceil(padded / ranks) / pieces


def _caches(
    attention: Attention, tensor: int, contexts: int, kv_bits: float
) -> tuple[CacheGroup, ...]:
    """Return the caches of one layer.

    Tensor ranks beyond the KV heads hold copies (ModelConfig.get_num_kv_heads); every rank holds
    the whole latent and the whole index. Context parallel of `contexts` ranks deals out the tokens
    of what keeps the whole context (FullAttentionSpec.max_memory_usage_bytes), windows not; nor,
    since vLLM-Ascend 0.23, the index (enable_sfa_dcp_replicated_indexer).
    """
    if not attention.kv_width:
        return ()
    share = _share(attention.kv_pieces, tensor) * kv_bits / 8
    windowed = attention.window and not attention.window_width
    heads = _share(attention.heads, tensor)
    main = CacheGroup(
        layers=1,
        bytes_per_token=attention.kv_width * share / (1 if windowed else contexts),
        window=0 if attention.window_width else attention.window,
        read_limit=attention.read_limit,
        index_bytes_per_token=attention.index_width * kv_bits / 8,
        index_flops=attention.index_flops,
        decode_flops=attention.decode_flops * heads,
        prefill_flops=attention.prefill_flops * heads,
    )
    if not attention.window_width:
        return (main,)
    # Beside the compressed context the last tokens are kept uncompressed; each takes the work of
    # one compressed entry.
    entries = attention.window_width / attention.kv_width
    recent = CacheGroup(
        layers=1,
        bytes_per_token=attention.window_width * share,
        window=attention.window,
        decode_flops=main.decode_flops * entries,
        prefill_flops=main.prefill_flops * entries,
    )
    return (main, recent)


def _experts_per_rank(kind: _Kind, ranks: int, expert: bool) -> tuple[int, float]:
    """Return the routed experts of one layer on the rank with most, and the bytes of each there.

    determine_expert_map deals out whole experts evenly, the remainder to the first ranks; without
    expert parallel every expert is cut over tensor × data ranks.
    """
    if not kind.experts:
        return 0, 0.0
    if expert:
        return ceil(kind.experts / ranks), kind.expert_bytes
    return kind.experts, kind.expert_bytes * _share(kind.expert_width, ranks)


@lru_cache(maxsize=_REMEMBERED)
def _without_experts(costs: _Costs, counts: tuple[int, ...], first: bool, last: bool) -> StageShard:
    """Return a stage without its experts: the same for every number of data-parallel ranks."""
    parts = [(kind, number) for kind, number in zip(costs.kinds, counts, strict=True) if number]
    if first:
        parts.append((costs.table, 1))
    if last:
        parts.append((costs.head, 1))
    weights, flops = Amounts(vision=costs.vision), Amounts()
    for kind, number in parts:
        weights = Amounts._make(_plus(weights, kind.weights, number))
        flops = Amounts._make(_plus(flops, kind.flops, number))
    if last and costs.tied:
        # The table is the head too: one copy where a stage is both, which every step reads whole.
        head = weights.head + costs.table.weights.embedding
        weights = weights._replace(head=head, embedding=0.0)
    return StageShard(
        first=first,
        last=last,
        layers=sum(counts),
        moe_layers=sum(number for kind, number in parts if kind.experts),
        weights=weights,
        flops=flops,
        caches=_joined((group, number) for kind, number in parts for group in kind.caches),
        state_bytes=sum(kind.state_bytes * number for kind, number in parts),
        experts=0,
        expert_bytes=0.0,
        experts_per_token=max((kind.experts_per_token for kind, _ in parts), default=0),
        all_experts=max((kind.experts for kind, _ in parts), default=0),
        all_reduces=sum(kind.all_reduces * number for kind, number in parts)
        + (first and any(kind.all_reduces for kind in costs.kinds)),
    )


def _with_experts(
    stage: StageShard, counts: tuple[int, ...], per_rank: tuple[tuple[int, float], ...]
) -> StageShard:
    if not stage.moe_layers:
        return stage
    experts, each = max(pair for pair, number in zip(per_rank, counts, strict=True) if number)
    routed = sum(number * pair[0] * pair[1] for pair, number in zip(per_rank, counts, strict=True))
    weights = stage.weights._replace(routed=routed)
    return stage._replace(weights=weights, experts=experts, expert_bytes=each)


def _plus(total: Iterable[float], row: Iterable[float], number: int) -> Iterator[float]:
    return (before + number * value for before, value in zip(total, row, strict=True))


def _joined(groups: Iterable[tuple[CacheGroup, int]]) -> tuple[CacheGroup, ...]:
    """Join groups that keep the same part of the context, their layers added up."""
    joined: dict[tuple[int, int], CacheGroup] = {}
    for group, number in groups:
        window, read_limit = group.window, group.read_limit
        total = joined.get((window, read_limit), CacheGroup(0, 0.0))
        # All figures add up but the two that say which part of the context is kept.
        added = CacheGroup._make(_plus(total, group, number))
        joined[window, read_limit] = added._replace(window=window, read_limit=read_limit)
    return tuple(joined.values())

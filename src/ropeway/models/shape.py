"""A model as plain data: its layers in order, every weight in them, what each keeps of a token.

    ModelShape ─ Block × runs of equal layers ─ Attention ─ Weight …
               │                              └ FeedForward ─ Weight …
               ├ outer weights: embeddings, head, last norm
               ├ MTP layers, encoders
               └ Precision: bits per number, by component

Counts are of the whole model; `plan/shards.py` says what one rank holds of it.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

Component = Literal["attention", "dense", "routed", "shared", "router", "norm", "embedding", "head"]
# Schemes whose activations are narrow too: `w8a8`, `w4a8`, `mxfp8-mxfp4`, `int-quantized`, not
# `w4a16` or `gptq`.
_NARROW = re.compile(r"a[48](?!\d)|int8|fp8|^(int|float)-quantized")
COMPONENTS: tuple[Component, ...] = get_args(Component)

# full      softmax attention over the whole context
# window    softmax attention over the last `window` tokens (or within chunks of that size)
# latent    one compressed latent for all heads (MLA), over the whole context
# compressed  a latent for every `ratio` tokens, and a window of plain ones (DeepSeek-V4)
# linear    a recurrent state in place of a cache (gated delta net, Kimi delta attention)
# mamba     a recurrent state in place of a cache (Mamba-2)
AttentionKind = Literal["full", "window", "latent", "compressed", "linear", "mamba"]


@dataclass(frozen=True)
class Weight:
    """One weight matrix, or several that are split the same way.

    name       of the tensor, as vLLM calls it
    component  what it belongs to; precision goes by it
    numbers    parameters in the whole model
    pieces     into how many equal pieces tensor parallel can cut it: 1 is replicated on every rank,
               K and V have one piece per KV head. A rank holds ⌈pieces / TP⌉ of them, so ranks
               beyond the pieces hold copies. `routed` experts go by expert parallel instead
    flops      per token that passes through, whole model: 2 for each number of a matrix; 0 where
               nothing is multiplied (norms, an embedding table); of experts, those a token visits
    bits       per number where the component's precision does not hold; None where it does
    """

    name: str
    component: Component
    numbers: int
    pieces: int = 1
    flops: int = 0
    bits: float | None = None


@dataclass(frozen=True)
class Attention:
    """What mixes tokens in one layer.

    heads, kv_heads   of the whole model; of linear attention and Mamba the value and key heads
    head_dim          numbers of a query head that are multiplied with a key
    kv_width          numbers cached per token by this layer, all KV heads; a fraction where one
                      entry stands for several tokens; 0 where the layer keeps a state instead
    kv_pieces         pieces into which TP can cut that cache: the KV heads, or 1 for a latent
    window            number of last tokens that are kept and attended to; 0 is all
    window_width      numbers also kept for each of the last `window` tokens (`compressed` only)
    read_limit        largest number of cached tokens a query reads (sparse attention); 0 is all
    index_width       numbers cached per token to choose those; never cut by TP
    index_flops       per query token and token of context, to choose them; never cut by TP
    state_bytes       recurrent state of one sequence; cut by TP like the heads
    state_flops       per token, to update and read it
    decode_flops      per query token and token it attends to, all heads, when generating
    prefill_flops     the same over a prompt (a latent is unpacked there, which costs less)
    """

    kind: AttentionKind
    heads: int
    kv_heads: int
    head_dim: int
    weights: tuple[Weight, ...]
    kv_width: float = 0
    kv_pieces: int = 1
    window: int = 0
    window_width: int = 0
    read_limit: int = 0
    index_width: float = 0
    index_flops: float = 0
    state_bytes: int = 0
    state_flops: int = 0
    decode_flops: float = 0
    prefill_flops: float = 0


@dataclass(frozen=True)
class FeedForward:
    """The feed-forward part of one layer: dense, a mixture of experts, or both (Gemma 4).

    dense_width       0 where there is no dense part
    experts           routed experts; 0 where there is no mixture
    experts_per_token routed experts that each token visits
    expert_width      of one routed expert
    expert_numbers    parameters of one routed expert
    shared_width      of all shared experts together; every token passes through them
    """

    weights: tuple[Weight, ...]
    dense_width: int = 0
    experts: int = 0
    experts_per_token: int = 0
    expert_width: int = 0
    expert_numbers: int = 0
    shared_width: int = 0


@dataclass(frozen=True)
class Block:
    """A run of `count` equal layers. Either part may be missing (Nemotron's layers have one each).

    all_reduces  in one such layer, with tensor parallel
    """

    count: int
    attention: Attention | None
    feed: FeedForward | None
    all_reduces: int = 2

    @property
    def weights(self) -> tuple[Weight, ...]:
        """Weights of one layer."""
        mixer = self.attention.weights if self.attention else ()
        return mixer + (self.feed.weights if self.feed else ())


@dataclass(frozen=True)
class Encoder:
    """A vision or audio encoder, with what joins it to the language model.

    numbers  parameters, or None where config.json does not say enough; `why` then says what lacks
    heads    attention heads, where vLLM divides them among tensor ranks without a way out; 0 where
             it has one, None where that, or their number, is not known
    """

    kind: str
    numbers: int | None
    layers: int = 0
    hidden_size: int = 0
    why: str = ""
    heads: int | None = 0


@dataclass(frozen=True)
class Precision:
    """Bits per number as stored, scales included, by component; `scheme` is what it is called."""

    scheme: str
    attention: float = 16
    dense: float = 16
    routed: float = 16
    shared: float = 16
    router: float = 16
    norm: float = 16
    embedding: float = 16
    head: float = 16

    def bits(self, weight: Weight) -> float:
        """Return the bits of one number of `weight`."""
        if weight.bits is not None:
            return weight.bits
        bits: float = getattr(self, weight.component)
        return bits

    def narrow(self, component: Component) -> bool:
        """Whether what is multiplied with these weights is known to be in 8 bits or fewer too."""
        bits: float = getattr(self, component)
        return bits < 9 and _NARROW.search(self.scheme) is not None


@dataclass(frozen=True)
class Parameters:
    """Parameter counts by the conventions in use.

    language    the language model: embeddings and head included, a tied pair once
    active      those that one token passes through (embeddings and head included)
    embedding   the input table; `head` is 0 where it is tied to the table
    mtp         multi-token-prediction layers, which published counts mostly leave out
    vision      encoders; None where config.json does not say
    """

    language: int
    active: int
    embedding: int
    head: int
    mtp: int
    vision: int | None

    @property
    def without_embeddings(self) -> int:
        return self.language - self.embedding - self.head

    @property
    def active_without_embeddings(self) -> int:
        return self.active - self.embedding - self.head

    @property
    def with_mtp(self) -> int:
        return self.language + self.mtp

    @property
    def with_vision(self) -> int | None:
        return None if self.vision is None else self.language + self.vision


def _of_attention(name: str) -> cached_property[int]:
    def read(shape: "ModelShape") -> int:
        attentions = shape._attentions
        first = next((item for item in attentions if item.kv_width), attentions[0])
        return int(getattr(first, name))

    return cached_property(read)


def _largest_feed(name: str) -> cached_property[int]:
    def read(shape: "ModelShape") -> int:
        return max((getattr(block.feed, name) for block in shape.blocks if block.feed), default=0)

    return cached_property(read)


@dataclass(frozen=True)
class ModelShape:
    """What planning and launching need to know of a model.

    blocks          its layers in order, as runs of equal ones
    outer           weights outside the layers: embedding table, head (none when tied), last norm
    mtp             multi-token-prediction layers, one Block for each kind; not part of `blocks`
    mtp_outer       weights of those outside their layers
    streams         residual streams of a token between layers (hyper-connections have several)
    encoders        vision and audio encoders
    precision       of the weights as config.json says they are stored
    dtype           as written, "" when config.json leaves it out
    max_positions   longest context in tokens, 0 when config.json leaves it out
    earlier_positions  the same in releases before vLLM 0.30, which count YaRN in another way
    positions_doubt    why a longer context may run all the same; "" where vLLM refuses it
    labels          of a classifier, as config.json counts them
    pools           the folder says that texts are embedded (`task.sees_pooling`)
    assumed         what config.json does not say and was assumed, in words
    weight_bytes    of all tensors, from the weight files; 0 when only the config was read
    """

    architecture: str
    model_type: str
    hidden_size: int
    vocab_size: int
    blocks: tuple[Block, ...]
    outer: tuple[Weight, ...]
    tied_embeddings: bool
    dtype: str
    max_positions: int
    precision: Precision = Precision("bf16")
    mtp: tuple[Block, ...] = ()
    mtp_outer: tuple[Weight, ...] = ()
    streams: int = 1
    encoders: tuple[Encoder, ...] = ()
    earlier_positions: int = 0
    positions_doubt: str = ""
    labels: int = 2
    pools: bool = False
    assumed: tuple[str, ...] = ()
    weight_bytes: int = 0
    weight_files: tuple[Path, ...] = ()

    def __hash__(self) -> int:
        # Caches are keyed by the shape, and hashing a few hundred weights takes longer than the
        # answers they hold.
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash(tuple(getattr(self, field.name) for field in fields(self)))

    @cached_property
    def layers(self) -> int:
        return sum(block.count for block in self.blocks)

    # Of softmax attention, of its first kind where layers differ.
    heads = _of_attention("heads")
    kv_heads = _of_attention("kv_heads")
    head_dim = _of_attention("head_dim")  # not always hidden_size / heads

    # Of the feed-forward parts the largest, 0 where no layer has such a part.
    intermediate_size = _largest_feed("dense_width")
    experts = _largest_feed("experts")
    experts_per_token = _largest_feed("experts_per_token")
    expert_size = _largest_feed("expert_width")

    @cached_property
    def has_latent_cache(self) -> bool:
        """Whether one compressed latent serves all heads (MLA), so that TP cannot cut the cache."""
        return any(item.kind in ("latent", "compressed") for item in self._attentions)

    @cached_property
    def is_indexed(self) -> bool:
        """Whether an index picks the tokens that a latent's queries read (sparse attention)."""
        return any(item.kind == "latent" and item.index_width for item in self._attentions)

    @cached_property
    def kv_layers(self) -> int:
        """Layers whose cache grows with the context."""
        return sum(
            block.count for block in self.blocks if block.attention and block.attention.kv_width
        )

    @cached_property
    def caches(self) -> bool:
        """Whether a sequence leaves keys, values or a state behind; encoders leave nothing."""
        return any(item.kv_width or item.state_bytes for item in self._attentions)

    @cached_property
    def has_head(self) -> bool:
        """Whether it ends in a choice among all tokens."""
        return any(weight.component == "head" for weight in self.outer)

    @property
    def _attentions(self) -> list[Attention]:
        return [block.attention for block in self.blocks if block.attention]


def numbers(weights: Iterable[Weight]) -> int:
    """Return the number of parameters of these weights."""
    return sum(weight.numbers for weight in weights)


def numbers_of_blocks(blocks: Iterable[Block]) -> int:
    """Return the number of parameters of these layers."""
    return sum(block.count * numbers(block.weights) for block in blocks)


def as_runs(layers: Iterable[Block]) -> tuple[Block, ...]:
    """Join neighbours that are equal but for their count."""
    runs: list[Block] = []
    for layer in layers:
        last = runs[-1] if runs else None
        if last and replace(layer, count=last.count) == last:
            runs[-1] = replace(last, count=last.count + layer.count)
        else:
            runs.append(layer)
    return tuple(runs)

"""Which layer is of which kind, in the many ways in which config.json says so."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ropeway.errors import ModelError
from ropeway.models.attention import (
    HEADS,
    HIDDEN,
    KV_HEADS,
    block_sparse,
    compressed,
    delta_net,
    kimi_delta,
    latent,
    lightning,
    mamba,
    softmax,
)
from ropeway.models.config import Config, number
from ropeway.models.feed_forward import (
    EXPERT_WIDTH,
    EXPERTS,
    PER_TOKEN,
    both,
    dense,
    dense_width,
    moe,
)
from ropeway.models.shape import Attention, Block, FeedForward
from ropeway.phrases import phrase

LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
# The deepest published model has 200; each is built by itself.
_MOST_LAYERS = 1000

_LETTERS = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
_PARTS = ("mlp", "moe")
_WINDOWED = ("sliding_attention", "chunked_attention", "local_attention", "sliding")
_RECURRENT = ("linear_attention", "linear", "gated_delta_net", "kda", "mamba")
# Latent attention whose indexer is described by other keys.
_INDEXED = ("indexed_attention", "deepseek_sparse_attention")
# DeepSeek-V4 as transformers writes it: kinds, and their ratios in `compress_rates`.
_COMPRESSED = ("compressed_sparse_attention", "heavily_compressed_attention")
_FULL = ("full_attention", "attention", "full", "global_attention", *_INDEXED, *_COMPRESSED)
# One layer in so many has full attention, in releases before `layer_types` (Gemma2Model in vLLM).
_WINDOW_PATTERN = {"gemma2": 2, "gemma3": 6, "cohere2": 4}
# MTP layers of these have a dense feed-forward part and a window (mimo_v2_mtp.py, step3p5_mtp.py).
_DENSE_MTP = ("mimo_v2", "step3p")
_MTP = ("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_modules")


def all_layers(config: Config) -> list[Block]:
    """Return every layer in order as a Block. Raises ModelError for missing or conflicting keys."""
    _check_experts(config)
    parts = _single_parts(config)
    described = config.listed("block_configs")
    config.within("block_configs", len(described), _MOST_LAYERS)
    if parts:
        return [_single_part(config, parts, index) for index in range(len(parts))]
    if described:
        return [_nas_layer(config, item, index) for index, item in enumerate(described)]
    return [_layer(config, index) for index in range(layer_count(config))]


def layer_count(config: Config) -> int:
    """Return the number of layers. LongCat counts a double layer once, or twice where re-saved."""
    names = ("num_layers", *LAYERS) if _is_longcat(config) else LAYERS
    return config.need("layers", names, _MOST_LAYERS)


def mtp_layers(config: Config, last: Block) -> list[Block]:
    """Return the multi-token-prediction layers, which mostly resemble the model's `last` layer."""
    count = config.find(_MTP) * config.find(("mtp_transformer_layers",), 1)
    if not count:
        return []
    letters = config.text(("mtp_hybrid_override_pattern",))
    kinds = tuple(_LETTERS.get(letter, letter) for letter in letters)
    kinds = kinds or tuple(str(kind) for kind in config.listed("mtp_layers_block_type"))
    if kinds:
        parts = [_single_part(config, kinds, index) for index in range(len(kinds))]
        return [replace(part, count=count) for part in parts]
    if config.find(("o_lora_rank",)):
        return [replace(last, count=count, attention=compressed(config, 0))]
    if config.model_type.startswith(_DENSE_MTP):
        windowed = _softmax_of_kind(config, "sliding_attention")
        return [Block(count, windowed, dense(config))]
    return [replace(last, count=count)]


def unknown_kinds(config: Config) -> tuple[str, ...]:
    """Return the kinds of layers that we do not know; they are counted as full attention."""
    known = {*_WINDOWED, *_RECURRENT, *_FULL, *_PARTS}
    kinds = (*config.listed("layer_types"), *config.listed("layers_block_type"))
    return tuple(sorted({str(kind) for kind in kinds} - known))


def _check_experts(config: Config) -> None:
    """Raise ModelError for a mixture whose number of experts has an unknown spelling.

    It would pass for a dense model.
    """
    says_mixture = config.find(EXPERT_WIDTH) and config.find(PER_TOKEN) > 1
    if says_mixture and not any(name in config.inner for name in EXPERTS):
        raise config.missing("experts", EXPERTS)


def _single_parts(config: Config) -> tuple[str, ...]:
    """Return the kind of each layer, for models whose layers have one part each (Nemotron)."""
    letters = config.text(("hybrid_override_pattern",))
    config.within("hybrid_override_pattern", len(letters), _MOST_LAYERS)
    unknown = sorted(set(letters) - set(_LETTERS))
    if unknown:
        raise ModelError(
            "`hybrid_override_pattern` contains unknown letters",
            where=config.place("hybrid_override_pattern")[1],
            evidence=(phrase("unknown: {names}", names=", ".join(unknown)),),
            hint="known letters: M (Mamba), * (attention), - (dense) and E (experts)",
        )
    if letters:
        return tuple(_LETTERS[letter] for letter in letters)
    kinds = tuple(str(kind) for kind in config.listed("layers_block_type"))
    config.within("layers_block_type", len(kinds), _MOST_LAYERS)
    return kinds if set(kinds) & set(_PARTS) else ()


def _single_part(config: Config, kinds: Sequence[str], layer: int) -> Block:
    kind = kinds[layer]
    if kind in _RECURRENT:
        return Block(1, mamba(config), None, all_reduces=1)
    if kind in _FULL:
        return Block(1, softmax(config), None, all_reduces=1)
    if kind == "moe":
        return Block(1, None, moe(config), all_reduces=1)
    # One width, or a list with one for each dense layer (NemotronHMLPDecoderLayer).
    width = config.item("intermediate_size", kinds[:layer].count("mlp"))
    return Block(1, None, dense(config, width if isinstance(width, int) else 0), all_reduces=1)


def _nas_layer(config: Config, described: object, layer: int) -> Block:
    """Return a layer of a model found by NAS (Llama-Nemotron, nemotron_nas.py)."""
    parts = described if isinstance(described, Mapping) else {}
    attention, feed = parts.get("attention"), parts.get("ffn")
    if not isinstance(attention, Mapping) or not isinstance(feed, Mapping):
        raise ModelError(
            "`block_configs` does not describe every layer",
            where=config.place("block_configs")[1],
            evidence=(phrase("`block_configs[{layer}]` lacks `attention` or `ffn`", layer=layer),),
        )
    mixer = None
    if not attention.get("no_op"):
        heads = config.need("attention heads", HEADS)
        group = Config(attention, config.where).find(("n_heads_in_group",), 1) or 1
        mixer = softmax(config, kv_heads=heads // group)
    dense_part = None
    if not feed.get("no_op"):
        hidden = config.need("hidden size", HIDDEN)
        # _ffn_mult_to_intermediate_size: 2/3 of this, rounded up to a multiple of 256.
        width = hidden * (number(feed.get("ffn_mult")) or 1)
        dense_part = dense(config, -(-int(2 * width / 3) // 256) * 256)
    return Block(1, mixer, dense_part, all_reduces=bool(mixer) + bool(dense_part))


def _layer(config: Config, layer: int) -> Block:
    attention, feed = _attention(config, layer), _feed(config, layer)
    if _is_longcat(config):
        return _doubled(attention, dense(config), feed)
    return Block(1, attention, feed, all_reduces=2 + bool(feed.dense_width and feed.experts))


def _is_longcat(config: Config) -> bool:
    return config.model_type.startswith("longcat_flash")


def _doubled(attention: Attention, wide: FeedForward, mixed: FeedForward) -> Block:
    """Return a layer of two attentions and two dense parts around one mixture.

    FlashDecoderLayer of LongCat.
    """
    feed = replace(both(wide, mixed), weights=(*wide.weights * 2, *mixed.weights))
    twice = replace(
        attention,
        weights=attention.weights * 2,
        kv_width=2 * attention.kv_width,
        decode_flops=2 * attention.decode_flops,
        prefill_flops=2 * attention.prefill_flops,
    )
    return Block(1, twice, feed, all_reduces=5)


def _attention(config: Config, layer: int) -> Attention:
    kind = _kind(config, layer)
    if config.find(("o_lora_rank",)):
        return compressed(config, _ratio(config, kind, layer))
    section = config.part("linear_attn_config")
    if section.listed("kda_layers"):
        is_linear = layer + 1 in section.listed("kda_layers")
        return kimi_delta(config) if is_linear else latent(config, indexed=False)
    if config.item("attn_type_list", layer) == 0:
        return lightning(config)
    if kind in _RECURRENT:
        return _recurrent(config, kind)
    if config.find(("kv_lora_rank",)):
        return latent(config, indexed=_owns_indexer(config, layer))
    attention = _softmax_of_kind(config, kind)
    sparse = config.part("sparse_attention_config")
    is_sparse = sparse.item("sparse_attention_freq", layer) == 1
    return block_sparse(config, attention) if is_sparse else attention


def _recurrent(config: Config, kind: str) -> Attention:
    """Return the linear attention that the config has sizes for."""
    if config.model_type == "minimax":
        return lightning(config)
    if config.section("linear_attn_config"):
        return kimi_delta(config)
    if kind == "mamba" or config.find(("mamba_num_heads", "mamba_n_heads")):
        return mamba(config)
    return delta_net(config)


def _ratio(config: Config, kind: str, layer: int) -> int:
    """Return how many tokens share a compressed entry; 0 where the layer has only a window."""
    ratio = config.item("compress_ratios", layer)
    if ratio is None:
        ratio = config.section("compress_rates").get(kind)
    return ratio if isinstance(ratio, int) else 0


def _owns_indexer(config: Config, layer: int) -> bool:
    """Say whether a layer picks the tokens it reads itself.

    GLM-5.2 lists these layers; others give a step and a first layer (DeepseekV2DecoderLayer:
    `index_topk_freq`, `index_skip_topk_offset`).
    """
    kind = config.item("indexer_types", layer)
    if kind is not None:
        return kind == "full"
    step = config.find(("index_topk_freq",), 1) or 1
    return max(layer - config.find(("index_skip_topk_offset",), 2) + 1, 0) % step == 0


def _kind(config: Config, layer: int) -> str:
    """Return the layer's kind in the words of `layer_types`, however config.json says it."""
    kind = config.item("layer_types", layer) or config.item("layers_block_type", layer)
    if kind is not None:
        return str(kind)
    interval = config.find(("full_attention_interval",))
    if interval:
        return "full_attention" if (layer + 1) % interval == 0 else "linear_attention"
    period = config.find(("attn_layer_period",))
    if period:
        is_full = layer % period == config.find(("attn_layer_offset",))
        return "full_attention" if is_full else "mamba"
    if config.listed("attn_layer_indices"):
        return "full_attention" if layer in config.listed("attn_layer_indices") else "mamba"
    pattern = config.item("hybrid_layer_pattern", layer)
    if pattern is not None:
        return "sliding_attention" if pattern else "full_attention"
    if config.find(("attention_chunk_size",)) and config.model_type == "llama4":
        without_rope = config.item("no_rope_layers", layer)
        is_full = without_rope == 0 if without_rope is not None else (layer + 1) % 4 == 0
        return "full_attention" if is_full else "chunked_attention"
    return "sliding_attention" if _slides(config, layer) else "full_attention"


def _slides(config: Config, layer: int) -> bool:
    """Say whether this layer has a window, where there is no `layer_types`."""
    if not config.find(("sliding_window",)):
        return False
    if not config.flag("use_sliding_window", not config.model_type.startswith("qwen")):
        return False
    pattern = config.find(("sliding_window_pattern",), _WINDOW_PATTERN.get(config.model_type, 0))
    if pattern:
        return (layer + 1) % pattern != 0
    return layer >= config.find(("max_window_layers",))


def _softmax_of_kind(config: Config, kind: str) -> Attention:
    """Return the softmax attention of a full or a windowed layer; their sizes may differ."""
    if kind in _WINDOWED:
        other = config.part("attention_other_setting")  # Step-3.5
        return softmax(
            config,
            heads=config.find(("swa_num_attention_heads",)) or other.find(HEADS),
            kv_heads=config.find(("swa_num_key_value_heads",)) or other.find(KV_HEADS),
            head_dim=config.find(("swa_head_dim",)) or other.find(("head_dim",)),
            value_dim=config.find(("swa_v_head_dim", "v_head_dim")),
            window=config.need("sliding window", ("sliding_window", "attention_chunk_size")),
        )
    if config.find(("global_head_dim",)):  # Gemma 4
        return softmax(
            config,
            kv_heads=config.find(("num_global_key_value_heads",)),
            head_dim=config.find(("global_head_dim",)),
            keys_are_values=config.flag("attention_k_eq_v"),
        )
    return softmax(config, value_dim=config.find(("v_head_dim",)))


def _feed(config: Config, layer: int) -> FeedForward:
    if not config.find(EXPERTS):
        return dense(config, _widened(config, layer))
    if config.flag("enable_moe_block"):  # Gemma 4: both in every layer
        return both(dense(config), moe(config))
    return moe(config) if _is_moe(config, layer) else dense(config)


def _widened(config: Config, layer: int) -> int:
    """Return twice the usual width for layers of Gemma 4 that share another's cache, else 0."""
    shared = config.find(("num_kv_shared_layers",))
    if not shared or not config.flag("use_double_wide_mlp"):
        return 0
    return 2 * dense_width(config) if layer >= layer_count(config) - shared else 0


def _is_moe(config: Config, layer: int) -> bool:
    kind = config.item("mlp_layer_types", layer)
    if kind is not None:
        return kind != "dense"
    frequency = config.item("moe_layer_freq", layer)
    if frequency is not None:
        return frequency == 1
    chosen = config.text(("moe_layers_enum",)) or config.listed("moe_layers")
    if chosen:
        named = chosen.split(",") if isinstance(chosen, str) else map(str, chosen)
        return str(layer) in (item.strip() for item in named)
    if layer in config.listed("mlp_only_layers"):
        return False
    start = config.find(("first_k_dense_replace", "moe_layer_start_index", "num_dense_layers"))
    step = config.find(("moe_layer_interval", "expert_layer_period", "moe_layer_freq"), 1) or 1
    sparse = config.find(("decoder_sparse_step", "interleave_moe_layer_step"), 1)
    offset = config.find(("expert_layer_offset",))
    return layer >= start and layer % step == offset and sparse > 0 and (layer + 1) % sparse == 0

"""The attention of one layer, for every kind that config.json can describe.

Each builder follows the module of vLLM 0.32.0 that it names, so that `pieces` is how that module
splits its weights. FLOPs count 2 for a multiplication with its addition.
"""

from dataclasses import replace

from ropeway.models.config import Config
from ropeway.models.shape import Attention, AttentionKind, Weight

HIDDEN = ("hidden_size", "n_embd", "d_model")
HEADS = ("num_attention_heads", "n_head", "n_heads")
KV_HEADS = (
    "num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num",
    "num_attention_groups",
)  # fmt: skip

_BIAS = ("attention_bias", "qkv_bias", "add_qkv_bias")
# Q, K and V have a bias though no key of config.json says so (Qwen2Attention in vLLM and others).
_QKV_BIAS = ("qwen", "chatglm", "qwen2", "qwen2_moe", "qwen2_vl", "qwen2_5_vl", "qwen2_5_omni")
# Encoders whose positions are learnt (BertEmbedding and RobertaEmbedding in vLLM).
LEARNT_POSITIONS = ("bert", "camembert", "roberta", "xlm-roberta", "xlm-roberta-xl")
# Those and others whose tokens see what comes after them: nothing is cached.
_ENCODERS = (*LEARNT_POSITIONS, "eurobert", "gte", "modernbert", "new", "nomic_bert")
# Every attention matrix has a bias (GPT2Attention and similar).
_ALL_BIAS = (
    "gpt2", "gpt_bigcode", "gpt_neox", "opt", "phi", "starcoder2", *LEARNT_POSITIONS,
)  # fmt: skip
# The output is gated: Q is twice as wide (Qwen3NextAttention), or a projection stands beside it.
_GATED = ("qwen3_next", "qwen3_5")
_GATED_BESIDE = ("afmoe",)
_NORMED_HEADS = ("qwen3", "gemma3", "gemma4", "hy_v3", "hunyuan", "olmo2", "olmoe", "step3p")


def is_encoder(config: Config) -> bool:
    """Return whether tokens see those after them, so that vLLM keeps no cache
    (AttentionType.ENCODER_ONLY): by family, by its name, or as config.json says."""
    both_ways = config.flag("use_bidirectional_attention") or not config.flag("is_causal", True)
    named = "Bidirectional" in str(config.outer.get("architectures"))
    return config.model_type in _ENCODERS or both_ways or named


def matrix(
    name: str, component: str, size: tuple[int, int], pieces: int = 1, *, bias: bool = False
) -> Weight:
    """Return a weight of `size` (out, in) that every token is multiplied with."""
    out, into = size
    # mypy cannot see that every caller writes a literal of Component.
    return Weight(name, component, out * into + out * bias, pieces, 2 * out * into)  # type: ignore[arg-type]


def norm(name: str, numbers: int, pieces: int = 1) -> Weight:
    """Return a vector of a norm, or other numbers that no matrix multiplication reads."""
    return Weight(name, "norm", numbers, pieces)


def softmax(
    config: Config,
    *,
    heads: int = 0,
    kv_heads: int = 0,
    head_dim: int = 0,
    value_dim: int = 0,
    window: int = 0,
    keys_are_values: bool = False,
) -> Attention:
    """Return softmax attention with KV heads (LlamaAttention, …, QKVParallelLinear).

    Arguments that are 0 are read from the config. `keys_are_values`: the layer has no V projection
    (Gemma 4), but caches both.
    """
    hidden = config.need("hidden size", HIDDEN)
    heads = heads or config.need("attention heads", HEADS)
    kv_heads = kv_heads or config.find(KV_HEADS) or heads
    if config.flag("multi_query") and not config.flag("new_decoder_architecture"):
        kv_heads = 1
    head_dim = head_dim or config.find(("head_dim",)) or hidden // heads
    value_dim = value_dim or head_dim
    every = config.model_type in _ALL_BIAS
    bias = every or config.model_type in _QKV_BIAS or any(map(config.flag, _BIAS))
    always = config.model_type.startswith(_GATED)
    gates = 2 if config.flag("attn_output_gate", always) else 1
    weights = [
        matrix("q_proj", "attention", (gates * heads * head_dim, hidden), heads, bias=bias),
        matrix("k_proj", "attention", (kv_heads * head_dim, hidden), kv_heads, bias=bias),
        matrix("o_proj", "attention", (hidden, heads * value_dim), heads, bias=every),
    ]
    if not keys_are_values:
        values = (kv_heads * value_dim, hidden)
        weights.append(matrix("v_proj", "attention", values, kv_heads, bias=bias))
    if config.flag("use_head_wise_attn_gate", config.model_type.startswith("step3p")):
        weights.append(matrix("g_proj", "attention", (heads, hidden), heads))
    if config.model_type.startswith(_GATED_BESIDE):
        weights.append(matrix("gate_proj", "attention", (heads * head_dim, hidden), heads))
    weights += _small_weights(config, heads, kv_heads, head_dim)
    flops = 2.0 * heads * (head_dim + value_dim)
    return Attention(
        kind="window" if window else "full",
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        weights=tuple(weights),
        kv_width=0 if is_encoder(config) else kv_heads * (head_dim + value_dim),
        kv_pieces=kv_heads,
        window=window,
        decode_flops=flops,
        prefill_flops=flops,
    )


def latent(config: Config, *, indexed: bool) -> Attention:
    """Return MLA (MultiHeadLatentAttentionWrapper): one latent per token for all heads.

    When generating, heads work on the latent itself (kv_b_proj is absorbed into query and output);
    over a prompt the latent is unpacked. `indexed`: the layer has the indexer of DeepSeek-V3.2,
    which picks the `index_topk` tokens that are read.
    """
    hidden = config.need("hidden size", HIDDEN)
    heads = config.need("attention heads", HEADS)
    rank = config.need("rank of the KV latent", ("kv_lora_rank",))
    plain = config.need("width of a query without position", ("qk_nope_head_dim",))
    rotary = config.find(("qk_rope_head_dim",))
    value = config.need("width of a value", ("v_head_dim",))
    query_rank = config.find(("q_lora_rank",))
    query = (heads * (plain + rotary), query_rank or hidden)
    weights = [
        matrix("q_b_proj" if query_rank else "q_proj", "attention", query, heads),
        matrix("kv_a_proj_with_mqa", "attention", (rank + rotary, hidden)),
        matrix("kv_b_proj", "attention", (heads * (plain + value), rank), heads),
        matrix("o_proj", "attention", (hidden, heads * value), heads),
        norm("norms", hidden + rank + query_rank),
    ]
    if query_rank:
        weights.append(matrix("q_a_proj", "attention", (query_rank, hidden)))
    if config.flag("mla_use_output_gate"):
        weights.append(matrix("g_proj", "attention", (heads * value, hidden), heads))
    attention = Attention(
        kind="latent",
        heads=heads,
        kv_heads=config.find(KV_HEADS) or heads,
        head_dim=plain + rotary,
        weights=tuple(weights),
        kv_width=rank + rotary,
        decode_flops=2.0 * heads * (2 * rank + rotary),
        prefill_flops=2.0 * heads * (plain + rotary + value),
    )
    limit = config.find(("index_topk",))
    if not limit:
        return attention
    if indexed:
        return _indexed(config, attention, query_rank or hidden)
    # A layer without an indexer reads the tokens that the one before it has picked (GLM-5.2).
    return replace(attention, read_limit=limit)


def compressed(config: Config, ratio: int) -> Attention:
    """Return the attention of DeepSeek-V4 (vllm/models/deepseek_v4/attention.py, compressor.py).

    One latent of `head_dim` numbers is key and value for all heads: of each of the last
    `sliding_window` tokens, and one more for every `ratio` tokens of the whole context (`ratio` 0:
    none). At ratio 4 an indexer picks `index_topk` of those.
    """
    hidden = config.need("hidden size", HIDDEN)
    heads = config.need("attention heads", HEADS)
    head_dim = config.need("width of a head", ("head_dim",))
    query_rank = config.need("rank of the query", ("q_lora_rank",))
    out_rank = config.need("rank of the output", ("o_lora_rank",))
    groups = config.need("groups of the output", ("o_groups",))
    window = config.need("sliding window", ("sliding_window",))
    weights = [
        matrix("wq_a", "attention", (query_rank, hidden)),
        matrix("wkv", "attention", (head_dim, hidden)),
        matrix("wq_b", "attention", (heads * head_dim, query_rank), heads),
        matrix("wo_a", "attention", (groups * out_rank, heads * head_dim // groups), groups),
        matrix("wo_b", "attention", (hidden, groups * out_rank), groups),
        norm("norms", hidden + query_rank + head_dim + heads),
    ]
    flops = 4.0 * heads * head_dim  # per token attended to
    if ratio <= 1:
        return Attention(
            "window", heads, 1, head_dim, tuple(weights), kv_width=head_dim, window=window,
            decode_flops=flops, prefill_flops=flops,
        )  # fmt: skip
    weights.append(_compressor("compressor", hidden, head_dim, ratio))
    attention = Attention(
        "compressed", heads, 1, head_dim, tuple(weights), kv_width=head_dim / ratio, window=window,
        window_width=head_dim, decode_flops=flops / ratio, prefill_flops=flops / ratio,
    )  # fmt: skip
    return _indexed(config, attention, query_rank, ratio) if ratio == _INDEXED_RATIO else attention


# "Only C4A uses sparse attention and hence has indexer": DeepseekV4Attention.
_INDEXED_RATIO = 4


def delta_net(config: Config) -> Attention:
    """Return a gated delta net (GatedDeltaNetAttention of Qwen3-Next and Qwen3.5)."""
    hidden = config.need("hidden size", HIDDEN)
    key_heads = config.need("key heads of linear attention", ("linear_num_key_heads",))
    heads = config.need("value heads of linear attention", ("linear_num_value_heads",))
    key_dim = config.need("key width of linear attention", ("linear_key_head_dim",))
    value_dim = config.need("value width of linear attention", ("linear_value_head_dim",))
    kernel = config.find(("linear_conv_kernel_dim",), 4)
    keys, values = key_heads * key_dim, heads * value_dim
    weights = (
        matrix("in_proj_qkvz", "attention", (2 * keys + 2 * values, hidden), key_heads),
        matrix("in_proj_ba", "attention", (2 * heads, hidden), heads),
        norm("conv1d", (2 * keys + values) * kernel, key_heads),
        norm("decay", 2 * heads, heads),
        matrix("out_proj", "attention", (hidden, values), heads),
        norm("norms", hidden + value_dim),
    )
    state = heads * key_dim * value_dim
    width = (kernel - 1) * (2 * keys + values)
    return _recurrent(config, "linear", (heads, key_heads, key_dim), weights, (width, state))


def kimi_delta(config: Config) -> Attention:
    """Return Kimi delta attention (vllm/models/kimi_k3/nvidia/kda.py)."""
    hidden = config.need("hidden size", HIDDEN)
    section = config.part("linear_attn_config")
    heads = section.need("heads of linear attention", ("num_heads",))
    head_dim = section.need("head width of linear attention", ("head_dim",))
    kernel = section.find(("short_conv_kernel_size",), 4)
    width = heads * head_dim
    weights = [
        matrix("qkv_proj", "attention", (3 * width, hidden), heads),
        matrix("f_a_proj", "attention", (head_dim, hidden)),
        matrix("f_b_proj", "attention", (width, head_dim), heads),
        matrix("b_proj", "attention", (heads, hidden), heads),
        norm("conv1d", 3 * width * kernel, heads),
        norm("decay", width + heads, heads),
        matrix("o_proj", "attention", (hidden, width), heads),
        norm("norms", hidden + head_dim),
    ]
    if section.flag("use_full_rank_gate"):
        weights.append(matrix("g_proj", "attention", (width, hidden), heads))
    else:
        weights.append(matrix("g_a_proj", "attention", (head_dim, hidden)))
        weights.append(matrix("g_b_proj", "attention", (width, head_dim), heads))
    sizes = ((kernel - 1) * 3 * width, width * head_dim)
    # KDA keeps its state in float32 unless configured otherwise (MambaStateDtypeCalculator).
    return _recurrent(
        config, "linear", (heads, heads, head_dim), tuple(weights), sizes, state_bits=32
    )


def lightning(config: Config) -> Attention:
    """Return lightning attention (MiniMax-Text-01): linear, with a square state per head."""
    hidden = config.need("hidden size", HIDDEN)
    heads = config.need("attention heads", HEADS)
    head_dim = config.find(("head_dim",)) or hidden // heads
    width = heads * head_dim
    weights = (
        matrix("qkv_proj", "attention", (3 * width, hidden), heads),
        matrix("output_gate", "attention", (width, hidden), heads),
        matrix("out_proj", "attention", (hidden, width), heads),
        norm("norms", hidden + width),
    )
    sizes = (0, width * head_dim)
    return _recurrent(config, "linear", (heads, heads, head_dim), weights, sizes, state_bits=32)


def mamba(config: Config) -> Attention:
    """Return Mamba-2 (MambaMixer2)."""
    hidden = config.need("hidden size", HIDDEN)
    heads = config.need("Mamba heads", ("mamba_num_heads", "mamba_n_heads"))
    head_dim = config.need("Mamba head width", ("mamba_head_dim", "mamba_d_head"))
    state = config.need("Mamba state size", ("ssm_state_size", "mamba_d_state"))
    groups = config.find(("n_groups", "mamba_n_groups"), 1)  # of states that heads share
    kernel = config.find(("conv_kernel", "mamba_d_conv"), 4)
    width = heads * head_dim
    mixed = width + 2 * groups * state
    weights = (
        matrix("in_proj", "attention", (width + mixed + heads, hidden), heads),
        norm("conv1d", mixed * (kernel + 1), heads),
        norm("decay", 3 * heads, heads),
        matrix("out_proj", "attention", (hidden, width), heads),
        norm("norms", hidden + width),
    )
    sizes = ((kernel - 1) * mixed, width * state)
    return _recurrent(config, "mamba", (heads, groups, head_dim), weights, sizes)


def _small_weights(config: Config, heads: int, kv_heads: int, head_dim: int) -> list[Weight]:
    """Return norms and sinks, the layer's input norm among them."""
    weights = [norm("input_norm", config.need("hidden size", HIDDEN))]
    if config.text(("qk_norm_type",)) == "per_layer":
        weights.append(norm("qk_norm", (heads + kv_heads) * head_dim, kv_heads))
    elif config.model_type.startswith(_NORMED_HEADS) or any(
        config.flag(name) for name in ("use_qk_norm", "qk_norm")
    ):
        weights.append(norm("qk_norm", 2 * head_dim))
    if config.model_type == "gpt_oss":
        weights.append(norm("sinks", heads, heads))
    return weights


def _indexed(config: Config, attention: Attention, query_rank: int, ratio: int = 1) -> Attention:
    """Add the indexer of DeepSeek-V3.2 (`Indexer` in deepseek_v2.py); each rank holds all of it."""
    hidden = config.need("hidden size", HIDDEN)
    heads = config.need("heads of the indexer", ("index_n_heads",))
    width = config.need("head width of the indexer", ("index_head_dim",))
    weights = [
        matrix("indexer.wq_b", "attention", (heads * width, query_rank)),
        matrix("indexer.weights_proj", "attention", (heads, hidden)),
    ]
    if ratio == 1:
        weights.append(matrix("indexer.wk", "attention", (width, hidden)))
        weights.append(norm("indexer.k_norm", 2 * width))
    else:
        weights.append(_compressor("indexer.compressor", hidden, width, ratio))
    return replace(
        attention,
        weights=(*attention.weights, *weights),
        read_limit=config.need("tokens the indexer picks", ("index_topk",)) * ratio,
        index_width=width / ratio,
        index_flops=2.0 * heads * width / ratio,
    )


def block_sparse(config: Config, attention: Attention) -> Attention:
    """Add the block index of MiniMax-M3 (vllm/models/minimax_m3/common/indexer.py)."""
    section = config.part("sparse_attention_config")
    hidden = config.need("hidden size", HIDDEN)
    heads = section.need("heads of the block index", ("sparse_num_index_heads",))
    width = section.need("width of the block index", ("sparse_index_dim",))
    blocks = section.need("blocks that are read", ("sparse_topk_blocks",))
    size = section.need("tokens of a block", ("sparse_block_size",))
    weights = (
        matrix("index_q_proj", "attention", (heads * width, hidden), attention.kv_heads),
        matrix("index_k_proj", "attention", (width, hidden)),
        norm("index_norm", 2 * width),
    )
    return replace(
        attention,
        weights=(*attention.weights, *weights),
        read_limit=blocks * size,
        index_width=width,
        index_flops=2.0 * heads * width,
    )


def _compressor(name: str, hidden: int, width: int, ratio: int) -> Weight:
    """Return a DeepseekCompressor: at ratio 4 it overlaps and is twice as wide; kept in 16 bits."""
    wide = width * (2 if ratio == _INDEXED_RATIO else 1)
    numbers = 2 * wide * hidden + ratio * wide + width
    return Weight(name, "attention", numbers, 1, 4 * wide * hidden, bits=16)


def _recurrent(
    config: Config,
    kind: AttentionKind,
    sizes: tuple[int, int, int],
    weights: tuple[Weight, ...],
    state: tuple[int, int],
    *,
    state_bits: int = 16,
) -> Attention:
    """Return attention with a recurrent state.

    `sizes`: heads, key heads, head width. `state`: numbers in the state of the convolution, and in
    the recurrent state, which has the model's dtype in vLLM unless config.json names another.
    """
    dtype = config.text(("mamba_ssm_cache_dtype", "mamba_ssm_dtype"))
    bits = 32 if dtype.endswith("float32") else state_bits
    conv, own = state
    heads, key_heads, head_dim = sizes
    return Attention(
        kind, heads, key_heads, head_dim, weights,
        state_bytes=2 * conv + bits // 8 * own,
        # Decay, outer product with the update, reading: 2 FLOPs each for every number.
        state_flops=6 * own,
    )  # fmt: skip

"""From config.json to a ModelShape, and from that to parameter counts."""

from collections.abc import Iterable, Iterator, Mapping

from ropeway.errors import ModelError
from ropeway.models.attention import HIDDEN, LEARNT_POSITIONS, is_encoder, matrix, norm
from ropeway.models.config import IN_OVERRIDES, NESTED, Config, with_made_part
from ropeway.models.encoders import read_encoders
from ropeway.models.layers import all_layers, mtp_layers, unknown_kinds
from ropeway.models.positions import NOTHING, overridden, positions, stored_positions
from ropeway.models.quantisation import is_unread, stored_precision
from ropeway.models.shape import (
    Block,
    ModelShape,
    Parameters,
    Precision,
    Weight,
    as_runs,
    numbers,
    numbers_of_blocks,
)
from ropeway.models.task import as_loaded, label_count
from ropeway.phrases import phrase

_VOCAB = ("vocab_size", "padded_vocab_size")
_DTYPE = ("dtype", "torch_dtype")

# The checkpoints of these hold a copy of embedding and head with each MTP layer
# (DeepSeekMultiTokenPredictorLayer and SharedHead in vLLM's deepseek_mtp.py, glm4_moe_mtp.py).
_MTP_WITH_COPIES = ("deepseek_v3", "deepseek_v32", "glm4_moe", "glm_moe_dsa")

# `tie_word_embeddings` is left out where it is the default; these families' default is true.
_TIED = ("gemma", "gemma2", "gemma3", "gemma4", "gpt2", "opt", "bloom", "falcon", "starcoder2")

# `model_type` of families whose layers were compared with vLLM's; others go by the usual rules.
_COMPARED = (
    "bert", "codellama", "deepseek", "ernie4_5", "exaone", "falcon", "gemma", "glm", "gpt2",
    "gpt_bigcode", "gpt_neox", "gpt_oss", "gptj", "granite", "hy_v3", "kimi", "llama", "longcat",
    "mimo", "minimax", "mistral", "mixtral", "mpt", "nemotron", "olmo", "phi", "qwen", "roberta",
    "seed_oss", "smollm", "solar", "stablelm", "starcoder2", "step3p", "xlm-roberta", "yi",
)  # fmt: skip


def read_shape(
    config: Mapping[str, object],
    where: str = "config.json",
    overrides: Mapping[str, object] = NOTHING,
) -> ModelShape:
    """Read the shape out of a parsed config.json; `weight_bytes` stays 0.

    `overrides` are those of vLLM's `--hf-overrides`. Raises ModelError when a number that this kind
    of model needs is missing or not a whole number.
    """
    config = with_made_part(config)
    _check_parts(config, overrides)
    config = overridden(config, overrides)
    reader = Config(config, where, overrides)
    layers = all_layers(reader)
    hidden = reader.need("hidden size", HIDDEN)
    vocab = reader.need("vocabulary size", _VOCAB)
    tied = _is_tied(reader)
    predictors = mtp_layers(reader, layers[-1])
    dtype = reader.text(_DTYPE).removeprefix("torch.")
    precision = stored_precision(config, dtype)
    names = config.get("architectures")
    longest, longest_before = positions(reader)
    shape = ModelShape(
        architecture=str(names[0]) if isinstance(names, list) and names else "",
        model_type=str(config.get("model_type") or ""),
        hidden_size=hidden,
        vocab_size=vocab,
        blocks=as_runs(layers),
        outer=_outer(reader, hidden, vocab, tied),
        tied_embeddings=tied,
        dtype=dtype,
        max_positions=longest,
        earlier_positions=longest_before,
        precision=precision,
        mtp=as_runs(predictors),
        mtp_outer=_mtp_outer(reader, sum(block.count for block in predictors), (hidden, vocab)),
        streams=reader.find(("hc_mult",), 1),
        encoders=read_encoders(reader),
        labels=label_count(config),
        assumed=_assumed(reader, precision),
    )
    return as_loaded(shape)


def _check_parts(config: Mapping[str, object], overrides: Mapping[str, object]) -> None:
    """Raise ModelError for overrides of a part that neither config.json nor its class has: vLLM
    takes the new part for the whole language model, and fails (get_hf_text_config)."""
    for name in NESTED:
        if isinstance(overrides.get(name), Mapping) and not isinstance(config.get(name), Mapping):
            raise ModelError(
                phrase(
                    "`hf-overrides` changes `{part}`, and the model's config.json has no such part",
                    part=name,
                ),
                where=IN_OVERRIDES,
                hint="write what is in it at the top: `hf-overrides: {max_position_embeddings: …}`",
            )


def count(shape: ModelShape) -> Parameters:
    """Count parameters by every convention in use: sums over the weights of `shape`."""
    layers = numbers_of_blocks(shape.blocks)
    outer = numbers(shape.outer)
    idle = sum(
        block.count * (feed.experts - feed.experts_per_token) * feed.expert_numbers
        for block in shape.blocks
        if (feed := block.feed)
    )
    encoders = [encoder.numbers for encoder in shape.encoders]
    known = [item for item in encoders if item is not None]
    return Parameters(
        language=layers + outer,
        active=layers + outer - idle,
        embedding=numbers(item for item in shape.outer if item.component == "embedding"),
        head=numbers(item for item in shape.outer if item.component == "head"),
        mtp=numbers_of_blocks(shape.mtp) + numbers(shape.mtp_outer),
        vision=sum(known) if len(known) == len(encoders) else None,
    )


def counted_bytes(shape: ModelShape) -> float:
    """Return the bytes of the language model's weights in the precision they are stored in."""
    return stored_bytes(shape.precision, shape.blocks, shape.outer)


def stored_bytes(
    precision: Precision, blocks: Iterable[Block], outer: Iterable[Weight] = ()
) -> float:
    """Return the bytes of layers, and of weights outside them, in a precision."""
    weights = [(block.count, weight) for block in blocks for weight in block.weights]
    weights += [(1, weight) for weight in outer]
    return sum(count * weight.numbers * precision.bits(weight) for count, weight in weights) / 8


def kv_bytes_per_token(shape: ModelShape, dtype_bytes: float) -> float:
    """Return the bytes of cache that one token takes over all layers, before any parallel split.

    Windows are not subtracted: this is the cost of a token while every layer still keeps it.
    """
    return dtype_bytes * sum(
        block.count * (item.kv_width + item.window_width + item.index_width)
        for block in shape.blocks
        if (item := block.attention)
    )


def state_bytes(shape: ModelShape) -> int:
    """Return the bytes of recurrent state of one sequence in all layers; 0 without such layers."""
    return sum(
        block.count * item.state_bytes for block in shape.blocks if (item := block.attention)
    )


def _is_tied(config: Config) -> bool:
    """Say whether head and table are tied; a nested part often repeats its class's default."""
    for level in (config.outer, config.inner):
        if level.get("tie_word_embeddings") is not None:
            return level["tie_word_embeddings"] is True
    return config.model_type in _TIED


def _outer(config: Config, hidden: int, vocab: int, tied: bool) -> tuple[Weight, ...]:
    """Return the weights outside the layers.

    The vocabulary's tables are cut over tensor ranks after padding (VocabParallelEmbedding).
    """
    head = matrix("lm_head", "head", (vocab, hidden), vocab)
    table = Weight("embed_tokens", "embedding", vocab * hidden, vocab)
    weights = [table, norm("final_norm", hidden)]
    narrow = config.find(("hidden_size_per_layer_input",))
    if narrow:  # Gemma 3n and 4: a table of its own for every layer
        layers = config.need("layers", ("num_hidden_layers",))
        rows = config.find(("vocab_size_per_layer_input",)) or vocab
        size = rows * narrow * layers
        weights.append(Weight("embed_tokens_per_layer", "embedding", size, rows))
        weights.append(matrix("per_layer_projections", "dense", (3 * narrow * layers, hidden)))
    weights += _other_tables(config, hidden)
    # A tied head has no numbers of its own but still multiplies.
    weights.append(Weight("lm_head", "head", 0, vocab, head.flops) if tied else head)
    return tuple(weights)


def _other_tables(config: Config, hidden: int) -> Iterator[Weight]:
    """Yield the tables of positions and of kinds of texts, and what an encoder ends in."""
    kind = config.model_type
    rows = config.find(("n_positions",)) if kind in ("gpt2", "gpt_bigcode") else 0
    if kind in LEARNT_POSITIONS and config.text(("position_embedding_type",)) in ("", "absolute"):
        rows = stored_positions(config)
    if rows:
        yield Weight("wpe", "embedding", rows * hidden)
    if is_encoder(config) and (kinds := config.find(("type_vocab_size",))):
        yield Weight("token_types", "embedding", kinds * hidden)
    if kind in LEARNT_POSITIONS:
        yield norm("pooler", hidden * (hidden + 1))  # a matrix, but of one row for each text


def _mtp_outer(config: Config, layers: int, sizes: tuple[int, int]) -> tuple[Weight, ...]:
    """Return the weights outside MTP layers: `eh_proj`, two norms, and copies in some checkpoints.

    `eh_proj` joins hidden state and embedding.
    """
    hidden, vocab = sizes
    if not layers:
        return ()
    weights = [
        matrix("eh_proj", "attention", (layers * hidden, 2 * hidden)),
        norm("mtp_norms", 3 * layers * hidden),
    ]
    if config.model_type in _MTP_WITH_COPIES:
        weights.append(Weight("mtp_embed_tokens", "embedding", layers * vocab * hidden, vocab))
        weights.append(matrix("mtp_head", "head", (layers * vocab, hidden), vocab))
    return tuple(weights)


def _assumed(config: Config, precision: Precision) -> tuple[str, ...]:
    notes: list[str] = []
    if not config.model_type.startswith(_COMPARED):
        family = config.model_type or "no `model_type`"
        notes.append(
            phrase("`{family}` is not a known model family: the usual rules apply", family=family)
        )
    for kind in unknown_kinds(config):
        notes.append(
            phrase("layers of kind `{kind}` are not known: counted as full attention", kind=kind)
        )
    if config.find(("zero_expert_num",)):
        notes.append("experts per token are a mean: the router may also choose idle experts")
    if precision.scheme == "unknown" or is_unread(precision):
        notes.append("`quantization_config` is of an unknown kind: bits are taken from the dtype")
    return tuple(notes)

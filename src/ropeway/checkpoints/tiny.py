"""A tiny Qwen3-MoE with random weights, for tests that need the engine but no sensible text.

The sizes suit the engine's CPU kernels: hidden size and each rank's share of an expert are
multiples of 32 up to tensor parallel 4. The weights of a layer have deviation 1/sqrt(inputs), and
embedding and output head are untied, so that an answer depends on every head, layer and expert.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ropeway.checkpoints.manifest import WEIGHTS
from ropeway.checkpoints.tensors import Tensor, to_bfloat16, uniform, write_weights
from ropeway.checkpoints.texts import CONFIG, TOKENIZER, copy_tokenizer, read_json, write_json

_CONFIG = read_json(Path(__file__).with_name("tiny.json"))
LAYERS: int = _CONFIG["num_hidden_layers"]
HIDDEN: int = _CONFIG["hidden_size"]
HEADS: int = _CONFIG["num_attention_heads"]
KV_HEADS: int = _CONFIG["num_key_value_heads"]
HEAD_DIM: int = _CONFIG["head_dim"]
EXPERTS: int = _CONFIG["num_experts"]
EXPERT_SIZE: int = _CONFIG["moe_intermediate_size"]
VOCABULARY: int = _CONFIG["vocab_size"]
_NORM_DEVIATION = 0.1
# Spreads the logits, so that the best token leads by more than rounding.
_HEAD_GAIN = 3


def build(source: Path, into: Path) -> str:
    """Make the checkpoint with the tokenizer of `smollm2`; return the sha256 of the weights."""
    copy_tokenizer(source, into)
    write_json(into / TOKENIZER, _shortened(read_json(source / TOKENIZER)))
    write_json(into / CONFIG, _CONFIG)
    return write_weights(into / WEIGHTS, _tensors())


def _shortened(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """Keep the first `VOCABULARY` tokens.

    Byte pairs are numbered as they are learnt, so any prefix of the vocabulary, with its merges, is
    a tokenizer too.
    """
    model = tokenizer["model"]
    vocabulary = {token: number for token, number in model["vocab"].items() if number < VOCABULARY}
    merges = [pair for pair in model["merges"] if pair.replace(" ", "") in vocabulary]
    return {**tokenizer, "model": {**model, "vocab": vocabulary, "merges": merges}}


def _tensors() -> Iterator[Tensor]:
    yield _random("model.embed_tokens", (VOCABULARY, HIDDEN), 1)
    yield _random("lm_head", (VOCABULARY, HIDDEN), _HEAD_GAIN * HIDDEN**-0.5)
    yield _random("model.norm", (HIDDEN,), _NORM_DEVIATION, 1)
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        for norm, size in _NORMS.items():
            yield _random(f"{prefix}.{norm}", (size,), _NORM_DEVIATION, 1)
        for name, shape in _MATRICES.items():
            yield _random(f"{prefix}.{name}", shape, shape[1] ** -0.5)
        for expert in range(EXPERTS):
            for name, shape in _EXPERT_MATRICES.items():
                yield _random(f"{prefix}.mlp.experts.{expert}.{name}", shape, shape[1] ** -0.5)


_NORMS = {
    "input_layernorm": HIDDEN,
    "post_attention_layernorm": HIDDEN,
    "self_attn.q_norm": HEAD_DIM,
    "self_attn.k_norm": HEAD_DIM,
}
_MATRICES = {
    "self_attn.q_proj": (HEADS * HEAD_DIM, HIDDEN),
    "self_attn.k_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
    "self_attn.v_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HEADS * HEAD_DIM),
    "mlp.gate": (EXPERTS, HIDDEN),
}
_EXPERT_MATRICES = {
    "gate_proj": (EXPERT_SIZE, HIDDEN),
    "up_proj": (EXPERT_SIZE, HIDDEN),
    "down_proj": (HIDDEN, EXPERT_SIZE),
}


def _random(name: str, shape: tuple[int, ...], deviation: float, mean: float = 0) -> Tensor:
    """Return a tensor whose numbers are determined by its name."""
    full = f"{name}.weight"
    return Tensor(full, shape, lambda: to_bfloat16(uniform(full, shape, deviation, mean)))

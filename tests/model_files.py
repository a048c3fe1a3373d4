"""Configs of models and files of weights, for the tests of all who read them."""

import csv
import json
from pathlib import Path
from typing import Any

CONFIGS = Path(__file__).parent / "model_configs"
# One row a config: what its makers publish of it, and what it comes to.
INDEX = list(csv.DictReader(CONFIGS.with_suffix(".tsv").read_text().splitlines(), delimiter="\t"))

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "torch_dtype": "bfloat16",
    "vocab_size": 128256,
}  # Llama-3.1-8B
SMALL_LLAMA = LLAMA | {
    "hidden_size": 64,
    "intermediate_size": 128,
    "max_position_embeddings": 512,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "vocab_size": 256,
}
# SmolLM2-135M, its heads padded so that four ranks can share them, and the demo's mixture.
SMOLLM2 = LLAMA | {
    "hidden_size": 576,
    "head_dim": 64,
    "intermediate_size": 1536,
    "max_position_embeddings": 8192,
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
}
PADDED = SMOLLM2 | {"num_attention_heads": 12, "num_key_value_heads": 4}
MOE = PADDED | {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
}


def config_of(name: str) -> dict[str, Any]:
    """Return the stored `config.json` of a model by the name of its file, without `.json`."""
    config: dict[str, Any] = json.loads((CONFIGS / f"{name}.json").read_text())
    return config


def weight_file(header: object, data: int) -> bytes:
    """Return a safetensors file with this header and as many zeros as its data."""
    text = json.dumps(header, separators=(",", ":")).encode()
    return len(text).to_bytes(8, "little") + text + bytes(data)


def write_weights(path: Path, tensors: dict[str, tuple[str, list[int], int]]) -> int:
    """Write a safetensors file of tensors: dtype, shape and bytes of each. Return its size."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape, size) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    return path.write_bytes(weight_file(header, end))

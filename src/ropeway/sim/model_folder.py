"""The directory of a model that is not there: what a host with all of it would hold."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ropeway.models.build import counted_bytes, read_shape
from ropeway.models.known import entry_of, known, published_name
from ropeway.models.read import read_alone
from ropeway.models.shape import ModelShape
from ropeway.models.weights import read_json_object
from ropeway.outside import is_folder

_SHARD_BYTES = 4e9  # of the largest, as `save_pretrained` splits
_MODELSLIM = re.compile(r"w\d+a\d+")  # schemes of files that are made for NPUs


@dataclass(frozen=True)
class ModelFolder:
    """A model's directory, whole.

    published  the name under which its config.json is known; empty where the user gave it
    config     the text of its config.json
    files      file name → bytes
    kind       what quant_model_description.json calls the weights; None without that file
    scheme     of weights that are other ones than those published; empty for the same
    """

    path: str
    published: str
    config: str
    files: Mapping[str, int]
    kind: str | None = None
    scheme: str = ""

    @property
    def shards(self) -> tuple[str, ...]:
        return tuple(name for name in self.files if name.endswith(".safetensors"))


def published(name: str, path: str) -> ModelFolder:
    """Return a model of the catalogue, named in any usual spelling, as if it lay at `path`.

    Its bytes are those that its config.json implies, in shards of one size. Raises ModelError for a
    model that is not known.
    """
    key = published_name(name)
    return _folder(path, key, dict(entry_of(key).config), known(name))


def described(file: Path, path: str) -> ModelFolder:
    """Return a model that only its config.json tells of, as if it lay at `path`."""
    config = file / "config.json" if is_folder(file) else file
    return _folder(path, "", dict(read_json_object(config)), read_alone(file, path))


def _folder(path: str, key: str, config: dict[str, object], shape: ModelShape) -> ModelFolder:
    scheme, kind = shape.precision.scheme, None
    own = read_shape(config, where=key).precision.scheme
    if scheme != own:  # the name says how it is stored
        kind = scheme.upper() if _MODELSLIM.match(scheme) else None
        config.pop("quantization_config", None)
        if kind is None and scheme not in ("bf16", "fp16", "fp32"):
            config["quantization_config"] = {"quant_method": scheme}
    size = counted_bytes(shape) + sum(2.0 * (encoder.numbers or 0) for encoder in shape.encoders)
    count = math.ceil(size / _SHARD_BYTES)
    text = json.dumps(config, indent=2)
    files = {
        "config.json": len(text),
        "generation_config.json": 239,
        "tokenizer.json": 11422654,
        "tokenizer_config.json": 9706,
        "model.safetensors.index.json": 1183,
        **({"quant_model_description.json": 2_000_000} if kind else {}),
    }
    for number in range(1, count + 1):
        files[f"model-{number:05d}-of-{count:05d}.safetensors"] = math.ceil(size / count)
    return ModelFolder(path, key, text, files, kind, scheme if scheme != own else "")

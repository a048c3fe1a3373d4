"""Reads a model directory into a ModelShape."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ropeway.errors import ModelError
from ropeway.models.build import read_shape
from ropeway.models.known import as_named
from ropeway.models.positions import NOTHING
from ropeway.models.quantisation import described_precision, marked_precision
from ropeway.models.shape import ModelShape, Precision
from ropeway.models.task import as_loaded, sees_pooling
from ropeway.models.weights import find_weight_files, read_header, read_json_object
from ropeway.outside import is_folder, is_there

# ModelSlim, the quantiser for NPUs, writes this beside the weights instead of a config key.
_DESCRIPTION = "quant_model_description.json"
# ModelOpt's own file, where config.json has no `quantization_config`.
_MODELOPT = "hf_quant_config.json"


def read_model(path: Path, overrides: Mapping[str, object] = NOTHING) -> ModelShape:
    """Read a model directory: config.json, changed by `overrides`, and each weight file's header.

    Raises ModelError when the directory, config.json, or a weight file is missing or broken.
    """
    shape = read_directory_shape(path, overrides)
    files = find_weight_files(path)
    total = sum(entry.end - entry.begin for file in files for entry in read_header(file).values())
    return replace(shape, weight_bytes=total, weight_files=files)


def read_directory_shape(path: Path, overrides: Mapping[str, object] = NOTHING) -> ModelShape:
    """Read a model directory's config.json alone; weight files need not exist.

    Raises ModelError when the directory or config.json is missing or broken.
    """
    if not is_there(path):
        raise ModelError("the model directory does not exist", where=str(path))
    if not is_folder(path):
        raise ModelError(
            "this is a file, not a model directory",
            where=str(path),
            hint="give the directory that holds `config.json` and the safetensors files",
        )
    config = path / "config.json"
    if not is_there(config):
        raise ModelError(
            "the model directory has no `config.json`",
            where=str(path),
            hint="check the path; the right directory contains `config.json`",
        )
    shape = read_shape(read_json_object(config), str(config), overrides)
    shape = replace(shape, precision=_precision_beside(path, shape.precision))
    return as_loaded(shape, pools=sees_pooling(one.name for one in path.iterdir()))


def read_alone(config: Path, name: str, overrides: Mapping[str, object] = NOTHING) -> ModelShape:
    """Read a config.json, or the folder that holds it, for the model called `name`."""
    if is_folder(config):
        return as_named(read_directory_shape(config, overrides), name, unmarked=True)
    shape = read_shape(read_json_object(config), str(config), overrides)
    return as_named(shape, name, unmarked=True)


def _precision_beside(path: Path, stored: Precision) -> Precision:
    description, modelopt = path / _DESCRIPTION, path / _MODELOPT
    if is_there(description):
        return described_precision(read_json_object(description), stored)
    if is_there(modelopt) and stored.scheme in ("bf16", "fp16"):
        marks = read_json_object(modelopt).get("quantization")
        return marked_precision(marks, stored) if isinstance(marks, Mapping) else stored
    return stored

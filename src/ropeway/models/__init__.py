"""A model as numbers: what its layers are, what they weigh, what they keep of a token."""

from ropeway.models.build import (
    count,
    counted_bytes,
    kv_bytes_per_token,
    read_shape,
    state_bytes,
)
from ropeway.models.quantisation import kv_bits_named, precision_named
from ropeway.models.read import read_directory_shape, read_model
from ropeway.models.shape import (
    COMPONENTS,
    Attention,
    Block,
    Component,
    Encoder,
    FeedForward,
    ModelShape,
    Parameters,
    Precision,
    Weight,
    numbers,
    numbers_of_blocks,
)
from ropeway.models.weights import TensorEntry, find_weight_files, read_header, read_json_object

__all__ = [
    "COMPONENTS",
    "Attention",
    "Block",
    "Component",
    "Encoder",
    "FeedForward",
    "ModelShape",
    "Parameters",
    "Precision",
    "TensorEntry",
    "Weight",
    "count",
    "counted_bytes",
    "find_weight_files",
    "kv_bits_named",
    "kv_bytes_per_token",
    "numbers",
    "numbers_of_blocks",
    "precision_named",
    "read_directory_shape",
    "read_header",
    "read_json_object",
    "read_model",
    "read_shape",
    "state_bytes",
]

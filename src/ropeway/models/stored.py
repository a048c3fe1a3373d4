"""The sizes of a model's weight files, compared with what its config.json implies."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from ropeway.models.build import counted_bytes, stored_bytes
from ropeway.models.config import number
from ropeway.models.quantisation import component_of
from ropeway.models.shape import Component, ModelShape
from ropeway.models.weights import INDEX, named_files, read_header, read_json_object
from ropeway.outside import is_there
from ropeway.units import counted

# Scales, paddings and small tensors account for this much; a larger difference is reported.
TOLERANCE = 0.01


@dataclass(frozen=True)
class StoredWeights:
    """Sizes from the files themselves.

    source        which files were read, in words
    total_bytes   of all tensors
    components    bytes by component, without encoders and MTP layers; empty when only the index
                  was read
    numbers       elements of all tensors, packed ones as stored; 0 when only the index was read
    """

    source: str
    total_bytes: int
    components: Mapping[Component, int]
    numbers: int = 0


@dataclass(frozen=True)
class Comparison:
    """Stored against counted bytes, both of the same parts of the model.

    parts       which, in words: `language model`, `language model and encoders`, …
    difference  stored / counted - 1
    """

    parts: str
    counted_bytes: float
    difference: float

    @property
    def agrees(self) -> bool:
        return abs(self.difference) <= TOLERANCE


def read_stored(path: Path) -> StoredWeights | None:
    """Read the sizes of a directory's weights: from headers, else the index; None without either.

    Raises ModelError when a file is broken.
    """
    index = path / INDEX
    files = named_files(index) if is_there(index) else tuple(sorted(path.glob("*.safetensors")))
    if is_there(index) and not (files and all(map(is_there, files))):
        total = _index_total(index)
        return StoredWeights(f"`{INDEX}`; not all files are here", total, {}) if total else None
    if not files:
        return None
    total, count = 0, 0
    components: dict[Component, int] = {}
    for file in files:
        for name, entry in read_header(file).items():
            size = entry.end - entry.begin
            total, count = total + size, count + prod(entry.shape)
            if not is_apart(name):
                part = component_of(name)
                components[part] = components.get(part, 0) + size
    words = f"the headers of {counted(len(files), 'file')}"
    return StoredWeights(words, total, components, count)


def compare(shape: ModelShape, stored: StoredWeights) -> Comparison:
    """Compare with the nearest of the counts with and without encoders and MTP layers.

    Some published files contain those parts, some do not.
    """
    language = counted_bytes(shape)
    mtp = stored_bytes(shape.precision, shape.mtp, shape.mtp_outer)
    encoders = sum(2.0 * (encoder.numbers or 0) for encoder in shape.encoders)
    comparisons = []
    for with_encoders in {False, encoders > 0}:
        for with_mtp in {False, mtp > 0}:
            counted = language + encoders * with_encoders + mtp * with_mtp
            words = ["language model"]
            words += ["encoders"] * with_encoders + ["MTP layers"] * with_mtp
            parts = " and ".join([", ".join(words[:-1]), words[-1]]) if words[1:] else words[0]
            comparisons.append(Comparison(parts, counted, stored.total_bytes / counted - 1))
    return min(comparisons, key=lambda item: abs(item.difference))


def is_apart(name: str) -> bool:
    """Say whether a tensor belongs to an encoder or an MTP layer, by the usual names."""
    return any(part in name for part in ("visual", "vision", "audio", "mtp", "mm_projector"))


def _index_total(index: Path) -> int:
    metadata = read_json_object(index).get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, Mapping) else None
    return int(number(total))

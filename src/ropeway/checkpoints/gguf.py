"""Read the one GGUF file that the checkpoints are made from.

The `gguf` package reads any file and takes four seconds for this one; this reader knows the three
storage types that occur in it and takes half a second.
Format: github.com/ggml-org/ggml, docs/gguf.md; block layouts: ggml-common.h.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from ropeway.errors import ModelError

_SCALARS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i",
    6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
_STRING = 8
_ARRAY = 9
_BLOCK = 32  # weights per block, in both quantised types
_F32 = 0
_Q4_1 = 3
_Q8_0 = 8
_Q4_1_BLOCK: np.dtype = np.dtype([("scale", "<f2"), ("least", "<f2"), ("pairs", "u1", _BLOCK // 2)])
_Q8_0_BLOCK: np.dtype = np.dtype([("scale", "<f2"), ("steps", "i1", _BLOCK)])


@dataclass(frozen=True)
class _Location:
    shape: tuple[int, ...]  # outermost first, as PyTorch has it; the file has it the other way
    kind: int
    offset: int


@dataclass(frozen=True)
class Gguf:
    """A GGUF file in memory: its metadata, and its tensors on demand."""

    metadata: Mapping[str, object]
    _locations: Mapping[str, _Location]
    _data: bytes

    def tensor(self, name: str) -> np.ndarray:
        """Return the tensor in float32, in PyTorch's shape (rows are outputs)."""
        location = self._locations[name]
        count, at = prod(location.shape), location.offset
        flat: np.ndarray
        if location.kind == _F32:
            flat = np.frombuffer(self._data, "<f4", count, at)
        elif location.kind == _Q4_1:
            flat = _from_q4_1(np.frombuffer(self._data, _Q4_1_BLOCK, count // _BLOCK, at))
        elif location.kind == _Q8_0:
            flat = _from_q8_0(np.frombuffer(self._data, _Q8_0_BLOCK, count // _BLOCK, at))
        else:
            raise ModelError(f"tensor `{name}` has the GGUF storage type {location.kind}")
        shaped: np.ndarray = flat.reshape(location.shape)
        return shaped


def parse_gguf(data: bytes) -> Gguf:
    """Read a GGUF file's header; the tensors are decoded on demand.

    Raises ModelError when the bytes are not a GGUF file of version 3.
    """
    if data[:8] != b"GGUF\x03\x00\x00\x00":
        raise ModelError("not a GGUF file of version 3", evidence=(f"it starts with {data[:8]!r}",))
    cursor = _Cursor(data, 8)
    tensors = cursor.scalar("<Q")
    keys = cursor.scalar("<Q")
    metadata = {cursor.string(): cursor.value() for _ in range(keys)}
    rows = [cursor.tensor_row() for _ in range(tensors)]
    alignment = metadata.get("general.alignment", 32)
    assert isinstance(alignment, int)
    base = -(-cursor.at // alignment) * alignment
    locations = {name: _Location(shape, kind, base + offset) for name, shape, kind, offset in rows}
    return Gguf(metadata, locations, data)


class _Cursor:
    def __init__(self, data: bytes, at: int):
        self._data = data
        self.at = at

    def scalar(self, code: str) -> int:
        (value,) = struct.unpack_from(code, self._data, self.at)
        self.at += struct.calcsize(code)
        return value  # type: ignore[no-any-return]  # struct cannot say what a code unpacks to

    def string(self) -> str:
        length = self.scalar("<Q")
        self.at += length
        return self._data[self.at - length : self.at].decode()

    def value(self) -> object:
        return self._value_of(self.scalar("<I"))

    def tensor_row(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self.string()
        shape = tuple(self.scalar("<Q") for _ in range(self.scalar("<I")))
        return name, shape[::-1], self.scalar("<I"), self.scalar("<Q")

    def _value_of(self, kind: int) -> object:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            inner = self.scalar("<I")
            return [self._value_of(inner) for _ in range(self.scalar("<Q"))]
        return self.scalar(_SCALARS[kind])


def _from_q4_1(blocks: np.ndarray) -> np.ndarray:
    """Each byte holds weight i in its low half and weight i + 16 in its high half."""
    pairs = blocks["pairs"]
    steps: np.ndarray = np.concatenate((pairs & 15, pairs >> 4), axis=1).astype(np.float32)
    steps *= blocks["scale"].astype(np.float32)[:, None]
    steps += blocks["least"].astype(np.float32)[:, None]
    return steps


def _from_q8_0(blocks: np.ndarray) -> np.ndarray:
    values: np.ndarray = blocks["steps"] * blocks["scale"].astype(np.float32)[:, None]
    return values

"""Weights in bfloat16: rounding, reading, writing, and reproducible random numbers.

A checkpoint is the same bytes on every machine and with every numpy. So noise is made of the raw
bits of a generator, a stream that numpy keeps fixed (unlike its distributions, which also depend on
the C library), by additions, multiplications and divisions alone, which IEEE 754 rounds in one way.
"""

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from math import prod, sqrt
from pathlib import Path

import numpy as np

from ropeway.models.weights import read_header

_NOISE_STEPS = 256
# A uniform number between -1 and 1 has this standard deviation; noise is given by its own.
_UNIFORM_DEVIATION = 1 / sqrt(3)


@dataclass(frozen=True)
class Tensor:
    """A tensor to write; `make` returns its bfloat16 bits (uint16) in that shape."""

    name: str
    shape: tuple[int, ...]
    make: Callable[[], np.ndarray]


def write_weights(path: Path, tensors: Iterable[Tensor]) -> str:
    """Write a safetensors file, tensors in order of their names; return its sha256.

    The tensors are made on all cores, a few at a time, to bound the memory.
    """
    ordered = sorted(tensors, key=lambda tensor: tensor.name)
    digest = hashlib.sha256()
    with path.open("xb") as file:
        for piece in _pieces(ordered):
            file.write(piece)
            digest.update(piece)
    return digest.hexdigest()


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """Return the bfloat16 bits (uint16) of every tensor, mapped from the file, not loaded."""
    data = np.memmap(path, np.uint8, "r")
    return {
        name: data[entry.begin : entry.end].view("<u2").reshape(entry.shape)
        for name, entry in read_header(path).items()
    }


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Round float32 to bfloat16, to nearest, ties to even. NaN is not handled."""
    bits: np.ndarray = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounding: np.ndarray = bits >> np.uint32(16)
    rounding &= np.uint32(1)
    rounding += np.uint32(0x7FFF)
    rounding += bits
    rounding >>= np.uint32(16)
    return rounding.astype(np.uint16)


def to_float32(bits: np.ndarray) -> np.ndarray:
    """Widen bfloat16 bits to float32, exactly."""
    wide: np.ndarray = bits.astype(np.uint32)
    wide <<= np.uint32(16)
    values: np.ndarray = wide.view(np.float32)
    return values


def uniform(seed: str, shape: tuple[int, ...], deviation: float, mean: float = 0) -> np.ndarray:
    """Return float32 numbers, uniform around `mean` with this standard deviation, by `seed`."""
    steps: np.ndarray = _raw(seed, 2 * prod(shape)).view("<u2").astype(np.float32)
    steps -= np.float32(32767.5)
    steps *= np.float32(deviation / _UNIFORM_DEVIATION / 32767.5)
    steps += np.float32(mean)
    numbers: np.ndarray = steps.reshape(shape)
    return numbers


def jitter(seed: str, values: np.ndarray, deviation: float) -> np.ndarray:
    """Scale each float32 value by 1 plus uniform noise of this standard deviation."""
    span = deviation / _UNIFORM_DEVIATION
    grid = (np.arange(_NOISE_STEPS) - (_NOISE_STEPS - 1) / 2) * (2 / (_NOISE_STEPS - 1))
    factors: np.ndarray = (1 + span * grid).astype(np.float32)
    noisy: np.ndarray = values * factors[_raw(seed, values.size)].reshape(values.shape)
    return noisy


def permutation(seed: str, length: int) -> np.ndarray:
    """Return a permutation of `length` indices, determined by `seed`."""
    order: np.ndarray = np.argsort(_generator(seed).random_raw(length), kind="stable")
    return order


def _pieces(ordered: Sequence[Tensor]) -> Iterator[bytes | memoryview]:
    yield _header(ordered)
    for tensor, bits in zip(ordered, _made(ordered), strict=True):
        assert bits.shape == tensor.shape, f"{tensor.name}: {bits.shape} is not {tensor.shape}"
        yield np.ascontiguousarray(bits, "<u2").data.cast("B")


def _header(ordered: Sequence[Tensor]) -> bytes:
    table: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in ordered:
        begin, end = end, end + 2 * prod(tensor.shape)
        table[tensor.name] = {
            "dtype": "BF16", "shape": tensor.shape, "data_offsets": (begin, end),
        }  # fmt: skip
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _made(ordered: Sequence[Tensor]) -> Iterator[np.ndarray]:
    """Yield each tensor's bits in order, made ahead by one thread for each core."""
    workers = len(os.sched_getaffinity(0))
    ahead: deque[Future[np.ndarray]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for tensor in ordered:
            ahead.append(pool.submit(tensor.make))
            if len(ahead) > 2 * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _raw(seed: str, count: int) -> np.ndarray:
    """Return `count` random bytes."""
    words: np.ndarray = _generator(seed).random_raw(-(-count // 8))
    raw: np.ndarray = words.astype("<u8", copy=False).view(np.uint8)
    return raw[:count]


def _generator(seed: str) -> np.random.PCG64:
    return np.random.PCG64(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:16], "little"))

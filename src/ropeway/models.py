"""A model directory read as plain numbers: config.json and the headers of the weight files.

Nothing is loaded: of a safetensors file only the header is read, so the largest model takes
milliseconds and no memory.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from ropeway.errors import ModelError
from ropeway.units import format_bytes

# Families spell the same number differently. Each row lists the spellings seen in published
# config.json files, the commonest first; a new family is a word more in its row.
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_HIDDEN = ("hidden_size", "n_embd", "d_model")
_HEADS = ("num_attention_heads", "n_head", "n_heads")
_KV_HEADS = ("num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num")
_VOCAB = ("vocab_size", "padded_vocab_size")
_INTERMEDIATE = ("intermediate_size", "ffn_hidden_size", "n_inner")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_EXPERTS_PER_TOKEN = (
    "num_experts_per_tok", "experts_per_token", "top_k_experts", "moe_topk", "moe_k",
)  # fmt: skip
_EXPERT_INTERMEDIATE = ("moe_intermediate_size", "expert_ffn_hidden_size")
_POSITIONS = ("max_position_embeddings", "max_sequence_length", "n_positions", "seq_length")
_DTYPE = ("dtype", "torch_dtype")

# Models that also see or hear keep the numbers of the language model one level down.
_NESTED = ("text_config", "thinker_config", "llm_config", "language_config")

# The safetensors library refuses a longer header (MAX_HEADER_SIZE in its tensor.rs).
_LONGEST_HEADER = 100_000_000


@dataclass(frozen=True)
class ModelShape:
    """What planning and launching need to know of a model.

    head_dim          numbers per query head; not always hidden_size / heads
    experts           routed experts per layer, 0 when dense
    experts_per_token routed experts that each token visits, 0 when dense
    intermediate_size width of the feed-forward part of a dense layer
    expert_size       width of one routed expert, 0 when dense
    kv_layers         layers whose cache grows with the context (linear attention keeps none)
    kv_width          numbers that such a layer keeps per token: 2 x kv_heads x head_dim, or the
                      compressed latent where the model has one (DeepSeek's MLA)
    dtype             as written, "" when config.json leaves it out
    max_positions     longest context in tokens, 0 when config.json leaves it out
    weight_bytes      of all tensors; 0 when only the config was read
    """

    architecture: str
    model_type: str
    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    intermediate_size: int
    experts: int
    experts_per_token: int
    expert_size: int
    kv_layers: int
    kv_width: int
    dtype: str
    max_positions: int
    tied_embeddings: bool
    weight_bytes: int = 0
    weight_files: tuple[Path, ...] = ()


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a safetensors file; `begin` and `end` are offsets in the file, in bytes."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_model(path: Path) -> ModelShape:
    """Read a model directory: config.json, and every weight file's header.

    Raises ModelError when the directory, config.json, or a weight file is missing or broken.
    """
    if not path.exists():
        raise ModelError("the model directory does not exist", where=str(path))
    if not path.is_dir():
        raise ModelError(
            "this is a file, and a model is a directory",
            where=str(path),
            hint="give the directory that holds `config.json` and the safetensors files",
        )
    shape = read_shape(_read_config(path), where=str(path / "config.json"))
    files = find_weight_files(path)
    total = sum(entry.end - entry.begin for file in files for entry in read_header(file).values())
    return replace(shape, weight_bytes=total, weight_files=files)


def read_shape(config: Mapping[str, object], where: str = "config.json") -> ModelShape:
    """Read the shape out of a parsed config.json; `weight_bytes` stays 0.

    Raises ModelError when a number that every model has is missing or is no positive integer.
    """
    reader = _Config(_language_part(config), config, where)
    heads = reader.need("attention heads", _HEADS)
    hidden = reader.need("hidden size", _HIDDEN)
    layers = reader.need("layers", _LAYERS)
    kv_heads = reader.find(_KV_HEADS) or heads
    head_dim = _head_dim(reader, hidden, heads)
    experts = reader.find(_EXPERTS)
    intermediate = reader.find(_INTERMEDIATE)
    return ModelShape(
        architecture=_architecture(config),
        model_type=str(config.get("model_type") or ""),
        layers=layers,
        hidden_size=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=reader.need("vocabulary size", _VOCAB),
        intermediate_size=intermediate,
        experts=experts,
        experts_per_token=reader.find(_EXPERTS_PER_TOKEN) if experts else 0,
        expert_size=(reader.find(_EXPERT_INTERMEDIATE) or intermediate) if experts else 0,
        kv_layers=_kv_layers(reader, layers),
        kv_width=_kv_width(reader, kv_heads, head_dim),
        dtype=reader.text(_DTYPE).removeprefix("torch."),
        max_positions=reader.find(_POSITIONS),
        tied_embeddings=reader.flag("tie_word_embeddings"),
    )


def kv_bytes_per_token(shape: ModelShape, dtype_bytes: int) -> int:
    """Bytes of KV cache that one token takes over all layers, before any parallel split.

    Sliding windows are not taken off: this is the cost of a token while every layer still sees it.
    """
    return shape.kv_layers * shape.kv_width * dtype_bytes


def find_weight_files(path: Path) -> tuple[Path, ...]:
    """The safetensors files of a model directory, by its index when it has one.

    Raises ModelError when there are none, or when the index names a file that is not there.
    """
    index = path / "model.safetensors.index.json"
    if index.exists():
        return _indexed_files(index)
    files = sorted(path.glob("*.safetensors"))
    if files:
        return tuple(files)
    present = sorted(item.name for item in path.iterdir())
    raise ModelError(
        "no safetensors file in the model directory",
        where=str(path),
        evidence=(f"it holds: {', '.join(present[:12])}{', …' if present[12:] else ''}",),
        hint="check that the download finished; formats other than safetensors are not read",
    )


def read_header(path: Path) -> dict[str, TensorEntry]:
    """Read a safetensors header and check it against the file's size; no tensor is loaded.

    The format: 8 bytes of length (little-endian), that many bytes of JSON, then the data, which
    ends exactly where the last tensor ends. Raises ModelError when that does not hold.
    """
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            start, table = _header_table(file, size)
    except OSError as error:
        raise ModelError(
            "a weight file cannot be read", where=str(path), evidence=(str(error),)
        ) from None
    except _BrokenHeader as broken:
        raise ModelError(
            f"a weight file is {broken.verdict}",
            where=str(path),
            evidence=broken.evidence,
            hint="fetch this file again",
        ) from None
    entries = _entries(path, start, table)
    expected = max((entry.end for entry in entries.values()), default=start)
    if size == expected:
        return entries
    verdict = "truncated" if size < expected else "longer than its header says"
    raise ModelError(
        f"a weight file is {verdict}",
        where=str(path),
        evidence=(
            f"size on disk: {size} bytes ({format_bytes(size)})",
            f"its header needs: {expected} bytes ({format_bytes(expected)})",
        ),
        hint="fetch this file again",
    )


class _Config:
    """The language model's part of a config, then the outer part, searched by spelling."""

    def __init__(self, inner: Mapping[str, object], outer: Mapping[str, object], where: str):
        self._levels = (inner, outer)
        self._where = where

    def find(self, names: Sequence[str]) -> int:
        """The first of `names` that is set, as a whole number; 0 when none is."""
        for name in names:
            value = self._levels[0].get(name)
            # Some families give one value a layer; the largest is the one memory must bear.
            if isinstance(value, list) and value:
                value = max((item for item in value if isinstance(item, int)), default=None)
            if value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ModelError(
                    f"`{name}` in `config.json` is not a whole number",
                    where=self._where,
                    evidence=(f"{name}: {json.dumps(value)}",),
                )
            return value
        return 0

    def need(self, meaning: str, names: Sequence[str]) -> int:
        """As find, but 0 or nothing is an error."""
        found = self.find(names)
        if found:
            return found
        raise ModelError(
            f"`config.json` does not say: {meaning}",
            where=self._where,
            evidence=(f"looked for {', '.join(f'`{name}`' for name in names)}",),
            hint="check that this is the model's own `config.json` (an adapter has another)",
        )

    def text(self, names: Sequence[str]) -> str:
        for level in self._levels:
            for name in names:
                value = level.get(name)
                if isinstance(value, str):
                    return value
        return ""

    def flag(self, name: str) -> bool:
        return any(level.get(name) is True for level in self._levels)

    def texts(self, name: str) -> tuple[str, ...]:
        value = self._levels[0].get(name)
        return tuple(str(item) for item in value) if isinstance(value, list) else ()


def _read_config(path: Path) -> Mapping[str, object]:
    file = path / "config.json"
    if not file.exists():
        raise ModelError(
            "the model directory has no `config.json`",
            where=str(path),
            hint="check the path; the directory wanted is the one with `config.json` in it",
        )
    return _read_json_object(file)


def _read_json_object(file: Path) -> Mapping[str, object]:
    try:
        found = json.loads(file.read_bytes())
    except OSError as error:
        raise ModelError(
            f"`{file.name}` cannot be read", where=str(file), evidence=(str(error),)
        ) from None
    except ValueError as error:
        raise ModelError(
            f"`{file.name}` is not JSON",
            where=str(file),
            evidence=(f"{file.stat().st_size} bytes; {error}",),
            hint="fetch this file again",
        ) from None
    if isinstance(found, dict):
        return found
    raise ModelError(
        f"`{file.name}` is JSON, but not an object",
        where=str(file),
        evidence=(f"it is a {type(found).__name__}",),
    )


def _language_part(config: Mapping[str, object]) -> Mapping[str, object]:
    for name in _NESTED:
        inner = config.get(name)
        if isinstance(inner, dict):
            return _language_part(inner)
    return config


def _architecture(config: Mapping[str, object]) -> str:
    names = config.get("architectures")
    return str(names[0]) if isinstance(names, list) and names else ""


def _head_dim(reader: _Config, hidden: int, heads: int) -> int:
    # With a latent cache `head_dim` is the rotary part alone (GLM-5 writes 64 of 256).
    latent = reader.find(("qk_nope_head_dim",))
    if latent:
        return latent + reader.find(("qk_rope_head_dim",))
    return reader.find(("head_dim",)) or hidden // heads


def _kv_width(reader: _Config, kv_heads: int, head_dim: int) -> int:
    latent = reader.find(("kv_lora_rank",))
    if latent:
        return latent + reader.find(("qk_rope_head_dim",))
    return 2 * kv_heads * head_dim


def _kv_layers(reader: _Config, layers: int) -> int:
    kinds = reader.texts("layer_types")
    if kinds:
        return sum(kind != "linear_attention" for kind in kinds)
    interval = reader.find(("full_attention_interval",))
    return layers // interval if interval else layers


def _indexed_files(index: Path) -> tuple[Path, ...]:
    table = _read_json_object(index).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise ModelError(
            f"`{index.name}` has no `weight_map`", where=str(index), hint="fetch this file again"
        )
    files = [index.parent / name for name in sorted({str(name) for name in table.values()})]
    missing = [file.name for file in files if not file.exists()]
    if not missing:
        return tuple(files)
    raise ModelError(
        f"{len(missing)} of {len(files)} weight files named by `{index.name}` are missing",
        where=str(index.parent),
        evidence=(f"missing: {', '.join(missing[:8])}{', …' if missing[8:] else ''}",),
        hint="fetch the missing files; the download probably stopped early",
    )


class _BrokenHeader(Exception):
    def __init__(self, verdict: str, *evidence: str):
        super().__init__(verdict)
        self.verdict = verdict
        self.evidence = evidence


def _header_table(file: BinaryIO, size: int) -> tuple[int, Mapping[str, object]]:
    """Where the data starts, and the header's JSON object."""
    if size < 8:
        raise _BrokenHeader("truncated", f"size on disk: {size} bytes, less than any header")
    length = int.from_bytes(file.read(8), "little")
    if length > _LONGEST_HEADER:
        raise _BrokenHeader(
            "not a safetensors file",
            f"its first 8 bytes announce a header of {length} bytes",
            f"size on disk: {size} bytes",
        )
    if 8 + length > size:
        raise _BrokenHeader(
            "truncated",
            f"size on disk: {size} bytes",
            f"its header alone needs: {8 + length} bytes",
        )
    try:
        table = json.loads(file.read(length))
    except ValueError as error:
        raise _BrokenHeader("not a safetensors file", f"its header is not JSON: {error}") from None
    if not isinstance(table, dict):
        raise _BrokenHeader("not a safetensors file", "its header is not a JSON object")
    return 8 + length, table


def _entries(path: Path, start: int, table: Mapping[str, object]) -> dict[str, TensorEntry]:
    entries = {}
    for name, row in table.items():
        if name == "__metadata__":
            continue
        match row:
            case {
                "dtype": str(dtype),
                "shape": list(dims),
                "data_offsets": [int(low), int(high)],
            } if 0 <= low <= high and all(isinstance(dim, int) for dim in dims):
                entries[name] = TensorEntry(dtype, tuple(dims), start + low, start + high)
            case _:
                raise ModelError(
                    "a weight file's header is broken",
                    where=str(path),
                    evidence=(f"tensor `{name}`: {json.dumps(row)[:120]}",),
                    hint="fetch this file again",
                )
    return entries

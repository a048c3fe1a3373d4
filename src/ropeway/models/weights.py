"""The files of a model directory: config.json as JSON, and the headers of the weight files.

Nothing is loaded: of a safetensors file only the header is read, so the largest model takes
milliseconds and no memory.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ropeway.errors import ModelError
from ropeway.outside import is_there, open_regular, parse_json, read_bounded
from ropeway.phrases import phrase
from ropeway.units import format_bytes

# The safetensors library refuses a longer header (MAX_HEADER_SIZE in its tensor.rs).
_LONGEST_HEADER = 100_000_000
# Files that name every tensor have 30 MB for a trillion parameters, any other has a megabyte.
_LONGEST_JSON = 64 * 2**20
# torch has at most 64 (MAX_DIMS in its c10 library), and counts elements in 64 bits.
_MOST_DIMS, _LARGEST_DIM = 64, 2**63

INDEX = "model.safetensors.index.json"
"""The file that says which tensor is in which file, where there are several."""


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a safetensors file; `begin` and `end` are offsets in the file, in bytes."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_json_object(file: Path) -> Mapping[str, object]:
    """Read a file that holds one JSON object. Raises ModelError when it does not."""
    try:
        data = read_bounded(file, _LONGEST_JSON)
    except (OSError, ValueError) as error:
        raise _unreadable(phrase("`{name}` cannot be read", name=file.name), file, error) from None
    try:
        document = parse_json(data)
    except ValueError as error:
        evidence = phrase("{size} bytes; {error}", size=len(data), error=error.args[0])
        raise _broken(file, phrase("`{name}` is not JSON", name=file.name), evidence) from None
    if isinstance(document, dict):
        return document
    raise ModelError(
        phrase("`{name}` is JSON, but not an object", name=file.name),
        where=str(file),
        evidence=(phrase("it is a {name}", name=type(document).__name__),),
    )


def find_weight_files(path: Path) -> tuple[Path, ...]:
    """Return the safetensors files of a model directory, by its index when it has one.

    Raises ModelError when there are none, or when the index names a file that is not there.
    """
    index = path / INDEX
    if is_there(index):
        return _indexed_files(index)
    files = sorted(path.glob("*.safetensors"))
    if files:
        return tuple(files)
    present = sorted(item.name for item in path.iterdir())
    raise ModelError(
        "no safetensors file in the model directory",
        where=str(path),
        evidence=(
            phrase(
                "it holds: {names}",
                names=", ".join([*present[:12], *(["…"] if present[12:] else [])]),
            ),
        ),
        hint="check that the download finished; only safetensors files are read",
    )


def read_header(path: Path) -> dict[str, TensorEntry]:
    """Read a safetensors header and check it against the file's size; no tensor is loaded.

    The format: 8 bytes of length (little-endian), that many bytes of JSON, then the data, which
    ends exactly where the last tensor ends. Raises ModelError when that does not hold.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            start, table = _header_table(path, file, size)
    except (OSError, ValueError) as error:
        raise _unreadable("a weight file cannot be read", path, error) from None
    entries = _entries(path, start, table)
    expected = max((entry.end for entry in entries.values()), default=start)
    if size == expected:
        return entries
    raise _broken(
        path,
        "a weight file is truncated"
        if size < expected
        else "a weight file is longer than its header says",
        phrase("size on disk: {n} bytes ({size})", n=size, size=format_bytes(size)),
        phrase("its header needs: {n} bytes ({size})", n=expected, size=format_bytes(expected)),
    )


def _unreadable(what: str, file: Path, error: OSError | ValueError) -> ModelError:
    evidence = str(error) if isinstance(error, OSError) else error.args[0]
    return ModelError(what, where=str(file), evidence=(evidence,))


def _broken(file: Path, what: str, *evidence: str) -> ModelError:
    return ModelError(what, where=str(file), evidence=evidence, hint="fetch this file again")


def named_files(index: Path) -> tuple[Path, ...]:
    """Return the files that an index names, whether or not they are there.

    Raises ModelError when one is outside of the index's folder: nothing there is ours to open.
    """
    table = read_json_object(index).get("weight_map")
    names = sorted(set(map(str, table.values()))) if isinstance(table, dict) else []
    outside = [name for name in names if Path(name).is_absolute() or ".." in Path(name).parts]
    if outside:
        what = phrase("`{name}` names a file outside of its folder", name=index.name)
        raise _broken(index, what, phrase("it names: {names}", names=", ".join(outside[:8])))
    return tuple(index.parent / name for name in names)


def _indexed_files(index: Path) -> tuple[Path, ...]:
    files = named_files(index)
    if not files:
        raise _broken(index, phrase("`{name}` has no `weight_map`", name=index.name))
    missing = [file.name for file in files if not is_there(file)]
    if not missing:
        return files
    raise ModelError(
        phrase(
            "{missing} of {files} weight files named by `{name}` are missing",
            missing=len(missing),
            files=len(files),
            name=index.name,
        ),
        where=str(index.parent),
        evidence=(
            phrase(
                "missing: {names}",
                names=", ".join([*missing[:8], *(["…"] if missing[8:] else [])]),
            ),
        ),
        hint="fetch the missing files; the download probably stopped early",
    )


def _header_table(path: Path, file: BinaryIO, size: int) -> tuple[int, Mapping[str, object]]:
    """Return the offset where the data starts, and the header's JSON object."""
    truncated, strange = "a weight file is truncated", "a weight file is not a safetensors file"
    on_disk = phrase("size on disk: {n} bytes", n=size)
    if size < 8:
        raise _broken(path, truncated, phrase("{on_disk}, less than any header", on_disk=on_disk))
    length = int.from_bytes(file.read(8), "little")
    if length > _LONGEST_HEADER:
        evidence = phrase("its first 8 bytes announce a header of {length} bytes", length=length)
        raise _broken(path, strange, evidence, on_disk)
    if 8 + length > size:
        evidence = phrase("its header alone needs: {size} bytes", size=8 + length)
        raise _broken(path, truncated, on_disk, evidence)
    header = file.read(length)
    try:
        table = parse_json(header)
    except ValueError as error:
        raise _broken(
            path, strange, phrase("its header is not JSON: {error}", error=error.args[0])
        ) from None
    if not isinstance(table, dict):
        raise _broken(path, strange, "its header is not a JSON object")
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
            } if 0 <= low <= high and _is_size(dims):
                entries[name] = TensorEntry(dtype, tuple(dims), start + low, start + high)
            case _:
                entry = json.dumps(row)[:120]
                evidence = phrase("tensor `{name}`: {entry}", name=name, entry=entry)
                raise _broken(path, "a weight file's header is broken", evidence)
    return entries


def _is_size(dims: Sequence[object]) -> bool:
    """Say whether the header's shape can be that of a tensor in a file."""
    return len(dims) <= _MOST_DIMS and all(
        type(dim) is int and 0 <= dim <= _LARGEST_DIM for dim in dims
    )

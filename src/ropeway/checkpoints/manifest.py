"""The record beside a checkpoint: its source, and the size and sha256 of each file."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from ropeway.errors import ModelError

FILE_NAME = "ropeway.json"
WEIGHTS = "model.safetensors"
SCHEMA = 1


@dataclass(frozen=True)
class Entry:
    """A file of a checkpoint; `size` in bytes."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The content of `ropeway.json`.

    source         the package or checkpoint it was made from
    source_sha256  of the package, or of that checkpoint's weights
    """

    name: str
    version: int
    source: str
    source_sha256: str
    files: dict[str, Entry]


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write `ropeway.json`, the last file of a checkpoint."""
    record = {"schema": SCHEMA, **asdict(manifest)}
    (directory / FILE_NAME).write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")


def read_manifest(directory: Path) -> Manifest:
    """Read `ropeway.json`; raises ModelError when it is missing or is not one of ours."""
    path = directory / FILE_NAME
    try:
        record = json.loads(path.read_text())
        values = {field.name: record[field.name] for field in fields(Manifest)}
        files = {name: Entry(**entry) for name, entry in record["files"].items()}
        return Manifest(**{**values, "files": files})
    except OSError as error:
        problem = str(error)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"{type(error).__name__}: {error}"
    raise ModelError(
        "this directory was not made by Ropeway",
        where=str(directory),
        evidence=(f"`{FILE_NAME}` is missing or unreadable: {problem}",),
        hint="move it away, or choose another directory with `--dir`",
    )


def damaged_files(directory: Path, manifest: Manifest, *, rehash: bool) -> tuple[str, ...]:
    """Return the names of missing or changed files, by size, with `rehash` also by sha256."""
    return tuple(
        name
        for name, entry in sorted(manifest.files.items())
        if not _is_whole(directory / name, entry, rehash)
    )


def describe(path: Path) -> Entry:
    """Return the size and sha256 of a file, without loading it whole."""
    with path.open("rb") as file:
        return Entry(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def _is_whole(path: Path, entry: Entry, rehash: bool) -> bool:
    if not path.is_file() or path.stat().st_size != entry.size:
        return False
    return not rehash or describe(path) == entry

"""The record beside a checkpoint: who made it from what, and every file's size and sha256."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ropeway.errors import ModelError

FILE_NAME = "ropeway.json"
WEIGHTS = "model.safetensors"
SCHEMA = 1


@dataclass(frozen=True)
class Entry:
    """One file as it was written; `size` in bytes."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What `ropeway.json` says.

    source         the package or checkpoint it was made from
    source_sha256  of the package, or of that checkpoint's weights
    """

    name: str
    version: int
    source: str
    source_sha256: str
    files: dict[str, Entry]


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write `ropeway.json`; it is the last file of a checkpoint to be written."""
    record = {"schema": SCHEMA, **asdict(manifest)}
    (directory / FILE_NAME).write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")


def read_manifest(directory: Path) -> Manifest:
    """Read `ropeway.json`; raises ModelError when it is missing or is not one of ours."""
    path = directory / FILE_NAME
    try:
        record = json.loads(path.read_text())
        files = {name: Entry(**entry) for name, entry in record["files"].items()}
        return Manifest(
            name=record["name"],
            version=record["version"],
            source=record["source"],
            source_sha256=record["source_sha256"],
            files=files,
        )
    except OSError as error:
        problem = str(error)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"{type(error).__name__}: {error}"
    raise ModelError(
        "this directory holds something that Ropeway did not make",
        where=str(directory),
        evidence=(f"`{FILE_NAME}` is missing or unreadable: {problem}",),
        hint="move it away, or give another place with `--dir`",
    )


def damaged_files(directory: Path, manifest: Manifest, *, rehash: bool) -> tuple[str, ...]:
    """Names of the files that are gone or changed: by size, and with `rehash` by sha256 too."""
    return tuple(
        name
        for name, entry in sorted(manifest.files.items())
        if not _is_whole(directory / name, entry, rehash)
    )


def describe(path: Path) -> Entry:
    """The size and sha256 of a file, read in pieces."""
    with path.open("rb") as file:
        return Entry(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def _is_whole(path: Path, entry: Entry, rehash: bool) -> bool:
    if not path.is_file() or path.stat().st_size != entry.size:
        return False
    return not rehash or describe(path) == entry

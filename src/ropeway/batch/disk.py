"""Bytes that stay: files written so that a kill or a power cut leaves either the old or the new."""

import errno
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ropeway.errors import RopewayError, reason_of
from ropeway.phrases import phrase
from ropeway.units import format_bytes

_FULL = (errno.ENOSPC, errno.EDQUOT)


def write_at(handle: int, data: bytes, offset: int) -> None:
    """Write all of `data` at `offset`: the system may take a part of it at a time."""
    rest = memoryview(data)
    while rest:
        written = os.pwrite(handle, rest, offset)
        rest, offset = rest[written:], offset + written


def sync_folder(folder: Path) -> None:
    """Make the names of a folder's files as durable as the files."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file completely or not at all. Raises OSError."""
    draft = path.with_name(f"{path.name}.part")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        write_at(handle, content, 0)
        os.fsync(handle)
    finally:
        os.close(handle)
    replace(draft, path)


def replace(draft: Path, path: Path) -> None:
    """Give a finished file its name, for good."""
    os.replace(draft, path)  # noqa: PTH105 - Path.replace hides that it is atomic
    sync_folder(path.parent)


def cannot_write(
    path: Path, error: OSError, *, evidence: Sequence[str] = (), hint: str
) -> RopewayError:
    """Return the error that says why a file cannot be written, and what room there is."""
    lines = list(evidence)
    if error.errno in _FULL:
        with suppress(OSError):
            free = format_bytes(shutil.disk_usage(path.parent).free)
            lines = [phrase("{free} of disk are free there", free=free), *lines]
    return RopewayError(
        phrase("the batch job's file cannot be written: {reason}", reason=reason_of(error)),
        where=str(path),
        evidence=lines,
        hint=hint,
    )

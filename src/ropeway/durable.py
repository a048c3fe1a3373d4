"""Files that stay: written so that a kill or a power cut leaves either the old or the new."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

PRIVATE, PRIVATE_FOLDER = 0o600, 0o700
"""Permissions of what only its owner may read, whatever the folder around it allows."""

# What a file system says that keeps names in its own way, and syncs no folder.
_NOT_OF_FOLDERS = (errno.EINVAL, errno.ENOTSUP)


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
    except OSError as error:
        if error.errno not in _NOT_OF_FOLDERS:
            raise
    finally:
        os.close(handle)


def replace(draft: Path, path: Path) -> None:
    """Give a file that is on the disk its name, for good."""
    os.replace(draft, path)  # noqa: PTH105 - Path.replace hides that it is atomic
    sync_folder(path.parent)


@contextmanager
def whole(path: Path, mode: int | None = None) -> Iterator[BinaryIO]:
    """Yield a file that gets its name when the block ends, and is removed when the block fails.

    A link is replaced. `mode`: its permissions; None keeps those of an existing file, and is 0644
    for a new one. Raises OSError.
    """
    if mode is None:
        mode = path.stat().st_mode & 0o7777 if path.exists() else 0o644
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    draft = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(handle, mode)
            yield file
            file.flush()
            os.fsync(handle)
        replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def write_whole(path: Path, content: bytes, *, mode: int | None = None) -> None:
    """Write a file completely or not at all; see `whole`."""
    with whole(path, mode) as file:
        file.write(content)

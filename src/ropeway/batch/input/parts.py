"""The files of an input: which there are, where they lie, and what kind each is."""

import hashlib
import os
import re
import shlex
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from glob import glob, has_magic
from pathlib import Path, PurePosixPath
from stat import S_ISCHR, S_ISDIR, S_ISFIFO, S_ISREG
from typing import Any, BinaryIO
from urllib.parse import urlunsplit

from ropeway.batch.journal.manifest import not_the_job
from ropeway.batch.stores import (
    library,
    open_store,
    read_url,
    store_fault,
    store_faults,
    without_keys,
)
from ropeway.durable import PRIVATE, replace
from ropeway.errors import Refused, reason_of
from ropeway.outside import is_file, local_path
from ropeway.phrases import phrase

STDIN = "-"
_CANNOT_READ = "the file cannot be read: {reason}"
_NO_FILE = "there is no such file"
_NO_MATCH = "no file has such a name"
# How files begin. The zstd of several threads writes a frame to be skipped first.
_PACKED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_PACKED |= {bytes((first, 0x2A, 0x4D, 0x18)): "zstd" for first in range(0x50, 0x60)}
_UNKNOWN = {
    b"\xfd7zXZ": "xz",
    b"BZh9": "bzip2",
    b"PK\x03\x04": "zip",
    b"\x89HDF": "HDF5",
    b"ARROW1\0": "Arrow IPC",
    b"SQLite format 3\0": "SQLite",
}


class Shape(StrEnum):
    """What a file holds once it is unpacked."""

    LINES = "jsonl"
    CSV = "csv"
    TSV = "tsv"
    PARQUET = "parquet"


@dataclass(frozen=True, slots=True)
class Part:
    """A file of the input.

    name     as the user wrote it, or as a glob found it, and `printable`; without the keys of a
             store's URL
    path     what is opened: the copy of what came through a pipe, a path within its store
    changed  when it was changed last, in nanoseconds; `touched`: likewise, by the clock that nobody
             sets back, and with its permissions and names; 0 in a store
    store    a file system of pyarrow; None for a path of this machine
    folder   where the relative paths in it start
    begin    the byte where reading begins, which is line `line`; `end`: the one where it stops,
             None at the end of the file
    """

    name: str
    path: str
    shape: Shape
    packing: str
    size: int
    changed: int
    store: Any = field(default=None, repr=False, compare=False)
    folder: Path = Path()
    begin: int = 0
    line: int = 1
    end: int | None = None
    touched: int = 0

    @property
    def whole(self) -> bool:
        """Whether all of the file is read."""
        return not self.begin and self.end is None


def quoted(name: str) -> str:
    """Return a name as a shell takes it, in a command that we tell the user."""
    return shlex.quote(printable(name))


def printable(name: str) -> str:
    """Return a file's name as UTF-8 text: the system's may be any bytes."""
    return name.encode(errors="backslashreplace").decode()


def find_parts(
    names: Sequence[str],
    folder: Path,
    stdin: BinaryIO,
    shape: Shape | None = None,
    *,
    begun_with: Container[tuple[int, str]] | None = None,
    leave: Callable[[str, Any], bool] = lambda *_: False,
) -> tuple[Part, ...]:
    """Return the files in the order of `names`, those of a glob sorted by name.

    What cannot be read twice is copied into `folder`. Raises Refused.

    shape       overrules what names and first bytes say
    begun_with  size and hash of each file of the job that began in `folder`, if one did
    leave       says of a file that a glob finds, and its store if any, that it is not meant
    """
    parts: list[Part] = []
    keep = partial(_copied, begun_with=begun_with)
    for number, name in enumerate(names):
        if name == STDIN:
            parts.append(_local(name, str(keep(stdin, folder / f"input-{number}")), shape))
        elif "://" in name:
            parts += _remote(name, shape, leave)
        else:
            copy = folder / f"input-{number}"
            parts += [_found(path, copy, shape, keep) for path in _paths(name, leave)]
    seen: set[tuple[str, bool]] = set()
    for part in parts:
        place = (part.path if part.store else os.path.realpath(part.path), bool(part.store))
        if place in seen:
            raise Refused(
                "the file is in the input twice",
                where=part.name,
                hint="name it once; `-n 2` asks each of its rows twice",
            )
        seen.add(place)
    return tuple(parts)


@contextmanager
def open_part(part: Part) -> Iterator[BinaryIO]:
    """Open a file to read its bytes as they lie there. Raises Refused."""
    try:
        if part.store is None:
            opened: Any = Path(part.path).open("rb", buffering=0)  # noqa: SIM115 (closed below)
        elif part.begin:
            opened = part.store.open_input_file(part.path)
        else:
            opened = part.store.open_input_stream(part.path, compression=None)
    except OSError as error:
        raise cannot_read(part.name, reason_of(error)) from None
    with closing(opened):
        if part.begin:
            opened.seek(part.begin)
        yield opened


def is_as_it_was(part: Part) -> bool:
    """Say whether the file still has the size and the time that it had. Raises Refused."""
    try:
        if part.store is None:
            status = Path(part.path).stat()
            return (status.st_size, status.st_mtime_ns) == (part.size, part.changed)
        info = part.store.get_file_info(part.path)
    except OSError as error:
        raise cannot_read(part.name, reason_of(error)) from None
    # S3 tells milliseconds in a list of objects, and seconds of one.
    exact = 10**9 if part.store.type_name == "s3" else 1
    return (info.size, (info.mtime_ns or 0) // exact) == (part.size, part.changed // exact)


def cannot_read(name: str, reason: str) -> Refused:
    """Return the refusal of a file that cannot be read to its end."""
    return Refused(phrase(_CANNOT_READ, reason=reason), where=name)


def _paths(name: str, leave: Callable[[str, Any], bool]) -> list[str]:
    path = str(local_path(name))
    if not has_magic(path) or os.path.lexists(path):
        return [path]
    found = [
        one
        for one in sorted(glob(path, recursive=True))  # noqa: PTH207 (`~` and `..` stay as written)
        if is_file(Path(one)) and not leave(one, None)
    ]
    if not found:
        raise Refused(_NO_MATCH, where=name)
    return found


def _found(
    path: str, copy: Path, shape: Shape | None, keep: Callable[[BinaryIO, Path], Path]
) -> Part:
    """Return a path of this machine as a part; a pipe is copied first."""
    try:
        mode = Path(path).stat().st_mode
        if S_ISFIFO(mode) or S_ISCHR(mode):
            with _pipe(Path(path), wait=not copy.exists()) as pipe:
                return _local(path, str(keep(pipe, copy)), shape)
    except FileNotFoundError:
        raise Refused(_NO_FILE, where=path) from None
    except (OSError, ValueError) as error:  # not allowed; a NUL in the name
        raise cannot_read(path, reason_of(error)) from None
    if S_ISDIR(mode):
        raise Refused(
            "this is a folder",
            where=path,
            hint=phrase("name its files: `{path}`", path=path.rstrip("/") + "/*"),
        )
    if not S_ISREG(mode):
        raise cannot_read(path, phrase("this is not a regular file"))
    return _local(path, path, shape)


def _pipe(path: Path, *, wait: bool) -> BinaryIO:
    """Open a pipe; where nobody writes to it, `wait` for who does, or find nothing in it."""
    handle = os.open(path, os.O_RDONLY | (0 if wait else os.O_NONBLOCK))
    os.set_blocking(handle, True)
    return os.fdopen(handle, "rb")


def _copied(file: BinaryIO, copy: Path, *, begun_with: Container[tuple[int, str]] | None) -> Path:
    """Copy what can be read once only; where nothing comes, an earlier copy stays.

    A job is continued by the same command, perhaps without the pipe before it. The copy that it
    began with is the only one there is, so nothing else takes its place.
    """
    fresh, digest = copy.with_suffix(".new"), hashlib.sha256()
    try:
        fresh.touch(PRIVATE)
        with fresh.open("wb") as target:
            while block := file.read(2**20):
                digest.update(block)
                target.write(block)
            target.flush()
            os.fsync(target.fileno())
            size = target.tell()
        if not size and copy.exists():
            fresh.unlink()
        elif begun_with is not None and (size, digest.hexdigest()) not in begun_with:
            fresh.unlink()
            raise not_the_job(copy.parent, [phrase("other bytes come through the pipe")])
        else:
            replace(fresh, copy)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise Refused(
            phrase("the input cannot be copied: {reason}", reason=reason_of(error)),
            where=str(copy),
            hint="what comes through a pipe is kept, so that the job can go on later",
        ) from None
    return copy


def _local(name: str, path: str, shape: Shape | None) -> Part:
    try:
        with Path(path).open("rb") as file:
            head = file.read(16)
            status = os.fstat(file.fileno())
    except OSError as error:
        raise cannot_read(name, reason_of(error)) from None
    shape, packing = _kind(name, head, shape)
    folder = Path(name).parent if path == name else Path()  # a copy of a pipe has none
    return Part(
        printable(name), path, shape, packing, status.st_size, status.st_mtime_ns, folder=folder,
        touched=status.st_ctime_ns,
    )  # fmt: skip


def _remote(name: str, shape: Shape | None, leave: Callable[[str, Any], bool]) -> list[Part]:
    """Return the files of a URL such as `s3://bucket/folder/*.jsonl.gz`.

    `*` stands for any part of a name, `**/` for any folders; a query has the store's options.
    """
    url, shown = read_url(name), without_keys(name)
    if url.scheme in ("http", "https"):
        raise Refused(
            "an input is not read over HTTP: it is read twice, and must be the same both times",
            where=shown,
            hint=phrase("fetch it first: `curl -O {url}`", url=quoted(shown)),
        )
    system = library("pyarrow.fs")
    first = url.path.partition("*")[0]
    wild = first != url.path
    base = first.rpartition("/")[0] if wild else url.path
    try:
        store, top = open_store(urlunsplit(url._replace(path=base)))
        place = system.FileSelector(top, recursive="/" in url.path[len(first) :]) if wild else [top]
        # A single file that is away is listed too, as a path where nothing is.
        found = [info for info in store.get_file_info(place) if info.type == system.FileType.File]
        glob_of = _pattern(top.rstrip("/") + url.path[len(base) :]) if wild else re.compile(".*")
        parts = []
        for info in sorted(found, key=lambda info: str(info.path)):
            if not glob_of.fullmatch(info.path):
                continue
            if not (wild and leave(info.path, store)):
                with store.open_input_stream(info.path, compression=None) as file:
                    kind = _kind(info.path, file.read(16), shape)
                shown_path = f"{url.scheme}://{info.path}"
                changed = info.mtime_ns or 0
                parts.append(Part(shown_path, info.path, *kind, info.size, changed, store))
    except store_faults() as error:
        raise cannot_read(shown, store_fault(error, name)) from None
    if not parts:
        raise Refused(_NO_MATCH if wild else _NO_FILE, where=shown)
    return parts


def _pattern(glob_text: str) -> re.Pattern[str]:
    wild = {"**/": "(?:.*/)?", "*": "[^/]*"}
    pieces = re.split(r"(\*\*/|\*)", glob_text)
    return re.compile("".join(wild.get(piece, re.escape(piece)) for piece in pieces), re.DOTALL)


def _kind(name: str, head: bytes, shape: Shape | None) -> tuple[Shape, str]:
    packing = next((kind for magic, kind in _PACKED.items() if head.startswith(magic)), "")
    for magic, kind in _UNKNOWN.items():
        if head.startswith(magic):
            raise Refused(
                phrase("this is a file of {kind}, which is not read", kind=kind),
                where=name,
                hint="inputs are JSON lines or CSV, with or without gzip or zstd, or Parquet",
            )
    if head.startswith(b"PAR1"):
        return Shape.PARQUET, ""
    plain = re.sub(r"\.(gz|zst|zstd)$", "", name.lower())
    by_name = {".csv": Shape.CSV, ".tsv": Shape.TSV}.get(PurePosixPath(plain).suffix, Shape.LINES)
    return shape or by_name, packing

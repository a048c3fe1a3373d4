"""Find and read logs: files, folders, pipes; packed or not, in UTF-8 or what Windows writes.

What cannot be read, or not to its end, is told: a log that nobody read is no proof of health.
"""

import bz2
import codecs
import gzip
import io
import lzma
import os
import stat
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

from ropeway.errors import Refused, reason_of
from ropeway.phrases import phrase
from ropeway.units import format_bytes

STDIN = Path("-")
# Names of logs: `engine.log`, `plog-1_2.log.gz`, `ray.out`, `raylet.err`, `engine.log.1`.
_SUFFIXES = (".err", ".gz", ".bz2", ".xz", ".log", ".out", ".txt")
_MOST_FILES = 20_000
# File systems without logs, which take minutes to walk or change meanwhile.
_PSEUDO = {Path("/proc"), Path("/sys"), Path("/dev")}
_BLOCK_BYTES = 1 << 20
# A pipe may have no end. After so much the user is told; after more, the rest is left.
_LARGE_STREAM, _MOST_OF_STREAM = 200_000_000, 4 << 30
_UNPACK: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": partial(gzip.open, mode="rb"),
    b"BZh": partial(bz2.open, mode="rb"),
    b"\xfd7zXZ\x00": partial(lzma.open, mode="rb"),
}
_PACKED_OTHERWISE = "{name}: packed with {packer}: unpack it first"
WHERE_LOGS_ARE = phrase(
    "give a file, or a directory such as runs/ or ~/ascend/log; what a container wrote comes by a "
    "pipe: `docker logs NAME 2>&1 | ropeway diagnose -`"
)
_PACKED = {b"PK\x03\x04": "zip", b"\x28\xb5\x2f\xfd": "zstd"}


def find_logs(names: Sequence[str], unread: list[str]) -> list[Path]:
    """Return the logs of these files and folders, each once; folders and files that cannot be
    looked into are added to `unread`.

    Raises Refused for a name without a log.
    """
    found: list[Path] = []
    for path in map(Path, names):
        mode = _mode(path)
        if path != STDIN and stat.S_ISDIR(mode):
            found += _logs_in(path, unread)
            continue
        if stat.S_ISBLK(mode) or stat.S_ISSOCK(mode) or (stat.S_ISCHR(mode) and not _typed(path)):
            what = phrase("this is a device, not a log")
            raise Refused(what, where=name_of(path), hint=WHERE_LOGS_ARE)
        found.append(path)
    return list(dict.fromkeys(found))


def name_of(path: Path) -> str:
    """Return how a log is called; bytes of its name that are no text are replaced."""
    return "stdin" if path == STDIN else os.fsencode(path).decode("utf-8", "replace")


def size_of(path: Path) -> int:
    """Return a file's size in bytes; 0 where that is not known, or the file has gone."""
    try:
        return 0 if path == STDIN else path.stat().st_size
    except OSError:
        return 0


def blocks_of(path: Path, unread: list[str], tell: Callable[[str], None]) -> Iterator[str]:
    """Yield the text of a log, unpacked, in blocks; why it could not be read is added to `unread`.

    tell  is called with what the user should know while a pipe is read
    """
    try:
        if path == STDIN:
            stdin = io.BufferedReader(cast(io.RawIOBase, sys.stdin.buffer))
            try:
                yield from _text(stdin, path, unread, tell)
            finally:
                stdin.detach()
            return
        if stat.S_ISFIFO(path.stat().st_mode):
            tell(phrase("reading from the pipe {name} until it ends", name=name_of(path)))
        with path.open("rb") as file:
            yield from _text(file, path, unread, tell)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else str(error)
        unread.append(f"{name_of(path)}: {reason}")


def _mode(path: Path) -> int:
    """Return what kind of file it is. Raises Refused where there is none."""
    try:
        if path != STDIN:
            return path.stat().st_mode
        return os.fstat(sys.stdin.fileno()).st_mode
    except io.UnsupportedOperation:  # standard input is no file of the system
        return 0
    except AttributeError:
        raise Refused(phrase("standard input is closed"), where="stdin") from None
    except (OSError, ValueError) as error:
        if isinstance(error, FileNotFoundError):
            what = phrase("this log does not exist")
            raise Refused(what, where=name_of(path), hint=WHERE_LOGS_ARE) from None
        reason = reason_of(error) if isinstance(error, OSError) else str(error)
        what = phrase("this log cannot be read: {reason}", reason=reason)
        raise Refused(what, where=name_of(path)) from None


def _typed(path: Path) -> bool:
    """Return whether a person types into this."""
    return path == STDIN and sys.stdin.isatty()


def _logs_in(folder: Path, unread: list[str]) -> list[Path]:
    """Return every regular file below that is named like a log. Raises Refused without any."""

    def skip(error: OSError) -> None:
        unread.append(f"{name_of(Path(error.filename or folder))}: {reason_of(error)}")

    found: list[Path] = []
    for parent, folders, names in os.walk(folder, onerror=skip):
        here = Path(parent)
        folders[:] = sorted(each for each in folders if (here / each).absolute() not in _PSEUDO)
        for path in (here / name for name in sorted(names)):
            if not set(path.suffixes) & set(_SUFFIXES):
                continue
            try:
                regular = stat.S_ISREG(path.stat().st_mode)
            except OSError as error:
                skip(error)
                continue
            if regular and len(found) == _MOST_FILES:
                unread.append(phrase(_TOO_MANY, name=name_of(folder), most=f"{_MOST_FILES:,}"))
                return found
            if regular:
                found.append(path)
    if not found and not unread:
        names_of_logs = phrase(
            "logs are named *{names}; give others one by one", names=", *".join(_SUFFIXES)
        )
        raise Refused(
            "there is no log in this directory", where=name_of(folder), hint=names_of_logs
        )
    return sorted(found)


_TOO_MANY = "{name}: only the first {most} logs of this directory are read"


def _text(
    file: IO[bytes], path: Path, unread: list[str], tell: Callable[[str], None]
) -> Iterator[str]:
    begin = cast(io.BufferedReader, file).peek(1 << 12)
    for magic, name in _PACKED.items():
        if begin.startswith(magic):
            unread.append(phrase(_PACKED_OTHERWISE, name=name_of(path), packer=name))
            return
    unpack = next((make for magic, make in _UNPACK.items() if begin.startswith(magic)), None)
    source = unpack(file) if unpack else file
    whole = path != STDIN and stat.S_ISREG(os.fstat(file.fileno()).st_mode)

    def blocks(first: bytes) -> Iterator[bytes]:
        block, taken = first, 0
        while block:
            yield block
            before, taken = taken, taken + len(block)
            if not whole and taken >= _MOST_OF_STREAM:
                size = format_bytes(taken)
                unread.append(phrase(_TOO_LONG, name=name_of(path), size=size))
                return
            if not whole and before < _LARGE_STREAM <= taken:
                size = format_bytes(taken)
                tell(phrase("{size} of {name} so far: reading on", size=size, name=name_of(path)))
            block = source.read(_BLOCK_BYTES)

    first = source.read(_BLOCK_BYTES)
    yield from codecs.iterdecode(blocks(first), _encoding(first[:4096]), "replace")


_TOO_LONG = "{name}: only the first {size} of this pipe are read"


def _encoding(begin: bytes) -> str:
    """Return the encoding of a log by its first bytes: UTF-16, as PowerShell saves it, or UTF-8."""
    if begin.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    even, odd = begin[::2].count(0), begin[1::2].count(0)
    if max(even, odd) > len(begin) // 4 and min(even, odd) < max(even, odd) // 8:
        return "utf-16-le" if odd > even else "utf-16-be"
    return "utf-8-sig"

"""How full the file systems of a host are, /dev/shm among them."""

import re
from dataclasses import dataclass
from typing import Any

from ropeway.facts.base import Output, Reading
from ropeway.facts.printed import decimal, printed, refusal, seen


@dataclass(frozen=True)
class Filesystem:
    """One row of df. Sizes are exact with `df -k` and rounded by `df -h`.

    type          with `df -T` only
    used_percent  of what users may have; None where it has no size
    """

    device: str
    mount: str
    size_bytes: int | None
    used_bytes: int | None
    available_bytes: int | None
    used_percent: int | None
    type: str | None = None


@dataclass(frozen=True)
class Filesystems:
    """In the order of the output: with paths given, one for each path that is there.

    missing  paths given that are not there
    """

    filesystems: tuple[Filesystem, ...]
    missing: tuple[str, ...] = ()


def df_command(*paths: str) -> tuple[str, ...]:
    """The file systems that hold these paths."""
    return ("df", "-Pk", *paths)


def parse_df(text: str) -> Reading[Filesystems]:
    """Read df with -P, -k, -m, -h or -T, of coreutils (also in Chinese) or busybox."""
    out = printed(text, "df")
    found: list[Filesystem] = []
    missing: list[str] = []
    unread: list[str] = []
    header = ""
    wrapped: list[str] = []
    for line in out.lines:
        words = line.split()
        absent = _MISSING.search(line)
        if _HEADER.match(line):
            header, wrapped = line, []
            continue
        row = _row(words, header)
        if row:
            found.append(row)
            unread += wrapped
            wrapped = []
        elif wrapped and (row := _row(wrapped + words, header)):
            found.append(row)
            wrapped = []
        elif absent:
            missing.append(absent[1])
        elif len(words) == 1 and not wrapped:  # a long device, with its numbers on the next line
            wrapped = words
        else:
            unread.append(line)
    if not found:
        return Reading.absent(text) if missing else refusal(text)
    value = Filesystems(tuple(found), tuple(missing))
    return Reading.of(value, tuple(unread + wrapped), cut=out.cut)


def _row(words: list[str], header: str) -> Filesystem | None:
    """Device, perhaps type, size, used, available, percent, mount; both ends may have blanks."""
    if _INODES.search(header):
        return None
    unit, has_type = _unit(header), _TYPE.search(header) is not None
    for place in range(4, len(words) - 1):
        if not (_PERCENT.fullmatch(words[place]) and words[place + 1].startswith("/")):
            continue
        sizes = [_size(word, unit) for word in words[place - 3 : place]]
        if any(size == "" for size in sizes):
            continue
        before = words[: place - 3]
        typed = has_type and len(before) > 1
        size, used, available = (size if isinstance(size, int) else None for size in sizes)
        percent = words[place].rstrip("%")
        return Filesystem(
            device=" ".join(before[:-1] if typed else before),
            mount=" ".join(words[place + 1 :]),
            size_bytes=size,
            used_bytes=used,
            available_bytes=available,
            used_percent=int(percent) if percent != "-" else None,
            type=before[-1] if typed else None,
        )
    return None


def _unit(header: str) -> int:
    """Bytes in the unit of the numbers, from `1024-blocks`, `1K-块`, `1M-blocks`, `512-blocks`."""
    found = _BLOCKS.search(header)
    if not found:
        return 1024
    return int(found[1]) * _FACTORS[found[2]]


def _size(word: str, unit: int) -> int | str | None:
    """Bytes; None for `-`; "" for what is no size."""
    if word == "-":
        return None
    found = _SIZE.fullmatch(word)
    number = decimal(found[1]) if found else None
    if not found or number is None:
        return ""
    return int(number * (_FACTORS[found[2]] if found[2] else unit))


_FACTORS = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "P": 2**50}
_SIZE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,3})?)([BKMGTP]?)i?B?")
_PERCENT = re.compile(r"[0-9]{1,3}%|-")
_TYPE = re.compile(r"\s(?:Type|类型)\s")
_INODES = re.compile(r"\sI(?:nodes|Use%|Used)\s")
_HEADER = re.compile(r"\s*(?:Filesystem\s|文件系统\s)")
_BLOCKS = re.compile(r"\b([0-9]{1,9})([KMGT]?)B?-(?:blocks|块)")
_MISSING = re.compile(
    r"df: (?:cannot access |can't find mount point for )?['‘“]?(/[^'’”]{0,1000}?)['’”]?"
    r": (?:No such file|没有那个文件|can't find mount point)"
)

_DF_HEADER = re.compile(
    r"^[> \t]*(?:Filesystem|文件系统)\s.{0,120}(?:Mounted on|挂载点)\s*$", re.MULTILINE
)

OUTPUTS: tuple[Output[Any], ...] = (
    Output("df", "df -Pk PATH…", parse_df, lambda text: seen(text, 0.95, _DF_HEADER)),
)

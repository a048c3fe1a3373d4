"""The memory of a host: how much, how much is left, and in pages of which size."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ropeway.facts.base import Output, Reading
from ropeway.facts.printed import printed, refusal, seen, whole

COMMANDS: Mapping[str, tuple[str, ...]] = {
    "meminfo": ("cat", "/proc/meminfo"),
    "transparent-hugepages": ("cat", "/sys/kernel/mm/transparent_hugepage/enabled"),
}


@dataclass(frozen=True)
class Memory:
    """/proc/meminfo, see proc(5).

    available_bytes  what new work can have without swapping; None before Linux 3.14
    shared_bytes     /dev/shm and the like
    hugepages_*      a count of pages of `hugepage_bytes` each
    """

    total_bytes: int | None
    free_bytes: int | None
    available_bytes: int | None
    shared_bytes: int | None
    swap_total_bytes: int | None
    swap_free_bytes: int | None
    hugepages_total: int | None
    hugepages_free: int | None
    hugepage_bytes: int | None


@dataclass(frozen=True)
class TransparentHugepages:
    """`mode` is the one in brackets: `always`, `madvise` or `never`."""

    mode: str


def parse_meminfo(text: str) -> Reading[Memory]:
    """Read /proc/meminfo."""
    out = printed(text)
    found: dict[str, int] = {}
    unread = []
    for line in out.lines:
        key, colon, value = line.strip().partition(":")
        words = value.split()
        number = whole(words[0]) if words else None
        if not colon or number is None or len(words) > 2 or words[1:] not in ([], ["kB"]):
            unread.append(line)
            continue
        found[key.strip()] = number * 1024 if words[1:] else number
    if not found.keys() & {"MemTotal", "MemAvailable", "MemFree"}:
        return refusal(text)
    memory = Memory(
        total_bytes=found.get("MemTotal"),
        free_bytes=found.get("MemFree"),
        available_bytes=found.get("MemAvailable"),
        shared_bytes=found.get("Shmem"),
        swap_total_bytes=found.get("SwapTotal"),
        swap_free_bytes=found.get("SwapFree"),
        hugepages_total=found.get("HugePages_Total"),
        hugepages_free=found.get("HugePages_Free"),
        hugepage_bytes=found.get("Hugepagesize"),
    )
    return Reading.of(memory, tuple(unread), cut=out.cut)


def parse_transparent_hugepages(text: str) -> Reading[TransparentHugepages]:
    """Read `always [madvise] never`."""
    out = printed(text)
    for line in out.lines:
        found = _MODE.search(line)
        if found:
            unread = tuple(other for other in out.lines if other is not line)
            return Reading.of(TransparentHugepages(found[1]), unread, cut=out.cut)
    return refusal(text)


_MODE = re.compile(r"\[(always|madvise|never)\]")
_MEMINFO_LINE = re.compile(r"^[> \t]*Mem(?:Total|Free|Available): +[0-9]+ kB", re.MULTILINE)
_MODE_LINE = re.compile(
    r"\A[> \t]*(?:always|\[always\]) (?:madvise|\[madvise\]) (?:never|\[never\])"
)

OUTPUTS: tuple[Output[Any], ...] = (
    Output(
        "meminfo",
        "cat /proc/meminfo",
        parse_meminfo,
        lambda text: seen(text, 0.95, _MEMINFO_LINE),
    ),
    Output(
        "transparent-hugepages",
        "cat /sys/kernel/mm/transparent_hugepage/enabled",
        parse_transparent_hugepages,
        lambda text: seen(text, 0.95, _MODE_LINE),
    ),
)

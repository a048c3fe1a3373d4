"""Extract numbers and names from the lines of a failure, and put them into words."""

import math
import re
from collections.abc import Iterable, Sequence

from ropeway.diagnosis.links import Link
from ropeway.diagnosis.result import Text
from ropeway.diagnosis.scan import Clock, Failure, Scan
from ropeway.diagnosis.shell import conditions, variables_in
from ropeway.diagnosis.signatures import Signature, table
from ropeway.units import format_bytes

_MAX_DETAILS = 8
_MAX_SILENT_RANKS = 3


def details_of(
    decisive: Failure, row: Signature | None, failures: Sequence[Failure], scans: Sequence[Scan]
) -> tuple[Text, ...]:
    """Return what the decisive line, the lines around it and all logs together say in numbers."""
    lines = (decisive.entry.message, *(entry.message for entry in decisive.around))
    details: list[Text] = []
    for detail in row.details if row else ():
        match = next((match for line in lines if (match := detail.find.search(line))), None)
        if match:
            groups = {name: Value(text) for name, text in match.groupdict(default="?").items()}
            details.append(Text(detail.say.en.format(**groups), detail.say.zh.format(**groups)))
    shown = {key: value for each in scans for key, value in each.shown.items()}
    if row:
        details += [text for name, text in conditions(shown).items() if name in row.layout]
        details += variables_in(f"{row.cause.en} {row.fix.en}", shown)
    if row and row.id == "npu-out-of-memory":
        details += _memory_of_others(decisive.entry.message)
    if row and row.id == "encoder-heads-not-divisible":
        details += _sizes_that_divide(decisive.entry.message)
    if row and row.category == "hang":
        details += _spread([each for each in failures if each.row is row])
    if row and row.category == "network":
        details += _silent_ranks(link for each in scans for link in each.links)
    return tuple(dict.fromkeys(details))[:_MAX_DETAILS]


class Value(str):
    """A piece of a log with formats of its own: `{size:bytes}`, `{code:hccl}` (`hccl-zh`).

    A text that the format does not fit is printed as it is.
    """

    __slots__ = ()

    def __format__(self, form: str) -> str:
        if form == "bytes" and self.isdecimal() and len(self) < 20:
            return format_bytes(int(self))
        if form.startswith("hccl") and (code := table().codes["hccl"].get(str(self))):
            return code.meaning.zh if form == "hccl-zh" else code.meaning.en
        return str(self)


def _memory_of_others(message: str) -> list[Text]:
    """Return how much of the NPU torch_npu's out-of-memory line leaves to other processes."""
    match = _MEMORY.search(message)
    if not match:
        return []
    total, free, reserved = (
        float(match[name]) * _UNITS[match[f"{name}_unit"]] for name in ("total", "free", "held")
    )
    others = total - free - reserved
    # The driver and the communication library take a few GiB of their own.
    if others < 4 * _UNITS["GiB"]:
        return []
    size = format_bytes(round(others))
    return [
        Text(
            f"this process does not account for {size} of the NPU: another process holds it",
            f"该 NPU 有 {size} 不属于本进程，被其他进程占用",
        )
    ]


def _sizes_that_divide(message: str) -> list[Text]:
    """Return the largest tensor-parallel size that divides the number and the size asked for."""
    match = _NOT_DIVISIBLE.search(message)
    if not match:
        return []
    size = math.gcd(int(match["number"]), int(match["size"]))
    return [
        Text(
            f"--tensor-parallel-size {size} divides both",
            f"--tensor-parallel-size {size} 可同时整除两者",
        )
    ]


def _spread(reports: Sequence[Failure]) -> list[Text]:
    """Return how many processes report the same hang, and how many seconds apart.

    If longer than the timeout, the last rank was late; if at once, a rank that does not report it
    is stuck.
    """
    clock = Clock(reports)
    seconds = [at for each in reports if (at := clock.seconds(each)) is not None]
    if len({each.process for each in reports}) < 2 or len(seconds) < 2:
        return []
    count, spread = len(seconds), max(seconds) - min(seconds)
    return [
        Text(
            f"{count} processes report it, the last {spread:,.0f} s after the first",
            f"{count} 个进程报告，首末相差 {spread:,.0f} 秒",
        )
    ]


def _silent_ranks(links: Iterable[Link]) -> list[Text]:
    """Return the ranks that most others waited for in vain, from HCCL's tables in all logs."""
    waiting: dict[tuple[int, str], list[int]] = {}
    for link in links:
        if link.status in ("time out", "no connect", "connect fail", None):
            silent = (link.destination_rank, link.destination)
            waiting.setdefault(silent, []).append(link.source_rank)
    details = []
    most = sorted(waiting.items(), key=lambda item: len(item[1]), reverse=True)
    for (rank, address), sources in most[:_MAX_SILENT_RANKS]:
        ranks = ", ".join(map(str, sorted(set(sources))[:8]))
        details.append(
            Text(
                f"rank {rank} ({address}) did not answer rank {ranks}",
                f"rank {rank}（{address}）没有应答 rank {ranks}",
            )
        )
    return details


_UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_NOT_DIVISIBLE = re.compile(r"(?P<number>\d{1,9}) is not divisible by (?P<size>\d{1,9})")
_SIZE = r"\d{1,9}(?:\.\d{1,9})?"
_MEMORY = re.compile(
    rf"(?P<total>{_SIZE}) (?P<total_unit>[KMG]iB) total capacity.{{0,120}}?"
    rf"(?P<free>{_SIZE}) (?P<free_unit>[KMG]iB) free;"
    rf" (?P<held>{_SIZE}) (?P<held_unit>[KMG]iB) reserved"
)

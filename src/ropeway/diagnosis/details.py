"""Numbers and names out of the lines of a failure, put into words."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from ropeway.diagnosis.result import Text
from ropeway.diagnosis.scan import Scan, Sighting
from ropeway.diagnosis.signatures import Signature, table
from ropeway.facts.log_lines import has_year, seconds_of
from ropeway.facts.logs import Link
from ropeway.units import format_bytes

_MOST = 8


def details_of(
    sighting: Sighting, row: Signature | None, seen: Sequence[Sighting], scans: Sequence[Scan]
) -> tuple[Text, ...]:
    """What the line and its neighbours say in numbers, and what the logs say together."""
    lines = (sighting.entry.message, *(entry.message for entry in sighting.around))
    said: list[Text] = []
    for detail in row.details if row else ():
        found = next((match for line in lines if (match := detail.find.search(line))), None)
        if found:
            groups = {name: Value(text) for name, text in found.groupdict(default="?").items()}
            said.append(Text(detail.say.en.format(**groups), detail.say.zh.format(**groups)))
    if row and row.id == "npu-out-of-memory":
        said += _held_by_others(sighting.entry.message)
    if row and row.category == "hang":
        said += _apart([one for one in seen if one.row is row])
    if row and row.category == "network":
        said += _silent_ranks(link for found in scans for link in found.links)
    return tuple(dict.fromkeys(said))[:_MOST]


class Value(str):
    """A piece of a log that knows how it may be printed: `{size:bytes}`, `{code:hccl}` (in Chinese
    `{code:hccl-zh}`)."""

    __slots__ = ()

    def __format__(self, form: str) -> str:
        if form == "bytes" and self.isdecimal() and len(self) < 20:
            return format_bytes(int(self))
        if form.startswith("hccl") and (known := table().codes["hccl"].get(str(self))):
            return known.meaning.zh if form == "hccl-zh" else known.meaning.en
        return str(self)


def _held_by_others(message: str) -> list[Text]:
    """Of a torch_npu out-of-memory line: how much of the card this process does not account for."""
    found = _MEMORY.search(message)
    if not found:
        return []
    total, free, reserved = (
        float(found[name]) * _UNITS[found[f"{name}_unit"]] for name in ("total", "free", "held")
    )
    others = total - free - reserved
    # The driver and the communication library take some GiB of their own.
    if others < 4 * _UNITS["GiB"]:
        return []
    size = format_bytes(round(others))
    return [
        Text(
            f"this process does not account for {size} of the card: another one holds it",
            f"该卡有 {size} 不属于本进程，被其他进程占用",
        )
    ]


def _apart(told: Sequence[Sighting]) -> list[Text]:
    """How long after one another the ranks report the same: longer than the limit, and the last
    one was late; at once, and one that does not report is stuck."""
    times = [one.entry.time for one in told if one.entry.time]
    with_year = all(has_year(time) for time in times)
    seconds = [at for time in times if (at := seconds_of(time, with_year=with_year)) is not None]
    if len({one.process for one in told}) < 2 or len(seconds) < 2:
        return []
    count, apart = len(seconds), max(seconds) - min(seconds)
    return [
        Text(
            f"{count} processes report it, the last {apart:,.0f} s after the first",
            f"{count} 个进程报告，首末相差 {apart:,.0f} 秒",
        )
    ]


def _silent_ranks(links: Iterable[Link]) -> list[Text]:
    """From HCCL's tables of links in all logs: who did not answer, and whom."""
    waited: Counter[tuple[int, str]] = Counter()
    by: dict[tuple[int, str], set[int]] = {}
    for link in links:
        if link.status not in ("time out", "no connect", "connect fail", None):
            continue
        silent = (link.destination_rank, link.destination)
        waited[silent] += 1
        by.setdefault(silent, set()).add(link.source_rank)
    said = []
    for (rank, address), _ in waited.most_common(3):
        ranks = ", ".join(map(str, sorted(by[rank, address])[:8]))
        said.append(
            Text(
                f"rank {rank} ({address}) did not answer rank {ranks}",
                f"rank {rank}（{address}）没有应答 rank {ranks}",
            )
        )
    return said


_UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_MEMORY = re.compile(
    r"(?P<total>[\d.]{1,9}) (?P<total_unit>[KMG]iB) total capacity.{0,120}?"
    r"(?P<free>[\d.]{1,9}) (?P<free_unit>[KMG]iB) free; (?P<held>[\d.]{1,9}) (?P<held_unit>[KMG]iB)"
    r" reserved"
)

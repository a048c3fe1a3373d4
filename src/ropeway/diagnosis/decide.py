"""From the failures seen in all logs to the one that came first, and what is to be made of it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from ropeway.diagnosis.details import details_of
from ropeway.diagnosis.result import Aside, Diagnosis, LogLine, LogRead, Text, Verdict
from ropeway.diagnosis.scan import CALM, Scan, Sighting, scan
from ropeway.diagnosis.signatures import Signature, link_to, table
from ropeway.facts.log_lines import LogEntry, has_year, seconds_of

# vLLM's log counts in seconds and CANN's in microseconds: within this a line is not the later one.
_SAME_MOMENT_SECONDS = 2.0
_MOST_ASIDE = 8
_MOST_EVIDENCE = 6


def diagnose(logs: Mapping[str, str]) -> Diagnosis:
    """The earliest root cause over these logs: name → text."""
    return diagnose_blocks((name, (text,)) for name, text in logs.items())


def diagnose_blocks(logs: Iterable[tuple[str, Iterable[str]]]) -> Diagnosis:
    """The same for logs that come in pieces and may be larger than memory."""
    return conclude([scan(name, blocks) for name, blocks in logs])


def conclude(scans: Sequence[Scan]) -> Diagnosis:
    """The diagnosis of logs that have been read; their order does not matter."""
    scans = sorted(scans, key=lambda found: found.name)
    seen = [sighting for found in scans for sighting in found.sightings.values()]
    by_name = {found.name: found for found in scans}
    survived = [sighting for sighting in seen if _survived(sighting, by_name[sighting.log])]
    done = set(map(id, survived))
    open_ones = [sighting for sighting in seen if id(sighting) not in done]
    decisive = _earliest([sighting for sighting in open_ones if _weight(sighting) < _PLAIN])
    decisive = decisive or _symptom(open_ones)
    reads = tuple(_read(found) for found in scans)
    if decisive is None:
        return _healthy(scans, survived, reads)
    row = _refined(decisive, open_ones, scans) or decisive.row
    verdict = _verdict(row)
    return Diagnosis(
        verdict=verdict,
        headline=said(decisive.entry),
        line=_line(decisive),
        signature=row.id if row else None,
        echo=bool(row and row.kind == "echo"),
        category=row.category if row else None,
        cause=row.cause if row else _UNKNOWN_CAUSE,
        fix=row.fix if row else _UNKNOWN_FIX,
        details=details_of(decisive, row, open_ones, scans),
        source=tuple(link_to(source) for source in row.source) if row else (),
        versions=row.versions if row else None,
        basis=row.basis if row else "none",
        evidence=_evidence(decisive),
        aside=_aside(decisive, open_ones, survived),
        notes=_notes(verdict, decisive, scans),
        logs=reads,
    )


# How well a line names a cause; the lower, the better.
_ROOT, _RANK_ERROR, _OTHER_ERROR, _CODE, _PLAIN, _SECONDARY, _ECHO, _NOISE = range(8)


def _weight(sighting: Sighting) -> int:
    row = sighting.row
    if row is None:
        if not sighting.exception:
            return _PLAIN
        return _RANK_ERROR if sighting.by_rank else _OTHER_ERROR
    if row.kind == "root":
        return (_ROOT, _OTHER_ERROR, _CODE)[row.weak]
    return {"secondary": _SECONDARY, "echo": _ECHO, "noise": _NOISE}[row.kind]


def _survived(sighting: Sighting, found: Scan) -> bool:
    """Whether its process went on after it, which makes it no cause.

    The server came up, or the process failed later of a cause that we know.
    """
    if found.ready_line is not None and sighting.entry.line < found.ready_line:
        return True
    if sighting.row is not None or not sighting.exception:
        return False
    return any(
        other.process == sighting.process
        and other.entry.line > sighting.entry.line
        and _weight(other) == _ROOT
        for other in found.sightings.values()
    )


def _earliest(candidates: Sequence[Sighting]) -> Sighting | None:
    """The best of those that came within a moment of the first one; without a time, at any."""
    if not candidates:
        return None
    clock = _Clock(candidates)
    times = [seconds for one in candidates if (seconds := clock.seconds(one)) is not None]
    first = min(times, default=0.0)
    at_once = [
        one
        for one in candidates
        if (seconds := clock.seconds(one)) is None or seconds - first <= _SAME_MOMENT_SECONDS
    ]
    return min(at_once, key=lambda one: (_weight(one), *_order(one, clock)))


def _symptom(candidates: Sequence[Sighting]) -> Sighting | None:
    """Where no line names a cause: the first that at least says what broke."""
    useful = [one for one in candidates if _weight(one) in (_PLAIN, _SECONDARY, _ECHO)]
    clock = _Clock(useful)

    def order(one: Sighting) -> tuple[object, ...]:
        # A part that broke says more than a line of level ERROR, and this more than an echo.
        worth = {_SECONDARY: 0, _PLAIN: 1, _ECHO: 2}[_weight(one)]
        return (worth, one.row.weak if one.row else 0, *_order(one, clock))

    return min(useful, key=order, default=None)


class _Clock:
    """Compares times of which some have no year: then the years of the others are left out too."""

    def __init__(self, sightings: Iterable[Sighting]) -> None:
        times = [one.entry.time for one in sightings if one.entry.time]
        self.with_years = all(has_year(time) for time in times)

    def seconds(self, sighting: Sighting) -> float | None:
        time = sighting.entry.time
        return None if time is None else seconds_of(time, with_year=self.with_years)


def _order(sighting: Sighting, clock: _Clock) -> tuple[object, ...]:
    seconds = clock.seconds(sighting)
    return (
        float("inf") if seconds is None else seconds,
        sighting.entry.line,
        sighting.log,
        sighting.entry.message,
    )


def _refined(
    decisive: Sighting, sightings: Sequence[Sighting], scans: Sequence[Scan]
) -> Signature | None:
    """A row for this kind of failure in this layout and version of the engine."""
    if _weight(decisive) < _CODE:
        return None
    told: dict[str, str] = {}
    for found in scans:
        told |= found.setting
    ids = {one.row.id for one in sightings if one.row}
    for row in table().signatures:
        fits = set(row.after) & ids and all(_has(told, part) for part in row.layout)
        if row.after and fits and _between(told.get("version"), row.between):
            return row
    return None


def _has(told: Mapping[str, str], part: str) -> bool:
    """Whether the logs tell that the layout has this part."""
    value = told.get(part, "")
    return int(value) > 1 if value.isdecimal() else bool(value)


def _between(version: str | None, limits: Sequence[str]) -> bool:
    if not limits:
        return True
    if version is None:
        return False
    low, high = (tuple(map(int, limit.split("."))) for limit in limits)
    return low <= tuple(map(int, version.split("."))) < high


def _verdict(row: Signature | None) -> Verdict:
    if row is None:
        return "unknown"
    return "known" if row.kind == "root" else "symptom"


def _healthy(
    scans: Sequence[Scan], survived: Sequence[Sighting], reads: tuple[LogRead, ...]
) -> Diagnosis:
    ready = next((found for found in scans if found.ready_line), None)
    cause = Text("No line tells of a failure.", "没有发现报错。")
    notes: tuple[Text, ...] = ()
    if ready:
        notes = (
            Text(
                f"the server says that it is ready: {ready.name}:{ready.ready_line}",
                f"服务已就绪：{ready.name}:{ready.ready_line}",
            ),
        )
    aside = tuple(_set_aside(one, len(survived), _SURVIVED) for one in survived[:1])
    return Diagnosis(
        "healthy", cause.en, None, None, False, None, cause, _NOTHING_TO_DO,
        aside=aside, notes=notes, logs=reads,
    )  # fmt: skip


def _aside(
    decisive: Sighting, sightings: Sequence[Sighting], survived: Sequence[Sighting]
) -> tuple[Aside, ...]:
    """What else was seen, one of each kind, best first, and why it is not the cause."""
    kinds: dict[object, list[Sighting]] = {}
    clock = _Clock([decisive, *sightings])
    others = [one for one in sightings if one is not decisive and _weight(one) != _PLAIN]
    for one in sorted(others, key=lambda one: (_weight(one), *_order(one, clock))):
        kind = one.row.id if one.row else ("unknown", _weight(one))
        if one.row is not None and decisive.row is not None and one.row.id == decisive.row.id:
            continue
        kinds.setdefault(kind, []).append(one)
    found = [
        _set_aside(group[0], sum(one.count for one in group), _why(group[0], decisive, clock))
        for group in kinds.values()
    ]
    found += [_set_aside(one, one.count, _SURVIVED) for one in survived[:1]]
    return tuple(found[:_MOST_ASIDE])


def _why(one: Sighting, decisive: Sighting, clock: _Clock) -> Text:
    """Why this line is not the cause."""
    if one.row and one.row.kind != "root":
        return one.row.cause
    mine, first = clock.seconds(one), clock.seconds(decisive)
    if mine is not None and first is not None and mine - first > _SAME_MOMENT_SECONDS:
        later = f"{mine - first:,.0f}"
        return Text(f"{later} s later", f"晚 {later} 秒")
    if _weight(one) > _weight(decisive):
        return Text("the cause says more exactly what happened", "原因行说得更具体")
    return Text("told after the cause", "出现在原因之后")


def _set_aside(one: Sighting, count: int, why: Text) -> Aside:
    return Aside(_line(one), count, one.row.id if one.row else None, why)


def _notes(verdict: Verdict, decisive: Sighting, scans: Sequence[Scan]) -> tuple[Text, ...]:
    notes = []
    if verdict == "symptom":
        notes.append(_ELSEWHERE)
    silent = [found.name for found in scans if not found.sightings]
    waited = verdict == "symptom" or (decisive.row is not None and decisive.row.weak)
    if waited and silent and len(scans) > 1:
        names = ", ".join(silent[:5]) + (" …" if len(silent) > 5 else "")
        notes.append(Text(f"without any error: {names}", f"没有任何报错的日志：{names}"))
    skew = next((found.skew_hours for found in scans if found.skew_hours), 0)
    if skew:
        hours = abs(skew)
        ahead, ahead_zh = ("ahead of", "快") if skew > 0 else ("behind", "慢")
        notes.append(
            Text(
                f"the NPU's clock is {hours} h {ahead} the host's: compare no times between them",
                f"NPU 时钟比主机{ahead_zh} {hours} 小时，不能直接比较两者的时间",
            )
        )
    return tuple(notes)


def _evidence(decisive: Sighting) -> tuple[LogLine, ...]:
    """The lines after it that say something in words or numbers, as far as they are its own."""
    own = [
        entry
        for entry in decisive.around
        if entry.line > decisive.entry.line
        and entry.level not in CALM
        and entry.process in (decisive.entry.process, None)
        and any(character.isalpha() for character in entry.message)
    ]
    return tuple(_line(replace(decisive, entry=entry)) for entry in own[:_MOST_EVIDENCE])


def _line(sighting: Sighting) -> LogLine:
    entry = sighting.entry
    return LogLine(
        sighting.log,
        entry.line,
        said(entry),
        entry.time,
        entry.process,
        entry.pid,
        entry.rank,
        entry.host,
    )


def said(entry: LogEntry) -> str:
    """The message, with the code that stood before it."""
    known = entry.code is None or entry.code in entry.message
    return entry.message if known else f"{entry.code}: {entry.message}"


def _read(found: Scan) -> LogRead:
    failures = sum(
        one.count for one in found.sightings.values() if _weight(one) not in (_PLAIN, _NOISE)
    )
    return LogRead(found.name, found.lines, found.characters, failures)


_UNKNOWN_CAUSE = Text(
    "Not known: no row of the failure table fits this line.", "未知：故障表中没有与此行对应的条目。"
)
_UNKNOWN_FIX = Text(
    "Search for the line in the issues of vllm-ascend and vLLM; on NPUs read the first ERROR of "
    "this process's plog: `grep -h ERROR ~/ascend/log/debug/plog/plog-PID_*.log | head`.",
    "在 vllm-ascend 和 vLLM 的 issue 中搜索该行；NPU 上查看该进程 plog 的第一条 ERROR："
    "`grep -h ERROR ~/ascend/log/debug/plog/plog-PID_*.log | head`。",
)
_NOTHING_TO_DO = Text("Nothing.", "无需处理。")
_SURVIVED = Text("its process went on after it", "该进程此后继续运行")
_ELSEWHERE = Text(
    "The cause is in none of these logs: add those of the other ranks and hosts, and "
    "~/ascend/log/debug/plog.",
    "这些日志中没有根因：请加上其他 rank、其他主机的日志以及 ~/ascend/log/debug/plog。",
)

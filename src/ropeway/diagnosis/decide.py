"""Decide which failure in the logs of all ranks is the cause, and explain it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from ropeway.diagnosis.details import details_of
from ropeway.diagnosis.log_lines import LogEntry
from ropeway.diagnosis.result import Diagnosis, LogLine, LogRead, RuledOut, Text, Verdict
from ropeway.diagnosis.scan import CALM, Clock, Failure, Scan, scan
from ropeway.diagnosis.shell import conditions, is_shown
from ropeway.diagnosis.signatures import Signature, link_to, table
from ropeway.engines.ascend_releases import order

# vLLM logs whole seconds and CANN microseconds: lines this close together have no order in time.
_SAME_MOMENT_SECONDS = 2.0
_MAX_RULED_OUT = 8
_MAX_EVIDENCE = 6


def diagnose(logs: Mapping[str, str]) -> Diagnosis:
    """Diagnose these logs (name → text) together."""
    return diagnose_blocks((name, (text,)) for name, text in logs.items())


def diagnose_blocks(logs: Iterable[tuple[str, Iterable[str]]]) -> Diagnosis:
    """Diagnose logs that come in blocks of text, as (name, blocks), and may exceed memory.

    Their order does not matter.
    """
    scans = sorted((scan(name, blocks) for name, blocks in logs), key=lambda each: each.name)
    survived, fatal = _split_by_survival(scans)
    read = tuple(map(_log_read, scans))
    decisive = _earliest(_told(fatal)) or _symptom(fatal)
    if decisive is None:
        return _healthy(scans, survived, read)
    row = _refined(decisive, fatal, scans) or decisive.row
    verdict: Verdict = "unknown"
    if row:
        verdict = "known" if row.kind == "root" else "symptom"
    return Diagnosis(
        verdict=verdict,
        headline=message_of(decisive.entry),
        line=_line(decisive),
        signature=row.id if row else None,
        echo=bool(row and row.kind == "echo"),
        category=row.category if row else None,
        cause=row.cause if row else _UNKNOWN_CAUSE,
        fix=row.fix if row else _UNKNOWN_FIX,
        details=details_of(decisive, row, fatal, scans),
        source=tuple(link_to(source) for source in row.source) if row else (),
        versions=row.versions if row else None,
        basis=row.basis if row else "none",
        evidence=_evidence(decisive),
        aside=_all_ruled_out(decisive, _without_evidence(row, fatal), survived),
        notes=_notes(verdict, row, scans),
        logs=read,
    )


def _told(fatal: Sequence[Failure]) -> list[Failure]:
    """Return the failures that may be the cause. What a shell could not show is one only where no
    row knows another: it is evidence for that.
    """
    told = [each for each in fatal if _weight(each) < _PLAIN]
    others = [each for each in told if not is_shown(each.entry.message)]
    return others if any(each.row for each in others) else told


def _without_evidence(row: Signature | None, failures: Sequence[Failure]) -> Sequence[Failure]:
    """Leave out what a shell could not show where the row goes by it."""
    if row is None or not row.layout:
        return failures
    return [each for each in failures if not is_shown(each.entry.message)]


# How well a line names a cause; the lower, the better.
(
    _ROOT, _EXACT_CODE, _RANK_ERROR, _OTHER_ERROR, _CODE,
    _PLAIN, _SECONDARY, _ECHO, _NOISE,
) = range(9)  # fmt: skip


def _weight(failure: Failure) -> int:
    row = failure.row
    if row is None:
        if not failure.exception:
            return _PLAIN
        return _RANK_ERROR if failure.by_rank else _OTHER_ERROR
    if row.kind == "root":
        return (_ROOT, _OTHER_ERROR, _EXACT_CODE, _CODE)[row.weak]
    return {"secondary": _SECONDARY, "echo": _ECHO, "noise": _NOISE}[row.kind]


def _split_by_survival(scans: Iterable[Scan]) -> tuple[list[Failure], list[Failure]]:
    """Return the failures that their processes survived, and the others."""
    survived: list[Failure] = []
    fatal: list[Failure] = []
    for each in scans:
        for failure in each.failures.values():
            (survived if _survived(failure, each) else fatal).append(failure)
    return survived, fatal


def _survived(failure: Failure, log: Scan) -> bool:
    """Return whether the process went on after this failure, so that it cannot be the cause.

    It did when the server came up afterwards, when the process failed later with a known cause, or
    when a shell printed it and the engine began afterwards, and failed by itself.
    """
    line, began = failure.entry.line, log.engine_line or 0
    if log.ready_line is not None and line < log.ready_line:
        return True
    others = log.failures.values()
    if failure.row is not None or not failure.exception:
        by_shell = not (failure.entry.level or failure.exception or failure.by_rank)
        return (by_shell and line < began) and any(
            other.entry.line > began and _weight(other) < _PLAIN for other in others
        )
    return any(
        other.process == failure.process and other.entry.line > line and _weight(other) == _ROOT
        for other in others
    )


def _earliest(candidates: Sequence[Failure]) -> Failure | None:
    """Return the best of the failures within a moment of the first; those without a time count too.

    None when there is none.
    """
    if not candidates:
        return None
    clock = Clock(candidates)
    times = [seconds for each in candidates if (seconds := clock.seconds(each)) is not None]
    first = min(times, default=0.0)
    simultaneous = [
        each
        for each in candidates
        if (seconds := clock.seconds(each)) is None or seconds - first <= _SAME_MOMENT_SECONDS
    ]
    return min(simultaneous, key=lambda each: (_weight(each), *_order(each, clock)))


def _symptom(candidates: Sequence[Failure]) -> Failure | None:
    """Return the first failure that says what broke, for logs in which no line names a cause."""
    useful = [each for each in candidates if _weight(each) in (_PLAIN, _SECONDARY, _ECHO)]
    clock = Clock(useful)

    def order(failure: Failure) -> tuple[object, ...]:
        # A part that broke says more than a line of level ERROR, and that more than an echo.
        worth = {_SECONDARY: 0, _PLAIN: 1, _ECHO: 2}[_weight(failure)]
        return (worth, failure.row.weak if failure.row else 0, *_order(failure, clock))

    return min(useful, key=order, default=None)


def _order(failure: Failure, clock: Clock) -> tuple[object, ...]:
    seconds = clock.seconds(failure)
    return (
        float("inf") if seconds is None else seconds,
        failure.entry.line,
        failure.log,
        failure.entry.message,
    )


def _refined(
    decisive: Failure, failures: Sequence[Failure], scans: Sequence[Scan]
) -> Signature | None:
    """Return the row that explains such a failure in this layout and engine version, if any."""
    settings: dict[str, str] = {}
    shown: dict[str, str] = {}
    for each in scans:
        settings |= each.settings
        shown |= each.shown
    settings |= dict.fromkeys(conditions(shown), "shown")
    ids = {decisive.row.id} if decisive.row else set()
    if _weight(decisive) >= _CODE:
        ids |= {failure.row.id for failure in failures if failure.row}
    for row in table().signatures:
        if (
            not ids.isdisjoint(row.after)
            and all(_is_set(settings.get(part, "")) for part in row.layout)
            and _between(settings.get("version"), row.between)
        ):
            return row
    return None


def _is_set(value: str) -> bool:
    """Return whether a setting is on: a size above 1, or any word."""
    return int(value) > 1 if value.isdecimal() else bool(value)


def _between(version: str | None, limits: Sequence[str]) -> bool:
    if not limits:
        return True
    return version is not None and order(limits[0]) <= order(version) < order(limits[1])


def _healthy(
    scans: Sequence[Scan], survived: Sequence[Failure], logs: tuple[LogRead, ...]
) -> Diagnosis:
    ready = next((each for each in scans if each.ready_line), None)
    cause = Text("No line reports a failure.", "没有发现报错。")
    notes: tuple[Text, ...] = ()
    if ready:
        notes = (
            Text(
                f"the server reports that it is ready: {ready.name}:{ready.ready_line}",
                f"服务已就绪：{ready.name}:{ready.ready_line}",
            ),
        )
    aside = tuple(_ruled_out(each, len(survived), _SURVIVED) for each in survived[:1])
    return Diagnosis(
        "healthy", cause.en, None, None, False, None, cause, _NOTHING_TO_DO,
        aside=aside, notes=notes, logs=logs,
    )  # fmt: skip


def _all_ruled_out(
    decisive: Failure, failures: Sequence[Failure], survived: Sequence[Failure]
) -> tuple[RuledOut, ...]:
    """List the other failures, one of each kind, the best first, and why each is not the cause."""
    kinds: dict[object, list[Failure]] = {}
    clock = Clock([decisive, *failures])
    others = [each for each in failures if each is not decisive and _weight(each) != _PLAIN]
    for each in sorted(others, key=lambda each: (_weight(each), *_order(each, clock))):
        if each.row is not None and decisive.row is not None and each.row.id == decisive.row.id:
            continue
        kind = each.row.id if each.row else ("unknown", _weight(each))
        kinds.setdefault(kind, []).append(each)
    ruled_out = [
        _ruled_out(kind[0], sum(each.count for each in kind), _why(kind[0], decisive, clock))
        for kind in kinds.values()
    ]
    ruled_out += [_ruled_out(each, each.count, _SURVIVED) for each in survived[:1]]
    return tuple(ruled_out[:_MAX_RULED_OUT])


def _why(failure: Failure, decisive: Failure, clock: Clock) -> Text:
    """Explain why this failure is not the cause."""
    if failure.row and failure.row.kind != "root":
        return failure.row.cause
    seconds, first = clock.seconds(failure), clock.seconds(decisive)
    if seconds is not None and first is not None and seconds - first > _SAME_MOMENT_SECONDS:
        later = f"{seconds - first:,.0f}"
        return Text(f"{later} s later", f"晚 {later} 秒")
    if _weight(failure) > _weight(decisive):
        return Text("the cause is more specific", "原因行说得更具体")
    return Text("reported after the cause", "出现在原因之后")


def _ruled_out(failure: Failure, count: int, why: Text) -> RuledOut:
    return RuledOut(_line(failure), count, failure.row.id if failure.row else None, why)


def _notes(verdict: Verdict, row: Signature | None, scans: Sequence[Scan]) -> tuple[Text, ...]:
    notes = []
    if verdict == "symptom":
        notes.append(_ELSEWHERE)
    elif row is not None and row.weak == 1:
        notes.append(_FOUND_SO_FAR)
    silent = [each.name for each in scans if not each.failures]
    waits_for_others = verdict == "symptom" or (row is not None and row.weak)
    if waits_for_others and silent and len(scans) > 1:
        names = ", ".join(silent[:5]) + (" …" if len(silent) > 5 else "")
        notes.append(Text(f"logs without any error: {names}", f"没有任何报错的日志：{names}"))
    skew = next((each.skew_hours for each in scans if each.skew_hours), 0)
    if skew:
        hours = abs(skew)
        ahead, ahead_zh = ("ahead of", "快") if skew > 0 else ("behind", "慢")
        notes.append(
            Text(
                f"the NPU's clock is {hours} h {ahead} the host's: do not compare their times",
                f"NPU 时钟比主机{ahead_zh} {hours} 小时，不能直接比较两者的时间",
            )
        )
    return tuple(notes)


def _evidence(decisive: Failure) -> tuple[LogLine, ...]:
    """Return the lines after the decisive one that belong to it and contain words."""
    own = [
        entry
        for entry in decisive.around
        if entry.line > decisive.entry.line
        and entry.level not in CALM
        and entry.process in (decisive.entry.process, None)
        and any(character.isalpha() for character in entry.message)
    ]
    return tuple(_line(replace(decisive, entry=entry)) for entry in own[:_MAX_EVIDENCE])


def _line(failure: Failure) -> LogLine:
    entry = failure.entry
    message, process = message_of(entry), entry.process
    return LogLine(
        failure.log, entry.line, message, entry.time, process, entry.pid, entry.rank, entry.host
    )


def message_of(entry: LogEntry) -> str:
    """Return the message, after the code that stood before it, if any."""
    has_code = entry.code is None or entry.code in entry.message
    return entry.message if has_code else f"{entry.code}: {entry.message}"


def _log_read(log: Scan) -> LogRead:
    failures = sum(
        each.count for each in log.failures.values() if _weight(each) not in (_PLAIN, _NOISE)
    )
    return LogRead(log.name, log.lines, log.characters, failures)


_UNKNOWN_CAUSE = Text(
    "No row of the failure table matches this line.",
    "故障表中没有与此行对应的条目。",
)
_UNKNOWN_FIX = Text(
    "Search for the line in the issues of vllm-ascend and vLLM; on NPUs read the first ERROR in "
    "this process's plog: `grep -h ERROR ~/ascend/log/debug/plog/plog-PID_*.log | head`.",
    "在 vllm-ascend 和 vLLM 的 issue 中搜索该行；NPU 上查看该进程 plog 的第一条 ERROR："
    "`grep -h ERROR ~/ascend/log/debug/plog/plog-PID_*.log | head`。",
)
_NOTHING_TO_DO = Text("Nothing.", "无需处理。")
_SURVIVED = Text("its process went on after it", "该进程此后继续运行")
_FOUND_SO_FAR = Text(
    "These are the causes found so far: there may be others.",
    "以上为目前已知的原因，可能还有其他原因。",
)
_ELSEWHERE = Text(
    "The cause is in none of these logs: add those of the other ranks and hosts, and "
    "~/ascend/log/debug/plog.",
    "这些日志中没有根因：请加上其他 rank、其他主机的日志以及 ~/ascend/log/debug/plog。",
)

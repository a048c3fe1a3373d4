"""Show a diagnosis in the terminal: the cause, then its line, the fix, and the sources."""

from rich.console import Group, RenderableType
from rich.text import Text

from ropeway.diagnosis.result import CATEGORIES, Diagnosis, LogLine, RuledOut
from ropeway.diagnosis.result import Text as Words
from ropeway.report.line import one_line, shrink
from ropeway.report.table import Rows, pairs, prose
from ropeway.units import counted

_LABELS = {
    "line": "日志行",
    "fix": "处理",
    "source": "来源",
    "where": "版本",
    "how sure": "依据",
    "note": "注意",
    "ruled out": "未采用",
}
_SURE = {
    "measured": Words("measured on this project's own cluster", "实测：在本项目的集群上出现过"),
    "recorded": Words(
        "recorded elsewhere with this line; not verified on NPU hardware by us",
        "他处有记录，本项目未在 NPU 硬件上验证",
    ),
    "once": Words(
        "one report elsewhere, not confirmed; not verified on NPU hardware by us",
        "仅一处报告，未经证实，本项目未在 NPU 硬件上验证",
    ),
    "source": Words(
        "read in the source code or manual; not verified on NPU hardware by us",
        "来自源码或手册，本项目未在 NPU 硬件上验证",
    ),
    "code": Words(
        "only the meaning of a code, which says what failed but not why",
        "仅为错误码含义：说明哪里失败，不说明原因",
    ),
    "none": Words("unknown", "未知"),
}
_MAX_LINE_LENGTH = 600
_RULED_OUT_WIDTH = 74
_MAX_RULED_OUT = 5


def diagnosis_view(diagnosis: Diagnosis, language: str = "en") -> RenderableType:
    """Return all of a diagnosis, in one language, within 80 columns."""
    if diagnosis.verdict == "healthy":
        lines = [prose(diagnosis.cause.in_language(language), "green")]
        lines += [prose(one_line(note.in_language(language)), "dim") for note in diagnosis.notes]
        return Group(*lines, *_all_ruled_out(diagnosis, language), _logs_read(diagnosis, language))
    return Group(
        _headline(diagnosis, language),
        Rows([(one_line(one.in_language(language)),) for one in diagnosis.details], indent=2),
        Text(),
        _facts(diagnosis, language),
        *_all_ruled_out(diagnosis, language),
        Text(),
        _logs_read(diagnosis, language),
    )


def _headline(diagnosis: Diagnosis, language: str) -> Rows:
    """Return category and cause, in red when the cause is known, else in yellow."""
    category = diagnosis.category or "unknown"
    name = Words(category, CATEGORIES.get(category, "未知")).in_language(language)
    style = "bold red" if diagnosis.verdict == "known" else "bold yellow"
    colon = "：" if language == "zh" else ": "
    cause = diagnosis.cause.in_language(language)
    return prose(Text.assemble((f"{name}{colon}", style), cause))


def _facts(diagnosis: Diagnosis, language: str) -> Rows:
    rows: list[tuple[str, Text]] = []
    if diagnosis.line:
        rows.append(("line", Text(_place(diagnosis.line), style="cyan")))
        rows.append(("", Text(shrink(one_line(diagnosis.headline), _MAX_LINE_LENGTH))))
    rows.append(("fix", Text(diagnosis.fix.in_language(language))))
    for number, source in enumerate(diagnosis.source):
        rows.append(("" if number else "source", Text(source, style="cyan")))
    if diagnosis.versions:
        rows.append(("where", Text(diagnosis.versions)))
    if diagnosis.basis != "none":
        rows.append(("how sure", Text(_SURE[diagnosis.basis].in_language(language), style="dim")))
    for note in diagnosis.notes:
        rows.append(("note", Text(one_line(note.in_language(language)), style="yellow")))
    return pairs((_label(name, language), value) for name, value in rows)


def _all_ruled_out(diagnosis: Diagnosis, language: str) -> list[RenderableType]:
    if not diagnosis.aside:
        return []
    lines = [
        line
        for ruled_out in diagnosis.aside[:_MAX_RULED_OUT]
        for line in _ruled_out_lines(ruled_out, language)
    ]
    return [Text(), Text(_label("ruled out", language), style="dim"), *lines]


def _ruled_out_lines(ruled_out: RuledOut, language: str) -> list[RenderableType]:
    """Show where the line is, its text, and why it is not the cause."""
    times = f" ×{ruled_out.count:,}" if ruled_out.count > 1 else ""
    message = Text(shrink(one_line(ruled_out.line.text), _RULED_OUT_WIDTH))
    why = Text(f"→ {one_line(ruled_out.why.in_language(language))}", style="dim")
    place = Text(f"{_place(ruled_out.line)}{times}", style="cyan")
    return [Rows([(place,)], indent=2), Rows([(message,), (why,)], indent=4)]


def _place(line: LogLine) -> str:
    """Return where a line is: `engine.log:123 · 12-15 11:45:12 · Worker_TP0 · rank 3`."""
    parts = [f"{line.log}:{line.number}"]
    parts += [line.time.replace("T", " ")] if line.time else []
    parts += [line.process] if line.process else [f"pid {line.pid}"] if line.pid else []
    parts += [f"rank {line.rank}"] if line.rank is not None else []
    parts += [line.host] if line.host else []
    return one_line(" · ".join(parts))


def _logs_read(diagnosis: Diagnosis, language: str) -> Text:
    count = len(diagnosis.logs)
    lines = sum(log.lines for log in diagnosis.logs)
    if language == "zh":
        return Text(f"共读取 {count} 个日志，{lines:,} 行", style="dim")
    return Text(f"read {counted(count, 'log')} of {counted(lines, 'line')}", style="dim")


def _label(name: str, language: str) -> str:
    return _LABELS.get(name, name) if language == "zh" else name

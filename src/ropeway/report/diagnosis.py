"""A diagnosis for the terminal: the cause first, then where it stands, what to do, who says so."""

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ropeway.diagnosis.result import CATEGORIES, Aside, Diagnosis, LogLine
from ropeway.diagnosis.result import Text as Words
from ropeway.report.line import one_line, shrink

LANGUAGES = ("en", "zh")
_LABELS = {
    "line": "日志行",
    "fix": "处理",
    "source": "来源",
    "where": "版本",
    "how sure": "依据",
    "note": "注意",
    "set aside": "未采用",
}
_SURE = {
    "measured": Words(
        "measured: seen on this project's own cluster", "实测：在本项目的集群上出现过"
    ),
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
        "only the meaning of a code: it says what failed and not why",
        "仅为错误码含义：说明哪里失败，不说明原因",
    ),
    "none": Words("not known", "未知"),
}
_SHOWN_LINE = 600
_SHOWN_ASIDE = 74
_MOST_ASIDE = 5


def diagnosis_view(diagnosis: Diagnosis, language: str = "en") -> RenderableType:
    """All that a diagnosis says, in one language; within 80 columns."""
    if diagnosis.verdict == "healthy":
        lines = [Text(_in(diagnosis.cause, language), style="green")]
        lines += [Text(one_line(_in(note, language)), style="dim") for note in diagnosis.notes]
        return Group(*lines, *_set_aside(diagnosis, language), _read(diagnosis, language))
    return Group(
        _headline(diagnosis, language),
        *(Text(f"  {one_line(_in(detail, language))}") for detail in diagnosis.details),
        Text(),
        _facts(diagnosis, language),
        *_set_aside(diagnosis, language),
        Text(),
        _read(diagnosis, language),
    )


def _headline(diagnosis: Diagnosis, language: str) -> Text:
    """The category and the cause; red where it is the cause, yellow where it is not known."""
    category = diagnosis.category or "unknown"
    name = CATEGORIES.get(category, "未知") if language == "zh" else category
    style = "bold red" if diagnosis.verdict == "known" else "bold yellow"
    colon = "：" if language == "zh" else ": "
    return Text.assemble((f"{name}{colon}", style), _in(diagnosis.cause, language))


def _facts(diagnosis: Diagnosis, language: str) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")

    def add(label: str, value: str | Text) -> None:
        table.add_row(_label(label, language), value)

    if diagnosis.line:
        add("line", Text(_place(diagnosis.line), style="cyan"))
        add("", Text(shrink(one_line(diagnosis.headline), _SHOWN_LINE)))
    add("fix", Text(_in(diagnosis.fix, language)))
    for number, source in enumerate(diagnosis.source):
        add("" if number else "source", Text(source, style="cyan"))
    if diagnosis.versions:
        add("where", Text(diagnosis.versions))
    if diagnosis.basis != "none":
        add("how sure", Text(_in(_SURE[diagnosis.basis], language), style="dim"))
    for note in diagnosis.notes:
        add("note", Text(one_line(_in(note, language)), style="yellow"))
    return table


def _set_aside(diagnosis: Diagnosis, language: str) -> list[RenderableType]:
    if not diagnosis.aside:
        return []
    shown = [line for one in diagnosis.aside[:_MOST_ASIDE] for line in _aside(one, language)]
    return [Text(), Text(_label("set aside", language), style="dim"), *shown]


def _aside(one: Aside, language: str) -> list[RenderableType]:
    """Where, what, and why it is not the cause."""
    times = f" ×{one.count:,}" if one.count > 1 else ""
    said = Text(shrink(one_line(one.line.text), _SHOWN_ASIDE))
    why = Text(f"→ {one_line(_in(one.why, language))}", style="dim")
    place = Text(f"  {_place(one.line)}{times}", style="cyan", overflow="fold")
    return [place, Padding(said, (0, 0, 0, 4)), Padding(why, (0, 0, 0, 4))]


def _place(line: LogLine) -> str:
    """`engine.log:123 · 12-15 11:45:12 · Worker_TP0 · rank 3`."""
    parts = [f"{line.log}:{line.number}"]
    parts += [line.time.replace("T", " ")] if line.time else []
    parts += [line.process] if line.process else [f"pid {line.pid}"] if line.pid else []
    parts += [f"rank {line.rank}"] if line.rank is not None else []
    parts += [line.host] if line.host else []
    return one_line(" · ".join(parts))


def _read(diagnosis: Diagnosis, language: str) -> Text:
    count = len(diagnosis.logs)
    lines = sum(log.lines for log in diagnosis.logs)
    if language == "zh":
        return Text(f"共读取 {count} 个日志，{lines:,} 行", style="dim")
    logs = f"{count} log{'s' * (count != 1)}"
    return Text(f"read {logs} of {lines:,} line{'s' * (lines != 1)}", style="dim")


def _label(name: str, language: str) -> str:
    return _LABELS.get(name, name) if language == "zh" else name


def _in(words: Words, language: str) -> str:
    return words.zh if language == "zh" else words.en

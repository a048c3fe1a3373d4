"""Tables for the terminal. Everything essential fits into 80 columns; more shows on a wide one."""

from collections.abc import Iterable, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ropeway.bench.comparison import Comparison, LayoutResult, in_order
from ropeway.doctor.finding import format_ranges
from ropeway.report.bench import load_words, own_prompts, quantile_words
from ropeway.report.chinese import in_language
from ropeway.report.figures import NONE, percent, rate
from ropeway.report.line import one_line
from ropeway.report.table import ByWidth, prose, table
from ropeway.units import format_bytes

_STATES = {
    **dict.fromkeys(("ready", "running", "alive", "ok"), "green"),
    **dict.fromkeys(("dead", "failed", "exited", "missing"), "red"),
}


# The titles of tables that are shown in Chinese too.
_PROCESS = ("host", "role", "NPU", "pid", ">memory", "state")
_CONTAINER = ("host", "role", "NPU", "state", "started", ">restarts", "answers")


def compare_table(comparison: Comparison) -> RenderableType:
    """All layouts of a comparison, best share marked; what failed and the notes below it."""
    return Group(
        Text.assemble((one_line(comparison.model), "bold"), f" · {one_line(comparison.engine)}"),
        prose(f"{one_line(comparison.hardware)} · {load_words(comparison.load)}", "dim"),
        *own_prompts(comparison.load),
        Text(),
        ByWidth(lambda wide: _layouts(comparison, wide=wide)),
        *_below(comparison),
    )


def status_table(rows: Iterable[Mapping[str, object]], language: str = "en") -> RenderableType:
    """What is running, one row a process or a host.

    Keys of a row: `host`, `role`, `state` (str), `pids` and `npus` (sequences of int),
    `memory_bytes` (int or None). A missing key shows as a dash.
    """
    grid = table(*(in_language(title, language) for title in _PROCESS))
    for row in rows:
        memory = row.get("memory_bytes")
        grid.add_row(
            _cell(row.get("host")),
            _cell(in_language(str(row.get("role") or ""), language)),
            _numbers(row.get("npus"), joint=True),
            _numbers(row.get("pids")),
            format_bytes(memory) if isinstance(memory, (int, float)) else NONE,
            _state(row.get("state"), language),
        )
    return grid


def containers_table(rows: Iterable[Mapping[str, object]], language: str = "en") -> RenderableType:
    """What runs on hosts, one row a container.

    Keys of a row: `host`, `role`, `state`, `started` (RFC 3339), `why` (None: it has no API; empty:
    it generates tokens; else why not), `devices` (sequence of int), `replica`, `restarts` (int).
    """
    grid = table(*(in_language(title, language) for title in _CONTAINER))
    for row in rows:
        replica = f" {row['replica']}" if row.get("replica") else ""
        grid.add_row(
            _cell(row.get("host")),
            _cell(in_language(str(row.get("role")), language) + replica),
            _numbers(row.get("devices"), joint=True),
            _state(row.get("state"), language),
            _cell(str(row.get("started"))[:19].replace("T", " ")),
            _numbers(row.get("restarts")),
            _generates(row.get("why"), language),
        )
    return grid


def faults_table(rows: Iterable[tuple[str, str, str]], language: str = "en") -> RenderableType:
    """Faults that can be rehearsed: name, what is wrong, the check that finds it."""
    titles = {"en": ("fault", "what is wrong", "found by"), "zh": ("名称", "故障", "检查项")}
    grid = table(*titles[language])
    for row in rows:
        grid.add_row(*row)
    return grid


def _layouts(comparison: Comparison, *, wide: bool) -> Table:
    spread = ("p50", "p90", "p99") if wide else ("p50",)
    titles = ("TTFT", "per token", "end to end")
    gap = " " if wide else "\n"
    latency = [f">{title}{gap}{at}" for title in titles for at in spread]
    grid = table(
        "layout",
        ">hosts×NPUs" if wide else ">hosts\n×NPUs",
        ">start",
        ">tokens/s",
        f">of {comparison.reference.layout}" if wide and comparison.reference else ">share",
        *latency,
        "answer",
    )
    names = (len(result.layout) for result in comparison.results)
    grid.columns[0].min_width = min(20, max(names, default=0))  # a folded name is hard to read
    for result in in_order(comparison):
        grid.add_row(*_layout_row(comparison, result, spread))
    return grid


def _layout_row(
    comparison: Comparison, result: LayoutResult, spread: Sequence[str]
) -> list[str | Text]:
    known = result.layout == comparison.fastest
    where = f"{result.hosts}×{result.npus // max(result.hosts, 1)}"
    row: list[str | Text] = [
        Text(one_line(result.layout), style="bold" if known else ""),
        where,
        NONE if result.start_s is None else f"{result.start_s:.0f} s",
    ]
    summary = result.summary
    if summary is None:
        verdict = Text(result.status, style="red" if result.status == "failed" else "yellow")
        return [*row, verdict, *([NONE] * (1 + 3 * len(spread))), NONE]
    share = percent(comparison.share_of_best(result))
    speed = Text(rate(summary.output_tokens_per_s), style="bold" if known else "")
    if result.interval:
        speed.append("\n" + "–".join(map(rate, result.interval)), style="dim not bold")
    row += [speed, share]
    for quantiles in (summary.ttft_s, summary.tpot_s, summary.e2e_s):
        row += quantile_words(quantiles, spread)
    return [*row, _answer(result.answer_matches_reference)]


def _answer(matches: bool | None) -> Text:
    if matches is None:
        return Text("not checked", style="dim")
    return Text("same", style="green") if matches else Text("DIFFERS", style="bold red")


def _below(comparison: Comparison) -> list[RenderableType]:
    lines: list[RenderableType] = []
    for result in comparison.results:
        if result.error:
            verdict = (f"{result.status}: ", "red" if result.status == "failed" else "yellow")
            name, why = one_line(result.layout), one_line(result.error)
            lines.append(prose(Text.assemble(f"{name} ", verdict, why)))
    reference = comparison.reference
    if reference:
        alone = reference.layout == comparison.baseline
        kind = (
            "the single-process layout"
            if alone
            else "which measured the most; no single process ran"
        )
        lines.append(prose(f"share: of {one_line(reference.layout)}, {kind}", "dim"))
    lines += [prose(one_line(one.said)) for one in comparison.differences]
    if comparison.differences:
        lines.append(prose("below tokens/s: between what the mean lies, with 95%", "dim"))
    lines += [prose(one_line(note), "dim") for note in comparison.notes]
    return [Text(), *lines] if lines else []


def _generates(why: object, language: str) -> Text:
    if why is None:
        return Text(NONE)
    return Text(in_language("no" if why else "yes", language), style="red" if why else "green")


def _state(value: object, language: str) -> Text:
    """Return a state in its colour; one that the container engine names stays as it says it."""
    shown = in_language(value, language) if isinstance(value, str) else value
    return Text(_cell(shown).plain, style=_STATES.get(str(value), ""))


def _cell(value: object) -> Text:
    return Text(NONE if value is None or value == "" else one_line(str(value)))


def _numbers(value: object, *, joint: bool = False) -> Text:
    """Return numbers, `joint` ones as `0-7`."""
    if isinstance(value, Iterable) and not isinstance(value, str):
        value = format_ranges(sorted(map(int, value))) if joint else " ".join(map(str, value))
    return _cell(value)

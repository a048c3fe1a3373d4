"""Tables for the terminal. Everything essential fits into 80 columns; more shows on a wide one."""

from collections.abc import Iterable, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from ropeway.bench.comparison import Comparison, LayoutResult, in_order
from ropeway.bench.figures import Figures, OwnShare, Quantiles, Summary
from ropeway.bench.load_test import NOT_STATED, Conditions, LoadTest
from ropeway.doctor.finding import format_ranges
from ropeway.plan.candidate import Expectation
from ropeway.report.chinese import in_language
from ropeway.report.figures import NONE, milliseconds, percent, rate, seconds
from ropeway.report.line import one_line
from ropeway.report.table import ByWidth, Rows, prose, table
from ropeway.units import counted, format_bytes

_NOT_COUNTED = "the server did not count its tokens: pieces of the stream were counted instead"
_QUANTILES = ("mean", "p50", "p90", "p99")
_STATES = {
    **dict.fromkeys(("ready", "running", "alive", "ok"), "green"),
    **dict.fromkeys(("dead", "failed", "exited", "missing"), "red"),
}


# The titles of tables that are shown in Chinese too.
_PROCESS = ("host", "role", "NPU", "pid", ">memory", "state")
_CONTAINER = ("host", "role", "NPU", "state", "started", ">restarts", "answers")


def bench_table(summary: Summary, conditions: Conditions) -> RenderableType:
    """One load test: its conditions, the throughput, the latencies, the errors."""
    return Group(
        *_bench_head(summary, conditions),
        Text(),
        _throughput(summary),
        Text(),
        _latencies(summary),
        *_errors(summary),
    )


def bench_record(
    figures: Figures,
    conditions: Conditions,
    *,
    folder: str,
    planned: Expectation | None = None,
) -> str:
    """What stands below the table, as plain lines that no terminal wraps.

    folder    where the raw timings are
    planned   what the planner expected
    """
    summary, own = figures.summary, figures.own
    lines = [
        "",
        f"prompts   {conditions.load.prompts}",
        f"tokens    {summary.input_tokens:,} in, {summary.output_tokens:,} out",
        f"our own   {_own_share(own)}",
        f"results   {folder}",
    ]
    lines += [f"doubt     {doubt}" for doubt in figures.doubts]
    if planned is not None:
        forecast = planned.forecast
        share = summary.output_tokens_per_s / forecast.output_tokens_per_s
        choice = ", the plan's choice for a blank `serve.layout`" if planned.is_chosen else ""
        interval = "range" if planned.beyond_measured else "80% interval"
        lines.insert(
            1,
            f"plan      {rate(forecast.output_tokens_per_s)} tokens/s predicted for"
            f" {planned.layout}{choice} ({interval}: {rate(forecast.output_low)} to"
            f" {rate(forecast.output_high)}); measured: {share:.0%} of it",
        )
    if late := summary.late:
        clients = f"all {conditions.load.clients:,} clients were busy"
        lines.insert(1, f"{late:,} of {summary.requests:,} requests started late: {clients}")
    return "\n".join(lines)


def compare_table(comparison: Comparison) -> RenderableType:
    """All layouts of a comparison, best share marked; what failed and the notes below it."""
    return Group(
        Text.assemble((one_line(comparison.model), "bold"), f" · {one_line(comparison.engine)}"),
        prose(f"{one_line(comparison.hardware)} · {_load(comparison.load)}", "dim"),
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


def _bench_head(summary: Summary, conditions: Conditions) -> list[RenderableType]:
    what = [conditions.model, conditions.layout, conditions.engine]
    title = " · ".join(one_line(part) for part in what if part not in ("", NOT_STATED))
    lines = [_load(conditions.load, summary.requests), one_line(conditions.label)]
    if conditions.hardware not in ("", NOT_STATED):
        lines.insert(0, one_line(conditions.hardware))
    return [prose(title, "bold"), *(prose(line, "dim") for line in lines)]


def _throughput(summary: Summary) -> Table:
    grid = Table.grid("", Column(justify="right"), "", padding=(0, 2))
    grid.add_row("output", Text(rate(summary.output_tokens_per_s), style="bold"), "tokens/s")
    grid.add_row("requests", rate(summary.requests_per_s), "a second")
    completed = f"of {summary.requests:,} in {seconds(summary.duration_s)}"
    grid.add_row("completed", f"{summary.completed:,}", completed)
    return grid


def _latencies(summary: Summary) -> Table:
    grid = table("latency", *(f">{name}" for name in _QUANTILES))
    names = ("time to first token", "time per output token", "end to end")
    latencies = (summary.ttft_s, summary.tpot_s, summary.e2e_s)
    rows = list(zip(names, latencies, strict=True))
    if summary.wait_s:
        rows += [
            ("first token, from when due", summary.due_ttft_s),
            ("end to end, from when due", summary.due_e2e_s),
        ]
    for name, quantiles in rows:
        grid.add_row(name, *_milliseconds(quantiles, _QUANTILES))
    return grid


def _own_share(own: OwnShare) -> str:
    late = f"{milliseconds(own.sent_late.p99 * 1000)} ms"
    return (
        f"requests left up to {late} late, pieces were read up to"
        f" {milliseconds(own.read_late.p99 * 1000)} ms late (p99); {own.cpu:.0%} of a core"
    )


def _milliseconds(quantiles: Quantiles | None, names: Iterable[str]) -> list[str]:
    return [milliseconds(getattr(quantiles, at) * 1000 if quantiles else None) for at in names]


def _errors(summary: Summary) -> list[RenderableType]:
    lines: list[RenderableType] = []
    if summary.errors:
        failed = f"{summary.failed:,} of {summary.requests:,} requests failed"
        lines.append(prose(failed, "red"))
        ordered = sorted(summary.errors.items(), key=lambda item: (-item[1], item[0]))
        lines.append(Rows([(f"{n:,} × {one_line(kind)}",) for kind, n in ordered], indent=2))
    if summary.unfinished:
        cancelled = f"{counted(summary.unfinished, 'request')} cancelled in flight"
        lines.append(prose(cancelled, "yellow"))
    if not summary.counted:
        lines.append(prose(_NOT_COUNTED, "yellow"))
    return [Text(), *lines] if lines else []


def _load(load: LoadTest, sent: int | None = None) -> str:
    requests: str = counted(load.requests, "request")
    if sent not in (None, load.requests):
        requests = f"{sent:,} of {requests}"
    arrivals = f", {rate(load.rate)} requests a second" if load.rate is not None else ""
    return (
        f"{load.input_tokens:,} tokens in, {load.output_tokens:,} out"
        f" · {counted(load.clients, 'client')}{arrivals} · {requests}"
    )


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
    best = result is comparison.best
    where = f"{result.hosts}×{result.npus // max(result.hosts, 1)}"
    row: list[str | Text] = [
        Text(one_line(result.layout), style="bold" if best else ""),
        where,
        NONE if result.start_s is None else f"{result.start_s:.0f} s",
    ]
    summary = result.summary
    if summary is None:
        verdict = Text(result.status, style="red" if result.status == "failed" else "yellow")
        return [*row, verdict, *([NONE] * (1 + 3 * len(spread))), NONE]
    share = percent(comparison.share_of_best(result))
    row += [Text(rate(summary.output_tokens_per_s), style="bold" if best else ""), share]
    for quantiles in (summary.ttft_s, summary.tpot_s, summary.e2e_s):
        row += _milliseconds(quantiles, spread)
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
        kind = "the single-process layout" if alone else "the fastest here; no single process ran"
        lines.append(prose(f"share: of {one_line(reference.layout)}, {kind}", "dim"))
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

"""Several measurements as one table: a row for each load, or for each probe of `--find-max`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ropeway.bench.figures import Quantiles
from ropeway.bench.load_test import NOT_STATED, Conditions
from ropeway.bench.rungs import Rung, Sweep
from ropeway.phrases import Phrase, phrase
from ropeway.report.chinese import in_language
from ropeway.report.figures import NONE, asked, digits, milliseconds, percent, rate
from ropeway.report.line import one_line
from ropeway.report.table import ByWidth, prose, table

# Beside what was asked for where the figures are in doubt.
_DOUBT = "!"


@dataclass(frozen=True)
class _Column:
    """One column. `gap`: what stands in its title in place of the last blank when it is narrow."""

    title: str
    cell: Callable[[Rung], str]
    left: bool = False


def sweep_table(sweep: Sweep, conditions: Conditions, language: str = "en") -> RenderableType:
    """Return the curve: what was asked, what was reached, latencies, failures and doubts."""
    what = [conditions.model, conditions.layout, conditions.engine]
    title = " · ".join(one_line(part) for part in what if part not in ("", NOT_STATED))
    load = conditions.load
    sent = phrase(
        "{input:,} tokens in, {output:,} out", input=load.input_tokens, output=load.output_tokens
    )
    lines = [in_language(sent, language), in_language(one_line(conditions.label), language)]
    if load.goals is not None:
        goals = phrase("goals: {goals}", goals=str(load.goals))
        lines.insert(1, in_language(goals, language))
    return Group(
        prose(title, "bold"),
        prose(" · ".join(lines), "dim"),
        Text(),
        ByWidth(lambda wide: _curve(sweep, language, wide=wide)),
    )


def sweep_record(sweep: Sweep, folder: str, language: str = "en") -> str:
    """Return what stands below the table: what it says, why to doubt it, where the results are."""
    lines: list[str] = [""]
    if sweep.found is not None:
        lines.append(in_language(sweep.found.sentence, language))
        lines += _bounds(sweep, language)
    if sweep.knee is not None:
        lines.append(in_language(sweep.knee.sentence, language))
    if not all(rung.figures.summary.steady for rung in sweep.rungs):
        short = phrase("“~”: too short for a steady part, so that its figures are of the whole run")
        lines.append(in_language(short, language))
    for rung in sweep.rungs:
        for doubt in rung.figures.doubts:
            said = phrase("doubt in {name}: {doubt}", name=rung.name, doubt=doubt)
            lines.append(in_language(said, language))
    for doubt in sweep.found.doubts if sweep.found is not None else ():
        said = phrase("not to be trusted: {doubt}", doubt=doubt)
        lines.append(in_language(said, language))
    lines.append(in_language(phrase("results: {folder}", folder=folder), language))
    return "\n".join(lines)


def _bounds(sweep: Sweep, language: str) -> list[str]:
    found = sweep.found
    if found is None or found.rate is None or found.fails_at is None:
        return []
    share = percent(found.share)
    goals = bool(sweep.rungs and sweep.rungs[0].load.goals)
    values = {"rate": found.fails_at, "share": share}
    said: Phrase = (
        phrase("{rate:.4g} requests/s failed; asked was that {share} meet the goals", **values)
        if goals
        else phrase("{rate:.4g} requests/s failed; asked was that {share} are answered", **values)
    )
    return [in_language(said, language)]


def _curve(sweep: Sweep, language: str, *, wide: bool) -> Table:
    columns = _columns(sweep, wide=wide)
    titles = []
    for column in columns:
        title = in_language(column.title, language)
        narrow = title if wide else title.replace(" ", "\n", 1)
        titles.append(narrow if column.left else f">{narrow}")
    grid = table(*titles)
    best = _best(sweep)
    for rung in sweep.rungs:
        cells = [column.cell(rung) for column in columns]
        style = "bold" if rung is best else ""
        grid.add_row(*(Text(in_language(cell, language), style=style) for cell in cells))
    return grid


def _columns(sweep: Sweep, *, wide: bool) -> list[_Column]:
    """Return the columns that fit: on a narrow terminal without those that say least."""
    rungs, found = sweep.rungs, sweep.found
    goals = any(rung.goodput for rung in rungs)
    by_rate = any(rung.load.rate for rung in rungs)
    title = phrase("asked requests/s") if by_rate else phrase("clients")
    columns = [_Column(title, lambda rung: _asked(rung, by_rate=by_rate))]
    columns.append(_Column(phrase("requests/s"), lambda rung: rate(rung.requests_per_s)))
    if wide or not (goals or found):
        columns.append(_Column(phrase("in flight"), lambda rung: digits(rung.concurrency)))
    if wide or not found:
        columns.append(_Column(phrase("tokens/s"), lambda rung: rate(rung.tokens_per_s)))
    columns += _latencies("TTFT", lambda rung: rung.ttft_s)
    columns += _latencies("TPOT", lambda rung: rung.tpot_s)
    if wide or any(rung.figures.summary.failed for rung in rungs):
        columns.append(_Column(phrase("failed"), lambda rung: f"{rung.figures.summary.failed:,}"))
    if goals:
        if wide:
            columns.append(_Column(phrase("goodput"), _goodput))
        columns.append(_Column(phrase("within goals"), _share))
    if found is not None:
        verdicts = found.verdicts
        columns.append(
            _Column(phrase("verdict"), lambda rung: verdicts.get(rung.name, ""), left=True)
        )
    return columns


def _latencies(name: str, of: Callable[[Rung], Quantiles | None]) -> Sequence[_Column]:
    def cell(rung: Rung, which: str) -> str:
        quantiles = of(rung)
        return milliseconds(getattr(quantiles, which) * 1000 if quantiles else None)

    return (
        _Column(f"{name} p50", lambda rung: cell(rung, "p50")),
        _Column(f"{name} p99", lambda rung: cell(rung, "p99")),
    )


def _asked(rung: Rung, *, by_rate: bool) -> str:
    load = rung.load
    said = asked(rung.asked("rate"), "rate") if by_rate else asked(load.clients, "clients")
    if by_rate and load.rate is None:
        said = NONE  # the first runs of `--find-max` are closed loops
    marks = "" if rung.figures.summary.steady else "~"
    marks += _DOUBT if rung.figures.doubts else ""
    return f"{said} {marks}".rstrip()


def _goodput(rung: Rung) -> str:
    return rate(rung.goodput.requests_per_s) if rung.goodput else NONE


def _share(rung: Rung) -> str:
    if rung.goodput is None:
        return NONE
    return f"{rung.goodput.share * 100:.1f}%"


def _best(sweep: Sweep) -> Rung | None:
    """Return the row to look at: at the knee, or the rate that was found, as measured last."""
    at = sweep.knee.at if sweep.knee else sweep.found.rate if sweep.found else None
    rows = [rung for rung in sweep.rungs if at is not None and rung.asked(sweep.by) == at]
    return rows[-1] if rows else None

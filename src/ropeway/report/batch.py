"""What a person sees of a batch job: while it runs, before it begins, and at its end."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from ropeway.batch.progress import Cost, Left, Progress, ReplicaProgress
from ropeway.batch.rows import Outcome
from ropeway.batch.survey import Survey
from ropeway.report.figures import percent, rate
from ropeway.report.line import one_line, shrink
from ropeway.report.table import table
from ropeway.units import counted, format_bytes, format_seconds

_MEANING = {
    Outcome.ANSWERED: "a whole answer",
    Outcome.CUT: "an answer that ended at its limit of tokens",
    Outcome.REFUSED: "the server will not answer it",
    Outcome.FAILED: "no answer within its tries",
    Outcome.POISON: "engines died with it in flight, twice",
    Outcome.SKIPPED: "a line that cannot be sent",
}
_SAMPLE_CELLS = 160


def survey_line(read: int, size: int) -> str:
    """Return how much of the input was looked at."""
    return f"{format_bytes(read)} of {format_bytes(size)}"


def progress_line(progress: Progress, currency: str = "") -> str:
    """Return a job at one moment in a line that begins with what matters most."""
    rates = progress.rates
    parts = [f"{progress.finished:,}/{progress.rows:,} rows"]
    if progress.waiting:
        parts.append(f"waiting: {one_line(progress.waiting)}")
    else:
        parts.append(f"{rate(rates.prompt)} + {rate(rates.answer)} tokens/s")
        if progress.ceiling_share is not None:
            parts.append(f"{percent(progress.ceiling_share)} of the predicted ceiling")
    if progress.left is not None:
        parts.append(f"{left_words(progress.left)} left")
    parts.append(f"{progress.in_flight:,} in flight")
    bad = sum(n for outcome, n in progress.done.items() if not outcome.good)
    if bad:
        parts.append(f"{bad:,} without an answer")
    if progress.cost is not None:
        parts.append(_money(progress.cost, progress.cost_in_all, currency))
    return " · ".join(parts)


def left_words(left: Left) -> str:
    """Return `3 h 10 min (2 h 50 min to 3 h 40 min)`."""
    low, high = format_seconds(left.low_s), format_seconds(left.high_s)
    return f"{format_seconds(left.likely_s)} ({low} to {high})"


def progress_block(progress: Progress, now: float) -> Iterator[str]:
    """Yield the lines that are printed now and then: replicas, errors, a sample."""
    share = progress.finished / progress.rows if progress.rows else 1.0
    head = f"{percent(share)} of the rows · {percent(progress.cut_share)} of the answers cut"
    if progress.committed_at:
        head += f" · last commit {format_seconds(max(0.0, now - progress.committed_at))} ago"
    if progress.again:
        head += f" · {progress.again:,} sent again"
    yield head
    for replica in progress.replicas:
        yield f"  {_replica(replica)}"
    if progress.faults:
        faults = sorted(progress.faults.items(), key=lambda item: -item[1])
        yield "  failed tries: " + ", ".join(f"{what} {count:,}×" for what, count in faults)
    if sample := sample_words(progress.sample):
        yield f"  {sample}"


def _replica(replica: ReplicaProgress) -> str:
    about = f"{replica.url}  {replica.in_flight}/{replica.limit} in flight"
    if replica.state != "working":
        return f"{about}  {replica.state}: {one_line(replica.why)}"
    rates = replica.rates
    return f"{about}  {rate(rates.prompt)} + {rate(rates.answer)} tokens/s  {replica.rows:,} rows"


def sample_words(line: bytes) -> str:
    """Return an answer as one short line: `row-7: The capital …`; "" where it has no text."""
    try:
        record = json.loads(line)
        choice = record["response"]["body"]["choices"][0]
        text = choice.get("text") or choice["message"]["content"]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return ""
    if not isinstance(text, str):
        return ""
    return shrink(one_line(f"{record.get('custom_id')}: {text}"), _SAMPLE_CELLS)


def survey_table(found: Survey, samples: int, forecast: Mapping[str, Any] | None) -> RenderableType:
    """Return what an input is, and what a job of it would take."""
    prompt, answer = found.prompt, found.answer
    grid = table("tokens, estimated", ">median", ">99 %", ">most", ">in all")
    grid.add_row(
        "of a prompt", f"{prompt.quantile(0.5):,}", f"{prompt.quantile(0.99):,}",
        f"{prompt.most:,}", f"{prompt.total * samples:,}",
    )  # fmt: skip
    if answer.count:
        grid.add_row(
            "of an answer, at most", f"{answer.quantile(0.5):,}", f"{answer.quantile(0.99):,}",
            f"{answer.most:,}", f"{answer.total * samples:,}",
        )  # fmt: skip
    parts: list[RenderableType] = [Text(_input_words(found, samples)), Text(), grid]
    parts += [Text(line) for line in _notes(found)]
    if forecast is not None:
        parts += [Text(), *(Text(line) for line in _forecast_lines(forecast))]
    return Group(*parts)


def _input_words(found: Survey, samples: int) -> str:
    files = counted(len(found.parts), "file")
    rows = f"{found.rows:,} rows"
    each = f", {samples} samples of each line" if samples > 1 else ""
    size = format_bytes(sum(part.size for part in found.parts))
    return f"{files}, {size}: {rows}{each}"


def _notes(found: Survey) -> Iterator[str]:
    if found.unlimited:
        yield f"{found.unlimited:,} lines have no limit of tokens for their answers"
    if found.long:
        yield f"{found.long:,} prompts may be too long for the model"
    if found.groups:
        yield f"{found.grouped:,} prompts begin like others, in {found.groups:,} groups"
    if found.bad:
        yield f"{found.bad:,} lines are left out: {', '.join(sorted(found.faults))}"


def _forecast_lines(forecast: Mapping[str, Any]) -> Iterator[str]:
    low, high = format_seconds(forecast["low_s"]), format_seconds(forecast["high_s"])
    likely = format_seconds(forecast["likely_s"])
    yield f"predicted for {forecast['layout']}: {likely} ({low} to {high})"
    if forecast["cost"] is not None:
        yield f"cost      {forecast['cost']:,.2f} {forecast['currency']}".rstrip()


def outcome_table(counts: Mapping[Outcome, int], rows: int) -> RenderableType:
    """Return what became of the rows; the counts add up to all of them."""
    grid = table("outcome", ">rows", ">share", "meaning")
    for outcome in Outcome:
        count = counts.get(outcome, 0)
        if count or outcome is Outcome.ANSWERED:
            grid.add_row(
                outcome.name.lower(), f"{count:,}", percent(count / rows), _MEANING[outcome]
            )
    missing = rows - sum(counts.values())
    if missing:
        grid.add_row(
            "not done", f"{missing:,}", percent(missing / rows), "the same command goes on"
        )
    grid.add_row("in all", f"{rows:,}", "", "")
    return grid


def _money(cost: float, in_all: Cost | None, currency: str) -> str:
    """Return `1.20 of 9.00 (8.00 to 11.00) CNY`."""
    words = f"{cost:,.2f}"
    if in_all is not None:
        low, likely, high = (f"{money:,.2f}" for money in (in_all.low, in_all.likely, in_all.high))
        words += f" of {likely}" + (f" ({low} to {high})" if low != high else "")
    return f"{words} {currency}".rstrip()

"""What a person sees of a batch job: while it runs, before it begins, and at its end."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from ropeway.batch.progress import Left, Progress, ReplicaProgress
from ropeway.batch.rows import Outcome
from ropeway.batch.survey import Survey
from ropeway.phrases import Phrase, joined, phrase
from ropeway.report.chinese import in_language
from ropeway.report.figures import percent, rate
from ropeway.report.line import one_line
from ropeway.report.table import prose, table
from ropeway.units import counted, format_bytes, format_seconds

STATES = {
    "working": phrase("working"),
    "paused": phrase("paused"),
    "away": phrase("away"),
    "barred": phrase("barred"),
}
ENDINGS = {
    "stopped": phrase("stopped"),
    "until": phrase("its time is over"),
    "cost": phrase("it has cost what it may"),
    "errors": phrase("too many errors"),
    "endpoints": phrase("no endpoint takes rows"),
    "broken": phrase("it cannot go on"),
}
_MOST_COLUMNS = 20


@dataclass(frozen=True)
class Account:
    """What came of a job, as screen, page and document say it alike.

    progress  of the last run, at its end; `ended` says why it did
    tokens    of all rows that are done, those of earlier runs included: of prompts, and of answers
    written   whether output and errors are
    """

    title: str
    model: str
    output: str
    errors: str
    folder: str
    rows: int
    counts: Mapping[Outcome, int]
    tokens: tuple[int, int]
    again: int
    progress: Progress
    ended: str
    written: bool
    currency: str

    @property
    def done(self) -> int:
        """Rows with an outcome."""
        return sum(self.counts.values())

    @property
    def bad(self) -> int:
        """Rows whose outcome is none of use."""
        return sum(n for outcome, n in self.counts.items() if not outcome.good)


def survey_line(read: int, size: int) -> Phrase:
    """Return how much of the input was looked at."""
    return phrase("{read} of {size}", read=format_bytes(read), size=format_bytes(size))


def progress_line(progress: Progress, currency: str = "") -> Phrase:
    """Return a job at one moment in a line that begins with what matters most."""
    parts: list[str] = [
        phrase("{done:,}/{rows:,} rows", done=progress.finished, rows=progress.rows)
    ]
    if progress.waiting:
        parts.append(phrase("waiting: {why}", why=progress.waiting))
    else:
        parts.append(_rates(progress.rates.prompt, progress.rates.answer))
    if progress.left is not None:
        parts.append(phrase("{time} left", time=left_words(progress.left)))
    parts.append(phrase("{n:,} in flight", n=progress.in_flight))
    bad = sum(n for outcome, n in progress.done.items() if not outcome.good)
    if bad:
        parts.append(phrase("{n:,} without an answer", n=bad))
    if progress.cost is not None:
        cost, in_all = _money(progress.cost, currency), progress.cost_in_all
        if in_all is not None:
            cost = phrase(
                "{cost} of {in_all}", cost=f"{progress.cost:,.2f}", in_all=_money(in_all, currency)
            )
        parts.append(cost)
    return joined(parts, " · ")


def left_words(left: Left) -> Phrase:
    """Return `3 h 10 min (2 h 50 min to 3 h 40 min)`."""
    return phrase(
        "{likely} ({low} to {high})",
        likely=format_seconds(left.likely_s),
        low=format_seconds(left.low_s),
        high=format_seconds(left.high_s),
    )


def progress_block(progress: Progress, now: float, language: str = "en") -> Iterator[str]:
    """Yield the lines that are printed now and then: replicas, errors, a sample."""
    share = progress.finished / progress.rows if progress.rows else 1.0
    head = [
        phrase("{share} of the rows", share=percent(share)),
        phrase("{share} of the answers cut", share=percent(progress.cut_share)),
    ]
    if progress.committed_at:
        ago = format_seconds(max(0.0, now - progress.committed_at))
        head.append(phrase("last commit {time} ago", time=ago))
    if progress.again:
        head.append(phrase("{n:,} sent again", n=progress.again))
    yield one_line(in_language(joined(head, " · "), language))
    below = [_replica(replica) for replica in progress.replicas]
    if progress.faults:
        counts = sorted(progress.faults.items(), key=lambda item: -item[1])
        tries = [phrase("{what} {n:,}×", what=what, n=n) for what, n in counts]
        below.append(phrase("failed tries: {tries}", tries=joined(tries, ", ")))
    for line in (*below, progress.sample):
        if line:
            yield f"  {one_line(in_language(line, language))}"


def _replica(replica: ReplicaProgress) -> str:
    about = phrase(
        "{url}: {n}/{limit} in flight", url=replica.url, n=replica.in_flight, limit=replica.limit
    )
    if replica.state != "working":
        words = phrase("{state}: {why}", state=STATES[replica.state], why=replica.why)
        return joined((about, words), " · ")
    rows = phrase("{n:,} rows", n=replica.rows)
    return joined((about, _rates(replica.rates.prompt, replica.rates.answer), rows), " · ")


def _rates(prompt: float, answer: float) -> Phrase:
    return phrase("{prompt} + {answer} tokens/s", prompt=rate(prompt), answer=rate(answer))


def _money(cost: float, currency: str) -> str:
    return f"{cost:,.2f} {currency}".rstrip()


def survey_table(
    found: Survey, samples: int, forecast: Mapping[str, Any] | None, language: str = "en"
) -> RenderableType:
    """Return what an input is, and what a job of it would take."""
    say = partial(in_language, language=language)
    titles = (phrase("median"), "99 %", phrase("most"), phrase("in all"))
    grid = table(say(phrase("tokens, estimated")), *(f">{say(title)}" for title in titles))
    kinds = [(phrase("of a prompt"), found.prompt)]
    if found.answer.count:
        kinds.append((phrase("of an answer, at most"), found.answer))
    for name, spread in kinds:
        figures = (spread.quantile(0.5), spread.quantile(0.99), spread.most, spread.total * samples)
        grid.add_row(say(name), *(f"{figure:,}" for figure in figures))
    parts: list[RenderableType] = [prose(say(_input_words(found, samples))), Text(), grid]
    parts += [prose(say(line)) for line in _notes(found)]
    if forecast is not None:
        parts += [Text(), *(prose(say(line)) for line in _forecast_lines(forecast))]
    return Group(*parts)


def _input_words(found: Survey, samples: int) -> Phrase:
    parts: list[str] = [
        counted(len(found.parts), "file"),
        format_bytes(sum(part.size for part in found.parts)),
        counted(found.rows, "row"),
    ]
    if samples > 1:
        parts.append(phrase("{n} samples of each line", n=samples))
    return joined(parts, ", ")


def _notes(found: Survey) -> Iterator[Phrase]:
    if found.unlimited:
        yield phrase("{n:,} lines have no limit of tokens for their answers", n=found.unlimited)
    if found.long:
        yield phrase("{n:,} prompts may be too long for the model", n=found.long)
    if found.groups:
        yield phrase(
            "{n:,} prompts begin like others, in {groups:,} groups",
            n=found.grouped,
            groups=found.groups,
        )
    if found.bad:
        kinds = ", ".join(f"`{kind}`" for kind in sorted(found.faults))
        yield phrase("{n:,} lines are left out: {kinds}", n=found.bad, kinds=kinds)


def _forecast_lines(forecast: Mapping[str, Any]) -> Iterator[Phrase]:
    seconds = Left(*(forecast[name] for name in ("low_s", "likely_s", "high_s")))
    time = left_words(seconds)
    yield phrase("predicted for {layout}: {time}", layout=forecast["layout"], time=time)
    if forecast["cost"] is not None:
        money = _money(forecast["cost"], forecast["currency"] or "")
        yield phrase("cost      {money}", money=money)


def survey_doubts(found: Survey, context: int | None) -> Iterator[Phrase]:
    """Yield what may be wrong with an input, and keeps no row from being sent."""
    if found.unused:
        names = ", ".join(f"`{name}`" for name in found.unused[:_MOST_COLUMNS])
        yield phrase("nothing is made of these columns: {names}", names=names)
    for name in found.empty:
        yield phrase("nothing is in {file}", file=name)
    if found.long:
        yield phrase(
            "{n:,} prompts may be longer than the {context:,} tokens that the model takes",
            n=found.long,
            context=context or 0,
        )


def outcome_table(counts: Mapping[Outcome, int], rows: int, language: str = "en") -> RenderableType:
    """Return what became of the rows; the counts add up to all of them."""
    say = partial(in_language, language=language)
    grid = table(
        say(phrase("outcome")),
        f">{say(phrase('rows'))}",
        f">{say(phrase('share'))}",
        say(phrase("meaning")),
    )
    lines = [
        (outcome.word, counts.get(outcome, 0), outcome.meaning)
        for outcome in Outcome
        if counts.get(outcome) or outcome is Outcome.ANSWERED
    ]
    if missing := rows - sum(counts.values()):
        lines.append((phrase("not done"), missing, phrase("the same command goes on")))
    for word, count, meaning in lines:
        grid.add_row(say(word), f"{count:,}", percent(count / rows), say(meaning))
    grid.add_row(say(phrase("in all")), f"{rows:,}", "", "")
    return grid


def account_lines(account: Account) -> Phrase:
    """Return what stands below the table, as plain lines that no terminal wraps."""
    prompt, answer = account.tokens
    lines: list[str] = [
        "",
        phrase("time      {time}", time=format_seconds(account.progress.elapsed_s)),
        phrase("tokens    {prompt:,} in, {answer:,} out", prompt=prompt, answer=answer),
    ]
    if account.again:
        lines.append(
            phrase("again     {n:,} rows may have been generated more than once", n=account.again)
        )
    if account.progress.cost is not None:
        money = _money(account.progress.cost, account.currency)
        lines.append(phrase("cost      {money} for this run", money=money))
    if account.written:
        lines.append(phrase("output    {path}", path=account.output))
        if account.bad:
            lines.append(phrase("errors    {path}", path=account.errors))
    else:
        lines.append(phrase("journal   {path}", path=account.folder))
    return joined(lines, "\n")

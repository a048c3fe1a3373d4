"""What a person sees of a batch job: while it runs, before it begins, and at its end."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from ropeway.batch.input.survey import Survey
from ropeway.batch.progress import Cost, Progress, ReplicaProgress
from ropeway.batch.rows import RETRIED, Outcome
from ropeway.phrases import Phrase, joined, phrase
from ropeway.report.chinese import in_language
from ropeway.report.figures import percent, rate
from ropeway.report.line import one_line, whole_seconds
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
    command   that was typed; template, settings: what it put into rows without a body
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
    command: str
    template: str
    settings: Mapping[str, Any]

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


def progress_line(progress: Progress, currency: str = "", max_cost: float | None = None) -> Phrase:
    """Return a job at one moment in a line that begins with what matters most.

    A narrow terminal shows how it begins.
    """
    parts: list[str] = [
        phrase("{done:,}/{rows:,} rows", done=progress.finished, rows=progress.rows)
    ]
    ending = progress.ending in ENDINGS and progress.in_flight
    if ending:
        parts.append(_last_rows(progress))
    elif progress.waiting:
        parts.append(phrase("waiting: {why}", why=progress.waiting))
    elif progress.left is not None and progress.finished < progress.rows:
        left = {name: format_seconds(span) for name, span in asdict(progress.left).items()}
        parts.append(phrase("{likely_s} left ({low_s} to {high_s})", **left))
    if progress.cost is not None:
        parts.append(_cost(progress.cost, progress.cost_in_all, currency))
        if max_cost is not None:
            parts.append(phrase("stops at {cost}", cost=money_words(max_cost, currency)))
    if not (ending or progress.waiting):
        parts.append(_rates(progress.rates.prompt, progress.rates.answer))
        if progress.ceiling_share is not None:
            share = percent(progress.ceiling_share)
            parts.append(phrase("{share} of the predicted ceiling", share=share))
    parts.append(phrase("{n:,} in flight", n=progress.in_flight))
    bad = sum(n for outcome, n in progress.done.items() if not outcome.good)
    if bad:
        parts.append(phrase("{n:,} without an answer", n=bad))
    return joined(parts, " · ")


def _last_rows(progress: Progress) -> Phrase:
    """Return that a run ends, and what it still waits for."""
    words = {
        "why": ENDINGS[progress.ending],
        "time": whole_seconds(progress.grace_s),
        "n": progress.in_flight,
    }
    if progress.ending == "stopped":
        return phrase("stopping: up to {time} for {n:,} rows; Ctrl-C again ends now", **words)
    return phrase("{why}: up to {time} for {n:,} rows", **words)


def progress_block(progress: Progress, now: float, language: str = "en") -> Iterator[str]:
    """Yield the lines that are printed now and then: replicas, errors, a sample."""
    share = progress.finished / progress.rows if progress.rows else 1.0
    head = [
        phrase("at {time}", time=datetime.fromtimestamp(now).strftime("%H:%M:%S")),
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
    if progress.error:
        below.append(phrase("an error: {error}", error=progress.error))
    if progress.sample:
        below.append(phrase("an answer: {sample}", sample=progress.sample))
    for line in below:
        if line:
            yield f"  {one_line(in_language(line, language))}"


def _replica(replica: ReplicaProgress) -> str:
    about = phrase(
        "{url}: {n} in flight, {limit} at most",
        url=replica.url,
        n=replica.in_flight,
        limit=replica.limit,
    )
    if replica.state != "working":
        words = phrase("{state}: {why}", state=STATES[replica.state], why=replica.why)
        return joined((about, words), " · ")
    rows = phrase("{n:,} rows", n=replica.rows)
    return joined((about, _rates(replica.rates.prompt, replica.rates.answer), rows), " · ")


def _rates(prompt: float, answer: float) -> Phrase:
    return phrase("{prompt} tokens/s in, {answer} out", prompt=rate(prompt), answer=rate(answer))


def _cost(cost: float, in_all: Cost | None, currency: str) -> str:
    """Return `1.20 of 9.00 CNY (8.00 to 11.00)`."""
    if in_all is None:
        return money_words(cost, currency)
    values = {name: f"{money:,.2f}" for name, money in asdict(in_all).items()}
    whole: str = money_words(in_all.likely, currency)
    if values["low"] != values["high"]:
        whole = phrase("{likely} ({low} to {high})", **{**values, "likely": whole})
    return phrase("{cost} of {in_all}", cost=f"{cost:,.2f}", in_all=whole)


def money_words(cost: float, currency: str) -> str:
    """Return `1.20 CNY`."""
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
    money = money_words(forecast["cost"] or 0.0, forecast["currency"] or "")
    if forecast["layout"] is None:
        yield phrase("the tokens cost {money} at most; by hours nothing is known", money=money)
        return
    yield phrase(
        "predicted for {layout}: {likely} ({low} to {high})",
        layout=forecast["layout"],
        likely=format_seconds(forecast["likely_s"]),
        low=format_seconds(forecast["low_s"]),
        high=format_seconds(forecast["high_s"]),
    )
    if forecast["cost"] is not None:
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


def next_steps(account: Account) -> Iterator[Phrase]:
    """Yield how a job goes on that is not whole, or has rows without an answer."""
    if account.done < account.rows:
        again = phrase("the same command goes on:\n{command}", command=account.command)
        yield again if account.command else phrase("the same command goes on")
    if any(account.counts.get(outcome) for outcome in RETRIED):
        yield phrase(
            "`--retry-errors` with the same command asks again for what was refused, failed or"
            " poison"
        )


def file_lines(paths: Mapping[str, str]) -> Iterator[Phrase]:
    """Yield where files are, by what they are."""
    templates = {
        "output": phrase("output    {path}", path=paths.get("output")),
        "errors": phrase("errors    {path}", path=paths.get("errors")),
        "page": phrase("page      {path}", path=paths.get("page")),
    }
    return (templates[name] for name in paths)


def account_lines(account: Account) -> Phrase:
    """Return what stands below the table, as plain lines that no terminal wraps."""
    prompt, answer = account.tokens
    lines: list[str] = [
        "",
        phrase("time      {time} for this run", time=format_seconds(account.progress.elapsed_s)),
        phrase(
            "tokens    {prompt:,} in, {answer:,} out, of all rows", prompt=prompt, answer=answer
        ),
    ]
    if account.again:
        lines.append(
            phrase("again     {n:,} rows may have been generated more than once", n=account.again)
        )
    if account.progress.error:
        lines.append(phrase("an error  {error}", error=account.progress.error))
    if account.progress.cost is not None:
        money = money_words(account.progress.cost, account.currency)
        lines.append(phrase("cost      {money} for this run", money=money))
    if account.written:
        files = {"output": account.output} | ({"errors": account.errors} if account.bad else {})
        lines += file_lines(files)
    else:
        lines.append(phrase("journal   {path}", path=account.folder))
    return joined(lines, "\n")

"""A load test on the terminal, in both languages, and the words that its page has too."""

from collections.abc import Iterable
from functools import partial

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from ropeway.bench.figures import Figures, OwnShare, Quantiles, Steady, Summary
from ropeway.bench.load_test import NOT_STATED, Conditions, LoadTest
from ropeway.phrases import Phrase, joined, phrase
from ropeway.plan.candidate import Expectation
from ropeway.report.chinese import Say, in_language
from ropeway.report.figures import NONE, milliseconds, percent, rate, seconds
from ropeway.report.line import one_line
from ropeway.report.table import GAP, Rows, prose, table
from ropeway.units import counted

NOT_COUNTED = phrase(
    "the server did not count its tokens: pieces of the stream were counted instead"
)
TOO_SHORT = phrase("too few requests at full load for a steady part")
ENDINGS = {
    "time limit": phrase("time limit"),
    "interrupted": phrase("interrupted"),
    "server away": phrase("server away"),
    "not recorded": phrase("not recorded"),
    "failed": phrase("failed"),
}
LATENCIES = {
    "ttft": phrase("time to first token"),
    "tpot": phrase("time per output token"),
    "e2e": phrase("end to end"),
    "due_ttft": phrase("first token, from when due"),
    "due_e2e": phrase("end to end, from when due"),
}
QUANTILES = ("mean", "p50", "p90", "p99")
_LABEL = 8  # cells of the names below the table


def bench_table(
    summary: Summary, conditions: Conditions, language: str = "en", ended: str = "complete"
) -> RenderableType:
    """One load test: its conditions, the throughput, the latencies, the errors."""
    say = partial(in_language, language=language)
    early = ended_early(ended)
    return Group(
        *([prose(say(early), "yellow")] if early else []),
        *_head(summary, conditions, say),
        Text(),
        _throughput(summary, conditions.load, say),
        Text(),
        _latencies(summary, say),
        *_errors(summary, say),
    )


def bench_record(
    figures: Figures,
    conditions: Conditions,
    *,
    folder: str,
    planned: Expectation | None = None,
    page: str | None = None,
    language: str = "en",
) -> RenderableType:
    """What stands below the table. Paths stay on one line, so that they can be copied.

    folder    where the raw timings are
    planned   what the planner expected
    page      where the report is; None where it could not be written
    """
    summary = figures.summary
    rows = [
        (phrase("prompts"), conditions.load.prompts),
        (phrase("tokens"), tokens_words(summary)),
        *cached_row(summary),
        (phrase("our own"), joined(own_words(figures.own))),
        *((phrase("doubt"), doubt) for doubt in figures.doubts),
    ]
    paths = [*([(phrase("page"), page)] if page else []), (phrase("results"), folder)]
    if planned is not None:
        rows.insert(0, (phrase("plan"), plan_words(summary, planned)))
    say = partial(in_language, language=language)
    return Group(
        Text(),
        *(prose(say(words)) for words in late_words(summary, conditions.load)),
        Rows([(say(name), say(value)) for name, value in rows], least=_LABEL),
        *(_path(say(name), path) for name, path in paths),
    )


def ended_early(ended: str) -> Phrase | None:
    """Return that a run ended before all was sent, and why; None for one that is complete."""
    if ended == "complete":
        return None
    return phrase("ended     early: {why}", why=ENDINGS[ended])


def load_words(load: LoadTest, sent: int | None = None) -> Phrase:
    """Return a load: lengths, clients, rate, and requests, of which `sent` were sent."""
    return joined((lengths_words(load), sending_words(load, sent)), " · ")


def own_prompts(load: LoadTest) -> list[RenderableType]:
    """Return a line on prompts of the user's own, which may come again; of others none."""
    return [prose(one_line(load.prompts), "dim")] if load.files else []


def lengths_words(load: LoadTest) -> Phrase:
    """Return how long prompts and answers are."""
    return phrase(
        "{inputs} tokens in, {outputs} out",
        inputs=_length(load.input_tokens, load.input_range),
        outputs=_length(load.output_tokens, None if load.files else load.output_range),
    )


def sending_words(load: LoadTest, sent: int | None = None) -> Phrase:
    """Return who sends, when, and how much, of which `sent` were sent."""
    amount = load.amount
    if load.requests and sent not in (None, load.requests):
        amount = phrase("{sent:,} of {requests}", sent=sent, requests=amount)
    clients = counted(load.clients, "client")
    if load.is_open and load.rate is None:
        clients = phrase("{clients}, as {trace} says", clients=clients, trace=load.arrivals)
    elif load.rate is not None:
        way = load.arrivals if load.arrivals != "poisson" else "Poisson"
        clients = phrase(
            "{clients}, {rate} requests a second ({way})",
            clients=clients,
            rate=rate(load.rate),
            way=way,
        )
    words = [clients, amount]
    if load.goals is not None:
        words.append(phrase("goals: {goals}", goals=load.goals))
    return joined(words, " · ")


def _length(mean: int, spread: tuple[int, int] | None) -> str:
    if spread is None:
        return f"{mean:,}"
    return phrase("{least} to {most}", least=f"{spread[0]:,}", most=f"{spread[1]:,}")


def rate_words(load: LoadTest) -> Phrase:
    """Return what stands behind a rate of requests: that it is one, and which was asked for."""
    if load.rate is None:
        return phrase("a second")
    return phrase("a second, of {rate} asked for", rate=rate(load.rate))


def clients_words(load: LoadTest) -> Phrase:
    """Return what stands behind the requests in flight: of how many they are."""
    if load.rate is None:
        return phrase("on average, of {n:,} asked for", n=load.clients)
    return phrase("on average, at most {n:,}", n=load.clients)


def steady_words(steady: Steady | None) -> Phrase:
    """Return the steady part behind its throughput; without one, why there is none."""
    if steady is None:
        return TOO_SHORT
    return phrase(
        "tokens/s from {begin} to {end}; {rate} requests/s, {n} in flight",
        begin=seconds(steady.begins_s),
        end=seconds(steady.ends_s),
        rate=rate(steady.requests_per_s),
        n=rate(steady.concurrency),
    )


def tokens_words(summary: Summary) -> Phrase:
    """Return the tokens of all prompts and answers."""
    return phrase(
        "{inputs:,} in, {outputs:,} out",
        inputs=summary.input_tokens,
        outputs=summary.output_tokens,
    )


def cached_row(summary: Summary) -> list[tuple[Phrase, Phrase]]:
    """Return what the server had of the prompts already; nothing where it does not say."""
    if summary.cached_share is None:
        return []
    words = phrase(
        "{share:.0%} of the prompts' tokens, as the server says", share=summary.cached_share
    )
    return [(phrase("cached"), words)]


def own_words(own: OwnShare) -> tuple[Phrase, ...]:
    """Return how late the load generator was, how much of a core it used, and how wrong it was."""
    words: tuple[Phrase, ...] = (
        phrase(
            "requests left {sent} late, pieces were read {read} late (p99)",
            sent=milliseconds(own.sent_late.p99 * 1000),
            read=milliseconds(own.read_late.p99 * 1000),
        ),
        phrase("{cpu:.0%} of a core", cpu=own.cpu),
    )
    if own.repeated:
        requests = counted(own.repeated, "request")
        again = phrase(
            "{requests} sent again, since the server had closed their connection", requests=requests
        )
        words = (*words, again)
    if own.calibration is None:
        return words
    wrong = phrase(
        "against a known endpoint, with {clients:,} in flight, TTFT was wrong by {ttft}, time per"
        " token by {tpot} (p99)",
        clients=own.calibration.clients,
        ttft=milliseconds(own.calibration.ttft_s.p99 * 1000),
        tpot=milliseconds(own.calibration.tpot_s.p99 * 1000),
    )
    return (*words, wrong)


def plan_words(summary: Summary, planned: Expectation) -> Phrase:
    """Return what the planner expected, with its interval, and how much of it was measured."""
    forecast = planned.forecast
    layout: str = planned.layout
    if planned.is_chosen:
        layout = phrase("{layout}, the plan's choice for a blank `serve.layout`", layout=layout)
    interval = phrase("range") if planned.beyond_measured else phrase("80% interval")
    return phrase(
        "{rate} tokens/s predicted for {layout} ({interval}: {low} to {high}); measured: {share}"
        " of it",
        rate=rate(forecast.output_tokens_per_s),
        layout=layout,
        interval=interval,
        low=rate(forecast.output_low),
        high=rate(forecast.output_high),
        share=f"{summary.output_tokens_per_s / forecast.output_tokens_per_s:.0%}",
    )


def late_words(summary: Summary, load: LoadTest) -> list[Phrase]:
    """Return how many requests were sent late, and what they waited for; nothing without any."""
    busy, others = summary.late_busy, summary.late - summary.late_busy
    words = []
    if busy:
        words.append(
            phrase(
                "{late:,} of {requests:,} requests started late: all {clients:,} clients were busy",
                late=busy,
                requests=summary.requests,
                clients=load.clients,
            )
        )
    if others:
        words.append(
            phrase(
                "{late:,} of {requests:,} requests started late with a client free: a connection"
                " had to be made first, or the load generator was late",
                late=others,
                requests=summary.requests,
            )
        )
    return words


def failed_words(summary: Summary) -> Phrase:
    """Return how many requests failed."""
    return phrase(
        "{failed:,} of {requests:,} requests failed",
        failed=summary.failed,
        requests=summary.requests,
    )


def failure_words(kind: str, number: int, message: str) -> Phrase:
    """Return how many requests failed in one way, and what the first of them said."""
    return phrase("{n:,} {kind}: {message}", n=number, kind=phrase(kind), message=message)


def latencies_of(summary: Summary) -> list[tuple[str, Quantiles | None]]:
    """Return the latencies by their keys in `LATENCIES`; those from when due where there are."""
    keys = ["ttft", "tpot", "e2e"]
    if summary.wait_s:
        keys += ["due_ttft", "due_e2e"]
    return [(key, getattr(summary, f"{key}_s")) for key in keys]


def stated(conditions: Conditions) -> list[str]:
    """Return model, layout and engine, as far as they are stated."""
    what = (conditions.model, conditions.layout, conditions.engine)
    return [one_line(part) for part in what if part not in ("", NOT_STATED)]


def _path(name: str, path: str) -> Text:
    padding = " " * (_LABEL + GAP - cell_len(name))
    return Text(f"{name}{padding}{path}", no_wrap=True, overflow="ignore")


def _head(summary: Summary, conditions: Conditions, say: Say) -> list[RenderableType]:
    lines = [say(load_words(conditions.load, summary.requests)), one_line(say(conditions.label))]
    if conditions.hardware not in ("", NOT_STATED):
        lines.insert(0, one_line(say(conditions.hardware)))
    title = " · ".join(stated(conditions))
    return [prose(title, "bold"), *(prose(line, "dim") for line in lines)]


def _throughput(summary: Summary, load: LoadTest, say: Say) -> Table:
    steady = summary.steady
    output = Text(rate(summary.output_tokens_per_s), style="bold")
    completed = phrase(
        "of {requests:,} in {time}", requests=summary.requests, time=seconds(summary.duration_s)
    )
    grid = Table.grid("", Column(justify="right"), "", padding=(0, 2))
    grid.add_row(say(phrase("output")), output, "tokens/s")
    grid.add_row(say(phrase("requests")), rate(summary.requests_per_s), say(rate_words(load)))
    grid.add_row(say(phrase("in flight")), rate(summary.concurrency), say(clients_words(load)))
    grid.add_row(say(phrase("completed")), f"{summary.completed:,}", say(completed))
    steadily = rate(steady.output_tokens_per_s) if steady else NONE
    grid.add_row(say(phrase("steady")), steadily, say(steady_words(steady)))
    if goodput := summary.goodput:
        met = phrase(
            "a second met all goals, {share} of those that ended", share=percent(goodput.share)
        )
        grid.add_row(say(phrase("goodput")), rate(goodput.requests_per_s), say(met))
    return grid


def _latencies(summary: Summary, say: Say) -> Table:
    grid = table(say(phrase("latency")), *(f">{say(name)}" for name in QUANTILES))
    for key, quantiles in latencies_of(summary):
        grid.add_row(say(LATENCIES[key]), *quantile_words(quantiles, QUANTILES))
    return grid


def quantile_words(quantiles: Quantiles | None, names: Iterable[str]) -> list[str]:
    """Return the named ones of the quantiles; dashes where there are none."""
    return [milliseconds(getattr(quantiles, at) * 1000 if quantiles else None) for at in names]


def _errors(summary: Summary, say: Say) -> list[RenderableType]:
    lines: list[RenderableType] = []
    if summary.errors:
        lines.append(prose(say(failed_words(summary)), "red"))
        ordered = sorted(summary.errors.items(), key=lambda item: (-item[1], item[0]))
        rows = [(_failure(summary, kind, n, say),) for kind, n in ordered]
        lines.append(Rows(rows, indent=2))
    if summary.unfinished:
        cancelled = phrase("{requests} cancelled in flight", requests=_requests(summary))
        lines.append(prose(say(cancelled), "yellow"))
    if not summary.counted:
        lines.append(prose(say(NOT_COUNTED), "yellow"))
    return [Text(), *lines] if lines else []


def _requests(summary: Summary) -> Phrase:
    return counted(summary.unfinished, "request")


def _failure(summary: Summary, kind: str, number: int, say: Say) -> str:
    """Return `3 × timeout`, and how long such a request took."""
    text = f"{number:,} × {one_line(say(kind))}"
    took = summary.failures.get(kind)
    if took is None:
        return text
    after = phrase(
        "after {half} (p50), {most} (p99)",
        half=milliseconds(took.duration_s.p50 * 1000),
        most=milliseconds(took.duration_s.p99 * 1000),
    )
    return f"{text}  {say(after)}"

"""Rounds of what is compared: the figures of each, and the differences that they show."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from ropeway.bench.figures import Figures, Steady
from ropeway.bench.sending.answers import UNFINISHED
from ropeway.bench.versus import (
    FEWEST_ROUNDS,
    LEAST_APART,
    LEAST_IN_TURNS,
    LEVEL,
    Verdict,
    apart,
    in_turns,
    judge,
    said,
    shared_level,
)
from ropeway.endpoint.stream import Timing
from ropeway.phrases import Phrase, phrase

CLOSED = ("output_tokens_per_s", "ttft_s", "tpot_s")
OPEN = ("e2e_s", "ttft_s", "tpot_s")
"""What is judged, the headline first. At a rate of requests, that rate sets the throughput."""

# Blocks of fewer requests than this many waves of all clients are too much of one piece with the
# next: they share the requests that are in flight between them.
_WAVES = 2
_FEWEST_REQUESTS = 20


@dataclass(frozen=True, kw_only=True)
class Round:
    """The figures of one round: rates over all of it, means of its completed requests.

    input_tokens, output_tokens
                   of a completed request, on average; 0: unknown
    failed         requests
    goodput_per_s  requests that met every goal, by the second; None: there are no goals
    doubts         why its figures are not to be trusted
    folder         with its raw timings; None: a part of a recorded run
    """

    output_tokens_per_s: float
    requests_per_s: float
    ttft_s: float | None
    tpot_s: float | None
    e2e_s: float | None
    input_tokens: float
    output_tokens: float
    failed: int = 0
    goodput_per_s: float | None = None
    doubts: tuple[str, ...] = ()
    folder: str | None = None


@dataclass(frozen=True)
class Series:
    """One of what is compared, and its rounds in their order."""

    name: str
    rounds: tuple[Round, ...]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How the second of two compares with the first in one figure.

    figure      a field of `Round`
    ratio, low, high
                how many times as fast the second is, and between what that lies; above 1 is faster,
                of latencies too; None: not judged
    found_from  the smallest difference that would have been found nine times of ten, as a share
    said        the verdict as a sentence, or why there is none
    """

    first: str
    second: str
    figure: str
    verdict: Verdict
    said: Phrase
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    found_from: float | None = None


def round_of(figures: Figures, folder: str) -> Round:
    """Return the figures of a round that was measured."""
    summary = figures.summary
    completed = max(1, summary.completed)
    means = {
        name: quantiles.mean if (quantiles := getattr(summary, name)) else None
        for name in ("ttft_s", "tpot_s", "e2e_s")
    }
    return Round(
        output_tokens_per_s=summary.output_tokens_per_s,
        requests_per_s=summary.requests_per_s,
        input_tokens=summary.input_tokens / completed,
        output_tokens=summary.completed_output_tokens / completed,
        failed=summary.failed,
        goodput_per_s=summary.goodput.requests_per_s if summary.goodput else None,
        doubts=tuple(map(str, figures.doubts)),
        folder=folder,
        **means,
    )


def differences(
    all_series: Sequence[Series], figures: Sequence[str], *, turns: bool
) -> tuple[Difference, ...]:
    """Return how each two compare in each figure; all verdicts together hold with `LEVEL`.

    turns  the n-th rounds of all were measured in turns, so that they belong together
    """
    pairs = list(combinations(all_series, 2))
    level = shared_level(LEVEL, len(pairs) * len(figures))
    return tuple(
        _difference(first, second, figure, level, turns=turns)
        for first, second in pairs
        for figure in figures
        if _has(figure, (*first.rounds, *second.rounds))
    )


def fastest_of(names: Sequence[str], judged: Iterable[Difference]) -> str | None:
    """Return the one that is faster than each of the others; None where no such is known.

    judged  differences in one figure
    """
    beaten: dict[str, set[str]] = {name: set() for name in names}
    for difference in judged:
        if difference.verdict == "faster":
            beaten[difference.second].add(difference.first)
        elif difference.verdict == "slower":
            beaten[difference.first].add(difference.second)
    won = (name for name in names if beaten[name] == set(names) - {name})
    return next(won, None) if len(names) > 1 else None


def not_told_from(name: str, judged: Iterable[Difference]) -> tuple[str, ...]:
    """Return those that a difference to this one was not found of, or not looked for."""
    return tuple(
        one.second if one.first == name else one.first
        for one in judged
        if name in (one.first, one.second) and one.verdict not in ("faster", "slower")
    )


def together(runs: Iterable[Iterable[Timing]]) -> Iterable[Timing]:
    """Yield the timings of several runs as those of one, each run after the end of the last."""
    after = 0.0
    for timings in runs:
        held = list(timings)
        begin = min((timing.sent for timing in held), default=0.0)
        for timing in held:
            yield _moved(timing, after - begin)
        after += max((timing.ended for timing in held), default=begin) - begin


def blocks(timings: Iterable[Timing], steady: Steady, clients: int, most: int) -> list[Round]:
    """Cut the steady part of one run into rounds of equal length, at most `most` of them.

    Each has two waves of all clients, and twenty requests, on average; there are fewer rounds where
    the run is too short for more. Requests count where they were sent, tokens where they came.
    """
    each = max(_WAVES * clients, _FEWEST_REQUESTS)
    count = min(most, steady.requests // each)
    parts = [_Part() for _ in range(count)]
    span = (steady.ends_s - steady.begins_s) / count if count else 0.0

    def part_of(moment: float) -> _Part | None:
        at = (moment - steady.begins_s) / span if span else -1.0
        return parts[int(at)] if 0 <= at < count else None

    for timing in timings:
        if timing.error is None or timing.error.kind == UNFINISHED:
            pieces = sum(tokens for _, tokens in timing.chunks)
            for moment, tokens in timing.chunks:
                if part := part_of(moment):
                    part.tokens += tokens * timing.output_tokens / pieces if pieces else 0.0
        if part := part_of(timing.sent):
            part.add(timing)
    return [part.round(span) for part in parts]


def blocks_need(clients: int) -> int:
    """Return about how many requests a run must have, so that its steady part is enough."""
    return FEWEST_ROUNDS * max(_WAVES * clients, _FEWEST_REQUESTS) + 2 * clients


def how_judged(rounds: int, *, turns: bool) -> Phrase:
    """Return what one must know to judge verdicts of so many rounds."""
    if rounds < FEWEST_ROUNDS:
        return phrase(
            "With fewer than {needed} rounds no figure has an interval: what differs may be noise.",
            needed=FEWEST_ROUNDS,
        )
    if turns:
        return phrase(
            "Rounds were taken in turns, every other time in the opposite order. All verdicts"
            " together hold with {level:.1%} confidence; faster and slower are said only where the"
            " whole interval is beyond {least:.0%}. The number of rounds, {rounds}, was set before"
            " the first.",
            level=LEVEL,
            least=LEAST_IN_TURNS,
            rounds=rounds,
        )
    return phrase(
        "These were measured one after the other: what the machines did differently in between is"
        " in no interval. But for that, all verdicts together hold with {level:.1%} confidence;"
        " faster and slower are said only where the whole interval is beyond {least:.0%}. The"
        " number of rounds, {rounds}, was set before the first.",
        level=LEVEL,
        least=LEAST_APART,
        rounds=rounds,
    )


class _Part:
    """What is summed of a part of a run."""

    def __init__(self) -> None:
        self.tokens, self.failed = 0.0, 0
        self.sums: defaultdict[str, float] = defaultdict(float)
        self.counts: Counter[str] = Counter()

    def add(self, timing: Timing) -> None:
        if timing.error is not None:
            self.failed += timing.error.kind != UNFINISHED
            return
        for name in ("ttft_s", "tpot_s", "e2e_s", "input_tokens", "output_tokens"):
            if (value := getattr(timing, name)) is not None:
                self.sums[name] += value
                self.counts[name] += 1

    def round(self, seconds: float) -> Round:
        means = {name: self.sums[name] / count for name, count in self.counts.items()}
        return Round(
            output_tokens_per_s=self.tokens / seconds,
            requests_per_s=self.counts["output_tokens"] / seconds,
            ttft_s=means.get("ttft_s"),
            tpot_s=means.get("tpot_s"),
            e2e_s=means.get("e2e_s"),
            input_tokens=means.get("input_tokens", 0.0),
            output_tokens=means.get("output_tokens", 0.0),
            failed=self.failed,
        )


def _difference(
    first: Series, second: Series, figure: str, level: float, *, turns: bool
) -> Difference:
    neither = Difference(
        first=first.name, second=second.name, figure=figure, verdict="not judged", said=Phrase()
    )
    if why := _not_judged(first, second, figure, turns=turns):
        return replace(neither, said=why)
    before, after = (_speeds(series, figure) for series in (first, second))
    interval = (in_turns if turns else apart)(before, after, level)
    verdict = judge(interval, LEAST_IN_TURNS if turns else LEAST_APART)
    return replace(
        neither,
        verdict=verdict,
        said=said(verdict, interval, first.name, second.name),
        ratio=interval.ratio,
        low=interval.low,
        high=interval.high,
        found_from=interval.found_from,
    )


def _speeds(series: Series, figure: str) -> list[float]:
    """Return the figure of each round, of durations its inverse: less time is faster."""
    values = [getattr(one, figure) for one in series.rounds]
    return values if figure.endswith("_per_s") else [1 / value for value in values]


def _has(figure: str, rounds: Sequence[Round]) -> bool:
    """Say whether some round has the figure; without rounds that is not known."""
    return not rounds or any(getattr(one, figure) is not None for one in rounds)


def _not_judged(first: Series, second: Series, figure: str, *, turns: bool) -> Phrase | None:
    """Return why nothing can be said of two."""
    for series in (first, second):
        if failed := sum(one.failed for one in series.rounds):
            return phrase(
                "{first} and {second} were not judged: {failed:,} requests to {name} failed",
                first=first.name,
                second=second.name,
                failed=failed,
                name=series.name,
            )
    fewest = min(len(first.rounds), len(second.rounds))
    if fewest < FEWEST_ROUNDS or (turns and len(first.rounds) != len(second.rounds)):
        return phrase(
            "{first} and {second} were not judged: it takes {needed} rounds of each, not {rounds}",
            first=first.name,
            second=second.name,
            rounds=fewest,
            needed=FEWEST_ROUNDS,
        )
    known = (getattr(one, figure) for series in (first, second) for one in series.rounds)
    if not all(value is not None and value > 0 for value in known):
        return phrase(
            "{first} and {second} were not judged: some round has no such figure",
            first=first.name,
            second=second.name,
        )
    return None


def _moved(timing: Timing, by: float) -> Timing:
    def at(moment: float | None) -> float | None:
        return None if moment is None else moment + by

    return replace(
        timing,
        sent=timing.sent + by,
        first_token=at(timing.first_token),
        chunks=tuple((moment + by, tokens) for moment, tokens in timing.chunks),
        last=at(timing.last),
        ended=timing.ended + by,
        due=at(timing.due),
    )

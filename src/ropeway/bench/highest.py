"""What a search for the highest rate measures, step by step, and what it says in the end.

`find_max` decides by numbers alone; here measurements become its probes, and its trials loads.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ropeway.bench.find_max import (
    Again,
    Bracket,
    Probe,
    Search,
    Trial,
    Verdict,
    again,
    bracket,
    enough,
    judge,
    next_trial,
    result,
    runs_like,
    seconds_left,
)
from ropeway.bench.ladder import Step
from ropeway.bench.load_test import LoadTest
from ropeway.bench.own_share import REACHED, own_doubts
from ropeway.bench.rungs import WHOLE, Found, Rung
from ropeway.phrases import Phrase, phrase
from ropeway.units import format_seconds

# Requests of the run with one client; seconds of that and of the closed loop, at most.
_ALONE, _LIMIT_S = 5, 120.0
# A probe that lasts so many times longer than its arrivals is cut off.
_PATIENCE = 3.0
_BEFORE = 2
# In flight so large a share of all clients, they may be what sets the limit.
_BUSY = 0.95


@dataclass(frozen=True)
class HighestRate:
    """`--find-max`: the steps of its search. `share`, `requests`: see `Search`."""

    share: float
    requests: int | None = None

    def next(self, load: LoadTest, rungs: Sequence[Rung]) -> Step | None:
        """Return what is to be measured after `rungs`; None when the search is over."""
        number = len(rungs)
        fresh = replace(load, rate=None, fresh=load.fresh + number)
        if not rungs:
            alone = replace(fresh, clients=1, requests=_ALONE, time_limit_s=_LIMIT_S)
            return Step("alone", phrase("one request at a time"), alone, None)
        if number == 1:
            if not rungs[0].figures.summary.completed or misses_alone(rungs[0]):
                return None
            requests = max(4 * load.clients, 64)
            closed = replace(fresh, requests=requests, time_limit_s=_LIMIT_S)
            title = phrase("{clients:,} clients, for a first estimate", clients=load.clients)
            return Step("closed", title, closed, None)
        search = self.search(rungs)
        if search is None:
            return None
        probes = probes_of(rungs)
        trial = next_trial(search, probes)
        if trial is None:
            return None
        left_s = seconds_left(search, probes, trial)
        seconds = trial.requests / trial.rate
        sent = replace(
            fresh, rate=trial.rate, requests=trial.requests, time_limit_s=_PATIENCE * seconds
        )
        kind = "confirm" if trial.confirms else "probe"
        title = _title(trial, again(search, probes, trial))
        return Step(f"{kind}-{number - 1}", title, sent, left_s)

    def verdict(self, rungs: Sequence[Rung]) -> Verdict | None:
        """Return that on the newest measurement alone; None: it had no rate, or is not whole."""
        search = self.search(rungs)
        if search is None or len(rungs) <= _BEFORE or rungs[-1].ended not in WHOLE:
            return None
        return judge(search, [_probe(rungs[-1])], last=True)

    def search(self, rungs: Sequence[Rung]) -> Search | None:
        """Return what is looked for; None before it is known, or when nothing was answered."""
        if len(rungs) < _BEFORE:
            return None
        alone = rungs[0].e2e_s
        capacity = rungs[1].requests_per_s
        if alone is None or not capacity:
            return None
        return Search(capacity, alone.p50, self.share, self.requests)

    def found(self, rungs: Sequence[Rung]) -> Found:
        """Return what the measurements say that came to their end."""
        rungs = [rung for rung in rungs if rung.ended in WHOLE]
        search = self.search(rungs)
        if search is None:
            why = phrase("no rate was tried")
            if rungs and misses_alone(rungs[0]):
                why = phrase("no rate meets the goals: a request that is alone misses them")
            return Found(None, False, None, self.share, why)
        probes = probes_of(rungs)
        rate, confirmed = result(search, probes)
        known = bracket(search, probes)
        own = [judge(search, [probe], last=True) for probe in probes]
        verdicts = [judge(search, runs_like(probe, probes), last=True) for probe in probes]
        names = [rung.name for rung in rungs[_BEFORE:]]
        said = dict(zip(names, map(in_words, own), strict=True))
        doubts = (*_too_few(search, rate or known.fails), *_doubts(rungs[_BEFORE:], rate, known))
        goals = rungs[0].load.goals is not None
        sentence = _sentence(rate, known.holds, confirmed=confirmed, goals=goals)
        fails_at = _fails_at(probes, verdicts)
        return Found(rate, confirmed, fails_at, self.share, sentence, said, doubts)


def _fails_at(probes: Sequence[Probe], verdicts: Sequence[Verdict]) -> float | None:
    failed = [
        probe.trial.rate
        for probe, verdict in zip(probes, verdicts, strict=True)
        if verdict != "holds"
    ]
    return min(failed, default=None)


def misses_alone(rung: Rung) -> bool:
    """Return whether even a request that is alone misses the goals, more often than not."""
    goodput = rung.figures.summary.goodput
    return goodput is not None and goodput.share < 0.5


def probes_of(rungs: Sequence[Rung]) -> list[Probe]:
    """Return the probes among the measurements: all after the first two."""
    return [_probe(rung) for rung in rungs[_BEFORE:]]


def _probe(rung: Rung) -> Probe:
    load, summary = rung.load, rung.figures.summary
    trial = Trial(load.rate or 0.0, load.requests, rung.name.startswith("confirm"))
    due, sent = summary.due_per_s, summary.sent_per_s
    reached = due is None or sent is None or sent >= REACHED * due
    steady = summary.steady
    if steady is None or steady.trend is None or summary.e2e_s is None:
        return Probe(trial, load.requests, load.requests, reached, None)
    goodput = steady.goodput
    missed = summary.failed + summary.unfinished
    requests = load.requests
    if goodput is not None:
        requests = steady.requests
        missed = requests - goodput.met
    missed += load.requests - summary.requests  # were never sent
    seconds = steady.ends_s - steady.begins_s
    # A line may begin below what the quickest request takes, and would rise by any share of that.
    first_s = max(steady.trend.first_s, summary.e2e_s.p50 / 4)
    trend = steady.trend
    rise = trend.per_s * seconds / first_s
    return Probe(
        trial,
        requests,
        missed,
        reached,
        rise,
        trend.per_s,
        trend.error,
        due=steady.due or 0,
        ended=steady.ended,
        in_flight=steady.concurrency,
    )


def in_words(verdict: Verdict) -> Phrase:
    """Return a verdict as people read it."""
    return {
        "holds": phrase("holds"),
        "missed": phrase("missed"),
        "behind": phrase("fell behind"),
        "rising": phrase("latency rises"),
        "late": phrase("not reached"),
        "close": phrase("close"),
    }[verdict]


def _title(trial: Trial, again: Again | None) -> Phrase:
    seconds = format_seconds(trial.requests / trial.rate)
    if again is not None:
        values = {"rate": trial.rate, "seconds": seconds, "why": _why_again(again)}
        return (
            phrase("confirm {rate:.4g} requests/s again for {seconds}: {why}", **values)
            if trial.confirms
            else phrase("try {rate:.4g} requests/s again for {seconds}: {why}", **values)
        )
    if trial.confirms:
        return phrase(
            "confirm {rate:.4g} requests/s for {seconds}", rate=trial.rate, seconds=seconds
        )
    return phrase("try {rate:.4g} requests/s for {seconds}", rate=trial.rate, seconds=seconds)


def _why_again(again: Again) -> Phrase:
    return {
        "close": phrase("it was close"),
        "disagree": phrase("its two runs disagree"),
        "failed": phrase("what fails is tried twice"),
    }[again]


def _sentence(rate: float | None, held: float | None, *, confirmed: bool, goals: bool) -> Phrase:
    """Say what was found. `held`: the highest rate that held in a probe, confirmed or not."""
    if rate is None and held is not None:
        return phrase(
            "no rate was confirmed: {rate:.4g} requests/s held in a probe, and not in one twice as"
            " long",
            rate=held,
        )
    if rate is None:
        return phrase("no rate held that was tried")
    if not confirmed:
        return phrase("{rate:.4g} requests/s held in a probe, and were not confirmed", rate=rate)
    if goals:
        return phrase("the highest rate that keeps the goals: {rate:.4g} requests/s", rate=rate)
    return phrase("the highest rate that is sustained: {rate:.4g} requests/s", rate=rate)


def _too_few(search: Search, rate: float | None) -> tuple[Phrase, ...]:
    """Return the doubt that so few requests in a probe, as were asked for, cannot tell."""
    if rate is None or not search.requests or search.requests >= enough(search, rate):
        return ()
    doubt = phrase(
        "a probe of {requests:,} requests is too short to tell: their arrivals alone vary by"
        " {share:.1%}; without `--requests` it would have {enough:,}",
        requests=search.requests,
        share=1 / math.sqrt(search.requests),
        enough=enough(search, rate),
    )
    return (doubt,)


def _doubts(probes: Sequence[Rung], rate: float | None, known: Bracket) -> tuple[Phrase, ...]:
    """Return what of ours may have set the limit: in the runs at it, and in those just above."""
    doubts: list[Phrase] = []
    for rung in probes:
        if rung.load.rate not in (rate, known.fails):
            continue
        summary = rung.figures.summary
        doubts += own_doubts(rung.figures.own, summary, rung.load)
        if rung.load.rate != known.fails or rung.concurrency < _BUSY * rung.load.clients:
            continue
        doubts.append(
            phrase(
                "all {clients:,} clients were busy at {rate:.4g} requests/s: with more `--clients`"
                " the server may do more",
                clients=rung.load.clients,
                rate=rung.load.rate,
            )
        )
    # One of each kind, as the last run that had it says it.
    return tuple({doubt.template: doubt for doubt in doubts}.values())

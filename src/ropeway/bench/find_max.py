"""The highest rate that a server sustains: which rate to try next, from those tried so far. Pure.

One request at a time says how long an answer takes at best, a closed loop about how many requests
can be answered in a second. From there on rates are tried: bracketed by factors, then halved on a
geometric scale, then confirmed by a run of its own, twice as long. Every probe has prompts and
arrivals of its own, so that no lucky ones decide.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["holds", "missed", "behind", "rising", "late", "close"]
"""holds: the rate is sustained; missed: too few requests met the goals; behind: fewer ended than
were due; rising: latency rose all the time; late: the rate was not reached; close: another run is
needed to tell."""

Again = Literal["close", "disagree", "failed"]
"""Why a trial is run again: it was close; its two runs disagree; it failed, and may have met with
what has nothing to do with its rate."""

NARROW = 1.03
"""How near the lowest rate that fails is to the highest that holds, at the end."""

# The first rate, as a share of what a closed loop reached, and the steps until one side is known.
_FIRST, _UP, _DOWN = 0.8, 1.25, 0.5
# Rates below this share of it are not tried.
_LEAST = 1 / 128
# A confirming run that fails is tried again one step lower, so often.
_MOST_CONFIRMS = 5
# Probes last so many seconds, or so many answers, and have so many requests that may miss.
_SECONDS, _ANSWERS, _MAY_MISS, _REQUESTS = 30.0, 20.0, 10, 100
# Latency rises when its line does so by more than so many standard errors, by more than this share
# of what it began with, and by so many seconds a second: of a queue that grows that is the share
# of requests that are too many.
_ERRORS, _RISE, _TOO_MANY = 3.0, 0.25, 0.01
# So large a share of what was due has to have ended, or the server fell behind.
_KEPT_UP = 0.97
# With so many times fewer or more misses than there may be, a probe is close.
_CLOSE = 2.0
# Runs of one rate: before it is taken for the one that fails, and at most.
_TWICE, _RUNS = 2, 3


@dataclass(frozen=True)
class Search:
    """What is looked for.

    capacity  requests per second of a closed loop
    answer_s  end to end of a request that is alone
    share     of requests that are to meet the goals, 0 to 1
    requests  of each probe; None: as many as it takes to tell
    """

    capacity: float
    answer_s: float
    share: float
    requests: int | None = None


@dataclass(frozen=True)
class Trial:
    """What is to be tried; `confirms`: as the last run, twice as long as a probe."""

    rate: float
    requests: int
    confirms: bool = False


@dataclass(frozen=True)
class Probe:
    """What came of a trial.

    requests  that were due
    missed    of those, that failed, did not meet a goal, or were never sent
    reached   whether requests were sent at the rate that was asked for
    rise      of latency over the steady part, as a share of what it was when that began; None:
              latency was so long that there was no steady part
    per_s     seconds that latency rose by in a second, and its standard `error`
    due       requests in the steady part, and those that `ended` in it, in whatever way
    in_flight  requests, on average
    """

    trial: Trial
    requests: int
    missed: int
    reached: bool
    rise: float | None
    per_s: float = 0.0
    error: float = 0.0
    due: int = 0
    ended: int = 0
    in_flight: float = 0.0


@dataclass(frozen=True)
class Bracket:
    """The highest rate that holds below the lowest that does not; None: unknown."""

    holds: float | None
    fails: float | None


def next_trial(search: Search, probes: Sequence[Probe]) -> Trial | None:
    """Return what is to be tried next; None when the search is over."""
    confirming = [probe for probe in probes if probe.trial.confirms]
    if confirming:
        return _next_confirm(search, confirming)
    if probes and judge(search, runs_like(probes[-1], probes)) == "close":
        return probes[-1].trial
    known = bracket(search, probes)
    if known.fails is None:
        rate = search.capacity * _FIRST if known.holds is None else known.holds * _UP
    elif known.holds is None:
        rate = known.fails * _DOWN
        if rate < search.capacity * _LEAST:
            return None
    elif known.fails / known.holds > NARROW:
        rate = math.sqrt(known.fails * known.holds)
    else:
        failed = [one for one in probes if one.trial.rate == known.fails and not one.trial.confirms]
        if len(failed) < _TWICE:
            return failed[0].trial
        return _trial(search, known.holds, confirms=True)
    return _trial(search, rate)


def again(search: Search, probes: Sequence[Probe], trial: Trial) -> Again | None:
    """Return why a trial is to be run that was run before; None: it was not."""
    runs = [probe for probe in probes if probe.trial == trial]
    if not runs:
        return None
    if judge(search, runs) != "close":
        return "failed"
    return "close" if len(runs) < _TWICE else "disagree"


def result(search: Search, probes: Sequence[Probe]) -> tuple[float | None, bool]:
    """Return the highest rate that holds so far, and whether it was confirmed.

    A rate that the longer run did not confirm does not hold, nor does any above it.
    """
    confirming = [probe for probe in probes if probe.trial.confirms]
    verdicts = {probe.trial.rate: judge(search, runs_like(probe, probes)) for probe in confirming}
    for rate, said in verdicts.items():
        if said == "holds":
            return rate, True
    failed = [rate for rate, said in verdicts.items() if said != "close"]
    below = min(failed, default=math.inf)
    return max((rate for rate in _held(search, probes)[0] if rate < below), default=None), False


def bracket(search: Search, probes: Sequence[Probe]) -> Bracket:
    """Return what the probes say, without those that confirm."""
    below, fails = _held(search, probes)
    return Bracket(max(below, default=None), fails)


def _held(search: Search, probes: Sequence[Probe]) -> tuple[list[float], float | None]:
    """Return the rates that held in probes, below the lowest that failed, and that one."""
    trials = {probe.trial.rate: probe for probe in probes if not probe.trial.confirms}
    verdicts = {
        rate: judge(search, runs_like(probe, probes), last=True) for rate, probe in trials.items()
    }
    fails = min((rate for rate, said in verdicts.items() if said != "holds"), default=None)
    below = [
        rate
        for rate, said in verdicts.items()
        if said == "holds" and (fails is None or rate < fails)
    ]
    return below, fails


def runs_like(probe: Probe, probes: Sequence[Probe]) -> list[Probe]:
    """Return the runs of the same trial."""
    return [other for other in probes if other.trial == probe.trial]


def judge(search: Search, runs: Sequence[Probe], *, last: bool = False) -> Verdict:
    """Return what the runs of one trial say together. `last`: there will be no other run.

    What is close is judged by all runs together. A clear run may have met with what has nothing to
    do with its rate, so that where two disagree a third decides.
    """
    together = _verdict(search, runs)
    if last and len(runs) < _RUNS:
        return together
    first = runs[0]
    if len(runs) == 1:
        return "close" if _is_close(search, first) else together
    if _is_close(search, first):
        return together
    held = [_verdict(search, [run]) == "holds" for run in runs]
    if len(runs) < _RUNS:
        return together if all(held) or not any(held) else "close"
    if sum(held) * 2 > len(held):
        return "holds"
    return _verdict(search, [run for run, holds in zip(runs, held, strict=True) if not holds])


def enough(search: Search, rate: float) -> int:
    """Return how many requests at a rate a probe needs to tell whether it holds."""
    return math.ceil(
        max(
            rate * max(_SECONDS, _ANSWERS * search.answer_s),
            _MAY_MISS / max(1 - search.share, 0.001),
            _REQUESTS,
        )
    )


def seconds_left(search: Search, probes: Sequence[Probe], trial: Trial) -> float:
    """Estimate how long the search will still take, this trial and all after it."""
    seconds = trial.requests / trial.rate
    if trial.confirms:
        return seconds
    known = bracket(search, probes)
    wide = 2.0 if known.holds is None or known.fails is None else known.fails / known.holds
    halvings = math.ceil(math.log2(max(1.0, math.log(wide) / math.log(NARROW))))
    # And the rate that fails once more, and a confirming run of twice the length.
    return seconds * (max(1, halvings) + 3)


def _next_confirm(search: Search, confirming: Sequence[Probe]) -> Trial | None:
    newest = confirming[-1]
    verdict = judge(search, runs_like(newest, confirming))
    if verdict == "close":
        return newest.trial
    rates = {probe.trial.rate for probe in confirming}
    if verdict == "holds" or len(rates) >= _MOST_CONFIRMS:
        return None
    return _trial(search, newest.trial.rate / NARROW, confirms=True)


def _verdict(search: Search, runs: Sequence[Probe]) -> Verdict:
    """Return what the runs say together, close or not."""
    if not all(run.reached for run in runs):
        return "late"
    if any(run.rise is None for run in runs):
        return "rising"
    allowed = (1 - search.share) * sum(run.requests for run in runs)
    if sum(run.missed for run in runs) > allowed:
        return "missed"
    if _rising(runs):
        return "rising"
    return "behind" if _behind(runs) else "holds"


def _is_close(search: Search, run: Probe) -> bool:
    if not run.reached or run.rise is None:
        return False
    allowed = (1 - search.share) * run.requests
    near = allowed / _CLOSE < run.missed < allowed * _CLOSE
    return near or ((_behind([run]) or _rising([run])) and run.missed < allowed)


def _behind(runs: Sequence[Probe]) -> bool:
    """Return whether clearly fewer requests ended than were due.

    While a server keeps up, how many are in flight changes by chance: at two moments these numbers
    differ by about the square root of twice their mean.
    """
    due, ended = sum(run.due for run in runs), sum(run.ended for run in runs)
    error = math.sqrt(2 * math.fsum(run.in_flight for run in runs))
    return due - ended > max((1 - _KEPT_UP) * due, _ERRORS * error)


def _rising(runs: Sequence[Probe]) -> bool:
    rise = math.fsum(run.rise or 0.0 for run in runs) / len(runs)
    per_s = math.fsum(run.per_s for run in runs) / len(runs)
    error = math.sqrt(math.fsum(run.error**2 for run in runs)) / len(runs)
    return rise > _RISE and per_s > max(_TOO_MANY, _ERRORS * error)


def _trial(search: Search, rate: float, *, confirms: bool = False) -> Trial:
    requests = search.requests or enough(search, rate)
    return Trial(rate, requests * 2 if confirms else requests, confirms)

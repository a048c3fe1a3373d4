"""A sweep over given numbers of clients, or given rates: what is sent at each, and for how long."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ropeway.bench.load_test import LoadTest
from ropeway.bench.rungs import By, Rung
from ropeway.errors import Refused
from ropeway.phrases import Phrase, phrase
from ropeway.units import counted, format_seconds

# Requests of each client where their number is not given: of the ramp-up, of the time of an answer
# in between, and of the end; and so many in all besides, since clients are not in step.
_WAVES, _STEADY = 3, 32
# At a rate: the fewest requests, seconds, and answers one after the other.
_FEWEST, _SECONDS, _ANSWERS = 100, 30.0, 6.0


@dataclass(frozen=True)
class Step:
    """The next measurement. `left_s`: of it and all that are still to come; None: unknown."""

    name: str
    title: Phrase
    load: LoadTest
    left_s: float | None

    def detail(self, progress: str, elapsed_s: float) -> str:
        """Return how far it is, so long after it began, with the time that all will take."""
        if self.left_s is None:
            return progress
        left = format_seconds(round(max(1.0, self.left_s - elapsed_s)))
        return phrase("{progress} · all: about {left}", progress=progress, left=left)


@dataclass(frozen=True)
class Ladder:
    """Values of one flag, each to be measured in turn. `requests` of each; None: chosen for it."""

    by: By
    values: tuple[float, ...]
    requests: int | None = None

    def next(self, load: LoadTest, rungs: Sequence[Rung]) -> Step | None:
        """Return what is to be measured after `rungs`; None when that is all."""
        if len(rungs) >= len(self.values):
            return None
        number = len(rungs)
        coming = [self._load(load, at, rungs) for at in range(number, len(self.values))]
        return Step(
            name=f"{self.by}-{self.values[number]:g}",
            title=_title(number + 1, len(self.values), coming[0]),
            load=coming[0],
            left_s=_seconds_left(coming, rungs),
        )

    def _load(self, load: LoadTest, at: int, rungs: Sequence[Rung]) -> LoadTest:
        value = self.values[at]
        if load.duration_s is not None:
            changed = {"rate": value} if self.by == "rate" else {"clients": int(value)}
            return replace(load, **changed, fresh=load.fresh + at)
        if self.by == "rate":
            requests = self.requests or _requests_at(value, rungs)
            return replace(load, rate=value, requests=requests, fresh=load.fresh + at)
        clients = int(value)
        requests = self.requests or _WAVES * clients + _STEADY
        return replace(load, clients=clients, requests=requests, fresh=load.fresh + at)


def ladder_of(
    clients: Sequence[int], rates: Sequence[float], requests: int | None
) -> Ladder | None:
    """Return the sweep that flags ask for; None when each has one value at most. Raises Refused."""
    if len(clients) > 1 and rates:
        raise Refused(
            phrase("several `--clients` and `--rate` cannot be swept over at once"),
            hint=phrase("give several values to one of the two, and no rate with several clients"),
        )
    by: By = "rate" if len(rates) > 1 else "clients"
    values: Sequence[float] = rates if by == "rate" else clients
    if len(values) < 2:
        return None
    twice = next((value for value in values if list(values).count(value) > 1), None)
    if twice is not None:
        raise Refused(
            phrase("`--{by}` has {value:g} twice", by=by, value=twice),
            hint=phrase("give each value once"),
        )
    return Ladder(by, tuple(map(float, values)), requests)


def _requests_at(rate: float, rungs: Sequence[Rung]) -> int:
    """Return how many requests reach a steady part: it begins after two answers' time."""
    answers = [rung.e2e_s.p50 for rung in rungs if rung.e2e_s]
    seconds = max([_SECONDS, *(_ANSWERS * took for took in answers[-1:])])
    return max(_FEWEST, math.ceil(rate * seconds))


def _seconds_left(coming: Sequence[LoadTest], rungs: Sequence[Rung]) -> float | None:
    """Estimate what the coming loads take: their duration, or requests at their own rate or the
    pace of the last one."""
    pace = rungs[-1].requests_per_s if rungs else 0.0
    seconds = 0.0
    for load in coming:
        if load.duration_s is not None:
            seconds += load.duration_s
        elif per_s := load.rate or pace:
            seconds += load.requests / per_s
        else:
            return None
    return seconds


def _title(number: int, count: int, load: LoadTest) -> Phrase:
    values = {"number": number, "count": count, "requests": load.amount}
    if load.rate is not None:
        return phrase(
            "{number} of {count}: {rate:g} requests/s, {requests}", rate=load.rate, **values
        )
    clients = counted(load.clients, "client")
    return phrase("{number} of {count}: {clients}, {requests}", clients=clients, **values)

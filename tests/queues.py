"""A server with slots, as a model: what requests would measure that arrive at it."""

import heapq
import random
from collections.abc import Callable, Iterator

from ropeway.bench.figures import Figures
from ropeway.bench.load_test import LoadTest
from ropeway.bench.own_share import doubts, own_share
from ropeway.bench.rungs import Rung
from ropeway.bench.stats import summarise
from ropeway.endpoint.stream import Timing
from timings import timing

Service = Callable[[random.Random], float]


def waits(load: LoadTest, slots: int, service: Service, seed: int) -> Iterator[Timing]:
    """Yield the requests of a load at a rate; each has a slot for `service` seconds."""
    assert load.rate is not None
    chance = random.Random(seed)
    free = [0.0] * slots
    now = 0.0
    for _ in range(load.requests):
        now += chance.expovariate(load.rate)
        begin = max(now, heapq.heappop(free))
        end = begin + service(chance)
        heapq.heappush(free, end)
        yield timing(now, begin + 0.001, end, 8, due=now)


def rung(load: LoadTest, timings: Iterator[Timing] | list[Timing], name: str = "one") -> Rung:
    """Return the measurement that has these timings."""
    summary, own = summarise(timings, load), own_share([])
    return Rung(name, load, Figures(summary, own, doubts(own, summary, load)), "complete")

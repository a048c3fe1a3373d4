"""When requests are due, in seconds from the start of the measurement."""

import random
from collections.abc import Iterator
from itertools import repeat


def arrivals(rate: float | None, seed: int) -> Iterator[float | None]:
    """Yield due times without end: a Poisson stream of `rate` requests per second.

    The same seed gives the same times. Without a rate they are None: a request is due as soon as a
    client is free, and the number of clients alone sets the pace (a closed loop). Raises ValueError
    unless the rate is above 0.
    """
    if rate is None:
        return repeat(None)
    if not rate > 0:
        raise ValueError(f"a rate is above 0 requests per second, not {rate}")
    return _poisson(rate, random.Random(f"arrivals {seed}"))


def _poisson(rate: float, chance: random.Random) -> Iterator[float]:
    due = 0.0
    while True:
        due += chance.expovariate(rate)
        yield due

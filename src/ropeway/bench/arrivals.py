"""When requests are due, in seconds from the start of the measurement."""

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ropeway.errors import Refused, reason_of
from ropeway.outside import open_regular, parse_json
from ropeway.phrases import phrase

_LONGEST_LINE = 2**20
_MOST_AT_ONCE = 10**6


@dataclass(frozen=True)
class Arrivals:
    """How requests arrive.

    size  of a burst: requests that are due at once
    file  of a trace: says when each request is due
    """

    kind: Literal["poisson", "constant", "burst", "trace"]
    size: int = 1
    file: Path = Path()


def parse_arrivals(text: str) -> Arrivals:
    """Read `poisson`, `constant`, `burst:8` or `trace:times.txt`. Raises Refused."""
    kind, _, value = text.partition(":")
    if text == "poisson":
        return Arrivals("poisson")
    if text == "constant":
        return Arrivals("constant")
    if kind == "burst" and value.isdecimal() and 1 <= int(value[:9]) <= _MOST_AT_ONCE:
        return Arrivals("burst", size=int(value))
    if kind == "trace" and value:
        return Arrivals("trace", file=Path(value))
    raise Refused(
        phrase("`--arrivals {text}` is no way to arrive", text=text),
        hint="write `poisson`, `constant`, `burst:8` or `trace:times.txt`",
    )


def arrivals(rate: float | None, seed: int | str, how: str = "poisson") -> Iterator[float | None]:
    """Yield due times, without end unless they are those of a trace.

    The same seed gives the same times; `rate` is the mean of requests per second. Without a rate
    they are None: a request is due as soon as a client is free, and the number of clients alone
    sets the pace (a closed loop). Raises ValueError unless the rate is above 0, Refused for what
    `parse_arrivals` and `read_trace` refuse.
    """
    way = parse_arrivals(how)
    if way.kind == "trace":
        return read_trace(way.file)
    if rate is None:
        return itertools.repeat(None)
    if not rate > 0:
        raise ValueError(f"a rate is above 0 requests per second, not {rate}")
    if way.kind == "poisson":
        return _poisson(rate, random.Random(f"arrivals {seed}"))
    size = way.size
    return (number // size * size / rate for number in itertools.count())


def read_trace(path: Path) -> Iterator[float]:
    """Yield when the requests of a trace are due, counted from its first one.

    A line is a number of seconds, or an object with one as `timestamp`. Raises Refused, which
    names the line, for anything else and for a time before that of the line above.
    """
    first: float | None = None
    last = -math.inf
    try:
        with open_regular(path) as file:
            lines = iter(lambda: file.readline(_LONGEST_LINE), b"")
            for number, line in enumerate(lines, 1):
                if line.isspace():
                    continue
                moment = _moment(line, f"{path}:{number}")
                first = moment if first is None else first
                if moment < last:
                    raise Refused(
                        phrase("a request of the trace is due before the one above it"),
                        where=f"{path}:{number}",
                        hint=phrase("sort the trace by time"),
                    )
                last = moment
                yield moment - first
    except (OSError, ValueError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else error.args[0]
        what = phrase("the trace cannot be read: {reason}", reason=reason)
        raise Refused(what, where=str(path)) from None


def trace_length(path: Path) -> int:
    """Return how many requests a trace has. Raises Refused for one that cannot be used."""
    length = sum(1 for _ in read_trace(path))
    if not length:
        raise Refused(phrase("the trace is empty"), where=str(path))
    return length


def _moment(line: bytes, where: str) -> float:
    try:
        value = parse_json(line)
        moment = value.get("timestamp") if isinstance(value, dict) else value
        if not isinstance(moment, bool) and isinstance(moment, int | float):
            return _finite(moment)
    except ValueError:
        pass
    raise Refused(
        phrase("a line of the trace says no time"),
        where=where,
        hint='a line is a number of seconds, or JSON like `{"timestamp": 12.5}`',
    )


def _finite(number: float) -> float:
    if not math.isfinite(number):
        raise ValueError("not a moment")
    return float(number)


def _poisson(rate: float, chance: random.Random) -> Iterator[float]:
    due = 0.0
    while True:
        due += chance.expovariate(rate)
        yield due

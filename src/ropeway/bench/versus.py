"""Whether one of two is faster, or the rounds do not tell: statistics of rounds, and nothing else.

Figures of a round are positive, and what matters is by how much larger one is than another, so all
is done with logarithms. Their differences are taken as normal: the interval of their mean is
Student's. Each round is one value, however many requests it has, because requests of one round
share whatever the machines did in it.

How many rounds there are is decided before the first one. To go on until an interval is narrow
enough would be to look several times and to take the look that pleases: the level would not hold.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from ropeway.phrases import Phrase, phrase

Verdict = Literal["faster", "slower", "no difference found", "not judged"]

LEVEL = 0.995
"""How sure all that one comparison says is together, however many differences it judges."""
LEAST_IN_TURNS = 0.01
"""A difference that matters, where rounds were taken in turns."""
LEAST_APART = 0.03
"""The same where they were not. What the machines did differently at the two times is in no
interval, and some percent are usual; this figure is chosen, not measured."""
FEWEST_ROUNDS = 3

# A difference that "would have been found" would have been in nine of ten comparisons.
_POWER = 0.9
# Rounds that differ by factors would give bounds that no document can hold.
_WIDEST = math.log(1e6)


@dataclass(frozen=True)
class Interval:
    """How many times as much the second of two has as the first, and between what that lies.

    found_from  the smallest difference that nine of ten such comparisons would find, as a share
    """

    ratio: float
    low: float
    high: float
    found_from: float


def judge(interval: Interval, least: float) -> Verdict:
    """Return `faster` or `slower` only where all of the interval is beyond `least`, a share."""
    if interval.low > 1 + least:
        return "faster"
    return "slower" if interval.high < 1 / (1 + least) else "no difference found"


def in_turns(
    first: Sequence[float], second: Sequence[float], level: float, least: float = LEAST_IN_TURNS
) -> Interval:
    """Return the interval of two series whose values belong together, pair by pair.

    What lasts longer than a round changes both values of a pair, and so cancels. Raises ValueError
    unless there are as many values of each, two or more, all above 0.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} rounds cannot be paired with {len(second)}")
    _check(first, second)
    ratios = [math.log(b / a) for a, b in zip(first, second, strict=True)]
    mean, variance = _moments(ratios)
    return _interval(mean, math.sqrt(variance / len(ratios)), len(ratios) - 1, level, least)


def apart(
    first: Sequence[float], second: Sequence[float], level: float, least: float = LEAST_APART
) -> Interval:
    """Return the interval of two series that were measured one after the other (Welch's).

    It knows how much each of them varied within itself, and not what changed between the two.
    Raises ValueError unless each has two values or more, all above 0.
    """
    _check(first, second)
    (mean_a, var_a), (mean_b, var_b) = (_moments([math.log(x) for x in s]) for s in (first, second))
    part_a, part_b = var_a / len(first), var_b / len(second)
    both = part_a + part_b
    rest = part_a**2 / (len(first) - 1) + part_b**2 / (len(second) - 1)
    freedom = both**2 / rest if rest else len(first) + len(second) - 2
    # Rounded down, which makes the interval wider. The tolerance is that of the division.
    whole = max(1, math.floor(freedom + 1e-9))
    return _interval(mean_b - mean_a, math.sqrt(both), whole, level, least)


def interval_of_mean(values: Sequence[float], level: float) -> tuple[float, float]:
    """Return between what the mean of rounds lies. Raises ValueError as `apart` does."""
    _check(values)
    mean, variance = _moments([math.log(value) for value in values])
    interval = _interval(mean, math.sqrt(variance / len(values)), len(values) - 1, level, 0.0)
    return interval.low, interval.high


def shared_level(level: float, differences: int) -> float:
    """Return the level of each of so many differences, that holds for all together (Bonferroni)."""
    return 1 - (1 - level) / max(1, differences)


def t_quantile(level: float, freedom: int) -> float:
    """Return t, such that Student's t lies between -t and t with this probability.

    Raises ValueError unless the level is above 0 and below 1, and `freedom` 1 or more.
    """
    if not 0 < level < 1 or freedom < 1:
        raise ValueError(f"no such quantile: {level} of {freedom}")
    low, high = 0.0, 1.0
    while _within(high, freedom) < level:
        low, high = high, high * 2
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < level else (low, middle)
    return high


def said(verdict: Verdict, interval: Interval, first: str, second: str) -> Phrase:
    """Return the verdict as a sentence, with how large the difference is."""
    low, ratio, high = interval.low, interval.ratio, interval.high
    if verdict == "faster":
        return phrase(
            "{second} is {by:.1%} faster than {first} (between {low:.1%} and {high:.1%})",
            first=first,
            second=second,
            by=ratio - 1,
            low=low - 1,
            high=high - 1,
        )
    if verdict == "slower":
        return phrase(
            "{second} is {by:.1%} slower than {first} (between {low:.1%} and {high:.1%})",
            first=first,
            second=second,
            by=1 - ratio,
            low=1 - high,
            high=1 - low,
        )
    return phrase(
        "no difference found between {first} and {second}: {second} is {between}; these rounds"
        " would find one of {least:.1%} or more",
        first=first,
        second=second,
        between=_between(low - 1, high - 1),
        least=interval.found_from,
    )


def _between(low: float, high: float) -> Phrase:
    """Return where a difference lies, as people say it; `low`, `high`: shares, faster above 0."""
    low, high = round(low, 3), round(high, 3)
    if low > 0:
        return phrase("between {low:.1%} and {high:.1%} faster", low=low, high=high)
    if high < 0:
        return phrase("between {low:.1%} and {high:.1%} slower", low=-high, high=-low)
    return phrase("between {low:.1%} slower and {high:.1%} faster", low=abs(low), high=abs(high))


def _within(t: float, freedom: int) -> float:
    """Return the probability between -t and t, a finite sum for whole degrees of freedom.

    Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    angle = math.atan(t / math.sqrt(freedom))
    sine, square = math.sin(angle), math.cos(angle) ** 2
    odd = freedom % 2
    term, total = 1.0, 0.0
    for step in range(freedom // 2):
        total += term
        below, above = (2 * step + 2, 2 * step + 3) if odd else (2 * step + 1, 2 * step + 2)
        term *= below / above * square
    if odd:
        return 2 / math.pi * (angle + sine * math.cos(angle) * total)
    return sine * total


def _check(*series: Sequence[float]) -> None:
    for values in series:
        if len(values) < 2 or not all(value > 0 for value in values):
            raise ValueError("an interval needs two rounds or more, all with something in them")


def _moments(values: Sequence[float]) -> tuple[float, float]:
    mean = math.fsum(values) / len(values)
    return mean, math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


def _interval(mean: float, error: float, freedom: int, level: float, least: float) -> Interval:
    t = t_quantile(level, freedom)
    half = t * error
    # The interval's own width varies as well, the more the fewer rounds there are.
    often = NormalDist().inv_cdf(_POWER) * math.sqrt(1 + t**2 / (2 * freedom)) * error
    ratio, low, high, found = (
        math.exp(max(-_WIDEST, min(value, _WIDEST)))
        for value in (mean, mean - half, mean + half, math.log1p(least) + half + often)
    )
    return Interval(ratio, low, high, found - 1)

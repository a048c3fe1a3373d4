"""A circuit breaker as data: whether a replica is trusted with requests, and when to probe it.

Nothing is alive by saying so: a breaker closes only when its replica generated a token. While it is
half open, the one request let through is a probe of ours, so no client pays for finding out. What
clients do wrong (4xx) is not told to a breaker at all.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from ropeway.router.config import Limits

NEVER = float("inf")


class State(StrEnum):
    """Only CLOSED gets requests. UNPROVEN has not generated a token since we started."""

    UNPROVEN = "unproven"
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(frozen=True)
class Breaker:
    """One replica's state.

    failures  requests that failed, in a row
    openings  probes that failed in a row, the opening included: what the back-off counts
    probe_at  when to ask for a token, seconds of the caller's clock; NEVER while one is on its way
    """

    state: State = State.UNPROVEN
    failures: int = 0
    openings: int = 0
    probe_at: float = 0.0

    @property
    def alive(self) -> bool:
        return self.state is State.CLOSED


def probing(breaker: Breaker) -> Breaker:
    """A probe leaves now."""
    state = State.HALF_OPEN if breaker.state is State.OPEN else breaker.state
    return replace(breaker, state=state, probe_at=NEVER)


def proved(now: float, limits: Limits) -> Breaker:
    """A probe brought a token."""
    return Breaker(State.CLOSED, probe_at=now + limits.probe_period_s)


def served(breaker: Breaker, now: float, limits: Limits) -> Breaker:
    """A request got a token: as good as a probe for a replica that is trusted.

    Not for one that is not: that token may have lain in a buffer since before it fell ill.
    """
    if not breaker.alive:
        return breaker
    waiting = breaker.probe_at == NEVER
    return replace(breaker, failures=0, probe_at=NEVER if waiting else now + limits.probe_period_s)


def failed(breaker: Breaker, now: float, limits: Limits, *, refused: bool = False) -> Breaker:
    """A request failed by the replica's fault; `refused`: nobody was listening at all.

    The next probe is due at once, or after the back-off when this opened the breaker.
    """
    if not breaker.alive:
        return breaker
    counted = replace(breaker, failures=breaker.failures + 1)
    if not refused and counted.failures < limits.failures:
        return suspected(counted, now)
    opened = _opened(counted, now, limits)
    return replace(opened, probe_at=NEVER) if breaker.probe_at == NEVER else opened


def suspected(breaker: Breaker, now: float) -> Breaker:
    """A request failed, perhaps by its own fault. A probe, which is known to be good, will tell."""
    return replace(breaker, probe_at=now) if breaker.probe_at != NEVER else breaker


def probe_failed(breaker: Breaker, now: float, limits: Limits, *, refused: bool = False) -> Breaker:
    """A probe brought no token. A probe is never at fault: one is enough."""
    # What starts loads weights: to be refused costs nothing, and whoever waits wants to know soon.
    # The back-off is for engines that take a probe and do nothing with it.
    if breaker.state is State.UNPROVEN:
        return replace(breaker, probe_at=now + limits.backoff_s)
    if refused:
        return Breaker(State.OPEN, breaker.failures, 0, now + limits.backoff_s)
    return _opened(breaker, now, limits)


def _opened(breaker: Breaker, now: float, limits: Limits) -> Breaker:
    # 2^16 times any back-off is beyond any limit; it only keeps the power from growing.
    delay = min(limits.backoff_s * 2 ** min(breaker.openings, 16), limits.backoff_max_s)
    return Breaker(State.OPEN, breaker.failures, breaker.openings + 1, now + delay)

"""A circuit breaker as data: whether a replica is trusted with requests, and when to probe it.

A breaker closes only when its replica has generated a token. While it is half open, the one request
let through is a probe of ours, so that no client pays for finding out. Errors of clients (4xx) do
not reach a breaker at all.
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

    failures  requests that failed in a row
    openings  probes that failed in a row, the opening included; the back-off grows with them
    probe_at  when to ask for a token, seconds of the caller's clock; NEVER while a probe runs
    """

    state: State = State.UNPROVEN
    failures: int = 0
    openings: int = 0
    probe_at: float = 0.0

    @property
    def alive(self) -> bool:
        return self.state is State.CLOSED


def begin_probe(breaker: Breaker) -> Breaker:
    """Note that a probe is sent now."""
    state = State.HALF_OPEN if breaker.state is State.OPEN else breaker.state
    return replace(breaker, state=state, probe_at=NEVER)


def close(now: float, limits: Limits) -> Breaker:
    """Trust the replica: a probe returned a token."""
    return Breaker(State.CLOSED, probe_at=now + limits.probe_period_s)


def note_token(breaker: Breaker, now: float, limits: Limits) -> Breaker:
    """Note that a request received a token: as good as a probe, if the replica is trusted.

    Otherwise it proves nothing: the token may have waited in a buffer since before the failure.
    """
    if not breaker.alive:
        return breaker
    waiting = breaker.probe_at == NEVER
    return replace(breaker, failures=0, probe_at=NEVER if waiting else now + limits.probe_period_s)


def note_failure(breaker: Breaker, now: float, limits: Limits, *, refused: bool = False) -> Breaker:
    """Note that a request failed through the replica's fault.

    refused  nobody was listening

    The next probe is due at once, or after the back-off when this opened the breaker.
    """
    if not breaker.alive:
        return breaker
    counted = replace(breaker, failures=breaker.failures + 1)
    if not refused and counted.failures < limits.failures:
        return probe_now(counted, now)
    opened = _opened(counted, now, limits)
    return replace(opened, probe_at=NEVER) if breaker.probe_at == NEVER else opened


def probe_now(breaker: Breaker, now: float) -> Breaker:
    """Let a probe leave at once. After a 5xx it decides: the request itself may be to blame."""
    return replace(breaker, probe_at=now) if breaker.probe_at != NEVER else breaker


def probe_later(breaker: Breaker, now: float, limits: Limits) -> Breaker:
    """Note that a probe could not be sent, for a reason of ours: nothing is known."""
    state = State.OPEN if breaker.state is State.HALF_OPEN else breaker.state
    return replace(breaker, state=state, probe_at=now + limits.backoff_s)


def note_failed_probe(
    breaker: Breaker, now: float, limits: Limits, *, refused: bool = False
) -> Breaker:
    """Open the breaker: a probe returned no token. One is enough, a probe is never at fault."""
    # An engine that starts loads its weights: being refused costs nothing, and clients wait for it.
    # The back-off is for engines that accept a probe and then do nothing.
    if breaker.state is State.UNPROVEN:
        return replace(breaker, probe_at=now + limits.backoff_s)
    if refused:
        return Breaker(State.OPEN, breaker.failures, 0, now + limits.backoff_s)
    return _opened(breaker, now, limits)


def _opened(breaker: Breaker, now: float, limits: Limits) -> Breaker:
    # 2^16 times any back-off exceeds any limit; this only keeps the power from growing.
    delay = min(limits.backoff_s * 2 ** min(breaker.openings, 16), limits.backoff_max_s)
    return Breaker(State.OPEN, breaker.failures, breaker.openings + 1, now + delay)

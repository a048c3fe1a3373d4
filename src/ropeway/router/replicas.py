"""The replicas as they are now: what is in flight to each, how much, and whether it is alive."""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ropeway.router import breaker as breakers
from ropeway.router.balance import Load, PrefixIndex, choose
from ropeway.router.breaker import NEVER, Breaker
from ropeway.router.config import Backend, Config, Limits
from ropeway.router.request import ParsedRequest

log = logging.getLogger("ropeway.router")
Clock = Callable[[], float]

# The initial mean length of an answer, and the weight of a new one.
_FIRST_GUESS_TOKENS = 256.0
_WEIGHT = 0.05


@dataclass(eq=False, slots=True)
class Attempt:
    """One request on one replica.

    scope         encloses everything that it awaits
    silent_since  since when we wait for its next token; NEVER while we wait for its client
    silent_s      how long we had waited for it before that
    patience      seconds that we may wait; then the watch ends the attempt
    tokens        of the request that are outstanding
    begun         whether a token has come
    """

    scope: asyncio.Timeout
    silent_since: float
    patience: float
    tokens: int
    silent_s: float = 0.0
    begun: bool = False
    reason: str = ""

    def wait(self, now: float) -> None:
        """Wait for the replica."""
        if self.silent_since == NEVER:
            self.silent_since = now - self.silent_s

    def pause(self, now: float) -> None:
        """Wait for the client: meanwhile the replica is not to blame."""
        self.silent_s, self.silent_since = now - self.silent_since, NEVER

    def end(self, reason: str) -> None:
        """Raise TimeoutError in whatever it awaits; only the first call counts."""
        if not self.reason:
            self.reason = reason
            self.scope.reschedule(0)


class Replica:
    """One replica's state, and its totals since the start."""

    def __init__(self, backend: Backend) -> None:
        self.name = backend.name
        self.url = backend.url
        self.breaker = Breaker()
        self.attempts: set[Attempt] = set()
        self.outstanding = 0
        self.requests = 0
        self.failures = 0
        self.last_token = self.noted_token = float("-inf")
        self.last_failure = ""


class Pool:
    """All replicas. Every change of a breaker goes through here, and is logged."""

    def __init__(self, config: Config, clock: Clock) -> None:
        self.limits: Limits = config.limits
        self.clock = clock
        self.replicas = {backend.name: Replica(backend) for backend in config.backends}
        self._prefixes = PrefixIndex()
        self._mean_answer = _FIRST_GUESS_TOKENS

    def __iter__(self) -> Iterator[Replica]:
        return iter(self.replicas.values())

    @property
    def alive(self) -> list[Replica]:
        return [replica for replica in self if replica.breaker.alive]

    def pick(self, parsed: ParsedRequest, without: Collection[str]) -> Replica | None:
        """Choose the replica for a request, and note that its cache will be warm for the prefix."""
        able = {replica.name: replica for replica in self.alive if replica.name not in without}
        loads = [Load(each.name, each.outstanding, each.requests) for each in able.values()]
        name = choose(loads, self._prefixes.warm(parsed.prefix, able), self.limits)
        if name is None:
            return None
        self._prefixes.record(parsed.prefix, name)
        return able[name]

    def attempt(self, parsed: ParsedRequest, scope: asyncio.Timeout) -> Attempt:
        """Return an attempt that is about to be sent."""
        patience = self.limits.first_byte_s if parsed.streamed else self.limits.whole_s
        return Attempt(scope, self.clock(), patience, parsed.prompt_tokens + self._expected(parsed))

    @contextmanager
    def in_flight(self, replica: Replica, attempt: Attempt) -> Iterator[None]:
        """Count the tokens of the request as outstanding on the replica until the block ends."""
        replica.attempts.add(attempt)
        replica.requests += 1
        replica.outstanding += attempt.tokens
        try:
            yield
        finally:
            replica.attempts.discard(attempt)
            replica.outstanding -= attempt.tokens

    def note_token(self, replica: Replica, attempt: Attempt, parsed: ParsedRequest) -> None:
        """Note a token. At the first the prompt has been read, which is no longer outstanding."""
        replica.last_token = self.clock()
        attempt.silent_s = 0.0
        if not attempt.begun:
            attempt.begun, attempt.patience = True, self.limits.stall_s
            replica.outstanding -= parsed.prompt_tokens
            attempt.tokens -= parsed.prompt_tokens

    def note_length(self, pieces: int) -> None:
        """Note the length of a complete answer, in pieces: about as many as its tokens."""
        self._mean_answer += (pieces - self._mean_answer) * _WEIGHT

    def note_failure(self, replica: Replica, why: str, *, refused: bool = False) -> None:
        """Note that a request failed through the replica's fault."""
        replica.failures += 1
        replica.last_failure = why
        now = self.clock()
        breaker = breakers.note_failure(replica.breaker, now, self.limits, refused=refused)
        self._set(replica, breaker, why)

    def note_5xx(self, replica: Replica, why: str) -> None:
        """Note that a request got 5xx there and elsewhere: it may itself be to blame."""
        replica.failures += 1
        replica.last_failure = why
        self._set(replica, breakers.probe_now(replica.breaker, self.clock()), why)

    def note_tokens(self) -> None:
        """Tell the breakers of tokens that requests received since the last call."""
        for replica in self:
            if replica.last_token > replica.noted_token:
                replica.noted_token = replica.last_token
                breaker = breakers.note_token(replica.breaker, replica.last_token, self.limits)
                self._set(replica, breaker, "")

    def begin_probe(self, replica: Replica) -> None:
        self._set(replica, breakers.begin_probe(replica.breaker), "a probe was sent")

    def probe_succeeded(self, replica: Replica) -> None:
        self._set(replica, breakers.close(self.clock(), self.limits), "it generated a token")

    def probe_queued(self, replica: Replica) -> None:
        """Note that a probe waits in the replica's queue, while it generates for others."""
        if replica.breaker.alive:
            self.probe_succeeded(replica)
        else:
            self.probe_failed(replica, "busy, and no token for our probe")

    def probe_unsent(self, replica: Replica, why: str) -> None:
        """Note that no probe could be sent, for a reason of ours."""
        self._set(replica, breakers.probe_later(replica.breaker, self.clock(), self.limits), why)

    def probe_failed(self, replica: Replica, why: str, *, refused: bool = False) -> None:
        replica.last_failure = why
        now = self.clock()
        breaker = breakers.note_failed_probe(replica.breaker, now, self.limits, refused=refused)
        self._set(replica, breaker, why)

    def _expected(self, parsed: ParsedRequest) -> int:
        mean = max(1, round(self._mean_answer))
        return mean if parsed.max_tokens is None else min(mean, parsed.max_tokens)

    def _set(self, replica: Replica, new: Breaker, why: str) -> None:
        old, replica.breaker = replica.breaker, new
        if old.alive is not new.alive:  # open and half-open alternate every second
            log.info("%s: %s → %s (%s)", replica.name, old.state, new.state, why)
        if old.alive and not new.alive:
            self._prefixes.forget(replica.name)


def overdue(replica: Replica, now: float) -> list[Attempt]:
    """Return the attempts that have been silent for longer than they may."""
    return [each for each in replica.attempts if now - each.silent_since > each.patience]


def waiting(replica: Replica) -> list[Attempt]:
    """Return the attempts that wait for the replica, and not for their client."""
    return [each for each in replica.attempts if each.silent_since < NEVER]

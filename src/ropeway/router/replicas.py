"""The replicas as they are now: what is on its way to each, how much, and whether it is alive."""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from ropeway.router import breaker as breakers
from ropeway.router.ask import Ask
from ropeway.router.balance import Load, PrefixIndex, choose
from ropeway.router.breaker import NEVER, Breaker
from ropeway.router.config import Backend, Config, Limits

log = logging.getLogger("ropeway.router")
Clock = Callable[[], float]

# Where the mean length of an answer starts, and how much a new one moves it.
_FIRST_GUESS_TOKENS = 256.0
_WEIGHT = 0.05


class Attempt:
    """One request on one replica.

    silent_since  since when we have waited for it; NEVER while we are not waiting
    patience      how long we may; the watch ends the attempt then
    tokens        what is outstanding of it
    """

    __slots__ = ("_scope", "patience", "reason", "silent_since", "tokens")

    def __init__(self, scope: asyncio.Timeout, now: float, patience: float, tokens: int) -> None:
        self._scope = scope
        self.silent_since = now
        self.patience = patience
        self.tokens = tokens
        self.reason = ""

    def end(self, reason: str) -> None:
        """Whatever it awaits ends with TimeoutError; once."""
        if not self.reason:
            self.reason = reason
            self._scope.reschedule(0)


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

    def pick(self, ask: Ask, without: Collection[str]) -> Replica | None:
        """The replica for a request, and it is noted that its cache will be warm for it."""
        able = {replica.name: replica for replica in self.alive if replica.name not in without}
        loads = [Load(each.name, each.outstanding, each.requests) for each in able.values()]
        name = choose(loads, self._prefixes.warm(ask.beginning, able), self.limits)
        if name is None:
            return None
        self._prefixes.record(ask.beginning, name)
        return able[name]

    def attempt(self, ask: Ask, scope: asyncio.Timeout) -> Attempt:
        """A request that is about to leave; `scope` is what is around everything it awaits."""
        streamed = ask.body is not None and ask.body.get("stream") is True
        patience = self.limits.first_byte_s if streamed else self.limits.whole_s
        return Attempt(scope, self.clock(), patience, ask.prompt_tokens + self._expected(ask))

    @contextmanager
    def under_way(self, replica: Replica, attempt: Attempt) -> Iterator[None]:
        """The request is on that replica; its tokens are outstanding until it ends."""
        replica.attempts.add(attempt)
        replica.requests += 1
        replica.outstanding += attempt.tokens
        try:
            yield
        finally:
            replica.attempts.discard(attempt)
            replica.outstanding -= attempt.tokens

    def first_piece(self, replica: Replica, attempt: Attempt, ask: Ask) -> None:
        """Its prompt has been read: that work is no longer outstanding."""
        replica.outstanding -= ask.prompt_tokens
        attempt.tokens -= ask.prompt_tokens
        attempt.patience = self.limits.stall_s

    def finished(self, pieces: int) -> None:
        """An answer was streamed whole, in so many pieces, which are about its tokens."""
        self._mean_answer += (pieces - self._mean_answer) * _WEIGHT

    def blame(self, replica: Replica, why: str, *, refused: bool = False) -> None:
        """A request failed there by the replica's fault."""
        replica.failures += 1
        replica.last_failure = why
        now = self.clock()
        self._set(replica, breakers.failed(replica.breaker, now, self.limits, refused=refused), why)

    def suspect(self, replica: Replica, why: str) -> None:
        """A request failed there, and elsewhere as well: perhaps by its own fault."""
        replica.failures += 1
        replica.last_failure = why
        self._set(replica, breakers.suspected(replica.breaker, self.clock()), why)

    def refresh(self) -> None:
        """Take note of tokens that requests got since the last time."""
        for replica in self:
            if replica.last_token > replica.noted_token:
                replica.noted_token = replica.last_token
                heard = breakers.served(replica.breaker, replica.last_token, self.limits)
                self._set(replica, heard, "")

    def probing(self, replica: Replica) -> None:
        self._set(replica, breakers.probing(replica.breaker), "a probe is on its way")

    def proved(self, replica: Replica) -> None:
        self._set(replica, breakers.proved(self.clock(), self.limits), "it generated a token")

    def busy(self, replica: Replica) -> None:
        """A probe waits in its queue, and it generates for others."""
        if replica.breaker.alive:
            self.proved(replica)
        else:
            self.probe_failed(replica, "busy, and no token for us")

    def probe_failed(self, replica: Replica, why: str, *, refused: bool = False) -> None:
        replica.last_failure = why
        now = self.clock()
        failed = breakers.probe_failed(replica.breaker, now, self.limits, refused=refused)
        self._set(replica, failed, why)

    def _expected(self, ask: Ask) -> int:
        mean = max(1, round(self._mean_answer))
        return mean if ask.most_tokens is None else min(mean, ask.most_tokens)

    def _set(self, replica: Replica, new: Breaker, why: str) -> None:
        old, replica.breaker = replica.breaker, new
        if old.alive is not new.alive:  # probes open and half open one every second
            log.info("%s: %s → %s (%s)", replica.name, old.state, new.state, why)
        if old.alive and not new.alive:
            self._prefixes.forget(replica.name)


def overdue(replica: Replica, now: float) -> list[Attempt]:
    """Attempts that have been silent for longer than they may."""
    return [each for each in replica.attempts if now - each.silent_since > each.patience]


def waiting(replica: Replica) -> list[Attempt]:
    """Attempts that wait for it, and not for their client."""
    return [each for each in replica.attempts if each.silent_since < NEVER]

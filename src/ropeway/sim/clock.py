"""A clock for rehearsals that nobody watches."""

import threading

from ropeway.hosts.child import sleep_cancellable

_YIELD_SECONDS = 1e-4  # of real time: the others get their turn, and a cancelled token is noticed


class JumpingClock:
    """A launch.clock.Clock on which no time is lost: whoever sleeps moves it on at once.

    What several threads sleep at the same time adds up.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._lock = threading.Lock()

    def now(self) -> float:
        """See Clock.now."""
        with self._lock:
            return self._now

    def sleep(self, seconds: float) -> None:
        """See Clock.sleep."""
        sleep_cancellable(_YIELD_SECONDS)
        with self._lock:
            self._now += seconds

"""Time as `up` and its relatives see it, so that a rehearsal can use a clock of its own."""

import time
from typing import Protocol

from ropeway.hosts.child import sleep_cancellable


class Clock(Protocol):
    """Tells the time, and lets it pass."""

    def now(self) -> float:
        """Return seconds since some moment in the past; never less than before."""
        ...

    def sleep(self, seconds: float) -> None:
        """Sleep. Raises TimeLimit as soon as the token of this thread is cancelled."""
        ...


class SystemClock:
    """This machine's."""

    def now(self) -> float:
        """See Clock.now."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """See Clock.sleep."""
        sleep_cancellable(seconds)


SYSTEM_CLOCK = SystemClock()

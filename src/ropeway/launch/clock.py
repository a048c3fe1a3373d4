"""Time as `up` and its relatives see it, so that a rehearsal can use a clock of its own."""

import time

from ropeway.hosts.child import sleep_cancellable


class Clock:
    """A monotonic clock and its sleep; by default this machine's."""

    def now(self) -> float:
        """Return seconds since some moment in the past; never less than before."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Sleep. Raises Cancelled as soon as the token of this thread is cancelled."""
        sleep_cancellable(seconds)


SYSTEM_CLOCK = Clock()

"""An event loop whose clock does not wait: tests of timeouts and speeds need no time and no luck.

All that is timed has to run in this one loop, and to ask it for the time (`loop.time`): servers,
clients, what stands between them. Real sockets are used; when nothing can be read or written, the
clock jumps to the next timer.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

# For bytes that the kernel has not handed over yet, and for threads that work for the loop: only
# then may the clock jump.
_GRACE_S, _THREAD_S = 0.001, 1.0


class _Selector(selectors.DefaultSelector):
    """Selects without waiting for timers: these only move the clock."""

    now = 0.0
    threads = 0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        ready = super().select(0) or super().select(_THREAD_S if self.threads else _GRACE_S)
        if not ready:
            self.now += timeout
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Its time begins at 1000 s and passes only while everything waits for a timer."""

    def __init__(self) -> None:
        self._clock = _Selector()
        super().__init__(self._clock)

    def time(self) -> float:
        return 1000 + self._clock.now

    def run_in_executor(self, *work: Any) -> Any:
        self._clock.threads += 1
        future = super().run_in_executor(*work)
        future.add_done_callback(self._thread_ended)
        return future

    def _thread_ended(self, _: object) -> None:
        self._clock.threads -= 1


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine as `asyncio.run` does, in virtual time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)

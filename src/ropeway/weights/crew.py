"""Commands on many hosts at once, each in a thread, and one queue of what came of them."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from ropeway.errors import RopewayError
from ropeway.hosts.child import CancelToken, cancellable
from ropeway.hosts.fleet import max_parallel

K = TypeVar("K")

_MOST = 512


@dataclass(frozen=True)
class Event(Generic[K]):
    """`about` came to an end with this value or this error; or, `ended` False, it said a line."""

    about: K
    value: object = None
    error: RopewayError | None = None
    ended: bool = True


class Crew(Generic[K]):
    """Runs jobs. What they raise on purpose is an event; anything else is raised by `next`."""

    def __init__(self, jobs_at_once: int) -> None:
        self._pool = ThreadPoolExecutor(max(2, min(jobs_at_once, max_parallel(), _MOST)), "push")
        self._stop = CancelToken()
        self._queue: SimpleQueue[Event[K] | BaseException] = SimpleQueue()

    def go(self, about: K, job: Callable[[], object]) -> None:
        """Begin a job as soon as a thread is free."""
        self._pool.submit(self._work, about, job)

    def say(self, about: K, line: str) -> None:
        """An event of a job that goes on."""
        self._queue.put(Event(about, line, ended=False))

    def next(self, seconds: float) -> Event[K] | None:
        """The next event; None when none comes in this time."""
        try:
            found = self._queue.get(timeout=seconds)
        except Empty:
            return None
        if isinstance(found, BaseException):
            raise found
        return found

    def end(self) -> None:
        """End everything that runs and wait until nothing does."""
        self._stop.cancel("was stopped")
        self._pool.shutdown(cancel_futures=True)

    def _work(self, about: K, job: Callable[[], object]) -> None:
        try:
            with cancellable(self._stop):
                value = job()
        except RopewayError as error:
            self._queue.put(Event(about, error=error))
        except BaseException as bug:
            self._queue.put(bug)
            raise
        else:
            self._queue.put(Event(about, value))

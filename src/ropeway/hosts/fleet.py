"""The same question to many hosts at once, and what each of them answered, side by side.

A host that fails is no exception here: its error stands in its place, and the others go on.
"""

import resource
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Generic, TypeVar

from ropeway.errors import RopewayError, TimeLimit
from ropeway.hosts.base import Host
from ropeway.hosts.child import Stop, under
from ropeway.hosts.interrupts import uninterrupted

T = TypeVar("T")
H = TypeVar("H", bound=Host)

PARALLEL = 64
_FILES_EACH = 8  # a process that starts has both ends of four pipes; three while it runs
_FILES_OTHERWISE = 64


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """What came of one host: a result, or the error."""

    host: Host
    result: T | None = None
    error: RopewayError | None = None

    @property
    def ok(self) -> bool:
        return self.error is None


def over(
    hosts: Sequence[H],
    ask: Callable[[H], T],
    *,
    parallel: int = PARALLEL,
    timeout: float | None = None,
    on_done: Callable[[Outcome[T]], None] | None = None,
) -> tuple[Outcome[T], ...]:
    """Ask every host, `parallel` at a time; the outcomes are in the order of the hosts.

    timeout  seconds for all of it; `ask` limits its own commands. When they are over, what runs is
             ended, and those hosts and the ones not reached fail with TimeLimit
    on_done  hears each outcome when it is there, in this thread

    Only RopewayError counts as a host's failure; anything else ends the whole run and is raised.
    So does Ctrl-C: when it is raised here, nothing of ours runs on any host.
    """
    stop = Stop()
    outcomes: dict[Future[Outcome[T]], Outcome[T]] = {}

    def note(visit: "Future[Outcome[T]]", outcome: Outcome[T]) -> None:
        outcomes[visit] = outcome
        if on_done is not None:
            on_done(outcome)

    pool = ThreadPoolExecutor(max(1, min(parallel, len(hosts), room())), "host")
    try:
        with uninterrupted():  # cut off in here, a thread is left that the pool does not know
            visits = {pool.submit(_visit, host, ask, stop): host for host in hosts}
        try:
            for visit in as_completed(visits, timeout):
                note(visit, visit.result())
        except TimeoutError:
            stop.now(f"was stopped when the {timeout:g} s for all hosts were over")
            pool.shutdown(cancel_futures=True)
            for visit, host in visits.items():
                if visit.cancelled():
                    what = f"was not reached within the {timeout:g} s for all hosts"
                    note(visit, Outcome(host, error=TimeLimit(what, where=host.name)))
                elif visit not in outcomes:
                    note(visit, visit.result())
    except BaseException:
        stop.now("was interrupted")
        with uninterrupted():
            pool.shutdown(cancel_futures=True)
        raise
    pool.shutdown()
    return tuple(outcomes[visit] for visit in visits)


def _visit(host: H, ask: Callable[[H], T], stop: Stop) -> Outcome[T]:
    try:
        with under(stop):
            result = ask(host)
            stop.check()  # it may have taken the end of a command for an answer
    except RopewayError as error:
        error.where = error.where or host.name
        return Outcome(host, error=error)
    return Outcome(host, result)


def room() -> int:
    """How many commands at once the limit of open files allows."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return sys.maxsize
    return (soft - _FILES_OTHERWISE) // _FILES_EACH

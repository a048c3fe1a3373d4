"""The one way to ask many hosts at once.

`run_on_all` returns every host's outcome side by side: a host that fails has its error in its
place, and the others go on. `run_on_all_or_raise` is for work in which one failure fails the whole.
"""

import resource
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from ropeway.errors import RopewayError, TimeLimit
from ropeway.hosts.base import Host
from ropeway.hosts.child import CancelToken, cancellable
from ropeway.hosts.interrupts import uninterrupted

T = TypeVar("T")
H = TypeVar("H", bound=Host)
P = TypeVar("P", bound="OnHost")

Hosts = Mapping[str, Host]
OnProgress = Callable[[str], None]

PARALLEL = 64
_FILES_EACH = 8  # a process that starts has both ends of four pipes; three while it runs
_FILES_OTHERWISE = 64


class OnHost(Protocol):
    """Anything that belongs to one host, which it names."""

    @property
    def host(self) -> str: ...


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """What came of one host: a result, or the error."""

    host: Host
    result: T | None = None
    error: RopewayError | None = None

    @property
    def ok(self) -> bool:
        return self.error is None


def run_on_all(
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
    token = CancelToken()
    outcomes: dict[Future[Outcome[T]], Outcome[T]] = {}

    def note(visit: "Future[Outcome[T]]", outcome: Outcome[T]) -> None:
        outcomes[visit] = outcome
        if on_done is not None:
            on_done(outcome)

    pool = ThreadPoolExecutor(max(1, min(parallel, len(hosts), max_parallel())), "host")
    try:
        with uninterrupted():  # cut off in here, a thread is left that the pool does not know
            visits = {pool.submit(_visit, host, ask, token): host for host in hosts}
        try:
            for visit in as_completed(visits, timeout):
                note(visit, visit.result())
        except TimeoutError:
            token.cancel(f"was stopped when the {timeout:g} s for all hosts were over")
            pool.shutdown(cancel_futures=True)
            for visit, host in visits.items():
                if visit.cancelled():
                    what = f"was not reached within the {timeout:g} s for all hosts"
                    note(visit, Outcome(host, error=TimeLimit(what, where=host.name)))
                elif visit not in outcomes:
                    note(visit, visit.result())
    except BaseException:
        token.cancel("was interrupted")
        with uninterrupted():
            pool.shutdown(cancel_futures=True)
        raise
    pool.shutdown()
    return tuple(outcomes[visit] for visit in visits)


def _visit(host: H, ask: Callable[[H], T], token: CancelToken) -> Outcome[T]:
    try:
        with cancellable(token):
            result = ask(host)
            token.check()  # it may have taken the end of a command for an answer
    except RopewayError as error:
        error.where = error.where or host.name
        return Outcome(host, error=error)
    return Outcome(host, result)


def run_on_all_or_raise(hosts: Hosts, ask: Callable[[Host], T]) -> dict[str, T]:
    """Ask every host; the results are keyed by the host's name.

    Raises the first host's error, with the errors of the others in its evidence.
    """
    outcomes = run_on_all(tuple(hosts.values()), ask)
    failed = [one for one in outcomes if one.error is not None]
    if failed:
        first = failed[0].error
        assert first is not None
        others = tuple(f"{one.host.name}: {one.error}" for one in failed[1:])
        first.evidence = (*first.evidence, *others)
        raise first
    return {one.host.name: one.result for one in outcomes if one.result is not None}


def group_by_host(parts: Iterable[P]) -> dict[str, list[P]]:
    """Group parts by the host they belong to, in their order; a host without any is left out."""
    groups: dict[str, list[P]] = {}
    for part in parts:
        groups.setdefault(part.host, []).append(part)
    return groups


def select(hosts: Hosts, names: Mapping[str, object]) -> Hosts:
    """Return only the hosts of these names."""
    return {name: host for name, host in hosts.items() if name in names}


def max_parallel() -> int:
    """Return how many commands may run at once within the limit of open files."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return sys.maxsize
    return (soft - _FILES_OTHERWISE) // _FILES_EACH

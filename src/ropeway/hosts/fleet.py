"""The one way to run commands on many hosts at once.

`run_on_all` returns every host's outcome side by side: a host that fails has its error in its
place, and the others go on. `run_on_all_or_raise` is for work in which one failure fails the whole.
A `WorkerPool` is for work that is not the same on all hosts, or not known when it begins.
"""

import math
import os
import resource
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import Generic, NoReturn, Protocol, TypeVar

from ropeway.errors import Cancelled, Refused, RopewayError, SshError, TimeLimit
from ropeway.hosts.base import Host
from ropeway.hosts.child import CancelToken, cancellable
from ropeway.hosts.interrupts import uninterrupted
from ropeway.phrases import phrase

T = TypeVar("T")
H = TypeVar("H", bound=Host)
P = TypeVar("P", bound="OnHost")

Hosts = Mapping[str, Host]
OnProgress = Callable[[str], None]

PARALLEL = 64
# How late we notice an interrupt that came a moment before we began to wait, or to another thread:
# Python wakes no thread that waits for a lock.
_TICK_SECONDS = 0.5
_FILES_EACH = 8  # a starting process has both ends of four pipes open; a running one has three
_FILES_OTHERWISE = 48  # that may be opened meanwhile, beside those that are open


class OnHost(Protocol):
    """Anything that belongs to one host, which it names."""

    @property
    def host(self) -> str: ...


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """One host's result or, if it failed, its error."""

    host: Host
    result: T | None = None
    error: RopewayError | None = None

    @property
    def ok(self) -> bool:
        return self.error is None


def run_on_all(
    hosts: Sequence[H],
    task: Callable[[H], T],
    *,
    timeout: float | None = None,
    on_done: Callable[[Outcome[T]], None] | None = None,
) -> tuple[Outcome[T], ...]:
    """Run a task on every host, PARALLEL at a time; return the outcomes in the hosts' order.

    task     limits the time of its own commands
    timeout  seconds for all hosts together. When they are over, running commands are ended, and
             their hosts and those not yet reached fail with Cancelled
    on_done  gets each outcome as soon as it is there, in the calling thread

    Only a RopewayError is a failure of its host. Anything else ends the whole run and is raised,
    as is Ctrl-C; by then none of our commands runs on any host.
    """
    pool = WorkerPool(min(PARALLEL, len(hosts), max(1, max_parallel())))
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    outcomes: dict[int, Outcome[T]] = {}

    def note(number: int, outcome: Outcome[T]) -> None:
        outcomes[number] = outcome
        if on_done is not None:
            on_done(outcome)

    try:
        with uninterrupted():  # an interrupt in here would leave a thread that the pool lost
            for number, host in enumerate(hosts):
                pool.submit(host, task, partial(note, number))
        while len(outcomes) < len(hosts) and (left := deadline - time.monotonic()) > 0:
            pool.handle_next(min(_TICK_SECONDS, left))
        if len(outcomes) < len(hosts):
            pool.shutdown(
                phrase(
                    "was stopped when the {timeout:g} s for all hosts were over", timeout=timeout
                )
            )
            while pool.handle_next(0):
                pass
            for number, host in enumerate(hosts):
                if number not in outcomes:
                    what = phrase(
                        "was not reached within the {timeout:g} s for all hosts", timeout=timeout
                    )
                    note(number, _failed(host, Cancelled(what)))
    except BaseException:
        with uninterrupted():
            pool.shutdown("was interrupted")
        raise
    pool.shutdown()
    return tuple(outcomes[number] for number in range(len(hosts)))


def _visit(host: H, task: Callable[[H], T], token: CancelToken) -> Outcome[T]:
    try:
        with cancellable(token):
            result = task(host)
            token.check()  # the task may have taken the end of a cancelled command for its answer
    except RopewayError as error:
        return _failed(host, error)
    return Outcome(host, result)


def _failed(host: H, error: RopewayError) -> Outcome[T]:
    """Return the outcome of a host that failed. One that was not reached has a way to try it."""
    error.where = error.where or host.name
    if isinstance(error, SshError | TimeLimit | Cancelled) and not error.hint:
        error.hint = phrase("does it answer? try: {ssh} true", ssh=host.by_hand)
    return Outcome(host, error=error)


def run_on_all_or_raise(hosts: Hosts, task: Callable[[Host], T]) -> dict[str, T]:
    """Run a task on every host; return the results by the host's name.

    Raises the first host's error, with the errors of the others in its evidence.
    """
    outcomes = run_on_all(tuple(hosts.values()), task)
    failed = [(outcome.host, outcome.error) for outcome in outcomes if outcome.error is not None]
    if failed:
        (_, first), *others = failed
        first.evidence = (*first.evidence, *told({host.name: error for host, error in others}))
        raise first
    return {one.host.name: one.result for one in outcomes if one.result is not None}


def run_on_parts(
    hosts: Hosts, parts: Iterable[P], task: Callable[[Host, Sequence[P]], T]
) -> dict[str, T]:
    """Run a task on every host that has some of the parts, with these; as `run_on_all_or_raise`."""
    by_host = group_by_host(parts)
    return run_on_all_or_raise(select(hosts, by_host), lambda host: task(host, by_host[host.name]))


class WorkerPool:
    """Runs tasks on hosts in threads and handles what they report in a single one.

    Tasks may be submitted at any time, also while others are handled. All callbacks run in the
    thread that calls `handle_next`; so what they read and change needs no lock.
    """

    def __init__(self, parallel: int) -> None:
        self._pool = ThreadPoolExecutor(max(1, parallel), "worker")
        self._token = CancelToken()
        self._callbacks: SimpleQueue[Callable[[], None]] = SimpleQueue()

    def submit(
        self, host: H, task: Callable[[H], T], on_done: Callable[[Outcome[T]], None]
    ) -> None:
        """Run a task on a host as soon as a thread is free, and have its outcome handled."""

        def work() -> None:
            try:
                outcome = _visit(host, task, self._token)
            except BaseException as error:
                self.post(partial(_raise, error))
                raise
            self.post(lambda: on_done(outcome))

        self._pool.submit(work)

    def post(self, callback: Callable[[], None]) -> None:
        """Have a callback handled: for what a task reports while it runs."""
        self._callbacks.put(callback)

    def handle_next(self, timeout: float) -> bool:
        """Call the next callback; return False when there is none within `timeout` seconds.

        Raises what a task raised, unless it was a RopewayError, which is in the task's outcome. An
        interrupt may be noticed only after `timeout`, so that should be short.
        """
        try:
            callback = self._callbacks.get(timeout=timeout)
        except Empty:
            return False
        callback()
        return True

    def shutdown(self, reason: str = "was cancelled") -> None:
        """Cancel all tasks, and return when none runs any more."""
        self._token.cancel(reason)
        self._pool.shutdown(cancel_futures=True)


def told(errors: Mapping[str, RopewayError]) -> tuple[str, ...]:
    """Return a line for each host that failed."""
    return tuple(
        phrase("{host}: {reason}", host=name, reason=error.what) for name, error in errors.items()
    )


def _raise(error: BaseException) -> NoReturn:
    raise error


def group_by_host(parts: Iterable[P]) -> dict[str, list[P]]:
    """Group parts by the host they belong to, in their order; a host without any is left out."""
    groups: dict[str, list[P]] = {}
    for part in parts:
        groups.setdefault(part.host, []).append(part)
    return groups


def select(hosts: Hosts, names: Mapping[str, object]) -> Hosts:
    """Return only the hosts of these names."""
    return {name: host for name, host in hosts.items() if name in names}


def check_parallel(commands: int, purpose: str) -> None:
    """Raise Refused when this machine cannot run so many commands at the same time."""
    if max_parallel() < commands:
        raise Refused(
            phrase(
                "{purpose} runs at least {commands} commands at once, and the limit of open "
                "files allows {most}",
                purpose=purpose,
                commands=commands,
                most=max(0, max_parallel()),
            ),
            hint="raise the limit in this shell: `ulimit -n 65536`",
        )


def max_parallel() -> int:
    """Return how many commands may run at once within the limit of open files."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return sys.maxsize
    with os.scandir("/dev/fd") as files:
        used = sum(int(file.name) < soft for file in files)
    return (soft - used - _FILES_OTHERWISE) // _FILES_EACH

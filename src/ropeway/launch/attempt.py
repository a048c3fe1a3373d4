"""The one way to start an engine: begin, wait for its first token, undo everything if that fails.

Containers on hosts (container_start.py) and processes on this machine
(local/process_start.py) differ in how each of these is done.
"""

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from ropeway.diagnosis.decide import diagnose
from ropeway.diagnosis.result import Diagnosis
from ropeway.engines.base import Node
from ropeway.errors import HostError, LaunchError, Refused, RopewayError
from ropeway.hosts.fleet import OnProgress
from ropeway.hosts.interrupts import uninterrupted
from ropeway.launch.clock import SYSTEM_CLOCK, Clock

_RAY_HOSTS = re.compile(r"ropeway: Ray has \d+ of \d+ hosts: (\{.*?\})")


def root_cause(logs: Mapping[str, str]) -> Diagnosis | None:
    """Return why the engine failed, by its logs (name → text).

    None when they show no failure, or no more than that there was one.
    """
    diagnosis = diagnose(logs)
    return None if diagnosis.verdict == "healthy" or diagnosis.echo else diagnosis


def engine_failure(
    error: HostError | LaunchError, cause: Diagnosis, log: str, absent: Sequence[str] = ()
) -> LaunchError:
    """Return the failure in the engine's own words, with the advice of the failure table.

    `absent` are the hosts that did not join, as `hosts_not_joined` says it.
    """
    known = cause.signature is not None
    explanation = (cause.cause.en, *(detail.en for detail in cause.details)) if known else ()
    advice = (cause.fix.en, f"known from: {', '.join(cause.source)}") if known else ()
    return LaunchError(
        f"the engine failed: {cause.headline}",
        where=log or None,
        evidence=(*explanation, *absent, error.what),
        hint="\n".join((*advice, *whole_log(log))),
    )


def whole_log(path: str) -> tuple[str, ...]:
    """Return the hint where a log lies; none of one that could not be kept."""
    return (f"the whole log: less {path}",) if path else ()


def hosts_not_joined(log: str, nodes: Iterable[Node]) -> tuple[str, ...]:
    """Return the hosts that Ray does not have, by the last line of programs/nodes.py about it."""
    tables = _RAY_HOSTS.findall(log)
    if not tables or "ropeway: Ray has all hosts" in log:
        return ()
    try:
        joined = json.loads(tables[-1])
    except ValueError:
        return ()
    return tuple(
        f"{node.name} ({node.address}) has not joined Ray"
        for node in {node.name: node for node in nodes}.values()
        if joined.get(node.address, 0) < node.npus
    )


@dataclass(kw_only=True)
class Attempt(ABC):
    """One start of an engine, with what has become of it so far.

    timeout       seconds after which the engine must be ready
    poll_seconds  between two looks at it
    clock         by which both are measured
    is_up         whether it has ended well
    """

    clock: Clock = SYSTEM_CLOCK
    poll_seconds: float = 1.5
    is_up: bool = field(default=False, init=False)

    @property
    @abstractmethod
    def timeout(self) -> float: ...

    @abstractmethod
    def begin(self, on_progress: OnProgress) -> None:
        """Put the files into place and run the commands."""

    @abstractmethod
    def is_ready(self, on_progress: OnProgress) -> bool:
        """Look at the engine and say what it is doing; return whether it generates tokens.

        Raises LaunchError when a part of it has ended.
        """

    @abstractmethod
    def timeout_error(self) -> LaunchError:
        """Return the error of an engine that is not ready in time, from the last look at it."""

    def finish(self) -> None:  # noqa: B027
        """Do what waits for the first token: have the container engine restart it from now on."""

    @abstractmethod
    def diagnose(self, error: BaseException) -> RopewayError | None:
        """Return the failure in the engine's own words; None where `error` says it all."""

    @abstractmethod
    def undo(self) -> RopewayError | None:
        """Remove all that this start made; what could not be removed is in the error."""


def start(attempt: Attempt, on_progress: OnProgress) -> None:
    """Bring an engine up to its first token.

    Raises HostError or LaunchError. After that, and when interrupted, everything that this start
    made has been removed, or the error says how to finish that.
    """
    try:
        attempt.begin(on_progress)
        _wait_until_ready(attempt, on_progress)
        attempt.finish()
        attempt.is_up = True
    except Refused:  # nothing was started
        raise
    except BaseException as error:
        _undo(attempt, error, on_progress)
        raise


@contextmanager
def undone_when_interrupted(attempt: Attempt) -> Iterator[None]:
    """Undo a start that ended well when Ctrl-C comes before we have said so: it means the start."""
    try:
        yield
    except KeyboardInterrupt as error:
        if attempt.is_up:
            _undo(attempt, error)
        raise


def _undo(attempt: Attempt, error: BaseException, on_progress: OnProgress | None = None) -> None:
    """Undo the start, whatever else goes wrong. Raises what says more than `error`."""
    told: BaseException = error
    with uninterrupted():
        try:
            if on_progress is not None:
                on_progress("undoing what was started")
                told = attempt.diagnose(error) or error
        finally:
            undo_error = attempt.undo()
            if undo_error is not None:
                undo_error.evidence = (str(told) or "interrupted", *undo_error.evidence)
                raise undo_error from error
    if told is not error:
        raise told from error


def _wait_until_ready(attempt: Attempt, on_progress: OnProgress) -> None:
    clock = attempt.clock
    deadline = clock.now() + attempt.timeout
    while not attempt.is_ready(on_progress):
        if clock.now() > deadline:
            raise attempt.timeout_error()
        clock.sleep(attempt.poll_seconds)

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
from ropeway.diagnosis.result import Diagnosis, Text
from ropeway.engines.base import Node, Replica
from ropeway.errors import HostError, LaunchError, Refused, RopewayError
from ropeway.hosts.fleet import OnProgress, told
from ropeway.hosts.interrupts import uninterrupted
from ropeway.launch.clock import SYSTEM_CLOCK, Clock
from ropeway.phrases import bilingual, joined, phrase
from ropeway.spec.engine_args import in_keys

_RAY_HOSTS = re.compile(r"ropeway: Ray has \d+ of \d+ hosts: (\{.*?\})")


def root_cause(logs: Mapping[str, str]) -> Diagnosis | None:
    """Return why the engine failed, by its logs (name → text).

    None when they show no failure, or no more than that there was one.
    """
    diagnosis = diagnose(logs)
    return None if diagnosis.verdict == "healthy" or diagnosis.echo else diagnosis


@dataclass(frozen=True)
class Absence:
    """Hosts of an engine that its Ray does not have."""

    nodes: tuple[Node, ...]
    head: Node
    port: int

    @property
    def evidence(self) -> tuple[str, ...]:
        """Return a line for each host."""
        return tuple(
            phrase("{host} ({address}) has not joined Ray", host=node.name, address=node.address)
            for node in self.nodes
        )

    @property
    def advice(self) -> tuple[str, ...]:
        """Return what to try."""
        return joining_advice(self.nodes[0], self.head, self.port)


def joining_advice(node: Node, head: Node, port: int) -> tuple[str, ...]:
    """Return what to try when a host may not reach the head."""
    return (
        phrase(
            "does {host} reach the head while that starts? on {host}: `nc -zv {address} {port}`",
            host=node.name, address=head.address, port=port,
        ),
        phrase(
            "a firewall between the hosts must let all ports through, and `cluster.nic` must name"
            " the interface between them; `ropeway doctor` checks the network"
        ),
    )  # fmt: skip


def absence(log: str, engine: Replica) -> Absence | None:
    """Return the hosts of an engine that its Ray does not have, by the head's log: by the last line
    of programs/nodes.py in it."""
    tables = _RAY_HOSTS.findall(log)
    if not tables or "ropeway: Ray has all hosts" in log:
        return None
    try:
        table = json.loads(tables[-1])
    except ValueError:
        return None
    missing = tuple(one for one in engine.nodes if table.get(one.address, 0) < one.npus)
    return Absence(missing, engine.head, engine.ports.ray) if missing else None


def engine_failure(
    error: HostError | LaunchError, cause: Diagnosis, logs: Sequence[str], absent: Absence | None
) -> LaunchError:
    """Return the failure in the engine's own words, with the advice of the failure table, which
    speaks of flags where we have keys.

    `logs` are the files to read, the one with the cause first.
    """
    known = cause.signature is not None
    explanation = tuple(map(_both, (cause.cause, *cause.details))) if known else ()
    addresses = ", ".join(cause.source)  # a terminal ends a link at a space
    source = phrase("known from: {source}", source=addresses)
    advice = (_both(cause.fix), source) if known else ()
    absence, joining = (absent.evidence, absent.advice) if absent else ((), ())
    return LaunchError(
        phrase("the engine failed: {line}", line=cause.headline),
        where=logs[0] if logs else None,
        evidence=(*explanation, *absence, error.what),
        hint=joined((*advice, *joining, *whole_logs(logs)), "\n") or None,
    )


def _both(text: Text) -> str:
    return bilingual(in_keys(text.en), in_keys(text.zh))


def whole_logs(paths: Iterable[str]) -> tuple[str, ...]:
    """Return the hint where logs lie; those that could not be kept have no path."""
    return tuple(phrase("the whole log: less {path}", path=path) for path in paths if path)


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
    cause: BaseException = error
    with uninterrupted():
        try:
            if on_progress is not None:
                on_progress(phrase("undoing what was started"))
                cause = attempt.diagnose(error) or error
        finally:
            undo_error = attempt.undo()
            if undo_error is not None:
                _add_cause(undo_error, cause)
                raise undo_error from error
    if cause is not error:
        raise cause from error


def _add_cause(undo_error: RopewayError, cause: BaseException) -> None:
    """Say in the error of an undo why it was undone; once, where that hindered the undo too."""
    first: tuple[str, ...] = (str(cause) or phrase("interrupted"),)
    if isinstance(cause, RopewayError):
        first = told({cause.where: cause}) if cause.where else (cause.what,)
    undo_error.evidence = tuple(dict.fromkeys((*first, *undo_error.evidence)))
    if isinstance(cause, LaunchError) and cause.hint:
        undo_error.hint = joined((undo_error.hint or "", cause.hint), "\n")


def _wait_until_ready(attempt: Attempt, on_progress: OnProgress) -> None:
    clock = attempt.clock
    deadline = clock.now() + attempt.timeout
    while not attempt.is_ready(on_progress):
        if clock.now() > deadline:
            raise attempt.timeout_error()
        clock.sleep(attempt.poll_seconds)

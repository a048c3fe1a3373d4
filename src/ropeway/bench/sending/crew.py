"""The processes that send, seen from the one that started them."""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from ropeway.bench.observers import Observer
from ropeway.bench.sending.children import start_deaf
from ropeway.bench.sending.worker import (
    NOTHING,
    Halt,
    Look,
    Rows,
    Share,
    Start,
    Task,
    Warm,
    work,
)
from ropeway.errors import RopewayError
from ropeway.phrases import phrase

_TICK_S = 0.25
# Until all processes know when they start.
_LEAD_NS = 50_000_000
_JOIN_S = 10.0


@dataclass
class _Member:
    process: BaseProcess
    pipe: Connection
    look: Look = field(default_factory=lambda: Look(0, 0, 0, 0))
    warm: bool = False
    share: Share | None = None

    def tell(self, message: Halt | Start) -> None:
        """Send a message; of one that has died the pipe's end is still to be read."""
        with suppress(ConnectionError):
            self.pipe.send(message)


class Crew:
    """Processes that do the same task, each with its share of the clients: `with Crew(task, 2)`.

    They are warmed up one by one, and then start at the same moment, which `observers` are told.

    began    that moment, seconds of the monotonic clock; 0: not yet
    failure  why one of them ended in the middle, which ends all
    """

    def __init__(self, task: Task, count: int, observers: Sequence[Observer] = ()) -> None:
        self._observers = observers
        context = multiprocessing.get_context("spawn")
        count = min(count, task.clients)
        self._members: list[_Member] = []
        self._halted = False
        self.began = 0.0
        self.failure: RopewayError | None = None
        for index in range(count):
            ours, theirs = context.Pipe()
            clients = task.clients // count + (index < task.clients % count)
            part = replace(task, index=index, count=count, clients=clients)
            process = context.Process(target=work, args=(part, theirs), daemon=True)
            start_deaf(process)
            theirs.close()
            self._members.append(_Member(process, ours))

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *_: object) -> None:
        for member in self._members:
            member.pipe.close()  # which ends it
        for member in self._members:
            member.process.join(_JOIN_S)
            if member.process.is_alive():
                member.process.kill()
                member.process.join()

    @property
    def look(self) -> Look:
        """How far all are together."""
        looks = [member.look for member in self._members]
        return Look(
            done=sum(look.done for look in looks),
            errors=sum(look.errors for look in looks),
            in_flight=sum(look.in_flight for look in looks),
            tokens=sum(look.tokens for look in looks),
        )

    def run(
        self,
        keep: Callable[[bytes], None],
        on_look: Callable[[Look], None],
        stopped: Callable[[], bool],
    ) -> tuple[Share, ...]:
        """Let all work until they are done or `stopped`; return what each says at its end.

        `keep` gets lines of the record as they come; when it raises, everything ends. Raises the
        RopewayError of a process that could not begin; of one that could not go on: `failure`.
        """
        looked = time.monotonic()
        while not all(member.share for member in self._members):
            if stopped():
                self.halt()
            for pipe in wait([one.pipe for one in self._members if not one.share], _TICK_S):
                self._take(next(one for one in self._members if one.pipe is pipe), keep)
            now = time.monotonic()
            if self.began and now - looked >= _TICK_S * 2:
                looked = now
                on_look(self.look)
        return tuple(member.share for member in self._members if member.share)

    def halt(self) -> None:
        """Tell all to end early."""
        if not self._halted:
            self._halted = True
            for member in self._members:
                if not member.share:
                    member.tell(Halt())

    def _take(self, member: _Member, keep: Callable[[bytes], None]) -> None:
        try:
            message = member.pipe.recv()
        except (EOFError, ConnectionResetError):
            member.process.join(_JOIN_S)
            code = member.process.exitcode
            what = phrase("the process that sends has died, with exit code {code}", code=code)
            self._lose(member, RopewayError(what))
            return
        if isinstance(message, Rows):
            keep(message.lines)
        elif isinstance(message, Look):
            member.look = message
        elif isinstance(message, Warm):
            member.warm = True
            self._start_together()
        elif isinstance(message, Share):
            member.share = message
            if message.failure:
                self._lose(member, message.failure)

    def _lose(self, member: _Member, failure: RopewayError) -> None:
        """End all since one has failed; raise why, unless they have begun and may have sent."""
        if not self.began:
            raise failure
        self.failure = self.failure or failure
        member.share = member.share or NOTHING
        self.halt()

    def _start_together(self) -> None:
        if not self._halted and all(member.warm for member in self._members):
            for observer in self._observers:
                observer.before()
            start = time.monotonic_ns() + _LEAD_NS
            self.began = start / 1e9
            for observer in self._observers:
                observer.start(self.began)
            for member in self._members:
                member.tell(Start(start))

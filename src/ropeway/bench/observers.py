"""Looking at the server while a load is sent, in threads of the process that does not send."""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from ropeway.bench.samples import NPUS, SERVER, HostNpus, NpuSample, Sample, line_of
from ropeway.endpoint.address import Endpoint
from ropeway.endpoint.client import Client
from ropeway.endpoint.failures import RequestFailed
from ropeway.endpoint.metrics import Reading, together
from ropeway.phrases import phrase
from ropeway.spec.secret_values import text_without

_EVERY_S = 1.0
# An answer that comes later is of no use, and the last one is waited for at the end.
_PATIENCE_S = 5.0
# For how long the load waits for the first answer, from which all counts are taken.
_FIRST_S = 2.0
_NPUS_EVERY_S = 5.0
_NOTHING = phrase("it has no `/metrics` of vLLM's")

AskNpus = Callable[[], Sequence[HostNpus]]
"""Asks all hosts once, and returns within seconds, whatever they do."""


@dataclass(frozen=True)
class Beside:
    """What is looked at beside the load.

    metrics   servers whose `/metrics` are read; None: the one that is measured
    ask_npus  asks the hosts for the use of their NPUs
    """

    metrics: tuple[Endpoint, ...] | None = None
    ask_npus: AskNpus | None = None


class Observer(Protocol):
    """What is told of a measurement: `before` anything is sent, its start, and its end.

    `start` gets the moment of the monotonic clock that is second 0. `end` is always called.
    """

    def before(self) -> None: ...
    def start(self, zero: float) -> None: ...
    def end(self) -> None: ...


class _Lines:
    """A file of lines, made with the first one. What cannot be written whole is left out.

    unwritten  its name then
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.unwritten: tuple[str, ...] = ()

    def add(self, sample: Sample | NpuSample) -> None:
        line = line_of(sample)
        try:
            with self._path.open("ab", buffering=0) as lines:
                end = lines.tell()
                try:
                    while line:
                        line = line[lines.write(line) :]
                except OSError:
                    lines.truncate(end)
                    raise
        except OSError:
            self.unwritten = (self._path.name,)


class ServerObserver:
    """Reads `/metrics` once before the load, every second of it, and once after it.

    Nobody is asked again who says nothing of vLLM's. `samples` has the distribution of TTFT only in
    the first and the last one; the file has it in each.
    """

    def __init__(self, endpoints: Sequence[Endpoint], folder: Path) -> None:
        self._endpoints = [replace(one, timeout_s=_PATIENCE_S) for one in endpoints]
        self.file = _Lines(folder / SERVER)
        self._thread = threading.Thread(target=self._work, name="metrics", daemon=True)
        self._first, self._started = threading.Event(), threading.Event()
        self._ended = threading.Event()
        self._zero = 0.0
        self.samples: list[Sample] = []
        self.not_told: str | None = None

    def before(self) -> None:
        """Ask the server while it has nothing to do."""
        self._thread.start()
        self._first.wait(_FIRST_S)

    def start(self, zero: float) -> None:
        """See Observer."""
        self._zero = zero
        self._started.set()

    def end(self) -> None:
        """Wait for the last answer, some seconds at most."""
        self._ended.set()
        self._started.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _work(self) -> None:
        with asyncio.Runner() as runner:
            clients = AsyncExitStack()
            try:
                self._look(runner, runner.run(_opened(clients, self._endpoints)))
            finally:
                self._first.set()
                runner.run(clients.aclose())

    def _look(self, runner: asyncio.Runner, clients: Sequence[Client]) -> None:
        asked = time.monotonic()
        reading = runner.run(_ask(clients))
        answered = time.monotonic()
        self._first.set()
        self._started.wait()
        if reading is None:
            self.not_told = _NOTHING
            return
        self._keep(reading, asked, answered)
        while not self._ended.wait(self._until_next_s()):
            asked = time.monotonic()
            self._keep(runner.run(_ask(clients)), asked, time.monotonic())
        if not self.samples[-1].missed:
            asked = time.monotonic()
            self._keep(runner.run(_ask(clients)), asked, time.monotonic())
        if all(sample.missed for sample in self.samples):
            self.not_told = self.samples[0].missed

    def _until_next_s(self) -> float:
        since = time.monotonic() - self._zero
        return _EVERY_S - since if since < 0 else _EVERY_S - since % _EVERY_S

    def _keep(self, told: Reading | str | None, asked: float, answered: float) -> None:
        at, took = answered - self._zero, answered - asked
        if isinstance(told, Reading):
            sample = Sample.of(told, at, took)
        else:
            sample = Sample(at=round(at, 6), took_s=round(took, 6), missed=told or _NOTHING)
        self.file.add(sample)
        if len(self.samples) > 1:
            self.samples[-1] = replace(self.samples[-1], ttft=None)
        self.samples.append(sample)


class NpuObserver:
    """Asks the hosts for the use of their NPUs, every few seconds of the load."""

    def __init__(self, ask: AskNpus, folder: Path) -> None:
        self._ask, self.file = ask, _Lines(folder / NPUS)
        self._thread = threading.Thread(target=self._work, name="npus", daemon=True)
        self._ended = threading.Event()
        self._zero = 0.0
        self.samples: list[NpuSample] = []

    def before(self) -> None:
        """See Observer."""

    def start(self, zero: float) -> None:
        """See Observer."""
        self._zero = zero
        self._thread.start()

    def end(self) -> None:
        """Wait for the hosts that are being asked."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _work(self) -> None:
        pause = self._zero - time.monotonic() + 1.0  # the first requests are at work by then
        while not self._ended.wait(max(0.0, pause)):
            asked = time.monotonic()
            hosts = tuple(self._ask())
            sample = NpuSample(at=round(asked - self._zero, 6), hosts=hosts)
            self.file.add(sample)
            self.samples.append(sample)
            pause = _NPUS_EVERY_S - (time.monotonic() - asked)


async def _opened(stack: AsyncExitStack, endpoints: Sequence[Endpoint]) -> Sequence[Client]:
    return [await stack.enter_async_context(Client(endpoint)) for endpoint in endpoints]


async def _ask(clients: Sequence[Client]) -> Reading | str | None:
    """Return what all say together, or why one says nothing; None: it has nothing of vLLM's."""
    try:
        async with asyncio.timeout(_PATIENCE_S):
            readings = await asyncio.gather(*(client.metrics() for client in clients))
    except RequestFailed as error:
        return _without_keys(error.what, clients)
    except TimeoutError:
        return phrase("no answer within {limit:g} s", limit=_PATIENCE_S)
    known = [reading for reading in readings if reading is not None]
    return together(known) if len(known) == len(readings) else None


def _without_keys(text: str, clients: Sequence[Client]) -> str:
    """Return what a server said without our keys; as it is, with its Chinese, where it has none."""
    hidden = text
    for client in clients:
        hidden = text_without(hidden, client.endpoint.key)
    return text if hidden == text else hidden

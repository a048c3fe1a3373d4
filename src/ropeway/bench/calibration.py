"""How much of what we measure is ours: a second against an endpoint that knows the truth."""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ropeway.bench.figures import Calibration, Late
from ropeway.bench.record import timings_of
from ropeway.bench.sending.children import start_deaf
from ropeway.bench.sending.crew import Crew
from ropeway.bench.sending.mirror import PIECES, mirror
from ropeway.bench.sending.worker import Task
from ropeway.bench.stats import quantile
from ropeway.bench.workloads.talks import OneQuestion
from ropeway.endpoint.address import Endpoint
from ropeway.endpoint.stream import Timing

_SECONDS = 1.0
_JOIN_S = 10.0
# More than a process is meant for, and a second is enough for three answers of each.
_MOST_CLIENTS = 1024


@dataclass(frozen=True)
class _Questions:
    """The same short question without end, or none at all."""

    some: bool = True

    def talks(self, index: int, count: int) -> Iterator[OneQuestion]:
        """Yield the questions of any process."""
        del index, count
        while self.some:
            yield OneQuestion(b"{}", None)


def calibrate(
    clients: int, processes: int = 1, stopped: Callable[[], bool] = lambda: False
) -> Calibration | None:
    """Measure an endpoint on this machine for a second, with as many clients as a load has.

    It streams answers of 16 pieces 20 ms apart. Returns None where no answer ended in time.
    """
    lines: list[bytes] = []
    clients = min(clients, _MOST_CLIENTS)
    with _serving() as endpoint:
        task = Task(endpoint, _Questions(), _Questions(some=False), clients, _SECONDS)
        with Crew(task, processes) as crew:
            crew.run(lines.append, lambda _: None, stopped)
        if crew.failure is not None:
            raise crew.failure
    return calibration_of(clients, timings_of(b"".join(lines).splitlines()))


def calibration_of(clients: int, timings: Iterable[Timing]) -> Calibration | None:
    """Return how far timings are from what the texts of their answers say. Pure."""
    ttft, tpot = [], []
    for timing in timings:
        if timing.error is None and timing.ttft_s is not None and timing.tpot_s is not None:
            arrived, first, *_, last = map(int, timing.text.split())
            ttft.append(abs(timing.ttft_s - (first - arrived) / 1e9))
            tpot.append(abs(timing.tpot_s - (last - first) / (PIECES - 1) / 1e9))
    if not ttft:
        return None
    return Calibration(clients, len(ttft), _late(ttft), _late(tpot))


@contextmanager
def _serving() -> Iterator[Endpoint]:
    """Have an endpoint on this machine during the block."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=mirror, args=(theirs,), daemon=True)
    start_deaf(process)
    theirs.close()
    try:
        yield Endpoint(f"http://127.0.0.1:{ours.recv()}/v1")
    finally:
        ours.close()
        process.join(_JOIN_S)
        if process.is_alive():
            process.kill()
            process.join()


def _late(seconds: list[float]) -> Late:
    seconds.sort()
    return Late(quantile(seconds, 0.5), quantile(seconds, 0.99), seconds[-1])

"""One measurement: a load is sent, and what comes of it is kept in a folder of its own."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ropeway.bench.figures import Calibration, Figures
from ropeway.bench.load_test import Conditions
from ropeway.bench.observers import Beside, NpuObserver, Observer, ServerObserver
from ropeway.bench.prompts import Recipe
from ropeway.bench.record import RunWriter
from ropeway.bench.run import Ended, Progress, run_bench
from ropeway.bench.samples import Seen
from ropeway.endpoint.address import Endpoint
from ropeway.errors import RopewayError


@dataclass(frozen=True)
class Measurement:
    """A load that was sent.

    folder   holds its record (`record`)
    seen     of the server meanwhile
    failure  why the record could not be kept whole
    """

    conditions: Conditions
    figures: Figures
    ended: Ended
    folder: Path
    seen: Seen
    failure: RopewayError | None = None


@dataclass(frozen=True)
class Means:
    """By what loads are measured.

    processes    that send
    beside       what is looked at meanwhile, by default the server's own figures
    calibration  what was found of ourselves before
    """

    processes: int = 1
    beside: Beside = field(default_factory=Beside)
    calibration: Calibration | None = None


def measure(
    endpoint: Endpoint,
    conditions: Conditions,
    recipe: Recipe,
    folder: Path,
    means: Means | None = None,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Measurement:
    """Send a load, and write its record into `folder`. Arguments and errors: see `run_bench`."""
    means = means or Means()
    beside = means.beside
    observers: list[Observer] = []
    server = npus = None
    if beside.metrics != ():
        server = ServerObserver(beside.metrics or (endpoint,), folder)
        observers.append(server)
    if beside.ask_npus is not None:
        npus = NpuObserver(beside.ask_npus, folder)
        observers.append(npus)
    with RunWriter(folder, conditions) as writer:
        result = run_bench(
            endpoint,
            conditions.model,
            conditions.load,
            recipe,
            writer.append,
            on_progress=on_progress,
            stopped=stopped,
            processes=means.processes,
            observers=observers,
        )
        seen = Seen(
            samples=server.samples if server else (),
            npus=npus.samples if npus else (),
            not_told=server.not_told if server else None,
            unwritten=tuple(name for one in (server, npus) if one for name in one.file.unwritten),
        )
        figures, failure = writer.finish(result, means.calibration, seen if observers else None)
    return Measurement(conditions, figures, result.ended, folder, seen, failure)

"""One measurement: a load is sent, and what comes of it is kept in a folder of its own."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ropeway.bench.figures import Calibration, Figures
from ropeway.bench.load_test import Conditions
from ropeway.bench.prompts import Recipe
from ropeway.bench.record import RunWriter
from ropeway.bench.run import Ended, Progress, run_bench
from ropeway.endpoint.address import Endpoint
from ropeway.errors import RopewayError


@dataclass(frozen=True)
class Measurement:
    """A load that was sent.

    folder   holds its record (`record`)
    failure  why the record could not be kept whole
    """

    conditions: Conditions
    figures: Figures
    ended: Ended
    folder: Path
    failure: RopewayError | None = None


def measure(
    endpoint: Endpoint,
    conditions: Conditions,
    recipe: Recipe,
    folder: Path,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    stopped: Callable[[], bool] = lambda: False,
    processes: int = 1,
    calibration: Calibration | None = None,
) -> Measurement:
    """Send a load, and write its record into `folder`. Arguments and errors: see `run_bench`.

    calibration  what was found of ourselves before
    """
    with RunWriter(folder, conditions) as writer:
        result = run_bench(
            endpoint,
            conditions.model,
            conditions.load,
            recipe,
            writer.append,
            on_progress=on_progress,
            stopped=stopped,
            processes=processes,
        )
        figures, failure = writer.finish(result, calibration)
    return Measurement(conditions, figures, result.ended, folder, failure)

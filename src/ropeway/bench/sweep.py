"""Measure one endpoint several times in a row, each time with another load.

Each measurement has a folder of its own below that of the sweep. `sweep.json` beside them has all
figures so far, and is written anew after each, so that a run that ends early has kept them.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from ropeway.bench.find_max import Verdict
from ropeway.bench.highest import HighestRate
from ropeway.bench.ladder import Ladder, Step
from ropeway.bench.load_test import Conditions, going_on
from ropeway.bench.measure import Means, Measurement, measure
from ropeway.bench.prompts import Recipe
from ropeway.bench.record import cannot_begin, holds_a_run, recorded, write_json
from ropeway.bench.run import Progress
from ropeway.bench.rungs import Ended, Rung, Sweep, knee
from ropeway.durable import replace as put_in_place
from ropeway.endpoint.address import Endpoint
from ropeway.errors import RopewayError

RESULT = "sweep.json"

Steps = Ladder | HighestRate
"""What decides the steps of a sweep: loads that are given, or a search for one."""


class Shown(Protocol):
    """A measurement that is shown while it runs."""

    def progress(self, progress: Progress) -> None: ...
    def end(self, measured: Measurement, verdict: Verdict | None) -> None: ...


@dataclass(frozen=True)
class Way:
    """How each measurement is made; see `measure`. `show`: what the user sees of it."""

    endpoint: Endpoint
    conditions: Conditions
    recipe: Recipe
    show: Callable[[Step], AbstractContextManager[Shown]]
    stopped: Callable[[], bool] = lambda: False
    means: Means | None = None


def run_sweep(way: Way, steps: Steps, folder: Path) -> tuple[Sweep, RopewayError | None]:
    """Measure step by step; return what was measured, and what ended it.

    Raises the error of the first measurement, and Refused when the folder cannot be written or
    holds results already.
    """
    made = _claim(folder)
    rungs: list[Rung] = []
    ended: Ended = "complete"
    written: Ended = "complete"
    failure: RopewayError | None = None
    while ended == "complete" and (step := steps.next(way.conditions.load, rungs)) is not None:
        if way.stopped():
            ended = "interrupted"
            break
        load = going_on(step.load, [rung.load for rung in rungs]).with_recipe(way.recipe)
        step = replace(step, load=load)
        try:
            rung, failure = _measure(way, step, steps, rungs, folder)
        except RopewayError as error:
            if not rungs:
                if made:
                    with suppress(OSError):  # something is in it, such as samples of the server
                        folder.rmdir()
                raise
            ended, failure = "failed", error
            break
        rungs.append(rung)
        if rung.ended == "interrupted":
            ended = "interrupted"
        elif rung.ended == "server away":
            ended = "failed"
        elif failure is not None:
            ended = "not recorded"
        try:
            write_sweep(folder, way.conditions, _summed_up(steps, rungs, ended))
            written = ended
        except RopewayError as error:
            ended, failure = "not recorded", failure or error
    sweep = _summed_up(steps, rungs, ended)
    if rungs and ended not in (written, "not recorded"):
        try:
            write_sweep(folder, way.conditions, sweep)
        except RopewayError as error:
            failure = failure or error
    return sweep, failure


def write_sweep(folder: Path, conditions: Conditions, sweep: Sweep) -> None:
    """Write `sweep.json` in place of the one before. Raises RopewayError."""
    path, draft = folder / RESULT, folder / f".{RESULT}"
    with recorded(path):
        write_json(draft, document(conditions, sweep, folder))
        put_in_place(draft, path)


def document(conditions: Conditions, sweep: Sweep, folder: Path) -> Mapping[str, object]:
    """Return the plain data of `sweep.json` and of `--json`."""
    return {**conditions.as_json(), **sweep.as_json(), "folder": str(folder)}


def _measure(
    way: Way, step: Step, steps: Steps, before: Sequence[Rung], folder: Path
) -> tuple[Rung, RopewayError | None]:
    """Make the next measurement; return it, and why it could not be recorded."""
    with way.show(step) as shown:
        measured = measure(
            way.endpoint,
            replace(way.conditions, load=step.load),
            way.recipe,
            folder / step.name,
            way.means,
            on_progress=shown.progress,
            stopped=way.stopped,
        )
        rung = Rung(step.name, step.load, measured.figures, measured.ended)
        newest = steps.verdict([*before, rung]) if isinstance(steps, HighestRate) else None
        shown.end(measured, newest)
    return rung, measured.failure


def _summed_up(steps: Steps, rungs: Sequence[Rung], ended: Ended) -> Sweep:
    if isinstance(steps, HighestRate):
        return Sweep("rate", tuple(rungs), ended, found=steps.found(rungs))
    return Sweep(steps.by, tuple(rungs), ended, knee=knee(rungs, steps.by))


def _claim(folder: Path) -> bool:
    """Make the folder; return whether it was not there. Raises Refused."""
    made = not folder.exists()
    if any((folder / name).exists() for name in (RESULT, "conditions.json")):
        raise holds_a_run(folder)
    try:
        folder.mkdir(0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_begin(folder, error) from error
    return made

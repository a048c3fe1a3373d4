"""What `ropeway bench` does with several loads, and with `--find-max`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import click

from ropeway.bench.find_max import Verdict
from ropeway.bench.highest import HighestRate, in_words
from ropeway.bench.ladder import Ladder, Step
from ropeway.bench.load_test import Conditions, LoadTest
from ropeway.bench.measure import Means, Measurement
from ropeway.bench.prompts import Recipe
from ropeway.bench.run import Progress, stopped_by_interrupt
from ropeway.bench.rungs import Sweep
from ropeway.bench.sweep import Steps, Way, document, run_sweep
from ropeway.cli.endpoint import is_typed
from ropeway.cli.files import write_report
from ropeway.cli.repeat import command_to_repeat
from ropeway.endpoint.address import Endpoint
from ropeway.errors import EndpointError, Exit, Refused, RopewayError
from ropeway.phrases import phrase
from ropeway.report.bench import ended_early
from ropeway.report.bench_page import LoadReport, render_html
from ropeway.report.console import Screen
from ropeway.report.progress import Step as Line
from ropeway.report.sweep import sweep_record, sweep_table

SHARE = 0.99


def steps_of(
    load: LoadTest, ladder: Ladder | None, *, find_max: bool, share: float | None
) -> Steps | None:
    """Return what decides the steps; None: there is one load only.

    Raises Refused where flags contradict each other.
    """
    if not find_max:
        if share is not None:
            raise Refused(
                phrase("`--slo-share` is for `--find-max`"), hint=phrase("add `--find-max`")
            )
        return ladder
    if ladder is not None or load.rate is not None:
        raise Refused(
            phrase("`--find-max` looks for the rate, with one number of `--clients`"),
            hint=phrase("leave out `--rate` and further values of `--clients`"),
        )
    if load.is_open or load.duration_s is not None:
        raise Refused(
            phrase("`--find-max` decides itself when requests are sent, and for how long"),
            hint=phrase("leave out `--arrivals` and `--duration`"),
        )
    if load.time_limit_s is not None:
        raise Refused(
            phrase("`--find-max` decides itself how long to try a rate"),
            hint=phrase("leave out `--time-limit`; `--requests` sets how many a probe has"),
        )
    return HighestRate(share or SHARE, load.requests if is_typed("requests") else None)


def measure_sweep(
    screen: Screen,
    endpoint: Endpoint,
    conditions: Conditions,
    recipe: Recipe,
    steps: Steps,
    *,
    folder: Path,
    means: Means,
) -> NoReturn:
    """Measure, report and end with the exit code. Raises what ended it early."""

    @contextmanager
    def show(step: Step) -> Iterator[_Shown]:
        with screen.step(step.title) as line:
            yield _Shown(step, line)

    with stopped_by_interrupt() as stopped:
        way = Way(endpoint, conditions, recipe, show, stopped, means)
        sweep, failure = run_sweep(way, steps, folder)
    unwritten = _report(screen, conditions, sweep, folder)
    if error := failure or unwritten:
        raise error
    context = click.get_current_context()
    if sweep.ended == "interrupted":
        context.exit(Exit.INTERRUPTED)
    context.exit(Exit.OK if sweep.succeeded else Exit.NO)


class _Shown:
    """A measurement on the screen."""

    def __init__(self, step: Step, line: Line) -> None:
        self._step, self._line = step, line

    def progress(self, progress: Progress) -> None:
        """Show how far it is."""
        self._line.tick(self._step.detail(str(progress), self._line.seconds), log_every_s=5.0)

    def end(self, measured: Measurement, verdict: Verdict | None) -> None:
        """Show how it ended, and what it says of its rate."""
        summary = measured.figures.summary
        if measured.ended not in ("complete", "time limit"):
            self._line.warn(measured.ended)
        elif verdict == "holds":
            self._line.ok(in_words(verdict))
        elif verdict is not None:
            self._line.warn(in_words(verdict))
        elif summary.failed:
            self._line.warn("some failed")
        else:
            self._line.ok()


def _page_of(conditions: Conditions, sweep: Sweep) -> LoadReport:
    command = command_to_repeat(click.get_current_context())
    return LoadReport(conditions=conditions, command=command, ended=sweep.ended, sweep=sweep)


def _report(
    screen: Screen, conditions: Conditions, sweep: Sweep, folder: Path
) -> RopewayError | None:
    """Show what was measured, and write the page; return why that could not be written."""
    failure: RopewayError | None = None
    if early := ended_early(sweep.ended):
        screen.answer(early)
    screen.answer(sweep_table(sweep, conditions, screen.language))
    if sweep.rungs:
        try:
            page = write_report(folder, render_html(_page_of(conditions, sweep), screen.language))
            screen.answer(phrase("page: {file}", file=page))
        except RopewayError as error:
            failure = error
    screen.answer(sweep_record(sweep, str(folder), screen.language))
    screen.result(document(conditions, sweep, folder))
    if sweep.ended == "complete" and sweep.found is not None and not sweep.found.confirmed:
        # Why stands in the record, just above.
        screen.error(EndpointError(phrase("`--find-max` has confirmed no rate")))
    failed = sum(rung.figures.summary.failed for rung in sweep.rungs)
    requests = sum(rung.figures.summary.requests for rung in sweep.rungs)
    if sweep.found is None and failed:
        screen.error(
            EndpointError(
                phrase(
                    "{failed:,} of {requests:,} requests failed", failed=failed, requests=requests
                )
            )
        )
    return failure

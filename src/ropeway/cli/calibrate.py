"""`ropeway calibrate`: measures the speed of this machine with the real engine."""

import asyncio
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import click

from ropeway.bench.load_test import LoadTest
from ropeway.bench.record import timings_of
from ropeway.bench.run import prepare, run_bench
from ropeway.bench.served import Served
from ropeway.bench.stats import summarise
from ropeway.checkpoints.fetch import default_root
from ropeway.cli.bringup import StartContext, deployment_for, start_context
from ropeway.cli.measure import LOAD, STORY, up
from ropeway.cli.options import screen_options
from ropeway.errors import EndpointError, Refused
from ropeway.hosts.interrupts import interruptible
from ropeway.launch.local.process_start import refuse_second
from ropeway.models.shape import ModelShape
from ropeway.phrases import phrase
from ropeway.plan.calibration import (
    TRIALS,
    Calibration,
    Point,
    Trial,
    calibration_path,
    fit,
    predicted,
    write_calibration,
)
from ropeway.report.calibration import Explained, calibration_text
from ropeway.report.console import Screen
from ropeway.spec.model import Layout, Serve, local_spec
from ropeway.units import counted, format_seconds

_NAME = "ropeway-calibrate"
_EXPECTED_SECONDS = 100.0


@click.command()
@click.option("--local", is_flag=True, help="The virtual NPUs of this machine.")
@click.option("--port", type=click.IntRange(1, 65_535), default=8000, show_default=True)
@screen_options
def calibrate(*, local: bool, port: int, screen: Screen) -> None:
    """Measure this machine, so that `plan` can predict the local cluster.

    Starts two layouts of the rehearsal's model, runs load tests of a few seconds on each, and
    stores the constants that explain the results: arithmetic, memory, messages, the engine's own
    work. Takes a minute or two on two cores, which should be idle otherwise.

    \b
    Example:
      ropeway calibrate --local
    """
    if not local:
        raise Refused(
            "only this machine can be calibrated",
            hint="ropeway calibrate --local\n"
            "for NPUs: compare the result of `ropeway bench` with `ropeway plan`",
        )
    refuse_second(_NAME)
    spec = local_spec(serve=Serve(port=port, context=1024), name=_NAME)
    began = time.monotonic()
    names = [str(layout) for layout, _ in TRIALS]
    points: list[Point] = []
    with (
        interruptible(),
        tempfile.TemporaryDirectory(prefix="ropeway-calibrate-") as folder,
        screen.stages(names, expected_seconds=_EXPECTED_SECONDS) as stages,
    ):
        context = start_context(spec, screen)
        for layout, trials in TRIALS:
            with stages.stage(str(layout)):
                points += measure(context, layout, trials, Path(folder), screen)
    cluster = spec.cluster
    machine = fit(context.shape, points, context.facts.cores, cluster.npus_per_host)
    calibration = Calibration(
        machine,
        tuple(points),
        model=spec.model.name or "",
        conditions=f"{context.hardware}; {context.engine_version}",
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    path = calibration_path(default_root(os.environ))
    write_calibration(calibration, path)
    rows = _explained(calibration, context.shape, cluster.npus_per_host)
    screen.answer(calibration_text(rows))
    screen.answer(f"\nwritten to {path}; took {format_seconds(time.monotonic() - began)}")
    screen.result(calibration_json(calibration, rows, str(path)))


def calibration_json(
    calibration: Calibration, rows: Sequence[Explained], file: str
) -> dict[str, object]:
    """Return the rows as plain data; the constants are in the file."""
    return {
        "model": calibration.model,
        "conditions": calibration.conditions,
        "measured_at": calibration.measured_at,
        "file": file,
        "layouts": [asdict(row) for row in rows],
    }


def _explained(calibration: Calibration, shape: ModelShape, npus: int) -> list[Explained]:
    """Return the measured layouts, then those of the demo under its load."""
    rows = [
        Explained(
            point.layout,
            _load_words(point.trial),
            predicted(shape, Layout.parse(point.layout), point.trial, calibration.machine, npus),
            point.output_tokens_per_s,
        )
        for point in calibration.points
    ]
    trial = Trial(LOAD.clients, LOAD.requests, LOAD.input_tokens, LOAD.output_tokens)
    for layout in STORY:
        speed = predicted(shape, layout, trial, calibration.machine, npus)
        rows.append(Explained(str(layout), _load_words(trial), speed))
    return rows


def _load_words(trial: Trial) -> str:
    clients = counted(trial.clients, "client")
    return f"{clients}, {trial}"


def measure(
    context: StartContext, layout: Layout, trials: Sequence[Trial], folder: Path, screen: Screen
) -> list[Point]:
    """Bring a layout up, run the trials, and take it down in any case."""
    deployment = deployment_for(context, layout, folder)
    with up(context, deployment, screen) as served:
        return [
            _run(layout, served, trial, screen, warm=index > 0)
            for index, trial in enumerate(trials)
        ]


def _run(layout: Layout, served: Served, trial: Trial, screen: Screen, *, warm: bool) -> Point:
    """Run one load test. Raises EndpointError when a request failed: figures would mislead."""
    endpoint, model = served.endpoint, served.model
    with screen.step(f"{counted(trial.requests, 'request')} from {_load_words(trial)}") as step:
        load = LoadTest(**asdict(trial), seed=trial.clients, warmup=0 if warm else 1)
        _, recipe = asyncio.run(prepare(endpoint, model, load))
        rows: list[bytes] = []
        run_bench(
            endpoint, model, load, recipe, rows.append, on_progress=lambda now: step.tick(str(now))
        )
        summary = summarise(timings_of(b"".join(rows).splitlines()), load)
        step.ok(f"{summary.output_tokens_per_s:.1f} output tokens/s")
    if summary.failed or not summary.output_tokens_per_s:
        raise EndpointError(
            phrase(
                "{failed} of {requests} requests failed, so nothing can be calibrated",
                failed=summary.failed,
                requests=summary.requests,
            ),
            evidence=[f"{kind}: {number}" for kind, number in summary.errors.items()],
        )
    return Point(str(layout), trial, summary.output_tokens_per_s)

"""`ropeway bench`: measure an endpoint under load."""

import asyncio
import os
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import click

from ropeway.bench.figures import Summary
from ropeway.bench.load_test import MEASURED, NOT_STATED, Conditions, LoadTest
from ropeway.bench.measure import Measurement, measure
from ropeway.bench.prompts import Recipe
from ropeway.bench.record import new_run_dir
from ropeway.bench.run import prepare, stopped_by_interrupt
from ropeway.checkpoints.fetch import default_root
from ropeway.cli.call import current_call
from ropeway.cli.endpoint import endpoint_options, load_options, spec_file, tell_rehearsal
from ropeway.cli.options import screen_options
from ropeway.endpoint.address import Endpoint
from ropeway.errors import EndpointError, Exit, RopewayError
from ropeway.phrases import phrase
from ropeway.plan.candidate import Expectation
from ropeway.plan.choice import expected
from ropeway.plan.load import Load
from ropeway.report.console import Screen
from ropeway.report.text import bench_record, bench_table
from ropeway.units import counted, format_seconds


@click.command()
@screen_options
@endpoint_options(timeout=600.0, load=True)
@load_options
@click.option(
    "--processes", type=click.IntRange(1, 64), default=1, show_default=True,
    help="Processes that send, each with its share of the clients.",
)  # fmt: skip
@click.option("--layout", default=NOT_STATED, help="Parallel layout, for the record.")
@click.option("--engine", default=NOT_STATED, help="Engine and version, for the record.")
@click.option("--hardware", default=NOT_STATED, help="Hardware, for the record.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Directory for the results.  [default: runs/<time>-bench]",
)
def bench(
    *,
    screen: Screen,
    endpoint: Endpoint,
    model: str | None,
    load: LoadTest,
    processes: int,
    layout: str,
    engine: str,
    hardware: str,
    out: Path | None,
) -> None:
    """Measure an endpoint under load: throughput, TTFT, time per output token.

    Prompts are random sequences of common words, the same for one --seed. No two begin alike, or
    the engine's prefix cache would flatter the figures. The raw timings are written as requests
    end; Ctrl-C stops and keeps what was measured.

    With a spec, what the planner expected of this load stands beside what was measured. It is for
    the spec's layout, whatever runs; where that is blank, for the plan's choice.

    Exit code 0: every request succeeded. 1: some failed, or none was completed. What --time-limit
    cuts off has not failed: with at least one request completed the exit code is 0.

    \b
    Example:
      ropeway bench --clients 64 --input-tokens 512 --output-tokens 128
    """
    served, recipe = asyncio.run(prepare(endpoint, model, load))
    tell_rehearsal([served], endpoint, screen)
    conditions = Conditions(
        load=load.with_recipe(recipe),
        url=endpoint.url,
        model=served.name,
        layout=layout,
        engine=engine,
        hardware=hardware,
        label="rehearsal" if served.rehearsed else MEASURED,
    )
    folder = out or new_run_dir(Path("runs"), "bench", datetime.now(UTC))
    current_call().folder = folder
    measured = _measure(endpoint, conditions, recipe, folder, screen, processes=processes)
    summary = measured.figures.summary
    _report(screen, measured)
    if measured.failure:
        raise measured.failure
    if measured.ended == "interrupted":
        click.get_current_context().exit(Exit.INTERRUPTED)
    bad = summary.failed or not summary.completed
    click.get_current_context().exit(Exit.NO if bad else Exit.OK)


def _measure(
    endpoint: Endpoint,
    conditions: Conditions,
    recipe: Recipe,
    folder: Path,
    screen: Screen,
    *,
    processes: int,
) -> Measurement:
    load, model = conditions.load, conditions.model
    sent = f"{counted(load.requests, 'request')}, {counted(load.clients, 'client')}"
    name = f"{sent} → {model} at {endpoint.url}"
    with screen.step(name) as step:
        with stopped_by_interrupt() as stopped:
            measured = measure(
                endpoint,
                conditions,
                recipe,
                folder,
                on_progress=lambda progress: step.tick(str(progress), log_every_s=5.0),
                stopped=stopped,
                processes=processes,
            )
        if measured.ended != "complete":
            step.warn(measured.ended)
        elif measured.figures.summary.failed:
            step.warn("some failed")
    return measured


def _report(screen: Screen, measured: Measurement) -> None:
    conditions, figures, folder = measured.conditions, measured.figures, measured.folder
    summary = figures.summary
    if measured.ended != "complete":
        screen.answer(f"ended     early: {measured.ended}")
    screen.answer(bench_table(summary, conditions))
    planned = _expected(conditions.load, screen)
    record = bench_record(figures, conditions, folder=str(folder), planned=planned)
    screen.answer(record)
    screen.result(
        {
            **conditions.as_json(),
            **figures.as_json(),
            "ended": measured.ended,
            "folder": str(folder),
            "predicted_tokens_per_s": planned and planned.forecast.output_tokens_per_s,
            "predicted_layout": planned and planned.layout,
        }
    )
    if summary.failed:
        screen.error(_failures(summary))
    elif not summary.completed and measured.ended == "time limit":
        limit = phrase(
            "no request was completed within {limit}",
            limit=format_seconds(conditions.load.time_limit_s or 0),
        )
        screen.error(EndpointError(limit, hint="raise `--time-limit`"))


def _expected(load: LoadTest, screen: Screen) -> Expectation | None:
    """Return what the planner expected of this load; None without a spec that it can plan for, and
    in a rehearsal, whose figures are no measurement."""
    file = spec_file()
    if file is None or screen.rehearsal:
        return None
    arrivals = {"rate": load.rate} if load.rate else {"clients": load.clients}
    planned = Load(load.input_tokens, load.output_tokens, requests=load.requests, **arrivals)
    try:
        return expected(file, planned, default_root(os.environ))
    except RopewayError as error:
        screen.detail(f"no forecast: {error}")
        return None


def _failures(summary: Summary) -> EndpointError:
    return EndpointError(
        phrase(
            "{failed:,} of {requests:,} requests failed",
            failed=summary.failed,
            requests=summary.requests,
        ),
        evidence=[
            f"{count:,} {kind}: {summary.failures[kind].message}"
            for kind, count in Counter(summary.errors).most_common()
        ],
    )

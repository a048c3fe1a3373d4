"""`ropeway bench`: measure an endpoint under load."""

import asyncio
import os
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import click

from ropeway.bench.calibration import calibrate
from ropeway.bench.figures import Calibration, Summary
from ropeway.bench.ladder import Ladder
from ropeway.bench.load_test import MEASURED, NOT_STATED, Conditions, LoadTest
from ropeway.bench.measure import Means, Measurement, measure
from ropeway.bench.observers import Beside
from ropeway.bench.prompts import Recipe
from ropeway.bench.record import new_run_dir
from ropeway.bench.run import prepare, stopped_by_interrupt
from ropeway.checkpoints.fetch import default_root
from ropeway.cli.bench_sweep import SHARE, measure_sweep, steps_of
from ropeway.cli.beside import beside_options
from ropeway.cli.call import current_call
from ropeway.cli.endpoint import endpoint_options, spec_file, tell_rehearsal
from ropeway.cli.files import write_report
from ropeway.cli.load_flags import sweep_options
from ropeway.cli.options import Finite, lang_option, screen_options
from ropeway.cli.repeat import command_to_repeat
from ropeway.endpoint.address import Endpoint
from ropeway.errors import EndpointError, Exit, RopewayError
from ropeway.phrases import phrase
from ropeway.plan.candidate import Expectation
from ropeway.plan.choice import expected
from ropeway.plan.load import Load
from ropeway.report.bench import bench_record, bench_table, failed_words, failure_words
from ropeway.report.bench_page import LoadReport, render_html
from ropeway.report.console import Screen
from ropeway.report.server_state import server_rows
from ropeway.units import counted, format_seconds

# Of fewer requests a second more is a large part of the time.
_WORTH = 64


@click.command()
@screen_options
@endpoint_options(timeout=600.0, load=True)
@sweep_options
@click.option(
    "--find-max", is_flag=True,
    help="Find the highest rate that keeps --slo; without it, the highest that is sustained.",
)  # fmt: skip
@click.option(
    "--slo-share", type=Finite(0.5, 0.999),
    help=f"With --find-max: the share of requests that is to meet the goals.  [default: {SHARE}]",
)  # fmt: skip
@click.option(
    "--processes", type=click.IntRange(1, 64), default=1, show_default=True,
    help="Processes that send, each with its share of the clients.",
)  # fmt: skip
@beside_options
@click.option(
    "--calibration/--no-calibration", default=None,
    help="Measure first, for a second, how wrong our own latencies are."
    f"  [default: for {_WORTH} requests or more]",
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
@lang_option
def bench(
    *,
    screen: Screen,
    endpoint: Endpoint,
    model: str | None,
    load: LoadTest,
    ladder: Ladder | None,
    find_max: bool,
    slo_share: float | None,
    processes: int,
    beside: Beside,
    calibration: bool | None,
    layout: str,
    engine: str,
    hardware: str,
    out: Path | None,
) -> None:
    """Measure an endpoint under load: throughput, TTFT, time per output token.

    Prompts are random sequences of common words, the same for one --seed. No two share more than
    their first few words, or the engine's prefix cache would flatter the figures, unless --prefixes
    or --turns ask for it; --prompts sends your own. The raw timings are written as requests end,
    and report.html beside them at the end; Ctrl-C stops and keeps what was measured.

    Beside what was measured stand what vLLM says in its `/metrics`, which is read once a second,
    with reasons where it has any; and with a spec what the planner expected of this load, for the
    spec's layout, whatever runs; where that is blank, for the plan's choice.

    Several --clients or --rate are measured one after another and give one curve. --find-max tries
    rates until it knows the highest within 3 %, and confirms it by a run twice as long.

    Exit code 0: every request succeeded. 1: some failed, or none was completed. What --time-limit
    cuts off has not failed: with at least one request completed the exit code is 0. With --find-max
    0: a rate was confirmed.

    \b
    Examples:
      ropeway bench --clients 64 --input-tokens 512 --output-tokens 128
      ropeway bench --rate 8 --duration 300 --prompts questions.jsonl
      ropeway bench --clients 1,8,64,256
      ropeway bench --find-max --slo ttft=2s,tpot=50ms
    """
    steps = steps_of(load, ladder, find_max=find_max, share=slo_share)
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
    means = Means(processes, beside, _calibrated(load, ladder, processes, calibration, screen))
    folder = out or new_run_dir(Path("runs"), "bench", datetime.now(UTC))
    current_call().folder = folder
    if steps is not None:
        measure_sweep(screen, endpoint, conditions, recipe, steps, folder=folder, means=means)
    _end(screen, _measure(endpoint, conditions, recipe, folder, means, screen))


def _calibrated(
    load: LoadTest, ladder: Ladder | None, processes: int, asked: bool | None, screen: Screen
) -> Calibration | None:
    """Return how wrong our own latencies are; None where that is not asked for."""
    if not (load.requests == 0 or load.requests >= _WORTH) if asked is None else not asked:
        return None
    most = max(ladder.values) if ladder and ladder.by == "clients" else load.clients
    with screen.step(phrase("measure the load generator itself")) as step:
        with stopped_by_interrupt() as stopped:
            found = calibrate(int(most), processes, stopped)
            if stopped():
                raise KeyboardInterrupt
        if found is None:
            step.warn(phrase("no answer in time"))
    return found


def _end(screen: Screen, measured: Measurement) -> NoReturn:
    """Report, and end with the exit code."""
    summary = measured.figures.summary
    failure = _report(screen, measured)
    if failure:
        raise failure
    if measured.ended == "interrupted":
        click.get_current_context().exit(Exit.INTERRUPTED)
    bad = summary.failed or not summary.completed
    click.get_current_context().exit(Exit.NO if bad else Exit.OK)


def _measure(
    endpoint: Endpoint,
    conditions: Conditions,
    recipe: Recipe,
    folder: Path,
    means: Means,
    screen: Screen,
) -> Measurement:
    load, model = conditions.load, conditions.model
    name = phrase(
        "{requests}, {clients} → {model} at {url}",
        requests=load.amount,
        clients=counted(load.clients, "client"),
        model=model,
        url=endpoint.url,
    )
    with screen.step(name) as step:
        with stopped_by_interrupt() as stopped:
            measured = measure(
                endpoint,
                conditions,
                recipe,
                folder,
                means,
                on_progress=lambda progress: step.tick(str(progress), log_every_s=5.0),
                stopped=stopped,
            )
        if measured.ended != "complete":
            step.warn(measured.ended)
        elif measured.figures.summary.failed:
            step.warn(phrase("some failed"))
    return measured


def _report(screen: Screen, measured: Measurement) -> RopewayError | None:
    """Show and write what was measured; return why something of it could not be written."""
    conditions, figures, folder = measured.conditions, measured.figures, measured.folder
    summary = figures.summary
    screen.answer(bench_table(summary, conditions, screen.language, measured.ended))
    if figures.server:
        screen.answer("")
        screen.answer(server_rows(figures.server, screen.language))
    planned = _expected(conditions.load, screen)
    page, failure = None, measured.failure
    try:
        page = write_report(folder, _page(measured, planned, screen.language))
    except RopewayError as error:
        failure = failure or error
    record = bench_record(
        figures,
        conditions,
        folder=str(folder),
        planned=planned,
        page=str(page) if page else None,
        language=screen.language,
    )
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
    return failure


def _page(measured: Measurement, planned: Expectation | None, language: str) -> str:
    report = LoadReport(
        conditions=measured.conditions,
        command=command_to_repeat(click.get_current_context()),
        figures=measured.figures,
        ended=measured.ended,
        planned=planned,
        samples=measured.seen.samples,
        causes=measured.figures.server.causes if measured.figures.server else (),
    )
    return render_html(report, language)


def _expected(load: LoadTest, screen: Screen) -> Expectation | None:
    """Return what the planner expected of this load; None without a spec that it can plan for, for
    a load that it knows nothing of, and in a rehearsal, whose figures are no measurement."""
    file = spec_file()
    if file is None or screen.rehearsal or not load.is_plain:
        return None
    arrivals = {"rate": load.rate} if load.rate else {"clients": load.clients}
    planned = Load(
        load.input_tokens, load.output_tokens, requests=load.requests or None, **arrivals
    )
    try:
        return expected(file, planned, default_root(os.environ))
    except RopewayError as error:
        screen.detail(f"no forecast: {error}")
        return None


def _failures(summary: Summary) -> EndpointError:
    return EndpointError(
        failed_words(summary),
        evidence=[
            failure_words(kind, count, summary.failures[kind].message)
            for kind, count in Counter(summary.errors).most_common()
        ],
    )

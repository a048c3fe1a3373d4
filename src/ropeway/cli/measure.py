"""What `compare`, `demo` and `calibrate` share: bring layouts up, measure them, report."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ropeway.bench.compare import ComparisonRun
from ropeway.bench.comparison import comparison_to_data
from ropeway.bench.load_test import LoadTest
from ropeway.bench.record import recorded
from ropeway.bench.served import Rounds, Served
from ropeway.cli.bringup import StartContext, bring_up, deployment_for
from ropeway.cli.files import write_report
from ropeway.endpoint.address import Endpoint
from ropeway.engines.vllm_cpu import CpuReplica
from ropeway.hosts.interrupts import uninterrupted
from ropeway.launch.local.running import take_down
from ropeway.plan.layout import hosts_of
from ropeway.report.compare import render_html
from ropeway.report.console import Screen
from ropeway.report.progress import Stages
from ropeway.report.text import compare_table
from ropeway.spec.model import Layout, Workload

# The story of the demo: one process for comparison, one host, the layout that the blog could not
# start (pipeline with expert parallel over two hosts), and the one that it only guessed at (data).
SINGLE = Layout()
STORY = (
    SINGLE,
    Layout(tensor=2),
    Layout(tensor=2, pipeline=2, expert=True),
    Layout(data=2, tensor=2),
)
# Long enough for a steady state on two cores, short enough for coffee.
LOAD = Workload(clients=16, requests=32, input_tokens=64, output_tokens=32)


def comparison_run(context: StartContext, folder: Path, screen: Screen) -> ComparisonRun:
    """Begin a comparison of layouts under the load of the spec."""
    load = LoadTest(**context.spec.workload.model_dump())
    return ComparisonRun(
        Rounds(load, context.engine_version, context.hardware, screen),
        lambda layout: hosts_of(layout, context.spec.cluster),
        folder,
    )


def measure_all(
    run: ComparisonRun,
    context: StartContext,
    layouts: Sequence[Layout],
    screen: Screen,
    stages: Stages,
) -> None:
    """Measure each layout in a stage of its own, named by the layout."""

    for layout in layouts:
        with stages.stage(str(layout)):
            run.measure(layout, lambda layout, folder: serving(context, layout, folder, screen))


@contextmanager
def serving(
    context: StartContext, layout: Layout, folder: Path, screen: Screen
) -> Iterator[Served]:
    """Bring a layout up with its logs in the folder, and take it down whatever happens.

    Raises LayoutError or Refused when it cannot run, LaunchError or HostError when it does not
    start.
    """
    deployment = deployment_for(context, layout, folder)
    with recorded(folder):
        folder.mkdir(0o700, parents=True, exist_ok=True)
    with up(context, deployment, screen) as served:
        yield served


@contextmanager
def up(context: StartContext, deployment: CpuReplica, screen: Screen) -> Iterator[Served]:
    """Bring a deployment up, and take it down whatever happens."""
    seconds = None
    try:
        seconds = bring_up(context, deployment, screen)
        variable = deployment.serve.api_key_env or "OPENAI_API_KEY"
        endpoint = Endpoint(deployment.url, os.environ.get(variable) or None, variable)
        yield Served(endpoint, deployment.served_name, seconds)
    finally:
        if seconds is not None:  # else `bring_up` has undone it, or others had the name
            with uninterrupted():
                take_down(deployment.service, deployment.scratch)


def report(
    run: ComparisonRun, screen: Screen, command: Sequence[str], baseline: Layout | None
) -> None:
    """Write comparison.json and report.html, and show the table, if something was measured."""
    comparison = run.write(command, baseline)
    if comparison is None:
        with suppress(OSError):  # not empty: there are logs
            run.folder.rmdir()
        return
    page = write_report(run.folder, render_html(comparison, run.timings))
    screen.answer(compare_table(comparison))
    screen.answer(f"\nreport: {page}")
    screen.result({**comparison_to_data(comparison), "folder": str(run.folder)})

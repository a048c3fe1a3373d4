"""`ropeway demo`: the whole life cycle on this machine, from nothing to a report."""

from pathlib import Path

import click

from ropeway.cli.bringup import StartContext, start_context
from ropeway.cli.files import run_folder
from ropeway.cli.measure import LOAD, SINGLE, STORY, comparison_run, measure_all, report
from ropeway.cli.options import screen_options
from ropeway.errors import Exit, Refused
from ropeway.hosts.interrupts import interruptible
from ropeway.launch.local.process_start import refuse_second
from ropeway.phrases import phrase
from ropeway.report.console import Screen
from ropeway.spec.model import Layout, Serve, Spec, local_spec
from ropeway.units import format_bytes

REST = (
    Layout(tensor=2, expert=True),
    Layout(tensor=4),
    Layout(tensor=2, pipeline=2),
    Layout(tensor=4, expert=True),
)
_CORES = 2
_MEMORY_BYTES = 12 * 2**30  # four ranks of the 382M MoE and their server take about 11 GiB
_EXPECTED_SECONDS = 270.0  # on two cores, the second time (docs/benchmarks.md)


@click.command()
@click.option("--all", "every", is_flag=True, help="Also TP2+EP, TP4, TP2×PP2 and TP4+EP.")
@click.option("--port", type=click.IntRange(1, 65_535), default=8000, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Directory of results.")
@screen_options
@click.pass_context
def demo(ctx: click.Context, *, every: bool, port: int, out: Path | None, screen: Screen) -> None:
    """Rehearse the main job on this machine: real engine, real Ray, virtual NPUs.

    Two virtual hosts with two NPUs each serve a real mixture-of-experts model in one layout after
    the other: up, one question, a load test, down. The report compares what each layout reached.

    \b
    Example:
      ropeway demo --all
    """
    layouts = STORY + (REST if every else ())
    check = "check this machine, fetch the model"
    names = [check, *map(str, layouts)]
    spec = local_spec(serve=Serve(port=port, context=1024), workload=LOAD, name="ropeway-demo")
    expected = _EXPECTED_SECONDS * len(layouts) / len(STORY)
    run = None
    try:
        with interruptible(), screen.stages(names, expected_seconds=expected) as stages:
            with stages.stage(check):
                context = _check(spec, screen)
            run = comparison_run(context, run_folder("demo", out), screen)
            measure_all(run, context, layouts, screen, stages)
    finally:
        if run is not None:
            report(run, screen, ["ropeway", "demo", *(["--all"] if every else [])], SINGLE)
    if any(result.status != "ok" for result in run.results):
        ctx.exit(Exit.NO)


def _check(spec: Spec, screen: Screen) -> StartContext:
    """Check everything that the first start depends on. Raises Refused."""
    refuse_second(spec.name)
    context = start_context(spec, screen)
    with screen.step("cores, memory, disk, port") as step:
        facts = context.facts
        if facts.cores < _CORES:
            raise Refused(
                phrase(
                    "this machine has {cores} core; the demo needs {needed}",
                    cores=facts.cores,
                    needed=_CORES,
                )
            )
        if facts.memory_bytes is not None and facts.memory_bytes < _MEMORY_BYTES:
            raise Refused(
                phrase(
                    "{memory} of memory is available; the demo needs {needed}",
                    memory=format_bytes(facts.memory_bytes),
                    needed=format_bytes(_MEMORY_BYTES),
                ),
                hint="end other programs, or try one layout: `ropeway up --local --layout tp1`",
            )
        memory = format_bytes(facts.memory_bytes) if facts.memory_bytes else "memory unknown"
        step.ok(f"{facts.cores} cores, {memory} free")
    return context

"""`ropeway compare`: several layouts in turn, on the same prompts, in one report."""

import sys
from pathlib import Path

import click

from ropeway.checkpoints.catalogue import RECIPES
from ropeway.cli.bringup import SpecFlags, read_spec, start_context
from ropeway.cli.completion import one_of
from ropeway.cli.files import run_folder
from ropeway.cli.measure import SINGLE, comparison_run, measure_all, report
from ropeway.cli.options import config_option, screen_options
from ropeway.errors import Exit, Refused
from ropeway.hosts.interrupts import interruptible
from ropeway.plan.layout import working
from ropeway.report.console import Screen
from ropeway.spec.model import REQUESTS_PER_CLIENT, Layout, Spec

_WITHOUT = "compare layouts without one: `ropeway compare --local --all`"


@click.command()
@config_option
@click.option("--local", is_flag=True, help="No spec file: two virtual hosts on this machine.")
@click.option(
    "--model", help="Checkpoint name or model directory, in place of the spec's.",
    shell_complete=one_of(lambda: RECIPES),
)  # fmt: skip
@click.option(
    "--layout",
    "layouts",
    metavar="LAYOUT",
    multiple=True,
    help="A layout to measure, in place of `serve.layouts`; give it once for each.",
)
@click.option("--all", "every", is_flag=True, help="Every layout that can run.")
@click.option("--clients", type=click.IntRange(min=1), help="In place of `workload.clients`.")
@click.option("--requests", type=click.IntRange(min=1), help="In place of `workload.requests`.")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Directory of results.")
@screen_options
@click.pass_context
def compare(
    ctx: click.Context,
    *,
    config: Path,
    local: bool,
    model: str | None,
    layouts: tuple[str, ...],
    every: bool,
    clients: int | None,
    requests: int | None,
    out: Path | None,
    screen: Screen,
) -> None:
    """Bring up each layout in turn, measure it on the same prompts, and write one report.

    Every layout gets a table row, a directory with its raw timings, and its place in report.html.
    Ctrl-C keeps what was measured so far. Exit code 1: some layout did not serve.

    \b
    Example:
      ropeway compare --local --layout tp2 --layout tp2,pp2,ep --clients 32
    """
    spec = SpecFlags(model=model).over(read_spec(config, local=local, without=_WITHOUT))
    spec = _with_load(spec, clients, requests)
    context = start_context(spec, screen)
    chosen = tuple(Layout.parse(text) for text in layouts) or spec.serve.layouts
    if every:
        chosen = working(context.shape, spec.cluster)
    if not chosen:
        raise Refused(
            "there is no layout to compare",
            hint="list some under `serve.layouts`, or give `--layout`, or `--all`",
        )
    run = comparison_run(context, run_folder("compare", out), screen)
    try:
        with interruptible(), screen.stages([str(layout) for layout in chosen]) as stages:
            measure_all(run, context, chosen, screen, stages)
    finally:
        baseline = SINGLE if SINGLE in chosen else None
        report(run, screen, ["ropeway", *sys.argv[1:]], baseline)
    if any(result.status != "ok" for result in run.results):
        ctx.exit(Exit.NO)


def _with_load(spec: Spec, clients: int | None, requests: int | None) -> Spec:
    load = spec.workload.model_dump()
    if clients is not None:
        load |= {"clients": clients, "requests": REQUESTS_PER_CLIENT * clients}
    if requests is not None:
        load["requests"] = requests
    return spec.model_copy(update={"workload": type(spec.workload).model_validate(load)})

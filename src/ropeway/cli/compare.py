"""`ropeway compare`: layouts of the local cluster, or running endpoints, on the same prompts."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ropeway.bench.asked import LoadFlags, load_of, over_spec, under
from ropeway.checkpoints.catalogue import RECIPES
from ropeway.cli.bringup import SpecFlags, read_spec, start_context
from ropeway.cli.completion import one_of
from ropeway.cli.files import run_folder
from ropeway.cli.load_flags import load_options
from ropeway.cli.measure import SINGLE, comparison_run, measure_all, report
from ropeway.cli.options import POSITIVE, config_option, screen_options
from ropeway.cli.repeat import command_to_repeat
from ropeway.cli.sides import SideFlags, compare_sides, report_sides
from ropeway.errors import Exit, Refused
from ropeway.hosts.interrupts import interruptible
from ropeway.phrases import phrase
from ropeway.plan.layout import working
from ropeway.report.console import Screen
from ropeway.spec.model import Layout, Spec, Workload

_WITHOUT = "compare layouts without one: `ropeway compare --local --all`"
_TYPED = ParameterSource.COMMANDLINE
_ROUNDS_OF_ENDPOINTS, _ROUNDS_OF_LAYOUTS = 6, 3
_OF_LAYOUTS = ("local", "layouts", "every")
_OF_ENDPOINTS = ("names", "key_env", "timeout", "processes")


@click.command()
@config_option
@click.option("--local", is_flag=True, help="No spec file: two virtual hosts on this machine.")
@click.option(
    "--model", help="Checkpoint name or model directory, in place of the spec's; with --url the"
    " model to ask, by default the first that each server lists.",
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
@click.option("--url", "urls", multiple=True, help="A running endpoint; give it once for each.")
@click.option(
    "--name", "names", multiple=True, help="What to call an endpoint, in the order of --url."
)
@click.option(
    "--against", type=click.Path(path_type=Path), metavar="DIR", multiple=True,
    help="A run that `ropeway bench` has recorded, to be compared with.",
)  # fmt: skip
@click.option(
    "--rounds", type=click.IntRange(1, 1000),
    help="Measurements of each; three or more give intervals."
    f"  [default: {_ROUNDS_OF_ENDPOINTS}; of layouts {_ROUNDS_OF_LAYOUTS}]",
)  # fmt: skip
@load_options
@click.option(
    "--processes", type=click.IntRange(1, 64), default=1, show_default=True,
    help="With --url: processes that send, each with its share of the clients.",
)  # fmt: skip
@click.option(
    "--key-env", metavar="NAME", default="OPENAI_API_KEY", show_default=True,
    help="With --url: environment variable that holds the API key.",
)  # fmt: skip
@click.option(
    "--timeout", type=POSITIVE, default=600.0, show_default=True,
    help="With --url: how long a server may be silent in one request, in seconds.",
)  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Directory of results.")
@screen_options
@click.pass_context
def compare(
    ctx: click.Context,
    /,
    *,
    config: Path,
    local: bool,
    model: str | None,
    layouts: tuple[str, ...],
    every: bool,
    rounds: int | None,
    load: LoadFlags,
    out: Path | None,
    screen: Screen,
    **of_endpoints: Any,
) -> None:
    """Measure layouts or endpoints on the same prompts, and say which is faster.

    Layouts of the local cluster are brought up one after another, and measured in rounds. Endpoints
    that run already (--url, twice or more) are measured in turns: a round of each, then again in
    the opposite order. With --against each is measured once, under the load of the recorded run,
    and both are cut into rounds.

    Each round is one load, of any kind that `bench` sends, with prompts of its own; those of
    endpoints are new whatever the --seed, unless they are of --prompts. Flags go before the spec's
    `workload`, which with --url is read only where -c names it.

    "Faster" and "slower" are said only where rounds tell them from noise; else it is said how
    large a difference would have been found. Each gets a row in the table, a directory with its raw
    timings, and its place in report.html. Ctrl-C keeps what was measured so far. Exit code 1: some
    layout did not serve, or some request failed.

    \b
    Examples:
      ropeway compare --local --layout tp2 --layout tp2,pp2,ep --clients 32
      ropeway compare --url http://host1:8000 --url http://host2:8000 --clients 64
      ropeway compare --url http://a:8000 --url http://b:8000 --prompts my.jsonl
      ropeway compare --url http://host1:8000 --against runs/FIRST
    """
    if of_endpoints["urls"] or of_endpoints["against"]:
        _refuse(ctx, _OF_LAYOUTS, phrase("is for layouts, and `--url` and `--against` are not"))
        spec_given = ctx.get_parameter_source("config") is _TYPED
        workload = read_spec(config).workload if spec_given else Workload()
        rounds = rounds or _ROUNDS_OF_ENDPOINTS
        load = over_spec(load, workload)
        flags = SideFlags(load=load, model=model, rounds=rounds, **of_endpoints)
        _compare_endpoints(ctx, flags, out, screen)
        return
    _refuse(ctx, _OF_ENDPOINTS, phrase("is for running endpoints, and there is no `--url`"))
    spec = SpecFlags(model=model).over(read_spec(config, local=local, without=_WITHOUT))
    _compare_layouts(ctx, spec, _Layouts(layouts, every, rounds, load), out, screen)


@dataclass(frozen=True)
class _Layouts:
    """What the command line says of layouts: those named or all, rounds and flags of the load."""

    named: tuple[str, ...]
    every: bool
    rounds: int | None
    load: LoadFlags


def _compare_layouts(
    ctx: click.Context, spec: Spec, flags: _Layouts, out: Path | None, screen: Screen
) -> None:
    load = load_of(over_spec(flags.load, spec.workload))
    spec = under(spec, load)
    context = start_context(spec, screen)
    chosen = tuple(Layout.parse(text) for text in flags.named) or spec.serve.layouts
    if flags.every:
        chosen = working(context.shape, spec.cluster)
    if not chosen:
        raise Refused(
            "there is no layout to compare",
            hint="list some under `serve.layouts`, or give `--layout`, or `--all`",
        )
    run = comparison_run(context, run_folder("compare", out), screen)
    run.sent.load, run.sent.rounds = load, flags.rounds or _ROUNDS_OF_LAYOUTS
    try:
        with interruptible(), screen.stages([str(layout) for layout in chosen]) as stages:
            measure_all(run, context, chosen, screen, stages)
    finally:
        baseline = SINGLE if SINGLE in chosen else None
        report(run, screen, shlex.split(command_to_repeat(ctx)), baseline)
    if any(result.status != "ok" for result in run.results):
        ctx.exit(Exit.NO)


def _compare_endpoints(
    ctx: click.Context, flags: SideFlags, out: Path | None, screen: Screen
) -> None:
    compared = compare_sides(flags, out, screen)
    report_sides(compared, screen, command_to_repeat(ctx))
    if compared.failure:
        raise compared.failure
    if compared.comparison.ended == "interrupted":
        ctx.exit(Exit.INTERRUPTED)
    ctx.exit(Exit.NO if compared.comparison.failed else Exit.OK)


def _refuse(ctx: click.Context, names: tuple[str, ...], why: str) -> None:
    """Raise Refused where one of these flags was typed."""
    for option in ctx.command.params:
        if option.name in names and ctx.get_parameter_source(option.name) is _TYPED:
            raise Refused(
                phrase("`{flag}` {why}", flag=option.opts[0], why=why),
                hint=phrase("leave one of the two out"),
            )

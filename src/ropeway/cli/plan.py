"""`ropeway plan`: which layout, does it fit, how fast, what will it cost."""

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import click
from click.core import ParameterSource

from ropeway.checkpoints.fetch import default_root
from ropeway.cli.completion import one_of
from ropeway.cli.files import write_page
from ropeway.cli.options import (
    POSITIVE,
    config_option,
    known_like,
    lang_option,
    passed_as,
    screen_options,
)
from ropeway.cli.spec_writing import write_into_spec
from ropeway.errors import Exit, Refused
from ropeway.hardware import CHIPS
from ropeway.models.known import short_names
from ropeway.phrases import joined, phrase
from ropeway.plan.candidate import Plan, Rejected
from ropeway.plan.choice import standing
from ropeway.plan.choose import choose
from ropeway.plan.layout import problems
from ropeway.plan.resolve import Flags, is_left_out, resolve
from ropeway.plan.writing import edits, written
from ropeway.report.console import Screen
from ropeway.report.plain import plain
from ropeway.report.plan import layout_reasons, layout_text, plan_text, values_text
from ropeway.report.plan_json import plan_json
from ropeway.report.plan_page import render_html
from ropeway.spec.file import SpecFile, read_spec_file
from ropeway.spec.model import DEFAULT_FILE, Layout
from ropeway.suggest import did_you_mean

_LARGEST_HOST = 1024  # of spec.cluster.RemoteHost
_MOST_HOSTS = 4096

_OPTIONS = (
    click.option(
        "--model", metavar="NAME|PATH", help="A published name, a directory, or a config.json.",
        shell_complete=one_of(short_names),
    ),
    click.option("--hosts", type=click.IntRange(1, _MOST_HOSTS), help="Number of hosts."),
    click.option("--npus", type=click.IntRange(1, _LARGEST_HOST), help="NPUs of each host."),
    click.option(
        "--chip", metavar="NAME", help="`910B4`, `910B3`, `910C` (Atlas A3), …",
        shell_complete=one_of(lambda: (chip.name for chip in CHIPS)),
    ),
    click.option("--engine-version", metavar="VERSION", help="Of vLLM-Ascend: `0.11.0rc0`."),
    click.option(
        "--release-like", metavar="VERSION", callback=known_like,
        help="The known release that an unknown one is like.",
    ),
    click.option("--graph", metavar="MODE", help="eager, piecewise, full; else the engine's."),
    click.option("--layout", metavar="LAYOUT", help="Consider only this one: `TP8xPP2+EP`."),
    click.option("--context", type=click.IntRange(1), help="Tokens of prompt and answer together."),
    click.option("--clients", type=click.IntRange(1), help="Number of requests in flight."),
    click.option("--rate", type=POSITIVE, help="Or: requests per second."),
    click.option("--input-tokens", type=click.IntRange(1), help="Tokens of each prompt."),
    click.option("--output-tokens", type=click.IntRange(1), help="Tokens of each answer."),
    click.option(
        "--objective",
        type=click.Choice(("throughput", "latency", "cost")),
        default="throughput",
        show_default=True,
        help="What to optimise.",
    ),
    click.option("--max-tpot", type=POSITIVE, metavar="MS", help="Longest time per output token."),
    click.option("--max-ttft", type=POSITIVE, metavar="MS", help="Longest time to first token."),
    click.option("--price", type=POSITIVE, help="Price of one host for an hour."),
    click.option("--currency", metavar="NAME", help="Currency of the price."),
    click.option("--prompts", type=click.IntRange(1), help="Size of a job: shows hours and price."),
)  # fmt: skip


def _flags_option(verb: Callable[..., object]) -> Callable[..., object]:
    """Give the verb the options that describe what to plan, as one `flags: Flags`."""

    return passed_as("flags", Flags, verb, _OPTIONS)


@click.command()
@lang_option
@screen_options
@config_option
@_flags_option
@click.option("--why", metavar="KEY|LAYOUT", help="Explain one value, or why not that layout.")
@click.option("--write", is_flag=True, help="Write the choice into the spec, with its reasons.")
@click.option("--html", type=click.Path(path_type=Path), help="Write a page with the charts.")
@click.option("--all", "everything", is_flag=True, help="Show every layout, rejected ones too.")
@click.pass_context
def plan(
    ctx: click.Context,
    *,
    screen: Screen,
    config: Path,
    flags: Flags,
    why: str | None,
    write: bool,
    html: Path | None,
    everything: bool,
) -> None:
    """Choose the parallel layout: what fits, how fast it is, what it costs, and why.

    From the spec, from flags alone, or both: flags win, and every value shows where it came from. A
    spec for this machine is left out when the flags name hosts or a chip. Nothing is started and no
    host is asked. Every forecast is predicted, not measured; docs/planning.md says how far off such
    forecasts are.
    Exit code 1: nothing fits the request.

    \b
    Example:
      ropeway plan --model Qwen3-30B-A3B --hosts 2 --chip 910B4 --clients 256
    """
    named = ctx.get_parameter_source("config") is not ParameterSource.DEFAULT
    file = _spec_file(config, flags, named=named, write=write)
    checkpoints = default_root(os.environ)
    request, notes = resolve(file, flags, checkpoints)
    result = choose(request)
    own = standing(file, flags, checkpoints, result) if file and not write else None
    doubts = (own, *result.doubts) if own else result.doubts
    result = replace(result, notes=(*notes, *result.notes), doubts=doubts)
    if why is not None:
        _explain(screen, result, why)
        return
    verbose = everything or screen.verbose > 0
    screen.answer(plan_text(result, verbose=verbose, language=screen.language))
    document = plan_json(result)
    if write:
        made = _write(screen, config, file, result) if file and result.chosen else []
        document = {**document, "written": made}
    if html is not None:
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        page = render_html(result, when=now, language=screen.language)
        write_page(html, page, screen)
    screen.result(document)
    ctx.exit(Exit.OK if result.chosen else Exit.NO)


def _spec_file(config: Path, flags: Flags, *, named: bool, write: bool) -> SpecFile | None:
    """Return the spec, or None where flags alone are enough. Raises Refused or SpecError."""
    if named or config.exists():
        file = read_spec_file(config)
        if (named or write) and is_left_out(file.spec, flags):
            raise Refused(
                phrase("this spec is for this machine, and `--hosts`, `--npus` or `--chip` is not"),
                where=str(config),
                hint=phrase("leave the flags out, or plan without the spec: `--model NAME`"),
            )
        if write and (flags.hosts or flags.npus):
            raise Refused(
                phrase(
                    "`--write` is for the hosts of the spec, and `--hosts` or `--npus` name others"
                ),
                where=str(config),
                hint=phrase("leave them out, or change `cluster.hosts` first"),
            )
        return file
    if write:
        raise Refused(
            phrase("`--write` puts the choice into a spec, and there is none here"),
            where=str(Path.cwd() / config),
            hint=phrase(
                "write one: `ropeway init --host root@ADDRESS`\nor name it with `--config`"
            ),
        )
    if flags.model is None:
        raise Refused(
            phrase("there is no `{file}` here, and no `--model`", file=DEFAULT_FILE),
            where=str(Path.cwd()),
            hint=phrase(
                "name a model: `ropeway plan --model Qwen3-30B-A3B --hosts 2 --chip 910B4`\n"
                "or write a spec: `ropeway init --host root@ADDRESS`"
            ),
        )
    return None


def _explain(screen: Screen, result: Plan, why: str) -> None:
    """Show one value by its key (or the end of it), or one layout. Raises Refused for neither."""
    values = [value for value in result.values if why in (value.key, value.key.rpartition(".")[2])]
    if values:
        screen.answer(values_text(values, screen.language))
        screen.result({**plan_json(result), "why": {"values": plain(values), "reasons": []}})
        return
    try:
        layout = Layout.parse(why)
    except Refused:
        raise _no_such_value(result, why) from None
    judged = result
    examined = [item.layout for item in result.candidates]
    examined += [item.layout for item in result.rejected]
    if layout not in examined:
        faults = problems(layout, result.request.shape, result.request.cluster)
        rejected = (Rejected(layout, "shape", fault) for fault in faults)
        judged = replace(result, rejected=(*result.rejected, *rejected))
    screen.answer(layout_text(judged, str(layout), screen.language))
    reasons = layout_reasons(judged, str(layout))
    screen.result({**plan_json(result), "why": {"values": [], "reasons": reasons}})


def _no_such_value(result: Plan, why: str) -> Refused:
    if not result.values:
        return Refused(
            phrase("nothing fits the request, so there is no value to explain"),
            evidence=result.missing,
            hint=phrase("`ropeway plan` without `--why` lists what was rejected"),
        )
    keys = [value.key for value in result.values]
    meant = did_you_mean(why, [*keys, *(key.rpartition(".")[2] for key in keys)])
    hint = meant or phrase("there are {keys}", keys=joined(keys, ", "))
    return Refused(phrase("the plan has no value called `{key}`", key=why), hint=hint)


def _write(screen: Screen, config: Path, file: SpecFile, result: Plan) -> list[dict[str, object]]:
    """Write the choice into the file; return what changed. Raises Refused or SpecError."""
    after = written(file.spec, result)
    return write_into_spec(screen, config, file, after, edits(file.spec, after, result))

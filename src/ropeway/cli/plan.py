"""`ropeway plan`: which layout, does it fit, how fast, what will it cost."""

import sys
from dataclasses import replace
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path

import click

from ropeway.cli.options import config_option, screen_options
from ropeway.cli.planned import Flags, question_options, wanted
from ropeway.errors import Exit, Refused, SpecError
from ropeway.hosts.local import replace_file
from ropeway.plan.choose import Plan, choose, written
from ropeway.plan.evaluate import evaluate_csv
from ropeway.report.console import Screen
from ropeway.report.evaluation import evaluation_text
from ropeway.report.plan import layout_reasons, layout_text, plan_text, values_text
from ropeway.report.plan_json import plan_json, value_json
from ropeway.report.plan_page import render_html
from ropeway.spec.editing import Edit, apply_edits, planned_keys
from ropeway.spec.model import DEFAULT_FILE, Layout, Spec, load_spec, parse_spec
from ropeway.spec.yaml import read_text

_STDIN = "-"
_OURS = ("planner", "default")  # sources of values that nobody asked for


@click.group(invoke_without_command=True)
@screen_options
@config_option
@question_options
@click.option("--why", metavar="KEY|LAYOUT", help="Explain one value, or why not that layout.")
@click.option("--write", is_flag=True, help="Put the choice into the spec, with its reasons.")
@click.option("--html", type=click.Path(path_type=Path), help="Write a page with the charts.")
@click.option("--all", "everything", is_flag=True, help="Show every layout, taken or not.")
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

    From the spec, from flags alone, or both: flags win. Nothing is started and no host is asked.
    Every forecast is predicted; `ropeway plan evaluate` compares them with measurements.
    Exit code 1: nothing fits what is asked.

    \b
    Example:
      ropeway plan --model Qwen3-30B-A3B --hosts 2 --chip 910B4 --clients 256
    """
    if ctx.invoked_subcommand is not None:
        return
    spec = _spec(config, flags, write=write)
    question, notes = wanted(_without_planned(spec, config), flags)
    found = choose(question)
    if notes:
        found = replace(found, notes=(*notes, *found.notes))
    if why is not None:
        _explain(screen, found, why)
        return
    screen.answer(plan_text(found, verbose=everything or screen.verbose > 0))
    changes = _write(screen, config, spec, found) if write and spec and found.chosen else []
    if html is not None:
        _write_page(screen, found, html)
    document = plan_json(found)
    screen.result({**document, "written": changes} if write else document)
    ctx.exit(Exit.OK if found.chosen else Exit.NO)


@plan.command()
@screen_options
@click.argument("file", metavar="CSV")
@click.option("--in-sample", is_flag=True, help="Let a measurement help to predict itself.")
def evaluate(*, screen: Screen, file: str, in_sample: bool) -> None:
    """Compare predictions with the measurements of CSV, row by row; `-` reads stdin.

    Columns: model, hardware, tp, pp, ep, dp, input_len, output_len, concurrency, output_tok_s,
    ttft_ms, tpot_ms and others; docs/planning.md has them all. Any cell may be empty: a row that
    cannot be known is listed with the reason. A row that the constants were fitted to is predicted
    without its source.

    \b
    Example:
      ropeway plan evaluate measurements.csv
    """
    text, where = _measurements(file)
    found = evaluate_csv(text, where, in_sample)
    screen.answer(evaluation_text(found, verbose=screen.verbose > 0))
    screen.result(found.as_json())


def _measurements(file: str) -> tuple[str, str]:
    """The text and its name. Raises Refused when it cannot be read."""
    try:
        raw = sys.stdin.buffer.read() if file == _STDIN else Path(file).read_bytes()
        return raw.decode("utf-8-sig"), "stdin" if file == _STDIN else file
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise Refused(f"cannot read `{file}`: {reason}", where=file) from None
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise Refused("the file is not UTF-8 text", where=f"{file}:{line}") from None


def _spec(config: Path, flags: Flags, *, write: bool) -> Spec | None:
    """The spec, or None where flags alone are enough. Raises Refused or SpecError."""
    if config.exists() or str(config) != DEFAULT_FILE:
        if write and (flags.hosts or flags.npus):
            raise Refused(
                "`--write` is for the cluster of the spec, and `--hosts` or `--npus` name another",
                where=str(config),
                hint="leave them out, or change `cluster.hosts` first",
            )
        return load_spec(config)
    if write:
        raise Refused(
            "`--write` puts the choice into a spec, and there is none here",
            where=str(Path.cwd() / config),
            hint="write one: `ropeway init`\nor name it with `--config`",
        )
    if flags.model is None:
        raise Refused(
            f"there is no `{DEFAULT_FILE}` here, and no `--model`",
            where=str(Path.cwd()),
            hint="ropeway plan --model Qwen3-30B-A3B --hosts 2 --chip 910B4\n"
            "or write a spec: `ropeway init`",
        )
    return None


def _without_planned(spec: Spec | None, config: Path) -> Spec | None:
    """The spec without what an earlier `--write` chose: that may be chosen anew."""
    if spec is None:
        return None
    planned = planned_keys(read_text(config))
    blanks = {
        key: None for key in ("context", "memory", "max_sequences") if ("serve", key) in planned
    }
    return spec.model_copy(update={"serve": spec.serve.model_copy(update=blanks)})


def _explain(screen: Screen, found: Plan, why: str) -> None:
    """One value by its key (or the end of it), or one layout. Raises Refused for neither."""
    values = [one for one in found.values if why in (one.key, one.key.rpartition(".")[2])]
    if values:
        screen.answer(values_text(values))
        screen.result({"why": [value_json(value) for value in values]})
        return
    try:
        layout = str(Layout.parse(why))
    except Refused:
        if not found.values:
            raise Refused(
                "nothing fits what is asked, so there is no value to explain",
                evidence=found.missing,
                hint="`ropeway plan` without `--why` lists what was rejected",
            ) from None
        keys = [value.key for value in found.values]
        near = get_close_matches(why, [*keys, *(key.rpartition(".")[2] for key in keys)])
        hint = f"did you mean `{near[0]}`?" if near else f"there are {', '.join(keys)}"
        raise Refused(f"the plan has no value called `{why}`", hint=hint) from None
    screen.answer(layout_text(found, layout))
    screen.result({"why": {"layout": layout, "reasons": layout_reasons(found, layout)}})


def _write(screen: Screen, config: Path, spec: Spec, found: Plan) -> list[dict[str, object]]:
    """Put the choice into the file; what changed, key by key. Raises Refused or SpecError."""
    after = written(spec, found)
    edits = _edits(spec, after, found)
    text = apply_edits(read_text(config), edits)
    if parse_spec(text, str(config)).as_json() != after.as_json():
        raise SpecError(
            "the file is written in a way that cannot be edited without spoiling it",
            where=str(config),
            evidence=[f"{'.'.join(one.path)}: {one.value}" for one in edits],
            hint="put these values into it by hand",
        )
    replace_file(config.resolve(), text.encode())
    changes = [
        {"key": ".".join(one.path), "before": _at(spec, one.path), "after": one.value}
        for one in edits
        if _at(spec, one.path) != one.value
    ]
    for change in changes:
        screen.say(f"{change['key']}: {change['before'] or 'blank'} → {change['after'] or 'blank'}")
    screen.say(f"wrote {config}" if changes else f"{config} holds this choice already")
    return changes


def _edits(before: Spec, after: Spec, found: Plan) -> list[Edit]:
    """Every key that the choice sets, and every one that differs, each with its reason."""
    reasons = {value.key: value for value in found.values}
    edits = []
    for section in ("cluster", "serve", "workload"):
        old, new = _section(before, section), _section(after, section)
        for key in dict.fromkeys((*new, *old)):
            value = reasons.get(f"{section}.{key}")
            chosen = value is not None and value.source in _OURS and key in new
            if chosen or old.get(key) != new.get(key):
                why = value.why if value and chosen else ""
                edits.append(Edit((section, key), new.get(key), why))
    return edits


def _section(spec: Spec, name: str) -> dict[str, object]:
    found = spec.as_json()[name]
    assert isinstance(found, dict)
    return found


def _at(spec: Spec, path: tuple[str, ...]) -> object:
    return _section(spec, path[0]).get(path[1])


def _write_page(screen: Screen, found: Plan, path: Path) -> None:
    page = render_html(found, when=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"))
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise Refused(f"the page cannot be written: {reason}", where=str(path)) from None
    screen.say(f"page: {path}")

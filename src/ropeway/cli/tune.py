"""`ropeway tune`: find the best setting for a load by measuring few of them."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import click

from ropeway.bench.asked import LoadFlags, load_of, over_spec, under
from ropeway.bench.goals import Goals
from ropeway.bench.load_test import Conditions
from ropeway.bench.record import recorded, write_json
from ropeway.bench.run import check_sendable
from ropeway.bench.served import Rounds
from ropeway.bench.trials import Ended, Trials, alone_in
from ropeway.bench.tuned import Tuned
from ropeway.bench.tuning import check_tells_apart
from ropeway.checkpoints.catalogue import RECIPES
from ropeway.cli.bringup import SpecFlags, read_spec
from ropeway.cli.completion import one_of
from ropeway.cli.files import run_folder
from ropeway.cli.load_flags import GOALS, load_options
from ropeway.cli.options import POSITIVE, config_option, lang_option, screen_options
from ropeway.cli.rehearsal import rehearsed_spec
from ropeway.cli.repeat import command_to_repeat
from ropeway.cli.spec_writing import write_into_spec
from ropeway.cli.tune_hosts import HostFlags, host_flags, place_of
from ropeway.cli.tune_local import Place, Searched
from ropeway.endpoint.client import ServedModel
from ropeway.errors import Exit, Refused, RopewayError
from ropeway.hosts.interrupts import interruptible
from ropeway.phrases import phrase
from ropeway.plan.tuning import VARIED
from ropeway.report.console import Screen
from ropeway.report.tune import tune_table
from ropeway.sim.machine import Fleet
from ropeway.spec.file import SpecFile, read_spec_file
from ropeway.spec.model import Layout, Spec
from ropeway.spec.yaml import read_text

_SpecAsRead = tuple[Path, SpecFile]
_RESULT = "tuning.json"
_WITHOUT = phrase("search on this machine without one: `ropeway tune --local`")


@click.command()
@config_option
@click.option("--local", is_flag=True, help="No spec file: two virtual hosts on this machine.")
@click.option(
    "--model", help="Checkpoint name or model directory, in place of the spec's.",
    shell_complete=one_of(lambda: RECIPES),
)  # fmt: skip
@click.option(
    "--layout", "layouts", metavar="LAYOUT", multiple=True,
    help="Begin with this one, in place of the spec's and the plan's; give it once for each.",
)  # fmt: skip
@click.option(
    "--layouts", "most", type=click.IntRange(1, 100), default=4, show_default=True,
    help="Layouts to begin with: the spec's own, then those that the plan ranks best.",
)  # fmt: skip
@click.option(
    "--vary", "varied", type=click.Choice(VARIED), multiple=True, default=VARIED,
    help="What may be varied; give it once for each.  [default: all]",
)  # fmt: skip
@click.option(
    "--slo", "goals", type=GOALS,
    help="Find the setting with the most requests that keep this, such as ttft=2s,tpot=50ms.",
)  # fmt: skip
@load_options
@click.option(
    "--rounds", type=click.IntRange(3, 1000), default=5, show_default=True,
    help="Rounds of the load that a setting gets at most; what is worse gets fewer.",
)  # fmt: skip
@click.option(
    "--confirm/--no-confirm", default=True, show_default=True,
    help="At the end measure the best and what the search began with once more.",
)  # fmt: skip
@click.option("--minutes", type=POSITIVE, help="Begin no trial that would end later than this.")
@click.option("--write", is_flag=True, help="Write the best into the spec, with the reason.")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR",
    help="Directory of results; one of a search that was interrupted goes on with it.",
)  # fmt: skip
@host_flags
@lang_option
@screen_options
@click.pass_context
def tune(
    ctx: click.Context,
    /,
    *,
    config: Path,
    local: bool,
    model: str | None,
    layouts: tuple[str, ...],
    most: int,
    varied: tuple[str, ...],
    goals: Goals | None,
    load: LoadFlags,
    rounds: int,
    confirm: bool,
    minutes: float | None,
    write: bool,
    out: Path | None,
    hosts: HostFlags,
    screen: Screen,
) -> None:
    """Find the best setting for a load by measuring few of them.

    Layout, replicas, sequences, tokens of a step, memory and graphs of the engine. The search
    begins with the spec's own setting and with those that `plan` ranks best, and goes on from the
    best of them, one step of one value after another. Each is brought up, asked, given the load in
    rounds until it is certain to be worse than the best, and taken down.

    Every trial is kept with its raw timings and logs as soon as it ends; called again with the same
    `--out`, the search goes on. Exit code 1: no setting could be measured without failures, or the
    hosts stopped answering, or what was measured could not be kept.

    \b
    Examples:
      ropeway tune --local --clients 16 --requests 32
      ropeway tune --rehearse 2x8-910B4 --clients 4 --requests 8
      ropeway tune --slo ttft=2s,tpot=50ms --write
    """
    hosts.check_writes(write=write, local=local)
    _check_model(model, write=write)
    before = read_spec_file(config) if write else None
    base, fleet = _base(config, SpecFlags(model=model), hosts, screen, local=local)
    sent_load = replace(load_of(over_spec(load, base.workload)), goals=goals)
    check_tells_apart(sent_load)
    digests = check_sendable(sent_load, ServedModel(_model_of(base), base.serve.context))
    searched = Searched(under(base, sent_load), tuple(map(Layout.parse, layouts)), most, varied)

    def begin(place: Place) -> Trials:
        sent = Rounds(sent_load, place.engine, place.hardware, screen, rounds)
        return Trials(sent, run_folder("tune", out), confirm=confirm)

    where, search = place_of(searched, hosts, fleet, screen), partial(_search, searched, digests)
    place, trials, ended = _run(where, begin, search, None if minutes is None else 60 * minutes)
    tuned = _tuned(trials, searched.spec, place, ended)
    writable = not local and fleet is None and model is None
    _report(tuned, trials.folder, (config, before) if before else None, screen, writable=writable)
    if ended == "interrupted":
        ctx.exit(Exit.INTERRUPTED)
    if trials.gone:
        screen.error(trials.gone)
    ctx.exit(Exit.OK if tuned.best and not trials.gone else Exit.NO)


def _check_model(model: str | None, *, write: bool) -> None:
    """Raise Refused where the result would be of another model than the spec names."""
    if write and model is not None:
        raise Refused(
            phrase("`--write` puts the best into a spec, and `--model` names another than it does"),
            hint=phrase("put the model into the spec first"),
        )


def _base(
    config: Path, flags: SpecFlags, hosts: HostFlags, screen: Screen, *, local: bool
) -> tuple[Spec, Fleet | None]:
    """Return the spec to begin with, and the virtual hosts in a rehearsal. Raises Refused."""
    if hosts.rehearse is None:
        return flags.over(read_spec(config, local=local, without=_WITHOUT)), None
    spec, fleet, _ = rehearsed_spec(hosts.rehearse, config, flags, hosts.faults, screen)
    return spec, fleet


def _run(
    where: AbstractContextManager[Place],
    begin: Callable[[Place], Trials],
    search: Callable[[Rounds, Place], Mapping[str, object]],
    limit_s: float | None,
) -> tuple[Place, Trials, Ended]:
    """Make all trials. An interrupt after the last of them ends the search as one before it does.

    What was measured is reported then too.
    """
    ended: Ended | None = None
    try:
        with interruptible(), where as place:
            trials = begin(place)
            with alone_in(trials.folder):
                trials.take_up(search(trials.sent, place))
                ended = trials.run(place.starts, place.steps, place.serve, limit_s)
    except KeyboardInterrupt:
        if ended is None:
            raise
        ended = "interrupted"
    return place, trials, ended


def _model_of(spec: Spec) -> str:
    model = spec.model
    return model.served_name or model.name or str(model.path)


def _search(
    searched: Searched, digests: Sequence[str], sent: Rounds, place: Place
) -> dict[str, object]:
    """Return what decides which trials are made, as plain data. `digests`: of files of prompts."""
    return {
        **({"files_sha256": list(digests)} if digests else {}),
        "spec": searched.spec.as_json(),
        "load": asdict(sent.load),
        "rounds": sent.rounds,
        "varied": sorted(searched.varied),
        "starts": [one.as_json() for one in place.starts],
        "engine": place.engine,
        "hardware": place.hardware,
    }


def _tuned(trials: Trials, spec: Spec, place: Place, ended: Ended) -> Tuned:
    sent = trials.sent
    conditions = sent.conditions or Conditions(
        load=sent.load,
        url=spec.serve.url,
        model=_model_of(spec),
        engine=place.engine,
        hardware=place.hardware,
    )
    following = trials.following(place.starts, place.steps)
    return Tuned(
        conditions=conditions,
        first=place.starts[0],
        trials=tuple(trials.measured),
        ended=ended,
        following=following,
        command=command_to_repeat(click.get_current_context()),
        notes=place.notes,
    )


def _report(
    tuned: Tuned, folder: Path, spec: _SpecAsRead | None, screen: Screen, *, writable: bool
) -> None:
    """Show and keep what was found, and write the best into the spec, where there is one given.

    writable  whether there is a spec that it could be written into
    """
    with recorded(folder):
        write_json(folder / _RESULT, tuned.as_json())
    screen.answer(tune_table(tuned, screen.language))
    screen.say(phrase("results: {folder}", folder=folder))
    again = f"{tuned.command} --out {shlex.quote(str(folder))}"
    if tuned.following is not None:
        screen.hint(phrase("to go on:\n{command}", command=again))
    elif tuned.best is not None and writable and spec is None:
        screen.hint(phrase("to put it into the spec:\n{command}", command=f"{again} --write"))
    rows: list[dict[str, object]] = []
    failure: RopewayError | None = None
    try:
        rows = _written(tuned, spec, screen) if spec else []
    except RopewayError as error:
        failure = error
    screen.result({**tuned.as_json(), "written": rows, "folder": str(folder)})
    if failure:
        raise failure


def _written(tuned: Tuned, spec: _SpecAsRead, screen: Screen) -> list[dict[str, object]]:
    """Write the best into the spec, and return what changed. Raises RopewayError."""
    config, file = spec
    best = tuned.best
    if best is None or tuned.ended not in ("complete", "time limit"):
        screen.warn(phrase("nothing was written into {file}", file=config))
        return []
    if read_text(config) != file.text:
        raise Refused(
            phrase("{file} has changed since the search began, and was left as it is", file=config),
            evidence=[
                f"{edit.path[1]}: {edit.value}" for edit in best.setting.edits(file.spec, "")
            ],
            hint=phrase("put these values into it by hand"),
        )
    edits = best.setting.edits(file.spec, tuned.reason)
    return write_into_spec(screen, config, file, best.setting.over(file.spec), edits)

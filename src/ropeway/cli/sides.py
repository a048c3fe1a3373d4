"""`compare --url` and `--against`: endpoints in turns, or beside runs that were recorded."""

import asyncio
import math
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ropeway.bench.asked import LoadFlags, load_of, over_load
from ropeway.bench.load_test import MEASURED, Conditions, LoadTest, going_on
from ropeway.bench.measure import Means, measure
from ropeway.bench.prompts import Recipe
from ropeway.bench.record import holds_a_run, recorded, write_json
from ropeway.bench.recorded_run import side_of_run
from ropeway.bench.run import prepare, stopped_by_interrupt
from ropeway.bench.sides import (
    Ended,
    Side,
    SideComparison,
    check_alike,
    lots_at,
    most_rounds,
    side_names,
)
from ropeway.bench.turns import Contender, Turns, lots_of
from ropeway.cli.endpoint import key_of, tell_rehearsal
from ropeway.cli.files import run_folder, write_report
from ropeway.endpoint.address import Endpoint, normalise_url
from ropeway.endpoint.client import served_model
from ropeway.errors import RopewayError
from ropeway.outside import is_there
from ropeway.phrases import phrase
from ropeway.report.console import Screen
from ropeway.report.sides import render_sides, sides_table

_COMPARISON = "comparison.json"


@dataclass(frozen=True)
class SideFlags:
    """What the command line says of what is compared, and how.

    names   of the endpoints, in the order of their URLs; empty: the URLs are the names
    load    of the load, over what a spec says of it
    rounds  of each; with `against` the pieces that each run is cut into
    """

    urls: tuple[str, ...]
    names: tuple[str, ...]
    against: tuple[Path, ...]
    load: LoadFlags
    model: str | None
    key_env: str
    timeout: float
    processes: int
    rounds: int


@dataclass(frozen=True)
class Compared:
    """What came of it. `failure`: why it did not go on."""

    comparison: SideComparison
    folder: Path
    failure: RopewayError | None


def compare_sides(flags: SideFlags, out: Path | None, screen: Screen) -> Compared:
    """Measure the endpoints, and compare them and the recorded runs. Raises RopewayError.

    With recorded runs the load is theirs, and nothing that was typed may contradict it.
    """
    if out is not None and is_there(out / _COMPARISON):
        raise holds_a_run(out)
    runs = [str(folder) for folder in flags.against]
    names = side_names([normalise_url(url) for url in flags.urls], flags.names, runs)
    old = [side_of_run(name, Path(name), flags.rounds, recorded=True) for name in runs]
    load = over_load(flags.load, old[0].conditions.load) if old else load_of(flags.load)
    _check_all(load, phrase("this measurement"), old)
    if load.files:
        load = going_on(replace(load, fresh=0), [side.conditions.load for side in old])
    else:
        load = replace(load, fresh=int(time.time()))  # no earlier run has sent such prompts
    contenders, recipe = _prepared(flags, names, load, old, screen)
    if contenders:
        _check_all(contenders[0].conditions.load, contenders[0].name, old)
    folder = run_folder("compare", out)
    contenders = [replace(one, folder=folder / one.folder) for one in contenders]
    with stopped_by_interrupt() as stopped:
        if old or recipe is None:
            new, ended, failure = _once_each(contenders, recipe, flags, screen, stopped)
            sides = (*old, *new)
        else:
            turns = Turns(contenders, recipe, load.fresh, screen, Means(flags.processes))
            turns.run(flags.rounds, stopped)
            sides, ended, failure = _sides(turns), turns.ended, turns.failure
    comparison = SideComparison(
        load=sides[-1].conditions.load,
        rounds=most_rounds(sides) if old else flags.rounds,
        turns=not old,
        sides=sides,
        ended=ended,
    )
    return Compared(comparison, folder, failure)


def report_sides(compared: Compared, screen: Screen, command: str) -> None:
    """Write comparison.json and report.html, and show the table, if something was measured."""
    comparison = replace(compared.comparison, command=command)
    if compared.failure and not any(side.rounds for side in comparison.sides):
        with suppress(OSError):  # not empty: there are raw timings
            for folder in (*compared.folder.iterdir(), compared.folder):
                folder.rmdir()
        return
    with recorded(compared.folder):
        write_json(compared.folder / _COMPARISON, comparison.as_json())
    page = write_report(compared.folder, render_sides(comparison))
    screen.answer(sides_table(comparison))
    screen.answer(f"\nreport: {page}")
    screen.result({**comparison.as_json(), "folder": str(compared.folder)})


def _check_all(load: LoadTest, name: str, old: Sequence[Side]) -> None:
    """Raise Refused unless all loads are alike."""
    for other in old:
        check_alike(name, load, other.name, other.conditions.load)


def _prepared(
    flags: SideFlags, names: Sequence[str], load: LoadTest, old: Sequence[Side], screen: Screen
) -> tuple[list[Contender], Recipe | None]:
    """Ask each endpoint for its model; return them, and one recipe for all.

    It is that of the least context, so that each has room for the prompts; files are read once.
    Folders are relative. Raises RopewayError.
    """
    found: list[Contender] = []
    key = key_of(flags.key_env)
    urls = [normalise_url(url) for url in flags.urls]
    endpoints = [Endpoint(url, key, flags.key_env, flags.timeout) for url in urls]
    models = [asyncio.run(served_model(endpoint, flags.model)) for endpoint in endpoints]
    if not models:
        return found, None
    least = min(range(len(models)), key=lambda at: models[at].context or math.inf)
    _, recipe = asyncio.run(prepare(endpoints[least], models[least].name, load))
    for number, (name, endpoint, served) in enumerate(
        zip(names, endpoints, models, strict=True), start=1
    ):
        if number - 1 != least:
            asyncio.run(prepare(endpoint, served.name, load, recipe=recipe))
        tell_rehearsal([served], endpoint, screen)
        lots = lots_at(endpoint.url, load, old) if old else lots_of(flags.rounds, urls)
        conditions = Conditions(
            load=load.with_recipe(recipe, lots),
            url=endpoint.url,
            model=served.name,
            label="rehearsal" if served.rehearsed else MEASURED,
        )
        short = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40]
        found.append(Contender(name, endpoint, conditions, Path(f"{number}-{short}")))
    return found, recipe


def _once_each(
    contenders: Sequence[Contender],
    recipe: Recipe | None,
    flags: SideFlags,
    screen: Screen,
    stopped: Callable[[], bool],
) -> tuple[list[Side], Ended, RopewayError | None]:
    """Measure each endpoint once, as the recorded runs were, and cut that into rounds as theirs."""
    sides: list[Side] = []
    for one in contenders:
        assert recipe is not None
        try:
            with screen.step(one.name) as step:
                measured = measure(
                    one.endpoint,
                    one.conditions,
                    recipe,
                    one.folder,
                    Means(flags.processes),
                    on_progress=lambda progress: step.tick(str(progress)),
                    stopped=stopped,
                )
                if measured.failure:
                    raise measured.failure
        except RopewayError as error:
            return sides, "failed", error
        sides.append(side_of_run(one.name, one.folder, flags.rounds, recorded=False))
        if measured.ended == "interrupted":
            return sides, "interrupted", None
    return sides, "complete", None


def _sides(turns: Turns) -> tuple[Side, ...]:
    return tuple(
        Side(one.name, one.conditions, tuple(each[at] for each in turns.rounds), str(one.folder))
        for at, one in enumerate(turns.contenders)
    )

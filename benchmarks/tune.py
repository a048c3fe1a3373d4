"""`tune` against every setting there is, on the local cluster with the real engine.

First the search, as `ropeway tune` makes it; then a trial of every setting of the grid that its
steps span, with the same rounds; then the search's choice and the grid's best once more, in turns,
since of many trials the best is partly the luckiest. Needs `ropeway calibrate --local`.

    python benchmarks/tune.py                       # about an hour on two cores
    python benchmarks/tune.py --layouts 2 --rounds 3
"""

import argparse
import os
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from running import NAME, PORT, conditions

from ropeway.bench.load_test import LoadTest
from ropeway.bench.served import Rounds
from ropeway.bench.trials import Trials
from ropeway.bench.tuning import Trial, chosen_of
from ropeway.bench.versus import in_turns
from ropeway.cli.tune_local import Place, Searched, local_place
from ropeway.plan.tuning import VARIED
from ropeway.report.console import Screen
from ropeway.spec.model import Serve, Workload, local_spec
from ropeway.spec.setting import Setting
from ropeway.units import format_seconds

WORK = Workload(clients=16, requests=32, input_tokens=64, output_tokens=32)
MOST_TRIALS, NEAREST = 0.25, 0.98


def main() -> None:
    """Search, measure the grid, and say how near the search came. Exit code 1: not near enough."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layouts", type=int, default=5, help="to begin with")
    parser.add_argument("--rounds", type=int, default=5, help="of a setting, at most")
    parser.add_argument("--sequences", type=int, default=4, help="fewest that are tried")
    parser.add_argument("--tokens", type=int, default=256, help="fewest of a step that are tried")
    parser.add_argument("--again", type=int, default=3, help="turns of the two best")
    flags = parser.parse_args()
    print(conditions(), flush=True)
    spec = local_spec(serve=Serve(port=PORT, context=1024), workload=WORK, name=NAME)
    screen = Screen(quiet=True)
    place = local_place(Searched(spec, (), flags.layouts, VARIED), screen)
    near = partial(_near, place, sequences=flags.sequences, tokens=flags.tokens)
    with tempfile.TemporaryDirectory(prefix="ropeway-tune-") as folder:
        run = partial(_run, place, screen, Path(folder), flags.rounds)
        found = run("search", place.starts, near)
        grid = run("grid", list(_reached(place.starts, near)), lambda _: ())
        chosen, best = chosen_of(found), max(grid, key=lambda one: one.figure)
        assert chosen is not None
        same = next(one for one in grid if one.setting == chosen.setting)
        searched = [one for one in found if not one.confirms]
        print(
            f"search: {len(searched)} trials and {len(found) - len(searched)} to confirm,"
            f" {format_seconds(sum(one.seconds for one in found))}:"
            f" {chosen.setting.words}, {chosen.figure:.1f} tokens/s\n"
            f"grid: {len(grid)} trials, {format_seconds(sum(one.seconds for one in grid))}:"
            f" {best.setting.words}, {best.figure:.1f} tokens/s; there the choice had"
            f" {same.figure:.1f}, {same.figure / best.figure:.3f} of that\n"
            f"the plan's own: {found[0].setting.words}, {found[0].figure:.1f} tokens/s",
            flush=True,
        )
        share = same.figure / best.figure
        if best.setting != chosen.setting:
            share = _again(run, chosen.setting, best.setting, flags.again)
    right = share >= NEAREST and len(searched) <= MOST_TRIALS * len(grid)
    print(f"{share:.3f} of the best, {len(searched) / len(grid):.2f} of the trials")
    raise SystemExit(0 if right else 1)


def _near(place: Place, setting: Setting, sequences: int, tokens: int) -> Iterator[Setting]:
    for one in place.steps(setting):
        if (one.max_sequences or sequences) >= sequences and (
            one.batched_tokens or tokens
        ) >= tokens:
            yield one


def _reached(starts: Sequence[Setting], near: "partial[Iterator[Setting]]") -> Iterator[Setting]:
    """Yield every setting that steps lead to."""
    waiting, seen = list(starts), set(starts)
    while waiting:
        setting = waiting.pop(0)
        yield setting
        for one in near(setting):
            if one not in seen:
                seen.add(one)
                waiting.append(one)


def _run(
    place: Place, screen: Screen, folder: Path, rounds: int, name: str, starts, steps
) -> list[Trial]:  # type: ignore[no-untyped-def]
    own = folder / name
    own.mkdir()
    sent = Rounds(LoadTest(**WORK.model_dump()), place.engine, place.hardware, screen, rounds)
    trials = Trials(sent, own, confirm=name == "search")
    trials.run(starts, steps, place.serve)
    for one in trials.measured:
        figures = " ".join(f"{figure:.1f}" for figure in one.figures)
        start = "–" if one.start_s is None else f"{one.start_s:.0f} s"
        print(
            f"  {name}{' again' * one.confirms} | {one.setting.words} | {one.figure:.1f}"
            f" | {figures}"
            f" | {start} | {one.error or ''} | load {os.getloadavg()[0]:.1f}",
            flush=True,
        )
    return trials.measured


def _again(run, chosen: Setting, best: Setting, turns: int) -> float:  # type: ignore[no-untyped-def]
    """Measure the two in turns, and return how much of the best's figure the choice has."""
    figures: dict[Setting, list[float]] = {chosen: [], best: []}
    for turn in range(turns):
        order = (chosen, best) if turn % 2 == 0 else (best, chosen)
        for trial in run(f"turn {turn + 1}", list(order), lambda _: ()):
            figures[trial.setting].append(trial.figure)
    interval = in_turns(figures[best], figures[chosen], 0.9)
    print(f"in {turns} turns: {interval.ratio:.3f} ({interval.low:.3f} to {interval.high:.3f})")
    return interval.ratio


if __name__ == "__main__":
    main()

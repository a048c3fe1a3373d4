"""The search of `tune` on landscapes whose best setting is known, with noise on every round."""

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import product
from statistics import fmean

import pytest

from ropeway.bench.goals import Goals
from ropeway.bench.rounds import Round
from ropeway.bench.tuning import (
    Trial,
    best_of,
    chosen_of,
    figure_of,
    is_enough,
    next_trial,
    not_told_apart,
    scatter_of,
)
from ropeway.spec.model import Layout
from ropeway.spec.setting import Setting

LAYOUTS = tuple(map(Layout.parse, ("TP2", "DP2", "TP2×PP2+EP", "TP4", "PP2")))
SEQUENCES = (4, 8, 16, 32)
BATCHED = (256, 512, 1024)


def steps(setting: Setting) -> Iterator[Setting]:
    for name, ladder in (("max_sequences", SEQUENCES), ("batched_tokens", BATCHED)):
        at = ladder.index(getattr(setting, name))
        for other in (at + 1, at - 1):
            if 0 <= other < len(ladder):
                yield replace(setting, **{name: ladder[other]})


@dataclass
class Landscape:
    """A hill over sequences and tokens of a step, as high as the layout makes it."""

    seed: int
    noise: float = 0.005
    draw: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.draw = random.Random(self.seed)
        self.heights = {layout: self.draw.uniform(100, 200) for layout in LAYOUTS}
        self.top = self.draw.choice(SEQUENCES), self.draw.choice(BATCHED)

    def truth(self, setting: Setting) -> float:
        away = (
            math.log2((setting.max_sequences or 1) / self.top[0]) ** 2
            + math.log2((setting.batched_tokens or 1) / self.top[1]) ** 2
        )
        return self.heights[setting.layout] * (1 - 0.04 * away)

    def round(self, setting: Setting) -> float:
        return self.truth(setting) * self.draw.gauss(1, self.noise)


GRID = [
    Setting(layout=layout, max_sequences=sequences, batched_tokens=tokens)
    for layout, sequences, tokens in product(LAYOUTS, SEQUENCES, BATCHED)
]
STARTS = [Setting(layout=layout, max_sequences=16, batched_tokens=1024) for layout in LAYOUTS]


def search(figure: Callable[[Setting], float], trials: list[Trial], most: int = 3) -> list[Trial]:
    while (following := next_trial(STARTS, steps, trials)) is not None:
        figures: list[float] = []
        best = None if following.confirms else best_of(trials)
        scatter = scatter_of(trials)
        while not is_enough(figures, best, scatter, most):
            figures.append(figure(following.setting))
        trials.append(Trial(**following._asdict(), figures=tuple(figures)))
    return trials


@pytest.mark.parametrize("seed", range(50))
def test_the_best_of_the_grid_is_found_in_a_quarter_of_its_trials(seed: int) -> None:
    land = Landscape(seed)
    trials = search(land.round, [])
    found = chosen_of(trials)
    assert found is not None
    assert land.truth(found.setting) >= 0.98 * max(map(land.truth, GRID))
    assert land.truth(found.setting) >= 0.98 * land.truth(STARTS[0])
    searched = [trial.setting for trial in trials if not trial.confirms]
    assert len(searched) <= len(GRID) / 4
    assert len(set(searched)) == len(searched)
    assert len(trials) - len(searched) == (0 if best_of(trials).setting == STARTS[0] else 2)


def test_a_search_that_was_interrupted_goes_on_as_if_it_had_not_been() -> None:
    land = Landscape(1, noise=0)
    whole = search(land.truth, [])
    for cut in range(len(whole)):
        assert search(land.truth, whole[:cut]) == whole


def test_what_fails_is_tried_once_and_never_chosen() -> None:
    land = Landscape(2)
    broken = STARTS[2].layout

    def figure(setting: Setting) -> float:
        return 0.0 if setting.layout == broken else land.round(setting)

    trials = search(figure, [])
    found = best_of(trials)
    assert found is not None and found.setting.layout != broken
    assert [trial.setting for trial in trials].count(STARTS[2]) == 1
    assert trials[2].figures == (0.0,), "one round with failures is enough"
    refused = [Trial(setting=one, error="no room") for one in STARTS]
    assert best_of(refused) is None and next_trial(STARTS, steps, refused) is None


def test_what_is_certain_to_be_worse_is_left_and_what_is_close_gets_all() -> None:
    best = Trial(setting=STARTS[0], figures=(100.0, 101.0, 99.0, 100.0))
    assert not is_enough([], best, 0.01, 5)
    assert is_enough([80.0], best, 0.01, 5)
    assert not is_enough([80.0], best, 0.1, 5), "rounds that scatter by a tenth do not tell"
    assert not is_enough([96.0], best, 0.001, 5), "nor does one round alone, of 5 %"
    assert is_enough([96.0, 96.1, 95.9], best, 0.001, 5)
    assert not is_enough([96.0, 96.1, 95.9], best, 0.03, 5)
    assert is_enough([96.0, 99.0, 98.0, 97.0, 95.0], best, 0.03, 5), "it had all"
    assert not is_enough([1.0], None, 0.01, 2), "there is no best yet"
    assert is_enough([1.0, 1.0], None, 0.01, 2)
    assert is_enough([100.0, 0.0], best, 0.01, 5), "a request failed"


def test_how_far_rounds_scatter_is_told_by_all_trials_together() -> None:
    draw = random.Random(5)
    trials = [
        Trial(setting=one, figures=tuple(level * draw.lognormvariate(0, 0.1) for _ in range(5)))
        for one, level in zip(STARTS * 20, range(100, 200), strict=True)
    ]
    assert scatter_of(trials) == pytest.approx(0.1, rel=0.1)
    assert scatter_of([]) == scatter_of([Trial(setting=STARTS[0], figures=(100.0,))]) == 0


@pytest.mark.parametrize(("noise", "share"), [(0.01, 0.97), (0.05, 0.93), (0.1, 0.88)])
def test_the_more_rounds_scatter_the_further_off_a_search_may_be(
    noise: float, share: float
) -> None:
    found = []
    for seed in range(40):
        land = Landscape(seed, noise)
        trial = chosen_of(search(land.round, [], most=5))
        assert trial is not None
        found.append(land.truth(trial.setting) / max(map(land.truth, GRID)))
    assert sorted(found)[4] >= share, "nine of ten"


def test_where_no_setting_meets_the_goals_the_search_goes_on_to_those_that_do() -> None:
    def figure(setting: Setting) -> float:
        return 5.0 if setting.max_sequences == 4 else -(setting.max_sequences or 0) / 100

    trials = search(figure, [])
    found = chosen_of(trials)
    assert found is not None and found.setting.max_sequences == 4
    never = search(lambda setting: -(setting.max_sequences or 0) / 100, [])
    assert chosen_of(never) is None and not any(trial.confirms for trial in never)


def test_a_round_counts_what_met_the_goals_or_how_near_it_came() -> None:
    plain = Round(
        output_tokens_per_s=90.0, requests_per_s=3.0, ttft_s=1.0, tpot_s=0.1, e2e_s=4.0,
        input_tokens=8.0, output_tokens=30.0, goodput_per_s=2.0,
    )  # fmt: skip
    goals = Goals(ttft_s=2.0, tpot_s=0.05)
    assert figure_of(plain, None) == 90.0
    assert figure_of(plain, goals) == 2.0
    missed = replace(plain, goodput_per_s=0.0)
    assert figure_of(missed, goals) == -0.5, "a token takes twice as long as it may"
    assert -1 <= figure_of(replace(missed, ttft_s=None, tpot_s=None), goals) < -0.5
    assert -0.1 < figure_of(replace(missed, ttft_s=0.1, tpot_s=0.01), goals) < 0
    assert figure_of(replace(plain, failed=1), goals) == 0.0


def test_of_settings_alike_the_earlier_one_is_chosen() -> None:
    def trial(setting: Setting, *figures: float) -> Trial:
        return Trial(setting=setting, figures=figures)

    first, second, third = STARTS[:3]
    alike = [trial(first, 100, 101, 99), trial(second, 100, 101, 99.5), trial(third, 90)]
    found = best_of(alike)
    assert found == alike[0]
    assert not_told_apart(alike, found) == (alike[1],)
    told = [trial(first, 100, 100.1, 99.9), trial(second, 130, 130.1, 129.9)]
    found = best_of(told)
    assert found == told[1] and not_told_apart(told, found) == ()


def test_the_mean_is_the_one_of_the_verdict() -> None:
    steady = Trial(setting=STARTS[0], figures=(91.0,) * 5)
    wild = Trial(setting=STARTS[1], figures=(40.0, 118.6, 119.1, 75.0, 119.6))
    assert fmean(wild.figures) > 94 and best_of([steady, wild]) == steady


def test_the_noise_of_a_flat_landscape_is_not_climbed() -> None:
    draw = random.Random(3)
    counts = [len(search(lambda _: draw.gauss(100, 0.3), [])) for _ in range(20)]
    assert fmean(counts) < 12


def none(_: Setting) -> tuple[Setting, ...]:
    return ()


def test_a_gain_that_is_gone_the_second_time_is_none() -> None:
    first, lucky = STARTS[:2]
    trials = [Trial(setting=first, figures=(100, 101, 99))]
    trials += [Trial(setting=lucky, figures=(104, 105, 103))]
    trials += [Trial(setting=one, figures=(50.0,)) for one in STARTS[2:]]
    assert chosen_of(trials) == trials[1]
    again = [
        Trial(setting=first, confirms=True, figures=(100, 101, 99)),
        Trial(setting=lucky, confirms=True, figures=(100, 101, 99.5)),
    ]
    assert next_trial(STARTS, none, trials) == (first, True)
    assert next_trial(STARTS, none, [*trials, again[0]]) == (lucky, True)
    assert next_trial(STARTS, none, [*trials, *again]) is None
    assert chosen_of([*trials, *again]) == again[0]
    better = replace(again[1], figures=(103, 104, 103.5))
    assert chosen_of([*trials, again[0], better]) == better
    failed = replace(again[1], figures=(104.0, 0.0))
    assert chosen_of([*trials, again[0], failed]) == again[0]
    neither = replace(again[0], figures=(0.0,))
    assert chosen_of([*trials, neither, failed]) == trials[2], "the best that has not failed"
    assert chosen_of([*trials, neither, again[1]]) == again[1]


def test_the_best_is_confirmed_alone_where_the_first_could_not_be_measured() -> None:
    trials = [Trial(setting=STARTS[0], error="died")]
    trials += [Trial(setting=one, figures=(100.0, 101.0, 99.0)) for one in STARTS[1:]]
    assert next_trial(STARTS, none, trials) == (STARTS[1], True)
    second = Trial(setting=STARTS[1], confirms=True, figures=(98.0, 99.0, 97.0))
    assert next_trial(STARTS, none, [*trials, second]) is None
    assert chosen_of([*trials, second]) == second
    assert next_trial(STARTS, none, trials, confirm=False) is None

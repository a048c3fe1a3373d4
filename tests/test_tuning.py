"""The search of `tune` on landscapes whose best setting is known, with noise on every round."""

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import product
from statistics import fmean

import pytest

from ropeway.bench.tuning import (
    Trial,
    best_of,
    chosen_of,
    confirmed,
    is_enough,
    next_trial,
    not_told_apart,
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
        while not is_enough(figures, best.figure if best else 0.0, most):
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


def test_what_is_far_behind_is_left_after_one_round_and_what_is_close_gets_all() -> None:
    assert not is_enough([], 100.0, 5)
    assert is_enough([80.0], 100.0, 5)
    assert not is_enough([95.0], 100.0, 5)
    assert not is_enough([95.0, 95.1], 100.0, 5)
    assert is_enough([95.0, 95.1, 95.2], 100.0, 5), "the interval lies below the best"
    assert not is_enough([95.0, 105.0, 98.0], 100.0, 5)
    assert is_enough([95.0, 105.0, 98.0, 99.0, 104.0], 100.0, 5)
    assert not is_enough([1.0], 0.0, 2), "there is no best yet"
    assert is_enough([1.0, 1.0], 0.0, 2)


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
    assert confirmed(trials) is None and chosen_of(trials) == trials[1]
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

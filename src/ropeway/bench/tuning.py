"""The search of `tune`: which setting is measured next, for how long, and which is the best.

The planner's best settings come first, in its order. Then the best of all that were measured is
varied, by one step of one value, until no step makes it better. To start an engine takes longer
than a round of the load, so a setting is not started twice for that: while it is up it gets one
round after another, until it is certain to be worse than the best, or all rounds are taken.

The best of many trials is partly the luckiest. So the search ends with two more trials, of its best
and of what it began with: how much was gained is told from these, which nobody has chosen.

All of it follows from the trials alone, so a search that was interrupted goes on as if it had not
been. Figures are the more the better.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from statistics import fmean
from typing import Any, NamedTuple

import msgspec

from ropeway.bench.load_test import LoadTest
from ropeway.bench.rounds import Round
from ropeway.bench.versus import (
    FEWEST_ROUNDS,
    LEAST_APART,
    LEVEL,
    apart,
    interval_of_mean,
    judge,
    shared_level,
)
from ropeway.errors import Refused
from ropeway.phrases import phrase
from ropeway.spec.setting import Setting

GAIN = 0.01
"""What gains less than this share is not called better: it may be noise."""
# A setting so far below the best is left after its first round.
_HOPELESS = 0.9
# Of the interval that shows a setting to be worse. To err costs one good setting of many.
_LEAVING = 0.9


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A setting that was brought up and measured, or that could not be.

    confirms  whether it was measured for a second time, at the end of the search
    figures  of its rounds: output tokens/s, or with goals requests/s that met them; a round in
             which a request failed has 0
    error    why it was not measured, or not to the end
    start_s  from the first command to the first token; None: it did not start
    seconds  that it took in all, of the first command to the end of all processes
    rounds   those that were measured
    answer   to the question that everyone can judge
    folder   with logs and raw timings
    """

    setting: Setting
    confirms: bool = False
    figures: tuple[float, ...] = ()
    error: str | None = None
    start_s: float | None = None
    seconds: float = 0.0
    rounds: tuple[Round, ...] = ()
    answer: str | None = None
    folder: str | None = None

    @property
    def figure(self) -> float:
        """The mean of its rounds; 0 where it cannot be used."""
        usable = self.figures and self.error is None and min(self.figures) > 0
        return fmean(self.figures) if usable else 0.0

    @property
    def interval(self) -> tuple[float, float] | None:
        """Between what the mean lies, with 95 %; None: too few rounds for that."""
        if len(self.figures) < FEWEST_ROUNDS or not self.figure:
            return None
        return interval_of_mean(self.figures, 0.95)

    def as_json(self) -> dict[str, object]:
        """Return plain data for a JSON file or `--json`."""
        rest = {one.name: getattr(self, one.name) for one in fields(self)}
        rounds = [asdict(one) for one in self.rounds]
        return {**rest, "setting": self.setting.as_json(), "rounds": rounds}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Trial":
        """Return the trial of `as_json`. Raises KeyError, TypeError, ValueError or Refused."""
        rounds = msgspec.convert(data["rounds"], tuple[Round, ...])
        setting = Setting.from_json(data["setting"])
        figures = tuple(map(float, data["figures"]))
        return cls(**{**data, "setting": setting, "rounds": rounds, "figures": figures})


def check_tells_apart(load: LoadTest) -> None:
    """Raise Refused where every setting that keeps up would have the same figure."""
    if load.rate is not None and load.goals is None:
        raise Refused(
            phrase("at a rate of requests every setting that keeps up has the same throughput"),
            hint=phrase("name goals with `--slo`, or leave `--rate` out"),
        )


class Next(NamedTuple):
    """What is to be measured; `confirms`: for a second time."""

    setting: Setting
    confirms: bool = False


def next_trial(
    starts: Sequence[Setting],
    steps: Callable[[Setting], Iterable[Setting]],
    trials: Sequence[Trial],
    *,
    confirm: bool = True,
) -> Next | None:
    """Return what is measured next; None when the search has come to its end.

    steps    returns those that are one step away from a setting, the most promising first
    confirm  whether the search ends with second trials
    """
    tried = {trial.setting for trial in trials}
    best = best_of(trials)
    around = steps(best.setting) if best and tried >= set(starts) else starts
    if fresh := next((one for one in around if one not in tried), None):
        return Next(fresh)
    if not confirm or best is None or best.setting == starts[0] or not trials[0].figure:
        return None
    again = {trial.setting for trial in trials if trial.confirms}
    pair = (starts[0], best.setting)
    return next((Next(one, confirms=True) for one in pair if one not in again), None)


def is_enough(figures: Sequence[float], best: float, most: int) -> bool:
    """Return whether a setting has been measured enough: it is worse than the best, or has `most`.

    best  the best trial's figure so far; 0: there is none
    """
    if len(figures) >= most or min(figures, default=1.0) <= 0:
        return True
    if not figures:
        return False
    if fmean(figures) < _HOPELESS * best:
        return True
    return len(figures) >= FEWEST_ROUNDS and interval_of_mean(figures, _LEAVING)[1] < best


def best_of(trials: Iterable[Trial]) -> Trial | None:
    """Return the best trial of a search, of those that do not confirm it; None where all failed.

    Of those alike it is the earliest.
    """
    best: Trial | None = None
    for trial in trials:
        if not trial.confirms and trial.figure > (best.figure * (1 + GAIN) if best else 0.0):
            best = trial
    return best


def confirmed(trials: Sequence[Trial]) -> tuple[Trial, Trial] | None:
    """Return the second trials of what the search began with and of its best.

    None where one of them is not there, or cannot be used.
    """
    best = best_of(trials)
    again = {trial.setting: trial for trial in trials if trial.confirms and trial.figure}
    if best is None or best.setting not in again or trials[0].setting not in again:
        return None
    return again[trials[0].setting], again[best.setting]


def chosen_of(trials: Sequence[Trial]) -> Trial | None:
    """Return the trial of the setting to be taken: the best, unless it was not so a second time."""
    if pair := confirmed(trials):
        first, best = pair
        return best if best.figure > first.figure * (1 + GAIN) else first
    return best_of(trials)


def not_told_apart(trials: Sequence[Trial], best: Trial) -> tuple[Trial, ...]:
    """Return the other trials of which the rounds do not tell that they are slower than the best.

    Those that were left after one round are not among them: they were far behind.
    """
    others = [one for one in trials if one.setting != best.setting and one.figure]
    others = [one for one in others if not one.confirms]
    measured = [one for one in others if min(len(one.figures), len(best.figures)) > 1]
    level = shared_level(LEVEL, len(measured))
    return tuple(
        one
        for one in measured
        if judge(apart(best.figures, one.figures, level, LEAST_APART), LEAST_APART) != "slower"
    )

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

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from statistics import fmean
from typing import Any, NamedTuple

import msgspec

from ropeway.bench.goals import Goals
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
from ropeway.spec.model import Layout
from ropeway.spec.setting import Setting

GAIN = 0.01
"""What gains less than this share is not called better: it may be noise."""
# A setting is left early where it is below the best by so many times the error of the difference,
# and by no less than these shares, since that error is estimated from few rounds.
_ERRORS = 3.0
_LEAST_BELOW_EARLY, _LEAST_BELOW = 0.05, 0.01


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A setting that was brought up and measured, or that could not be.

    confirms  whether it was measured for a second time, at the end of the search
    figures  of its rounds: output tokens/s, or with goals requests/s that met them; below 0 where
             none met them, the nearer to them the nearer to 0; 0 where a request failed
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
    def is_usable(self) -> bool:
        """Whether it was measured without failures."""
        return bool(self.figures) and self.error is None and 0 not in self.figures

    @property
    def figure(self) -> float:
        """The mean of its rounds, as `versus` takes it; 0 where it cannot be used."""
        return _mean(self.figures) if self.is_usable else 0.0

    @property
    def interval(self) -> tuple[float, float] | None:
        """Between what the mean lies, with 95 %; None: too few rounds for that."""
        if len(self.figures) < FEWEST_ROUNDS or not self.is_usable or min(self.figures) < 0:
            return None
        return interval_of_mean(self.figures, 0.95)

    def as_json(self) -> dict[str, object]:
        """Return plain data for a JSON file or `--json`."""
        rest = {one.name: getattr(self, one.name) for one in fields(self)}
        rounds = [asdict(one) for one in self.rounds]
        return {**rest, "setting": self.setting.as_json(), "rounds": rounds}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Trial":
        """Return the trial of `as_json`. Raises ValueError or Refused."""
        trial = msgspec.convert(data, cls, dec_hook=_read_layout)
        if not all(map(math.isfinite, (*trial.figures, trial.seconds, trial.start_s or 0.0))):
            raise ValueError(phrase("a figure is not finite"))
        return trial


def _read_layout(_: type, name: object) -> Layout:
    if not isinstance(name, str):
        raise ValueError(phrase("a layout has no name"))
    return Layout.parse(name)


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
    if not confirm or best is None or best.figure < 0 or best.setting == starts[0]:
        return None
    again = {trial.setting for trial in trials if trial.confirms}
    pair = (*([starts[0]] if trials[0].is_usable else []), best.setting)
    return next((Next(one, confirms=True) for one in pair if one not in again), None)


def figure_of(one: Round, goals: Goals | None) -> float:
    """Return what a round counts for: see `Trial.figures`."""
    if one.failed:
        return 0.0
    if goals is None:
        return one.output_tokens_per_s
    if one.goodput_per_s:
        return one.goodput_per_s
    shares = (
        goal / reached
        for name in ("ttft_s", "tpot_s", "e2e_s")
        if (goal := getattr(goals, name)) and (reached := getattr(one, name))
    )
    return min(min(shares, default=0.0), 1 - GAIN) - 1


def is_enough(figures: Sequence[float], best: Trial | None, scatter: float, most: int) -> bool:
    """Return whether a setting has been measured enough: it failed, is worse, or has `most` rounds.

    best     the best trial so far
    scatter  of the rounds of one setting (`scatter_of`)
    """
    if len(figures) >= most or 0 in figures:
        return True
    if not figures or best is None:
        return False
    if min(figures) < 0 or best.figure < 0:
        return _mean(figures) < 0 < best.figure
    error = scatter * math.sqrt(1 / len(figures) + 1 / len(best.figures))
    least = _LEAST_BELOW if len(figures) >= FEWEST_ROUNDS else _LEAST_BELOW_EARLY
    return math.log(best.figure / _mean(figures)) > max(_ERRORS * error, least)


def scatter_of(trials: Iterable[Trial]) -> float:
    """Return how far rounds of one setting scatter: the standard deviation of their logarithms.

    It is pooled over all trials with two rounds or more; without such it is 0.
    """
    squares, freedom = 0.0, 0
    for trial in trials:
        if trial.is_usable and len(trial.figures) > 1 and min(trial.figures) > 0:
            logs = list(map(math.log, trial.figures))
            mean = fmean(logs)
            squares += math.fsum((one - mean) ** 2 for one in logs)
            freedom += len(logs) - 1
    return math.sqrt(squares / freedom) if freedom else 0.0


def best_of(trials: Iterable[Trial]) -> Trial | None:
    """Return the best trial of a search, of those that do not confirm it; None where all failed.

    Of those alike it is the earliest. Where no setting meets the goals, it is the nearest to them.
    """
    best: Trial | None = None
    for trial in trials:
        if trial.is_usable and not trial.confirms and (best is None or _beats(trial, best)):
            best = trial
    return best


def second_trial(trials: Iterable[Trial], setting: Setting) -> Trial | None:
    """Return the trial that confirms a setting; None where there is none."""
    return next((one for one in trials if one.confirms and one.setting == setting), None)


def chosen_of(trials: Sequence[Trial]) -> Trial | None:
    """Return the trial of the setting to be taken; None where there is none without failures that
    meets the goals.

    It is the best, unless it failed or was no better than the first for a second time.
    """
    best = best_of(trials)
    if best is None or best.figure < 0:
        return None
    second, first = second_trial(trials, best.setting), second_trial(trials, trials[0].setting)
    if second is None:
        return best
    if first is not None and not first.is_usable:
        first = None
    if second.is_usable:
        return second if first is None or _beats(second, first) else first
    return first or chosen_of([one for one in trials if one.setting != best.setting])


def not_told_apart(trials: Sequence[Trial], best: Trial) -> tuple[Trial, ...]:
    """Return the other trials of which the rounds do not tell that they are slower than the best.

    Those with one round are not among them: they were far behind.
    """
    others = [one for one in trials if one.setting != best.setting and not one.confirms]
    measured = [
        one
        for one in (*others, best)
        if one.is_usable and len(one.figures) > 1 and min(one.figures) > 0
    ]
    if best not in measured:
        return ()
    level = shared_level(LEVEL, len(measured) - 1)
    return tuple(
        one
        for one in measured
        if one is not best
        and judge(apart(best.figures, one.figures, level, LEAST_APART), LEAST_APART) != "slower"
    )


def _beats(trial: Trial, best: Trial) -> bool:
    if best.figure > 0:
        return trial.figure > best.figure * (1 + GAIN)
    return trial.figure > best.figure + GAIN


def _mean(figures: Sequence[float]) -> float:
    """Return the geometric mean, as `versus` takes it; where some are below 0 the plain one."""
    if min(figures) > 0:
        return math.exp(fmean(map(math.log, figures)))
    return fmean(figures)

"""What a search of `tune` has found: the best of its trials, and how sure that is."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from ropeway import __version__
from ropeway.bench.load_test import Conditions
from ropeway.bench.trials import Ended
from ropeway.bench.tuning import (
    Next,
    Trial,
    best_of,
    chosen_of,
    not_told_apart,
    second_trial,
)
from ropeway.bench.versus import LEAST_APART, LEVEL, Interval, Verdict, apart, judge, said
from ropeway.phrases import Phrase, joined, phrase
from ropeway.spec.setting import Setting
from ropeway.units import format_seconds

_UNCONFIRMED = phrase(
    "this was not measured a second time, and the best of many trials is partly the luckiest"
)


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """A search that has ended.

    conditions  of the first round that was measured
    first       what the search began with: the spec's own setting, or the plan's choice
    following   what would have been tried next; None: the search is complete
    notes       what one must know of the place, to judge the figures
    """

    conditions: Conditions
    first: Setting
    trials: tuple[Trial, ...]
    ended: Ended
    following: Next | None = None
    command: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def best(self) -> Trial | None:
        """The trial of the setting to be taken; None: none could be used."""
        return chosen_of(self.trials)

    @property
    def pair(self) -> tuple[Trial | None, Trial | None]:
        """The trials of what the search began with and of its best, by which they are compared.

        The second ones, where both have been measured for a second time.
        """
        best = best_of(self.trials)
        if best is None:
            return None, None
        again = [second_trial(self.trials, one) for one in (self.first, best.setting)]
        if all(one is not None and one.is_usable for one in again):
            return again[0], again[1]
        first = next((one for one in self.trials if one.setting == self.first), None)
        return first if first and first.is_usable else None, best

    @property
    def unit(self) -> Phrase:
        """What the figures count."""
        goals = self.conditions.load.goals
        if goals is None:
            return phrase("output tokens/s")
        return phrase("requests/s within {goals}", goals=str(goals))

    @property
    def seconds(self) -> float:
        """How long all trials took."""
        return sum(trial.seconds for trial in self.trials)

    @property
    def gain(self) -> tuple[Verdict, Interval] | None:
        """How the search's best compares with the first; None: it is the first, or that is not
        known."""
        first, best = self.pair
        if first is None or best is None or first.setting == best.setting:
            return None
        if min(len(first.figures), len(best.figures)) < 2 or min(*first.figures, *best.figures) < 0:
            return None
        interval = apart(first.figures, best.figures, LEVEL, LEAST_APART)
        return judge(interval, LEAST_APART), interval

    @property
    def alike(self) -> tuple[Trial, ...]:
        """The trials that the search's rounds do not tell from its best."""
        best, gain = best_of(self.trials), self.gain
        slower = self.first if gain and gain[0] == "faster" else None  # by its second trial
        every = not_told_apart(self.trials, best) if best else ()
        return tuple(one for one in every if one.setting != slower)

    @property
    def is_confirmed(self) -> bool:
        """Whether the choice was made by trials that nobody had chosen before."""
        best = self.best
        others = [one for one in self.trials if one.is_usable and best and one is not best]
        return best is not None and (best.confirms or not others)

    @property
    def reason(self) -> Phrase:
        """Why the best was chosen, for a comment in the spec. There must be one."""
        best, load = self.best, self.conditions.load
        assert best is not None
        said = phrase(
            "{figure:.4g} {unit} ({day}; {clients} clients, {input} tokens in, {output} out)",
            figure=best.figure,
            unit=self.unit,
            day=self.conditions.started_at[:10],
            clients=load.clients,
            input=load.input_tokens,
            output=load.output_tokens,
        )
        return joined((said, *self._of_choice(best)))

    @property
    def sentences(self) -> tuple[Phrase, ...]:
        """What was found, the most important first."""
        return tuple(self._sentences())

    def as_json(self) -> dict[str, object]:
        """Return plain data for a JSON file or `--json`."""
        best, gain, conditions = self.best, self.gain, self.conditions
        return {
            "model": conditions.model,
            "engine": conditions.engine,
            "hardware": conditions.hardware,
            "load": asdict(conditions.load),
            "started_at": conditions.started_at,
            "ropeway": __version__,
            "unit": str(self.unit),
            "trials": [trial.as_json() for trial in self.trials],
            "first": self.first.as_json(),
            "best": best and best.setting.as_json(),
            "figure": best and best.figure,
            "interval": best and best.interval,
            "verdict": gain and gain[0],
            "ratio": gain and gain[1].ratio,
            "low": gain and gain[1].low,
            "high": gain and gain[1].high,
            "alike": [trial.setting.as_json() for trial in self.alike],
            "following": self.following and self.following.setting.as_json(),
            "ended": self.ended,
            "seconds": round(self.seconds, 1),
            "command": self.command,
            "notes": list(map(str, (*self.sentences, *self.notes))),
        }

    def _of_choice(self, best: Trial) -> Iterator[Phrase]:
        """Yield what is known of the choice."""
        first, _ = self.pair
        if best.setting == self.first:
            yield phrase("what the search began with: no other was better")
        elif first is None:
            yield phrase("{first} could not be measured", first=self.first.words)
        else:
            yield phrase("{first} had {figure:.4g}", first=self.first.words, figure=first.figure)
        if not self.is_confirmed:
            yield _UNCONFIRMED

    def _sentences(self) -> Iterator[Phrase]:
        best = self.best
        if best is not None:
            yield self._of_best(best)
            yield from self._of_gain()
            yield from self._doubts(best)
        elif any(one.is_usable for one in self.trials):
            yield phrase("no setting that was tried meets the goals; the nearest has the first row")
        else:
            yield phrase("no setting could be measured without failures")
        starts = [one.start_s for one in self.trials if one.start_s is not None]
        if starts:
            yield phrase(
                "it took {all}: {trials} trials, of which starts {starts}, and rounds of the load"
                " {rounds}",
                all=format_seconds(self.seconds),
                trials=len(self.trials),
                starts=format_seconds(sum(starts)),
                rounds=sum(len(one.figures) for one in self.trials),
            )
        if self.following is not None:
            yield phrase(
                "the search is not at its end; next it would have tried {setting}",
                setting=self.following.setting.words,
            )

    def _of_gain(self) -> Iterator[Phrase]:
        searched = best_of(self.trials)
        assert searched is not None
        if self.gain is not None:
            yield said(*self.gain, self.first.words, searched.setting.words)
        second = second_trial(self.trials, searched.setting)
        if second is not None and not second.is_usable:
            yield phrase(
                "{setting}, the best of the search, failed for a second time: {why}",
                setting=searched.setting.words,
                why=second.error or phrase("requests failed"),
            )
        if not self.is_confirmed:
            yield _UNCONFIRMED
        if self.alike:
            others = joined((one.setting.words for one in self.alike), " | ")
            yield phrase(
                "not told apart from {best} in the search: {others}",
                best=searched.setting.words,
                others=others,
            )

    def _doubts(self, best: Trial) -> Iterator[Phrase]:
        """Yield why the figures of the choice may be wrong, or its answers."""
        first, _ = self.pair
        for one in dict.fromkeys(filter(None, (first, best))):
            if doubted := [part for part in one.rounds if part.doubts]:
                yield phrase(
                    "{count} of {rounds} rounds of {name} are in doubt; in the first of them {why}",
                    count=len(doubted),
                    rounds=len(one.rounds),
                    name=one.setting.words,
                    why=doubted[0].doubts[0],
                )
        if first and first.answer and best.answer and first.answer != best.answer:
            yield phrase(
                "asked the same, {setting} answered “{ours}” and {first} “{theirs}”: see whether"
                " both are right",
                setting=best.setting.words,
                ours=best.answer,
                first=first.setting.words,
                theirs=first.answer,
            )

    def _of_best(self, best: Trial) -> Phrase:
        values = {"setting": best.setting.words, "figure": best.figure, "unit": self.unit}
        if best.interval is None or not self.is_confirmed:
            return phrase("the best: {setting}: {figure:.4g} {unit}", **values)
        low, high = best.interval
        return phrase(
            "the best: {setting}: {figure:.4g} {unit} ({low:.4g} to {high:.4g})",
            low=low,
            high=high,
            **values,
        )

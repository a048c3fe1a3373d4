"""What a search of `tune` has found: the best of its trials, and how sure that is."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from ropeway import __version__
from ropeway.bench.load_test import Conditions
from ropeway.bench.trials import Ended
from ropeway.bench.tuning import Next, Trial, best_of, chosen_of, confirmed, not_told_apart
from ropeway.bench.versus import LEAST_APART, LEVEL, Interval, Verdict, apart, judge, said
from ropeway.phrases import Phrase, joined, phrase
from ropeway.spec.setting import Setting
from ropeway.units import format_seconds


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
        pair, best = confirmed(self.trials), best_of(self.trials)
        first, best = pair or (self.trials[0] if self.trials else None, best)
        if not first or not best or first.setting == best.setting or not first.figure:
            return None
        if min(len(first.figures), len(best.figures)) < 2:
            return None
        interval = apart(first.figures, best.figures, LEVEL, LEAST_APART)
        return judge(interval, LEAST_APART), interval

    @property
    def alike(self) -> tuple[Trial, ...]:
        """The trials of which it is not known that they are slower than the search's best."""
        best = best_of(self.trials)
        return not_told_apart(self.trials, best) if best else ()

    @property
    def reason(self) -> Phrase:
        """Why the best was chosen, for a comment in the spec. There must be one."""
        best, load = self.best, self.conditions.load
        assert best is not None
        return phrase(
            "{figure:.4g} {unit}, the best of {trials} trials ({day}; {clients} clients, {input}"
            " tokens in, {output} out); {first} had {before:.4g}",
            figure=best.figure,
            unit=self.unit,
            trials=len(self.trials),
            day=self.conditions.started_at[:10],
            clients=load.clients,
            input=load.input_tokens,
            output=load.output_tokens,
            first=self.first.words,
            before=(confirmed(self.trials) or self.trials)[0].figure,
        )

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

    def _sentences(self) -> Iterator[Phrase]:
        best = self.best
        if best is None:
            yield phrase("no setting could be measured without failures")
        else:
            yield self._of_best(best)
            yield from self._of_gain()
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
            if not confirmed(self.trials):
                yield phrase(
                    "this was not measured a second time, and the best of many trials is partly the"
                    " luckiest"
                )
        if self.alike:
            others = joined((one.setting.words for one in self.alike), " | ")
            yield phrase(
                "not told apart from {best} in the search: {others}",
                best=searched.setting.words,
                others=others,
            )

    def _of_best(self, best: Trial) -> Phrase:
        values = {"setting": best.setting.words, "figure": best.figure, "unit": self.unit}
        if best.interval is None:
            return phrase("the best: {setting}: {figure:.4g} {unit}", **values)
        low, high = best.interval
        return phrase(
            "the best: {setting}: {figure:.4g} {unit} ({low:.4g} to {high:.4g})",
            low=low,
            high=high,
            **values,
        )

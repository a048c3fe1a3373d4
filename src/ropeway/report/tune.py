"""The trials of `tune` as one table, and what they say."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ropeway.bench.tuned import Tuned
from ropeway.bench.tuning import Trial
from ropeway.phrases import phrase
from ropeway.report.bench import load_words
from ropeway.report.chinese import in_language
from ropeway.report.figures import NONE, rate, seconds
from ropeway.report.line import one_line
from ropeway.report.table import ByWidth, prose, table

_TITLES = ("setting", "tokens/s", "interval", "rounds", "start", "why not")
_OF_GOALS = "requests/s within goals"
_TEXTS = ("setting", "why not")  # the others are figures


def tune_table(tuned: Tuned, language: str = "en") -> RenderableType:
    """Return the trials, the best first, and below them the findings."""
    conditions = tuned.conditions
    sent = in_language(load_words(conditions.load), language)
    return Group(
        Text.assemble((one_line(conditions.model), "bold"), f" · {one_line(conditions.engine)}"),
        prose(f"{one_line(in_language(conditions.hardware, language))} · {sent}", "dim"),
        Text(),
        ByWidth(lambda wide: _trials(tuned, language, wide=wide)),
        Text(),
        *(prose(in_language(sentence, language)) for sentence in (*tuned.sentences, *tuned.notes)),
    )


def _trials(tuned: Tuned, language: str, *, wide: bool) -> Table:
    goals, best = tuned.conditions.load.goals is not None, tuned.best
    titles = list(_TITLES)
    if goals:
        titles[1] = _OF_GOALS
    if not wide:
        titles.remove("interval")
    grid = table(*(_title(title, language) for title in titles))
    ranked = sorted(
        tuned.trials, key=lambda one: (one is best, one.is_usable, one.figure), reverse=True
    )
    for trial in ranked:
        cells = _cells(trial, language)
        if not wide:
            del cells[2]
        style = "bold" if trial is best else ""
        grid.add_row(*(Text(cell, style=style) for cell in cells))
    return grid


def _title(title: str, language: str) -> str:
    return ("" if title in _TEXTS else ">") + in_language(title, language)


def _cells(trial: Trial, language: str) -> list[str]:
    interval = trial.interval
    return [
        in_language(_name(trial), language),
        rate(max(0.0, trial.figure)) if trial.is_usable else NONE,
        _between(interval, language) if interval else NONE,
        str(len(trial.figures)),
        seconds(trial.start_s) if trial.start_s is not None else NONE,
        one_line(in_language(_why_not(trial), language)),
    ]


def _name(trial: Trial) -> str:
    if trial.confirms:
        return phrase("{setting}, a second time", setting=trial.setting.words)
    return trial.setting.words


def _between(interval: tuple[float, float], language: str) -> str:
    low, high = map(rate, interval)
    return in_language(phrase("{low} to {high}", low=low, high=high), language)


def _why_not(trial: Trial) -> str:
    if trial.error:
        return trial.error
    if failed := sum(one.failed for one in trial.rounds):
        return phrase("{n:,} requests failed", n=failed)
    return phrase("no request met the goals") if trial.figure < 0 else ""

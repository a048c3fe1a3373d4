"""Endpoints and recorded runs compared: the table for the terminal, and the page."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.text import Text

from ropeway.bench.rounds import Difference, Round
from ropeway.bench.sides import Side, SideComparison
from ropeway.phrases import Phrase, phrase
from ropeway.report.bench import lengths_words, load_words, own_prompts, sending_words
from ropeway.report.compare import when
from ropeway.report.figures import NONE, milliseconds, rate
from ropeway.report.line import one_line
from ropeway.report.page import render_page
from ropeway.report.table import prose, table

FIGURES = {
    "output_tokens_per_s": phrase("output tokens/s"),
    "ttft_s": phrase("time to first token"),
    "tpot_s": phrase("time per output token"),
    "e2e_s": phrase("end to end"),
}
# Half of the axis that intervals are drawn on, at least: a share.
_LEAST_AXIS = 0.02


@dataclass(frozen=True)
class Dots:
    """The rounds of each side in one figure, in percent of an axis that does not begin at 0."""

    figure: Phrase
    begins: str
    ends: str
    rows: tuple[tuple[str, tuple[float, ...]], ...]


@dataclass(frozen=True)
class Span:
    """A difference: where its interval begins and ends, and its middle, in percent of the axis."""

    difference: Difference
    figure: Phrase
    low: float | None
    at: float | None
    high: float | None


def sides_table(comparison: SideComparison) -> RenderableType:
    """All sides with the means of their rounds, the verdicts, and the notes below."""
    grid = table("", ">tokens/s", ">TTFT", ">per token", ">end to end", ">rounds")
    for side in comparison.sides:
        style = "bold" if side.name == comparison.fastest else ""
        grid.add_row(
            Text(one_line(side.name), style=style),
            rate(mean_of(side, "output_tokens_per_s")),
            *(shown(side, figure) for figure in ("ttft_s", "tpot_s", "e2e_s")),
            str(len(side.rounds)),
        )
    lines: list[RenderableType] = []
    for name in comparison.figures:
        of_figure = [one for one in comparison.differences if one.figure == name]
        if of_figure:
            lines += [Text(), Text(FIGURES[name], style="bold")]
        lines += [prose(one_line(one.said), _COLOURS.get(one.verdict, "")) for one in of_figure]
    lines += [Text(), *(prose(one_line(note), "dim") for note in comparison.notes)]
    models = dict.fromkeys(side.conditions.model for side in comparison.sides)
    return Group(
        Text(" · ".join(map(one_line, models)), style="bold"),
        prose(one_line(load_words(comparison.load)), "dim"),
        *own_prompts(comparison.load),
        Text(),
        grid,
        *lines,
    )


_COLOURS = {"faster": "green", "slower": "yellow", "not judged": "red"}


def render_sides(comparison: SideComparison) -> str:
    """Render the page. Strings from outside are escaped."""
    return render_page(
        "sides.html.j2",
        {"rate": rate, "when": when},
        comparison=comparison,
        figures=FIGURES,
        spans=spans(comparison.differences),
        half=half_of(comparison.differences),
        dots=[one for name in comparison.figures if (one := dots(comparison.sides, name))],
        mean_of=mean_of,
        shown=shown,
        load=comparison.load,
        lengths=lengths_words(comparison.load),
        sending=sending_words(comparison.load),
    )


def mean_of(side: Side, figure: str) -> float | None:
    """Return the mean of a figure over the rounds that have it."""
    values = _values(side.rounds, figure)
    return sum(values) / len(values) if values else None


def shown(side: Side, figure: str) -> str:
    """Return the mean of a duration as people read it."""
    mean = mean_of(side, figure)
    return NONE if mean is None else milliseconds(mean * 1000)


def half_of(differences: Sequence[Difference]) -> float:
    """Return where the axis of all intervals ends, on either side of no difference: a share."""
    ends = [abs(end - 1) for one in differences for end in (one.low, one.high) if end is not None]
    return max([_LEAST_AXIS, *ends])


def spans(differences: Sequence[Difference]) -> tuple[Span, ...]:
    """Place all intervals on one axis, whose middle is `no difference`."""
    half = half_of(differences)

    def at(ratio: float | None) -> float | None:
        return None if ratio is None else 50 + (ratio - 1) / half * 50

    return tuple(
        Span(one, FIGURES[one.figure], at(one.low), at(one.ratio), at(one.high))
        for one in differences
    )


def dots(sides: Sequence[Side], figure: str) -> Dots | None:
    """Place the rounds of all sides on one axis; None where no round has the figure."""
    every = [value for side in sides for value in _values(side.rounds, figure)]
    if not every:
        return None
    begin, end = min(every), max(every)
    width = (end - begin) or 1.0
    rows = tuple(
        (
            side.name,
            tuple((value - begin) / width * 100 for value in _values(side.rounds, figure)),
        )
        for side in sides
    )
    label = rate if figure.endswith("per_s") else _duration
    return Dots(FIGURES[figure], label(begin), label(end), rows)


def _values(rounds: Sequence[Round], figure: str) -> list[float]:
    return [value for one in rounds if (value := getattr(one, figure)) is not None]


def _duration(seconds: float | None) -> str:
    return NONE if seconds is None else milliseconds(seconds * 1000)

"""The page of a batch job: what became of its rows, how fast this run was, and what failed."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median

from ropeway.batch.progress import Progress
from ropeway.batch.rows import Outcome
from ropeway.report.batch import sample_words
from ropeway.report.figures import percent, rate
from ropeway.report.page import render_page
from ropeway.units import format_seconds

_MOST_POINTS = 240
_WORDS = {
    Outcome.ANSWERED: ("answered", "已回答"),
    Outcome.CUT: ("cut", "被截断"),
    Outcome.REFUSED: ("refused", "被拒绝"),
    Outcome.FAILED: ("failed", "失败"),
    Outcome.POISON: ("poison", "疑致引擎崩溃"),
    Outcome.SKIPPED: ("skipped", "已跳过"),
}


@dataclass(frozen=True)
class Point:
    """The rates at one moment of a run, per second."""

    elapsed_s: float
    prompt: float
    answer: float


class Timeline:
    """The rates of a run, at moments that lie further apart the longer it lasts."""

    def __init__(self) -> None:
        self.points: list[Point] = []
        self._apart_s = 0.0

    def add(self, progress: Progress) -> None:
        """Note the rates, unless it was done just before."""
        last = self.points[-1].elapsed_s if self.points else -1.0
        if progress.elapsed_s - last < self._apart_s:
            return
        rates = progress.rates
        self.points.append(Point(progress.elapsed_s, rates.prompt, rates.answer))
        if len(self.points) > _MOST_POINTS:
            del self.points[1::2]
            self._apart_s = max(1.0, 2 * self._apart_s)


@dataclass(frozen=True)
class Share:
    """The rows with one outcome; `width` in percent of all."""

    key: str
    english: str
    chinese: str
    rows: int
    share: str
    width: float


@dataclass(frozen=True)
class Conditions:
    """What a page says of its job besides the figures."""

    title: str
    model: str
    output: str
    ended: str
    input_tokens: int
    output_tokens: int
    again: int
    when: datetime
    currency: str = ""


def batch_page(
    progress: Progress, timeline: Sequence[Point], conditions: Conditions, language: str = "en"
) -> str:
    """Return the page. `progress`: the last of the run."""
    most = max((max(point.prompt, point.answer) for point in timeline), default=0.0)
    usual = median(point.answer for point in timeline) if timeline else 0.0
    end_s = max((point.elapsed_s for point in timeline), default=0.0)
    return render_page(
        "batch.html.j2",
        {"rate": rate, "seconds": format_seconds, "percent": percent},
        language=language,
        progress=progress,
        conditions=conditions,
        shares=_shares(progress),
        missing=progress.rows - progress.finished,
        lines={name: _line(timeline, name, end_s, most) for name in ("prompt", "answer") if most},
        most=most,
        end_s=end_s,
        faults=sorted(progress.faults.items(), key=lambda item: -item[1]),
        usual=usual,
        ceiling_share=usual / progress.ceiling if progress.ceiling else None,
        sample=sample_words(progress.sample),
        when=conditions.when.strftime("%Y-%m-%d %H:%M"),
    )


def _shares(progress: Progress) -> list[Share]:
    rows = max(1, progress.rows)
    return [
        Share(
            outcome.name.lower(), *_WORDS[outcome], count, percent(count / rows), 100 * count / rows
        )
        for outcome in Outcome
        if (count := progress.done.get(outcome, 0))
    ]


def _line(timeline: Sequence[Point], name: str, end_s: float, most: float) -> str:
    """Return an SVG polyline's points, x and y from 0 to 100, y down."""
    places = (
        (100 * point.elapsed_s / (end_s or 1.0), 100 - 100 * getattr(point, name) / most)
        for point in timeline
    )
    return " ".join(f"{x:.2f},{y:.2f}" for x, y in places)

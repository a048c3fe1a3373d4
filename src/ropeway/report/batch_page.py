"""The page of a batch job: what became of its rows, how fast this run was, and what failed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from statistics import median

from ropeway.batch.progress import Rates
from ropeway.batch.rows import Outcome
from ropeway.report.batch import ENDINGS, STATES, Account, money_words, next_steps
from ropeway.report.figures import percent, rate
from ropeway.report.page import prose, render_page
from ropeway.units import format_seconds

Timeline = Sequence[tuple[float, Rates]]
"""The rates of a run at some of its moments."""


@dataclass(frozen=True)
class Share:
    """The rows with one outcome; `width` in percent of all."""

    outcome: Outcome
    rows: int
    share: str
    width: float


def batch_page(account: Account, timeline: Timeline, when: datetime, language: str = "en") -> str:
    """Return the page. `when`: the job's end."""
    progress = account.progress
    most = max((max(rates.prompt, rates.answer) for _, rates in timeline), default=0.0)
    usual = median(rates.answer for _, rates in timeline) if timeline else 0.0
    end_s = max((elapsed_s for elapsed_s, _ in timeline), default=0.0)
    return render_page(
        "batch.html.j2",
        {
            "rate": rate,
            "seconds": format_seconds,
            "percent": percent,
            "state": STATES.__getitem__,
            "prose": prose,
        },
        language=language,
        account=account,
        progress=progress,
        ending=ENDINGS.get(account.ended),
        money=None if progress.cost is None else money_words(progress.cost, account.currency),
        away=[one for one in progress.replicas if one.state != "working"],
        steps=list(next_steps(replace(account, command=""))),
        shares=_shares(account),
        missing=account.rows - account.done,
        lines={name: _line(timeline, name, end_s, most) for name in ("prompt", "answer") if most},
        most=most,
        end_s=end_s,
        faults=sorted(progress.faults.items(), key=lambda item: -item[1]),
        usual=usual,
        ceiling_share=usual / progress.ceiling if progress.ceiling else None,
        when=when.strftime("%Y-%m-%d %H:%M"),
    )


def _shares(account: Account) -> list[Share]:
    rows = max(1, account.rows)
    return [
        Share(outcome, count, percent(count / rows), 100 * count / rows)
        for outcome in Outcome
        if (count := account.counts.get(outcome, 0))
    ]


def _line(timeline: Timeline, name: str, end_s: float, most: float) -> str:
    """Return an SVG polyline's points, x and y from 0 to 100, y down."""
    places = (
        (100 * elapsed_s / (end_s or 1.0), 100 - 100 * getattr(rates, name) / most)
        for elapsed_s, rates in timeline
    )
    return " ".join(f"{x:.2f},{y:.2f}" for x, y in places)

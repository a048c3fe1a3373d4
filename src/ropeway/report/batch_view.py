"""A batch job that runs, on the screen."""

import time

from ropeway.batch.progress import Progress, Rates, Series
from ropeway.report.batch import progress_block, progress_line
from ropeway.report.console import Screen
from ropeway.report.progress import Step

LINE_S = 5.0
"""Between two lines of a log that say how far something is."""
_FIRST_BLOCK_S, _BLOCK_S = 10.0, 60.0
_MOST_POINTS = 240


class View:
    """What is shown of a job that runs: a live line, blocks of lines, events, the page's curve."""

    def __init__(self, screen: Screen, currency: str, max_cost: float | None = None) -> None:
        self._screen, self._currency, self._max_cost = screen, currency, max_cost
        self.timeline = Series[Rates](_MOST_POINTS)
        now = time.monotonic()
        self._event_due, self._block_due = now, now + _FIRST_BLOCK_S

    def show(self, progress: Progress, step: Step) -> None:
        """Show a job at one moment."""
        now = time.monotonic()
        self.timeline.add(progress.elapsed_s, progress.rates)
        line = progress_line(progress, self._currency, self._max_cost)
        step.tick(line, log_every_s=0.0 if progress.ending else LINE_S)
        if now >= self._event_due or progress.finished == progress.rows:
            self._event_due = now + LINE_S
            self._screen.event({"event": "progress", **progress.as_json()})
        if now >= self._block_due:
            self._block_due = now + _BLOCK_S
            self._screen.say(line)
            for below in progress_block(progress, time.time(), self._screen.language):
                self._screen.say(below)

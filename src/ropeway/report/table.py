"""Tables for the terminal: no frame, dim titles, and long cells folded, never cut off."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.containers import Lines
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from ropeway.report.line import fill, printable

WIDE = 120


def table(*titles: str, no_wrap: bool = False) -> Table:
    """Return a table without rows. A title that begins with `>` has a right-justified column.

    Without titles, columns are still to be added, and have none.
    """
    empty = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    empty.show_header = bool(titles)
    for title in titles:
        justify = "right" if title.startswith(">") else "left"
        # mypy cannot see that both are literals.
        empty.add_column(title.lstrip(">"), justify=justify, overflow="fold", no_wrap=no_wrap)  # type: ignore[arg-type]
    return empty


def pairs(rows: Iterable[tuple[str, str | Text]], *, least: int | None = None) -> Table:
    """Return a table of names, dim and at least `least` cells wide, and their values."""
    grid = table()
    grid.add_column(style="dim", no_wrap=True, min_width=least)
    grid.add_column(overflow="fold")
    for name, value in rows:
        grid.add_row(name, value)
    return grid


class Prose(Text):
    """Text whose lines also end beside Chinese characters: rich ends them at blanks only, which
    leaves most of a line empty."""

    def wrap(self, console: Console, width: int, **options: Any) -> Lines:
        begins, at = [], 0
        for line in fill(self.plain, width, 0, 0).split("\n"):
            begins.append(self.plain.index(line, at))
            at = begins[-1] + len(line)
        # What is too long for a line is left to rich.
        parts = self.divide(begins[1:])
        return Lines(line for part in parts for line in part.wrap(console, width, **options))


@dataclass(frozen=True)
class ByWidth:
    """A table that shows more where there is room; `draw` is told whether there is."""

    draw: Callable[[bool], RenderableType]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.draw(options.max_width >= WIDE)


@dataclass(frozen=True)
class Printable:
    """What a table or group prints, without terminal control sequences that came from outside."""

    content: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self.content, options):
            yield Segment(printable(segment.text), segment.style, segment.control)

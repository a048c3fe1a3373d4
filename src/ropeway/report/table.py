"""Tables for the terminal: no frame, dim titles, and long cells folded, never cut off."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from ropeway.report.line import fill, printable

WIDE = 120
_WIDEST = 24  # cells of a column before prose
GAP = 2  # cells between columns


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


def pairs(rows: Iterable[tuple[str, str | Text]], *, least: int | None = None) -> "Rows":
    """Return a table of names, dim and at least `least` cells wide, and their values."""
    return Rows([(Text(name, style="dim"), value) for name, value in rows], least=least or 0)


def prose(text: str | Text, style: str = "") -> "Rows":
    """Return text whose lines end between words, or Chinese characters."""
    return Rows([(Text(text, style=style) if isinstance(text, str) else text,)])


@dataclass(frozen=True)
class Rows:
    """Rows of short cells and, behind them, prose whose lines end between words, or Chinese
    characters.

    A word that is too long for a line, such as a link, stays whole, so that it can be copied. Prose
    behind a cell that is too long for its column begins on a line of its own.

    indent  cells before each line
    least   cells of the first column, at least
    """

    rows: Sequence[tuple[str | Text, ...]]
    indent: int = 0
    least: int = 0

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        rows = [[_text(cell) for cell in row] for row in self.rows]
        columns = zip(*(row[:-1] for row in rows), strict=True)
        widths = [min(_WIDEST, max(cell.cell_len for cell in column)) for column in columns]
        if widths:
            widths[0] = max(self.least, widths[0])
        begin = self.indent + sum(width + GAP for width in widths)
        begin = min(begin, options.max_width // 2)
        for *cells, prose in rows:
            head = Text(" " * self.indent)
            for cell, width in zip(cells, widths, strict=True):
                head += cell + Text(" " * (max(0, width - cell.cell_len) + GAP))
            first, *rest = _wrapped(prose, options.max_width - begin)
            lines = [head, first] if head.cell_len > begin else [head + first]
            lines[1:] = [Text(" " * begin) + line for line in (*lines[1:], *rest)]
            for line in lines:
                line.no_wrap, line.overflow = True, "ignore"
                yield line


def _text(cell: str | Text) -> Text:
    return Text(cell) if isinstance(cell, str) else cell


def _wrapped(text: Text, width: int) -> list[Text]:
    """Return the lines of a text: rich would end them at blanks only, and cut long words."""
    begins, at = [], 0
    for line in fill(text.plain, width, 0, 0).split("\n"):
        begins.append(text.plain.index(line, at))
        at = begins[-1] + len(line)
    lines = [*text.divide(begins[1:])]
    for one in lines:
        one.rstrip()
    return lines


@dataclass(frozen=True)
class ByWidth:
    """A table that shows more where there is room; `draw` is told whether there is."""

    draw: Callable[[bool], RenderableType]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.draw(options.max_width >= WIDE)


@dataclass(frozen=True)
class Printable:
    """What a table or group prints, without terminal control sequences that came from outside, and
    without blanks at the ends of lines."""

    content: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in Segment.split_lines(console.render(self.content, options)):
            while line and not line[-1].text.strip(" "):
                line.pop()
            for segment in line[:-1]:
                yield Segment(printable(segment.text), segment.style)
            if line:
                yield Segment(printable(line[-1].text.rstrip(" ")), line[-1].style)
            yield Segment.line()

"""The page of doctor's findings, in both languages, with the matrix of pings between NPUs."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from markupsafe import Markup

from ropeway.doctor.finding import Examination
from ropeway.doctor.pings import PingMatrix
from ropeway.phrases import phrase
from ropeway.report.chinese import in_language
from ropeway.report.doctor import (
    WORDS,
    consequence_line,
    counts_of,
    fix_lines,
    unchecked_lines,
    verdict_of,
    where_of,
    with_consequences,
)
from ropeway.report.page import in_both_languages, literals, prose, render_page

_NPU_GRID_HOSTS = 4  # with more hosts the grid shows hosts in place of NPUs
_LABELLED = 64  # with more rows than these, labels would be unreadable
# Of the drawing, in its own units: a square, and a character of a label.
_CELL = 16.0
_CHARACTER = 7.0
_CORNER = 80.0  # `from ↓ to →`

State = Literal["good", "lossy", "dead"]


@dataclass(frozen=True)
class Cell:
    """One square of the ping grid; the title is its tooltip."""

    x: int
    y: int
    state: State
    title: str


@dataclass(frozen=True)
class Span:
    """The label of some rows in turn, and of as many columns: a host, above its NPUs."""

    first: int
    size: int
    label: str


@dataclass(frozen=True)
class Grid:
    """Sources of pings (rows) and targets (columns): NPUs where there are few hosts, else hosts.

    size    number of rows, and of columns
    hosts   labels of the rows by host; empty when there are too many
    npus    label of each row below that of its host; empty where rows are hosts
    margin  room for the labels at the left; `top` for those above
    """

    size: int
    cells: tuple[Cell, ...]
    hosts: tuple[Span, ...]
    npus: tuple[str, ...]
    margin: float
    top: float

    @property
    def per_npu(self) -> bool:
        return bool(self.npus)


def render_html(
    examination: Examination,
    names: Sequence[str],
    matrix: PingMatrix | None,
    *,
    title: str,
    when: str,
    language: str = "en",
) -> str:
    """Return the page: one file, no network, no script. Everything from outside is escaped.

    It opens in `language`.
    """
    return render_page(
        "doctor.html.j2",
        {"both": prose, "lines": _lines, "code": literals, "zip": zip},
        language=language,
        examination=examination,
        heading=_heading(examination),
        counts=counts_of(examination),
        groups=with_consequences(examination.findings),
        consequence=consequence_line,
        unchecked=[unchecked_lines(examination, None, language) for language in ("en", "zh")],
        words=WORDS,
        grid=grid(names, matrix) if matrix is not None and matrix.total else None,
        cell=_CELL,
        title=title,
        when=when,
        where=where_of,
    )


def _heading(examination: Examination) -> str:
    found = examination.not_checked or not examination.sound
    return verdict_of(examination) if found else phrase("The cluster is sound")


def _lines(text: str) -> Markup:
    """Return lines in both languages, each command on a line of its own."""
    return in_both_languages(_lines_of(text), _lines_of(in_language(text, "zh")))


def _lines_of(text: str) -> Markup:
    lines = (
        Markup('<code class="typed">{}</code>').format(line) if typed else literals(line)
        for line, typed in fix_lines(text)
    )
    return Markup("<br>").join(lines)


def grid(names: Sequence[str], matrix: PingMatrix) -> Grid:
    """Return the pings as squares: by NPU for up to four hosts, else by host."""
    if len(names) <= _NPU_GRID_HOSTS:
        return _npu_grid(names, matrix)
    cells = []
    for (source, target), tested in matrix.tested.items():
        failed = matrix.failed[source, target]
        worst = matrix.worst.get((source, target), 0.0)
        title = f"{names[source]} → {names[target]}: {tested - failed} / {tested}"
        cells.append(Cell(target, source, _state(failed, tested, worst), title))
    labelled = names if len(names) <= _LABELLED else ()
    margin = max(_CORNER, _CHARACTER * max((len(name) for name in labelled), default=0) + _CELL)
    hosts = tuple(Span(number, 1, name) for number, name in enumerate(labelled))
    return Grid(len(names), tuple(cells), hosts, (), margin, margin)


def _npu_grid(names: Sequence[str], matrix: PingMatrix) -> Grid:
    ports = sorted(matrix.sent)
    losses = {(source, target): loss for source, target, loss in matrix.failures}
    unread = set(matrix.unknown)
    labels = [f"{names[host]} NPU {device}" for host, device in ports]
    cells = []
    for y, source in enumerate(ports):
        for x, target in enumerate(ports):
            tested = (source[0], target[0]) in matrix.tested and (source, target) not in unread
            if source[0] == target[0] or not tested:
                continue
            loss = losses.get((source, target), 0.0)
            title = f"{labels[y]} → {labels[x]}: {100 - loss:.0f}%"
            cells.append(Cell(x, y, _state(loss > 0, 1, loss), title))
    hosts = []
    for host, members in groupby(range(len(ports)), key=lambda number: ports[number][0]):
        rows = list(members)
        hosts.append(Span(rows[0], len(rows), names[host]))
    npus = tuple(str(device) for _, device in ports)
    margin = _CHARACTER * max(len(span.label) for span in hosts) + 3 * _CELL
    return Grid(len(ports), tuple(cells), tuple(hosts), npus, margin, 3 * _CELL)


def _state(failed: int, tested: int, worst: float) -> State:
    if not failed:
        return "good"
    return "dead" if failed == tested and worst >= 100 else "lossy"

"""The result of a calibration: measured beside predicted, and what the constants predict."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group
from rich.text import Text

from ropeway.report.figures import NONE, percent, rate
from ropeway.report.table import table


@dataclass(frozen=True)
class Explained:
    """One layout under one load, in output tokens/s; `measured` is None for a mere prediction."""

    layout: str
    load: str
    predicted: float
    measured: float | None = None


def calibration_text(rows: Sequence[Explained]) -> Group:
    """Return a table of these rows, with a note on what the figures are."""
    grid = table("layout", "load", ">measured", ">predicted", ">off by")
    for row in rows:
        off = percent(abs(row.predicted / row.measured - 1)) if row.measured else NONE
        grid.add_row(row.layout, row.load, rate(row.measured), rate(row.predicted), off)
    note = (
        "Output tokens/s. Layouts without a measured figure are predicted only.\n"
        "Measured on this machine's cores: this says nothing about NPUs."
    )
    return Group(grid, Text(note, style="dim"))

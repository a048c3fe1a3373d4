"""The result of a calibration: measured beside predicted, and what the constants predict."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group
from rich.text import Text

from ropeway.report.figures import NONE, percent, rate
from ropeway.report.table import table


@dataclass(frozen=True)
class Explained:
    """The output of one layout under one load; what was not measured is a mere prediction."""

    layout: str
    load: str
    predicted_tokens_per_s: float
    measured_tokens_per_s: float | None = None


def calibration_text(rows: Sequence[Explained]) -> Group:
    """Return a table of these rows, with a note on what the figures are."""
    grid = table("layout", "load", ">measured", ">predicted", ">off by")
    for row in rows:
        predicted, measured = row.predicted_tokens_per_s, row.measured_tokens_per_s
        off = percent(abs(predicted / measured - 1)) if measured else NONE
        grid.add_row(row.layout, row.load, rate(measured), rate(predicted), off)
    note = (
        "Output tokens/s. Layouts without a measured figure are predicted only.\n"
        "Measured on this machine's cores: this says nothing about NPUs."
    )
    return Group(grid, Text(note, style="dim"))

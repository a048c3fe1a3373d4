"""What a calibration came to: measured against explained, and what it predicts."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group
from rich.table import Table
from rich.text import Text

from ropeway.report.figures import NONE, percent, rate


@dataclass(frozen=True)
class Explained:
    """One layout under one load: tokens/s; `measured` is None where it is predicted only."""

    layout: str
    load: str
    predicted: float
    measured: float | None = None


def calibration_text(rows: Sequence[Explained]) -> Group:
    """A table of these rows, and what the figures are."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("layout")
    table.add_column("load")
    for name in ("measured", "by the constants", "off by"):
        table.add_column(name, justify="right")
    for row in rows:
        off = percent(abs(row.predicted / row.measured - 1)) if row.measured else NONE
        table.add_row(row.layout, row.load, rate(row.measured), rate(row.predicted), off)
    told = (
        "output tokens/s; the layouts without a measured figure are predicted.\n"
        "Measured here, on this machine's cores: it says nothing about NPUs."
    )
    return Group(table, Text(told, style="dim"))

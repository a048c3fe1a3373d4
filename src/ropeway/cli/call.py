"""What the entry point has to know of the verb that is running, for when it fails."""

from dataclasses import dataclass
from pathlib import Path

import click

from ropeway.report.console import Screen


@dataclass
class Call:
    """One call of a verb.

    screen  where it speaks; None until its flags have been read
    folder  where this run keeps its files, if it keeps any
    """

    screen: Screen | None = None
    folder: Path | None = None


def current_call() -> Call:
    """The call of the verb that is running. Only inside a verb."""
    return click.get_current_context().ensure_object(Call)

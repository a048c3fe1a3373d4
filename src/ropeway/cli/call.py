"""The state of the running verb that the entry point needs, for example to report an error."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ropeway.report.console import Screen

if TYPE_CHECKING:  # the list of verbs must not wait for these imports
    from ropeway.launch.clock import Clock
    from ropeway.launch.running import Connect


@dataclass
class Call:
    """One call of a verb.

    screen   where it writes; None until its flags have been parsed
    folder   of this run's files, if it has any
    connect  replaces hosts/connect.py in a rehearsal
    clock    replaces this machine's in a test
    """

    screen: Screen | None = None
    folder: Path | None = None
    connect: "Connect | None" = None
    clock: "Clock | None" = None


def current_call() -> Call:
    """Return the call of the running verb. Only inside a verb."""
    return click.get_current_context().ensure_object(Call)

"""The state of the running verb that the entry point needs, for example to report an error."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ropeway.report.console import Screen

if TYPE_CHECKING:  # the list of verbs must not wait for these imports
    from ropeway.launch.clock import Clock
    from ropeway.launch.running import Connect


def language_of(environment: Mapping[str, str]) -> str:
    """Return `zh` in a Chinese locale, else `en`. The first variable set counts (locale(7))."""
    names = ("LC_ALL", "LC_MESSAGES", "LANG")
    locale = next((environment[name] for name in names if environment.get(name)), "")
    return "zh" if locale.startswith("zh") else "en"


@dataclass
class Call:
    """One call of a verb.

    verb     its name, `plan` or `model show`; None where there is none
    screen   where it writes; None until its flags have been parsed
    folder   of this run's files, if it has any
    connect  replaces hosts/connect.py in a rehearsal
    clock    replaces this machine's in a test
    language  of errors, and of all that is said by verbs with `--lang`
    """

    verb: str | None = None
    screen: Screen | None = None
    folder: Path | None = None
    connect: "Connect | None" = None
    clock: "Clock | None" = None
    language: str = field(default_factory=lambda: language_of(os.environ))


def current_call() -> Call:
    """Return the call of the running verb. Only inside a verb."""
    return click.get_current_context().ensure_object(Call)

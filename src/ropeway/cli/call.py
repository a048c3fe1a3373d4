"""The state of the running verb that the entry point needs, for example to report an error."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import click

from ropeway.report.console import Screen

if TYPE_CHECKING:  # the list of verbs must not wait for these imports
    from ropeway.hosts.base import Host
    from ropeway.spec.cluster import Cluster


class Connect(Protocol):
    """Connects to the hosts of the spec's cluster; see hosts/connect.py."""

    def __call__(
        self, cluster: "Cluster", *, ssh_config: str | None = None
    ) -> "AbstractContextManager[Sequence[Host]]": ...


@dataclass
class Call:
    """One call of a verb.

    screen   where it writes; None until its flags have been parsed
    folder   of this run's files, if it has any
    connect  replaces hosts/connect.py in a rehearsal
    """

    screen: Screen | None = None
    folder: Path | None = None
    connect: Connect | None = None


def current_call() -> Call:
    """Return the call of the running verb. Only inside a verb."""
    return click.get_current_context().ensure_object(Call)

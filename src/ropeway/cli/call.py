"""What the entry point has to know of the verb that is running, for when it fails."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import click

from ropeway.report.console import Screen

if TYPE_CHECKING:  # the list of verbs must not wait for them
    from ropeway.hosts.base import Host
    from ropeway.spec.cluster import Cluster


class Connect(Protocol):
    """From the spec's cluster to hosts that can be spoken to, as hosts/connect.py does it."""

    def __call__(
        self, cluster: "Cluster", *, ssh_config: str | None = None
    ) -> "AbstractContextManager[Sequence[Host]]": ...


@dataclass
class Call:
    """One call of a verb.

    screen  where it speaks; None until its flags have been read
    folder  where this run keeps its files, if it keeps any
    connect reaches the hosts in place of hosts/connect.py: a rehearsal's
    """

    screen: Screen | None = None
    folder: Path | None = None
    connect: Connect | None = None


def current_call() -> Call:
    """The call of the verb that is running. Only inside a verb."""
    return click.get_current_context().ensure_object(Call)

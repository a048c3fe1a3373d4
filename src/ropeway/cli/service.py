"""Which of the running services a verb means."""

import click

from ropeway.errors import Refused
from ropeway.launch.local.status import services
from ropeway.spec.model import local_spec


def checked_name(_ctx: click.Context, _param: click.Parameter, name: str | None) -> str | None:
    """The name, if a spec could have it: it becomes part of paths that `down` removes."""
    if name is None:
        return None
    try:
        return local_spec(name=name).name
    except ValueError:
        raise click.BadParameter(
            f"`{name}` is not a name of at most 31 letters a-z, digits and `-`"
        ) from None


name_option = click.option(
    "--name", callback=checked_name, help="Name of the service.  [default: the only one]"
)
"""Passes `name: str | None`."""


def only_service(name: str | None, user: int) -> str | None:
    """The service named, else the only one there is; None when there is none.

    Raises Refused when there are several and none was named.
    """
    if name is not None:
        return name
    found = services(user)
    if len(found) > 1:
        raise Refused(
            f"{len(found)} services are here: {', '.join(f'`{each}`' for each in found)}",
            hint="say which: `--name NAME`",
        )
    return found[0] if found else None

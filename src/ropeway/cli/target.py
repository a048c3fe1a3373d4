"""Which service a verb means, and where it is: on this machine, or on hosts.

On hosts it is known by the labels of its containers alone. The hosts are those of the spec, or all
those that one of them, given with `--host`, has in its labels: so a second machine needs no spec.
"""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import click

from ropeway.cli.call import current_call
from ropeway.cli.options import config_option, passed_as, remote_host, ssh_config_option
from ropeway.hosts.connect import connected
from ropeway.launch.labels import Reached
from ropeway.launch.local.running import services
from ropeway.launch.running import only_service, reach_by_host, reach_by_spec
from ropeway.spec.model import Spec, load_spec, local_spec


@dataclass(frozen=True)
class Target:
    """What the flags say: `name` None is the only service, or the spec's."""

    config: Path
    local: bool
    host: str | None
    name: str | None
    ssh_config: str | None

    @functools.cached_property
    def spec(self) -> Spec | None:
        """The spec, if it is one of real hosts. Raises SpecError."""
        if self.local or self.host or not self.config.exists():
            return None
        spec = load_spec(self.config)
        return None if spec.cluster.is_local else spec

    @property
    def is_remote(self) -> bool:
        return self.host is not None or self.spec is not None

    def local_service(self, user: int) -> str | None:
        """Return the service on this machine: the one named, else the only one, None without any.

        Raises Refused when there are several and none was named.
        """
        return self.name or only_service(services(user))


def checked_name(_ctx: click.Context, _param: click.Parameter, name: str | None) -> str | None:
    """Return the name, if a spec could have it: it becomes part of paths that `down` removes."""
    if name is None:
        return None
    try:
        return local_spec(name=name).name
    except ValueError:
        raise click.BadParameter(
            f"`{name}` is not a name of at most 31 letters a-z, digits and `-`"
        ) from None


_OPTIONS = (
    config_option,
    click.option("--local", is_flag=True, help="On this machine, whatever the spec says."),
    click.option(
        "--host", metavar="HOST", help="A host of the service, as `user@address:port`: no spec."
    ),
    click.option(
        "--name", callback=checked_name, help="Name of the service.  [default: the only one]"
    ),
    ssh_config_option,
)


def target_options(verb: Callable[..., object]) -> Callable[..., object]:
    """`-c`, `--local`, `--host`, `--name`, `--ssh-config`, passed as one `target: Target`."""

    return passed_as("target", Target, verb, _OPTIONS)


def reached(target: Target) -> AbstractContextManager[Reached]:
    """Connect, and read the labels. Raises Refused when several services run and none is named."""
    connect = current_call().connect or connected
    if target.spec is not None:
        return reach_by_spec(connect, target.spec, target.name, target.ssh_config)
    return reach_by_host(connect, remote_host(target.host or ""), target.name, target.ssh_config)

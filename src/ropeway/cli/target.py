"""Which service a verb means, and where it is: on this machine, or on hosts.

On hosts it is known by the labels of its containers alone. The hosts are those of the spec, or all
those that one of them, given with `--host`, has in its labels: so a second machine needs no spec.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import click

from ropeway.cli.call import current_call
from ropeway.cli.host_argument import remote_host
from ropeway.cli.options import config_option, with_options
from ropeway.cli.service import checked_name
from ropeway.errors import Refused
from ropeway.hosts.base import Host
from ropeway.hosts.connect import connected
from ropeway.launch.docker import Runtime
from ropeway.launch.life import State, look
from ropeway.spec.cluster import Cluster, RemoteHost
from ropeway.spec.model import Spec, load_spec


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


@dataclass(frozen=True)
class Reached:
    """The hosts, and what runs there of the service meant; `name` is None when nothing does."""

    hosts: dict[str, Host]
    every: tuple[Host, ...]
    runtime: Runtime
    name: str | None
    state: State

    def anew(self) -> "Reached":
        """What runs there now: somebody may have changed it, before the lock was ours or since."""
        return replace(self, state=look(self.hosts, self.runtime, self.name))


_OPTIONS = (
    config_option,
    click.option("--local", is_flag=True, help="On this machine, whatever the spec says."),
    click.option(
        "--host", metavar="HOST", help="A host of the service, as `user@address:port`: no spec."
    ),
    click.option(
        "--name", callback=checked_name, help="Name of the service.  [default: the only one]"
    ),
    click.option("--ssh-config", metavar="FILE", help="Read in place of ~/.ssh/config."),
)


def target_options(verb: Callable[..., object]) -> Callable[..., object]:
    """`-c`, `--local`, `--host`, `--name`, `--ssh-config`, passed as one `target: Target`."""

    @functools.wraps(verb)
    def aimed(
        *args: object,
        config: Path,
        local: bool,
        host: str | None,
        name: str | None,
        ssh_config: str | None,
        **rest: object,
    ) -> object:
        return verb(*args, target=Target(config, local, host, name, ssh_config), **rest)

    return with_options(aimed, _OPTIONS)


@contextmanager
def reached(target: Target) -> Iterator[Reached]:
    """Connect, and read the labels. Raises Refused when several services run and none is named."""
    spec, connect = target.spec, current_call().connect or connected
    if spec is not None:
        with connect(spec.cluster, ssh_config=target.ssh_config) as hosts:
            yield _reached(hosts, spec.runtime.command, target.name or spec.name)
        return
    first = Cluster(hosts=(remote_host(target.host or ""),))
    with connect(first, ssh_config=target.ssh_config) as hosts:
        runtime, state = _any_runtime(hosts[0])
        name = _only(state, target.name)
        if name is None:
            yield Reached({hosts[0].name: hosts[0]}, tuple(hosts), runtime, None, state)
            return
        cluster = _reaching(state.of(name).found[0].spec.cluster, first.hosts or ())
    with connect(cluster, ssh_config=target.ssh_config) as hosts:
        yield _reached(hosts, runtime, name)


def _reached(hosts: Sequence[Host], runtime: Runtime, name: str) -> Reached:
    by_name = {host.name: host for host in hosts}
    state = look(by_name, runtime, name)
    return Reached(by_name, tuple(hosts), runtime, name, state)


def _any_runtime(host: Host) -> tuple[Runtime, State]:
    """The container engine that has containers of ours; else the first that answers."""
    engines: tuple[Runtime, ...] = ("docker", "podman", "nerdctl")
    answers = [(each, look({host.name: host}, each)) for each in engines]
    for each, state in answers:
        if state.found:
            return each, state
    for each, state in answers:
        if not state.failures:
            return each, state
    raise next(iter(answers[0][1].failures.values()))


def _only(state: State, name: str | None) -> str | None:
    services = state.services
    if name is not None:
        return name if name in services else None
    if len(services) > 1:
        raise Refused(
            f"{len(services)} services are here: {', '.join(f'`{each}`' for each in services)}",
            hint="say which: `--name NAME`",
        )
    return services[0] if services else None


def _reaching(cluster: Cluster, known: tuple[RemoteHost, ...]) -> Cluster:
    """The service's hosts; the one that was named, by the name that worked from here."""
    given = known[0]
    hosts = tuple(
        host.model_copy(update={"user": host.user or given.user}) for host in cluster.hosts or ()
    )
    return cluster.model_copy(update={"hosts": hosts})

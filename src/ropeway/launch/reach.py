"""The hosts of a service that runs, found by its spec, or by the labels of one of them."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from ropeway.errors import Refused
from ropeway.hosts.base import Host
from ropeway.launch.docker import Runtime
from ropeway.launch.life import State, service_state
from ropeway.spec.cluster import Cluster, RemoteHost
from ropeway.spec.model import Spec

_ENGINES: tuple[Runtime, ...] = ("docker", "podman", "nerdctl")


class Connect(Protocol):
    """From a cluster to hosts that can be spoken to, as hosts/connect.py does it."""

    def __call__(
        self, cluster: Cluster, *, ssh_config: str | None = None
    ) -> AbstractContextManager[Sequence[Host]]: ...


@dataclass(frozen=True)
class Reached:
    """The hosts, and what runs there of a service; `name` is None when no service runs."""

    hosts: dict[str, Host]
    runtime: Runtime
    name: str | None
    state: State

    @property
    def every(self) -> tuple[Host, ...]:
        return tuple(self.hosts.values())

    def refreshed(self) -> "Reached":
        """Ask again: somebody may have changed what runs, before the lock was ours or since."""
        return replace(self, state=service_state(self.hosts, self.runtime, self.name))


@contextmanager
def reach_by_spec(
    connect: Connect, spec: Spec, name: str | None, ssh_config: str | None
) -> Iterator[Reached]:
    """Connect to the hosts of a spec. `name` is used in place of the spec's."""
    with connect(spec.cluster, ssh_config=ssh_config) as hosts:
        yield _reached(hosts, spec.runtime.command, name or spec.name)


@contextmanager
def reach_by_host(
    connect: Connect, remote: RemoteHost, name: str | None, ssh_config: str | None
) -> Iterator[Reached]:
    """Connect to one host, and then to all that the labels there name.

    Raises Refused when several services run and none is named.
    """
    with connect(Cluster(hosts=(remote,)), ssh_config=ssh_config) as hosts:
        runtime, state = _any_runtime(hosts[0])
        service = _only(state, name)
        if service is None:
            yield Reached({hosts[0].name: hosts[0]}, runtime, None, state)
            return
        cluster = state.of(service).containers[0].spec.cluster
    with connect(_with_user(cluster, remote.user), ssh_config=ssh_config) as hosts:
        yield _reached(hosts, runtime, service)


def only_service(names: Sequence[str]) -> str | None:
    """Return the only service there is; None when there is none. Raises Refused for several."""
    if len(names) > 1:
        raise Refused(
            f"{len(names)} services are here: {', '.join(f'`{name}`' for name in names)}",
            hint="say which: `--name NAME`",
        )
    return names[0] if names else None


def _reached(hosts: Sequence[Host], runtime: Runtime, name: str) -> Reached:
    by_name = {host.name: host for host in hosts}
    return Reached(by_name, runtime, name, service_state(by_name, runtime, name))


def _any_runtime(host: Host) -> tuple[Runtime, State]:
    """Return the container engine that has containers of ours; else the first that answers."""
    answers = [(engine, service_state({host.name: host}, engine)) for engine in _ENGINES]
    for engine, state in answers:
        if state.containers:
            return engine, state
    for engine, state in answers:
        if not state.failures:
            return engine, state
    raise next(iter(answers[0][1].failures.values()))


def _only(state: State, name: str | None) -> str | None:
    if name is not None:
        return name if name in state.services else None
    return only_service(state.services)


def _with_user(cluster: Cluster, user: str | None) -> Cluster:
    """Return the service's hosts, each with the user that worked for the first, if it has none."""
    hosts = tuple(
        host.model_copy(update={"user": host.user or user}) for host in cluster.hosts or ()
    )
    return cluster.model_copy(update={"hosts": hosts})

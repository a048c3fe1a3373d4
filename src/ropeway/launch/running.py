"""What runs on the hosts, found by a spec or by labels alone, and what can be done to it."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from ropeway.errors import HostError, LaunchError, Refused
from ropeway.hosts.base import Host, Result
from ropeway.hosts.fleet import group_by_host, run_on_all, run_on_all_or_raise, select
from ropeway.launch import docker
from ropeway.launch.clock import Clock
from ropeway.launch.docker import Runtime
from ropeway.launch.labels import SERVICE, Reached, ServiceContainer, look
from ropeway.launch.lock import BASE
from ropeway.launch.probe import unready
from ropeway.spec.cluster import Cluster, RemoteHost
from ropeway.spec.model import Spec

_STOP_SECONDS = 10  # that a container has to end by itself
_POLL_SECONDS = 2.0

# Ends, removes, and looks again; $1 the container engine, $2 the label, $3 seconds, $4 the service,
# and then its folders as the labels have them.
DOWN = f"""
{BASE}
runtime=$1 label=$2 patience=$3; shift 3
name=$1; shift; set -- "$base/$name" "$@"
count=0
for turn in 1 2 3; do
  ids=$("$runtime" ps --all --quiet --filter "label=$label") || exit
  [ -n "$ids" ] || break
  set -f; for id in $ids; do count=$((count + 1)); done
  [ $turn -gt 1 ] || "$runtime" stop --time "$patience" $ids >/dev/null 2>&1
  "$runtime" rm --force $ids >/dev/null || exit
done
for folder; do rm -rf -- "$folder" || exit; done
echo "$count"
"""


def take_down(reached: Reached) -> int:
    """Remove a service's containers and folders; return how many containers there were.

    Raises HostError when a host could not be cleaned up; the others are.
    """
    service = reached.name
    assert service, "or the folder of all services would go"
    folders: dict[str, set[str]] = {name: set() for name in reached.hosts}
    for container in reached.containers:
        if container.folder.endswith(f"/{service}"):  # it is removed: only what we make
            folders[container.host].add(container.folder)

    def down(host: Host) -> int:
        label = f"{SERVICE}={service}"
        args = (reached.runtime, label, str(_STOP_SECONDS), service, *sorted(folders[host.name]))
        result = host.run(("sh", "-c", DOWN, "sh", *args), timeout=180.0)
        return int(result.check("cannot take it down", where=host.name).stdout or 0)

    outcomes = run_on_all(reached.every, down)
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    if failed:
        raise HostError(
            f"`{service}` could not be taken down on {len(failed)} of {len(outcomes)} hosts",
            where=", ".join(outcome.host.name for outcome in failed),
            evidence=tuple(f"{outcome.host.name}: {outcome.error}" for outcome in failed),
            hint="`ropeway down` again, once they can be reached",
        )
    return sum(outcome.result or 0 for outcome in outcomes)


def restart(reached: Reached, containers: Sequence[ServiceContainer]) -> None:
    """Restart containers, all at once: the ranks of a replica cannot go on without each other."""
    by_host = group_by_host(containers)

    def restart_on(host: Host) -> None:
        names = [container.name for container in by_host[host.name]]
        argv = docker.restart_argv(reached.runtime, names, _STOP_SECONDS)
        host.run(argv, timeout=180.0).check("cannot restart it", where=host.name)

    run_on_all_or_raise(select(reached.hosts, by_host), restart_on)


def wait_until_serving(reached: Reached, timeout: float, clock: Clock) -> None:
    """Wait until every engine of a service generates tokens. Raises LaunchError after `timeout`."""
    deadline = clock.now() + timeout
    while True:
        answers = unready(reached.refreshed())
        if answers and not any(answers.values()):
            return
        if clock.now() > deadline:
            raise LaunchError(
                f"it generated no token within {timeout:g} s",
                evidence=tuple(f"{name}: {reason}" for name, reason in answers.items() if reason),
                hint="ropeway logs",
            )
        clock.sleep(_POLL_SECONDS)


def run_in_containers(
    reached: Reached, containers: Sequence[ServiceContainer], argv: Sequence[str]
) -> list[tuple[ServiceContainer, Result]]:
    """Run a command in containers, with their environment; hosts at once, the containers of a host
    one after another. Raises HostError."""
    by_host = group_by_host(containers)

    def run_on(host: Host) -> list[tuple[ServiceContainer, Result]]:
        return [
            (one, host.run(docker.exec_argv(reached.runtime, one.name, argv), timeout=86_400.0))
            for one in by_host[host.name]
        ]

    answers = run_on_all_or_raise(select(reached.hosts, by_host), run_on)
    return [answer for name in by_host for answer in answers[name]]


_ENGINES: tuple[Runtime, ...] = ("docker", "podman", "nerdctl")


class Connect(Protocol):
    """From a cluster to connected hosts, as hosts/connect.py makes them."""

    def __call__(
        self, cluster: Cluster, *, ssh_config: str | None = None
    ) -> AbstractContextManager[Sequence[Host]]: ...


@contextmanager
def reach_by_spec(
    connect: Connect, spec: Spec, name: str | None, ssh_config: str | None
) -> Iterator[Reached]:
    """Connect to the hosts of a spec. `name` is used in place of the spec's."""
    with connect(spec.cluster, ssh_config=ssh_config) as hosts:
        yield look(hosts, spec.runtime.command, name or spec.name)


@contextmanager
def reach_by_host(
    connect: Connect, remote: RemoteHost, name: str | None, ssh_config: str | None
) -> Iterator[Reached]:
    """Connect to one host, and then to all that the labels there name.

    Raises Refused when several services run and none is named.
    """
    with connect(Cluster(hosts=(remote,)), ssh_config=ssh_config) as hosts:
        everything = _any_runtime(hosts[0])
        own = {one.service: one for one in reversed(everything.containers)}
        service = only_service(sorted(own)) if name is None else name
        if service not in own:
            yield everything
            return
        cluster = own[service].spec.cluster
    with connect(_with_user(cluster, remote.user), ssh_config=ssh_config) as hosts:
        yield look(hosts, everything.runtime, service)


def only_service(names: Sequence[str]) -> str | None:
    """Return the only service there is; None when there is none. Raises Refused for several."""
    if len(names) > 1:
        raise Refused(
            f"{len(names)} services are here: {', '.join(f'`{name}`' for name in names)}",
            hint="say which: `--name NAME`",
        )
    return names[0] if names else None


def _any_runtime(host: Host) -> Reached:
    """Ask the container engine that has containers of ours; else the first that answers."""
    answers = [look((host,), engine) for engine in _ENGINES]
    for reached in answers:
        if reached.containers:
            return reached
    for reached in answers:
        if not reached.failures:
            return reached
    raise answers[0].failures[host.name]


def _with_user(cluster: Cluster, user: str | None) -> Cluster:
    """Return the service's hosts, each with the user that worked for the first, if it has none."""
    hosts = tuple(
        host.model_copy(update={"user": host.user or user}) for host in cluster.hosts or ()
    )
    return cluster.model_copy(update={"hosts": hosts})

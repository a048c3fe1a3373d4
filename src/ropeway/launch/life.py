"""What runs on the hosts, and what can be done to it: known by labels alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ropeway.errors import HostError, LaunchError, RopewayError
from ropeway.hosts.base import Host, Result
from ropeway.hosts.fleet import Hosts, group_by_host, run_on_all, run_on_all_or_raise, select
from ropeway.launch import docker
from ropeway.launch.clock import SYSTEM_CLOCK, Clock
from ropeway.launch.labels import SERVICE, ServiceContainer, containers_on
from ropeway.launch.lock import BASE
from ropeway.launch.probe import unready

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


@dataclass(frozen=True)
class State:
    """What runs of one service, or of all.

    containers  by service, replica, rank and host
    failures    hosts that did not answer
    """

    containers: tuple[ServiceContainer, ...]
    failures: Mapping[str, RopewayError]

    @property
    def services(self) -> tuple[str, ...]:
        return tuple(sorted({container.service for container in self.containers}))

    def of(self, service: str) -> "State":
        """Return only what belongs to this service."""
        own = tuple(one for one in self.containers if one.service == service)
        return State(own, self.failures)


def service_state(hosts: Hosts, runtime: docker.Runtime, service: str | None = None) -> State:
    """Ask all hosts what runs. A host that does not answer is among the failures."""
    outcomes = run_on_all(tuple(hosts.values()), lambda host: containers_on(host, runtime, service))
    containers = [one for outcome in outcomes for one in outcome.result or ()]
    order = {name: number for number, name in enumerate(hosts)}
    containers.sort(key=lambda one: (one.service, one.replica, one.rank, order[one.host], one.name))
    return State(
        tuple(containers),
        {outcome.host.name: outcome.error for outcome in outcomes if outcome.error is not None},
    )


def take_down(hosts: Hosts, runtime: docker.Runtime, service: str, state: State) -> int:
    """Remove the service's containers and folders; return how many containers there were.

    Raises HostError when a host could not be cleaned up; the others are.
    """
    folders: dict[str, set[str]] = {name: set() for name in hosts}
    for container in state.containers:
        if container.folder.endswith(f"/{service}"):  # it is removed: only what we make
            folders[container.host].add(container.folder)

    def down(host: Host) -> int:
        label = f"{SERVICE}={service}"
        args = (runtime, label, str(_STOP_SECONDS), service, *sorted(folders[host.name]))
        result = host.run(("sh", "-c", DOWN, "sh", *args), timeout=180.0)
        return int(result.check("cannot take it down", where=host.name).stdout or 0)

    outcomes = run_on_all(tuple(hosts.values()), down)
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    if failed:
        raise HostError(
            f"`{service}` could not be taken down on {len(failed)} of {len(outcomes)} hosts",
            where=", ".join(outcome.host.name for outcome in failed),
            evidence=tuple(f"{outcome.host.name}: {outcome.error}" for outcome in failed),
            hint="`ropeway down` again, once they can be reached",
        )
    return sum(outcome.result or 0 for outcome in outcomes)


def restart(hosts: Hosts, runtime: docker.Runtime, containers: Sequence[ServiceContainer]) -> None:
    """Restart containers, all at once: the ranks of a replica cannot go on without each other."""
    by_host = group_by_host(containers)

    def restart_on(host: Host) -> None:
        names = [container.name for container in by_host[host.name]]
        argv = docker.restart_argv(runtime, names, _STOP_SECONDS)
        host.run(argv, timeout=180.0).check("cannot restart it", where=host.name)

    run_on_all_or_raise(select(hosts, by_host), restart_on)


def wait_until_serving(
    hosts: Hosts,
    runtime: docker.Runtime,
    service: str,
    timeout: float,
    clock: Clock = SYSTEM_CLOCK,
) -> None:
    """Wait until every engine of a service generates tokens. Raises LaunchError after `timeout`."""
    deadline = clock.now() + timeout
    while True:
        answers = unready(hosts, runtime, service_state(hosts, runtime, service).containers)
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
    hosts: Hosts,
    runtime: docker.Runtime,
    containers: Sequence[ServiceContainer],
    argv: Sequence[str],
) -> list[tuple[ServiceContainer, Result]]:
    """Run a command in containers, with their environment; hosts at once, the containers of a host
    one after another. Raises HostError."""
    by_host = group_by_host(containers)

    def run_on(host: Host) -> list[tuple[ServiceContainer, Result]]:
        return [
            (one, host.run(docker.exec_argv(runtime, one.name, argv), timeout=86_400.0))
            for one in by_host[host.name]
        ]

    outcomes = run_on_all([hosts[name] for name in by_host], run_on)
    for outcome in outcomes:
        if outcome.error is not None:
            raise outcome.error
    return [answer for outcome in outcomes for answer in outcome.result or ()]

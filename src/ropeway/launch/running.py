"""What runs on the hosts, found by a spec or by labels alone, and what can be done to it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Protocol

from ropeway.errors import HostError, LaunchError, Refused, RopewayError
from ropeway.hosts.base import Host, Result
from ropeway.hosts.fleet import (
    group_by_host,
    run_on_all,
    run_on_all_or_raise,
    run_on_parts,
    select,
    told,
)
from ropeway.launch import docker
from ropeway.launch.checks import dropped_hosts
from ropeway.launch.clock import Clock
from ropeway.launch.complete import parts_of
from ropeway.launch.docker import Runtime
from ropeway.launch.labels import SERVICE, Reached, ServiceContainer, look, newest
from ropeway.launch.lock import BASE
from ropeway.launch.probe import unready
from ropeway.phrases import joined, phrase
from ropeway.spec.cluster import Cluster, RemoteHost
from ropeway.spec.model import Spec
from ropeway.units import counted

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

    Raises HostError when a host did not answer or could not be cleaned up; the others are.
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
        return int(result.check(phrase("cannot take it down"), where=host.name).stdout or 0)

    outcomes = run_on_all(reached.answering, down)
    errors = {one.host.name: one.error for one in outcomes if one.error is not None}
    if failed := {**reached.failures, **errors}:
        flags = (reached.hosts[name].as_flags for name in failed)
        again = dict.fromkeys(f"ropeway down --name {service} {one}" for one in flags)
        raise HostError(
            phrase(
                "`{name}` could not be taken down on {n} of {hosts}",
                name=service, n=len(failed), hosts=counted(len(reached.hosts), "host"),
            ),
            where=joined(failed, ", "),
            evidence=told(failed),
            hint=joined((phrase("this finishes it, once they can be reached:"), *again), "\n"),
        )  # fmt: skip
    return sum(outcome.result or 0 for outcome in outcomes)


def to_restart(reached: Reached, replica: int | None) -> tuple[ServiceContainer, ...]:
    """Return the containers of a replica, or (None) all. Raises Refused when it could not serve
    afterwards, because one of them or the router is not there."""
    chosen = tuple(one for one in reached.containers if replica in (None, one.unit))
    if not chosen:
        units = sorted({one.unit for one in reached.containers if one.unit is not None})
        if not units:
            what, hint = "no such container is running", "`ropeway status` shows what is"
            raise Refused(phrase(what), hint=phrase(hint))
        raise Refused(
            phrase("replica {number} is not running", number=replica),
            hint=phrase("those that are: {numbers}", numbers=joined(map(str, units), ", ")),
        )
    there = {one.name for one in reached.containers}
    gone = [name for name in _needed(newest(reached.containers).spec, replica) if name not in there]
    if gone:
        names = joined((f"`{name}`" for name in gone), ", ")
        raise Refused(
            phrase("{names} is gone" if len(gone) == 1 else "{names} are gone", names=names),
            evidence=told(reached.failures),
            hint=phrase("`ropeway up` starts what is missing"),
        )
    return chosen


def _needed(spec: Spec, replica: int | None) -> list[str]:
    """Return the containers without which a replica, or (None) the whole, does not serve."""
    return [one.name for one in parts_of(spec) if replica is None or one.unit in (None, replica)]


def restart(reached: Reached, containers: Sequence[ServiceContainer]) -> None:
    """Restart containers, all at once: the ranks of a replica cannot go on without each other."""

    def restart_on(host: Host, own: Sequence[ServiceContainer]) -> None:
        names = [container.name for container in own]
        argv = docker.restart_argv(reached.runtime, names, _STOP_SECONDS)
        host.run(argv, timeout=180.0).check(phrase("cannot restart it"), where=host.name)

    run_on_parts(reached.hosts, containers, restart_on)


def wait_until_serving(reached: Reached, replica: int | None, clock: Clock) -> None:
    """Wait until a replica, or (None) every one, and the router answer. Raises LaunchError."""
    spec = newest(reached.containers).spec
    needed, timeout = _needed(spec, replica), spec.serve.start_timeout
    deadline = clock.now() + timeout
    while True:
        answers = unready(reached.refreshed())
        reasons = {name: reason for name in needed if (reason := answers.get(name))}
        if answers and not reasons:
            return
        if clock.now() > deadline:
            raise LaunchError(
                phrase("it generated no token within {seconds:g} s", seconds=timeout),
                evidence=tuple(
                    phrase("{name}: {reason}", name=name, reason=reason)
                    for name, reason in reasons.items()
                ),
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
    """Connect to the hosts of a spec, and to those that it no longer has and the service still
    does. `name` is used in place of the spec's."""
    cluster, service = spec.cluster, name or spec.name
    with connect(cluster, ssh_config=ssh_config) as hosts:
        found = look(hosts, spec.runtime.command, service)
        try:
            dropped = dropped_hosts(cluster, found.containers)
        except RopewayError:  # `down` needs no label that cannot be read
            dropped = {}
        if not dropped:
            yield found
            return
    every = cluster.model_copy(update={"hosts": (*(cluster.hosts or ()), *dropped.values())})
    with connect(every, ssh_config=ssh_config) as hosts:
        yield look(hosts, spec.runtime.command, service)


@contextmanager
def reach_by_host(
    connect: Connect,
    remote: RemoteHost,
    choose: Callable[[Sequence[str]], str | None],
    ssh_config: str | None,
) -> Iterator[Reached]:
    """Connect to one host, and then to all that the labels there name.

    `choose` returns which service is meant, given the names of those on the host. Of one that is
    not among them there are no containers, on that host alone.
    """
    with connect(Cluster(hosts=(remote,)), ssh_config=ssh_config) as hosts:
        answers = _every_runtime(hosts[0])
        own: dict[str, tuple[Runtime, ServiceContainer]] = {}
        for answer in answers:
            for one in answer.containers:
                own.setdefault(one.service, (answer.runtime, one))
        service = choose(sorted(own))
        if service is None or service not in own:
            yield replace(answers[0], name=service, containers=())
            return
        runtime, container = own[service]
        cluster = container.spec.cluster
    with connect(_with_user(cluster, remote.user), ssh_config=ssh_config) as hosts:
        yield look(hosts, runtime, service)


def _every_runtime(host: Host) -> list[Reached]:
    """Return what each container engine says that answers. Raises HostError when none does."""
    answers = [look((host,), engine) for engine in _ENGINES]
    answering = [one for one in answers if not one.failures]
    if not answering:
        raise answers[0].failures[host.name]
    return answering


def _with_user(cluster: Cluster, user: str | None) -> Cluster:
    """Return the service's hosts, each with the user that worked for the first, if it has none."""
    hosts = tuple(
        host.model_copy(update={"user": host.user or user}) for host in cluster.hosts or ()
    )
    return cluster.model_copy(update={"hosts": hosts})

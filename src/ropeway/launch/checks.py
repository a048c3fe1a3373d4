"""What is decided before anything is started. Pure.

What differs between what runs and what the spec asks for, and what to replace; and what would make
a start fail: facts in, a refusal out, with all hosts that it concerns.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ropeway.engines.named_paths import NamedPath
from ropeway.errors import CheckFailed, Refused
from ropeway.facts.host import HostFacts
from ropeway.launch.complete import parts_of
from ropeway.launch.labels import ServiceContainer, newest
from ropeway.launch.rollout import ROUTER, Rollout
from ropeway.phrases import joined, phrase
from ropeway.spec.cluster import Cluster, RemoteHost
from ropeway.spec.model import Spec
from ropeway.spec.types import check_key
from ropeway.units import format_bytes


@dataclass(frozen=True)
class Difference:
    """One key of the spec: `serve.context`, before and after; None where it is not set."""

    key: str
    before: object
    after: object

    def __str__(self) -> str:
        return phrase(
            "{key}: {before} → {after}",
            key=self.key, before=_shown(self.before), after=_shown(self.after),
        )  # fmt: skip


@dataclass(frozen=True)
class Changes:
    """Containers by name. A replica is the smallest thing that is replaced: its ranks cannot go on
    without each other.

    keep     run already as the spec wants them
    start    are missing, or run otherwise
    remove   run, and have to go: those that are started again among them
    """

    keep: frozenset[str]
    start: frozenset[str]
    remove: frozenset[str]


def differences(before: Spec, after: Spec) -> tuple[Difference, ...]:
    """Compare two specs key by key, in the order of the spec."""
    old, new = dict(_flat("", before.as_json())), dict(_flat("", after.as_json()))
    keys = dict.fromkeys((*new, *old))
    return tuple(
        Difference(key, old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)
    )


def dropped_hosts(
    cluster: Cluster, running: Sequence[ServiceContainer]
) -> Mapping[str, RemoteHost]:
    """Return by name the hosts that the service should run on and a cluster has by no name."""
    if not running:
        return {}
    spec = newest(running).spec
    known = {*cluster.host_names, *(one.named for one in running)}
    dropped = {part.host for part in parts_of(spec)} - known
    hosts = zip(spec.cluster.host_names, spec.cluster.hosts or (), strict=True)
    return {name: host for name, host in hosts if name in dropped}


def check_dropped_hosts(spec: Spec, running: Sequence[ServiceContainer]) -> None:
    """Raise Refused when the service runs on a host that the spec does not have: nobody would end
    what is there, and it would keep its NPUs."""
    if dropped := dropped_hosts(spec.cluster, running):
        raise Refused(
            phrase(
                "`{name}` runs on {hosts} too, and the spec no longer has that host",
                name=spec.name, hosts=joined(dropped, ", "),
            ),
            where="cluster.hosts",
            hint=phrase("`ropeway down` takes it down, there too; then `ropeway up`"),
        )  # fmt: skip


def changes(rollout: Rollout, running: Iterable[ServiceContainer]) -> Changes:
    """Decide what to keep, to start and to remove."""
    current = {container.name: container for container in running}
    same = {
        name
        for name, content in rollout.hashes.items()
        if name in current and current[name].hash == content and current[name].state == "running"
    }
    units: dict[object, set[str]] = {}
    for one in rollout.containers:
        units.setdefault(ROUTER if one.role == ROUTER else one.replica, set()).add(one.name)
    keep = {name for names in units.values() if names <= same for name in names}
    return Changes(frozenset(keep), frozenset(rollout.hashes) - keep, frozenset(current) - keep)


def _flat(prefix: str, value: object) -> Iterable[tuple[str, object]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(f"{prefix}.{key}" if prefix else str(key), item)
    else:
        yield prefix, value


def _shown(value: object) -> str:
    return phrase("not set") if value is None else str(value)


# An image of vLLM-Ascend is 15 GB to pull (recorded: the two-host report in docs/benchmarks.md) and
# is unpacked beside that.
_IMAGE_BYTES = 30_000_000_000
# Logs, scripts, and what the engine compiles.
_LEAST_BYTES = 1_000_000_000

Facts = Mapping[str, HostFacts]


def check_secrets(spec: Spec, variables: Mapping[str, str]) -> None:
    """Raise Refused for a secret of the spec that our environment does not have, or for a key of
    the endpoint that no request can carry."""
    serve = spec.serve
    names = [("serve.api_key_env", serve.api_key_env)] if serve.api_key_env else []
    for key, name in (*names, *(("serve.secret_env", name) for name in serve.secret_env)):
        if not variables.get(name):
            raise Refused(
                phrase("`{key}` names `{name}`, which is not set", key=key, name=name),
                hint=f"export {name}=…",
            )
    if serve.api_key_env:
        check_key(variables[serve.api_key_env], serve.api_key_env)


def check_hosts(
    rollout: Rollout,
    facts: Facts,
    *,
    fetching: frozenset[str] = frozenset(),
    own_containers: frozenset[str] = frozenset(),
    own_ports: frozenset[tuple[str, int]] = frozenset(),
) -> None:
    """Raise CheckFailed for the first thing in the way, with all hosts that it concerns. The rest,
    which holds for any service, is a check of doctor's.

    fetching        names of hosts that have to fetch the image
    own_containers  names of the service's containers that run now: they go, or stay as its own
    own_ports       host and number of the ports that these have
    """
    hosts = {name: facts[name] for name in facts if name in rollout.containers_by_host}
    _check_runtime(rollout, hosts)
    _check_disk(rollout, hosts, fetching)
    _check_npus(rollout, hosts, own_containers)
    _check_ports(rollout, hosts, own_ports)


def check_named_paths(rollout: Rollout, found: Mapping[str, frozenset[str]]) -> None:
    """Raise CheckFailed for files that flags point into and that are missing where they are needed.

    `found` has what each host has of them; a host that did not say is not in it.
    """
    lacking = missing_paths(rollout, found)
    if lacking:
        raise CheckFailed(
            phrase("files that the engine's flags name are missing on hosts"),
            where=joined(dict.fromkeys(host for _, hosts in lacking for host in hosts), ", "),
            evidence=tuple(
                phrase("{path} ({where}): not on {hosts}",
                       path=one.path, where=one.where, hosts=joined(hosts, ", "))
                for one, hosts in lacking
            ),
            hint=phrase("copy them there, to the same path, or correct the spec"),
        )  # fmt: skip


def missing_paths(
    rollout: Rollout, found: Mapping[str, frozenset[str]]
) -> list[tuple[NamedPath, list[str]]]:
    """Return the files that flags point into, each with the hosts that need it and lack it."""
    lacking: dict[NamedPath, list[str]] = {}
    for replica in rollout.service.replicas:
        for node in replica.nodes:
            for one in rollout.named_paths(replica, node):
                if node.name in found and one.path not in found[node.name]:
                    lacking.setdefault(one, []).append(node.name)
    return list(lacking.items())


def named_path_notes(rollout: Rollout, found: Mapping[str, frozenset[str]]) -> Iterator[str]:
    """Yield what is mounted because flags point into it, and what is not, and where it lacks."""
    replica = rollout.service.replicas[0]
    mounted = rollout.named_paths(replica, replica.head)
    if mounted:
        paths = joined((f"{one.path} ({one.where})" for one in mounted), ", ")
        yield phrase("mounted read-only, since the engine's flags name it: {paths}", paths=paths)
    for one in replica.named_paths:
        if one.in_image:
            yield phrase(
                "{path} ({where}) is looked for in the image; `runtime.mounts` takes it from "
                "the hosts",
                path=one.path, where=one.where,
            )  # fmt: skip
    for one, hosts in missing_paths(rollout, found):
        yield phrase(
            "{path} ({where}): not on {hosts}",
            path=one.path, where=one.where, hosts=joined(hosts, ", "),
        )  # fmt: skip


def privileged_others(
    rollout: Rollout, facts: Facts, own_containers: frozenset[str]
) -> Iterator[str]:
    """Yield a note for each foreign container that could use every NPU and was given none by name.

    Exporters of metrics run so on many hosts and compute nothing; a process of one that does is
    seen on its NPU, and `ropeway doctor`'s checks refuse that.
    """
    hosts_of: dict[str, list[str]] = {}
    for host in rollout.containers_by_host:
        docker = facts[host].docker if host in facts else None
        for container in docker.containers if docker else ():
            if container.privileged and container.name not in own_containers:
                hosts_of.setdefault(container.name, []).append(host)
    for name, hosts in hosts_of.items():
        where: str = joined(hosts[:3], ", ")
        if len(hosts) > 3:
            where = phrase("{hosts} and {n} more", hosts=where, n=len(hosts) - 3)
        yield phrase(
            "`{name}` is privileged and could use every NPU of {hosts}", name=name, hosts=where
        )


def _check_runtime(rollout: Rollout, hosts: Facts) -> None:
    command = rollout.service.spec.runtime.command
    engines = {name: facts.docker for name, facts in hosts.items() if facts.docker is not None}
    other = {
        name: phrase(
            "`{command}` is {engine} {version}",
            command=command, engine=engine.engine, version=engine.version,
        )
        for name, engine in engines.items()
        if engine.engine not in (None, command)
    }  # fmt: skip
    _fail(
        other,
        phrase("another container engine answers to `{command}`", command=command),
        phrase("name the one that is there: `runtime: {{command: podman}}`, or install it"),
    )


def _check_disk(rollout: Rollout, hosts: Facts, fetching: frozenset[str]) -> None:
    full = {}
    for name, facts in hosts.items():
        free = facts.disk_free_bytes
        need = _IMAGE_BYTES if name in fetching else _LEAST_BYTES
        if free is None or free >= need:
            continue
        sizes = {"free": format_bytes(free), "need": format_bytes(need)}
        full[name] = (
            phrase("{free} free, and the image takes up to {need}", **sizes)
            if name in fetching
            else phrase("{free} free, and logs and caches take up to {need}", **sizes)
        )
    command = rollout.service.spec.runtime.command
    _fail(
        full,
        phrase("the disk is too full"),
        phrase("free some room there; `{command} image prune` removes old images", command=command),
    )


def _check_npus(rollout: Rollout, hosts: Facts, own_containers: frozenset[str]) -> None:
    """Refuse NPUs that a container has. Whether a process uses one is a check of doctor's."""
    devices: dict[str, set[int]] = {}
    for replica in rollout.service.replicas:
        for node in replica.nodes:
            devices.setdefault(node.name, set()).update(node.devices)
    held = {}
    for name, facts in hosts.items():
        users = [
            one.name
            for one in (facts.docker.containers if facts.docker else ())
            if devices.get(name, set()) & set(one.devices) and one.name not in own_containers
        ]
        if users:
            names = joined((f"`{user}`" for user in users), ", ")
            held[name] = phrase("container {names}", names=names)
    _fail(
        held,
        phrase("containers have the NPUs that the service needs"),
        phrase(
            "end them on that host (`{command} stop NAME`), or leave those NPUs out with `devices`",
            command=rollout.service.spec.runtime.command,
        ),
    )


def _check_ports(rollout: Rollout, hosts: Facts, own_ports: frozenset[tuple[str, int]]) -> None:
    """Refuse ports that the service will open and that are in use."""
    for port in rollout.ports:
        facts = hosts.get(port.host)
        own = (port.host, port.number) in own_ports
        if facts is None or port.number not in facts.ports or own:
            continue
        program = facts.ports[port.number]
        end = phrase("end it: `ss -ltnp sport = :{port}` on that host names it", port=port.number)
        settable = port.number == rollout.service.spec.serve.port
        raise CheckFailed(
            phrase(
                "port {port} is in use on {host}, and {purpose} needs it",
                port=port.number, host=port.host, purpose=port.purpose,
            ),
            where=port.host,
            evidence=(phrase("`{program}` listens there", program=program),) if program else (),
            hint=joined((end, phrase("or set `serve.port`")), "\n") if settable else end,
        )  # fmt: skip


def _fail(reasons: Mapping[str, str], what: str, hint: str) -> None:
    """Raise CheckFailed if there are reasons: host → why."""
    if reasons:
        raise CheckFailed(
            what,
            where=joined(reasons, ", "),
            evidence=tuple(
                phrase("{host}: {reason}", host=name, reason=reason)
                for name, reason in reasons.items()
            ),
            hint=hint,
        )

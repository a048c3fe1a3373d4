"""What would make a start fail, noticed before anything is started. Pure: facts in, a refusal out.

Each check returns the hosts that fail it, with the reason of each.
"""

from collections.abc import Mapping

from ropeway.errors import Refused
from ropeway.facts.host import HostFacts
from ropeway.launch.rollout import Rollout
from ropeway.units import format_bytes

# An image of vLLM-Ascend is 15 GB to pull (recorded: the two-host report in docs/benchmarks.md) and
# is unpacked beside that.
_IMAGE_BYTES = 30_000_000_000
# Logs, scripts, and what the engine compiles.
_LEAST_BYTES = 1_000_000_000

Facts = Mapping[str, HostFacts]
Reasons = dict[str, str]  # host → why


def check_hosts(
    rollout: Rollout,
    facts: Facts,
    *,
    fetching: frozenset[str] = frozenset(),
    own_containers: frozenset[str] = frozenset(),
    own_ports: frozenset[int] = frozenset(),
) -> None:
    """Raise Refused for the first thing that is in the way, with all hosts that it concerns.

    fetching        names of hosts that have to fetch the image
    own_containers  names of the service's containers that run now: they go, or stay as its own
    own_ports       the ports that these have
    """
    hosts = {name: facts[name] for name in facts if name in rollout.containers_by_host}
    for error in (
        _runtime(rollout, hosts),
        _disk(rollout, hosts, fetching),
        _model(rollout, hosts),
        _npus(rollout, hosts, own_containers),
    ):
        if error is not None:
            raise error
    _ports(rollout, hosts, own_ports)


def _runtime(rollout: Rollout, hosts: Facts) -> Refused | None:
    command = rollout.service.spec.runtime.command
    engines = {name: facts.docker for name, facts in hosts.items() if facts.docker is not None}
    away = {
        name: engine.problem or "it does not answer"
        for name, engine in engines.items()
        if engine.version is None
    }
    if away:
        return _error(away, f"`{command}` cannot be used", "`ropeway doctor` says more")
    other = {
        name: f"`{command}` is {engine.engine} {engine.version}"
        for name, engine in engines.items()
        if engine.engine not in (None, command)
    }
    return _error(
        other,
        f"another container engine answers to `{command}`",
        "name the one that is there: `runtime: {command: podman}`, or install it",
    )


def _disk(rollout: Rollout, hosts: Facts, fetching: frozenset[str]) -> Refused | None:
    full = {}
    for name, facts in hosts.items():
        need = _IMAGE_BYTES if name in fetching else _LEAST_BYTES
        purpose = "the image takes" if name in fetching else "logs and caches take"
        free = facts.disk_free_bytes
        if free is not None and free < need:
            full[name] = f"{format_bytes(free)} free, and {purpose} up to {format_bytes(need)}"
    return _error(
        full,
        "the disk is too full",
        "free some room there;"
        f" `{rollout.service.spec.runtime.command} image prune` removes old images",
    )


def _model(rollout: Rollout, hosts: Facts) -> Refused | None:
    """Refuse a model that is not whole, and the same, on every host."""
    path = rollout.service.replicas[0].model
    push = f"copy it from a host that has it: `ropeway model push {path}`"
    models = {name: facts.model for name, facts in hosts.items() if facts.model is not None}
    broken: Reasons = {}
    sizes = {}
    for name, model in models.items():
        if model.fault:
            broken[name] = model.problem or model.fault
        else:
            sizes[name] = {file: size for file, size in model.sizes.items() if _counts(file)}
    if broken:
        return _error(broken, f"the model {path} is not whole on every host", push)
    first = next(iter(sizes), "")
    different = {
        name: f"differs from that of {first}" for name in sizes if sizes[name] != sizes[first]
    }
    return _error(different, f"hosts have different files in {path}", push)


def _counts(file: str) -> bool:
    """Return whether a file makes two copies of a model differ."""
    return file.endswith((".safetensors", ".bin")) or file == "config.json"


def _npus(rollout: Rollout, hosts: Facts, own_containers: frozenset[str]) -> Refused | None:
    """Refuse NPUs that a container, or a process on the host, already uses."""
    command = rollout.service.spec.runtime.command
    devices: dict[str, set[int]] = {}
    for replica in rollout.service.replicas:
        for node in replica.nodes:
            devices.setdefault(node.name, set()).update(node.devices)
    held: Reasons = {}
    for name, facts in hosts.items():
        users = _users(facts, devices.get(name, set()), own_containers)
        if users:
            held[name] = ", ".join(users)
    return _error(
        held,
        "the NPUs that the spec names are in use",
        f"end it on that host (`{command} stop NAME`, `kill PID`), or leave those NPUs out with"
        " `devices`",
    )


def _users(facts: HostFacts, devices: set[int], own_containers: frozenset[str]) -> list[str]:
    """Name the foreign containers, else the foreign processes, that have one of these NPUs."""
    running = facts.docker.containers if facts.docker else ()
    own = {device for one in running if one.name in own_containers for device in one.devices}
    containers = [
        f"container `{one.name}`"
        for one in running
        if devices & set(one.devices) and one.name not in own_containers
    ]
    return containers or [
        f"`{process.name}` (pid {process.pid}) on /dev/davinci{npu.device}"
        for npu in facts.npus
        if npu.device in devices - own
        for process in npu.processes
        if process.alive
    ]


def _ports(rollout: Rollout, hosts: Facts, own_ports: frozenset[int]) -> None:
    """Refuse ports that the service will open and that are in use."""
    for port in rollout.ports:
        facts = hosts.get(port.host)
        if facts is None or port.number not in facts.ports or port.number in own_ports:
            continue
        program = facts.ports[port.number]
        raise Refused(
            f"port {port.number} is in use on {port.host}, and {port.purpose} needs it",
            where=port.host,
            evidence=(f"`{program}` listens there",) if program else (),
            hint=f"end it (`ss -ltnp sport = :{port.number}` on that host names it)"
            + (", or set `serve.port`" if port.number == rollout.service.spec.serve.port else ""),
        )


def _error(reasons: Mapping[str, str], what: str, hint: str) -> Refused | None:
    if not reasons:
        return None
    return Refused(
        what,
        where=", ".join(reasons),
        evidence=tuple(f"{name}: {reason}" for name, reason in reasons.items()),
        hint=hint,
    )

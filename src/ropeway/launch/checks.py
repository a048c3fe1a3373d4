"""What would make a start fail, seen before anything is started. Pure: facts in, a refusal out."""

from collections.abc import Mapping

from ropeway.errors import Refused
from ropeway.facts.host import HostFacts
from ropeway.launch.containers import containers, ports
from ropeway.launch.service import Service
from ropeway.units import format_bytes

# An image of vLLM-Ascend is 15 GB to pull (recorded: the two-host report in docs/benchmarks.md) and
# is unpacked beside that.
_IMAGE_BYTES = 30_000_000_000
# Logs, scripts, and what the engine compiles.
_LEAST_BYTES = 1_000_000_000


def check_hosts(
    service: Service,
    facts: Mapping[str, HostFacts],
    *,
    fetching: frozenset[str] = frozenset(),
    replaced: frozenset[str] = frozenset(),
    freed: frozenset[int] = frozenset(),
) -> None:
    """Raises Refused for the first thing that is in the way, with all hosts that it concerns.

    fetching  names of hosts that have to fetch the image
    replaced  names of containers that will go, or stay as our own; freed: the ports they have
    """
    for error in (
        _runtime(service, facts),
        _disk(service, facts, fetching),
        _model(service, facts),
        _npus(service, facts, replaced),
    ):
        if error is not None:
            raise error
    _ports(service, facts, freed)


def _runtime(service: Service, facts: Mapping[str, HostFacts]) -> Refused | None:
    command = service.spec.runtime.command
    away = {
        name: found.problem or "it does not answer"
        for name in _names(service, facts)
        if (found := facts[name].docker) is not None and found.version is None
    }
    if away:
        return _error(away, f"`{command}` cannot be used", "`ropeway doctor` says more")
    other = {
        name: f"`{command}` is {found.engine} {found.version}"
        for name in _names(service, facts)
        if (found := facts[name].docker) is not None and found.engine not in (None, command)
    }
    return _error(
        other,
        f"another container engine answers to `{command}`",
        "name the one that there is: `runtime: {command: podman}`, or install it",
    )


def _disk(
    service: Service, facts: Mapping[str, HostFacts], fetching: frozenset[str]
) -> Refused | None:
    full = {}
    for name in _names(service, facts):
        need = _IMAGE_BYTES if name in fetching else _LEAST_BYTES
        what = "the image takes" if name in fetching else "logs and caches take"
        free = facts[name].disk_free_bytes
        if free is not None and free < need:
            full[name] = f"{format_bytes(free)} free, and {what} up to {format_bytes(need)}"
    return _error(
        full,
        "the disk is too full",
        f"free some room there; `{service.spec.runtime.command} image prune` removes old images",
    )


def _model(service: Service, facts: Mapping[str, HostFacts]) -> Refused | None:
    """The same whole model on every host."""
    path = service.replicas[0].model
    push = f"copy it from a host that has it: `ropeway model push {path}`"
    bad = {}
    sizes = {}
    for name in _names(service, facts):
        model = facts[name].model
        if model is None:
            continue
        if not model.there:
            bad[name] = model.problem or "it is not there"
        elif model.missing or model.short:
            bad[name] = f"incomplete: {', '.join((*model.missing, *model.short)[:3])}"
        else:
            sizes[name] = {file: size for file, size in model.sizes.items() if _weighs(file)}
    if bad:
        return _error(bad, f"the model {path} is not whole on every host", push)
    first = next(iter(sizes), None)
    other = {
        name: f"differs from that of {first}" for name in sizes if sizes[name] != sizes[str(first)]
    }
    return _error(other, f"hosts have different files in {path}", push)


def _weighs(file: str) -> bool:
    return file.endswith((".safetensors", ".bin")) or file == "config.json"


def _npus(
    service: Service, facts: Mapping[str, HostFacts], replaced: frozenset[str]
) -> Refused | None:
    """Whether somebody else holds the NPUs: a container, or a process on the host."""
    command = service.spec.runtime.command
    held: dict[str, str] = {}
    for name in _names(service, facts):
        host = facts[name]
        wanted = {
            device
            for replica in service.replicas
            for node in replica.nodes
            if node.name == name
            for device in node.devices
        }
        there = host.docker.containers if host.docker else ()
        own = {device for one in there if one.name in replaced for device in one.devices}
        found = [
            f"container `{one.name}`"
            for one in there
            if wanted & set(one.devices) and one.name not in replaced
        ] or [
            f"`{one.name}` (pid {one.pid}) on /dev/davinci{npu.device}"
            for npu in host.npus
            if npu.device in wanted - own
            for one in npu.processes
            if one.alive
        ]
        if found:
            held[name] = ", ".join(found)
    return _error(
        held,
        "NPUs that are asked for belong to somebody else",
        f"end it on that host (`{command} stop NAME`, `kill PID`), or leave those NPUs out with"
        " `devices`",
    )


def _ports(service: Service, facts: Mapping[str, HostFacts], own: frozenset[int]) -> None:
    """Ports that will be opened, and are taken."""
    for name, port, what in ports(service):
        host = facts.get(name)
        if host is None or port not in host.ports or port in own:
            continue
        program = host.ports[port]
        raise Refused(
            f"port {port} is in use on {name}, and {what} needs it",
            where=name,
            evidence=(f"`{program}` listens there",) if program else (),
            hint=f"end it (`ss -ltnp sport = :{port}` on that host names it)"
            + (", or set `serve.port`" if port == service.spec.serve.port else ""),
        )


def _names(service: Service, facts: Mapping[str, HostFacts]) -> tuple[str, ...]:
    used = {one.host for one in containers(service)}
    return tuple(name for name in facts if name in used)


def _error(found: Mapping[str, str], what: str, hint: str) -> Refused | None:
    if not found:
        return None
    return Refused(
        what,
        where=", ".join(found),
        evidence=tuple(f"{name}: {why}" for name, why in found.items()),
        hint=hint,
    )

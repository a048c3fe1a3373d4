"""From a spec and what is known of its hosts to a complete Service, or a refusal. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass

from ropeway.engines.ascend_backends import backend_for
from ropeway.engines.ascend_flags import is_given
from ropeway.engines.ascend_memory import dispatch_mebibytes
from ropeway.engines.ascend_releases import (
    TAG_SUFFIXES,
    Release,
    image_tag,
    multiplies_yarn,
    taken_release,
)
from ropeway.engines.base import Node, Ports
from ropeway.engines.placement import shares
from ropeway.engines.vllm import context_doubt, served_shape, unknown_context
from ropeway.engines.vllm_ascend import AscendReplica
from ropeway.errors import CheckFailed, Refused
from ropeway.facts.ascend.driver import USUAL
from ropeway.facts.ascend.npu_smi import chip_family
from ropeway.facts.host import HostFacts
from ropeway.hardware import Chip, Family, chip_named
from ropeway.launch.docker import reboot_notes
from ropeway.launch.lock import ROOTS_FOLDER
from ropeway.launch.rollout import Router, Service, Site, container_name
from ropeway.launch.served_model import ServedModel
from ropeway.models.shape import ModelShape
from ropeway.models.task import task_of
from ropeway.phrases import joined, phrase
from ropeway.spec.cluster import RemoteHost
from ropeway.spec.model import Layout, Spec
from ropeway.spec.types import bracketed, is_loopback
from ropeway.units import counted


def place(layout: Layout, replicas: int, hosts: Sequence[Node]) -> tuple[tuple[Node, ...], ...]:
    """Return the nodes of each replica, filled from the first host on.

    Each lies on as few hosts as hold it (engines/placement.py). Raises Refused without room.
    """
    free = [list(node.devices) for node in hosts]
    placed = []
    for number in range(replicas):
        taken = shares(layout, [len(devices) for devices in free])
        if taken is None:
            raise _no_room(layout, replicas, number, hosts)
        nodes = []
        for host, count in taken:
            devices = tuple(free[host][:count])
            free[host] = free[host][count:]
            node = hosts[host]
            nodes.append(Node(node.name, node.address, count, node.nic, devices))
        placed.append(tuple(nodes))
    return tuple(placed)


@dataclass(frozen=True)
class Part:
    """A container that a service should have. `unit`: its replica, None for the router."""

    name: str
    host: str
    unit: int | None


def parts_of(spec: Spec) -> tuple[Part, ...]:
    """Return what a service should have by its spec alone, in the order of Rollout.containers."""
    nodes = [
        Node(name, host.address, host.npus, "", _devices(host))
        for name, host in zip(spec.cluster.host_names, spec.cluster.hosts or (), strict=True)
    ]
    placed = place(spec.serve.layout, spec.serve.replicas, nodes)
    parts = [
        Part(container_name(spec.name, number, rank), node.name, number)
        for number, nodes in enumerate(placed)
        for rank, node in enumerate(nodes)
    ]
    router = Part(container_name(spec.name, None), placed[0][0].name, None)
    return (*parts, *((router,) if len(placed) > 1 else ()))


def _devices(host: RemoteHost) -> tuple[int, ...]:
    return host.devices or tuple(range(host.npus))


def _no_room(layout: Layout, replicas: int, placed: int, hosts: Sequence[Node]) -> Refused:
    sizes = joined((f"{node.name}: {len(node.devices)}" for node in hosts), ", ")
    total = counted(sum(len(node.devices) for node in hosts), "NPU")
    room = phrase("there is room for {n}", n=placed) if placed else phrase("the hosts hold none")
    return Refused(
        phrase(
            "{layout} takes {npus} NPUs, and {room}"
            if replicas == 1
            else "{layout} take {npus} NPUs, and {room}",
            layout=layout.times(replicas), npus=replicas * layout.npus, room=room,
        ),
        where="serve.layout" if replicas == 1 else "serve.replicas",
        evidence=(phrase("{npus}: {sizes}", npus=total, sizes=sizes),),
        hint=phrase(
            "take a smaller layout, fewer replicas, or more hosts; `ropeway plan` shows what fits"
        ),
    )  # fmt: skip


@dataclass(frozen=True)
class Inputs:
    """What is known when a service is completed.

    facts     host's name → its facts; a host that was not asked, or did not answer, has none
    versions  package → version, as the image itself says; empty as long as there is no image
    image     what containers run: the image of the spec, or the one derived from it
    """

    facts: Mapping[str, HostFacts]
    versions: Mapping[str, str]
    image: str
    model: ServedModel


def complete(spec: Spec, names: Sequence[str], inputs: Inputs) -> Service:
    """Fill every blank of a spec. `names` are the hosts' names, in the order of the spec.

    Raises Refused, with the place in the spec, for what cannot work.
    """
    hosts, serve = spec.cluster.hosts or (), spec.serve
    assumed = list(inputs.model.assumed)
    sites = tuple(
        _site(spec, host, name, inputs.facts.get(name), assumed)
        for host, name in zip(hosts, names, strict=True)
    )
    release = release_for(spec, inputs.versions, inputs.image)
    family = family_of(spec, tuple(inputs.facts.values()), assumed)
    placed = place(serve.layout, serve.replicas, [site.node for site in sites])
    router = None
    if serve.replicas > 1:
        router = Router(placed[0][0].name, serve.address, serve.port)
    replicas = tuple(
        _replica(spec, inputs, nodes, number, (release, family), router)
        for number, nodes in enumerate(placed)
    )
    for replica in replicas:
        replica.check(inputs.model.shape)
    _check_addresses(replicas, router)
    _check_key(spec, replicas)
    used = {node.name for replica in replicas for node in replica.nodes}
    later = reboot_notes(spec.runtime.command) if serve.restart else ()
    yarn = multiplies_yarn(release.version)
    return Service(
        spec=spec,
        image=inputs.image,
        sites=tuple(site for site in sites if site.name in used),
        replicas=replicas,
        router=router,
        assumed=tuple(dict.fromkeys(assumed)),
        notes=(
            *dict.fromkeys(replicas[0].notes(inputs.model.shape)),
            *_context_notes(spec, served_shape(inputs.model.shape, serve, multiplies_yarn=yarn)),
            *_idle_notes(serve.layout.times(serve.replicas), [site.node for site in sites], placed),
            *later,
        ),
        task=task_of(inputs.model.shape, serve.engine_args),
    )


def _context_notes(spec: Spec, shape: ModelShape) -> tuple[str, ...]:
    """Say which context the engine takes when nobody has chosen one."""
    context = spec.serve.context
    if doubt := context_doubt(shape, context):
        return doubt
    if unknown := unknown_context(shape, context):
        return unknown
    if context is not None:
        return ()
    return (
        phrase(
            "`serve.context` is not set, so the engine takes the model's: {tokens:,} tokens",
            tokens=shape.max_positions,
        ),
    )


def _idle_notes(
    engines: str, hosts: Sequence[Node], placed: Sequence[Sequence[Node]]
) -> tuple[str, ...]:
    """Say which NPUs of the spec no engine uses."""
    used = Counter[str]()
    for node in (node for nodes in placed for node in nodes):
        used[node.name] += len(node.devices)
    left = {node.name: len(node.devices) - used[node.name] for node in hosts}
    if not any(left.values()):
        return ()
    idle = [
        phrase("{npus} on {host}", npus=counted(npus, "NPU"), host=host) if used[host] else host
        for host, npus in left.items()
        if npus
    ]
    return (
        phrase(
            "NPUs in use: {n} of {total} ({engines}); idle: {idle}",
            n=used.total(),
            total=used.total() + sum(left.values()),
            engines=engines,
            idle=joined(idle, ", "),
        ),
    )


def release_for(spec: Spec, versions: Mapping[str, str], image: str) -> Release:
    """Return the release whose commands to use, as `taken_release` finds it.

    It is the one that the image says it has, else that of the image's name, else that of the spec,
    else the newest stable one; `serve.release_like` decides whose rules hold. Raises Refused.
    """
    named = image if image_tag(image) else spec.runtime.image
    found = versions.get("vllm_ascend", "")
    return taken_release(named, spec.serve.version, spec.serve.release_like, found)


def family_of(spec: Spec, facts: Sequence[HostFacts], assumed: list[str]) -> Family:
    """Return A2, A3, 310P or 950: by the NPUs that the hosts have, else by `cluster.chip`."""
    for host in facts:
        for npu in host.npus:
            family = chip_family(npu.name) if npu.name else "A2"
            if family is None or family not in TAG_SUFFIXES:
                what = phrase("no image of vLLM-Ascend is for `{chip}`", chip=npu.name)
                raise CheckFailed(what, where=host.name)
            return family
    if spec.cluster.chip:
        return chip_named(spec.cluster.chip).family
    assumed.append(
        phrase("the NPUs are of the A2 generation (910B); `cluster.chip` says which they are")
    )
    return "A2"


def chip_of(spec: Spec, facts: Sequence[HostFacts]) -> Chip | None:
    """Return the chip of `cluster.chip`, else the one that the hosts have; None where its name does
    not say which it is, or no host has answered."""
    if spec.cluster.chip:
        return chip_named(spec.cluster.chip)
    names = [npu.name for host in facts for npu in host.npus if npu.name]
    try:
        return chip_named(names[0]) if names else None
    except Refused:
        return None


def _site(
    spec: Spec, host: RemoteHost, name: str, facts: HostFacts | None, assumed: list[str]
) -> Site:
    devices = _devices(host)
    nic = host.nic or spec.cluster.nic
    if facts is None:
        root = host.user in (None, "root")
        home = "/root" if root else f"/home/{host.user}"
        address, nic, driver = host.address, nic or "eth0", USUAL
        assumed.append(
            phrase(
                "{name}: others reach it at {address}, and its interface is {nic}",
                name=name, address=address, nic=nic,
            )
        )  # fmt: skip
        assumed.append(
            phrase(
                "{name}: it has the usual files of the driver, and {npus}",
                name=name, npus=counted(len(devices), "NPU"),
            )
        )  # fmt: skip
    else:
        root, home = bool(facts.root), facts.home or "/root"
        nic, address = facts.reached_by(nic)
        driver = tuple(sorted(facts.paths))
        there = facts.devices or tuple(npu.device for npu in facts.npus)
        if host.devices is None and len(there) >= host.npus:
            devices = there[: host.npus]
        _check_devices(name, devices, there, facts)
    node = Node(name, address, len(devices), nic, devices)
    folder = ROOTS_FOLDER if root else f"{home}/.ropeway"
    return Site(node, folder, spec.runtime.cache or f"{home}/.cache", driver)


def _check_devices(
    name: str, devices: Sequence[int], there: Sequence[int], facts: HostFacts
) -> None:
    """Raise CheckFailed for NPUs that are not `there` on the host."""
    missing = [f"/dev/davinci{number}" for number in devices if number not in there]
    if not missing:
        return
    numbers, problem = joined(map(str, there), ", "), facts.npu_problem
    raise CheckFailed(
        phrase(
            "{name} has {npus}, but not {missing}",
            name=name, npus=counted(len(there), "NPU"), missing=joined(missing, ", "),
        ),
        where=name,
        evidence=(
            *((phrase("there: {numbers}", numbers=numbers),) if there else ()),
            *((f"npu-smi: {problem.message}",) if problem else ()),
        ),
        hint=phrase(
            "`ropeway doctor` says what is wrong with NPUs; or correct `npus` or `devices` in the"
            " spec (`npu-smi info` lists what the host has)"
        ),
    )  # fmt: skip


def _replica(
    spec: Spec,
    inputs: Inputs,
    nodes: tuple[Node, ...],
    number: int,
    engine: tuple[Release, str],
    router: Router | None,
) -> AscendReplica:
    """Return one engine. Ports differ by the replica's number: two heads may share a host."""
    serve = spec.serve
    release, family = engine
    path = spec.model.path or ""
    if router is None:
        address, port = serve.address, serve.port
    else:
        here = nodes[0].name == router.host
        address, port = "127.0.0.1" if here else nodes[0].address, serve.port + 1 + number
    return AscendReplica(
        nodes=nodes,
        model=path,
        served_name=spec.model.served_name or path.rstrip("/").rpartition("/")[2],
        layout=serve.layout,
        serve=serve,
        release=release,
        family=family,
        backend=backend_for(serve.layout, nodes, release, serve.backend),
        scheme=inputs.model.scheme,
        address=address,
        port=port,
        ports=Ports(*(first + number for first in astuple(Ports()))),
        privileged=spec.runtime.privileged,
        ray=inputs.versions.get("ray", ""),
        buffers=dispatch_mebibytes(
            inputs.model.shape,
            serve.layout,
            release.version,
            family,
            serve,
            eager=is_given(serve.engine_args, "enforce-eager"),
        ),
    )


def _check_key(spec: Spec, replicas: Sequence[AscendReplica]) -> None:
    """Raise Refused for a replica that others reach over the network, and that has no key."""
    exposed = [replica for replica in replicas if not is_loopback(replica.address)]
    if exposed and not spec.serve.api_key_env:
        address = f"{bracketed(exposed[0].address)}:{exposed[0].port}"
        raise Refused(
            phrase("an engine would listen at {address} without a key", address=address),
            where="serve.replicas",
            hint=phrase(
                "replicas on several hosts need `serve.api_key_env`: the name of an environment"
                " variable that holds the key"
            ),
        )


def _check_addresses(replicas: Sequence[AscendReplica], router: Router | None) -> None:
    """Raise Refused for a loopback address of hosts that have to reach each other."""
    several = any(len(one.nodes) > 1 for one in replicas) or router is not None
    names = {node.name: node.address for one in replicas for node in one.nodes}
    if not several or len(names) == 1:
        return
    isolated = [name for name, address in names.items() if is_loopback(address)]
    if isolated:
        raise Refused(
            phrase(
                "the address of {hosts} is one that other hosts cannot reach",
                hosts=joined(isolated, ", "),
            ),
            where="cluster.hosts",
            evidence=tuple(f"{name}: {names[name]}" for name in isolated if name != names[name]),
            hint=phrase("name the interface between the hosts: `nic: …` below `cluster`"),
        )

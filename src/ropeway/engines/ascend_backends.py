"""How the hosts of one replica are joined, by the release: Ray, or vLLM itself.

Both ways have limits that came off release by release; each constant says where that was read.
"""

from typing import Literal

from ropeway.engines.ascend_releases import Release, order
from ropeway.engines.base import Node, check_size
from ropeway.errors import Refused
from ropeway.spec.model import Layout

# How the hosts of one replica are joined: Ray, or vLLM itself. "mp" is processes of one host, data
# parallel with a headless vLLM on each further host, or `--nnodes`, as the layout asks.
Backend = Literal["ray", "mp"]

# vllm_ascend/patch/platform/patch_multiproc_executor.py reads nnodes_within_dp since v0.12.0rc1;
# its documents run `--nnodes` since v0.13.0 (long_sequence_context_parallel_multi_node.md).
NODES_SINCE = "0.12.0rc1"
NODES_DOCUMENTED = "0.13.0rc1"
# Before, CoreEngineActorManager looked for the resource "GPU" by name (vllm/v1/engine/utils.py).
RAY_DATA_SINCE = "0.11.0rc0"
# VLLM_RAY_DP_PACK_STRATEGY=span: a data rank may be larger than a host (vllm/envs.py of 0.12.0).
RAY_SPAN_SINCE = "0.12.0rc1"


def data_ranks(layout: Layout, nodes: tuple[Node, ...]) -> tuple[int, ...] | None:
    """Data ranks for each node, as even as their NPUs allow; None when one is larger than a host.

    Every node gets at least one: a host that would be idle is a fault of who chose the hosts.
    """
    engine = layout.tensor * layout.pipeline
    room = [node.npus // engine for node in nodes]
    if sum(room) < layout.data or layout.data < len(nodes) or 0 in room:
        return None
    shares = [0] * len(nodes)
    for _ in range(layout.data):
        freest = min(
            (index for index in range(len(nodes)) if shares[index] < room[index]),
            key=lambda index: shares[index],
        )
        shares[freest] += 1
    return tuple(shares)


def backend_for(
    layout: Layout, nodes: tuple[Node, ...], release: Release, wanted: Backend | None = None
) -> Backend:
    """What joins the hosts of a replica: `wanted`, or what this release's documents use.

    One host needs nothing but processes. Data ranks that fit into hosts are joined by vLLM in every
    release; an engine larger than a host is by Ray, and by vLLM from v0.13.0rc1 on.
    Raises LayoutError when the hosts have too few NPUs, Refused when `wanted` cannot.
    """
    check_size(layout, nodes)
    if wanted == "ray":
        _check_ray(layout, nodes, release)
        return "ray"
    if len(nodes) == 1 or (layout.data > 1 and data_ranks(layout, nodes)):
        return "mp"
    reason = _why_not_nodes(layout, nodes, release)
    if wanted == "mp":
        if reason:
            raise Refused(
                f"`mp` cannot join these hosts for {layout}",
                where=f"vLLM-Ascend {release.version}",
                evidence=(reason,),
                hint="set `serve.backend: ray`",
            )
        return "mp"
    if not reason and order(release.version) >= order(NODES_DOCUMENTED):
        return "mp"
    _check_ray(layout, nodes, release)
    return "ray"


def _check_ray(layout: Layout, nodes: tuple[Node, ...], release: Release) -> None:
    """Data parallel under Ray came late to NPUs, and data ranks over several hosts later still."""
    if layout.data == 1:
        return
    version = release.version
    if order(version) < order(RAY_DATA_SINCE):
        raise Refused(
            "data parallel under Ray does not run on NPUs in this release",
            where=f"vLLM-Ascend {version}",
            evidence=(f"vLLM {release.vllm} asks Ray for the resource GPU (v1/engine/utils.py)",),
            hint=f"`serve.backend: mp`, or {RAY_DATA_SINCE} and later",
        )
    engine = layout.tensor * layout.pipeline
    sizes = {node.npus for node in nodes}
    if engine <= max(sizes):
        if data_ranks(layout, nodes) is None:
            raise Refused(
                f"{layout.data} data ranks do not go over {len(nodes)} hosts, at least one on each",
                where=f"vLLM-Ascend {version}",
                evidence=tuple(f"{n.name}: {n.npus} NPUs, {engine} a rank" for n in nodes),
                hint="fewer hosts, or a layout with more data ranks",
            )
    elif order(version) < order(RAY_SPAN_SINCE) or len(sizes) > 1 or engine % max(sizes):
        old = order(version) < order(RAY_SPAN_SINCE)
        raise Refused(
            "Ray cannot place data ranks that are larger than a host"
            + (" in this release" if old else ", unless they fill hosts of one size"),
            where=f"vLLM-Ascend {version}",
            evidence=(
                f"{layout}: {engine} NPUs a rank; hosts of {', '.join(map(str, sorted(sizes)))}",
                f"vLLM {release.vllm}, create_dp_placement_groups (v1/engine/utils.py)",
            ),
            hint=(f"{RAY_SPAN_SINCE} and later, or " if old else "")
            + "a layout whose data ranks fit into a host",
        )


def _why_not_nodes(layout: Layout, nodes: tuple[Node, ...], release: Release) -> str:
    """Why vLLM cannot join these hosts to one engine by `--nnodes`; "" when it can."""
    if order(release.version) < order(NODES_SINCE):
        return f"`--nnodes` is in vLLM-Ascend {NODES_SINCE} and later"
    if layout.npus % len(nodes):
        return f"{layout.npus} ranks do not go evenly over {len(nodes)} hosts"
    share = layout.npus // len(nodes)
    short = next((node for node in nodes if node.npus < share), None)
    if short:
        return f"every host runs {share} ranks, and {short.name} has {short.npus} NPUs"
    engine = layout.tensor * layout.pipeline
    if layout.data > 1 and engine % share:
        return f"data ranks of {engine} NPUs do not end where hosts of {share} do"
    return ""

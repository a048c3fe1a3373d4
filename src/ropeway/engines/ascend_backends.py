"""How a release joins the hosts of a replica: with Ray, or by vLLM itself.

Both ways lost limits from release to release; each constant says where that was read.
"""

from heapq import heappop, heappush
from typing import Literal

from ropeway.engines.ascend_releases import Release, order
from ropeway.engines.base import Node, check_size
from ropeway.engines.placement import HostSizes, hosts_needed
from ropeway.engines.placement import shares as shares_of
from ropeway.errors import Refused
from ropeway.phrases import joined, phrase
from ropeway.spec.model import Layout

# "mp" is processes of one host, data parallel with a headless vLLM on each further host, or
# `--nnodes`, as the layout requires.
Backend = Literal["ray", "mp"]

# vllm_ascend/patch/platform/patch_multiproc_executor.py reads nnodes_within_dp since v0.12.0rc1;
# its documents run `--nnodes` since v0.13.0 (long_sequence_context_parallel_multi_node.md).
NODES_SINCE = "0.12.0rc1"
NODES_DOCUMENTED = "0.13.0rc1"
# Before, CoreEngineActorManager looked for the resource "GPU" by name (vllm/v1/engine/utils.py).
RAY_DATA_SINCE = "0.11.0rc0"
# VLLM_RAY_DP_PACK_STRATEGY=span lets a data-parallel rank be larger than a host (vllm/envs.py of
# 0.12.0).
RAY_SPAN_SINCE = "0.12.0rc1"


def data_ranks(layout: Layout, nodes: tuple[Node, ...]) -> tuple[int, ...] | None:
    """Return the number of data-parallel ranks of each node, as even as their NPUs allow.

    Every node gets at least one, since no host may be idle. None when one is larger than a host, or
    when they do not fit.
    """
    room = _rooms(layout, nodes)
    if room is None:
        return None
    shares = [0] * len(nodes)
    open_nodes = [(0, index) for index in range(len(nodes))]  # a heap: the freest first
    for _ in range(layout.data):
        _, freest = heappop(open_nodes)
        shares[freest] += 1
        if shares[freest] < room[freest]:
            heappush(open_nodes, (shares[freest], freest))
    return tuple(shares)


def _rooms(layout: Layout, nodes: tuple[Node, ...]) -> list[int] | None:
    """Return how many data-parallel ranks each node has room for; None as for `data_ranks`."""
    world_size = layout.world_size
    room = [node.npus // world_size for node in nodes]
    lacking = sum(room) < layout.data or layout.data < len(nodes) or 0 in room
    return None if lacking else room


def planned_backend(
    layout: Layout, sizes: HostSizes, release: Release, required: Backend | None
) -> Backend:
    """Return the same as `backend_for`, for hosts of which only the sizes are known, the largest
    first. Raises LayoutError or Refused as it does."""
    hosts = hosts_needed(layout, sizes) or 0
    if hosts == 1 and required is None:
        return "mp"
    npus = [size for size, number in sizes for _ in range(min(number, hosts))][:hosts]
    counts = [count for _, count in shares_of(layout, npus) or ()]
    alike = {count: Node("host", "", count) for count in set(counts)}
    return backend_for(layout, tuple(alike[count] for count in counts), release, required)


def backend_for(
    layout: Layout, nodes: tuple[Node, ...], release: Release, required: Backend | None = None
) -> Backend:
    """Return what joins the hosts of a replica: `required`, or what this release's documents use.

    One host needs nothing but processes. Data-parallel ranks that fit into hosts are joined by vLLM
    in every release; an engine larger than a host is joined by Ray, and by vLLM from v0.13.0rc1 on.
    Raises LayoutError when the hosts have too few NPUs, Refused when `required` cannot join them.
    """
    check_size(layout, nodes)
    if required == "ray":
        _check_ray(layout, nodes, release)
        return "ray"
    if len(nodes) == 1 or (layout.data > 1 and _rooms(layout, nodes)):
        return "mp"
    reason = _why_not_nodes(layout, nodes, release)
    if required == "mp":
        if reason:
            raise Refused(
                phrase("`mp` cannot join these hosts for {layout}", layout=layout),
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
    """Refuse data parallelism under Ray in releases that cannot run it. Raises Refused."""
    if layout.data == 1:
        return
    version = release.version
    if order(version) < order(RAY_DATA_SINCE):
        raise Refused(
            "data parallelism under Ray does not work on NPUs in this release",
            where=f"vLLM-Ascend {version}",
            evidence=(
                phrase(
                    "vLLM {vllm} asks Ray for the resource GPU (v1/engine/utils.py)",
                    vllm=release.vllm,
                ),
            ),
            hint=phrase("`serve.backend: mp`, or {release} and later", release=RAY_DATA_SINCE),
        )
    world_size = layout.world_size
    sizes = sorted({node.npus for node in nodes})
    if world_size <= max(sizes):
        if _rooms(layout, nodes) is None:
            share = "{name}: {npus} NPUs, {world_size} a rank"
            raise Refused(
                phrase(
                    "{ranks} data-parallel ranks do not fill {hosts} hosts",
                    ranks=layout.data,
                    hosts=len(nodes),
                ),
                where=f"vLLM-Ascend {version}",
                evidence=tuple(
                    phrase(share, name=node.name, npus=node.npus, world_size=world_size)
                    for node in nodes
                ),
                hint="fewer hosts, or a layout with more data-parallel ranks",
            )
    elif order(version) < order(RAY_SPAN_SINCE) or len(sizes) > 1 or world_size % max(sizes):
        old = order(version) < order(RAY_SPAN_SINCE)
        what = (
            "Ray cannot place data-parallel ranks that are larger than a host in this release"
            if old
            else "Ray cannot place data-parallel ranks that are larger than a host, unless they "
            "fill hosts of one size"
        )
        smaller = "a layout whose data-parallel ranks fit into a host"
        raise Refused(
            what,
            where=f"vLLM-Ascend {version}",
            evidence=(
                phrase(
                    "{layout}: {world_size} NPUs a rank; hosts of {sizes}",
                    layout=layout,
                    world_size=world_size,
                    sizes=joined(map(str, sizes), ", "),
                ),
                f"vLLM {release.vllm}, create_dp_placement_groups (v1/engine/utils.py)",
            ),
            hint=phrase("{release} and later, or {other}", release=RAY_SPAN_SINCE, other=smaller)
            if old
            else smaller,
        )


def _why_not_nodes(layout: Layout, nodes: tuple[Node, ...], release: Release) -> str:
    """Return why vLLM cannot join these hosts with `--nnodes`; "" when it can."""
    if order(release.version) < order(NODES_SINCE):
        return phrase("`--nnodes` came with vLLM-Ascend {release}", release=NODES_SINCE)
    if layout.npus % len(nodes):
        return phrase(
            "{ranks} ranks cannot be split evenly over {hosts} hosts",
            ranks=layout.npus,
            hosts=len(nodes),
        )
    share = layout.npus // len(nodes)
    short = next((node for node in nodes if node.npus < share), None)
    if short:
        return phrase(
            "every host runs {share} ranks, and {host} has {npus} NPUs",
            share=share,
            host=short.name,
            npus=short.npus,
        )
    world_size = layout.world_size
    if layout.data > 1 and world_size % share:
        return phrase(
            "data-parallel ranks of {world_size} NPUs do not align with hosts of {share}",
            world_size=world_size,
            share=share,
        )
    return ""

"""Every `vllm serve` line that is held against vLLM's parsers: releases × layouts × backends.

`scripts/parse-serve-lines` gives them to the real parsers, `test_ascend_flags.py` to the recorded
options of these.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

from ropeway.engines.ascend_backends import backend_for
from ropeway.engines.ascend_releases import RELEASES, Release, order, release_of
from ropeway.engines.base import Node
from ropeway.engines.vllm_ascend import AscendReplica
from ropeway.errors import Refused
from ropeway.spec.model import Layout, Serve

# Hosts of eight NPUs, and the layouts they take.
LAYOUTS = {
    1: ("TP1", "TP8", "TP8+EP", "TP4×PP2", "DP2×TP4", "DP8+EP"),
    2: ("TP16", "TP16+EP", "TP8×PP2", "TP8×PP2+EP", "DP2×TP8", "DP2×TP8+EP", "DP4×TP4+EP"),
    4: ("TP8×PP4", "DP2×TP16", "DP4×TP8+EP"),
}
FULL = {
    "context": 32768,
    "memory": 0.9,
    "max_sequences": 64,
    "engine_args": {
        "trust-remote-code": True,
        "enable-prefix-caching": False,
        "max-num-batched-tokens": 4096,
        "hf-overrides": {"max_position_embeddings": 32768},
        "block-size": 128,
        "seed": 1024,
    },
}


@dataclass(frozen=True)
class Line:
    """One command of one node. `name` tells it from the others of its release."""

    release: Release
    name: str
    argv: tuple[str, ...]


def hosts(count: int, npus: int = 8) -> tuple[Node, ...]:
    return tuple(
        Node(f"node{index}", f"192.168.0.{10 + index}", npus, "eth0", tuple(range(npus)))
        for index in range(count)
    )


def release(version: str) -> Release:
    row = release_of(version)
    assert row is not None
    return row


def make_replica(
    release: Release,
    layout: str,
    count: int,
    backend: str | None = None,
    *,
    serve: dict[str, object] | None = None,
    scheme: str | None = None,
    family: str = "A2",
) -> AscendReplica:
    """Return a replica on eight-NPU hosts. Raises Refused when `backend` cannot join them."""
    nodes, parsed = hosts(count), Layout.parse(layout)
    return AscendReplica(
        nodes=nodes,
        model="/data/Qwen3-VL-30B-A3B-Instruct",
        served_name="qwen3-vl",
        layout=parsed,
        serve=Serve.model_validate({"layout": parsed, **(serve or {})}),
        release=release,
        family=family,
        backend=backend_for(parsed, nodes, release, backend),
        scheme=scheme,
        address="127.0.0.1",
        port=8000,
    )


def make_replicas(release: Release) -> Iterator[tuple[str, AscendReplica]]:
    """Each with its name: all layouts under both backends, and what else changes a line."""
    for count, layouts in LAYOUTS.items():
        for layout in layouts:
            for backend in ("ray", "mp"):
                try:
                    yield (
                        f"{count} hosts {layout} {backend}",
                        make_replica(release, layout, count, backend),
                    )
                except Refused:
                    continue
    yield "all keys", make_replica(release, "TP8+EP", 1, serve=FULL, scheme="ascend")
    yield "310P", make_replica(release, "TP4", 1, family="310P")
    if order(release.version) >= order("0.19.1rc1"):
        yield "cache size", make_replica(release, "TP8", 1, serve={"kv_cache": "8GiB"})
    if order(release.version) >= order("0.13.0rc2"):
        config = {"additional-config": {"eplb_config": {"num_redundant_experts": 0}}}
        yield "own config", make_replica(release, "TP8+EP", 1, serve={"engine_args": config})


def lines() -> Iterator[Line]:
    """All of them."""
    for release in RELEASES:
        for name, replica in make_replicas(release):
            nodes = replica.nodes[:1] if replica.backend == "ray" else replica.nodes
            for node in nodes:
                yield Line(release, f"{name} {node.name}", replica.serve_argv(node))


def digest(argv: tuple[str, ...]) -> str:
    """Short, to tell whether a line is still the one that was parsed."""
    return hashlib.sha256(json.dumps(argv).encode()).hexdigest()[:12]

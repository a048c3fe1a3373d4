"""What an engine on a chip costs: every constant that the time of a step needs.

Peaks come from `hardware`, what is reached of them and what the host costs were fitted to public
measurements (`constants.json`, written by benchmarks/fit_planner.py). docs/planning.md lists each
with its source.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from importlib import resources
from math import exp
from typing import Literal, get_args

from ropeway.engines.ascend_releases import RELEASES, order
from ropeway.errors import Refused
from ropeway.hardware import Chip, Link

Graph = Literal["eager", "piecewise", "full"]

# Months after December 2024 in which vLLM-Ascend followed a minor version of vLLM, from the dates
# of its releases and of its nightly runs; between them it is interpolated.
_MONTHS = ((7, 5.0), (8, 5.5), (9, 7.5), (10, 8.5), (11, 10.5), (12, 12.0), (13, 13.0), (14, 13.7),
           (27, 20.6), (30, 22.2))  # fmt: skip
_FIRST_FULL_GRAPH = "0.12.0rc1"
_FIRST_GRAPH = "0.9.2rc1"
# Years after 0.12 from which on kernels no longer improve, and the best they reach (an 800T A2
# measured 0.84 to 0.93 in large products, FlagPerf; a model's are smaller).
_KERNELS_SETTLED = 1.0
_BEST_SHARE = 0.8
# Since about 0.12, tokens are split over tensor ranks before they are sent to experts.
_SPLITS_TOKENS = 12.0
_FIRST_UNBLOCKED_SENDS = "0.17.0rc1"  # vllm-ascend PR 7136 and 7143


@dataclass(frozen=True, slots=True)
class EngineTraits:
    """What of an engine's release matters for speed.

    version      of vLLM-Ascend, as published
    graph        how decoding steps are launched
    sends_block  pipeline stages wait for each other's sends
    month        of its release, counted from December 2024: fixed costs shrink as engines age
    name         of the engine; others are compared with the same engine's measurements
    """

    version: str
    graph: Graph = "full"
    sends_block: bool = False
    month: float = 20.0
    name: str = "vLLM-Ascend"


@dataclass(frozen=True, slots=True)
class Machine:
    """One NPU with its engine: rates at their peaks, the share of each reached, fixed costs.

    bf16, int8, fp8      FLOP/s
    memory_bandwidth     bytes/s
    inside, between      links within a host, and to other hosts
    mesh                 NPUs that a full mesh of links joins: n ranks use (n-1)/(mesh-1) of
                         `inside`; 0 where any rank has the whole bandwidth
    matrix, experts, attention   share of the peak in matrix products, in those of routed experts,
                         in attention
    memory, cache        share of the bandwidth reading weights, reading keys and values
    wire                 share of the links' bandwidth
    reduce, exchange     s of one all-reduce, of one all-to-all of small messages within a host
    reduce_rank          s more of either for each rank in it
    between_reduce       s more of either when it crosses hosts
    expert_token         s for each token copy to an expert and layer: sorting, moving, weighing
    layer, moe_layer     s of the host to launch a decoding layer without, and with, experts
    mixed_layer, mixed_moe_layer   the same of steps that hold prompt tokens
    eager_layer, eager_moe_layer   the same of steps larger than any captured graph
    overlap              share of launching that hides behind the NPU's work
    step                 s of the host for each step, in which the NPU waits
    processes            s more of it where ranks are processes of their own: with more than one
    sequence             s of the host for each sequence in a step
    token, request       s of the API server for each output token, each request
    imbalance            work of the fullest expert rank over the mean
    unpacked             of the bandwidth reading weights, the share when they are 4-bit and
                         multiplied in 16: they are unpacked first
    narrow               of what 16-bit products reach, the share that 8-bit ones do
    splits_tokens        expert parallel ranks route only their part of a replica's tokens
    blocked              s lost to sends that block, as a share of the pass, in a long pipeline
    graph                how decoding steps are launched
    chips, engine, month what public measurements are compared by: the kind of chip, the engine's
                         name, "" where there are none, and its release's month
    shared               all ranks share one pool of arithmetic and bandwidth (the local cluster)
    cores                of that pool: where ranks outnumber them, the host's part waits in line
    """

    name: str
    bf16: float
    int8: float
    fp8: float
    memory_bandwidth: float
    inside: Link
    between: Link
    mesh: int = 0
    matrix: float = 0.6
    experts: float = 0.4
    attention: float = 0.3
    memory: float = 0.6
    cache: float = 0.5
    wire: float = 0.5
    reduce: float = 25e-6
    exchange: float = 60e-6
    reduce_rank: float = 0.0
    between_reduce: float = 200e-6
    expert_token: float = 0.1e-6
    layer: float = 0.15e-3
    moe_layer: float = 0.3e-3
    mixed_layer: float = 0.5e-3
    mixed_moe_layer: float = 1.3e-3
    eager_layer: float = 0.7e-3
    eager_moe_layer: float = 3e-3
    overlap: float = 0.7
    step: float = 4e-3
    processes: float = 0.0
    sequence: float = 60e-6
    token: float = 0.0
    request: float = 0.0
    imbalance: float = 1.2
    unpacked: float = 0.3
    narrow: float = 0.7
    splits_tokens: bool = True
    blocked: float = 0.0
    graph: str = ""
    chips: str = ""
    engine: str = ""
    month: float = 0.0
    shared: bool = False
    cores: int = 1


def one_of(machine: Machine, ranks: float) -> Machine:
    """What each of so many ranks at work has: of a machine that they share its part, else all.

    Where they outnumber the cores, the host's part of each waits in line for those of the others.
    """
    if not machine.shared:
        return machine
    line = max(1.0, ranks / machine.cores)
    return replace(
        machine,
        bf16=machine.bf16 / ranks,
        int8=machine.int8 / ranks,
        fp8=machine.fp8 / ranks,
        memory_bandwidth=machine.memory_bandwidth / ranks,
        expert_token=machine.expert_token * ranks,
        layer=machine.layer * line,
        moe_layer=machine.moe_layer * line,
        mixed_layer=machine.mixed_layer * line,
        mixed_moe_layer=machine.mixed_moe_layer * line,
    )


def traits(version: str | None, graph: str | None = None) -> EngineTraits:
    """Of a release (`0.11.0rc0`, a leading v does not matter); None is the newest known.

    `graph` defaults to what the release does by itself: nothing before 0.9.2, pieces before 0.12,
    whole decoding steps since. Raises Refused for a graph mode that does not exist.
    """
    chosen = (version or RELEASES[-1].version).strip().removeprefix("v")
    era = order(chosen)
    if graph is None:
        graph = "eager" if era < order(_FIRST_GRAPH) else "piecewise"
        graph = "full" if era >= order(_FIRST_FULL_GRAPH) else graph
    for known in get_args(Graph):
        if graph == known:
            blocks = era < order(_FIRST_UNBLOCKED_SENDS)
            return EngineTraits(chosen, known, blocks, released(chosen))
    raise Refused(f"unknown graph mode `{graph}`", hint="eager, piecewise or full")


def released(version: str) -> float:
    """Month of a release, counted from December 2024, from its minor version."""
    minor = float(version.split(".")[1])
    (first, month), *rest = _MONTHS
    for second, later in rest:
        if minor <= second:
            return month + (later - month) * max(0.0, minor - first) / (second - first)
        first, month = second, later
    return month


@cache
def fitted() -> Mapping[str, float]:
    """The fitted constants by name."""
    text = resources.files("ropeway.plan").joinpath("constants.json").read_text(encoding="utf-8")
    constants: dict[str, float] = json.loads(text)["constants"]
    return constants


def ascend(
    chip: Chip, engine: EngineTraits, constants: Mapping[str, float] | None = None
) -> Machine:
    """The machine of one NPU of this chip under this engine; `constants` default to the fitted."""
    known = constants or fitted()
    # By a release's age what the host does shrinks each year by the same factor, what is launched
    # layer by layer by another, and products come nearer to the peak by a third.
    years = (engine.month - 12) / 12
    host, launch = exp(-known["host_progress"] * years), exp(-known["launch_progress"] * years)
    skill = exp(known["kernel_progress"] * min(years, _KERNELS_SETTLED))
    graph = engine.graph
    captured = "captured" if graph == "full" else "launched"
    # Pieces between attentions are the same with prompts; whole steps and none at all are not.
    mixed = "piecewise" if graph == "piecewise" else "mixed"
    far = chip.between.latency if chip.family == "A3" else known[f"between_{captured}"]
    return Machine(
        name=chip.name,
        bf16=chip.bf16,
        int8=chip.int8,
        fp8=chip.fp8,
        memory_bandwidth=chip.hbm_bandwidth,
        inside=chip.inside,
        between=chip.between,
        mesh=8 if chip.family == "A2" else 0,
        matrix=min(_BEST_SHARE, known["matrix"] * skill),
        experts=min(_BEST_SHARE, known["experts"] * skill),
        attention=min(_BEST_SHARE, known["attention"] * skill),
        memory=known["memory"],
        cache=known["cache"],
        wire=known["wire"],
        reduce=known["reduce"],
        exchange=known["exchange"],
        between_reduce=far,
        expert_token=known["expert_token"] * launch,
        layer=known[f"layer_{graph}"] * launch,
        moe_layer=known[f"moe_layer_{graph}"] * launch,
        mixed_layer=known[f"layer_{mixed}"] * launch,
        mixed_moe_layer=known[f"moe_layer_{mixed}"] * launch,
        eager_layer=known["layer_eager"] * launch,
        eager_moe_layer=known["moe_layer_eager"] * launch,
        overlap=known["overlap"],
        step=known["step"] * host,
        processes=known["processes"] * host,
        sequence=known["sequence"] * host,
        request=known["request"] * host,
        imbalance=known["imbalance"],
        unpacked=known["unpacked"],
        narrow=known["narrow"],
        splits_tokens=engine.month > _SPLITS_TOKENS,
        blocked=known["blocked"] if engine.sends_block else 0.0,
        graph=graph,
        chips=chip.family,
        engine=engine.name,
        month=engine.month,
    )


@lru_cache(maxsize=256)
def ideal(machine: Machine) -> Machine:
    """The same NPUs with every rate at its peak, nothing lost to latency, and a host without cost.

    Bytes, products and wires are all that is left: no engine is faster.
    """
    return replace(
        machine,
        matrix=1.0, experts=1.0, attention=1.0, memory=1.0, cache=1.0, wire=1.0,
        unpacked=1.0, narrow=1.0, reduce=0.0, exchange=0.0, reduce_rank=0.0, between_reduce=0.0,
        expert_token=0.0, layer=0.0, moe_layer=0.0, mixed_layer=0.0, mixed_moe_layer=0.0,
        eager_layer=0.0, eager_moe_layer=0.0, step=0.0, processes=0.0, sequence=0.0, token=0.0,
        request=0.0, imbalance=1.0, blocked=0.0,
    )  # fmt: skip

"""What an engine on a chip costs: every constant that the time of a step needs.

Peaks come from `hardware`, what is reached of them and what the host costs were fitted to public
measurements (`constants.json`, written by benchmarks/planner/fit.py). docs/planning.md lists each
with its source.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from importlib import resources
from math import exp
from typing import Any, Literal, cast, get_args

from ropeway.engines.ascend_releases import NEWEST_STABLE, order
from ropeway.errors import Refused
from ropeway.hardware import Chip, Link
from ropeway.phrases import phrase

Graph = Literal["eager", "piecewise", "full"]

# Months after December 2024 in which vLLM-Ascend followed a minor version of vLLM, from the dates
# of its releases and of its nightly runs; between them it is interpolated.
_MONTHS = ((7, 5.0), (8, 5.5), (9, 7.5), (10, 8.5), (11, 10.5), (12, 12.0), (13, 13.0), (14, 13.7),
           (27, 20.6), (30, 22.2))  # fmt: skip
_FIRST_FULL_GRAPH = "0.21.0rc1"  # until then the plug-in made vLLM's default of it pieces (#9572)
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
    """What matters for speed about an engine's release.

    version      of vLLM-Ascend, as published
    asked        the release that is taken as this one; "" for itself
    doubts       what of the release is taken from another one
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
    asked: str = ""
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Machine:
    """One NPU with its engine: rates at their peaks, the share of each reached, fixed costs.

    "s" are seconds. By default every rate is at its peak, and the host costs nothing.

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
    processes            s more of it with more than one rank, where each is a process
    sequence             s of the host for each sequence in a step
    request              s of the API server for each request
    imbalance            work of the fullest expert rank over the mean
    unpacked             share of the bandwidth that is left for 4-bit weights multiplied in
                         16 bits: they are unpacked first
    narrow               efficiency of 8-bit products over that of 16-bit ones
    splits_tokens        expert parallel ranks route only their part of a DP rank's tokens
    blocked              time lost to blocking sends in a long pipeline, as a share of the pass
    graph                how decoding steps are launched
    chips, engine, month select public measurements of similar cases: the kind of chip, the
                         engine's name ("" where there are none), the month of its release
    shared               all ranks share one pool of arithmetic and bandwidth (the local cluster)
    cores                of that pool: where ranks outnumber them, the host's work queues
    """

    name: str
    bf16: float
    int8: float
    fp8: float
    memory_bandwidth: float
    inside: Link
    between: Link
    mesh: int = 0
    matrix: float = 1.0
    experts: float = 1.0
    attention: float = 1.0
    memory: float = 1.0
    cache: float = 1.0
    wire: float = 1.0
    reduce: float = 0.0
    exchange: float = 0.0
    reduce_rank: float = 0.0
    between_reduce: float = 0.0
    expert_token: float = 0.0
    layer: float = 0.0
    moe_layer: float = 0.0
    mixed_layer: float = 0.0
    mixed_moe_layer: float = 0.0
    eager_layer: float = 0.0
    eager_moe_layer: float = 0.0
    overlap: float = 0.0
    step: float = 0.0
    processes: float = 0.0
    sequence: float = 0.0
    request: float = 0.0
    imbalance: float = 1.0
    unpacked: float = 1.0
    narrow: float = 1.0
    splits_tokens: bool = True
    blocked: float = 0.0
    graph: str = ""
    chips: str = ""
    engine: str = ""
    month: float = 0.0
    shared: bool = False
    cores: int = 1

    def __hash__(self) -> int:
        # Caches are keyed by machines, and these few fields tell nearly all of them apart.
        return hash((self.name, self.bf16, self.matrix, self.layer, self.step))


def share_of(machine: Machine, ranks: float) -> Machine:
    """Return what each of `ranks` busy ranks has: its share of a machine that they share, or all.

    Where ranks outnumber the cores, the host's work of each waits for that of the others.
    """
    if not machine.shared:
        return machine
    queue = max(1.0, ranks / machine.cores)
    changed: dict[str, Any] = {"expert_token": machine.expert_token * ranks}
    for name in ("bf16", "int8", "fp8", "memory_bandwidth"):
        changed[name] = getattr(machine, name) / ranks
    for name in ("layer", "moe_layer", "mixed_layer", "mixed_moe_layer"):
        changed[name] = getattr(machine, name) * queue
    return replace(machine, **changed)


def traits(version: str | None, graph: str | None = None) -> EngineTraits:
    """Return the traits of a release (`0.11.0rc0`, with or without a v); None is the newest stable.

    `graph` defaults to what the release does by itself: nothing before 0.9.2, pieces before 0.21,
    whole decoding steps since. Raises Refused for a graph mode that does not exist.
    """
    chosen = (version or NEWEST_STABLE.version).strip().removeprefix("v")
    era = order(chosen)
    if graph is None:
        graph = "eager" if era < order(_FIRST_GRAPH) else "piecewise"
        graph = "full" if era >= order(_FIRST_FULL_GRAPH) else graph
    if graph not in get_args(Graph):
        raise Refused(
            phrase("unknown graph mode `{graph}`", graph=graph),
            hint=phrase("there are `eager`, `piecewise` and `full`"),
        )
    blocks = era < order(_FIRST_UNBLOCKED_SENDS)
    return EngineTraits(chosen, cast(Graph, graph), blocks, released(chosen))


def released(version: str) -> float:
    """Return the month of a release, counted from December 2024, from its minor version."""
    minor = float(version.split(".")[1])
    (first, month), *rest = _MONTHS
    for second, later in rest:
        if minor <= second:
            return month + (later - month) * max(0.0, minor - first) / (second - first)
        first, month = second, later
    return month


@cache
def stored_constants() -> Mapping[str, Any]:
    """Return constants.json: `constants`, `similarity` and `interval`, each by name."""
    text = resources.files("ropeway.plan").joinpath("constants.json").read_text(encoding="utf-8")
    document: Mapping[str, Any] = json.loads(text)
    return document


# Constants that a Machine takes over as they are, under the same name.
_AS_FITTED = (
    "memory", "cache", "wire", "reduce", "exchange", "overlap", "imbalance", "unpacked", "narrow",
)  # fmt: skip


def ascend(
    chip: Chip, engine: EngineTraits, constants: Mapping[str, float] | None = None
) -> Machine:
    """Return the machine of one NPU of this chip under this engine.

    `constants` default to the fitted. By a release's age, what the host does and what is launched
    layer by layer shrink by a factor each year, and products come nearer to the peak.
    """
    known = constants or stored_constants()["constants"]
    years = (engine.month - 12) / 12
    host, launch = exp(-known["host_progress"] * years), exp(-known["launch_progress"] * years)
    skill = exp(known["kernel_progress"] * min(years, _KERNELS_SETTLED))
    graph = engine.graph
    captured = "captured" if graph == "full" else "launched"
    derived: dict[str, Any] = {name: known[name] for name in _AS_FITTED}
    for name in ("matrix", "experts", "attention"):
        derived[name] = min(_BEST_SHARE, known[name] * skill)
    for name in ("step", "processes", "sequence", "request"):
        derived[name] = known[name] * host
    for step, mode in (("", graph), ("mixed_", "mixed"), ("eager_", "eager")):
        for layer in ("layer", "moe_layer"):
            derived[step + layer] = known[f"{layer}_{mode}"] * launch
    return Machine(
        name=chip.name,
        bf16=chip.bf16,
        int8=chip.int8,
        fp8=chip.fp8,
        memory_bandwidth=chip.hbm_bandwidth,
        inside=chip.inside,
        between=chip.between,
        mesh=8 if chip.family == "A2" else 0,
        between_reduce=(
            chip.between.latency if chip.family == "A3" else known[f"between_{captured}"]
        ),
        expert_token=known["expert_token"] * launch,
        splits_tokens=engine.month > _SPLITS_TOKENS,
        blocked=known["blocked"] if engine.sends_block else 0.0,
        graph=graph,
        chips=chip.family,
        engine=engine.name,
        month=engine.month,
        **derived,
    )


@lru_cache(maxsize=256)
def ideal(machine: Machine) -> Machine:
    """Return the same NPUs with every rate at its peak, no latency, and a host without cost.

    Only bytes, products and wires are left: no engine is faster.
    """
    kept = (
        "name", "bf16", "int8", "fp8", "memory_bandwidth", "inside", "between", "mesh",
        "splits_tokens", "shared", "cores",
    )  # fmt: skip
    return Machine(**{name: getattr(machine, name) for name in kept})

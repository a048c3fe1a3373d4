"""The nouns of a choice: what is wanted, what could be run, what could not, and why each value."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ropeway.hardware import Chip
from ropeway.models import ModelShape, Precision
from ropeway.plan.cost import Cost
from ropeway.plan.estimate import Forecast
from ropeway.plan.load import Load
from ropeway.plan.machine import EngineTraits, Machine
from ropeway.plan.memory import Memory
from ropeway.spec.cluster import Cluster
from ropeway.spec.model import Layout

Objective = Literal["throughput", "latency", "cost"]
# shape   the model cannot be split so, or the cluster has no NPUs for it
# engine  this release of the engine cannot run it
# memory  it does not fit
# bound   it fits, and is slower than was asked for
RejectedKind = Literal["shape", "engine", "memory", "bound"]


@dataclass(frozen=True)
class Wanted:
    """Everything a choice depends on. None is a blank that the planner fills.

    chip               of real NPUs; None on the local cluster, whose `machine` was calibrated
    machine            by default `ascend(chip, traits)`
    hbm_bytes          of one NPU; by default the chip's
    context            tokens of prompt and answer; by default what the load takes
    tpot_s, ttft_s     bounds: no slower than this
    job_prompts        how many prompts the whole job has
    layout, memory, kv_cache, max_sequences
                       fixed by the spec: a layout, a fraction, bytes per NPU, a count
    sources            where a fixed value came from, by key; `spec` where not named
    """

    shape: ModelShape
    model_name: str
    cluster: Cluster
    traits: EngineTraits
    load: Load
    chip: Chip | None = None
    machine: Machine | None = None
    hbm_bytes: int | None = None
    context: int | None = None
    objective: Objective = "throughput"
    tpot_s: float | None = None
    ttft_s: float | None = None
    price_per_host_hour: float | None = None
    currency: str = "CNY"
    job_prompts: int | None = None
    layout: Layout | None = None
    memory: float | None = None
    kv_cache: int | None = None
    max_sequences: int | None = None
    max_batched_tokens: int | None = None
    precision: Precision | None = None
    kv_bits: float = 16
    sources: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Candidate:
    """A layout that can run, with its best memory fraction and number of sequences.

    hosts, npus    that it takes
    fraction       of the HBM that the engine may take; 0 where the cache has a size instead
    max_sequences  running at once, per data-parallel replica
    on_front       no other has both more throughput and less time per token
    notes          what is not known to work: milder than a rejection
    """

    layout: Layout
    hosts: int
    npus: int
    fraction: float
    max_sequences: int
    memory: Memory
    forecast: Forecast
    cost: Cost | None
    on_front: bool
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rejected:
    """A layout that was looked at and not taken, and why, with the numbers.

    shortfall  bytes that are missing on each NPU; of a bound, by how many times it is exceeded
    """

    layout: Layout
    kind: RejectedKind
    reason: str
    shortfall: float = 0.0


@dataclass(frozen=True)
class Value:
    """One value of the plan. key: its path in ropeway.yaml, or a derived name."""

    key: str
    value: object
    why: str
    source: str


@dataclass(frozen=True)
class Plan:
    """The answer. Candidates are best first; `chosen` is None where nothing fits the bounds.

    searched  layouts looked at
    missing   where nothing fits: how much is missing, and what would fit
    """

    wanted: Wanted
    chosen: Candidate | None
    candidates: tuple[Candidate, ...]
    front: tuple[Candidate, ...]
    rejected: tuple[Rejected, ...]
    values: tuple[Value, ...]
    notes: tuple[str, ...]
    searched: int = 0
    missing: tuple[str, ...] = ()

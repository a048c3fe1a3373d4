"""The nouns of planning: the request, layouts that can run, those that cannot, the plan."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ropeway.hardware import Chip
from ropeway.models.shape import ModelShape
from ropeway.models.task import Task, task_words
from ropeway.phrases import Phrase, phrase
from ropeway.plan.cost import Cost
from ropeway.plan.estimate import Forecast
from ropeway.plan.load import Load
from ropeway.plan.machine import EngineTraits, Machine
from ropeway.plan.memory import Memory
from ropeway.spec.cluster import Cluster
from ropeway.spec.model import Layout, Serve

Objective = Literal["throughput", "latency", "cost"]
# shape   the model cannot be split this way, or the cluster has too few NPUs
# engine  this release of the engine cannot run it
# memory  it does not fit
# bound   it fits, but is slower than the request allows
RejectedKind = Literal["shape", "engine", "memory", "bound"]


@dataclass(frozen=True)
class PlanRequest:
    """Everything a choice depends on. None is a blank that the planner fills.

    chip               of real NPUs; None on the local cluster, whose `machine` was calibrated
    hbm_bytes          of one NPU; by default the chip's
    context            tokens of prompt and answer
    blank_context      those that the engine takes where `context` is blank, by its model; None
                       where no engine is meant: then those of the load's requests
    tpot_s, ttft_s     bounds in seconds
    job_prompts        number of prompts of the whole job
    free_clients       how many requests are in flight is the planner's choice, not the load's
    layout, replicas, memory, kv_cache, max_sequences
                       fixed by the user: a layout, a fraction, bytes per NPU, counts
    contexts           sizes of context parallelism, of prefill and of decode
    drafts             whether the model's MTP layers guess tokens
    serve              the spec's variables and flags, for what the engine's buffers take
    task               what the model is for; only one that generates has an output of tokens
    role               in a disaggregated service: `kv_producer`, …; empty for an engine of its own
    flag_notes         what the spec's flags make of the engine, where that is worth a word
    sources            where a value of the request came from, by its key in the spec: a flag, or
                       a line of the spec; what is not listed is a default
    spec_file          name of the spec that it came from; empty where flags were enough
    """

    shape: ModelShape
    model_name: str
    cluster: Cluster
    traits: EngineTraits
    machine: Machine
    load: Load
    chip: Chip | None = None
    hbm_bytes: int | None = None
    context: int | None = None
    blank_context: int | None = None
    objective: Objective = "throughput"
    tpot_s: float | None = None
    ttft_s: float | None = None
    price_per_host_hour: float | None = None
    currency: str = "CNY"
    job_prompts: int | None = None
    free_clients: bool = False
    layout: Layout | None = None
    replicas: int | None = None
    memory: float | None = None
    kv_cache: int | None = None
    max_sequences: int | None = None
    max_batched_tokens: int | None = None
    kv_bits: float = 16
    contexts: tuple[int, int] = (1, 1)
    drafts: bool = False
    serve: Serve = field(default_factory=Serve)
    features: frozenset[str] = frozenset()
    task: Task = "generate"
    role: str = ""
    flag_notes: tuple[str, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)
    spec_file: str = ""

    @property
    def leaves_context(self) -> bool:
        """Whether an engine will take a context that nobody has named."""
        blank = self.context is None and self.blank_context is not None
        return blank and not self.sets_context

    @property
    def sets_context(self) -> bool:
        """Whether `up` sets a context that nobody has named: 310P keeps a mask of its square."""
        blank = self.context is None and self.blank_context is not None
        return blank and self.chip is not None and self.chip.family == "310P"

    @property
    def reads_only(self) -> bool:
        """Whether its work is done when a prompt was read: then an answer counts as one token."""
        return self.task != "generate" or self.role == "kv_producer"

    @property
    def tokens(self) -> int:
        """Tokens that one request puts into the context."""
        return self.load.input_tokens if self.reads_only else self.load.tokens

    @property
    def task_words(self) -> Phrase:
        """Return what the model does, and where it is asked to."""
        return task_words(self.task)

    def speed(self, forecast: Forecast, hosts: int = 1) -> Phrase:
        """Return how fast it is, for each of so many hosts: in tokens, or where nothing comes out
        in requests."""
        if self.reads_only:
            rate = forecast.requests_per_s / hosts
            return phrase("{n} requests/s", n=f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}")
        return phrase("{n:,.0f} tokens/s", n=forecast.output_tokens_per_s / hosts)

    @property
    def minimised(self) -> Objective:
        """The objective, but the throughput where a bound is all that is asked of the latency."""
        bounded = self.tpot_s is not None or self.ttft_s is not None
        return "throughput" if self.objective == "latency" and bounded else self.objective

    def aim(self, hosts: int, forecast: Forecast) -> float:
        """Return what is minimised: host-seconds per token, seconds per answer, or per token."""
        output = max(forecast.output_tokens_per_s, 1e-9)
        if self.minimised == "cost":
            return hosts / output
        if self.minimised == "latency":
            return forecast.ttft_s + forecast.tpot_s * max(0, self.load.output_tokens - 1)
        return 1 / output

    def job_s(self, forecast: Forecast) -> float | None:
        """Return the seconds that the whole job takes; None where there is none."""
        if self.job_prompts is None:
            return None
        return self.job_prompts / max(forecast.requests_per_s, 1e-9)


@dataclass(frozen=True)
class Candidate:
    """A layout that can run, with its best number of replicas, memory fraction and sequences.

    hosts, npus    how many all replicas take
    fraction       of the HBM, for the engine; 0 where the cache has a fixed size instead
    max_sequences  running at once in one data-parallel rank
    on_front       Pareto-optimal: no other has both more throughput and less time per token; one
                   with faults neither is nor counts
    notes          doubts whether it works, which are less than a rejection
    faults         those of the notes that report that it fails
    measured       whether others have measured such a layout, with any release
    remarks        how many of the notes say no more than that it was with other releases
    replicas       independent engines, which share the load
    clients        requests in flight in all; None where they come at a rate
    """

    layout: Layout
    hosts: int
    npus: int
    fraction: float
    max_sequences: int
    on_front: bool
    forecast: Forecast
    memory: Memory
    cost: Cost | None
    notes: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    measured: bool = True
    remarks: int = 0
    replicas: int = 1
    clients: int | None = None

    @property
    def name(self) -> str:
        """Return `TP8`, or `2 replicas of TP8`."""
        return self.layout.times(self.replicas)


@dataclass(frozen=True)
class Rejected:
    """A layout that cannot run or is too slow, and why, with the numbers.

    shortfall  bytes missing on each NPU; for a bound, by what factor it is exceeded
    """

    layout: Layout
    kind: RejectedKind
    reason: str
    shortfall: float = 0.0


@dataclass(frozen=True)
class Value:
    """One value of the plan and its reason; `key` is a path in ropeway.yaml or a derived name."""

    key: str
    value: object
    why: str
    source: str


@dataclass(frozen=True)
class Plan:
    """The answer to a request. Candidates are best first; `chosen` is None where there are none.

    doubts    whether the choice works, each with its source, and whether `up` would start it
    notes     what was assumed
    searched  number of layouts examined
    beyond_measured
              more run at once than anybody has measured on these chips, so that the ends of the
              interval are the arithmetic's alone: no share of measurements is claimed to lie inside
    missing   where nothing fits: how much is missing, and what would fit
    """

    request: PlanRequest
    chosen: Candidate | None
    candidates: tuple[Candidate, ...]
    front: tuple[Candidate, ...]
    rejected: tuple[Rejected, ...]
    values: tuple[Value, ...]
    notes: tuple[str, ...]
    doubts: tuple[str, ...] = ()
    beyond_measured: bool = False
    searched: int = 0
    missing: tuple[str, ...] = ()

    @property
    def why(self) -> str:
        """Return why this layout; empty where none was chosen."""
        return next((value.why for value in self.values if value.key == "serve.layout"), "")

    @property
    def release_runs_none(self) -> bool:
        """Whether nothing was chosen because of the release: it runs no layout that is possible."""
        kinds = {item.kind for item in self.rejected}
        return self.chosen is None and "engine" in kinds and not kinds & {"memory", "bound"}


@dataclass(frozen=True)
class Expectation:
    """What the planner expected of a load.

    layout           that it is for, with its replicas: `2 replicas of TP4`
    is_chosen        by the planner, because the spec leaves it blank
    beyond_measured  see Plan
    """

    layout: str
    is_chosen: bool
    forecast: Forecast
    beyond_measured: bool

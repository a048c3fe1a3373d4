"""The constants of this machine as an engine's machine: fitted to load tests of the local cluster.

The model of a step is the one that real NPUs are planned with (`plan/step.py`), with `shared`:
ranks have one pool of arithmetic and memory bandwidth. Six constants are measured here, by the
layouts and loads of PLAN; the others that NPUs have (links, launches that hide, quantisation) do
nothing.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import exp, log

from pydantic import TypeAdapter

from ropeway.errors import Refused
from ropeway.hardware import Link
from ropeway.models import ModelShape
from ropeway.plan.estimate import Question, estimate
from ropeway.plan.load import Load
from ropeway.plan.machine import Machine
from ropeway.spec.model import Layout

SCHEMA = 1


@dataclass(frozen=True)
class Trial:
    """A load to measure a layout under."""

    clients: int
    requests: int
    input_tokens: int
    output_tokens: int

    def __str__(self) -> str:
        return f"{self.input_tokens} tokens in, {self.output_tokens} out"


# One process, then two: what they do alone, and what messages add. One request at a time shows what
# a step costs by itself, eight what each sequence and each token of a prompt add. Pipelines, data
# parallel and four ranks are predicted from these; starting them would take most of the time.
_SINGLE = Trial(1, 1, 64, 16)
_MANY = Trial(8, 8, 64, 12)
PLAN: tuple[tuple[Layout, tuple[Trial, ...]], ...] = (
    (Layout(), (_SINGLE, _MANY)),
    (Layout(tensor=2), (_SINGLE, _MANY)),
)


@dataclass(frozen=True)
class Point:
    """What a trial came to."""

    layout: str
    trial: Trial
    output_tokens_per_s: float


@dataclass(frozen=True)
class Calibration:
    """A machine, the points it was fitted to, and under which conditions they were measured."""

    machine: Machine
    points: tuple[Point, ...]
    model: str
    conditions: str
    measured_at: str

    def as_json(self) -> dict[str, object]:
        """Plain data that `parse_calibration` reads."""
        return {"schema": SCHEMA, **asdict(self)}


_CALIBRATION = TypeAdapter(Calibration)

# Where the search starts: about a laptop. Rates are of the pool.
_NO_WIRE = Link(5e9, 0.0, "loopback")
_START = Machine(
    name="virtual NPUs of this machine",
    bf16=200e9,
    int8=200e9,
    fp8=200e9,
    memory_bandwidth=20e9,
    inside=_NO_WIRE,
    between=_NO_WIRE,
    matrix=1.0,
    experts=1.0,
    attention=0.3,
    memory=1.0,
    cache=1.0,
    wire=1.0,
    reduce=0.0,
    exchange=0.0,
    reduce_rank=0.3e-3,  # each rank sends to every other, so messages cost by their number
    between_reduce=0.0,
    expert_token=0.0,
    layer=0.5e-3,
    moe_layer=0.7e-3,
    mixed_layer=0.5e-3,
    mixed_moe_layer=0.7e-3,
    overlap=0.0,
    step=8e-3,
    sequence=1e-3,
    imbalance=1.1,
    shared=True,
)


# The constants that are fitted, by the fields that each of them sets.
_FITTED: Mapping[str, tuple[str, ...]] = {
    "arithmetic": ("bf16", "int8", "fp8"),
    "memory": ("memory_bandwidth",),
    "layer": ("layer", "moe_layer", "mixed_layer", "mixed_moe_layer"),
    "step": ("step",),
    "sequence": ("sequence",),
    "messages": ("reduce_rank",),
}
_BATCHED = 2048  # tokens of a step at most: vLLM's default on CPUs
_SPREAD = 2.0  # of the prior, as a logarithm: a factor of e² is one standard deviation
_ERROR = 0.1  # of a measurement, the same


def fit(shape: ModelShape, points: Sequence[Point], cores: int, npus_per_host: int) -> Machine:
    """The constants with which the model comes closest to these points.

    Least squares over logarithms of output tokens/s, with a weak pull toward the start; by a search
    along one constant after the other, with steps that halve.
    """
    start = replace(_START, cores=cores)
    best = dict.fromkeys(_FITTED, 0.0)
    lowest = _loss(shape, points, npus_per_host, start, best)
    width = 1.0
    while width > 0.005:
        improved = False
        for name in _FITTED:
            for turn in (-width, width):
                tried = {**best, name: best[name] + turn}
                loss = _loss(shape, points, npus_per_host, start, tried)
                if loss < lowest:
                    best, lowest, improved = tried, loss, True
        if not improved:
            width /= 2
    return _moved(start, best)


def predicted(
    shape: ModelShape, layout: Layout, trial: Trial, machine: Machine, npus_per_host: int
) -> float:
    """Output tokens/s."""
    load = Load(trial.input_tokens, trial.output_tokens, trial.clients, requests=trial.requests)
    question = Question(shape, layout, machine, load, npus_per_host, max_batched_tokens=_BATCHED)
    return estimate(question).output_tokens_per_s


def _loss(
    shape: ModelShape,
    points: Sequence[Point],
    npus_per_host: int,
    start: Machine,
    moves: Mapping[str, float],
) -> float:
    machine = _moved(start, moves)
    total = sum((move / _SPREAD) ** 2 for move in moves.values())
    for point in points:
        layout = Layout.parse(point.layout)
        ours = predicted(shape, layout, point.trial, machine, npus_per_host)
        total += (log(ours / point.output_tokens_per_s) / _ERROR) ** 2
    return total


def _moved(machine: Machine, moves: Mapping[str, float]) -> Machine:
    changed = {
        field: getattr(machine, field) * exp(move)
        for name, move in moves.items()
        for field in _FITTED[name]
    }
    return replace(machine, **changed)


def parse_calibration(text: bytes, where: str) -> Calibration:
    """What `as_json` gave, as JSON in UTF-8. Raises Refused when it is something else."""
    try:
        return _CALIBRATION.validate_python(json.loads(text))
    except ValueError as error:
        raise Refused(
            "the calibration of this machine cannot be read",
            where=where,
            evidence=(str(error).splitlines()[0],),
            hint="measure again: ropeway calibrate --local",
        ) from None

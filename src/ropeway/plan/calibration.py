"""The constants of this machine, fitted to load tests of the local cluster.

The model of a step is the one that real NPUs are planned with (`plan/step.py`), with `shared`: all
ranks share one pool of arithmetic and memory bandwidth. Six constants are measured, with the
layouts and loads of TRIALS; those of NPUs alone (links, hidden launches, quantisation) have no
effect.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import exp, log
from pathlib import Path

from pydantic import TypeAdapter

from ropeway.errors import HostError, Refused, reason_of
from ropeway.hardware import Link
from ropeway.hosts.local import replace_file
from ropeway.models.shape import ModelShape
from ropeway.phrases import phrase
from ropeway.plan.estimate import estimate
from ropeway.plan.load import Load
from ropeway.plan.machine import Machine
from ropeway.plan.question import Question
from ropeway.spec.model import Layout

SCHEMA = 1


@dataclass(frozen=True)
class Trial:
    """A load to measure a layout with."""

    clients: int
    requests: int
    input_tokens: int
    output_tokens: int

    def __str__(self) -> str:
        return f"{self.input_tokens} tokens in, {self.output_tokens} out"


# One process, then two: the second shows what messages add. One request at a time shows what a step
# costs by itself; eight show what each sequence and each prompt token add. Pipelines, data parallel
# and four ranks are predicted from these, because starting them would take most of the time.
_SINGLE = Trial(1, 1, 64, 16)
_MANY = Trial(8, 8, 64, 12)
TRIALS: tuple[tuple[Layout, tuple[Trial, ...]], ...] = (
    (Layout(), (_SINGLE, _MANY)),
    (Layout(tensor=2), (_SINGLE, _MANY)),
)


@dataclass(frozen=True)
class Point:
    """The result of a trial."""

    layout: str
    trial: Trial
    output_tokens_per_s: float


@dataclass(frozen=True)
class Calibration:
    """A machine, the points it was fitted to, and the conditions they were measured under."""

    machine: Machine
    points: tuple[Point, ...]
    model: str
    conditions: str
    measured_at: str

    def as_json(self) -> dict[str, object]:
        """Return plain data that `read_calibration` reads."""
        return {"schema": SCHEMA, **asdict(self)}


_CALIBRATION = TypeAdapter(Calibration)

# Where the search starts: roughly a laptop. Rates are those of the pool.
_NO_WIRE = Link(5e9, 0.0, "loopback")
_START = Machine(
    name="virtual NPUs of this machine",
    bf16=200e9,
    int8=200e9,
    fp8=200e9,
    memory_bandwidth=20e9,
    inside=_NO_WIRE,
    between=_NO_WIRE,
    attention=0.3,
    reduce_rank=0.3e-3,  # each rank sends to every other, so messages cost by their number
    layer=0.5e-3,
    moe_layer=0.7e-3,
    mixed_layer=0.5e-3,
    mixed_moe_layer=0.7e-3,
    eager_layer=0.7e-3,
    eager_moe_layer=3e-3,
    step=8e-3,
    sequence=1e-3,
    imbalance=1.1,
    unpacked=0.3,
    narrow=0.7,
    shared=True,
)


# The fitted constants, and the fields that each of them scales.
_FITTED: Mapping[str, tuple[str, ...]] = {
    "arithmetic": ("bf16", "int8", "fp8"),
    "memory": ("memory_bandwidth",),
    "layer": ("layer", "moe_layer", "mixed_layer", "mixed_moe_layer"),
    "step": ("step",),
    "sequence": ("sequence",),
    "messages": ("reduce_rank",),
}
_BATCHED = 2048  # largest number of tokens in a step: vLLM's default on CPUs
_SPREAD = 2.0  # standard deviation of the prior of ln(constant)
_ERROR = 0.1  # standard deviation of a measured ln(tokens/s)


def fit(shape: ModelShape, points: Sequence[Point], cores: int, npus_per_host: int) -> Machine:
    """Return the machine with which the model comes closest to these points.

    Least squares over ln(output tokens/s) with a weak prior at the start; by coordinate search with
    steps that halve.
    """
    start = replace(_START, cores=cores)

    def loss_of(moves: Mapping[str, float]) -> float:
        machine = _moved(start, moves)
        total = sum((move / _SPREAD) ** 2 for move in moves.values())
        for point in points:
            layout = Layout.parse(point.layout)
            forecast = predicted(shape, layout, point.trial, machine, npus_per_host)
            total += (log(forecast / point.output_tokens_per_s) / _ERROR) ** 2
        return total

    best = dict.fromkeys(_FITTED, 0.0)
    lowest, width = loss_of(best), 1.0
    while width > 0.005:
        improved = False
        for name in _FITTED:
            for change in (-width, width):
                moves = {**best, name: best[name] + change}
                if (loss := loss_of(moves)) < lowest:
                    best, lowest, improved = moves, loss, True
        if not improved:
            width /= 2
    return _moved(start, best)


def predicted(
    shape: ModelShape, layout: Layout, trial: Trial, machine: Machine, npus_per_host: int
) -> float:
    """Return the output tokens/s that the model predicts."""
    load = Load(trial.input_tokens, trial.output_tokens, trial.clients, requests=trial.requests)
    question = Question(shape, layout, machine, load, npus_per_host, max_batched_tokens=_BATCHED)
    return estimate(question).output_tokens_per_s


def _moved(machine: Machine, moves: Mapping[str, float]) -> Machine:
    scaled = {
        field: getattr(machine, field) * exp(move)
        for name, move in moves.items()
        for field in _FITTED[name]
    }
    return replace(machine, **scaled)


def calibration_path(checkpoints: Path) -> Path:
    """Return the file that holds the constants of this machine, beside the fetched checkpoints."""
    return checkpoints.parent / "calibration.json"


def write_calibration(calibration: Calibration, path: Path) -> None:
    """Write a calibration, whole or not at all. Raises HostError when it cannot be written."""
    text = json.dumps(calibration.as_json(), indent=2) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HostError(
            phrase("cannot make `{path}`: {reason}", path=path.parent, reason=reason_of(error))
        ) from None
    replace_file(path, text.encode())


def read_calibration(path: Path) -> Calibration | None:
    """Return the calibration in a file, None when there is none. Raises Refused when unreadable."""
    try:
        return _CALIBRATION.validate_python(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Refused(
            phrase("cannot read `{path}`: {reason}", path=path, reason=reason_of(error))
        ) from None
    except ValueError as error:
        raise Refused(
            phrase("the calibration of this machine cannot be read"),
            where=str(path),
            evidence=(str(error).splitlines()[0],),
            hint=phrase("measure again: `ropeway calibrate --local`"),
        ) from None

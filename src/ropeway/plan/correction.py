"""What public measurements of the like say beyond the arithmetic.

Each measurement has a factor: by how much its steps took longer than `step` says. Between alike
ones factors are alike, so the factor of a new case is a mean of theirs, weighed by likeness and
drawn towards 1 where there is little of it (a Gaussian process over the nearest few, known
elsewhere as kriging). How far alike cases differed gives the interval.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache, lru_cache
from importlib import resources
from math import exp, sqrt
from operator import mul
from typing import Any

FIGURES = ("output", "tpot", "ttft")
# Measurements that are looked at for one case.
_NEAREST = 24
# What the factors leave is believed up to so much.
_MOST_REST = 0.5


@dataclass(frozen=True, slots=True)
class Case:
    """What makes two cases alike.

    family, chips, scheme   `model_type`, A2 or A3 …, quantisation
    engine                  its name; `month` of its release, counted from December 2024
    method                  of speculative decoding, "" without
    split                   prompts are read by other NPUs (disaggregated prefill)
    running, context, npus  natural logarithms: sequences of a replica, tokens of one, its NPUs
    source                  the document it was published in; "" where it is not measured
    """

    family: str
    chips: str
    scheme: str
    engine: str
    month: float
    method: str
    split: bool
    running: float
    context: float
    npus: float
    source: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """A measurement: its case, ln of its factor, and where it was published.

    key   the same for two that measured the same configuration in one document
    rest  ln(measured / predicted) that the factor leaves, of each figure in FIGURES: a document's
          way of counting, mostly; 0 where it was not measured
    """

    case: Case
    factor: float
    url: str
    key: str
    rest: tuple[float, ...] = (0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Likeness:
    """How alike two factors are, as covariances of their logarithms.

    family     models of one family; `model` of one family, kind of chip and quantisation
    source     one document; `series` one document and family
    engine, method, split  the same other engine, speculation, disaggregated prefill
    noise      variance of one measurement by itself
    apart      variance between two of the same case beyond that, for the interval alone
    months     over which a release loses its likeness to another
    running, context, npus  factors (natural logarithms) over which likeness is lost
    """

    family: float
    model: float
    source: float
    series: float
    engine: float
    method: float
    split: float
    noise: float
    apart: float
    months: float
    running: float
    context: float
    npus: float

    def between(self, one: Case, other: Case) -> float:
        """The covariance of their factors' logarithms."""
        total = 0.0
        if one.engine == other.engine != "vLLM-Ascend":
            total += self.engine
        if one.method == other.method != "":
            total += self.method
        if one.split and other.split:
            total += self.split
        same_source = one.source == other.source != ""
        if same_source:
            total += self.source
        if one.family == other.family:
            apart = (one.month - other.month) / self.months
            era = exp(-0.5 * apart * apart)
            total += self.family * era
            alike = one.chips == other.chips and one.scheme == other.scheme
            if alike or same_source:
                distance = (
                    ((one.running - other.running) / self.running) ** 2
                    + ((one.context - other.context) / self.context) ** 2
                    + ((one.npus - other.npus) / self.npus) ** 2
                )
                near = exp(-0.5 * distance)
                if alike:
                    total += self.model * near * era
                if same_source:
                    total += self.series * near
        return total


@dataclass(frozen=True, slots=True)
class Correction:
    """ln of the factor, its standard deviation, and the measurements it rests on.

    rest     ln of what each figure in FIGURES is multiplied with besides
    weights  of the records, the heaviest first; together at most about 1
    """

    mean: float
    spread: float
    rest: tuple[float, ...] = (0.0, 0.0, 0.0)
    weights: tuple[tuple[float, Record], ...] = ()

    def note(self) -> str:
        """In words; empty where nothing alike was measured."""
        counted = [item for item in self.weights if abs(item[0]) > 0.02]
        if not counted or abs(self.mean) < 0.005:
            return ""
        change = exp(self.mean) - 1
        which = "slower" if change > 0 else "faster"
        plural = "measurements like this were" if len(counted) > 1 else "measurement like this was"
        return (
            f"{len(counted)} {plural} {abs(change):.0%} {which} than the arithmetic, by likeness: "
            f"corrected by that (nearest: {counted[0][1].url})"
        )


@cache
def recorded() -> tuple[Record, ...]:
    """The measurements that the constants were fitted to."""
    return tuple(
        Record(
            Case(**item["case"]),
            item["factor"],
            item["row"]["source_url"],
            item["key"],
            tuple(item["rest"]),
        )
        for item in stored()
    )


@cache
def stored() -> tuple[Mapping[str, Any], ...]:
    """As they are kept: `row` by column, and what fit_planner made of it."""
    text = resources.files("ropeway.plan").joinpath("measurements.json").read_text(encoding="utf-8")
    return tuple(json.loads(text)["measurements"])


@cache
def likeness() -> Likeness:
    """As fit_planner found it."""
    text = resources.files("ropeway.plan").joinpath("constants.json").read_text(encoding="utf-8")
    return Likeness(**json.loads(text)["likeness"])


def correction(case: Case) -> Correction:
    """Of a case that is to be planned, or of a measurement by a document that we may know."""
    return _local(_coarse(case)).of(case)


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """Records near a case, with the inverse of their covariances; good for cases close by."""

    records: tuple[Record, ...]
    inverse: tuple[tuple[float, ...], ...]
    solved: tuple[float, ...]
    rests: tuple[tuple[float, ...], ...]
    like: Likeness

    def of(self, case: Case) -> Correction:
        like = self.like
        own = like.between(case, case)
        near = [like.between(case, item.case) for item in self.records]
        weights = [sum(map(mul, row, near)) for row in self.inverse]
        mean = sum(map(mul, near, self.solved))
        left = own - sum(map(mul, near, weights))
        rest = tuple(
            max(-_MOST_REST, min(_MOST_REST, sum(map(mul, weights, column))))
            for column in self.rests
        )
        ranked = sorted(zip(weights, self.records, strict=True), key=lambda item: -item[0])
        spread = sqrt(max(0.0, left) + like.noise + like.apart)
        return Correction(mean, spread, rest, tuple(ranked[:8]))


def _coarse(case: Case) -> Case:
    """One for all cases about as large: the nearest records are the same."""
    return replace(
        case,
        running=float(round(case.running)),
        context=float(round(case.context)),
        npus=float(round(case.npus)),
    )


@lru_cache(maxsize=1024)
def _local(case: Case) -> Neighbourhood:
    return kriging(case, recorded(), likeness())


def kriging(case: Case, records: Sequence[Record], like: Likeness) -> Neighbourhood:
    """The nearest records to a case, ready to weigh them."""
    ranked = sorted(records, key=lambda item: -like.between(case, item.case))[:_NEAREST]
    near = tuple(item for item in ranked if like.between(case, item.case) > 1e-4)
    matrix = [
        [like.between(one.case, two.case) + (like.noise if one is two else 0.0) for two in near]
        for one in near
    ]
    inverse = _inverted(matrix)
    factors = [item.factor for item in near]
    solved = tuple(sum(map(mul, row, factors)) for row in inverse)
    rests = tuple(zip(*(item.rest for item in near), strict=True)) or ((), (), ())
    return Neighbourhood(near, inverse, solved, rests, like)


def _inverted(matrix: list[list[float]]) -> tuple[tuple[float, ...], ...]:
    """Of a positive definite matrix (Gauss-Jordan; no pivoting is needed for such)."""
    size = len(matrix)
    rows = [
        [*row, *(1.0 if index == column else 0.0 for column in range(size))]
        for index, row in enumerate(matrix)
    ]
    for index in range(size):
        pivot = rows[index]
        scale = 1.0 / pivot[index]
        pivot = rows[index] = [value * scale for value in pivot]
        for other in range(size):
            if other != index and (by := rows[other][index]):
                pairs = zip(rows[other], pivot, strict=True)
                rows[other] = [value - by * own for value, own in pairs]
    return tuple(tuple(row[size:]) for row in rows)


def as_plain(case: Case) -> dict[str, object]:
    """For the data file."""
    return {item.name: getattr(case, item.name) for item in fields(case)}

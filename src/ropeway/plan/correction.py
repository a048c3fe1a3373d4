"""What public measurements of similar cases say beyond the arithmetic.

Each measurement has a factor: how many times longer its steps took than `step` says. Similar cases
have similar factors, so the factor of a new case is a weighted mean of theirs, drawn towards 1
where little is known (a Gaussian process over the nearest few records, also known as kriging). Its
variance is part of the interval.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from importlib import resources
from math import exp
from operator import mul

from ropeway.phrases import count, phrase
from ropeway.plan.machine import stored_constants

# How many records a case is compared with.
_NEAREST = 24
# What a record tells of its factor is taken to be at least this.
_LEAST_TOLD = 0.03


@dataclass(frozen=True, slots=True)
class Case:
    """What cases are compared by.

    family, chips, scheme   `model_type`, A2 or A3 …, quantisation
    engine                  its name; `month` of its release, counted from December 2024
    method                  of speculative decoding, "" without
    split                   other NPUs read the prompts (disaggregated prefill)
    running, context, npus  natural logarithms: sequences at once in a DP rank, tokens of a
                            sequence, NPUs of a DP rank
    source                  the document it was published in; "" where nothing was measured
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
class Setting:
    """What ran in a measurement: layout, hosts, whether the model has experts, and the release.

    version  "" for a build between releases
    """

    layout: str
    hosts: int
    experts: bool
    version: str


@dataclass(frozen=True, slots=True)
class Record:
    """A measurement: its case, ln of its factor, where it was published, and what ran.

    tells  by how much its figures change with the factor: 0 where a rate alone decides them, which
           tells nothing of how long a step took
    """

    case: Case
    factor: float
    url: str
    tells: float = 1.0
    ran: Setting | None = None


@dataclass(frozen=True, slots=True)
class Similarity:
    """A covariance of the logarithms of two factors, as a sum of terms.

    family     for models of one family; `model`: of one family, kind of chip and quantisation
    source     for one document; `series`: for one document and family
    engine, method, split  for the same other engine, method of speculation, disaggregated prefill
    drafts     for any speculation
    noise      variance of one measurement by itself
    months     length scale of the month of a release
    running, context, npus  length scales of these (natural logarithms)
    """

    family: float
    model: float
    source: float
    series: float
    engine: float
    drafts: float
    method: float
    split: float
    noise: float
    months: float
    running: float
    context: float
    npus: float

    def covariance(self, one: Case, other: Case) -> float:
        """Return the covariance of the logarithms of the factors of two cases."""
        total = 0.0
        if one.engine == other.engine != "vLLM-Ascend":
            total += self.engine
        if one.method and other.method:
            total += self.drafts + (self.method if one.method == other.method else 0.0)
        if one.split and other.split:
            total += self.split
        same_source = one.source == other.source != ""
        if same_source:
            total += self.source
        if one.family == other.family:
            apart = (one.month - other.month) / self.months
            era = exp(-0.5 * apart * apart)
            total += self.family * era
            same_kind = one.chips == other.chips and one.scheme == other.scheme
            if same_kind or same_source:
                distance = (
                    ((one.running - other.running) / self.running) ** 2
                    + ((one.context - other.context) / self.context) ** 2
                    + ((one.npus - other.npus) / self.npus) ** 2
                )
                near = exp(-0.5 * distance)
                if same_kind:
                    total += self.model * near * era
                if same_source:
                    total += self.series * near
        return total

    def doubt(self, record: Record) -> float:
        """Return the variance of a record's factor by itself."""
        told = max(_LEAST_TOLD, record.tells)
        return self.noise / (told * told)


@dataclass(frozen=True, slots=True)
class Correction:
    """ln of a factor, the variance of that, and the measurements it rests on.

    weights  of all the records, the greatest first; together at most about 1
    """

    mean: float
    variance: float = 0.0
    weights: tuple[tuple[float, Record], ...] = ()

    def note(self) -> str:
        """Say what was corrected and by which measurements; empty where none was similar."""
        near = [record for weight, record in self.weights if abs(weight) > 0.02]
        if not near or abs(self.mean) < 0.005:
            return ""
        change = exp(self.mean) - 1
        number = count(len(near), "{n:,} similar measurement", "{n:,} similar measurements")
        return phrase(
            "corrected by {measurements} whose steps took {change:.0%} longer than computed "
            "(nearest: {url})"
            if change > 0
            else "corrected by {measurements} whose steps took {change:.0%} less than computed "
            "(nearest: {url})",
            measurements=number,
            change=abs(change),
            url=near[0].url,
        )


@cache
def recorded() -> tuple[Record, ...]:
    """Return the measurements that the constants were fitted to."""
    text = resources.files("ropeway.plan").joinpath("measurements.json").read_text(encoding="utf-8")
    return tuple(
        Record(
            Case(**item["case"]),
            item["factor"],
            item["url"],
            item["tells"],
            Setting(**item["ran"]),
        )
        for item in json.loads(text)["measurements"]
    )


@cache
def similarity() -> Similarity:
    """Return the fitted similarity (benchmarks/planner/fit.py)."""
    return Similarity(**stored_constants()["similarity"])


def correction(case: Case) -> Correction:
    """Return what similar measurements say of a case, those of its own document included."""
    # All cases of about the same size have the same nearest records.
    running, context, npus = map(round, (case.running, case.context, case.npus))
    return _local(replace(case, running=running, context=context, npus=npus))(case)


@lru_cache(maxsize=1024)
def _local(case: Case) -> Callable[[Case], Correction]:
    return kriging(case, recorded(), similarity())


def kriging(
    case: Case, records: Sequence[Record], alike: Similarity
) -> Callable[[Case], Correction]:
    """Return what corrects any case close to this one, by the records nearest to it.

    The correction is the posterior mean and variance of a case's factor.
    """
    ranked = sorted(records, key=lambda item: -alike.covariance(case, item.case))[:_NEAREST]
    near = tuple(item for item in ranked if alike.covariance(case, item.case) > 1e-4)
    matrix = [
        [alike.covariance(a.case, b.case) + (alike.doubt(a) if a is b else 0.0) for b in near]
        for a in near
    ]
    inverse = _inverted(matrix)
    factors = [item.factor for item in near]
    solved = tuple(sum(map(mul, row, factors)) for row in inverse)

    def correct(close: Case) -> Correction:
        shared = [alike.covariance(close, item.case) for item in near]
        weights = [sum(map(mul, row, shared)) for row in inverse]
        mean = sum(map(mul, shared, solved))
        left = alike.covariance(close, close) - sum(map(mul, shared, weights))
        weighed = sorted(zip(weights, near, strict=True), key=lambda item: -item[0])
        return Correction(mean, max(0.0, left), tuple(weighed))

    return correct


def _inverted(matrix: list[list[float]]) -> tuple[tuple[float, ...], ...]:
    """Invert a positive definite matrix by Gauss-Jordan elimination, which needs no pivoting."""
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

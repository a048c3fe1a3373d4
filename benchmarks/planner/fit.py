"""Fit the planner's constants to public measurements.

    python benchmarks/planner/fit.py MEASUREMENTS.csv [--tune]

Writes constants.json and measurements.json into src/ropeway/plan, and rows.json and without.json
beside this file, which only evaluate.py and intervals.py read. Run intervals.py after it. Needs
numpy.

1. Constants: least squares on the logarithms of output tokens/s, time per token and (less) time to
   first token of the clean core; robust (large errors count linearly) and regularised: each
   constant is drawn towards a value known beforehand, `PRIOR`, more or less strongly.
2. Factor of each measurement: by how much its steps took longer than the constants say.
3. Similarity of factors: with --tune by search over `Similarity`, scored by leaving out one
   document at a time and one author at a time; else as it is.
4. The same constants without each document, and without each author, so that measurements can be
   predicted unseen.
"""

import argparse
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from evaluation import WITHOUT
from measured import (
    ROWS,
    Measurement,
    NotComparable,
    kind_of,
    measured_figures,
    plain_figures,
    question_of,
    read_measurements,
    with_constants,
)

from ropeway.plan.correction import Case, Record, Setting, Similarity, similarity
from ropeway.plan.estimate import case_of, flow
from ropeway.plan.machine import stored_constants
from ropeway.plan.question import Question

DATA = Path(__file__).parents[2] / "src" / "ropeway" / "plan"

# Value known beforehand, and the standard deviation of its logarithm. Shares of peaks: msmodeling
# takes 0.7 of compute, 0.6 of memory, 0.7 of links; measured products reach 0.83 to 0.93, INT8 0.65
# of twice that. Reduces and launches: from public step times of v0.9 to v0.27 (docs/planning.md).
PRIOR: Mapping[str, tuple[float, float]] = {
    "matrix": (0.55, 0.2),
    "experts": (0.4, 0.3),
    "attention": (0.3, 0.4),
    "memory": (0.7, 0.12),
    "cache": (0.55, 0.3),
    "wire": (0.45, 0.3),
    "narrow": (0.65, 0.2),
    "unpacked": (0.35, 0.3),
    "kernel_progress": (0.3, 0.4),
    "request": (2e-3, 0.6),
    "image": (0.08, 0.5),
    "reduce": (25e-6, 0.4),
    "exchange": (40e-6, 0.4),
    "between_launched": (200e-6, 0.2),
    "between_captured": (40e-6, 0.5),
    "expert_token": (0.1e-6, 0.5),
    "layer_eager": (0.7e-3, 0.4),
    "layer_piecewise": (0.4e-3, 0.4),
    "layer_full": (0.1e-3, 0.5),
    "moe_layer_eager": (3e-3, 0.3),
    "moe_layer_piecewise": (1.4e-3, 0.3),
    "moe_layer_full": (0.3e-3, 0.4),
    "layer_mixed": (1e-3, 0.5),
    "moe_layer_mixed": (4e-3, 0.5),
    "overlap": (0.7, 0.2),
    "step": (4e-3, 0.4),
    "processes": (2e-3, 0.6),
    "sequence": (60e-6, 0.5),
    "imbalance": (1.15, 0.1),
    "blocked": (0.75, 0.25),
    "launch_progress": (0.15, 0.6),
    "host_progress": (0.7, 0.5),
}
# Errors above this share count linearly; weight of the priors; of time to first token.
ROBUST, PRIOR_WEIGHT, TTFT_WEIGHT = 0.1, 8.0, 0.25
# What a time to first token alone tells of the factor: queues and bursts decide it too.
TTFT_TELLS = 0.3
# A measurement that tells less of its factor than this has none.
LEAST_TELLS = 0.01
IMAGE_WEIGHT = 0.5  # image encoders are not modelled
# A release lives about three weeks.
LEAST_MONTHS = 0.7
NAMES = tuple(PRIOR)
CENTRE = np.array([math.log(PRIOR[name][0]) for name in NAMES])
WIDTH = np.array([PRIOR[name][1] for name in NAMES])

# Half-way from what was there to what --tune found, so that it fits these documents less closely.
START = Similarity(
    family=0.0195, model=0.1, source=0.002, series=0.03, engine=1.4, drafts=0.12, method=0.03,
    split=0.001, noise=0.01, months=1.0, running=3.0, context=2.2, npus=8.0,
)  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """A measurement as the fit needs it."""

    row: Measurement
    question: Question
    weight: float
    core: bool

    def with_constants(self, constants: Mapping[str, float]) -> Question:
        """Return its question on a machine of these constants."""
        return with_constants(self.row, self.question, constants)


def main() -> None:
    parser = argparse.ArgumentParser(description="Fit the planner to public measurements.")
    parser.add_argument("csv", type=Path)
    parser.add_argument("--tune", action="store_true", help="search for the likeness too")
    chosen = parser.parse_args()
    samples = read_samples(chosen.csv)
    core = [item for item in samples if item.core]
    print(f"{len(samples)} measurements that can be predicted, {len(core)} to fit to")
    logs = fit(core)
    constants = as_constants(logs)
    factors = [factor_of(item.row, item.with_constants(constants)) for item in samples]
    cases = [case_with(item, constants) for item in samples]
    told = [
        tells(item.row, item.with_constants(constants), factor)
        for item, factor in zip(samples, factors, strict=True)
    ]
    records = [
        Record(case, factor if much >= LEAST_TELLS else 0.0, item.row.text("source_url"), much,
               setting_of(item))
        for case, factor, much, item in zip(cases, factors, told, samples, strict=True)
    ]  # fmt: skip
    like = tuned(samples, records) if chosen.tune else similarity()
    without = {}
    for group in (by_document, by_author):
        for left in sorted({group(item) for item in core}):
            rest = [item for item in core if group(item) != left]
            without[left] = [float(value) for value in np.exp(fit(rest, logs, rounds=3))]
    write(constants, like, without, samples, records)


def by_document(item: Sample) -> str:
    return item.row.source


def by_author(item: Sample) -> str:
    return item.row.author


def read_samples(path: Path) -> list[Sample]:
    """Every line that can be predicted and has a figure to compare."""
    rows, _ = read_measurements(path.read_text(encoding="utf-8"), str(path))
    counts = Counter(row.source for row in rows if is_core(row))
    samples = []
    for row in rows:
        try:
            question, _ = question_of(row, {name: value for name, (value, _) in PRIOR.items()})
        except NotComparable:
            continue
        if not measured_figures(row, question):
            continue
        core = is_core(row)
        weight = 1 / math.sqrt(1 + 0.5 * (max(1, counts[row.source]) - 1))
        if "vision" in row.text("notes"):
            weight *= IMAGE_WEIGHT
        samples.append(Sample(row, question, weight, core))
    return samples


def is_core(row: Measurement) -> bool:
    """The clean core, and the report of two hosts that the project began with."""
    return kind_of(row) == "core" or "zouht.com" in row.source


def residuals(logs: np.ndarray, samples: Sequence[Sample]) -> np.ndarray:
    """Weighed errors of logarithms.

    At a rate the time to the first token is left out: where a queue begins it jumps, and no search
    by slopes goes over such a step.
    """
    constants = as_constants(logs)
    errors = []
    for item in samples:
        question = item.with_constants(constants)
        for name, error in errors_of(item.row, question).items():
            if name == "ttft" and question.load.rate is not None:
                continue
            weight = TTFT_WEIGHT if name == "ttft" else 1.0
            errors.append(item.weight * math.sqrt(weight) * error / ROBUST)
    return np.array(errors)


def errors_of(row: Measurement, question: Question) -> dict[str, float]:
    """ln(predicted / measured) of each figure."""
    predicted = plain_figures(question, flow(question))
    measured = measured_figures(row, question)
    return {name: math.log(max(predicted[name], 1e-4) / value) for name, value in measured.items()}


def fit(samples: Sequence[Sample], start: np.ndarray | None = None, rounds: int = 12) -> np.ndarray:
    """Logarithms of the constants, by damped Gauss-Newton steps on a pseudo-Huber loss."""
    logs = (CENTRE if start is None else start).copy()
    errors = residuals(logs, samples)
    loss, damping = total_loss(errors, logs), 0.1
    for _ in range(rounds):
        slopes = np.empty((len(errors), len(logs)))
        for column in range(len(logs)):
            moved = logs.copy()
            moved[column] += 0.02
            slopes[:, column] = (residuals(moved, samples) - errors) / 0.02
        weights = 1 / np.sqrt(1 + errors**2)
        curve = slopes.T @ (weights[:, None] * slopes) + PRIOR_WEIGHT * np.diag(1 / WIDTH**2)
        slope = slopes.T @ (weights * errors) + PRIOR_WEIGHT * (logs - CENTRE) / WIDTH**2
        before = loss
        for _ in range(7):
            step = np.linalg.solve(curve + damping * np.diag(np.diag(curve)), -slope)
            tried = logs + np.clip(step, -0.7, 0.7)
            then = residuals(tried, samples)
            if (better := total_loss(then, tried)) < loss:
                logs, errors, loss = tried, then, better
                damping = max(damping / 5, 1e-3)
                break
            damping *= 4
        if before - loss < 1e-4 * loss:
            break
    return logs


def total_loss(errors: np.ndarray, logs: np.ndarray) -> float:
    priors = PRIOR_WEIGHT * np.sum(((logs - CENTRE) / WIDTH) ** 2)
    return float(2 * np.sum(np.sqrt(1 + errors**2) - 1) + priors)


def as_constants(logs: np.ndarray) -> dict[str, float]:
    return {name: float(value) for name, value in zip(NAMES, np.exp(logs), strict=True)}


def factor_of(row: Measurement, question: Question) -> float:
    """ln of the factor on every step that brings the figures nearest to the measured ones."""

    def distance(factor: float) -> float:
        errors = errors_of(row, replace(question, factor=math.exp(factor)))
        return sum(
            (0.15 if name == "ttft" else 1.0) * min(abs(error), 1.5) ** 1.5
            for name, error in errors.items()
        )

    # Where the figures do not depend on it, the factor stays at 0.
    start = distance(0.0)
    coarse = min(sorted(np.linspace(-1.6, 1.6, 17), key=abs), key=distance)
    near = min(coarse + np.linspace(-0.2, 0.2, 17), key=distance)
    return float(near) if distance(near) < start - 1e-3 else 0.0


def tells(row: Measurement, question: Question, factor: float) -> float:
    """By how much the measured figures change with the factor: the larger slope of logarithms."""
    slow, fast = (
        errors_of(row, replace(question, factor=math.exp(factor + off))) for off in (0.1, -0.1)
    )
    slopes = [abs(slow[name] - fast[name]) / 0.2 for name in slow if name != "ttft"]
    return min(1.0, max(slopes, default=TTFT_TELLS))


def setting_of(item: Sample) -> Setting:
    """What ran; of a build between releases, no version."""
    question, version = item.question, item.row.text("version")
    release = re.match(r"(?:docs )?v?(\d+\.\d+(?:\.\d+)?(?:rc\d+|\.post\d+)?)(?!\S*-dev)", version)
    return Setting(
        layout=str(question.layout),
        hosts=max(1, -(-question.layout.npus // question.npus_per_host)),
        experts=bool(question.shape.experts),
        version=release[1] if release else "",
    )


def case_with(item: Sample, constants: Mapping[str, float]) -> Case:
    question = item.with_constants(constants)
    return case_of(question, flow(question))


def tuned(samples: Sequence[Sample], records: Sequence[Record]) -> Similarity:
    """Coordinate search from START."""
    best, score = START, tuning_score(START, samples, records)
    for _ in range(2):
        for name in asdict(START):
            for times in (0.4, 0.65, 1.5, 2.5):
                tried = replace(best, **{name: getattr(best, name) * times})
                if tried.months < LEAST_MONTHS:
                    continue
                then = tuning_score(tried, samples, records)
                if then < score - 1e-4:
                    best, score = tried, then
        print(f"likeness: {score:.4f} {asdict(best)}", flush=True)
    return best


def tuning_score(like: Similarity, samples: Sequence[Sample], records: Sequence[Record]) -> float:
    """Mean over both ways of leaving out; the core counts in full, the rest less."""
    size = len(samples)
    matrix = np.empty((size, size))
    for one in range(size):
        for two in range(one, size):
            matrix[one, two] = like.covariance(records[one].case, records[two].case)
            matrix[two, one] = matrix[one, two]
    inverse = np.linalg.inv(matrix + np.diag([like.doubt(record) for record in records]))
    values = np.array([record.factor for record in records])
    told = np.array([record.tells for record in records])
    total = 0.0
    for group in (by_document, by_author):
        means, spreads = left_out(inverse, values, [group(item) for item in samples])
        misses = values - means
        weights = told * np.array([1.0 if item.core else 0.3 for item in samples])
        sizes = np.minimum(np.abs(misses), 1.0)
        likely = 0.5 * np.log(spreads) + np.minimum(0.5 * misses**2 / spreads, 4)
        total += float((weights * (2 * sizes + 0.2 * likely)).sum() / weights.sum())
        total += float(np.median(sizes[[item.core for item in samples]]))
    return total


def left_out(
    inverse: np.ndarray, values: np.ndarray, groups: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of each value given those of all other groups (block leave-one-out)."""
    means, spreads = np.empty(len(values)), np.empty(len(values))
    solved = inverse @ values
    for group in set(groups):
        own = [index for index, name in enumerate(groups) if name == group]
        block = np.linalg.inv(inverse[np.ix_(own, own)])
        means[own] = values[own] - block @ solved[own]
        spreads[own] = np.diag(block)
    return means, spreads


def write(
    constants: Mapping[str, float],
    like: Similarity,
    without: Mapping[str, Sequence[float]],
    samples: Sequence[Sample],
    records: Sequence[Record],
) -> None:
    """Write the data files, with few digits, so that a fit repeated elsewhere gives the same."""
    document = {
        "about": "written by benchmarks/planner/fit.py; docs/planning.md explains each",
        "constants": {name: short(value) for name, value in constants.items()},
        "similarity": {name: short(value) for name, value in asdict(like).items()},
        "interval": stored_constants()["interval"],
    }
    text = json.dumps(document, indent=1, ensure_ascii=False)
    (DATA / "constants.json").write_text(text + "\n", encoding="utf-8")
    write_lines(
        DATA / "measurements.json",
        "public measurements: where each was published, and how the planner compares; "
        "written by benchmarks/planner/fit.py",
        "measurements",
        [_record(record) for record in records],
    )
    write_lines(
        ROWS,
        "the measurements of src/ropeway/plan/measurements.json in the same order, by column of "
        "the CSV; written by fit.py",
        "rows",
        [sample.row.as_row() for sample in samples],
    )
    lines = ",\n".join(
        f"{json.dumps(name)}: {json.dumps([short(value) for value in row])}"
        for name, row in without.items()
    )
    about = json.dumps(
        "constants fitted to all documents, or authors, but one, in the order of constants.json; "
        "written by fit.py"
    )
    WITHOUT.write_text(f'{{"about": {about},\n"without": {{\n{lines}\n}}}}\n', encoding="utf-8")


def write_lines(path: Path, about: str, key: str, items: Iterable[object], **more: object) -> None:
    """Write a JSON document with one item a line, and what is `more` before them."""
    head = "".join(f'"{name}": {json.dumps(value)},\n' for name, value in more.items())
    lines = ",\n".join(json.dumps(item, ensure_ascii=False) for item in items)
    text = f'{{"about": {json.dumps(about)},\n{head}"{key}": [\n{lines}\n]}}\n'
    path.write_text(text, encoding="utf-8")


def _record(record: Record) -> dict[str, object]:
    case = {
        name: short(value) if isinstance(value, float) else value
        for name, value in asdict(record.case).items()
    }
    ran = asdict(record.ran) if record.ran else None
    return {
        "url": record.url,
        "factor": short(record.factor),
        "tells": short(record.tells),
        "case": case,
        "ran": ran,
    }


def short(value: float) -> float:
    return float(f"{value:.4g}")


if __name__ == "__main__":
    main()

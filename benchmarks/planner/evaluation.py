"""Predictions against measurements: row by row, and how large the errors are.

A row that is among the measurements that the constants were fitted to is predicted without its own
document: with constants fitted to all others, corrected by all others. So are the baselines.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from math import log
from pathlib import Path
from statistics import fmean, median

from measured import (
    Measurement,
    NotComparable,
    fitted_measurements,
    forecast_figures,
    kind_of,
    measured_figures,
    plain_figures,
    question_of,
    read_measurements,
    with_constants,
)

from ropeway.plan.correction import Correction, correction, kriging, recorded, similarity
from ropeway.plan.estimate import Flow, Forecast, case_of, flow, forecast
from ropeway.plan.machine import Machine, ideal, stored_constants
from ropeway.plan.question import Question

# The constants fitted to all documents but one, by that document, and to all authors but one, by
# that author; fit.py writes it.
WITHOUT = Path(__file__).with_name("without.json")
# Errors by group of measurements; intervals.py writes it.
ERRORS = Path(__file__).with_name("errors.json")
FIGURES = ("output", "tpot", "ttft")
METHODS = ("planner", "arithmetic alone", "nearest neighbour", "roofline")
# Shares of the peaks that a plain roofline assumes, after msmodeling's tensor_cast/device.py.
_ROOFLINE = {"compute": 0.7, "memory": 0.6, "wire": 0.7}
# Covariance of two factors below which one measurement says nothing about the other.
_LEAST_COVARIANCE = 1e-3


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of one row: output in tokens/s, tpot and ttft in seconds.

    error     predicted / measured - 1
    low, high the 80% interval; of ttft there is none, and both are None
    others    the same figure by the other methods
    """

    name: str
    predicted: float
    measured: float
    low: float | None
    high: float | None
    error: float
    in_interval: bool | None
    others: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the CSV. `unknown` says why it cannot be predicted; empty where it was.

    kind  "core", or why it does not belong to the clean core
    """

    line: int
    model: str
    family: str
    hardware: str
    layout: str
    load: str
    engine: str
    source: str
    kind: str
    unknown: str
    figures: tuple[Figure, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Score:
    """Errors of one figure over a group of rows; `inside` is the share within the interval."""

    group: str
    figure: str
    method: str
    rows: int
    median: float
    mean: float
    inside: float | None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All rows, then scores: the core, other kinds, the core by hardware and by model family."""

    where: str
    rows: tuple[Row, ...]
    scores: tuple[Score, ...]
    notes: tuple[str, ...] = ()

    @property
    def known(self) -> int:
        """Rows that were predicted."""
        return sum(not row.unknown for row in self.rows)

    def as_json(self) -> dict[str, object]:
        """Plain data, with a schema number."""
        return {
            "schema": 1,
            "where": self.where,
            "rows_predicted": self.known,
            "rows": [asdict(row) for row in self.rows],
            "scores": [asdict(score) for score in self.scores],
            "notes": list(self.notes),
        }


def evaluate_csv(text: str, where: str, in_sample: bool = False) -> Evaluation:
    """Predict every line of a CSV with the columns of `measured.TEXTS` and `NUMBERS`.

    `in_sample`: use a row's own document even where the constants were fitted to that row.
    Raises Refused when the text is not such a table.
    """
    measurements, broken = read_measurements(text, where)
    rows = [_row(one, in_sample) for one in measurements]
    rows += [_broken(line, complaint) for line, complaint in broken]
    rows.sort(key=lambda row: row.line)
    own = sum(one.key in _keys() for one in measurements)
    notes = [
        "predicted; measured elsewhere (each row's source); nothing here ran on NPU hardware",
    ]
    if own and in_sample:
        notes.append(f"{own} rows are among the measurements the constants were fitted to")
    elif own:
        notes.append(
            f"{own} rows are among the measurements the constants were fitted to: each was "
            "predicted with its own document left out of constants, corrections and baselines"
        )
    return Evaluation(where, tuple(rows), tuple(_scores(rows)), tuple(notes))


def _row(row: Measurement, in_sample: bool) -> Row:
    line = _blank(row)
    try:
        question, notes = question_of(row)
    except NotComparable as reason:
        return replace(line, unknown=str(reason))
    left_out = row.key in _keys() and not in_sample
    if left_out:
        question, state, by_others = unseen(row, question, lambda one: one.source)
    else:
        state = flow(question)
        by_others = correction(case_of(question, state))
        if any(record.case.source == row.source for record in recorded()):
            notes = (*notes, "other measurements of its document are among the fitted")
    predicted = forecast(question, state, by_others)
    others = _baselines(row, question, state, left_out)
    measured = measured_figures(row, question)
    line = replace(
        line,
        family=question.shape.model_type,
        layout=str(question.layout),
        load=_load_words(question),
        figures=tuple(_figure(name, predicted, measured[name], others) for name in measured),
        notes=(*notes, *predicted.notes),
    )
    return line if measured else replace(line, unknown="nothing to compare with is stated")


def _blank(row: Measurement) -> Row:
    return Row(
        line=row.line,
        model=row.text("model"),
        family="",
        hardware=row.text("hardware"),
        layout="",
        load="",
        engine=" ".join(filter(None, (row.text("engine"), row.text("version")))),
        source=row.text("source_url"),
        kind=kind_of(row),
        unknown="",
        figures=(),
    )


def _broken(line: int, complaint: str) -> Row:
    return Row(line, "", "", "", "", "", "", "", "unreadable", complaint, ())


def _load_words(question: Question) -> str:
    load = question.load
    many = f"{load.clients} clients" if load.clients else f"{load.rate:g} requests/s"
    return f"{load.input_tokens}/{load.output_tokens} tokens, {many}"


def _figure(
    name: str, predicted: Forecast, measured: float, others: Mapping[str, Mapping[str, float]]
) -> Figure:
    value, low, high = forecast_figures(predicted)[name]
    inside = low <= measured <= high if low is not None and high is not None else None
    same = {method: figures[name] for method, figures in others.items() if name in figures}
    return Figure(name, value, measured, low, high, value / measured - 1, inside, same)


def unseen(
    row: Measurement, question: Question, group: Callable[[Measurement], str]
) -> tuple[Question, Flow, Correction]:
    """Return the question, its state and its correction by all groups but its own.

    A group is a document or an author.
    """
    own = group(row)
    constants = _constants_without(own)
    question = with_constants(row, question, constants)
    state = flow(question)
    case = case_of(question, state)
    alike = similarity()
    others = [
        replace(record, factor=record.factor + _shift(number, constants))
        for number, record in enumerate(recorded())
        if group(fitted_measurements()[number]) != own
        and alike.covariance(case, record.case) > _LEAST_COVARIANCE
    ]
    return question, state, kriging(case, others, alike)(case)


def _shift(number: int, constants: Mapping[str, float]) -> float:
    """Return how the ln factor of a stored measurement changes with these constants."""
    if constants == stored_constants()["constants"]:
        return 0.0
    row, question = _stored_question(number)
    state = flow(question)
    then = flow(with_constants(row, question, constants))
    # At the same number of sequences, or a queue would count as slowness.
    return log(state.cycle.seconds / then.cycle.seconds * then.running / state.running)


@cache
def _stored_question(number: int) -> tuple[Measurement, Question]:
    row = fitted_measurements()[number]
    return row, question_of(row)[0]


@cache
def _keys() -> frozenset[str]:
    """Return the keys of the measurements that the constants were fitted to."""
    return frozenset(row.key for row in fitted_measurements())


@cache
def _all_without() -> Mapping[str, Sequence[float]]:
    without: Mapping[str, Sequence[float]] = json.loads(WITHOUT.read_text("utf-8"))["without"]
    return without


@cache
def _constants_without(group: str) -> Mapping[str, float]:
    """Return the constants fitted to all documents, or authors, but this one."""
    constants = stored_constants()["constants"]
    if group not in _all_without():
        return constants
    return dict(zip(constants, _all_without()[group], strict=True))


def _baselines(
    row: Measurement, question: Question, state: Flow, left_out: bool
) -> dict[str, dict[str, float]]:
    """Return the figures by other methods, by method and figure."""
    bare = replace(question, machine=_roofline(question.machine))
    figures = {
        "arithmetic alone": plain_figures(question, state),
        "roofline": plain_figures(bare, flow(bare)),
    }
    if nearest := _nearest(row, question, left_out):
        figures["nearest neighbour"] = nearest
    return figures


@cache
def _roofline(machine: Machine) -> Machine:
    """Return the machine with rates at the usual shares of their peaks, and no other cost."""
    compute = _ROOFLINE["compute"]
    return replace(
        ideal(machine),
        matrix=compute, experts=compute, attention=compute,
        memory=_ROOFLINE["memory"], cache=_ROOFLINE["memory"], wire=_ROOFLINE["wire"],
    )  # fmt: skip


def _nearest(row: Measurement, question: Question, left_out: bool) -> dict[str, float]:
    """Return the figures of the nearest measurement; those it lacks are taken from the next."""
    figures: dict[str, float] = {}
    ranked = sorted(
        (
            (_distance(question, _stored_question(number)[1]), number)
            for number, record in enumerate(recorded())
            if not (left_out and record.case.source == row.source)
        ),
    )
    for _, number in ranked:
        other, question_there = _stored_question(number)
        for name, value in measured_figures(other, question_there).items():
            figures.setdefault(name, value)
        if len(figures) == len(FIGURES):
            break
    return figures


def _distance(one: Question, other: Question) -> float:
    """Return a distance of configurations: the model counts most, as an engineer would search."""
    here, there = one.load, other.load
    far = abs(
        log(one.shape.layers * one.shape.hidden_size / other.shape.layers / other.shape.hidden_size)
    )
    far += 0.0 if one.shape.model_type == other.shape.model_type else 2.0
    far += 0.0 if one.machine.chips == other.machine.chips else 1.0
    far += 0.0 if one.machine.engine == other.machine.engine else 2.0
    far += 0.0 if (here.clients is None) == (there.clients is None) else 2.0
    far += 0.0 if here.draft_tokens == there.draft_tokens else 1.0
    load = (here.clients or here.rate or 1) / (there.clients or there.rate or 1)
    far += abs(log(load)) + abs(log(one.layout.npus / other.layout.npus))
    far += 0.5 * abs(log(here.input_tokens / there.input_tokens))
    return far + 0.5 * abs(log(here.output_tokens / there.output_tokens))


def _scores(rows: Sequence[Row]) -> Iterator[Score]:
    core = [row for row in rows if row.kind == "core"]
    yield from _group("core", core)
    for kind in sorted({row.kind for row in rows} - {"core"}):
        yield from _group(kind, [row for row in rows if row.kind == kind])
    yield from _by("hardware", core, lambda row: row.hardware)
    yield from _by("family", core, lambda row: row.family)


def _by(what: str, rows: Sequence[Row], key: Callable[[Row], str]) -> Iterator[Score]:
    known = [row for row in rows if not row.unknown]
    for name in sorted({key(row) for row in known}):
        yield from _group(f"{what}: {name}", [row for row in known if key(row) == name])


def _group(name: str, rows: Iterable[Row]) -> Iterator[Score]:
    figures = [figure for row in rows for figure in row.figures]
    for which in FIGURES:
        own = [figure for figure in figures if figure.name == which]
        if not own:
            continue
        inside = [figure.in_interval for figure in own if figure.in_interval is not None]
        share = fmean(inside) if inside else None
        yield _score((name, which, METHODS[0]), [figure.error for figure in own], share)
        for method in METHODS[1:]:
            errors = [
                figure.others[method] / figure.measured - 1
                for figure in own
                if method in figure.others
            ]
            if errors:
                yield _score((name, which, method), errors, None)


def _score(what: tuple[str, str, str], errors: Sequence[float], inside: float | None) -> Score:
    sizes = [abs(error) for error in errors]
    return Score(*what, len(sizes), median(sizes), fmean(sizes), inside)

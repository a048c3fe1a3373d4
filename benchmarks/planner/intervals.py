"""Fit the planner's 80 % interval to documents left out, and write down how far off it is.

    python benchmarks/planner/intervals.py

Reads what fit.py wrote. Writes `interval` in constants.json of src/ropeway/plan and errors.json
beside this file: errors and coverage of every group of measurements. Needs numpy.

1. Every stored measurement is predicted without its document: by constants fitted to all others,
   corrected by all others.
2. The spreads of `Scatter` are those with the best score of these intervals (Winkler's: the width,
   and ten times what a measurement lies outside), which is best where 80 % lie inside.
3. Spreads of kinds of load, of drafts, of other NPUs and of other engines are then raised, one by
   one, until the intervals that they are for hold 80 % where documents are left out, and 75 % where
   all documents of an author are.
4. What errors.json says of documents left out is said by spreads fitted without them too: documents
   are dealt into ten parts, and each part is scored by spreads fitted to the other nine.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace

import numpy as np
from evaluation import ERRORS, unseen
from fit import DATA, short, write_lines
from measured import (
    Measurement,
    fitted_measurements,
    kind_of,
    measured_figures,
    plain_figures,
    question_of,
)

from ropeway.plan.correction import Correction
from ropeway.plan.estimate import flow
from ropeway.plan.interval import HOLD_80, Scatter
from ropeway.plan.machine import stored_constants
from ropeway.plan.question import Question

START = Scatter(
    similar=0.6, few=0.5, experts=0.3, drafts=0.4, hosts=0.3, split=0.6, long=0.3, engine=0.3,
    output_clients=0.1, output_rate=0.05, tpot_clients=0.3, tpot_rate=0.1,
)  # fmt: skip
# Figures that someone retells; nothing is fitted to them.
SECOND_HAND = "second hand"
# Spreads of figures by kind of load; the others are of a step.
OWN = ("output_clients", "output_rate", "tpot_clients", "tpot_rate")
# What an interval that misses by 1 costs, beside its width: 2 / (1 - 0.8).
MISSED = 10.0
# Larger errors of logarithms count as this, so that a few do not decide.
LARGEST = 1.6
# Other engines than vLLM-Ascend count less: nobody plans for them.
OTHER_WEIGHT = 0.3
PARTS = 10
# ln of how much longer steps take, at which figures are computed; between them it is interpolated.
GRID = np.arange(0.0, 3.01, 0.1)


@dataclass(frozen=True)
class Left:
    """One figure of a measurement that was predicted without its group (a document or an author).

    error         ln(measured / predicted)
    slower, faster  ln of the figure over the predicted, where steps take exp(±GRID) times as long
    """

    row: Measurement
    question: Question
    figure: str
    corrected: Correction
    running: float
    error: float
    slower: np.ndarray
    faster: np.ndarray

    @property
    def cell(self) -> str:
        return f"{self.figure}_{'clients' if self.question.load.rate is None else 'rate'}"

    def ends(self, widths: Scatter) -> tuple[float, float]:
        """ln of the ends of its interval over the predicted, as `plan.interval.ends` has them."""
        step = HOLD_80 * widths.step(self.question, self.corrected, self.running)
        own = HOLD_80 * widths.figure(self.figure, self.question)
        moved = (np.interp(step, GRID, self.slower), np.interp(step, GRID, self.faster))
        return -math.hypot(min(0.0, *moved), own), math.hypot(max(0.0, *moved), own)

    def holds(self, widths: Scatter) -> bool:
        low, high = self.ends(widths)
        return low <= self.error <= high


def main() -> None:
    documents = list(left_out(lambda row: row.source))
    authors = list(left_out(lambda row: row.author))
    widths = raised(fitted(documents), documents, authors)
    lines = [
        *groups("document", cross_fitted(documents, authors)),
        *groups("author", [(one, widths) for one in authors]),
    ]
    write(widths, lines)
    for name, value in asdict(widths).items():
        print(f"{name} {value:.3f}")


def left_out(group: Callable[[Measurement], str]) -> Iterator[Left]:
    """Every stored measurement, each predicted without its group."""
    for row in fitted_measurements():
        question, _, corrected = unseen(row, question_of(row)[0], group)
        question = replace(question, factor=math.exp(corrected.mean))
        running = flow(question).running
        curves = {sign: [at(question, sign * off) for off in GRID] for sign in (1, -1)}
        for name, value in measured_figures(row, question).items():
            slower, faster = (
                np.log([max(figures[name], 1e-9) for figures in curves[sign]]) for sign in (1, -1)
            )
            middle = slower[0]
            yield Left(
                row, question, name, corrected, running,
                math.log(value) - middle, slower - middle, faster - middle,
            )  # fmt: skip


def at(question: Question, slower: float) -> dict[str, float]:
    """Figures where steps take exp(slower) times as long."""
    other = replace(question, factor=question.factor * math.exp(slower))
    return plain_figures(other, flow(other))


def score(widths: Scatter, lefts: Sequence[Left]) -> float:
    """Winkler's mean score of the intervals."""
    total = weights = 0.0
    for one in lefts:
        if one.figure == "ttft" or kind_of(one.row) == SECOND_HAND:
            continue
        low, high = one.ends(widths)
        error = max(-LARGEST, min(LARGEST, one.error))
        weight = 1.0 if plannable(one.row) else OTHER_WEIGHT
        outside = max(0.0, low - error, error - high)
        total += weight * (high - low + MISSED * outside)
        weights += weight
    return total / weights


def fitted(lefts: Sequence[Left], start: Scatter = START, rounds: int = 5) -> Scatter:
    """Coordinate search from `start`."""
    best, least = start, score(start, lefts)
    for _ in range(rounds):
        before = least
        for field in fields(Scatter):
            for times in (0.6, 0.85, 1.18, 1.6):
                tried = replace(best, **{field.name: getattr(best, field.name) * times})
                then = score(tried, lefts)
                if then < least - 1e-6:
                    best, least = tried, then
        if before - least < 1e-3:
            break
    return best


def raised(widths: Scatter, documents: Sequence[Left], authors: Sequence[Left]) -> Scatter:
    """Raise spreads until the intervals they are for hold as much as they should.

    First those of figures by kind of load, on plain serving; then those of steps, on what else
    there is.
    """
    for lefts, least in ((documents, 0.8), (authors, 0.75)):
        for spread, own in told_by(lefts).items():
            while coverage((one, widths) for one in own) < least:
                widths = replace(widths, **{spread: getattr(widths, spread) + 0.005})
    return widths


def told_by(lefts: Sequence[Left]) -> dict[str, list[Left]]:
    """The figures that each spread is raised for."""
    own: dict[str, list[Left]] = {name: [] for name in (*OWN, "drafts", "split", "engine")}
    for one in lefts:
        setup = one.question.setup
        if one.figure == "ttft" or kind_of(one.row) == SECOND_HAND:
            continue
        if not plannable(one.row):
            own["engine"].append(one)
        elif setup.split or setup.method:
            own["split" if setup.split else "drafts"].append(one)
        else:
            own[one.cell].append(one)
    return own


def coverage(pairs: Iterable[tuple[Left, Scatter]]) -> float:
    """The share that lies inside."""
    return float(np.mean([one.holds(widths) for one, widths in pairs]))


def cross_fitted(documents: Sequence[Left], authors: Sequence[Left]) -> list[tuple[Left, Scatter]]:
    """Each with spreads that were fitted without its document."""
    names = sorted({one.row.source for one in documents})
    part = {name: number % PARTS for number, name in enumerate(names)}
    pairs = []
    for number in range(PARTS):
        others, theirs = (
            [one for one in lefts if part[one.row.source] != number]
            for lefts in (documents, authors)
        )
        widths = raised(fitted(others), others, theirs)
        pairs += [(one, widths) for one in documents if part[one.row.source] == number]
    return pairs


def plannable(row: Measurement) -> bool:
    return row.text("engine") in ("vLLM-Ascend", "")


def names_of(one: Left) -> Iterator[str]:
    """The groups of measurements that it belongs to."""
    row, load, kind = one.row, one.question.load, kind_of(one.row)
    if not plannable(row):
        yield kind
        return
    yield "all by vLLM-Ascend"
    yield kind
    if load.clients is None:
        yield "limited by a rate"
    else:
        few, some = load.clients <= 8, load.clients <= 64
        yield f"{'1 to 8' if few else '9 to 64' if some else 'over 64'} clients"
    long = load.input_tokens
    yield f"prompts {'up to 1k' if long < 1100 else 'up to 8k' if long <= 8192 else 'over 8k'}"
    vague = "not stated" in row.text("hardware") or row.text("hardware").startswith("910B (")
    yield f"chip {'not named' if vague else 'named'}"
    yield "with experts" if one.question.shape.experts else "dense"
    yield f"weights {'of 16 bits' if '16' in row.text('dtype_quant') else 'quantised'}"
    yield f"{'several hosts' if (row.number('nodes') or 1) > 1 else 'one host'}"
    yield f"prefix cache {'used' if load.prefix_hit else 'not used'}"
    month = one.question.machine.month
    yield f"release {'up to 0.13' if month < 13.5 else '0.14 to 0.22' if month < 18 else '0.23 on'}"


def groups(left: str, pairs: Sequence[tuple[Left, Scatter]]) -> Iterator[dict[str, object]]:
    """Errors and coverage by group of measurements and figure."""
    found: dict[tuple[str, str], list[tuple[Left, Scatter]]] = {}
    for one, widths in pairs:
        for name in names_of(one):
            found.setdefault((name, one.figure), []).append((one, widths))
    for (name, figure), own in sorted(found.items()):
        errors = [abs(math.exp(-one.error) - 1) for one, _ in own]
        yield {
            "left_out": left,
            "group": name,
            "figure": figure,
            "rows": len(own),
            "documents": len({one.row.source for one, _ in own}),
            "median": short(float(np.median(errors))),
            "mean": short(float(np.mean(errors))),
            "inside": None if figure == "ttft" else short(coverage(own)),
        }


def write(widths: Scatter, lines: Sequence[Mapping[str, object]]) -> None:
    """Write the spreads into constants.json, and errors.json with the spreads that it is of."""
    interval = {name: short(value) for name, value in asdict(widths).items()}
    text = json.dumps({**stored_constants(), "interval": interval}, indent=1, ensure_ascii=False)
    (DATA / "constants.json").write_text(text + "\n", encoding="utf-8")
    write_lines(
        ERRORS,
        "errors and coverage of the 80% interval, each measurement predicted without its document, "
        "or without all documents of its author; written by intervals.py",
        "groups",
        lines,
        interval=interval,
    )


if __name__ == "__main__":
    main()

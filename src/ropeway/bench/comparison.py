"""One model in several parallel layouts, measured on the same prompts: the data of `compare`.

Also the figures others have published for the same question, each with its source, so that a
report can lay the two side by side. Nothing here draws or writes; `ropeway.report` does.
"""

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Literal

from ropeway.bench.figures import Summary
from ropeway.bench.load_test import LoadTest
from ropeway.bench.rounds import (
    CLOSED,
    OPEN,
    Difference,
    Round,
    Series,
    differences,
    fastest_of,
    not_told_from,
)
from ropeway.bench.versus import FEWEST_ROUNDS, LEVEL, interval_of_mean

Status = Literal["ok", "failed", "refused"]


@dataclass(frozen=True, kw_only=True)
class LayoutResult:
    """What became of one layout.

    layout                    as people write it: `TP2×PP2+EP`
    status                    failed: it was started and did not serve; refused: it cannot run
    error                     the root cause, one line; None when ok
    start_s                   from the first command to the first generated token
    answer                    to the one prompt every layout gets, for people to read
    answer_matches_reference  the same answer as `Comparison.reference`; None: not compared
    run_dir                   the folder with the logs and the raw timings
    rounds                    what it was measured in; `summary` is of all of them as of one run
    """

    layout: str
    npus: int
    hosts: int
    status: Status
    error: str | None = None
    start_s: float | None = None
    summary: Summary | None = None
    answer: str | None = None
    answer_matches_reference: bool | None = None
    run_dir: str | None = None
    rounds: tuple[Round, ...] = ()

    @property
    def output_tokens_per_s(self) -> float | None:
        return self.summary.output_tokens_per_s if self.summary else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Between what the mean of its rounds lies, in output tokens/s, with 95%; None: unknown."""
        values = [one.output_tokens_per_s for one in self.rounds]
        if len(values) < FEWEST_ROUNDS or not all(value > 0 for value in values):
            return None
        return interval_of_mean(values, 0.95)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All layouts of one model on one cluster.

    started_at  ISO 8601 with its offset
    baseline    the name of the single-process layout among the results; None: none was run
    command     what to type to measure this again
    ropeway     the version that measured
    notes       what a reader must know to judge the figures, one sentence each
    """

    model: str
    engine: str
    hardware: str
    load: LoadTest
    started_at: str
    results: tuple[LayoutResult, ...]
    baseline: str | None = None
    command: str | None = None
    ropeway: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def best(self) -> LayoutResult | None:
        """What measured the most output tokens/s, be it by noise."""
        return fastest(self.results)

    @property
    def rounds(self) -> int:
        """Rounds that each layout was measured in."""
        return max((len(result.rounds) for result in self.results), default=0)

    @property
    def differences(self) -> tuple[Difference, ...]:
        """How each two layouts compare in the first figure; empty with fewer than three rounds."""
        if self.rounds < FEWEST_ROUNDS:
            return ()
        measured = [Series(one.layout, one.rounds) for one in self.results if one.rounds]
        figure = (OPEN if self.load.is_open else CLOSED)[:1]
        return differences(measured, figure, turns=False)

    @property
    def fastest(self) -> str | None:
        """The layout that is known to be faster than every other one; None: not known."""
        return fastest_of([one.layout for one in self.results if one.rounds], self.differences)

    @property
    def not_told_from_best(self) -> tuple[str, ...]:
        """Layouts that `best` was not found to differ from."""
        return not_told_from(self.best.layout, self.differences) if self.best else ()

    @property
    def reference(self) -> LayoutResult | None:
        """What shares are taken of: the single-process layout, without one the best layout."""
        for result in self.results:
            if result.layout == self.baseline and result.output_tokens_per_s:
                return result
        return self.best

    def with_answers_compared(self) -> "Comparison":
        """Return the comparison with each answer compared to that of `reference`, to the letter."""
        expected = self.reference.answer if self.reference else None

        def compared(result: LayoutResult) -> LayoutResult:
            if expected is None or result.answer is None:
                return result
            return replace(result, answer_matches_reference=result.answer == expected)

        return replace(self, results=tuple(map(compared, self.results)))

    def share_of_best(self, result: LayoutResult) -> float | None:
        """Throughput as a share of `reference`: 1.0 is the same; None when not measured."""
        whole = self.reference.output_tokens_per_s if self.reference else None
        part = result.output_tokens_per_s
        return part / whole if whole and part is not None else None


def fastest(results: Iterable[LayoutResult]) -> LayoutResult | None:
    """Return the result with the most output tokens per second; None when nothing ran."""
    measured = [result for result in results if result.output_tokens_per_s]
    return max(measured, key=lambda result: result.output_tokens_per_s or 0.0, default=None)


@dataclass(frozen=True)
class Shape:
    """The kind of a layout, whatever its sizes: `TP×PP` over several hosts."""

    kinds: str
    many_hosts: bool


@dataclass(frozen=True)
class RecordedFigure:
    """A throughput that others published; None where it did not start or was not tried."""

    shape: Shape
    layout: str
    output_tokens_per_s: float | None
    status: Literal["recorded", "did not start", "not tried"] = "recorded"


@dataclass(frozen=True)
class RecordedComparison:
    """Figures from elsewhere, with their conditions and their source."""

    model: str
    engine: str
    hardware: str
    clients: int
    source: str
    figures: tuple[RecordedFigure, ...]

    @property
    def best(self) -> float:
        return max(figure.output_tokens_per_s or 0.0 for figure in self.figures)


# Read off vLLM's own throughput log, "about" each (section 4 of the source). It also says that
# pipeline and expert parallel together did not start (3.2.7), and names data parallel over hosts
# as not tried (section 4, end).
BLOG = RecordedComparison(
    model="Qwen3-VL-30B-A3B-Instruct",
    engine="vLLM-Ascend v0.11.0rc0",
    hardware="2 × 8 Ascend 910B4",
    clients=256,
    source="https://www.zouht.com/4119.html",
    figures=(
        RecordedFigure(Shape("TP", False), "TP8", 2500.0),
        RecordedFigure(Shape("TP+EP", False), "TP8+EP", 2500.0),
        RecordedFigure(Shape("TP", True), "TP16", 2200.0),
        RecordedFigure(Shape("TP×PP", True), "TP8×PP2", 1800.0),
        RecordedFigure(Shape("TP+EP", True), "TP16+EP", 2100.0),
        RecordedFigure(Shape("TP×PP+EP", True), "TP8×PP2+EP", None, "did not start"),
        RecordedFigure(Shape("DP×TP", True), "DP2×TP8", None, "not tried"),
    ),
)

_PART = re.compile(r"(TP|PP|DP|EP)(\d*)", re.IGNORECASE)
_KIND_ORDER = ("DP", "TP", "PP", "EP")


def shape_of(layout: str, hosts: int) -> Shape:
    """Return the kind: `TP2×PP2+EP` on 2 hosts → Shape("TP×PP+EP", True); size 1 does not count."""
    parts = {kind.upper() for kind, size in _PART.findall(layout) if size != "1"}
    split = [kind for kind in _KIND_ORDER if kind in parts and kind != "EP"]
    kinds = "×".join(split) or "one process"
    return Shape(kinds + ("+EP" if "EP" in parts else ""), hosts > 1)


def in_order(comparison: Comparison) -> tuple[LayoutResult, ...]:
    """Return the results in the order of the recorded figures: baseline, one host, several."""
    order = [figure.shape for figure in BLOG.figures]

    def place(result: LayoutResult) -> tuple[bool, int, bool, int]:
        shape = shape_of(result.layout, result.hosts)
        index = order.index(shape) if shape in order else len(order)
        return (result.layout != comparison.baseline, index, result.hosts > 1, result.npus)

    return tuple(sorted(comparison.results, key=place))


def comparison_to_data(comparison: Comparison) -> dict[str, object]:
    """Return plain data for a JSON file or `--json`."""
    return {
        **asdict(comparison),
        "results": [_with_interval(result) for result in comparison.results],
        "differences": [asdict(one) for one in comparison.differences],
        "fastest": comparison.fastest,
        "level": LEVEL,
    }


def _with_interval(result: LayoutResult) -> dict[str, object]:
    low, high = result.interval or (None, None)
    return {**asdict(result), "tokens_per_s_low": low, "tokens_per_s_high": high}

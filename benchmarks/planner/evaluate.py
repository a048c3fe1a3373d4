"""Compare the planner's predictions with measurements, row by row.

    python benchmarks/planner/evaluate.py MEASUREMENTS.csv   # `-` reads stdin
    python benchmarks/planner/evaluate.py --in-sample --json MEASUREMENTS.csv

Columns: model, hardware, tp, pp, ep, dp, input_len, output_len, concurrency, output_tok_s, ttft_ms,
tpot_ms and others; docs/planning.md has them all. Any cell may be blank: a row that cannot be
predicted is listed with the reason. A row that the constants were fitted to is predicted without
its document.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from evaluation import Evaluation, Figure, Row, Score, evaluate_csv
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from ropeway.errors import Refused, RopewayError
from ropeway.report.console import Screen
from ropeway.report.figures import NONE, milliseconds, percent, rate
from ropeway.report.line import one_line, shrink
from ropeway.report.table import WIDE

_NAMES = {"output": "tokens/s", "tpot": "per token", "ttft": "TTFT"}
_OFF = 0.5  # an error from here on stands out
_MODEL_CELLS = 24


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the comparison; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("csv", help="a file, or `-` for stdin")
    parser.add_argument("--in-sample", action="store_true", help="use a row's own document too")
    parser.add_argument("-v", "--verbose", action="store_true", help="assumptions and sources too")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    chosen = parser.parse_args(arguments)
    screen = Screen(json=chosen.json)
    try:
        text, where = read_text(chosen.csv)
        evaluation = evaluate_csv(text, where, chosen.in_sample)
    except RopewayError as error:
        screen.error(error)
        screen.close(ok=False)
        return error.exit_code
    screen.answer(evaluation_text(evaluation, verbose=chosen.verbose))
    screen.result(evaluation.as_json())
    screen.close(ok=True)
    return 0


def read_text(file: str) -> tuple[str, str]:
    """Return the text of a file or of stdin (`-`), and its name. Raises Refused."""
    try:
        raw = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        return raw.decode("utf-8-sig"), "stdin" if file == "-" else file
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise Refused(f"cannot read `{file}`: {reason}", where=file) from None
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise Refused("the file is not UTF-8 text", where=f"{file}:{line}") from None


def evaluation_text(evaluation: Evaluation, *, verbose: bool = False) -> RenderableType:
    """Return every row with its error, the rows that cannot be predicted, and the statistics.

    verbose  also what was assumed for each row, and where it was measured
    """
    known = [row for row in evaluation.rows if not row.unknown]
    unknown = [row for row in evaluation.rows if row.unknown]
    parts: list[RenderableType] = [_heading(f"predicted: {_rows_of(len(known))}")]
    if known:
        parts += [_Rows(known, verbose=verbose)]
    if unknown:
        parts += [
            Text(),
            _heading(f"cannot be predicted: {_rows_of(len(unknown))}"),
            _unknown(unknown),
        ]
    if evaluation.scores:
        parts += [Text(), _heading("errors in %, median / mean of |predicted / measured − 1|")]
        parts += _scores(evaluation.scores)
    parts += [Text(f"note  {one_line(note)}", style="dim") for note in evaluation.notes]
    return Group(*parts)


class _Rows:
    def __init__(self, rows: Sequence[Row], *, verbose: bool) -> None:
        self._rows, self._verbose = rows, verbose

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield _rows(self._rows, wide=options.max_width >= WIDE, verbose=self._verbose)


def _rows(rows: Sequence[Row], *, wide: bool, verbose: bool) -> Table:
    """A line for each figure; the row is named on its first. ● within the 80% interval."""
    table = _table(gap=2 if wide else 1)
    table.add_column("line", justify="right")
    table.add_column("model")
    if wide:
        table.add_column("hardware", overflow="fold")
    table.add_column("layout", overflow="fold")
    if wide:
        table.add_column("load", overflow="fold")
        table.add_column("kind", overflow="fold")
    table.add_column("figure", no_wrap=True)
    for name in ("predicted", "measured", "error"):
        table.add_column(name, justify="right", no_wrap=True)
    if wide:
        table.add_column("80% within", justify="right", no_wrap=True)
    table.add_column("")
    for row in rows:
        for number, figure in enumerate(row.figures):
            table.add_row(*_line(row, figure, first=number == 0, wide=wide))
        if verbose:
            for line in (*row.notes, row.source):
                table.add_row("", Text(one_line(line), style="dim"))
    return table


def _line(row: Row, figure: Figure, *, first: bool, wide: bool) -> list[str | Text]:
    model = one_line(row.model) if wide else shrink(one_line(row.model), _MODEL_CELLS)
    named = [str(row.line), model, one_line(row.layout)]
    if wide:
        named[2:2] = [one_line(row.hardware)]
        named += [one_line(row.load), one_line(row.kind)]
    cells: list[str | Text] = list(named if first else [""] * len(named))
    cells += [_NAMES.get(figure.name, figure.name)]
    cells += [_amount(figure.name, figure.predicted), _amount(figure.name, figure.measured)]
    cells += [
        Text(f"{figure.error * 100:+.0f}%", style="yellow" if abs(figure.error) >= _OFF else "")
    ]
    if wide:
        ends = [_amount(figure.name, end) for end in (figure.low, figure.high)]
        cells += [NONE if figure.low is None else "–".join(ends)]
    return [*cells, "●" if figure.in_interval else ""]


def _amount(name: str, value: float | None) -> str:
    """Tokens/s, or a time given in seconds."""
    if name == "output" or value is None:
        return rate(value)
    return milliseconds(value * 1000)


def _unknown(rows: Iterable[Row]) -> Table:
    """Return the rows that cannot be predicted, those with one reason together."""
    by_reason: dict[str, list[int]] = {}
    for row in rows:
        by_reason.setdefault(one_line(row.unknown), []).append(row.line)
    table = _table(header=False)
    table.add_column(justify="right")
    table.add_column(ratio=2, overflow="fold")
    table.add_column(ratio=3, overflow="fold", style="dim")
    for reason, lines in sorted(by_reason.items(), key=lambda item: -len(item[1])):
        table.add_row(f"{len(lines)}", reason, f"line{'s' * (len(lines) > 1)} {_runs(lines)}")
    return table


def _runs(lines: Sequence[int]) -> str:
    """`3, 9–12`."""
    runs: list[list[int]] = []
    for line in lines:
        if runs and line == runs[-1][-1] + 1:
            runs[-1][1:] = [line]
        else:
            runs.append([line])
    return ", ".join("–".join(map(str, run)) for run in runs)


def _scores(scores: Sequence[Score]) -> list[RenderableType]:
    """Under the name of each group a line for each figure, methods side by side."""
    methods = list(dict.fromkeys(score.method for score in scores))
    groups: dict[str, dict[str, dict[str, Score]]] = {}
    for score in scores:
        figures = groups.setdefault(score.group, {})
        figures.setdefault(score.figure, {})[score.method] = score
    parts: list[RenderableType] = [_score_table(methods, header=True)]
    for group, figures in groups.items():
        table = _score_table(methods, header=False)
        for figure, by_method in figures.items():
            rows = max(score.rows for score in by_method.values())
            inside = next(
                (score.inside for score in by_method.values() if score.inside is not None), None
            )
            errors = (_errors(by_method.get(method)) for method in methods)
            name = f"  {_NAMES.get(figure, figure)}"
            table.add_row(name, f"{rows:,}", *errors, percent(inside))
        parts += [Text(one_line(group), style="bold"), table]
    return parts


def _score_table(methods: Sequence[str], *, header: bool) -> Table:
    """Of one group; widths are fixed, so that the tables of all groups stand in line."""
    table = _table(header=header)
    table.add_column("", width=11)
    table.add_column("rows", justify="right", width=4)
    for method in methods:
        table.add_column(method.replace(" ", "\n"), justify="right", width=11)
    table.add_column("in 80%", justify="right", width=7)
    return table


def _errors(score: Score | None) -> str:
    """`10.4 / 18.7`, from 100% on without decimals, and beyond 999% no more."""
    if score is None:
        return NONE
    return " / ".join(
        f"{share * 100:.1f}" if share < 0.9995 else f"{share:.0%}"[:-1] if share < 9.995 else ">999"
        for share in (score.median, score.mean)
    )


def _rows_of(count: int) -> str:
    return f"{count:,} row{'s' * (count != 1)}"


def _table(*, header: bool = True, gap: int = 2) -> Table:
    return Table(
        box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="dim", show_header=header
    )


def _heading(text: str) -> Text:
    return Text(text, style="bold")


if __name__ == "__main__":
    sys.exit(main())

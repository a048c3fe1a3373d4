"""A load test on the terminal, in both languages."""

import re
from dataclasses import replace
from io import StringIO

import pytest
from rich.cells import cell_len
from rich.console import RenderableType

from ropeway.bench.figures import Calibration, Figures, Late, OwnShare
from ropeway.bench.load_test import LoadTest
from ropeway.endpoint.stream import Timing
from ropeway.report.bench import bench_record, bench_table
from ropeway.report.bench_page import LoadReport
from ropeway.report.console import Screen
from test_bench_page import BROKEN, CONDITIONS, EXPECTED, LOAD, QUIET, TIMINGS, figures, text_of
from widths import too_wide

OPEN = replace(LOAD, rate=12.5)


def shown(renderable: RenderableType, width: int = 80, language: str = "en") -> str:
    out = StringIO()
    screen = Screen(stdout=out, stderr=StringIO(), width=width, color="never", language=language)
    screen.answer(renderable)
    return out.getvalue()


def rows(timings: list[Timing], load: LoadTest = LOAD, ended: str = "complete") -> list[str]:
    summary = figures(timings, load).summary
    text = shown(bench_table(summary, replace(CONDITIONS, load=load), ended=ended))
    return [" ".join(line.split()) for line in text.splitlines()]


FULL = replace(QUIET, cpu=0.95)


def recorded(made: Figures, language: str = "en") -> str:
    """What stands below the table, each part on one line."""
    return shown(bench_record(made, CONDITIONS, folder="runs/x", language=language), 300, language)


def bad(own: OwnShare = FULL) -> Figures:
    late = [replace(one, due=one.sent - 1) for one in [*TIMINGS, *BROKEN]]
    made = figures(late, OPEN, own)
    return replace(made, summary=replace(made.summary, unfinished=1, counted=False))


def test_a_load_test_shows_its_conditions_rates_latencies_and_errors() -> None:
    lines = rows([*TIMINGS, *BROKEN])
    assert lines[0] == "SmolLM2-135M-Instruct · TP2×PP2+EP · fake"
    assert "128 tokens in, 5 out · 2 clients · 86 of 80 requests" in lines
    assert "measured here" in lines
    assert "output 10.0 tokens/s" in lines
    assert "requests 2.00 a second" in lines
    assert "in flight 2.15 on average, of 2 asked for" in lines
    assert "completed 80 of 86 in 40 s" in lines
    assert "time to first token 200 ms 200 ms 200 ms 200 ms" in lines
    assert lines[-2:] == [
        "6 of 86 requests failed",
        "6 × timeout after 1.00 s (p50), 1.00 s (p99)",
    ]
    assert rows(TIMINGS)[-1].startswith("end to end"), "no lines about errors"


def test_what_was_asked_for_stands_behind_what_was_achieved() -> None:
    lines = rows([replace(one, due=one.sent) for one in TIMINGS], OPEN)
    assert (
        "128 tokens in, 5 out · 2 clients, 12.5 requests a second (Poisson) · 80 requests" in lines
    )
    assert "requests 2.00 a second, of 12.5 asked for" in lines
    assert "in flight 2.00 on average, at most 2" in lines
    assert any(line.startswith("first token, from when due 200 ms") for line in lines)


def test_the_steady_part_is_shown_or_why_there_is_none() -> None:
    steady = "steady 10.0 tokens/s from 1.0 s to 39 s; 2.00 requests/s, 2.00 in flight"
    assert steady in rows(TIMINGS)
    none = "steady – too few requests at full load for a steady part"
    assert none in rows(TIMINGS[:4])


def test_an_early_end_comes_first() -> None:
    assert rows(TIMINGS, ended="time limit")[0] == "ended early: time limit"
    assert rows(TIMINGS)[0].startswith("SmolLM2")


def test_requests_that_were_sent_again_are_said() -> None:
    closed = replace(bad(), own=replace(bad().own, repeated=2))
    record = recorded(closed)
    assert "; 2 requests sent again, since the server had closed their connection" in record
    assert "sent again" not in recorded(bad())


def test_what_stands_below_the_table() -> None:
    load = replace(CONDITIONS, load=OPEN)
    record = bench_record(bad(), load, folder="runs/x", planned=EXPECTED, page="runs/x/p")
    lines = shown(record, width=300).rstrip("\n").split("\n")
    assert lines[1] == "84 of 86 requests started late: all 2 clients were busy"
    assert lines[2] == (
        "2 of 86 requests started late with a client free: a connection had to be made first, or"
        " the load generator was late"
    )
    assert lines[3] == (
        "plan      20.0 tokens/s predicted for TP4, the plan's choice for a blank `serve.layout`"
        " (80% interval: 16.0 to 25.0); measured: 50% of it"
    )
    assert lines[5] == "tokens    800 in, 400 out"
    assert lines[6] == (
        "our own   requests left 0.30 ms late, pieces were read 0.50 ms late (p99); 95% of a core"
    )
    assert lines[7].startswith("doubt     the load generator was full")
    assert lines[-2:] == ["page      runs/x/p", "results   runs/x"]
    unwritten = recorded(figures(TIMINGS))
    assert "page" not in unwritten
    assert "doubt" not in unwritten


def test_how_wrong_it_was_where_the_truth_is_known_is_said() -> None:
    wrong = Calibration(16, 200, Late(0.0001, 0.002, 0.003), Late(0.0, 0.0004, 0.001))
    made = replace(figures(TIMINGS), own=replace(QUIET, calibration=wrong))
    words = (
        "against a known endpoint, with 16 in flight, TTFT was wrong by 2.00 ms, time per token by"
        " 0.40 ms (p99)"
    )
    assert words in recorded(made)
    assert "known endpoint" not in recorded(figures(TIMINGS))
    report = LoadReport(conditions=CONDITIONS, command="x", figures=made)
    assert "(200 requests, 16 in flight, before the run)" in text_of(report)


@pytest.mark.parametrize("width", [80, 200])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_it_fits_the_terminal_and_loses_nothing(width: int, language: str) -> None:
    made = bad()
    conditions = replace(CONDITIONS, load=OPEN)
    text = shown(bench_table(made.summary, conditions, language, "interrupted"), width, language)
    assert too_wide(text, width) == []
    assert "…" not in text
    assert text.count("200 ms") >= 8


@pytest.mark.parametrize("language", ["en", "zh"])
def test_what_stands_below_the_table_fits_too_and_its_paths_stay_whole(language: str) -> None:
    folder = "runs/" + "my runs/" * 12
    made, load = bad(), replace(CONDITIONS, load=OPEN)
    text = shown(bench_record(made, load, folder=folder, language=language), 80, language)
    assert folder in text
    assert too_wide(text.replace(folder, ""), 80) == []
    whole = shown(bench_record(made, load, folder=folder, language=language), 500, language)
    assert "".join(text.split()) == "".join(whole.split())
    if language == "en":
        assert "\n" + " " * 10 in text, "under the text, and not under the name"
        assert set(text.split()) == set(whole.split()), "no word is in two pieces"


def test_its_chinese_has_no_english_word() -> None:
    made, conditions = bad(replace(QUIET, cpu=0.95, waited=0.5)), replace(CONDITIONS, load=OPEN)
    text = shown(bench_table(made.summary, conditions, "zh", "not recorded"), language="zh")
    text += shown(bench_table(figures(TIMINGS[:1]).summary, CONDITIONS, "zh"), language="zh")
    planned = replace(EXPECTED, beyond_measured=True)
    record = bench_record(
        made, conditions, folder="runs/x", planned=planned, page="runs/x/p", language="zh"
    )
    text += shown(record, language="zh")
    for name in (CONDITIONS.model, "fake", "2 cores", "runs/x", "`serve.layout`"):
        text = text.replace(name, "")
    words = set(re.findall(r"(?<![\w/.-])[a-z][a-z-]{3,}(?![\w/.-])", text))
    assert words <= {"token", "tokens", "processes"}


def test_labels_below_the_table_are_as_wide_in_chinese() -> None:
    text = recorded(figures(TIMINGS), "zh")
    line = next(line for line in text.splitlines() if line.endswith("runs/x"))
    assert line.startswith("结果  ")
    assert cell_len(line.removesuffix("runs/x")) == 10

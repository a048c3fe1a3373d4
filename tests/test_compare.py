"""A comparison of layouts, with an endpoint of known speed in place of each layout."""

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path

import pytest
from fake_endpoint import Behaviour, FakeEndpoint, running

from json_documents import read_document
from ropeway.bench.compare import ComparisonRun
from ropeway.bench.load_test import LoadTest
from ropeway.bench.served import QUESTION, Rounds, Served
from ropeway.cli.measure import report
from ropeway.endpoint.address import Endpoint
from ropeway.errors import LaunchError, LayoutError, Refused
from ropeway.report.console import Screen
from ropeway.report.progress import Step
from ropeway.report.text import compare_table
from ropeway.spec.model import Layout

SINGLE, PAIR = Layout(), Layout(tensor=2, pipeline=2)
FAST = Behaviour(ttft_s=0, tpot_s=0)
LOAD = LoadTest(input_tokens=16, output_tokens=4, clients=2, requests=3)


@dataclass
class Cluster:
    """Serves a layout as an endpoint; `faults` are raised in place of a start."""

    faults: dict[Layout, Exception] = field(default_factory=dict)
    behaviour: Behaviour = FAST
    served: list[FakeEndpoint] = field(default_factory=list)
    down: int = 0

    @contextmanager
    def serve(self, layout: Layout, _folder: Path) -> Iterator[Served]:
        if layout in self.faults:
            raise self.faults[layout]
        with running(self.behaviour) as fake:
            self.served.append(fake)
            try:
                yield Served(Endpoint(fake.url), "fake", 12.5)
            finally:
                self.down += 1


def comparison(folder: Path) -> ComparisonRun:
    screen = Screen(quiet=True, stdout=StringIO(), stderr=StringIO())
    sent = Rounds(LOAD, "fake engine", "two hosts", screen)
    return ComparisonRun(sent, lambda layout: layout.pipeline, folder)


def test_each_layout_gets_the_same_question_and_the_same_load(tmp_path: Path) -> None:
    cluster, run = Cluster(), comparison(tmp_path)
    for layout in (SINGLE, PAIR):
        run.measure(layout, cluster.serve)
    first, second = (
        [body["messages"][0]["content"] for body in fake.requests] for fake in cluster.served
    )
    assert first[0] == second[0] == QUESTION
    assert len(first) == 1 + LOAD.warmup + LOAD.requests
    assert sorted(first) == sorted(second)
    assert cluster.down == 2


def test_the_results_are_written_with_the_conditions_they_share(tmp_path: Path) -> None:
    cluster, run = Cluster(), comparison(tmp_path)
    for layout in (SINGLE, PAIR):
        result = run.measure(layout, cluster.serve)
        assert (result.status, result.start_s) == ("ok", 12.5)
    written = run.write(["ropeway", "compare", "--model", "a b"], SINGLE)
    assert written is not None
    assert written.load.warmup == LOAD.warmup
    assert written.load.prompts.startswith("random words, exactly 16 tokens")
    assert written.command == "ropeway compare --model 'a b'"
    assert [result.answer_matches_reference for result in written.results] == [True, True]
    assert [(result.hosts, result.npus) for result in written.results] == [(1, 1), (2, 4)]
    data = json.loads((tmp_path / "comparison.json").read_text())
    assert (data["schema"], data["model"], data["baseline"]) == (1, "fake", "TP1")
    assert data["load"]["input_tokens"] == 16
    assert [row["summary"]["completed"] for row in data["results"]] == [3, 3]
    assert set(run.timings) == {"TP1", "TP2×PP2"}
    assert (tmp_path / "tp2-pp2" / "timings.jsonl").exists()


def test_each_layout_is_measured_in_rounds_of_new_prompts_that_all_share(tmp_path: Path) -> None:
    cluster, run = Cluster(), comparison(tmp_path)
    run.sent.rounds = 3
    for layout in (SINGLE, PAIR):
        result = run.measure(layout, cluster.serve)
        assert [one.output_tokens for one in result.rounds] == [4, 4, 4]
        assert result.summary is not None
        assert (result.summary.completed, result.summary.steady) == (9, None)
        assert len(run.timings[str(layout)]) == 9
    first, second = (
        [body["messages"][0]["content"] for body in fake.requests] for fake in cluster.served
    )
    assert len(first) == len(set(first)) == 1 + 3 * (LOAD.warmup + LOAD.requests)
    assert sorted(first) == sorted(second)
    assert (tmp_path / "tp2-pp2" / "round-3" / "timings.jsonl").exists()
    written = run.write([], None)
    assert written is not None
    assert [one.figure for one in written.differences] == ["output_tokens_per_s"]
    data = json.loads((tmp_path / "comparison.json").read_text())
    assert data["differences"][0]["verdict"] == written.differences[0].verdict
    assert data["results"][0]["tokens_per_s_low"] < data["results"][0]["tokens_per_s_high"]
    assert "These were measured one after the other" in data["notes"][-1]


@pytest.mark.parametrize(("rows", "told"), [(10, "order"), (5, "each is sent 2.0 times")])
def test_rounds_go_through_the_rows_of_a_file(tmp_path: Path, rows: int, told: str) -> None:
    mine = tmp_path / "mine.jsonl"
    mine.write_text("".join(json.dumps({"prompt": f"p{n}"}) + "\n" for n in range(rows)))
    cluster, run = Cluster(), comparison(tmp_path / "run")
    run.sent.load, run.sent.rounds = replace(LOAD, files=(str(mine),), warmup=2), 2
    for layout in (SINGLE, PAIR):
        run.measure(layout, cluster.serve)
    for fake in cluster.served:
        sent = [body["messages"][0]["content"] for body in fake.requests][1:]
        assert sorted(sent) == sorted([f"p{n}" for n in range(rows)] * (10 // rows))
    written = run.write([], None)
    assert written is not None
    assert told in written.load.prompts
    assert "cache" in written.load.prompts or rows == 10
    stdout = StringIO()
    screen = Screen(stdout=stdout, stderr=StringIO(), width=200, color="never")
    screen.answer(compare_table(written))
    assert str(written.load.prompts) in " ".join(stdout.getvalue().split())


class Interrupted(Screen):
    """A screen at which Ctrl-C is pressed while the third round is announced."""

    loads = 0

    def step(
        self, name: str, expected_seconds: float | None = None
    ) -> AbstractContextManager[Step]:
        self.loads += "from 2 clients" in name
        if self.loads == 3:
            raise KeyboardInterrupt
        return super().step(name, expected_seconds)


def test_ctrl_c_keeps_the_whole_rounds_of_a_layout(tmp_path: Path) -> None:
    cluster, run = Cluster(), comparison(tmp_path)
    run.sent.rounds = 3
    run.sent.screen = Interrupted(quiet=True, stdout=StringIO(), stderr=StringIO())
    with pytest.raises(KeyboardInterrupt):
        run.measure(SINGLE, cluster.serve)
    (result,) = run.results
    assert (result.status, result.answer is not None, len(result.rounds)) == ("ok", True, 2)
    assert result.summary is not None
    assert result.summary.completed == 6
    assert cluster.down == 1


def test_a_single_round_keeps_its_steady_part_and_tells_no_gain(tmp_path: Path) -> None:
    cluster, run = Cluster(behaviour=Behaviour(ttft_s=0, tpot_s=0.01)), comparison(tmp_path)
    run.sent.load = replace(LOAD, requests=40)
    for layout in (SINGLE, PAIR):
        result = run.measure(layout, cluster.serve)
        assert result.summary is not None
        assert result.summary.steady is not None
        assert result.summary.steady.output_tokens_per_s > 0
    written = run.write([], None)
    assert written is not None
    assert (written.fastest, written.differences) == (None, ())
    assert "what differs may be noise" in written.notes[-1]


@pytest.mark.parametrize(
    ("fault", "status", "error"),
    [
        (LayoutError("cannot run", evidence=["2 NPUs", "3 heads"]), "refused", "2 NPUs; 3 heads"),
        (LaunchError("worker 3 died"), "failed", "worker 3 died"),
    ],
)
def test_a_layout_that_does_not_serve_is_a_result_and_the_others_go_on(
    tmp_path: Path, fault: Exception, status: str, error: str
) -> None:
    cluster, run = Cluster({SINGLE: fault}), comparison(tmp_path)
    result = run.measure(SINGLE, cluster.serve)
    assert (result.status, result.error, result.start_s) == (status, error, None)
    assert run.write([], None) is None, "nothing was measured yet"
    assert run.measure(PAIR, cluster.serve).status == "ok"
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [row["status"] for row in rows] == [status, "ok"]


def test_a_layout_that_fails_under_load_keeps_its_start_and_is_taken_down(tmp_path: Path) -> None:
    cluster = Cluster(behaviour=Behaviour(ttft_s=0, tpot_s=0, fault="error"))
    result = comparison(tmp_path).measure(PAIR, cluster.serve)
    assert (result.status, result.start_s) == ("failed", 12.5)
    assert cluster.down == 1
    cluster, run = Cluster(), comparison(tmp_path)
    run.sent.load = replace(LOAD, input_tokens=10_000)
    with pytest.raises(Refused, match="served with a context of 8,192"):
        run.measure(PAIR, cluster.serve)
    assert cluster.down == 1


def test_the_report_is_a_page_a_table_and_one_json_document(tmp_path: Path) -> None:
    cluster, run = Cluster(), comparison(tmp_path)
    run.measure(PAIR, cluster.serve)
    stdout = StringIO()
    screen = Screen(json=True, verb="compare", stdout=stdout, stderr=StringIO())
    report(run, screen, ["ropeway", "compare"], None)
    screen.close(ok=True)
    document = read_document(stdout.getvalue())
    assert document["folder"] == str(tmp_path)
    assert document["results"][0]["layout"] == "TP2×PP2"
    assert "TP2×PP2" in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("left", [(), ("engine.log",)])
def test_when_nothing_was_measured_only_an_empty_folder_is_removed(
    tmp_path: Path, left: tuple[str, ...]
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for name in left:
        (folder / name).write_text("why")
    stdout = StringIO()
    report(
        comparison(folder), Screen(stdout=stdout, stderr=StringIO()), ["ropeway", "demo"], SINGLE
    )
    assert folder.exists() == bool(left)
    assert stdout.getvalue() == ""

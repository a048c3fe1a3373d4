"""The server is looked at while a load is sent: what is kept of it, and that nothing suffers."""

import json
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from fake_endpoint import Behaviour, FakeEndpoint, running

from batch_rows import files_of_at_most
from engine_metrics import honest, kept_samples, metrics
from raw_server import head, raw_server
from ropeway.bench.load_test import Conditions, LoadTest
from ropeway.bench.measure import Means, Measurement, measure
from ropeway.bench.observers import Beside, ServerObserver
from ropeway.bench.prompts import WORDS, Recipe
from ropeway.bench.record import TIMINGS
from ropeway.bench.samples import NPUS, SERVER, HostNpus, Sample, line_of
from ropeway.endpoint.address import Endpoint
from ropeway.endpoint.failures import ServerFailed

pytestmark = pytest.mark.real_time

RECIPE = Recipe(16, 16, WORDS, WORDS, exact=False)
# Two at once, each for 0.3 s: eight of them take 1.2 s, thirty-two 4.8 s.
SLOW = Behaviour(ttft_s=0.1, tpot_s=0.04, capacity=2)

Figures = Callable[[FakeEndpoint], str]


def bench(
    folder: Path,
    behaviour: Behaviour = SLOW,
    figures: Figures | None = honest,
    *,
    requests: int = 8,
    beside: Callable[[FakeEndpoint], Beside] = lambda _: Beside(),
    stopped: Callable[[], bool] = lambda: False,
) -> Measurement:
    load = LoadTest(input_tokens=16, output_tokens=6, clients=4, requests=requests, warmup=2)
    with running(behaviour, figures) as fake:
        conditions = Conditions(load=load, url=fake.url, model="fake")
        endpoint = Endpoint(fake.url, timeout_s=5)
        means = Means(beside=beside(fake))
        return measure(endpoint, conditions, RECIPE, folder, means, stopped=stopped)


def test_what_an_engine_says_of_itself_is_kept_and_agrees_with_what_was_measured(
    tmp_path: Path,
) -> None:
    measured = bench(tmp_path, requests=32)
    samples = kept_samples(tmp_path)
    assert samples[0].at <= 0 and samples[-1].at >= measured.figures.summary.duration_s
    assert samples[0].generation_tokens == 2 * 6, "of the warm-up, before the run"
    assert len({int(one.at) for one in samples[1:-1]}) == len(samples[1:-1]), "one a second"
    assert all(one.ttft is not None for one in samples)
    state, summary = measured.figures.server, measured.figures.summary
    assert state is not None and state.running is not None and state.waiting is not None
    assert (state.running.median, state.waiting.median) == (2, 2)
    assert state.generation_tokens == summary.output_tokens == 32 * 6
    assert state.ttft is not None and summary.ttft_s is not None
    assert state.ttft.requests == 32
    assert state.ttft.between_s == pytest.approx(summary.ttft_s.mean - state.ttft.mean_s)
    (cause,) = state.causes
    assert "it runs at most 2 at once (`--max-num-seqs`" in cause
    assert state.notes == ()


@pytest.mark.parametrize(
    "figures", [None, lambda _: "<html>", lambda _: "sglang:num_running_reqs 1\n"]
)
def test_a_server_that_says_nothing_of_vllms_is_asked_once(
    tmp_path: Path, figures: Figures | None
) -> None:
    asked = []

    def counted(fake: FakeEndpoint) -> str:
        asked.append(time.monotonic())
        assert figures is not None
        return figures(fake)

    state = bench(tmp_path, figures=counted if figures else None).figures.server
    assert state is not None
    assert (state.not_told, state.samples, state.running) == (
        "it has no `/metrics` of vLLM's", 0, None
    )  # fmt: skip
    assert len(asked) == (1 if figures else 0)
    assert not (tmp_path / SERVER).exists()


def test_answers_that_are_missing_in_between_are_told_as_such(tmp_path: Path) -> None:
    def broken_after_the_first(fake: FakeEndpoint) -> str:
        assert not fake.served[2:]  # an exception is a 500
        return honest(fake)

    measured = bench(tmp_path, figures=broken_after_the_first)
    samples = kept_samples(tmp_path)
    assert [one.missed is None for one in samples] == [True] + [False] * (len(samples) - 1)
    assert len(samples) > 1
    state = measured.figures.server
    assert state is not None
    assert (state.samples, state.generation_tokens) == (1, None)
    assert "times the engine's figures were not there: the server failed with 500" in state.notes[0]


def test_a_server_whose_metrics_hang_is_measured_all_the_same(tmp_path: Path) -> None:
    with running(SLOW, lambda _: time.sleep(6) or "") as hanging:  # type: ignore[func-returns-value]
        engines = (Endpoint(hanging.url),)
        measured = bench(tmp_path, figures=None, beside=lambda _: Beside(engines))
    assert (measured.ended, measured.figures.summary.completed) == ("complete", 8)
    assert measured.figures.server is not None
    assert "5 s" in str(measured.figures.server.not_told)


def test_the_load_waits_for_the_counts_from_before_it(tmp_path: Path) -> None:
    def slow_at_first(fake: FakeEndpoint) -> str:
        if len(fake.served) == 2:  # the warm-up
            time.sleep(0.4)
        return honest(fake)

    measured = bench(tmp_path, figures=slow_at_first)
    assert kept_samples(tmp_path)[0].at <= 0
    assert measured.figures.server is not None
    assert measured.figures.server.generation_tokens == 8 * 6


def test_a_server_that_repeats_our_key_does_not_get_it_written_down(tmp_path: Path) -> None:
    key = "sk-of-the-service"
    said = {"error": {"message": f"who is `Bearer {key}`?"}}
    answer = (head("500 Internal Server Error"), json.dumps(said).encode())
    with raw_server(lambda _: answer) as server:
        observer = ServerObserver([Endpoint(server.url, key)], tmp_path)
        observer.before()
        observer.start(time.monotonic())
        observer.end()
        assert {one["Authorization"] for one in server.heads} == {f"Bearer {key}"}
    assert "who is `Bearer" in str(observer.not_told)
    assert key not in f"{observer.not_told} {observer.samples} {(tmp_path / SERVER).read_text()}"


def test_several_engines_behind_one_endpoint_are_added(tmp_path: Path) -> None:
    def some(_: FakeEndpoint) -> str:
        return metrics(3, 1, kv=0.5)

    with running(SLOW, some) as one, running(SLOW, some) as two:
        engines = (Endpoint(one.url), Endpoint(two.url))
        measured = bench(tmp_path, figures=None, beside=lambda _: Beside(engines))
    state = measured.figures.server
    assert state is not None and state.running is not None and state.waiting is not None
    assert (state.engines, state.running.median, state.waiting.median) == (2, 6, 2)


def test_nothing_is_asked_where_that_is_not_wanted(tmp_path: Path) -> None:
    measured = bench(tmp_path, figures=honest, beside=lambda _: Beside(metrics=()))
    assert measured.figures.server is None
    assert measured.figures.as_json()["server"] is None
    assert not (tmp_path / SERVER).exists()


def test_hosts_are_asked_meanwhile_and_kept_beside_it(tmp_path: Path) -> None:
    threads = []

    def ask() -> Sequence[HostNpus]:
        threads.append(threading.current_thread().name)
        return [HostNpus(host="host1", aicore=(70, 0), hbm_use=(0.9, 0.1))]

    measured = bench(tmp_path, figures=None, beside=lambda _: Beside((), ask), requests=16)
    (sample,) = map(json.loads, (tmp_path / NPUS).read_text().splitlines())
    assert threads == ["npus"]
    assert sample["hosts"][0]["aicore"] == [70, 0]
    assert measured.figures.server is not None
    (use,) = measured.figures.server.npus
    assert (use.npus, use.working) == (2, 1)
    assert not (tmp_path / SERVER).exists() and (tmp_path / NPUS).exists()


def test_a_run_that_cannot_begin_leaves_neither_folder_nor_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    with pytest.raises(ServerFailed):
        bench(tmp_path / "r", Behaviour(fault="error"))
    assert not (tmp_path / "r").exists()
    assert threading.active_count() == before


def test_a_run_that_breaks_before_its_first_request_has_ended_leaves_no_folder(
    tmp_path: Path,
) -> None:
    folder, before = tmp_path / "r", threading.active_count()

    def broken() -> bool:
        if (folder / SERVER).exists():
            raise KeyError("ours")
        return False

    with pytest.raises(KeyError):
        bench(folder, Behaviour(ttft_s=0.6), stopped=broken)
    assert not folder.exists()
    assert threading.active_count() == before


def test_a_disk_that_takes_no_samples_costs_no_timings(tmp_path: Path) -> None:
    (tmp_path / SERVER).mkdir()
    measured = bench(tmp_path)
    assert (measured.ended, measured.failure) == ("complete", None)
    state = measured.figures.server
    assert state is not None and state.samples > 1
    assert state.notes == ("`server.jsonl` could not be written whole",)
    assert (tmp_path / TIMINGS).read_text().count("\n") == 8


def test_what_a_full_disk_took_a_part_of_is_taken_back(tmp_path: Path) -> None:
    file = ServerObserver((), tmp_path).file
    line = len(line_of(Sample(at=1.0)))
    with files_of_at_most(2 * line + line // 2):
        for _ in range(3):
            file.add(Sample(at=1.0))
    assert [one.at for one in kept_samples(tmp_path)] == [1.0, 1.0]
    assert file.unwritten == (SERVER,)

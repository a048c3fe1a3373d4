"""The load test against an endpoint of known speed, its figures, and the folder it leaves."""

import asyncio
import itertools
import json
import multiprocessing
import signal
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fake_endpoint import Behaviour, FakeEndpoint, running

from ropeway.bench.arrivals import arrivals
from ropeway.bench.figures import Summary
from ropeway.bench.load_test import Conditions, LoadTest
from ropeway.bench.prompts import WORDS, Recipe, find_recipe, random_prompts
from ropeway.bench.record import RunWriter, new_run_dir, read_timings, timings_of, without_answer
from ropeway.bench.run import BenchResult, Progress, run_bench, stopped_by_interrupt
from ropeway.bench.sending.worker import row_of
from ropeway.bench.stats import quantile, summarise
from ropeway.bench.workloads.choose import workload_of
from ropeway.endpoint.address import Endpoint
from ropeway.endpoint.failures import ServerAway, ServerFailed
from ropeway.endpoint.stream import Failure, Timing
from ropeway.errors import Refused, RopewayError
from timings import timing

real_time = pytest.mark.real_time

RECIPE = Recipe(16, 16, WORDS, WORDS, exact=False)
CONDITIONS = Conditions(
    load=LoadTest(input_tokens=16, output_tokens=8, clients=4, requests=8),
    url="http://127.0.0.1:8000/v1",
    model="fake",
    layout="TP2×PP2+EP",
    engine="fake",
    hardware="无",
    started_at="2026-01-31T10:12:05+00:00",
    ropeway="0.1.0",
)
CLOSED = CONDITIONS.load


def prompts(count: int, words: int = 16, seed: str = "0") -> list[str]:
    recipe = Recipe(words, words, WORDS, WORDS, exact=False)
    return list(random_prompts(recipe, count, seed))


def sent_by(load: LoadTest, *, warm_up: bool = False) -> list[str]:
    """Return the prompts of a load, or of its warm-up, as they are made where they are sent."""
    talks = workload_of("fake", load, RECIPE, warm_up=warm_up).talks(0, 1)
    return [json.loads(talk.question(""))["messages"][0]["content"] for talk in talks]


def load_test(requests: int, clients: int, **options: Any) -> LoadTest:
    lengths: dict[str, Any] = {"input_tokens": 16, "output_tokens": 8, "warmup": 0}
    return LoadTest(requests=requests, clients=clients, **lengths | options)


@dataclass(frozen=True)
class Measured:
    """A run that has ended, and what it has kept."""

    result: BenchResult
    timings: list[Timing]
    summary: Summary
    fake: FakeEndpoint


def measure(
    behaviour: Behaviour, load: LoadTest, key: str | None = None, **options: Any
) -> Measured:
    """Run a load test against an endpoint that behaves so."""
    rows: list[bytes] = []
    with running(behaviour) as fake:
        target = Endpoint(fake.url, key, timeout_s=5)
        result = run_bench(target, "fake", load, RECIPE, rows.append, **options)
    timings = list(timings_of(b"".join(rows).splitlines()))
    return Measured(result, timings, summarise(timings, load), fake)


def test_a_poisson_stream_keeps_its_rate_and_its_seed() -> None:
    due = list(itertools.islice(arrivals(20, 1), 4000))
    gaps = [later - earlier for earlier, later in itertools.pairwise(due)]
    assert due[-1] == pytest.approx(4000 / 20, rel=0.05)
    # Of an exponential distribution, 1 - 1/e of the gaps are below the mean.
    assert sum(gap < 1 / 20 for gap in gaps) / len(gaps) == pytest.approx(0.632, abs=0.03)
    assert due == list(itertools.islice(arrivals(20, 1), 4000))
    assert due[0] != next(arrivals(20, 2))


def test_no_rate_is_no_arrivals() -> None:
    with pytest.raises(ValueError, match="rate"):
        arrivals(0, 0)


def test_prompts_are_the_same_for_a_seed_and_share_no_beginning() -> None:
    first, again, other = prompts(500), prompts(500), prompts(500, seed="1")
    assert first == again
    assert first != other
    # An engine's prefix cache works in blocks of 16 tokens at least; 8 words differ already.
    assert len({" ".join(text.split()[:8]) for text in [*first, *other]}) == 1000
    assert {len(text.split()) for text in first} == {16}
    assert prompts(3) == first[:3], "a shorter row is the beginning of a longer one"


def recipe(tokens: int, long: set[str], overhead: int = 7, first_cost: int = 1) -> Recipe:
    """With a tokenizer in which these words are two tokens, and each first word `first_cost`."""
    calls = 0

    async def count(text: str) -> int:
        nonlocal calls
        calls += 1
        assert calls < 200
        first, *rest = text.split()
        start = first_cost if first != "way" else 3
        return overhead + start + sum(2 if word in long else 1 for word in rest)

    return asyncio.run(find_recipe(tokens, count))


def test_words_that_are_not_one_token_are_left_out_and_lengths_are_exact() -> None:
    long = {"government", "research", "theory", "able"}
    result = recipe(64, long)
    assert result.exact
    assert (result.tokens, result.words) == (64, 57)
    assert set(result.rest) == set(WORDS) - long
    assert "way" not in result.first


def test_first_words_may_cost_more_than_others() -> None:
    assert recipe(64, set(), first_cost=2) == recipe(64, set(), overhead=8)


def test_a_template_longer_than_the_prompt_is_said() -> None:
    result = recipe(5, set(), overhead=30)
    assert (result.tokens, result.words, result.exact) == (31, 1, True)


def test_without_a_tokenizer_the_length_is_only_about_right() -> None:
    async def count(_: str) -> None:
        return None

    result = asyncio.run(find_recipe(64, count))
    assert (result.tokens, result.words, result.exact) == (64, 64, False)


@real_time
def test_the_speed_of_a_known_endpoint_is_recovered() -> None:
    run = measure(Behaviour(ttft_s=0.2, tpot_s=0.02), load_test(16, 8, output_tokens=26))
    summary = run.summary
    assert run.result.ended == "complete"
    assert (summary.requests, summary.completed, summary.errors) == (16, 16, {})
    assert summary.output_tokens == 16 * 26
    # The endpoint's tokenizer: 4 for the template, a word of more than 8 letters is two.
    words = [word for text in prompts(16) for word in text.split()]
    assert summary.input_tokens == 16 * 4 + len(words) + sum(len(word) > 8 for word in words)
    served = run.fake.served
    theirs = sorted(row.first_sent - row.arrived for row in served)
    assert summary.ttft_s and summary.tpot_s
    assert summary.ttft_s.p50 == pytest.approx(quantile(theirs, 0.5), abs=0.02)
    per_token = sorted((row.last_sent - row.first_sent) / 25 for row in served)
    assert summary.tpot_s.p50 == pytest.approx(quantile(per_token, 0.5), abs=0.002)
    # Two rounds of 8 clients, each of at least 0.2 s + 25 × 0.02 s.
    assert summary.duration_s >= 1.39
    assert summary.output_tokens_per_s == pytest.approx(416 / summary.duration_s)


@real_time
def test_waiting_for_a_full_endpoint_is_part_of_the_first_tokens_time() -> None:
    run = measure(Behaviour(ttft_s=0.1, tpot_s=0.0, capacity=1), load_test(3, 3))
    first, second, third = sorted(timing.ttft_s or 0 for timing in run.timings)
    assert first >= 0.099
    assert second - first >= 0.09
    assert third - second >= 0.09


@real_time
def test_never_more_requests_are_in_flight_than_there_are_clients() -> None:
    reports: list[Progress] = []
    behaviour = Behaviour(ttft_s=0.3, tpot_s=0.1)
    run = measure(behaviour, load_test(12, 4), on_progress=reports.append)
    spans = [(row.arrived, row.last_sent) for row in run.fake.served]
    assert max(sum(a <= start < b for a, b in spans) for start, _ in spans) == 4
    assert max(progress.in_flight for progress in reports) == 4
    assert (reports[-1].done, reports[-1].total, reports[-1].output_tokens) == (12, 12, 96)
    assert any(progress.output_tokens and not progress.done for progress in reports), "too late"


@real_time
def test_a_request_is_what_the_load_test_says_and_the_warm_up_is_not_counted() -> None:
    load = load_test(3, 2, warmup=2, temperature=0.5)
    run = measure(Behaviour(ttft_s=0, tpot_s=0), load)
    sent = [body["messages"][0]["content"] for body in run.fake.requests]
    assert sorted(sent[:2]) == sorted(sent_by(load, warm_up=True))
    assert sorted(sent[2:]) == sorted(sent_by(load))
    assert len(run.timings) == 3
    body = run.fake.requests[-1]
    assert (body["ignore_eos"], body["max_tokens"], body["temperature"]) == (True, 8, 0.5)


def test_no_seed_counts_a_prompt_that_another_one_warms_up_with() -> None:
    tests = [load_test(50, 1, seed=seed, warmup=50) for seed in range(-1, 3)]
    warm = {prompt for test in tests for prompt in sent_by(test, warm_up=True)}
    counted = {prompt for test in tests for prompt in sent_by(test)}
    assert len(warm) == len(counted) == 200
    assert not warm & counted


def test_a_load_test_that_does_not_fit_the_context_is_refused() -> None:
    load = load_test(1, 1, output_tokens=100)
    load.check_fits("fake", 116)
    load.check_fits("fake", None)
    with pytest.raises(Refused, match=r"116.*`fake`.*115"):
        load.check_fits("fake", 115)


def test_conditions_hold_the_load_as_it_was_sent() -> None:
    exact = Recipe(23, 16, WORDS, WORDS, exact=True)
    conditions = replace(CONDITIONS, load=CONDITIONS.load.with_recipe(exact))
    data = conditions.as_json()
    assert data["layout"] == "TP2×PP2+EP"
    assert (data["load"]["clients"], data["load"]["input_tokens"]) == (4, 23)
    assert data["load"]["prompts"] == "random words, exactly 23 tokens, no shared beginning"


@real_time
def test_answers_may_end_when_the_model_ends_them() -> None:
    run = measure(
        Behaviour(ttft_s=0, tpot_s=0, answer_tokens=5),
        load_test(2, 2, output_tokens=50, ignore_eos=False),
    )
    assert [timing.output_tokens for timing in run.timings] == [5, 5]
    assert "ignore_eos" not in run.fake.requests[0]


@real_time
def test_requests_are_sent_when_they_are_due() -> None:
    run = measure(Behaviour(ttft_s=0.01, tpot_s=0), load_test(30, 30, rate=40, seed=3))
    due = list(itertools.islice(arrivals(40, 3), 30))
    assert sorted(timing.due or 0 for timing in run.timings) == pytest.approx(due, abs=1e-5)
    assert all(timing.due is not None and timing.sent >= timing.due for timing in run.timings)


@real_time
@pytest.mark.parametrize("processes", [1, 3])
def test_a_wait_for_a_free_client_is_counted_from_when_a_request_was_due(processes: int) -> None:
    load = load_test(6, processes, rate=1000)
    summary = measure(Behaviour(ttft_s=0.2, tpot_s=0), load, processes=processes).summary
    assert summary.late == 6 - processes
    assert summary.ttft_s and summary.due_ttft_s and summary.wait_s
    assert summary.ttft_s.p50 < 0.3
    assert summary.due_ttft_s.mean == pytest.approx(summary.ttft_s.mean + summary.wait_s.mean)
    assert summary.wait_s.p99 > 0.19 * (6 // processes - 1)


@real_time
def test_failures_are_counted_and_the_run_goes_on() -> None:
    behaviour = Behaviour(ttft_s=0, tpot_s=0.001, fault="cut", fault_every=3)
    run = measure(behaviour, load_test(9, 3))
    summary = run.summary
    assert (summary.completed, summary.errors) == (6, {"stream broke": 3})
    assert summary.output_tokens == 6 * 8
    broken = next(timing for timing in run.timings if timing.error)
    assert broken.text == "The lift goes"
    message = summary.failures["stream broke"].message
    assert message.startswith("the stream broke after 3 tokens (")


@real_time
def test_our_key_is_not_kept_where_a_server_repeats_it() -> None:
    run = measure(Behaviour(fault="error"), load_test(2, 1), key="engine")
    assert [timing.error.message for timing in run.timings if timing.error] == [
        "the server failed with 500: the *** core died"
    ] * 2


@real_time
def test_the_time_limit_ends_a_run_and_keeps_what_was_received() -> None:
    load = load_test(50, 2, output_tokens=1000, time_limit_s=0.6)
    run = measure(Behaviour(ttft_s=0.05, tpot_s=0.05), load)
    summary = run.summary
    assert run.result.ended == "time limit"
    assert (summary.requests, summary.completed, summary.unfinished) == (2, 0, 2)
    assert 0.5 < summary.duration_s < 2
    assert 2 <= summary.output_tokens <= 2 * 12
    assert summary.failed == 0


@real_time
@pytest.mark.parametrize("warmup", [0, 1])
def test_a_stop_ends_a_run_or_its_warm_up(warmup: int) -> None:
    with running(Behaviour(ttft_s=0, tpot_s=0.05, context=100_000)) as fake:
        rows: list[bytes] = []
        load = load_test(4, 2, output_tokens=10_000, warmup=warmup)
        result = run_bench(
            Endpoint(fake.url), "fake", load, RECIPE, rows.append,
            stopped=lambda: len(fake.requests) >= (1 if warmup else 2),
        )  # fmt: skip
    assert result.ended == "interrupted"
    assert len(b"".join(rows).splitlines()) == (0 if warmup else 2)


def test_the_first_ctrl_c_stops_the_run_and_a_second_one_acts_as_usual() -> None:
    with pytest.raises(KeyboardInterrupt), stopped_by_interrupt() as stopped:
        assert not stopped()
        signal.raise_signal(signal.SIGINT)
        assert stopped()
        signal.raise_signal(signal.SIGINT)


@real_time
def test_a_failing_disk_ends_the_run() -> None:
    def full(_: bytes) -> None:
        raise RopewayError("the disk is full")

    with running(Behaviour(ttft_s=0, tpot_s=0.01)) as fake:
        load = load_test(1000, 1, output_tokens=100)
        result = run_bench(Endpoint(fake.url), "fake", load, RECIPE, full)
    assert (result.ended, str(result.failure)) == ("not recorded", "the disk is full")
    assert len(fake.requests) < 10


@real_time
def test_nobody_there_is_one_error_and_leaves_no_process_behind() -> None:
    before = multiprocessing.active_children()
    with pytest.raises(ServerAway, match="refused"):
        run_bench(Endpoint("http://127.0.0.1:9/v1"), "fake", load_test(3, 3), RECIPE, print)
    assert multiprocessing.active_children() == before


@real_time
def test_a_warm_up_of_which_all_fails_is_an_error() -> None:
    with pytest.raises(ServerFailed, match="the engine core died"):
        measure(Behaviour(fault="error"), load_test(3, 3, warmup=2))


def measured(text: str = "缆车\u2028up", error: Failure | None = None) -> Timing:
    chunks = ((0.25, 1), (0.5, 2))
    return timing(0, 0.25, 0.5, 3, chunks=chunks, ended=0.75, text=text, error=error)


def test_a_run_is_written_as_it_goes_and_read_again(tmp_path: Path) -> None:
    timings = [measured(), measured(error=Failure("timeout", "没有"))]
    folder = tmp_path / "a" / "run"
    with RunWriter(folder, CONDITIONS) as writer:
        for number, timing in enumerate(timings, 1):
            writer.append(row_of(timing))
            on_disk = list(read_timings(writer.path))
            assert on_disk == timings[:number], "on disk before the run ends"
        figures, failure = writer.finish(BenchResult("complete", 1, ()))
    assert failure is None
    assert [without_answer(one).text for one in read_timings(writer.path)] == ["", ""]
    document = json.loads((folder / "summary.json").read_text())
    assert (document["schema"], document["ended"], document["late"]) == (1, "complete", 0)
    assert document["completed"] == figures.summary.completed == 1
    conditions = json.loads((folder / "conditions.json").read_text())
    assert conditions == {"schema": 1, **CONDITIONS.as_json()}


def test_an_error_before_the_first_timing_leaves_only_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(KeyError), RunWriter(tmp_path, CONDITIONS):
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]


@pytest.mark.parametrize(
    ("there", "words"),
    [("timings.jsonl", "already holds a run"), ("", "cannot write the results: not a directory")],
)
def test_a_folder_with_results_or_that_cannot_be_made_is_refused(
    tmp_path: Path, there: str, words: str
) -> None:
    folder = tmp_path / "run"
    if there:
        folder.mkdir()
    (folder / there).write_text("mine")
    with pytest.raises(Refused, match=words):
        RunWriter(folder if there else folder / "in a file", CONDITIONS)
    assert (folder / there).read_text() == "mine"


def test_runs_are_named_by_their_time_and_never_twice(tmp_path: Path) -> None:
    now = datetime(2026, 1, 31, 10, 12, 5, tzinfo=UTC)
    first = new_run_dir(tmp_path, "bench", now)
    first.mkdir()
    assert first.name == "2026-01-31T10-12-05Z-bench"
    assert new_run_dir(tmp_path, "bench", now).name == "2026-01-31T10-12-05Z-bench-2"


def test_a_run_is_its_owners_alone(tmp_path):
    folder = tmp_path / "runs" / "one"
    with RunWriter(folder, CONDITIONS):
        assert folder.stat().st_mode & 0o777 == 0o700

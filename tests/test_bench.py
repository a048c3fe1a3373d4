"""The load test against an endpoint of known speed, its figures, and the folder it leaves."""

import asyncio
import itertools
import json
import signal
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fake_endpoint import Behaviour, FakeEndpoint

import virtual_time
from ropeway.bench.arrivals import arrivals
from ropeway.bench.load_test import Conditions, LoadTest
from ropeway.bench.prompts import WORDS, Recipe, find_recipe, random_prompts
from ropeway.bench.record import RunWriter, new_run_dir
from ropeway.bench.run import BenchResult, Progress, run_bench, stopped_by_interrupt
from ropeway.bench.stats import UNFINISHED, Summary, quantile, span, summarise
from ropeway.endpoint.address import Endpoint
from ropeway.endpoint.stream import Failure, Timing
from ropeway.errors import Refused, RopewayError
from router_backends import served
from timings import timing

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


def prompts(count: int, words: int = 16, seed: str = "0") -> list[str]:
    recipe = Recipe(words, words, WORDS, WORDS, exact=False)
    return list(random_prompts(recipe, count, seed))


def load_test(requests: int, clients: int, **options: Any) -> LoadTest:
    lengths: dict[str, Any] = {"input_tokens": 16, "output_tokens": 8, "warmup": 0}
    return LoadTest(requests=requests, clients=clients, **lengths | options)


def measure(
    behaviour: Behaviour, load: LoadTest, model: str = "fake", key: str = "", **options: Any
) -> tuple[BenchResult, FakeEndpoint]:
    """Run a load test against an endpoint that behaves so, in virtual time."""

    async def whole() -> tuple[BenchResult, FakeEndpoint]:
        clock = asyncio.get_running_loop().time
        fake = FakeEndpoint(behaviour, clock)
        async with served(fake.app()) as url:
            target = Endpoint(f"{url}/v1", key, timeout_s=5)
            result = await run_bench(target, model, load, RECIPE, clock=clock, **options)
        return result, fake

    return virtual_time.run(whole())


def summed(result: BenchResult) -> Summary:
    return summarise(result.timings, result.duration_s)


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


def test_the_speed_of_a_known_endpoint_is_recovered() -> None:
    result, _ = measure(Behaviour(ttft_s=0.2, tpot_s=0.02), load_test(16, 8, output_tokens=26))
    summary = summed(result)
    assert result.ended == "complete"
    assert (summary.requests, summary.completed, summary.errors) == (16, 16, {})
    assert summary.output_tokens == 16 * 26
    # The endpoint's tokenizer: 4 for the template, a word of more than 8 letters is two.
    words = [word for text in prompts(16) for word in text.split()]
    assert summary.input_tokens == 16 * 4 + len(words) + sum(len(word) > 8 for word in words)
    assert summary.ttft_s and summary.tpot_s
    assert (summary.ttft_s.p50, summary.ttft_s.p99) == pytest.approx((0.2, 0.2), abs=1e-3)
    assert (summary.tpot_s.p50, summary.tpot_s.p99) == pytest.approx((0.02, 0.02), abs=1e-4)
    # Two rounds of 8 clients, each of 0.2 s + 25 × 0.02 s.
    assert summary.duration_s == pytest.approx(1.4, abs=0.01)
    assert summary.output_tokens_per_s == pytest.approx(416 / 1.4, rel=0.01)


def test_waiting_for_a_full_endpoint_is_part_of_the_first_tokens_time() -> None:
    result, _ = measure(Behaviour(ttft_s=0.1, tpot_s=0.0, capacity=1), load_test(3, 3))
    waits = sorted(timing.ttft_s or 0 for timing in result.timings)
    assert waits == pytest.approx([0.1, 0.2, 0.3], abs=0.01)


def test_never_more_requests_are_in_flight_than_there_are_clients() -> None:
    reports: list[Progress] = []
    behaviour = Behaviour(ttft_s=0.2, tpot_s=0.06)
    _, fake = measure(behaviour, load_test(12, 4), on_progress=reports.append)
    spans = [(row.arrived, row.last_sent) for row in fake.served]
    assert max(sum(a <= start < b for a, b in spans) for start, _ in spans) == 4
    assert max(progress.in_flight for progress in reports) == 4
    assert (reports[-1].done, reports[-1].total, reports[-1].output_tokens) == (12, 12, 96)
    assert any(progress.output_tokens and not progress.done for progress in reports), "too late"


def test_a_request_is_what_the_load_test_says_and_the_warm_up_is_not_counted() -> None:
    load = load_test(3, 2, warmup=2, temperature=0.5)
    result, fake = measure(Behaviour(ttft_s=0, tpot_s=0), load)
    sent = [body["messages"][0]["content"] for body in fake.requests]
    assert sorted(sent[:2]) == sorted(load.warmup_prompts(RECIPE))
    assert sorted(sent[2:]) == sorted(load.counted_prompts(RECIPE))
    assert len(result.timings) == 3
    body = fake.requests[-1]
    assert (body["ignore_eos"], body["max_tokens"], body["temperature"]) == (True, 8, 0.5)


def test_no_seed_counts_a_prompt_that_another_one_warms_up_with() -> None:
    tests = [load_test(50, 1, seed=seed, warmup=50) for seed in range(-1, 3)]
    warm = {prompt for test in tests for prompt in test.warmup_prompts(RECIPE)}
    counted = {prompt for test in tests for prompt in test.counted_prompts(RECIPE)}
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


def test_answers_may_end_when_the_model_ends_them() -> None:
    result, fake = measure(
        Behaviour(ttft_s=0, tpot_s=0, answer_tokens=5),
        load_test(2, 2, output_tokens=50, ignore_eos=False),
    )
    assert [timing.output_tokens for timing in result.timings] == [5, 5]
    assert "ignore_eos" not in fake.requests[0]


def test_a_rate_is_kept_when_clients_are_free() -> None:
    result, fake = measure(Behaviour(ttft_s=0.01, tpot_s=0), load_test(30, 30, rate=40, seed=3))
    arrived = sorted(row.arrived for row in fake.served)
    due = list(itertools.islice(arrivals(40, 3), 30))
    measured = [moment - arrived[0] for moment in arrived]
    assert measured == pytest.approx([moment - due[0] for moment in due], abs=0.005)
    assert result.late == 0


def test_requests_that_had_to_wait_for_a_client_are_counted_as_late() -> None:
    result, _ = measure(Behaviour(ttft_s=0.2, tpot_s=0), load_test(6, 1, rate=1000))
    assert result.late == 5


def test_failures_are_counted_and_the_run_goes_on() -> None:
    written: list[Timing] = []
    result, _ = measure(
        Behaviour(ttft_s=0, tpot_s=0.001, fault="cut", fault_every=3),
        load_test(9, 3),
        on_timing=written.append,
    )
    summary = summed(result)
    assert (summary.completed, summary.errors) == (6, {"stream broke": 3})
    assert summary.output_tokens == 6 * 8
    broken = next(timing for timing in written if timing.error)
    assert broken.text == "The lift goes"
    assert broken.error is not None
    assert broken.error.message.startswith("the stream broke after 3 tokens (")


def test_our_key_is_not_kept_where_a_server_repeats_it() -> None:
    result, _ = measure(Behaviour(fault="error"), load_test(2, 1), key="engine")
    assert [timing.error.message for timing in result.timings if timing.error] == [
        "the server failed with 500: the *** core died"
    ] * 2


def test_the_time_limit_ends_a_run_and_keeps_what_was_received() -> None:
    result, _ = measure(
        Behaviour(ttft_s=0.05, tpot_s=0.05), load_test(50, 2, output_tokens=1000, time_limit_s=0.6)
    )
    summary = summed(result)
    assert result.ended == "time limit"
    assert (summary.requests, summary.completed, summary.unfinished) == (2, 0, 2)
    assert summary.duration_s == pytest.approx(0.6, abs=0.01)
    assert summary.output_tokens == pytest.approx(2 * 12, abs=2)
    assert summary.failed == 0


@pytest.mark.parametrize("warmup", [0, 1])
def test_a_stop_ends_a_run_or_its_warm_up(warmup: int) -> None:
    class Stop(asyncio.Event):
        async def wait(self) -> Any:
            await asyncio.sleep(0.3)
            self.set()

    behaviour = Behaviour(ttft_s=0, tpot_s=0.05, context=100_000)
    load = load_test(4, 2, output_tokens=10_000, warmup=warmup)
    result, _ = measure(behaviour, load, stop=Stop())
    assert result.ended == "interrupted"
    assert len(result.timings) == (0 if warmup else 2)


def test_the_first_ctrl_c_stops_the_run_and_a_second_one_acts_as_usual() -> None:
    async def interrupted() -> None:
        with stopped_by_interrupt() as stop:
            assert not stop.is_set()
            signal.raise_signal(signal.SIGINT)
            await asyncio.wait_for(stop.wait(), 30)
            signal.raise_signal(signal.SIGINT)
            await asyncio.sleep(30)

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(interrupted())


def test_a_failing_disk_ends_the_run_and_what_was_measured_is_kept() -> None:
    def full(_: Timing) -> None:
        raise RopewayError("the disk is full")

    result, _ = measure(Behaviour(ttft_s=0, tpot_s=0), load_test(4, 1), on_timing=full)
    assert (result.ended, str(result.failure)) == ("not recorded", "the disk is full")
    assert len(result.timings) == 1


def test_a_cancelled_run_leaves_no_task_behind() -> None:
    async def whole() -> None:
        fake = FakeEndpoint(Behaviour(tpot_s=0.05), asyncio.get_running_loop().time)
        async with served(fake.app()) as url:
            before = asyncio.all_tasks()
            load = load_test(9, 3, output_tokens=999)
            task = asyncio.create_task(run_bench(Endpoint(f"{url}/v1"), "fake", load, RECIPE))
            await asyncio.sleep(0.2)
            assert len(fake.requests) == 3
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            names = {task.get_coro().__qualname__ for task in asyncio.all_tasks() - before}
            assert not {name for name in names if "RequestHandler" not in name}

    virtual_time.run(whole())


def measured(text: str = "缆车\u2028up", error: Failure | None = None) -> Timing:
    chunks = ((100.25, 1), (100.5, 2))
    return timing(100, 100.25, 100.5, 3, chunks=chunks, ended=100.75, text=text, error=error)


def rows(folder: Path) -> list[dict[str, Any]]:
    # Not splitlines(): an answer may hold U+2028, which is a line end only to that function.
    lines = (folder / "timings.jsonl").read_text(encoding="utf-8").split("\n")
    assert lines.pop() == "", "whole lines"
    return [json.loads(line) for line in lines]


def test_a_run_is_written_with_times_from_its_first_request(tmp_path: Path) -> None:
    timings = (measured(), measured(text="\ud83d", error=Failure("timeout", "没有")))
    folder = tmp_path / "a" / "run"
    with RunWriter(folder, CONDITIONS) as writer:
        for number, timing in enumerate(timings, 1):
            writer.append(timing)
            assert len(rows(folder)) == number, "on disk before the run ends"
        summary, failure = writer.finish(BenchResult(timings, 0.75, "complete", 3))
    assert failure is None
    first, second = rows(folder)
    assert (first["sent"], first["first_token"], first["last"], first["ended"]) == (
        0, 0.25, 0.5, 0.75
    )  # fmt: skip
    assert first["chunks"] == [[0.25, 1], [0.5, 2]]
    assert (first["text"], first["error"]) == ("缆车\u2028up", None)
    assert second["error"] == {"kind": "timeout", "message": "没有"}
    document = json.loads((folder / "summary.json").read_text())
    assert (document["schema"], document["ended"], document["late"]) == (1, "complete", 3)
    assert document["completed"] == summary.completed == 1
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


def failed(first: float | None, last: float | None, tokens: int, kind: str) -> Timing:
    return timing(0, first, last, tokens, error=Failure(kind, "why"))


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([5.0], 0.99, 5.0),
        ([1.0, 3.0], 0.5, 2.0),
        ([1.0, 2.0, 3.0, 4.0], 0.5, 2.5),
        ([1.0, 2.0, 3.0, 4.0], 0.0, 1.0),
        ([1.0, 2.0, 3.0, 4.0], 1.0, 4.0),
        ([0.0, 10.0, 20.0, 30.0, 40.0], 0.9, 36.0),
        ([float(n) for n in range(101)], 0.99, 99.0),
        ([float(n) for n in range(10)], 0.99, 8.91),
    ],
)
def test_quantiles_are_interpolated_linearly(
    values: list[float], share: float, expected: float
) -> None:
    assert quantile(values, share) == pytest.approx(expected)


def test_no_values_have_no_quantiles() -> None:
    with pytest.raises(ValueError, match="no values"):
        quantile([], 0.5)


def test_a_run_is_summed_up() -> None:
    # Sent at 100 and 101; 11 tokens each, 0.1 s and 0.2 s apart.
    timings = [timing(100, 100.5, 101.5, 11), timing(101, 101.7, 103.7, 11)]
    summary = summarise(timings, span(timings))
    assert summary.duration_s == pytest.approx(3.7)
    assert (summary.requests, summary.completed, summary.failed) == (2, 2, 0)
    assert (summary.input_tokens, summary.output_tokens) == (20, 22)
    assert summary.output_tokens_per_s == pytest.approx(22 / 3.7)
    assert summary.requests_per_s == pytest.approx(2 / 3.7)
    assert summary.ttft_s and summary.tpot_s and summary.e2e_s
    ttft = (summary.ttft_s.mean, summary.ttft_s.p90, summary.ttft_s.p99)
    assert ttft == pytest.approx((0.6, 0.68, 0.698))
    assert summary.tpot_s.p50 == pytest.approx(0.15)
    assert summary.e2e_s.mean == pytest.approx((1.5 + 2.7) / 2)


def test_failures_are_counted_by_kind_and_add_no_tokens() -> None:
    timings = [
        timing(0, 1, 2, 5),
        failed(1, 2, 3, "stream broke"),
        failed(None, None, 0, "timeout"),
        failed(None, None, 0, "timeout"),
    ]
    summary = summarise(timings, 2)
    assert summary.errors == {"stream broke": 1, "timeout": 2}
    assert (summary.requests, summary.completed, summary.failed) == (4, 1, 3)
    assert summary.output_tokens == 5
    assert summary.ttft_s is not None
    assert summary.ttft_s.mean == 1


def test_what_an_unfinished_request_received_counts_as_throughput_but_not_as_a_request() -> None:
    summary = summarise([timing(0, 1, 2, 5), failed(1, 2, 4, UNFINISHED)], 2)
    assert (summary.completed, summary.unfinished, summary.failed) == (1, 1, 0)
    assert summary.output_tokens_per_s == 4.5
    assert summary.requests_per_s == 0.5


def test_a_single_token_has_no_time_per_token() -> None:
    summary = summarise([timing(0, 1, 1, 1)], 1)
    assert summary.tpot_s is None
    assert summary.ttft_s is not None


def test_nothing_measured_gives_no_figures() -> None:
    summary = summarise([], span([]))
    assert (summary.requests, summary.output_tokens_per_s, summary.duration_s) == (0, 0, 0)
    assert summary.ttft_s is summary.tpot_s is summary.e2e_s is None


def test_a_run_is_its_owners_alone(tmp_path):
    folder = tmp_path / "runs" / "one"
    with RunWriter(folder, CONDITIONS):
        assert folder.stat().st_mode & 0o777 == 0o700

"""The figures of a run, from its timings alone."""

from dataclasses import replace
from heapq import heappop, heappush

import pytest

from ropeway.bench.load_test import LoadTest
from ropeway.bench.sending.answers import UNFINISHED
from ropeway.bench.stats import quantile, summarise
from ropeway.endpoint.stream import Failure, Timing
from timings import timing

CLOSED = LoadTest(input_tokens=16, output_tokens=8, clients=4, requests=8)


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
    summary = summarise(timings, CLOSED)
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
    summary = summarise(timings, CLOSED)
    assert summary.errors == {"stream broke": 1, "timeout": 2}
    assert (summary.requests, summary.completed, summary.failed) == (4, 1, 3)
    assert summary.output_tokens == 5
    assert summary.ttft_s is not None
    assert summary.ttft_s.mean == 1
    assert summary.failures["timeout"].message == "why"
    assert summary.failures["timeout"].duration_s.mean == 1


def test_what_an_unfinished_request_received_counts_as_throughput_but_not_as_a_request() -> None:
    summary = summarise([timing(0, 1, 2, 5), failed(1, 2, 4, UNFINISHED)], CLOSED)
    assert (summary.completed, summary.unfinished, summary.failed) == (1, 1, 0)
    assert summary.output_tokens_per_s == 4.5
    assert summary.requests_per_s == 0.5


def steady_run(rate: float | None = None) -> list[Timing]:
    """Two clients with requests of a second, a token every tenth; the first pair waited for 3 s."""
    timings = []
    for _ in range(2):
        sent = 0.0
        for number in range(20):
            first = sent + (3.1 if number == 0 else 0.1)
            chunks = tuple((first + step / 10, 1) for step in range(10))
            due = None if rate is None else sent - 0.1
            timings.append(timing(sent, first, first + 0.9, 10, chunks=chunks, due=due))
            sent = first + 0.9
    return timings


def test_the_steady_part_leaves_out_the_burst_at_the_beginning_and_the_end() -> None:
    load = LoadTest(input_tokens=10, output_tokens=10, clients=2, requests=40)
    summary = summarise(steady_run(), load)
    steady = summary.steady
    assert steady is not None
    assert (steady.begins_s, steady.ends_s) == pytest.approx((4, 22))
    assert steady.requests == 2 * 18
    assert steady.concurrency == pytest.approx(2)
    assert steady.output_tokens_per_s == pytest.approx(20, rel=0.01)
    assert steady.requests_per_s == pytest.approx(2)
    assert steady.ttft_s and steady.ttft_s.p99 == pytest.approx(0.1)
    assert summary.ttft_s and summary.ttft_s.p99 > 3


def test_too_few_requests_have_no_steady_part() -> None:
    load = LoadTest(input_tokens=10, output_tokens=10, clients=30, requests=40)
    assert summarise(steady_run(), load).steady is None
    assert summarise([], load).steady is None


def closed_loop(requests: int, took: float) -> list[Timing]:
    """Forty clients, whose answers take from `took` seconds to twice as long, in no step."""
    timings, free = [], [0.0] * 40
    for number in range(requests):
        sent = heappop(free)
        ended = sent + took * (1 + number % 40 / 40)
        heappush(free, ended)
        timings.append(timing(sent, sent, ended, 2, chunks=((sent, 1), (ended, 1))))
    return timings


@pytest.mark.parametrize(
    ("requests", "took", "steady"), [(105, 1.0, False), (140, 1.0, True), (140, 0.02, False)]
)
def test_a_steady_part_is_no_shorter_than_an_answer_and_than_a_step_of_tokens(
    requests: int, took: float, *, steady: bool
) -> None:
    load = LoadTest(input_tokens=10, output_tokens=2, clients=40, requests=requests)
    assert (summarise(closed_loop(requests, took), load).steady is not None) == steady


def test_an_open_loop_has_times_from_when_requests_were_due() -> None:
    load = LoadTest(input_tokens=10, output_tokens=10, clients=2, requests=40, rate=2)
    summary = summarise(steady_run(2), load)
    assert summary.wait_s and summary.due_ttft_s and summary.due_e2e_s
    assert summary.wait_s.p99 == pytest.approx(0.1)
    assert summary.due_ttft_s.p50 == pytest.approx(0.2)
    assert summary.due_e2e_s.p50 == pytest.approx(1.1)
    assert summary.late == 40
    assert summarise(steady_run(), replace(load, rate=None)).wait_s is None


def test_who_waited_for_a_client_is_told_from_who_waited_with_one_free() -> None:
    load = LoadTest(input_tokens=10, output_tokens=10, clients=2, requests=5, rate=1)
    # The third and fourth wait for the first two; the fifth has a client, and waits all the same.
    sent = [
        timing(sent, sent + 0.1, ended, 8, due=due)
        for due, sent, ended in ((0, 0, 4), (1, 1, 3), (2, 3, 6), (2.5, 4.1, 5), (8, 9, 10))
    ]
    summary = summarise(sent[::-1], load)
    assert (summary.late, summary.late_busy) == (3, 2)
    assert summarise(sent, replace(load, clients=3)).late_busy == 1, "the fourth alone"
    assert summarise(sent, replace(load, rate=None)).late_busy == 0


def test_bursts_come_at_their_rate() -> None:
    load = LoadTest(input_tokens=10, output_tokens=10, clients=64, requests=64, rate=8)
    dues = [number // 16 * 16 / 8 for number in range(64)]
    # Each leaves a millisecond after the one before it.
    sent = [timing(due + at % 16 / 1000, due + 1, due + 1.5, 8, due=due)
            for at, due in enumerate(dues)]  # fmt: skip
    summary = summarise(sent, load)
    assert summary.due_per_s == pytest.approx(8)
    assert summary.sent_per_s == pytest.approx(8)
    one = summarise(sent[:16], load)
    assert (one.due_per_s, one.sent_per_s) == (None, None), "no other burst, no rate"
    constant = summarise([timing(n / 8, n, n, 8, due=n / 8) for n in range(64)], load)
    assert constant.due_per_s == constant.sent_per_s == pytest.approx(8)


def test_a_single_token_has_no_time_per_token() -> None:
    summary = summarise([timing(0, 1, 1, 1)], CLOSED)
    assert summary.tpot_s is None
    assert summary.ttft_s is not None


def test_nothing_measured_gives_no_figures() -> None:
    summary = summarise([], CLOSED)
    assert (summary.requests, summary.output_tokens_per_s, summary.duration_s) == (0, 0, 0)
    assert summary.ttft_s is summary.tpot_s is summary.e2e_s is None

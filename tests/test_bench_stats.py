"""Figures from timings: against hand-made arrays."""

import pytest

from ropeway.bench.stats import UNFINISHED, quantile, span, summarise
from ropeway.endpoint.stream import Failure, Timing
from timings import timing


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
    assert summary.ttft_ms and summary.tpot_ms and summary.e2e_ms
    ttft = (summary.ttft_ms.mean, summary.ttft_ms.p90, summary.ttft_ms.p99)
    assert ttft == pytest.approx((600, 680, 698))
    assert summary.tpot_ms.p50 == pytest.approx(150)
    assert summary.e2e_ms.mean == pytest.approx((1500 + 2700) / 2)


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
    assert summary.ttft_ms is not None
    assert summary.ttft_ms.mean == 1000


def test_what_an_unfinished_request_received_counts_as_throughput_but_not_as_a_request() -> None:
    summary = summarise([timing(0, 1, 2, 5), failed(1, 2, 4, UNFINISHED)], 2)
    assert (summary.completed, summary.unfinished, summary.failed) == (1, 1, 0)
    assert summary.output_tokens_per_s == 4.5
    assert summary.requests_per_s == 0.5


def test_a_single_token_has_no_time_per_token() -> None:
    summary = summarise([timing(0, 1, 1, 1)], 1)
    assert summary.tpot_ms is None
    assert summary.ttft_ms is not None


def test_nothing_measured_gives_no_figures() -> None:
    summary = summarise([], span([]))
    assert (summary.requests, summary.output_tokens_per_s, summary.duration_s) == (0, 0, 0)
    assert summary.ttft_ms is summary.tpot_ms is summary.e2e_ms is None

"""A run in steps of its time, as a page draws it."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from ropeway.bench.course import course_of, thin
from ropeway.bench.figures import Course
from ropeway.bench.load_test import LoadTest
from ropeway.bench.stats import columns_of
from ropeway.endpoint.stream import Failure, Timing
from timings import timing

LOAD = LoadTest(input_tokens=128, output_tokens=5, clients=2, requests=80)


def course(timings: Sequence[Timing], *, from_due: bool = False) -> Course:
    made = course_of(columns_of(timings, LOAD), from_due=from_due)
    assert made is not None
    return made


def streamed(sent: float, *moments: float) -> Timing:
    """A request whose answer came token by token at these moments."""
    chunks = tuple((at, 1) for at in moments)
    return timing(sent, moments[0], moments[-1], len(moments), chunks=chunks)


def lengths(made: Course) -> list[float]:
    return [end - begin for begin, end in zip((0.0, *made.ends_s), made.ends_s, strict=False)]


def total(made: Course, rates: Sequence[float]) -> float:
    return sum(rate * seconds for rate, seconds in zip(rates, lengths(made), strict=True))


def test_a_short_run_has_steps_of_a_fifth_of_a_second() -> None:
    made = course([streamed(0.0, 0.25, 0.45, 1.0), streamed(0.5, 0.65, 1.0)])
    assert made.ends_s == pytest.approx((0.2, 0.4, 0.6, 0.8, 1.0))
    assert made.tokens_per_s == pytest.approx((0, 5, 5, 5, 10))
    assert made.in_flight == pytest.approx((1, 1, 1.5, 2, 2))
    assert made.completed == pytest.approx((0, 0, 0, 0, 10))
    assert made.failed == (0, 0, 0, 0, 0)


def test_the_last_step_takes_what_is_left() -> None:
    made = course([streamed(0.0, 0.5, 1.05), streamed(0.0, 0.5, 1.05)])
    assert made.ends_s == pytest.approx((0.2, 0.4, 0.6, 0.8, 1.05))
    assert made.tokens_per_s[-1] == pytest.approx(2 / 0.25)
    assert made.in_flight == pytest.approx((2, 2, 2, 2, 2))


def test_a_failed_request_is_in_flight_until_it_fails_and_has_no_latency() -> None:
    broken = timing(0.0, 0.1, None, 3, error=Failure("timeout", "nothing came"))
    made = course([streamed(0.0, 0.5, 1.0), broken])
    assert made.in_flight == pytest.approx((2,) * 5)
    assert (made.completed[-1], made.failed[-1]) == pytest.approx((5, 5))
    assert made.spreads["e2e"] == pytest.approx((1.0,))


def test_however_many_requests_there_are_the_points_are_few() -> None:
    many = [streamed(0.05 * n, 0.05 * n + 0.1 + n / 1e4, 0.05 * n + 2) for n in range(5000)]
    made = course(many)
    assert len(made.ends_s) == 50  # 252 s in steps of 5 s
    assert total(made, made.tokens_per_s) == pytest.approx(10_000)
    assert total(made, made.completed) == pytest.approx(5000)
    assert total(made, made.in_flight) == pytest.approx(5000 * 2)
    assert len(made.spreads["ttft"]) == 241
    assert (made.spreads["ttft"][0], made.spreads["ttft"][-1]) == pytest.approx((0.1, 0.5999))
    assert made.spreads["ttft"][120] == pytest.approx(0.35, abs=0.001)


def test_where_requests_were_due_latencies_are_told_from_then_too() -> None:
    late = replace(streamed(1.0, 1.5, 2.0), due=0.25)
    assert course([late], from_due=True).spreads["due_ttft"] == pytest.approx((1.25,))
    assert "due_ttft" not in course([late]).spreads, "a client that was free is no due time"


def test_a_run_without_requests_has_no_course() -> None:
    assert course_of(columns_of([], LOAD), from_due=False) is None


def test_what_is_no_number_is_left_out() -> None:
    assert thin([2.0, float("nan"), 1.0]) == (1.0, 2.0)
    assert thin([float("nan")]) == ()

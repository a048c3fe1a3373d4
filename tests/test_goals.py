"""Goals for each request: how they are read, who meets them, goodput, and latency's trend."""

from dataclasses import replace
from functools import partial

import pytest

from queues import waits
from ropeway.bench.arrivals import arrivals
from ropeway.bench.asked import load_of
from ropeway.bench.goals import Goals, parse_goals
from ropeway.bench.load_test import LoadTest
from ropeway.bench.prompts import WORDS, Recipe
from ropeway.bench.sending.answers import UNFINISHED
from ropeway.bench.stats import summarise
from ropeway.bench.trend import trend_of
from ropeway.bench.workloads.words import RandomPrompts
from ropeway.endpoint.stream import Failure, Timing
from ropeway.errors import Refused
from ropeway.report.chinese import in_language
from test_compare_loads import typed
from timings import timing

LOAD = LoadTest(input_tokens=16, output_tokens=8, clients=4, requests=8)
CUT, BROKEN = Failure(UNFINISHED, "cut"), Failure("timeout", "none came")
GOALS = Goals(ttft_s=1.0, tpot_s=0.1, e2e_s=4.0)


@pytest.mark.parametrize(
    ("text", "goals"),
    [
        ("ttft=2s,tpot=50ms,e2e=30s", Goals(2.0, 0.05, 30.0)),
        (" TPOT = 7.5 MS ", Goals(tpot_s=0.0075)),
        ("e2e=.5s", Goals(e2e_s=0.5)),
    ],
)
def test_goals_are_read_and_written(text: str, goals: Goals) -> None:
    assert parse_goals(text) == goals
    assert parse_goals(str(goals)) == goals


@pytest.mark.parametrize(
    ("text", "what", "hint"),
    [
        ("ttft=200", "`ttft=200` is no time", "`ttft=200ms` or `ttft=200s`"),
        ("ttft=2min", "`ttft=2min` is no time", "write goals like"),
        ("ttft=-2s", "`ttft=-2s` is no time", "write goals like"),
        ("ttft=0s", "no time that a request can take", "write goals like"),
        ("tftt=2s", "`tftt` is no goal", "did you mean `ttft`?"),
        ("ttft", "`ttft` is no goal", "write goals like"),
        ("", "is no goal", "write goals like"),
        ("ttft=2s,,", "is no goal", "write goals like"),
        ("ttft=2s,ttft=3s", "has two goals", "write goals like"),
    ],
)
def test_what_is_no_goal_is_refused_with_a_hint(text: str, what: str, hint: str) -> None:
    with pytest.raises(Refused) as refused:
        parse_goals(text)
    assert what in refused.value.what
    assert hint in (refused.value.hint or "")


def test_a_chinese_list_has_chinese_commas() -> None:
    for text, refused_by in (
        ("`other` 不是有效的目标，可用的有 ttft、tpot、e2e", partial(parse_goals, "other=2s")),
        (
            "`--duration`、`--requests` 互相矛盾",
            partial(load_of, typed(requests=3, duration_s=2.0)),
        ),
    ):
        with pytest.raises(Refused) as refused:
            refused_by()
        assert in_language(refused.value.what, "zh") == text


@pytest.mark.parametrize(
    ("one", "met"),
    [
        (timing(0, 1.0, 1.7, 8), True),
        (timing(0, 1.1, 1.7, 8), False),
        (timing(0, 0.5, 1.3, 8), False),
        (timing(0, 0.5, 4.1, 100), False),
        (timing(0, 0.5, 0.5, 1), True),
        (timing(0, 0.5, 1.0, 8, error=BROKEN), False),
        (timing(0, 0.5, 0.6, 2, ended=3.0, error=CUT), None),
        (timing(0, 0.5, 0.6, 2, ended=5.0, error=CUT), False),
        (timing(0, None, None, 0, ended=0.9, error=CUT), None),
        (timing(0, None, None, 0, ended=1.1, error=CUT), False),
    ],
)
def test_a_request_meets_its_goals_or_not(one: Timing, met: bool | None) -> None:
    assert GOALS.met(one, from_due=True) is met


def test_a_wait_since_it_was_due_counts_where_there_is_a_rate() -> None:
    late = timing(1.0, 1.5, 2.0, 8, due=0.0)
    assert GOALS.met(late, from_due=False) is True
    assert GOALS.met(late, from_due=True) is False


def test_goodput_is_what_met_all_goals_by_the_second_and_as_a_share() -> None:
    requests = [
        timing(0, 0.5, 1.0, 8),
        timing(0, 0.5, 2.0, 100),
        timing(0, 1.5, 2.0, 8),
        timing(0, 0.5, 2.0, 8, error=BROKEN),
        timing(0, 0.5, 0.9, 8, ended=4.0, error=CUT),
    ]
    summary = summarise(requests, replace(LOAD, goals=GOALS))
    assert summary.goodput
    assert (summary.goodput.met, summary.goodput.share) == (2, 0.5)
    assert summary.goodput.requests_per_s == pytest.approx(2 / 4.0)
    assert summarise(requests, LOAD).goodput is None


def test_the_steady_part_has_a_goodput_of_its_own() -> None:
    slow = [timing(n / 10, n / 10 + 1.5, n / 10 + 2, 8, due=n / 10) for n in range(50)]
    quick = [timing(n / 10, n / 10 + 0.5, n / 10 + 1, 8, due=n / 10) for n in range(50, 100)]
    load = replace(LOAD, rate=10.0, goals=Goals(ttft_s=1.0))
    summary = summarise([*slow, *quick], load)
    assert summary.goodput and summary.steady and summary.steady.goodput
    assert summary.goodput.share == 0.5
    inside = summary.steady.requests
    assert summary.steady.goodput.share == pytest.approx(49 / inside)


def test_latency_that_grows_has_a_slope_and_one_that_does_not_has_none() -> None:
    points = [(n / 10, 1.0 + 0.05 * n / 10) for n in range(1000)]
    trend = trend_of(points, 20.0, 100.0)
    assert trend
    assert (trend.per_s, trend.error) == pytest.approx((0.05, 0.0), abs=1e-9)
    assert trend.first_s == pytest.approx(2.0, rel=0.01)
    level = trend_of([(at, 1.0 + (n % 3)) for n, (at, _) in enumerate(points)], 20.0, 100.0)
    assert level
    assert abs(level.per_s) < 3 * level.error + 1e-3
    assert trend_of(points[:10], 0.0, 100.0) is None
    assert trend_of(points, 5.0, 5.0) is None


def test_a_queue_that_grows_is_in_the_figures_of_a_rate() -> None:
    load = replace(LOAD, rate=110.0, requests=4400)
    steady = summarise(waits(load, 10, lambda _: 0.1, 0), load).steady
    assert steady and steady.trend
    assert steady.trend.per_s == pytest.approx(0.1, abs=0.03), "110 come where 100 can go"
    closed = replace(load, rate=None)
    steady = summarise(waits(load, 10, lambda _: 0.1, 0), closed).steady
    assert steady and steady.trend is None


def test_each_of_several_measurements_has_arrivals_of_its_own() -> None:
    load = replace(LOAD, rate=10.0, seed=3)
    recipe = Recipe(16, 16, WORDS, WORDS, exact=False)

    def dues(load: LoadTest) -> list[float | None]:
        return [talk.due for talk in RandomPrompts("m", load, recipe).talks(0, 1)]

    first = arrivals(10.0, 3)
    assert dues(load) == [next(first) for _ in range(8)]
    assert not set(dues(load)) & set(dues(replace(load, fresh=1)))

"""The search for the highest rate: what it tries next, and how near it comes to a known limit."""

import itertools
import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from queues import Service, rung, waits
from ropeway.bench.find_max import (
    NARROW,
    Bracket,
    Probe,
    Search,
    Trial,
    again,
    bracket,
    judge,
    next_trial,
    result,
    seconds_left,
)
from ropeway.bench.goals import Goals
from ropeway.bench.highest import HighestRate, in_words
from ropeway.bench.load_test import LoadTest
from ropeway.bench.rungs import Rung
from timings import timing

SEARCH = Search(capacity=100.0, answer_s=0.1, share=0.99)
LOAD = LoadTest(input_tokens=16, output_tokens=8, clients=256, requests=8)


def probe(
    trial: Trial,
    *,
    missed: float = 0.0,
    rise: float | None = 0.0,
    per_s: float = 0.05,
    reached: bool = True,
    ended: int = 1000,
) -> Probe:
    """What comes of a trial; `missed`: a share of its requests."""
    counts = {"due": 1000, "ended": ended, "in_flight": 50.0}
    return Probe(trial, 1000, round(missed * 1000), reached, rise, per_s, 0.01, **counts)


def searched(holds: Callable[[Trial], bool], search: Search = SEARCH) -> list[Probe]:
    """Search where each rate clearly holds or does not; return all probes."""
    probes: list[Probe] = []
    while (trial := next_trial(search, probes)) is not None:
        probes.append(probe(trial, missed=0.0 if holds(trial) else 0.5))
        assert len(probes) < 50, "it does not end"
    return probes


@pytest.mark.parametrize("limit", [1.5, 20.0, 79.0, 81.0, 99.0, 130.0, 700.0])
def test_a_limit_is_bracketed_within_three_per_cent_and_confirmed(limit: float) -> None:
    probes = searched(lambda trial: trial.rate <= limit)
    rate, confirmed = result(SEARCH, probes)
    assert confirmed
    assert rate is not None
    assert limit / NARROW <= rate <= limit
    last = probes[-1].trial
    assert (last.rate, last.confirms) == (rate, True)
    same = next(one.trial for one in probes if one.trial.rate == rate)
    assert last.requests == 2 * same.requests


def test_a_rate_that_holds_above_one_that_fails_is_no_end_of_the_bracket() -> None:
    probes = [
        probe(Trial(rate, 1000), missed=missed)
        for rate, missed in ((80.0, 0.0), (100.0, 0.5), (125.0, 0.0), (110.0, 0.5))
    ]
    assert bracket(SEARCH, probes) == Bracket(80.0, 100.0)


def test_what_has_nothing_to_do_with_a_rate_does_not_decide_it() -> None:
    """The first probe meets with a stall; it is tried again, and found to hold."""
    probes: list[Probe] = []
    while (trial := next_trial(SEARCH, probes)) is not None:
        stalled = not probes
        probes.append(probe(trial, missed=0.5 if stalled or trial.rate > 130 else 0.0))
        assert len(probes) < 50
    rate, confirmed = result(SEARCH, probes)
    assert confirmed
    assert rate is not None
    assert 130 / NARROW <= rate <= 130
    assert sum(one.trial.rate == 80.0 for one in probes) == 3


def test_a_rate_that_is_not_confirmed_is_tried_a_step_lower() -> None:
    probes = searched(lambda trial: trial.rate <= (75 if trial.confirms else 79))
    rate, confirmed = result(SEARCH, probes)
    assert confirmed
    assert rate is not None
    assert 75 / NARROW <= rate <= 75
    rates = [one.trial.rate for one in probes if one.trial.confirms]
    assert len(rates) > 1
    steps = [high / low for high, low in itertools.pairwise(rates)]
    assert steps == pytest.approx([NARROW] * len(steps))


def test_what_never_confirms_ends_with_what_held_below() -> None:
    probes = searched(lambda trial: not trial.confirms and trial.rate <= 79)
    confirms = [one.trial.rate for one in probes if one.trial.confirms]
    assert len(confirms) == 5
    held = [one.trial.rate for one in probes if one.trial.rate <= 79 and not one.trial.confirms]
    assert result(SEARCH, probes) == (max(one for one in held if one < min(confirms)), False)


def test_a_search_broken_off_while_it_confirms_says_what_held() -> None:
    """The first longer run failed, and the next was broken off."""
    held = [probe(Trial(rate, 1000)) for rate in (40.0, 60.0, 78.0)]
    known = [*held, *[probe(Trial(80.0, 1000), missed=0.5)] * 2]
    assert result(SEARCH, known) == (78.0, False)
    long = Trial(78.0, 2000, confirms=True)
    assert result(SEARCH, [*known, probe(long, missed=0.009)]) == (78.0, False), "it was close"
    refuted = [*known, probe(long, missed=0.5)]
    assert result(SEARCH, refuted) == (60.0, False)
    assert result(SEARCH, [*refuted, probe(Trial(60.0, 2000, confirms=True))]) == (60.0, True)
    assert result(SEARCH, refuted[2:]) == (None, False), "nothing held below"


def test_what_never_holds_ends() -> None:
    probes = searched(lambda _: False)
    assert result(SEARCH, probes) == (None, False)
    assert probes[-1].trial.rate == pytest.approx(100 * 0.8 / 64)


def test_a_search_that_is_broken_off_says_what_held() -> None:
    probes = searched(lambda trial: trial.rate <= 79)
    known = [one for one in probes if not one.trial.confirms]
    rate, confirmed = result(SEARCH, known)
    assert (rate, confirmed) == (bracket(SEARCH, known).holds, False)
    assert result(SEARCH, []) == (None, False)


@pytest.mark.parametrize(
    ("runs", "verdict"),
    [
        ([{"missed": 0.002}], "holds"),
        ([{"missed": 0.03}], "missed"),
        ([{"missed": 0.008}], "close"),
        ([{"missed": 0.015}], "close"),
        ([{"missed": 0.008}, {"missed": 0.009}], "holds"),
        ([{"missed": 0.008}, {"missed": 0.015}], "missed"),
        ([{"rise": 0.5}], "close"),
        ([{"rise": 0.5}, {"rise": 0.4}], "rising"),
        ([{"rise": 0.5}, {"rise": -0.2}], "holds"),
        ([{"rise": 0.5, "missed": 0.5}], "missed"),
        ([{"rise": 0.2}], "holds"),
        ([{"rise": 0.5, "per_s": 0.025}], "holds"),
        ([{"rise": 0.5, "per_s": 0.025}, {"rise": 0.5, "per_s": 0.03}], "rising"),
        ([{"rise": None}], "rising"),
        ([{"missed": 0.5}, {"missed": 0.5}], "missed"),
        ([{"missed": 0.5}, {}], "close"),
        ([{"missed": 0.5}, {}, {}], "holds"),
        ([{"missed": 0.5}, {}, {"missed": 0.03}], "missed"),
        ([{"reached": False}, {}, {}], "holds"),
        ([{"reached": False}], "late"),
        ([{"ended": 971}], "holds"),
        ([{"ended": 960}], "close"),
        ([{"ended": 960}, {"ended": 1005}], "holds"),
        ([{"ended": 960}, {"ended": 950}], "behind"),
    ],
)
def test_a_probe_is_judged_by_misses_and_by_its_trend(
    runs: list[dict[str, float]], verdict: str
) -> None:
    trial = Trial(10.0, 1000)
    assert judge(SEARCH, [probe(trial, **run) for run in runs]) == verdict  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("per_s", "error", "verdict"),
    [(0.05, 0.01, "close"), (0.05, 0.02, "holds"), (0.008, 0.001, "holds")],
)
def test_a_rise_within_its_own_error_or_of_next_to_nothing_is_none(
    per_s: float, error: float, verdict: str
) -> None:
    risen = replace(probe(Trial(10.0, 1000), rise=0.5, per_s=per_s), error=error)
    assert judge(SEARCH, [risen]) == verdict


def test_what_is_close_is_tried_once_more() -> None:
    first = next_trial(SEARCH, [])
    assert first is not None
    close = probe(first, missed=0.009)
    assert next_trial(SEARCH, [close]) == first
    again = next_trial(SEARCH, [close, close])
    assert again is not None
    assert again.rate == pytest.approx(first.rate * 1.25), "together they hold"


@pytest.mark.parametrize(
    ("search", "requests"),
    [
        (SEARCH, 80 * 30),
        (replace(SEARCH, answer_s=5.0), 80 * 100),
        (replace(SEARCH, capacity=1.0), 1000),
        (replace(SEARCH, capacity=1.0, share=0.5), 100),
        (replace(SEARCH, requests=50), 50),
    ],
)
def test_a_probe_is_long_enough_to_see_a_queue_grow(search: Search, requests: int) -> None:
    trial = next_trial(search, [])
    assert trial is not None
    assert trial.requests == requests


def test_the_time_left_shrinks_as_the_search_narrows() -> None:
    probes = searched(lambda trial: trial.rate <= 79)
    left = [seconds_left(SEARCH, probes[:at], one.trial) for at, one in enumerate(probes)]
    assert all(later <= before + 1 for before, later in itertools.pairwise(left))
    assert left[0] == pytest.approx(8 * 30, rel=0.01)
    assert left[-1] == pytest.approx(60, rel=0.01)


# The same with a queue, and all that is between it and the decision


def alone_and_closed(service: float, slots: int, goals: Goals | None) -> list[Rung]:
    """The first two measurements of a search: a request alone, and a closed loop."""
    load = replace(LOAD, goals=goals)
    one = waits(replace(load, rate=0.01, requests=5), 1, lambda _: service, 0)
    alone = replace(load, clients=1, requests=5)
    flood = replace(load, rate=4 * slots / service, requests=1024)
    many = waits(flood, slots, lambda _: service, 0)
    closed = [replace(timing, due=None) for timing in many]
    return [rung(alone, one, "alone"), rung(replace(load, requests=1024), closed, "closed")]


def found(
    slots: int, service: Service, mean: float, goals: Goals | None, seed: int
) -> tuple[float, list[Rung]]:
    """Search on a queue; return the rate that was confirmed, and what was measured."""
    course = HighestRate(0.99)
    load = replace(LOAD, goals=goals)
    rungs = alone_and_closed(mean, slots, goals)
    while (step := course.next(load, rungs)) is not None:
        lot = random.Random(f"{seed} {len(rungs)}").randrange(2**40)
        rungs.append(rung(step.load, waits(step.load, slots, service, lot), step.name))
        assert len(rungs) < 40
    said = course.found(rungs)
    assert said.confirmed
    assert said.rate is not None
    return said.rate, rungs


def kept(rate: float, slots: int, service: Service, goal_s: float) -> float:
    """The share of requests that keep a bound on the whole time, of very many."""
    load = replace(LOAD, rate=rate, requests=150_000)
    took = [(one.e2e_s or 0.0) <= goal_s for one in waits(load, slots, service, 7)]
    return sum(took) / len(took)


@pytest.mark.parametrize("seed", range(5))
def test_the_highest_rate_that_keeps_a_goal_is_found(seed: int) -> None:
    service, slots, goal_s = 0.1, 16, 0.25
    rate, _ = found(slots, lambda _: service, service, Goals(e2e_s=goal_s), seed)
    assert kept(rate * 0.95, slots, lambda _: service, goal_s) > 0.99
    assert kept(rate * 1.05, slots, lambda _: service, goal_s) < 0.99


@pytest.mark.parametrize("seed", range(5))
def test_the_highest_rate_that_is_sustained_is_found(seed: int) -> None:
    rate, _ = found(16, lambda _: 0.1, 0.1, None, seed)
    assert rate == pytest.approx(160, rel=0.05)


def test_a_goal_that_is_far_off_hides_no_queue_that_grows() -> None:
    """20 seconds at 5 % too much are a wait of a second, which a goal of 5 s would let pass."""
    goals = Goals(e2e_s=5.0)
    load = replace(LOAD, rate=168.0, requests=168 * 20, goals=goals)
    probes = [rung(load, waits(load, 16, lambda _: 0.1, seed), f"probe-{seed}") for seed in (1, 2)]
    assert all(one.goodput and one.goodput.share == 1.0 for one in probes)
    said = HighestRate(0.99).found([*alone_and_closed(0.1, 16, goals), *probes])
    assert set(said.verdicts.values()) == {"latency rises"}
    assert (said.rate, said.fails_at) == (None, 168.0)


def said_of(made: Rung) -> str:
    """The verdict on one probe."""
    said = HighestRate(0.99).found([*alone_and_closed(0.1, 16, made.load.goals), made])
    return said.verdicts[made.name]


@pytest.mark.parametrize("goals", [None, Goals(e2e_s=5.0)])
def test_what_was_never_sent_has_missed(goals: Goals | None) -> None:
    load = replace(LOAD, rate=100.0, requests=3000, goals=goals)
    sent = list(waits(load, 16, lambda _: 0.1, 0))
    assert said_of(rung(load, sent, "probe-1")) == "holds"
    assert said_of(rung(load, sent[:2900], "probe-1")) == "missed"


def test_a_rise_that_begins_late_is_one() -> None:
    """A straight line through it begins below nothing."""
    load = replace(LOAD, rate=10.0, requests=400)
    took = [0.1 + 0.05 * max(0, n - 200) for n in range(400)]
    made = [timing(n / 10, n / 10, n / 10 + e2e, 8, due=n / 10) for n, e2e in enumerate(took)]
    assert said_of(rung(load, made, "probe-1")) == "latency rises"


def test_a_request_that_misses_alone_ends_the_search() -> None:
    goals = Goals(e2e_s=0.05)
    rungs = alone_and_closed(0.1, 16, goals)[:1]
    course = HighestRate(0.99)
    assert course.next(replace(LOAD, goals=goals), rungs) is None
    said = course.found(rungs)
    assert (said.rate, said.confirmed) == (None, False)
    assert "alone" in said.sentence


def test_a_probe_that_was_broken_off_is_not_judged() -> None:
    _, rungs = found(16, lambda _: 0.1, 0.1, None, seed=1)
    probes = [one for one in rungs if one.name.startswith("probe")]
    held = max(
        one.load.rate or 0.0
        for one in probes
        if HighestRate(0.99).found(rungs).verdicts[one.name] == "holds"
    )
    cut = [*rungs[: 2 + len(probes)], replace(rungs[-1], ended="interrupted")]
    said = HighestRate(0.99).found(cut)
    assert (said.rate, said.confirmed) == (held, False)
    assert rungs[-1].name not in said.verdicts


def test_all_clients_busy_at_the_limit_is_said() -> None:
    few = replace(LOAD, clients=16)
    _, rungs = found(16, lambda _: 0.1, 0.1, None, seed=2)
    crowded = [replace(one, load=replace(one.load, clients=few.clients)) for one in rungs]
    assert any("--clients" in doubt for doubt in HighestRate(0.99).found(crowded).doubts)
    assert not HighestRate(0.99).found(rungs).doubts


def test_each_probe_has_its_own_verdict_whatever_its_rate_got_in_the_end() -> None:
    """Two of three held, and so does the rate; the one that a stall met with did not."""
    goals = Goals(e2e_s=0.25)
    load = replace(LOAD, rate=100.0, requests=3000, goals=goals)
    calm: Service = lambda _: 0.1  # noqa: E731
    stalled: Service = lambda _: 0.3  # noqa: E731
    probes = [
        rung(load, waits(load, 16, service, 1), f"probe-{number}")
        for number, service in enumerate((calm, stalled, calm), start=1)
    ]
    said = HighestRate(0.99).found([*alone_and_closed(0.1, 16, goals), *probes])
    assert (said.rate, said.fails_at) == (100.0, None)
    assert said.verdicts["probe-1"] == said.verdicts["probe-3"] == "holds"
    assert said.verdicts["probe-2"] != "holds"


def test_chance_in_what_is_in_flight_is_no_falling_behind() -> None:
    """Of 300 in flight 70 more at the end are within three errors of 24; of 50 they are not."""
    less = probe(Trial(10.0, 1000), ended=930)
    assert judge(SEARCH, [less], last=True) == "behind"
    assert judge(SEARCH, [replace(less, in_flight=300.0)], last=True) == "holds"


def test_a_server_that_answers_less_than_is_due_does_not_hold_the_rate() -> None:
    """Of 240 a second it can answer 200; no goal tells, and latency rises by less than a fifth."""
    load = replace(LOAD, rate=240.0, requests=240 * 45, goals=Goals(e2e_s=60.0))
    probes = [rung(load, waits(load, 2000, lambda _: 10.0, 3), f"probe-{n}") for n in (1, 2)]
    steady = probes[0].figures.summary.steady
    assert steady is not None
    assert steady.due is not None
    assert steady.ended < 0.94 * steady.due
    said = HighestRate(0.99, 1000).found([*alone_and_closed(10.0, 2000, load.goals), *probes])
    assert set(said.verdicts.values()) == {"fell behind"}
    assert (said.rate, said.fails_at) == (None, 240.0)


@pytest.mark.parametrize(("requests", "doubts"), [(150, 1), (2999, 1), (3000, 0), (None, 0)])
def test_a_probe_that_is_too_short_to_tell_is_a_doubt(requests: int | None, doubts: int) -> None:
    load = replace(LOAD, rate=100.0, requests=requests or 3000)
    made = rung(load, waits(load, 16, lambda _: 0.1, 0), "probe-1")
    said = HighestRate(0.99, requests).found([*alone_and_closed(0.1, 16, None), made])
    assert len(said.doubts) == doubts
    if requests == 150:
        assert "150 requests" in said.doubts[0]
        assert "8.2%" in said.doubts[0]
        assert "3,000" in said.doubts[0]


def test_what_held_only_in_a_probe_is_said_so() -> None:
    load, long = replace(LOAD, rate=100.0, requests=3000), replace(LOAD, rate=100.0, requests=6000)
    held = rung(load, waits(load, 16, lambda _: 0.1, 1), "probe-1")
    refuted = [rung(long, waits(long, 16, lambda _: 0.3, 1), f"confirm-{n}") for n in (2, 3)]
    before = [*alone_and_closed(0.1, 16, None), held]
    broken_off = HighestRate(0.99).found([*before, replace(refuted[0], ended="interrupted")])
    assert (broken_off.rate, broken_off.confirmed) == (100.0, False)
    said = HighestRate(0.99).found([*before, *refuted])
    assert said.rate is None
    assert said.sentence.startswith("no rate was confirmed: 100 requests/s held in a probe")


@pytest.mark.parametrize(
    ("missed", "why"),
    [((), None), ((0.009,), "close"), ((0.5, 0.0), "disagree"), ((0.5,), "failed")],
)
def test_why_a_rate_is_tried_again_is_known(missed: tuple[float, ...], why: str | None) -> None:
    trial = Trial(80.0, 1000)
    probes = [probe(trial, missed=one) for one in missed]
    assert again(SEARCH, [*probes, probe(Trial(50.0, 1000))], trial) == why


def test_a_title_says_why_a_rate_is_tried_again_and_the_end_what_came_of_it() -> None:
    goals = Goals(e2e_s=0.25)
    course, load = HighestRate(0.99), replace(LOAD, goals=goals)
    rungs = alone_and_closed(0.1, 16, goals)
    assert course.verdict(rungs) is None
    titles, verdicts = [], []
    while (step := course.next(load, rungs)) is not None:
        rungs.append(rung(step.load, waits(step.load, 16, lambda _: 0.1, len(rungs)), step.name))
        titles.append(step.title)
        verdicts.append(course.verdict(rungs))
    tried = [title.split()[1] for title in titles]
    for at, title in enumerate(titles):
        before = [titles[at].split()[0] == titles[n].split()[0] and tried[n] == tried[at]
                  for n in range(at)]  # fmt: skip
        assert (" again for " in title) is any(before), titles
    assert any(title.endswith("what fails is tried twice") for title in titles)
    assert {"holds", "missed"} <= set(verdicts)
    said = course.found(rungs).verdicts
    assert [said[one.name] for one in rungs[2:]] == [in_words(one) for one in verdicts if one]
    assert course.verdict([*rungs[:-1], replace(rungs[-1], ended="interrupted")]) is None

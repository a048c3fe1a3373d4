"""Why figures are not to be trusted: what the load generator says of itself."""

from dataclasses import replace

import pytest

from ropeway.bench.figures import Calibration, Late, OwnShare
from ropeway.bench.load_test import LoadTest
from ropeway.bench.own_share import doubts, own_share
from ropeway.bench.sending.lateness import Lateness
from ropeway.bench.sending.worker import Share
from ropeway.bench.stats import summarise
from timings import timing

LOAD = LoadTest(input_tokens=10, output_tokens=11, clients=4, requests=100)
QUIET = OwnShare(1, 0.3, 0.01, Late(0.0, 0.002, 0.01), Late(0.0, 0.004, 0.02))
SUMMARY = summarise([timing(n, n + 0.1, n + 1.0, 11) for n in range(100)], LOAD)


def test_a_load_generator_that_had_time_leaves_no_doubt() -> None:
    assert doubts(QUIET, SUMMARY, LOAD) == ()


@pytest.mark.parametrize(
    ("own", "why"),
    [
        (replace(QUIET, cpu=0.95), "the load generator was full: it used 95% of a core"),
        (replace(QUIET, waited=0.39), "was kept waiting for 39% of the time"),
        (replace(QUIET, sent_late=Late(0.0, 0.2, 0.3)), "was sent 200.0 ms or more after"),
        (
            replace(QUIET, first_early=Late(0.0, 0.04, 0.3)),
            "one TTFT in a hundred may be too long by 40.0 ms or more: the load generator read its",
        ),
        (
            replace(QUIET, calibration=Calibration(4, 12, Late(0, 0.05, 0.06), Late(0, 0, 0))),
            "one TTFT in a hundred was wrong by 50.0 ms or more",
        ),
    ],
)
def test_one_that_was_full_late_or_kept_from_work_says_so(own: OwnShare, why: str) -> None:
    (doubt,) = doubts(own, SUMMARY, LOAD)
    assert why in doubt


def test_a_rate_that_was_not_reached_is_said() -> None:
    # A request is due each second, and each is sent a tenth of a second later than the one before.
    late = [timing(n * 1.1, n * 1.1 + 0.1, n * 1.1 + 4.4, 11, due=float(n)) for n in range(100)]
    load = replace(LOAD, rate=1.0)
    (doubt,) = doubts(QUIET, summarise(late, load), load)
    assert doubt == "0.909 requests/s were sent where 1 were due: all 4 clients were busy"
    load = replace(load, clients=64)
    (doubt,) = doubts(QUIET, summarise(late, load), load)
    assert doubt == (
        "0.909 requests/s were sent where 1 were due, with clients free: connections had to be"
        " made first, or the load generator was late"
    )
    prompt = [timing(n, n + 0.1, n + 1, 11, due=float(n)) for n in range(100)]
    assert doubts(QUIET, summarise(prompt, load), load) == ()


def test_what_is_found_with_more_clients_says_nothing_of_fewer() -> None:
    wrong = Calibration(1024, 12, Late(0, 0.05, 0.06), Late(0, 0, 0))
    own = replace(QUIET, calibration=wrong)
    assert doubts(own, SUMMARY, LOAD) == ()
    assert len(doubts(own, SUMMARY, replace(LOAD, clients=4096))) == 1, "the most that are tried"


def test_what_several_processes_say_is_put_together() -> None:
    sent, read, first = Lateness(), Lateness(), Lateness()
    for number in range(1, 101):
        sent.add(number * 1_000_000)
        read.add(number * 10_000)
        first.add(number * 100_000)
    own = own_share(
        [
            Share("complete", 2.0, 0.1, 10.0, read, sent, repeated=1, first_early=first),
            Share("complete", 5.0, 1.0, 10.0, Lateness(), Lateness(), repeated=2),
        ]
    )
    assert (own.processes, own.cpu, own.waited) == (2, 0.5, 0.1)
    assert own.sent_late.p50 == pytest.approx(0.05, rel=0.1)
    assert own.sent_late.longest == pytest.approx(0.1)
    assert own.read_late.p99 == pytest.approx(0.001, rel=0.1)
    assert own.repeated == 3
    assert own.first_early.p50 == pytest.approx(0.005, rel=0.1)
    assert own_share([]).cpu == 0

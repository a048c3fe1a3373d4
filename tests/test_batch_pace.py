"""How many rows a replica is sent at once: up by steps, down by half, near saturation."""

import pytest

from ropeway.batch.sending.pace import Pace
from ropeway.endpoint.metrics import Reading


def test_tasks_share_a_limit_and_the_fewer_there_are_the_more_each_has() -> None:
    pace = Pace(64, 1024)
    pace.share(4)
    assert (pace.limit, pace.most) == (16, 256)
    pace.limit = 100  # found meanwhile
    pace.share(2)
    assert (pace.limit, pace.most) == (200, 512)
    pace.share(1)
    assert (pace.limit, pace.most) == (400, 1024)


class Engine:
    """Runs `room` rows, lets the rest wait, and preempts when more than `fits` are there."""

    def __init__(self, room: int, fits: int = 10**9) -> None:
        self.room, self.fits, self.preemptions = room, fits, 0

    def reading(self, in_flight: int) -> Reading:
        running = min(self.room, in_flight)
        self.preemptions += running > self.fits
        return Reading(running, in_flight - running, self.preemptions)


def settled(pace: Pace, engine: Engine, readings: int = 200) -> list[int]:
    """The limits of the second half of so many readings, with as much in flight as may be."""
    limits = []
    for _ in range(readings):
        pace.read(engine.reading(pace.limit), pace.limit)
        limits.append(pace.limit)
    return limits[readings // 2 :]


@pytest.mark.parametrize(("start", "room"), [(16, 100), (64, 400), (256, 300), (200, 110), (1, 8)])
def test_a_few_rows_wait_and_not_many(start: int, room: int) -> None:
    limits = settled(Pace(start, 1024), Engine(room), 500)
    assert min(limits) >= room
    assert max(limits) <= room * 1.15 + 2


def test_the_limit_is_found_within_a_minute() -> None:
    assert min(settled(Pace(64, 1024), Engine(400), 100)) >= 400


def test_the_limit_stays_within_its_bound() -> None:
    assert settled(Pace(64, 128), Engine(10**6))[-1] == 128
    assert Pace(500, 128).limit == 128


def test_a_limit_that_is_not_in_use_does_not_rise() -> None:
    pace = Pace(64, 1024)
    for _ in range(100):
        pace.read(Reading(10, 0, 0), 10)
    assert pace.limit == 64


def test_a_preemption_halves_the_limit_once() -> None:
    pace = Pace(256, 1024)
    pace.read(Reading(256, 0, 0), 256)
    start = pace.limit
    pace.read(Reading(256, 0, 5), 256)
    assert pace.limit == 128
    # what was sent before is still there, and is preempted further: that is the same cause
    for left, preemptions in ((250, 9), (200, 30), (140, 31)):
        pace.read(Reading(left, 0, preemptions), left)
    assert start > pace.limit == 128
    pace.read(Reading(128, 0, 32), 128)
    assert pace.limit == 64


def test_what_was_sent_before_a_cut_is_not_blamed_on_it() -> None:
    pace = Pace(64, 1024)
    settled(pace, Engine(10**6), 200)
    pace.halve(pace.limit)
    assert pace.limit == 512
    pace.read(Reading(600, 300, 0), 900)
    assert pace.limit == 512
    pace.read(Reading(400, 100, 0), 500)
    assert pace.limit == 452


def test_the_preemptions_of_others_before_us_do_not_count() -> None:
    pace = Pace(64, 1024)
    pace.read(Reading(64, 0, 1000), 64)
    assert pace.limit > 64


def test_an_engine_that_was_started_again_counts_from_nothing() -> None:
    pace = Pace(64, 64)
    for preemptions in (1000, 0, 0):
        pace.read(Reading(64, 0, preemptions), 64)
    assert pace.limit == 64


def test_an_engine_that_preempts_is_held_below_that() -> None:
    engine = Engine(256, fits=72)
    limits = settled(Pace(256, 1024), engine, 1000)
    assert max(limits) <= 74
    assert sum(limits) / len(limits) > 45
    assert engine.preemptions < 40


def test_rows_that_wait_between_two_steps_do_not_stop_a_replica() -> None:
    # Answers of one token: whatever is read, nothing runs, and all wait.
    pace = Pace(64, 1024)
    for _ in range(50):
        pace.read(Reading(0, pace.limit, 0), pace.limit)
    assert pace.limit == 32


def test_prompts_that_wait_to_be_read_are_no_queue() -> None:
    pace = Pace(64, 1024)
    # As many as fit into its first step run; the others follow in the next ones.
    pace.read(Reading(20, 44, 0), 64)
    assert pace.limit == 64
    for _ in range(60):
        running = min(64, pace.limit)
        pace.read(Reading(running, pace.limit - running, 0), pace.limit)
    settled_at = pace.limit
    # All that ran have ended together, and as many were sent anew.
    pace.read(Reading(20, settled_at - 20, 0), settled_at)
    assert pace.limit == settled_at >= 64


def test_an_engine_that_runs_fewer_from_now_on_is_sent_fewer() -> None:
    pace = Pace(64, 1024)
    for _ in range(60):
        running = min(40, pace.limit)
        pace.read(Reading(running, pace.limit - running, 0), pace.limit)
    assert 40 <= pace.limit <= 46


def test_refusals_halve_the_limit_down_to_one() -> None:
    pace = Pace(64, 1024)
    for expected in (32, 16, 8, 4, 2, 1, 1):
        pace.halve(pace.limit)
        assert pace.limit == expected


def by_answers(pace: Pace, room: int, seconds: int) -> list[int]:
    """Let a server work that says nothing of itself: each row takes a second, `room` at a time."""
    limits = []
    for second in range(seconds):
        for _ in range(min(room, pace.limit)):
            pace.answered(100)
        pace.tick(float(second), pace.limit)
        limits.append(pace.limit)
    return limits


def test_without_figures_the_limit_rises_while_that_pays() -> None:
    assert by_answers(Pace(16, 1024), room=10**6, seconds=120)[-1] == 1024
    limits = by_answers(Pace(16, 1024), room=100, seconds=600)
    assert all(80 <= limit <= 160 for limit in limits[300:])
    assert by_answers(Pace(4, 4), room=100, seconds=100)[-1] == 4

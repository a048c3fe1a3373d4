"""The window: bounded, each row once, prefixes kept together, long rows not left for the end."""

from collections import Counter
from itertools import pairwise
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_server import row
from ropeway.batch.rows import Row
from ropeway.batch.sending import queue
from ropeway.batch.sending.queue import Window


def window(rows=(), *, close: bool = True, **options) -> Window:
    made = Window(options.pop("most_rows", 10**6), options.pop("most_bytes", 10**9), **options)
    made.add(rows)
    if close:
        made.close()
    return made


def drain(made: Window, replicas: int = 1, now: float = 0.0) -> list[list[Row]]:
    """Let replicas take rows in turns until there is none."""
    taken: list[list[Row]] = [[] for _ in range(replicas)]
    while True:
        before = sum(map(len, taken))
        for replica in range(replicas):
            if (one := made.take(replica, now)) is not None:
                taken[replica].append(one)
        if sum(map(len, taken)) == before:
            return taken


def ordinals(rows: list[Row]) -> list[int]:
    return [one.ordinal for one in rows]


def test_without_prefixes_rows_go_in_their_order() -> None:
    assert ordinals(drain(window([row(n) for n in range(100)], close=False))[0]) == list(range(100))


def test_rows_that_share_a_prefix_go_together_and_to_one_replica() -> None:
    shuffled = [row(n, prefix=n * 7 % 16) for n in range(160)]
    taken = drain(window(shuffled, close=False), replicas=2)
    assert [len(rows) for rows in taken] == [80, 80]
    for rows in taken:
        prefixes = [one.prefix for one in rows]
        changes = sum(a != b for a, b in pairwise(prefixes))
        assert changes == len(set(prefixes)) - 1
    assert {one.prefix for one in taken[0]} & {one.prefix for one in taken[1]} == set()


def test_a_prefix_that_comes_again_goes_where_it_was_read() -> None:
    made = window([row(0, prefix=7), row(1, prefix=8)], close=False)
    assert drain(made, 2) == [[row(0, prefix=7)], [row(1, prefix=8)]]
    made.add([row(2, prefix=8), row(3, prefix=7)])
    assert drain(made, 2) == [[row(3, prefix=7)], [row(2, prefix=8)]]
    made.forget(0)
    made.add([row(4, prefix=7)])
    assert made.take(1, 0.0) == row(4, prefix=7)
    made.add([row(5, prefix=7), row(6, prefix=9), row(7, prefix=9)])
    assert drain(made, 2) == [[row(6, prefix=9), row(7, prefix=9)], [row(5, prefix=7)]]


def test_an_idle_replica_takes_whole_groups_from_another() -> None:
    made = window([row(n, prefix=n % 4) for n in range(40)], close=False)
    first = [made.take(0, 0.0) for _ in range(40 - 10)]  # replica 0 has read all but one
    made.add([row(n, prefix=n % 3) for n in range(60, 120)])
    assert {one.prefix for one in first if one} == {0, 1, 2}
    taken = drain(made, 2)
    assert [len(rows) for rows in taken] == [35, 35]
    moved = Counter(one.prefix for one in taken[1])
    assert moved[3] == 10
    (stolen,) = (prefix for prefix, count in moved.items() if count == 20)  # as a whole
    made.add([row(200, prefix=stolen), row(201, prefix=10), row(202, prefix=11)])
    taken = drain(made, 2)
    assert row(200, prefix=stolen) in taken[1]


def test_all_replicas_work_on_a_prefix_that_every_row_has() -> None:
    taken = drain(window([row(n, prefix=1) for n in range(90)], close=False), replicas=3)
    assert [len(rows) for rows in taken] == [30, 30, 30]


def test_a_window_has_room_up_to_its_rows_and_bytes() -> None:
    made = Window(10, 10**9)
    made.add(row(n) for n in range(9))
    assert made.room
    made.add([row(9)])
    assert not made.room
    made.take(0, 0.0)
    assert made.room


@pytest.mark.parametrize("dedupe", [False, True])
def test_what_is_in_flight_takes_bytes_until_it_has_its_outcome(dedupe: bool) -> None:
    made = Window(10**6, 1000, dedupe=dedupe)
    large = row(0, "x" * 2000)
    made.add([large, row(1, "x" * 2000)])
    assert not made.room
    assert made.take(0, 0.0) == large
    made.later(large, 1.0)
    assert made.take(0, 2.0) == large
    assert not made.room
    twins = made.settle(large)
    if not dedupe:
        other = made.take(0, 0.0)
        assert other is not None
        assert not made.room
        assert made.settle(other) == twins == []
    assert (made.room, len(made), len(twins)) == (1000, 0, int(dedupe))


def test_what_waits_to_be_sent_again_takes_room_too() -> None:
    made = Window(2, 10**9)
    made.later(row(0), 5.0)
    made.suspect(row(1))
    assert not made.room
    assert made.take(0, 0.0, suspects=False) is None
    assert made.take(0, 5.0, suspects=False) == row(0)
    assert made.take(0, 5.0) == row(1)


def test_a_row_that_comes_back_goes_in_front() -> None:
    made = window([row(n) for n in range(3)])
    first = made.take(0, 0.0)
    assert first is not None
    made.give_back(first)
    assert made.take(1, 0.0) == first


def test_the_tail_is_short() -> None:
    # One row is as long as a hundred others: begun last, all would wait for it alone.
    rows = [row(n, prefix=n % 5, tokens=10) for n in range(500)]
    rows[250] = row(250, prefix=4, tokens=1000)
    made = window(rows)
    made.slots = 4
    at = ordinals(drain(made)[0]).index(250)
    left = sum(one.tokens for one in rows) - 10 * at
    assert 900 * 4 <= left <= 1010 * 4


def test_groups_are_kept_until_the_tail() -> None:
    rows = [row(n, prefix=n * 7 % 16, tokens=10 + n % 3) for n in range(480)]
    made = window(rows)
    made.slots = 8
    prefixes = [one.prefix for one in drain(made)[0]][:-16]
    changes = sum(a != b for a, b in pairwise(prefixes))
    assert changes <= 15


def test_in_the_tail_the_longest_go_first() -> None:
    rows = [row(n, tokens=10 + n) for n in range(8)]
    made = window(rows)
    made.slots = 8
    assert ordinals(drain(made)[0]) == [7, 6, 5, 4, 3, 2, 1, 0]


@pytest.mark.parametrize("dedupe", [False, True])
def test_the_same_request_waits_for_the_one_that_is_sent(dedupe: bool) -> None:
    made = window([row(n, f"p{n % 2}") for n in range(6)], dedupe=dedupe)
    taken = drain(made)[0]
    assert len(taken) == (2 if dedupe else 6)
    followers = [made.settle(one) for one in taken]
    if dedupe:
        assert [ordinals(rows) for rows in followers] == [[2, 4], [3, 5]]
    assert len(made) == 0
    made.add([row(9, "p0")])
    assert len(drain(made)[0]) == 1


def test_the_same_body_to_another_path_is_another_request() -> None:
    one, other = row(0, "p"), row(1, "p")
    other = Row(1, other.name, "/v1/chat/completions", other.body, 1, 10)
    assert len(drain(window([one, other], dedupe=True))[0]) == 2


MOVES = st.lists(
    st.tuples(
        st.sampled_from(["add", "take", "back", "later", "suspect", "forget", "close"]),
        st.integers(0, 2),
        st.integers(1, 50),
    ),
    max_size=60,
)


@given(MOVES, st.integers(1, 20), st.sampled_from([1, 2, 65536]))
def test_whatever_happens_each_row_is_sent_and_none_twice(moves, slots, owners) -> None:
    with patch.object(queue, "_MOST_OWNERS", owners):
        check_moves(moves, slots)


def check_moves(moves: list[tuple[str, int, int]], slots: int) -> None:
    made, count, flying = Window(10**6, 10**9), 0, []
    made.slots = slots
    for now, (move, replica, tokens) in enumerate(moves):
        if move == "add" and not made.exhausted:
            made.add(row(count + n, prefix=n % 3, tokens=tokens) for n in range(4))
            count += 4
        elif move == "take":
            if (one := made.take(replica, now)) is not None:
                flying.append(one)
        elif move == "forget":
            made.forget(replica)
        elif move == "close":
            if not made.exhausted:
                made.close()
        elif flying:
            one = flying.pop(0)
            if move == "back":
                made.give_back(one)
            elif move == "later":
                made.later(one, now + tokens)
            else:
                made.suspect(one)
        assert len(made) + len(flying) == count
    if not made.exhausted:
        made.close()
    done = [*flying, *(one for rows in drain(made, 3, now=10**6) for one in rows)]
    assert sorted(ordinals(done)) == list(range(count))
    assert len(made) == 0

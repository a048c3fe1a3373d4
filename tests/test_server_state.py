"""Figures of what the server said of itself during a run, and why they are what they are."""

from dataclasses import replace
from typing import Any

import pytest

from ropeway.bench.causes import causes
from ropeway.bench.figures import Bounds, Level, ServerState, Steady, Summary
from ropeway.bench.load_test import LoadTest
from ropeway.bench.samples import HostNpus, NpuSample, Sample, Seen
from ropeway.bench.server_state import server_state
from ropeway.bench.stats import summarise
from ropeway.endpoint.metrics import Histogram
from timings import timing

# 100 requests of 10 tokens in 10 seconds, the first token of each after 0.5 s.
SUMMARY = summarise(
    [timing(n / 10, n / 10 + 0.5, n / 10 + 0.9, 10) for n in range(92)],
    LoadTest(input_tokens=10, output_tokens=10, clients=9, requests=92),
)
IDLE = {"running": 0.0, "waiting": 0.0, "kv_use": 0.0, "kv_fullest": 0.0}


def sample(
    at: float, running: float, waiting: float, kv: float | None = 0.5, **more: Any
) -> Sample:
    levels = {"running": running, "waiting": waiting, "kv_use": kv, "kv_fullest": kv}
    return Sample(at=at, **{"took_s": 0.01, "engines": 1, **levels, **more})


def during(*levels: tuple[float, float, float | None]) -> list[Sample]:
    """Return samples of a second each, after one of an engine that has nothing to do."""
    inside = [sample(n + 0.5, *each) for n, each in enumerate(levels)]
    return [Sample(at=-0.05, took_s=0.01, engines=1, **IDLE), *inside]


def why(samples: list[Sample], summary: Summary = SUMMARY, **state: Any) -> list[str]:
    return [str(cause) for cause in causes(samples, ServerState(**state), summary)]


def in_flight(clients: float, **more: Any) -> Summary:
    return replace(SUMMARY, concurrency=clients, steady=None, **more)


FIRST = Histogram(50, 10.0, ((0.1, 20), (1.0, 50), (10.0, 50)))
LAST = Histogram(142, 51.4, ((0.1, 22), (1.0, 140), (10.0, 141)))
COUNTED = [
    Sample(at=-0.02, engines=1, **IDLE, preemptions=3, generation_tokens=500, prompt_tokens=1000,
           prefix_queries=1000, prefix_hits=900, ttft=FIRST),
    sample(1.0, 4, 0, 0.2, preemptions=3, generation_tokens=600),
    sample(2.0, 8, 2, 0.4, preemptions=5, generation_tokens=700),
    sample(3.0, 6, 1, 0.3, preemptions=5, generation_tokens=800),
    Sample(at=10.1, engines=1, **IDLE, preemptions=7, generation_tokens=1420, prompt_tokens=1920,
           prefix_queries=1920, prefix_hits=1130, ttft=LAST),
]  # fmt: skip


def test_levels_are_of_the_run_and_counts_from_before_it_to_after_it() -> None:
    state = server_state(Seen(samples=COUNTED), SUMMARY)
    assert (state.asked, state.samples, state.engines, state.not_told) == (5, 5, 1, None)
    assert (state.running, state.waiting) == (Level(6, 8), Level(1, 2))
    assert state.kv_use == Level(0.3, 0.4)
    assert (state.preemptions, state.prompt_tokens, state.generation_tokens) == (4, 920, 920)
    assert state.generation_tokens_per_s == pytest.approx(SUMMARY.output_tokens_per_s)
    assert state.prefix_hits == pytest.approx(230 / 920)
    assert state.notes == ()


def test_the_engines_own_ttft_stands_beside_ours() -> None:
    ttft = server_state(Seen(samples=COUNTED), SUMMARY).ttft
    assert ttft is not None
    assert (ttft.requests, ttft.mean_s) == (92, pytest.approx(0.45))
    # 2 within 0.1 s, 90 within 1 s, 91 within 10 s.
    assert (ttft.p50_s, ttft.p99_s) == (Bounds(0.1, 1.0), Bounds(10.0, None))
    assert ttft.between_s == pytest.approx(0.05)


def test_the_run_is_from_its_first_request_to_its_last_end_wherever_that_is() -> None:
    late = replace(SUMMARY, begins_s=4.0)
    idle = [Sample(at=float(at), engines=1, **IDLE) for at in range(5)]
    busy = [sample(float(at), 8, 2) for at in (*range(5, 10), 12, 13)]
    end = Sample(at=14.5, engines=1, **IDLE)
    npus = [
        NpuSample(at=at, hosts=(HostNpus(host="a", aicore=(use,)),))
        for at, use in ((2.0, 0), (6.0, 70), (13.0, 90), (15.0, 0))
    ]
    samples = [*idle, *busy, end]
    state = server_state(Seen(samples=samples, npus=npus), late)
    assert (state.running, state.waiting) == (Level(8, 8), Level(2, 2))
    assert state.npus[0].aicore == Level(pytest.approx(0.8), 0.9)
    assert state.notes == ()
    assert not any("idle" in cause for cause in why(samples, replace(late, steady=None)))
    early = server_state(Seen(samples=samples[:-1]), late)
    assert "no counts of it" in early.notes[0], "the last answer came before the end"


def test_ttft_of_other_requests_is_not_compared_with_ours() -> None:
    ttft = server_state(Seen(samples=COUNTED), replace(SUMMARY, completed=80)).ttft
    assert ttft is not None
    assert ttft.between_s is None


def test_an_engine_that_was_started_again_has_no_counts() -> None:
    again = [*COUNTED[:-1], replace(COUNTED[-1], generation_tokens=100.0)]
    state = server_state(Seen(samples=again), SUMMARY)
    assert (state.preemptions, state.generation_tokens, state.ttft) == (None, None, None)
    assert state.notes == ("an engine was started again during the run: its counts are not told",)
    assert state.running == Level(6, 8)


@pytest.mark.parametrize("missing", [0, -1])
def test_without_an_answer_from_before_or_after_the_run_there_are_no_counts(missing: int) -> None:
    samples = [*COUNTED]
    samples[missing] = Sample(at=samples[missing].at, missed="no answer within 5 s")
    state = server_state(Seen(samples=samples), SUMMARY)
    assert (state.preemptions, state.prefix_hits, state.ttft) == (None, None, None)
    assert state.notes == (
        "1 of 5 times the engine's figures were not there: no answer within 5 s",
        "the engine did not answer right before and after the run: no counts of it",
    )
    assert (state.asked, state.samples) == (5, 4)


def test_what_is_not_told_is_not_zero() -> None:
    state = server_state(Seen(not_told="it has no `/metrics` of vLLM's"), SUMMARY)
    assert state == ServerState(not_told="it has no `/metrics` of vLLM's")
    bare = [Sample(at=at, running=1.0, waiting=0.0, engines=1) for at in (-0.1, 1, 2, 3, 11)]
    state = server_state(Seen(samples=bare), SUMMARY)
    assert (state.running, state.kv_use) == (Level(1, 1), None)
    assert (state.preemptions, state.generation_tokens_per_s, state.prefix_hits) == (
        None, None, None
    )  # fmt: skip


def npus(at: float, *aicore: int | None, missed: str | None = None) -> NpuSample:
    use = tuple(0.9 for _ in aicore)
    one = HostNpus(host="host1", aicore=aicore, hbm_use=use, missed=missed)
    return NpuSample(at=at, hosts=(one, HostNpus(host="host2", missed="no route")))


def test_the_use_of_npus_is_of_those_that_work() -> None:
    seen = [npus(1, 40, 60, 0, None), npus(6, 80, 100, 0, 0), npus(7, missed="slow")]
    seen.append(npus(99, 0, 0, 0, 0))  # after the run
    one, two = server_state(Seen(npus=seen), SUMMARY).npus
    assert (one.host, one.npus, one.working) == ("host1", 4, 2)
    assert (one.aicore, one.hbm_use) == (Level(0.7, 1.0), 0.9)
    assert (one.samples, one.asked, one.missed) == (2, 3, "slow")
    assert (two.npus, two.working, two.aicore, two.samples, two.missed) == (
        0, 0, None, 0, "no route"
    )  # fmt: skip


def test_npus_that_do_nothing_are_told_as_such() -> None:
    (one, _) = server_state(Seen(npus=[npus(1, 0, 0)]), SUMMARY).npus
    assert (one.npus, one.working, one.aicore) == (2, 0, None)


FULL = "on average 60 requests waited in the engine: its KV cache was full (97%)"


@pytest.mark.parametrize(
    ("levels", "cause"),
    [
        ([(190, 50, 0.97), (160, 60, 0.96), (120, 70, 0.98)], FULL),
        (
            [(64, 50, 0.4), (64, 60, 0.5), (63, 70, 0.6)],
            "on average 60 requests waited in the engine: it runs at most 64 at once"
            " (`--max-num-seqs`, in a spec `serve.max_sequences`), for no more ran while others"
            " waited, with the KV cache 50% full",
        ),
        (
            [(64, 50, 0.97), (64, 60, 0.96), (64, 70, 0.98)],
            "on average 60 requests waited in the engine: no more than 64 ran, with the KV cache"
            " 97% full; either may be the limit",
        ),
        (
            [(20, 50, 0.4), (64, 60, 0.5), (36, 70, 0.6)],
            "on average 60 requests waited in the engine while 40 ran: neither a full KV cache"
            " (50%) nor a fixed number of requests held them back",
        ),
        (
            [(64, 50, None), (64, 60, None), (64, 70, None)],
            "on average 60 requests waited in the engine, and no more than 64 ran; how full its"
            " KV cache was is not told",
        ),
        (
            [(20, 50, None), (64, 60, None), (36, 70, None)],
            "on average 60 requests waited in the engine while 40 ran; how full its KV cache was is"
            " not told",
        ),
    ],
)
def test_what_requests_waited_for_is_said(levels, cause: str) -> None:
    assert why(during(*levels), in_flight(120)) == [cause]


def test_of_several_engines_the_fullest_counts() -> None:
    levels = [(190.0, 50.0, 0.6), (160.0, 60.0, 0.6), (120.0, 70.0, 0.6)]
    samples = [replace(one, engines=4, kv_fullest=0.97) for one in during(*levels)]
    assert why(samples, in_flight(200)) == [
        "on average 60 requests waited in the engines: the KV cache of the fullest of 4 was full"
        " (97%)"
    ]


def test_a_queue_is_looked_for_where_the_load_was_steady() -> None:
    """The opening burst waits in any engine."""
    levels = [(9, 90, 0.2), (9, 50, 0.2), (9, 0, 0.2), (9, 0, 0.2), (9, 0, 0.2), (9, 0, 0.2)]
    steady = Steady(2.0, 8.0, 50, 90.0, 10.0, 9.0, None, None, None)
    inside = "no request waited in the engine, which ran 9 on average"
    (cause,) = why(during(*levels), replace(SUMMARY, steady=steady))
    assert cause.startswith(inside)
    assert not any(inside in cause for cause in why(during(*levels), in_flight(20)))


def test_a_few_that_wait_between_two_steps_are_no_queue() -> None:
    levels = [(200, 0, 0.5), (196, 4, 0.5), (196, 4, 0.5), (200, 0, 0.5)]
    assert why(during(*levels), in_flight(200)) == []


def test_too_few_samples_say_nothing() -> None:
    assert why(during((64, 60, 0.97), (64, 60, 0.97)), in_flight(124)) == []
    assert why([], in_flight(124)) == []


def test_requests_in_flight_that_are_not_in_the_engine_are_said() -> None:
    levels = [(20, 0, 0.2), (30, 0, 0.2), (10, 0, 0.2)]
    (cause,) = why(during(*levels), in_flight(64))
    assert cause.startswith("of 64 requests in flight 20 were in the engine on average: the others")


def test_an_idle_engine_is_blamed_on_the_load_only_where_little_was_in_flight() -> None:
    levels = [(0, 0, 0.0), (1, 0, 0.1), (0, 0, 0.0), (1, 0, 0.1), (1, 0, 0.1)]
    little, much = in_flight(0.62, due_per_s=1.0), in_flight(40, due_per_s=1.0)
    assert why(during(*levels), little) == [
        "the engine was idle in 40% of the samples: the load was too small for it"
        " (0.62 requests in flight on average)"
    ]
    elsewhere, idle = why(during(*levels), much)
    assert elsewhere.startswith("of 40 requests in flight 1 were in the engine")
    assert idle == "the engine was idle in 40% of the samples"


def test_an_engine_with_room_is_said_where_clients_set_the_pace() -> None:
    levels = [(8, 0, 0.2), (9, 0, 0.3), (9, 0, 0.3)]
    assert why(during(*levels), in_flight(9)) == [
        "no request waited in the engine, which ran 9 on average with its KV cache at most 30%"
        " full: more clients may get more tokens/s from it"
    ]
    assert why(during(*levels), in_flight(9, due_per_s=10.0)) == []
    unknown = [(8, 0, None), (9, 0, None), (9, 0, None)]
    assert why(during(*unknown), in_flight(9)) == []


def test_a_front_end_that_answers_late_is_said() -> None:
    levels = [(9, 0, 0.95), (9, 0, 0.95), (9, 0, 0.95)]
    samples = [replace(one, took_s=0.8 if one.at > 0 else 0.004) for one in during(*levels)]
    (cause,) = why(samples, in_flight(9))
    assert cause.startswith("`/metrics` took 800.0 ms to answer under the load, and 4.0 ms before")
    assert why([replace(one, took_s=0.8) for one in samples], in_flight(9)) == [], "it is far away"


def test_preemptions_others_and_the_prefix_cache_are_said_of_counts_alone() -> None:
    ours = SUMMARY.output_tokens
    assert why([], preemptions=480, generation_tokens=2 * ours, prefix_hits=0.36) == [
        "the engine preempted 480 times: it let in more than its KV cache can hold, and computes"
        " again what it threw out",
        "the engine generated 1,840 tokens, of which 920 were for us: others used it at the same"
        " time",
        "36% of the tokens of prompts were in the prefix cache, and were not computed",
    ]
    assert why([], preemptions=0, generation_tokens=ours, prefix_hits=0.01) == []
    lost = replace(SUMMARY, unfinished=4)
    assert why([], lost, generation_tokens=2 * ours) == [], "they may be of what was cut off"
    assert why([], replace(SUMMARY, counted=False), generation_tokens=2 * ours) == []

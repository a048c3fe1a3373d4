"""benchmarks/bench_engine.py, which sets `ropeway bench` beside `vllm bench serve`."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from bench_engine import (
    OURS,
    THEIRS,
    Own,
    Run,
    case_of,
    engine_ttft,
    faults,
    off_by,
    run_of_vllm,
    table,
    ttft_table,
    with_ropeway,
)
from fake_endpoint import Behaviour, FakeEndpoint, running

from ropeway.bench.load_test import LoadTest
from ropeway.endpoint.metrics import Histogram

LOAD = LoadTest(input_tokens=16, output_tokens=8, clients=1, requests=10)
OWN = Own(0.0004, 0.002, 0.001, 0.05, 0.1, ())
RUN = Run(10, 160, 80, 100.0, 0.05, 0.01, 10, 0.047, own=OWN)
OTHER = replace(RUN, tokens_per_s=96.0, ttft_s=0.1, engine_ttft_s=0.09, own=None)


def metrics(fake: FakeEndpoint) -> str:
    """What vLLM says: half a second for each request that it was ever asked."""
    count = len(fake.requests)
    return (
        "vllm:num_requests_running 0\nvllm:num_requests_waiting 0\n"
        f"vllm:time_to_first_token_seconds_count {count}\n"
        f"vllm:time_to_first_token_seconds_sum {count / 2}\n"
    )


@pytest.mark.real_time
def test_ropeway_bench_sends_what_the_other_one_reads_in_the_same_order(tmp_path: Path) -> None:
    with running(Behaviour(models=("m",), ttft_s=0.01, tpot_s=0.001), metrics) as fake:
        case = case_of(fake.url.removesuffix("/v1"), LOAD, tmp_path)
        fake.requests = []
        run = with_ropeway(case)
        assert engine_ttft(case.url).count == 11
    theirs = [json.loads(line)["prompt"] for line in case.files[THEIRS].read_text().splitlines()]
    sent = fake.requests[1:]  # the first one asks whether it answers
    assert [body["messages"] for body in sent] == [
        [{"role": "user", "content": prompt}] for prompt in theirs
    ]
    assert len({*theirs}) == 10
    assert {(body["max_tokens"], body["temperature"], body["ignore_eos"]) for body in sent} == {
        (8, 0.0, True)
    }
    assert faults({OURS: run, THEIRS: replace(OTHER, prompt=run.prompt)}, LOAD) == []
    assert run.engine_ttft_s == pytest.approx(0.5)
    assert run.own is not None
    assert run.own.ttft_p99_s > 0


def test_the_engines_own_ttft_is_that_of_the_requests_meanwhile() -> None:
    figures = {
        "completed": 10, "total_input_tokens": 160, "total_output_tokens": 80,
        "output_throughput": 96.0, "mean_ttft_ms": 100.0, "mean_tpot_ms": 10.0,
    }  # fmt: skip
    before, after = Histogram(40, 30.0, ()), Histogram(50, 30.9, ())
    run = run_of_vllm(figures, before, after)
    assert run == replace(OTHER, engine_ttft_s=pytest.approx(0.09))
    assert run.between_s == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"requests": 9}, "9 of 10 requests were answered"),
        ({"answer": 79}, "the answers have 79 tokens"),
        ({"engine_requests": 11}, "the engine had 11 requests meanwhile"),
        ({"cached": True}, "in a prefix cache"),
        ({"prompt": 170}, "different lengths"),
    ],
)
def test_runs_of_other_loads_are_not_compared(change: dict[str, int], said: str) -> None:
    assert faults({OURS: RUN, THEIRS: OTHER}, LOAD) == []
    for pair in (
        {OURS: replace(RUN, **change), THEIRS: OTHER},
        {OURS: RUN, THEIRS: replace(OTHER, **change)},
    ):
        [fault] = faults(pair, LOAD)
        assert said in fault


def test_the_tables_have_medians_and_ranges_of_the_rounds() -> None:
    rounds = [
        {OURS: replace(RUN, tokens_per_s=speed), THEIRS: replace(OTHER, tokens_per_s=100.0)}
        for speed in (90.0, 104.0, 102.0)
    ]
    assert off_by(rounds) == pytest.approx(0.02)
    lines = table(rounds).splitlines()
    assert lines[2] == "| output tokens/s | 102.0 | 100.0 | 1.020 (0.900 to 1.040) |"
    assert lines[3] == "| mean TTFT, ms | 50.0 | 100.0 | 0.500 (0.500 to 0.500) |"
    ours, theirs = ttft_table(rounds).splitlines()[2:]
    assert ours == f"| `{OURS}` | 50.0 | 47.0 | 3.0 (3.0 to 3.0) | 0.4 / 2.0 | 1.0 |"
    assert theirs == f"| `{THEIRS}` | 100.0 | 90.0 | 10.0 (10.0 to 10.0) | not told | not told |"

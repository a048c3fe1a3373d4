"""Reading what engines say of themselves."""

import importlib.util
from pathlib import Path

import pytest

from engine_metrics import histogram, metrics
from ropeway.endpoint.metrics import _NAMES, Histogram, Reading, read_metrics, together

TWO = b"""# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m {x} 7"} 60.0
vllm:num_requests_running{engine="1",model_name="m"} 64.0
vllm:num_requests_waiting{engine="0",model_name="m"} 3.0
vllm:num_requests_waiting{engine="1",model_name="m"} 0.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 3.0
vllm:num_preemptions_total{engine="0",model_name="m"} 1.2e+01
vllm:num_preemptions_created{engine="0",model_name="m"} 1.7e+09
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.5
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 1e-05
"""


def test_the_figures_of_all_engines_of_a_server_are_put_together() -> None:
    reading = read_metrics(TWO)
    assert reading is not None
    assert (reading.running, reading.waiting, reading.preemptions) == (124, 3, 12)
    assert reading.engines == 2
    assert (reading.kv_use, reading.kv_fullest) == (pytest.approx(0.250005), 0.5)
    assert (reading.generation_tokens, reading.prefix_hits, reading.ttft) == (None, None, None)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"<html>",
        b"vllm:num_requests_running 1",
        b"vllm:num_requests_running 1e1e1\n",
        b"vllm:num_requests_running 1\nvllm:num_requests_waiting 1e309\n",
        b"vllm:num_requests_running 1e309\nvllm:num_requests_waiting 1\n",
        b"vllm:num_requests_running -1\nvllm:num_requests_waiting 1\n",
        b"vllm:num_requests_running NaN\nvllm:num_requests_waiting 1\n",
        b"vllm:num_requests_waiting 1\n" + 2 * b"vllm:num_requests_running 1e308\n",
        b"ropeway_router_in_flight 3\nsglang:num_running_reqs 1\n",
    ],
)
def test_a_server_without_them_has_none(text: bytes) -> None:
    assert read_metrics(text) is None


def test_the_name_of_a_newer_release_goes_before_an_older_one_and_is_not_added_to_it() -> None:
    text = metrics(1, 0, kv=None, queries=100, hits=40, ttfts=None)
    old = text.replace("vllm:prefix_cache", "vllm:gpu_prefix_cache")
    old += "vllm:gpu_cache_usage_perc 0.25\n"
    reading = read_metrics(old.encode())
    assert reading is not None
    assert (reading.prefix_queries, reading.prefix_hits, reading.kv_use) == (100, 40, 0.25)
    both = read_metrics((old + metrics(0, 0, kv=0.5, queries=8, hits=2, ttfts=None)).encode())
    assert both is not None
    assert (both.prefix_queries, both.prefix_hits, both.kv_use) == (8, 2, 0.5)


def test_one_figure_that_is_none_leaves_the_others() -> None:
    text = metrics(1, 2, kv=1.5) + "vllm:num_preemptions_total nan\n"
    reading = read_metrics(text.encode())
    assert reading is not None
    assert (reading.kv_use, reading.kv_fullest, reading.preemptions) == (None, None, None)
    assert (reading.running, reading.waiting, reading.generation_tokens) == (1, 2, 0)


def test_the_distribution_of_ttft_is_that_of_all_engines() -> None:
    lines = histogram([0.05, 0.5], 'engine="0"') + histogram([0.05, 50.0], 'engine="1"')
    reading = read_metrics((metrics(1, 0, ttfts=None) + "\n".join(lines)).encode())
    assert reading is not None
    buckets = ((0.001, 0), (0.01, 0), (0.1, 2), (1.0, 3), (10.0, 3))
    assert reading.ttft == Histogram(4, pytest.approx(50.6), buckets)


def test_several_servers_are_as_one() -> None:
    readings = [
        read_metrics(metrics(3, 1, kv=0.2, preemptions=2, ttfts=[0.05]).encode()),
        read_metrics(TWO),
    ]
    known = [reading for reading in readings if reading is not None]
    both = together(known)
    assert (both.running, both.waiting, both.preemptions, both.engines) == (127, 4, 14, 3)
    assert (both.kv_use, both.kv_fullest) == (pytest.approx((0.2 + 0.5) / 3, abs=1e-4), 0.5)
    assert (both.generation_tokens, both.ttft) == (None, None), "one of them does not tell"
    twice = together([known[0], known[0]])
    assert twice.ttft == Histogram(2, 0.1, ((0.001, 0), (0.01, 0), (0.1, 2), (1.0, 2), (10.0, 2)))
    assert together([Reading(1, 2)]) == Reading(1, 2)


def test_the_names_are_those_of_the_vllm_that_is_installed() -> None:
    found = importlib.util.find_spec("vllm")
    if found is None or found.origin is None:
        pytest.skip("vLLM is not installed")
    text = (Path(found.origin).parent / "v1" / "metrics" / "loggers.py").read_text()
    for newest, *_ in _NAMES.values():
        # The client of Prometheus adds what kind of series it is.
        name = newest.removesuffix("_total").removesuffix("_bucket")
        name = name.removesuffix("_sum").removesuffix("_count")
        assert f'name="vllm:{name}"' in text, newest

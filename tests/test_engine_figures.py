"""What the real engine says of itself during a load test agrees with what is measured of it."""

from pathlib import Path

import pytest

from engine_metrics import kept_samples
from json_documents import read_document
from local_cluster import ropeway, served

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

LOAD = ("--clients", "24", "--requests", "384", "--input-tokens", "64", "--output-tokens", "64")
FOUR_AT_ONCE = "  max_sequences: 4\n"


def test_two_engines_of_one_server_are_told_together(tmp_path: Path) -> None:
    with served(tmp_path, "tiny-qwen3-moe", "DP2", npus=1, more=FOUR_AT_ONCE):
        done = ropeway("bench", *LOAD, "--json", "--out", "r", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    document = read_document(done.stdout)
    server, summary = document["server"], document["summary"]
    assert (server["not_told"], server["notes"], server["engines"]) == (None, [], 2)
    assert server["generation_tokens"] == summary["output_tokens"] == 384 * 64
    assert server["prompt_tokens"] == summary["input_tokens"]
    assert (server["preemptions"], server["running"]["largest"]) == (0, 8)
    assert 0 < server["kv_use"]["largest"] < 0.9
    assert server["prefix_hits"] < 0.1, "no two prompts begin alike"
    ttft = server["ttft"]
    assert ttft["requests"] == 384
    assert ttft["p50_s"]["least"] <= ttft["mean_s"]
    assert 0 < ttft["between_s"] < ttft["mean_s"]
    assert any("it runs at most 8 at once" in cause for cause in server["causes"])
    samples = kept_samples(tmp_path / "r")
    assert samples[0].at <= 0 and samples[0].running == 0

"""How much of what `ropeway bench` measures is `ropeway bench` itself?

The load generator runs in this process, against the fake endpoint in another one. The endpoint
records when it sent the first and the last token of each request, on the same monotonic clock, so
that the two records can be compared. Takes less than a minute:

    python benchmarks/load_generator.py
"""

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from running import conditions

from ropeway.bench.load_test import LoadTest
from ropeway.bench.prompts import WORDS, Recipe
from ropeway.bench.run import run_bench
from ropeway.bench.stats import quantile
from ropeway.endpoint.address import Endpoint

ENDPOINT = Path(__file__).with_name("fake_endpoint.py")
CLIENTS = 256
OUTPUT_TOKENS = 64
INPUT_TOKENS = 128
# (name, seconds to first token, seconds per token, requests per client)
PACES = (
    ("  2,560 tokens/s", 0.5, 0.100, 1),
    ("  5,120 tokens/s", 0.5, 0.050, 1),
    (" 10,240 tokens/s", 0.5, 0.025, 2),
    ("as fast as it can", 0.0, 0.0, 4),
)


@dataclass(frozen=True)
class Outcome:
    """One pace: what was offered, what was measured, what it cost. Milliseconds and shares."""

    tokens_per_s: float
    ttft_sent_ms: float
    ttft_measured_ms: float
    tpot_sent_ms: float
    tpot_measured_ms: float
    our_cpu: float
    endpoint_cpu: float


def main() -> None:
    """Run every pace and print one table."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    print(
        f"{CLIENTS} clients, {INPUT_TOKENS} words in, {OUTPUT_TOKENS} tokens out, one token per "
        f"event; {conditions()}\n"
        "“sent” is the endpoint's own record (median), “measured” is ours\n"
    )
    print(
        f"{'offered':<18}{'tokens/s':>10}{'TTFT sent':>11}{'measured':>9}{'TPOT sent':>11}"
        f"{'measured':>9}{'our CPU':>9}{'endpoint':>9}"
    )
    for name, ttft, tpot, rounds in PACES:
        outcome = measure(ttft, tpot, rounds)
        print(
            f"{name:<18}{outcome.tokens_per_s:>10.0f}"
            f"{outcome.ttft_sent_ms:>8.1f} ms{outcome.ttft_measured_ms:>6.1f} ms"
            f"{outcome.tpot_sent_ms:>8.2f} ms{outcome.tpot_measured_ms:>6.2f} ms"
            f"{outcome.our_cpu:>8.0%} {outcome.endpoint_cpu:>8.0%}",
            flush=True,
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"\npeak memory of the load generator: {peak:.0f} MiB")


def measure(ttft: float, tpot: float, rounds: int) -> Outcome:
    """One pace against a fresh endpoint."""
    argv = [sys.executable, str(ENDPOINT), "--port", "0"]
    argv += ["--ttft", str(ttft), "--tpot", str(tpot), "--capacity", str(CLIENTS)]
    endpoint = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    try:
        assert endpoint.stdout is not None
        return _measure(endpoint.stdout.readline().strip(), endpoint.pid, rounds)
    finally:
        endpoint.terminate()
        endpoint.wait()


def _measure(url: str, pid: int, rounds: int) -> Outcome:
    recipe = Recipe(INPUT_TOKENS, INPUT_TOKENS, WORDS, WORDS, exact=False)
    load = LoadTest(
        input_tokens=INPUT_TOKENS,
        output_tokens=OUTPUT_TOKENS,
        clients=CLIENTS,
        requests=CLIENTS * rounds,
        warmup=0,
        time_limit_s=12,
    )
    theirs, ours, started = _cpu_s(pid), time.process_time(), time.monotonic()
    result = asyncio.run(run_bench(Endpoint(url), "fake", load, recipe))
    took = time.monotonic() - started
    ours, theirs = time.process_time() - ours, _cpu_s(pid) - theirs
    served = _served(url)
    completed = [timing for timing in result.timings if timing.error is None]
    assert len(completed) == len(served), "the pace was not held within the time limit"
    tokens = sum(timing.output_tokens for timing in completed)
    return Outcome(
        tokens_per_s=tokens / result.duration_s,
        ttft_sent_ms=_median([row["first_sent"] - row["arrived"] for row in served]),
        ttft_measured_ms=_median([timing.ttft_s or 0 for timing in completed]),
        tpot_sent_ms=_median([_per_token(row) for row in served]),
        tpot_measured_ms=_median([timing.tpot_s or 0 for timing in completed]),
        our_cpu=ours / took,
        endpoint_cpu=theirs / took,
    )


def _per_token(row: dict[str, Any]) -> float:
    return float((row["last_sent"] - row["first_sent"]) / (row["tokens"] - 1))


def _median(seconds: list[float]) -> float:
    return quantile(sorted(seconds), 0.5) * 1000


def _served(url: str) -> list[dict[str, Any]]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url.removesuffix("/v1") + "/sim/served", timeout=10) as answer:
        rows: list[dict[str, Any]] = json.load(answer)
    return rows


def _cpu_s(pid: int) -> float:
    """CPU seconds that a process has used, user and system (fields 14 and 15 of proc(5) stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()

"""How much of what `ropeway bench` measures is `ropeway bench` itself, and what does it cost?

The endpoint is `raw_http.py`, in a process of its own on the same cores: it takes little of them,
and notes when it got each request and sent its tokens, by the clock that all processes share.

    python benchmarks/load_generator.py                  # all of it, ten minutes
    python benchmarks/load_generator.py --only paced streams

`unpaced` needs wrk, and `paced` compares with `vllm bench serve` where vLLM is installed.
"""

import argparse
import asyncio
import importlib.util
import json
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import raw_http
from running import ROPEWAY, conditions, vllm_bench

from ropeway.bench.record import read_timings
from ropeway.bench.stats import quantile

RAW = Path(__file__).with_name("raw_http.py")
CLIENTS, TOKENS = 256, 64
TPOT_S = 0.008
# Seconds per token of 256 streams: from little to some four fifths of what two cores send.
PACES_S = (0.1, 0.05, 0.025, 0.0125, 0.01)


@dataclass(frozen=True)
class Bench:
    """A run of `ropeway bench`: its document, its timings, its CPU seconds with its start."""

    document: dict[str, Any]
    timings: list[Any]
    cpu_s: float

    @property
    def summary(self) -> dict[str, Any]:
        """Its figures."""
        found: dict[str, Any] = self.document["summary"]
        return found


@contextmanager
def endpoint(*flags: str) -> Iterator[str]:
    """Serve; yields the URL without a path."""
    argv = [sys.executable, str(RAW), *flags]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            yield child.stdout.readline().strip()
        finally:
            child.terminate()


def bench(url: str, *flags: str, clients: int = CLIENTS, tokens: int = TOKENS) -> Bench:
    """Run `ropeway bench`, without a warm-up."""
    with tempfile.TemporaryDirectory() as folder:
        argv = [ROPEWAY, "bench", "--url", url, "--json", "--out", f"{folder}/run", "--warmup", "0"]
        argv += ["--clients", str(clients), "--output-tokens", str(tokens), *flags]
        cpu = _children_s()
        done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
        cpu = _children_s() - cpu
        if done.returncode:
            sys.exit(done.stdout + done.stderr)
        return Bench(
            json.loads(done.stdout), list(read_timings(Path(folder) / "run/timings.jsonl")), cpu
        )


def bench_of_vllm(url: str, requests: int) -> tuple[dict[str, float], float]:
    """Run `vllm bench serve` with the same load; return its figures, and its CPU seconds."""
    cpu = _children_s()
    figures = vllm_bench(
        url, "fake", "--dataset-name", "random", "--random-input-len", "128",
        "--random-output-len", str(TOKENS), "--num-prompts", str(requests),
        "--max-concurrency", str(CLIENTS),
    )  # fmt: skip
    return figures, _children_s() - cpu


def accuracy() -> None:
    """Compare our times with the endpoint's own, of each request."""
    print(f"{CLIENTS} clients, {TOKENS} tokens each; ms, p50 / p99\n")
    print("| tokens/s asked | TTFT sent | TTFT measured | per token sent | measured | late read |")
    print("|---:|---:|---:|---:|---:|---:|")
    for pace in PACES_S:
        with endpoint("--ttft", "0.2", "--tpot", str(pace), "--record") as url:
            run = bench(f"{url}/v1", "--requests", str(CLIENTS * 6))
            with urllib.request.urlopen(f"{url}/record") as answer:
                record = json.load(answer)
        theirs = [first - arrived for arrived, first, _, _ in record]
        per_token = [(last - first) / (count - 1) for _, first, last, count in record]
        ours = [timing.ttft_s for timing in run.timings]
        ours_per_token = [timing.tpot_s for timing in run.timings]
        late = run.document["own_share"]["read_late"]["p99"]
        cells = (_two(theirs), _two(ours), _two(per_token), _two(ours_per_token))
        print(f"| {CLIENTS / pace:,.0f} | {' | '.join(cells)} | {late * 1000:.1f} |", flush=True)


def paced() -> None:
    """Count requests/s of 256 streams of 125 tokens/s, and what they cost."""
    flags = ("--tpot", str(TPOT_S), "--record")
    print(f"{CLIENTS} streams of {TOKENS} tokens, one each {TPOT_S * 1000:.0f} ms\n")
    with endpoint(*flags) as url:
        began = time.monotonic()
        each = 12
        asyncio.run(raw_http.streams(url, CLIENTS, each, TOKENS))
        possible = CLIENTS * each / (time.monotonic() - began)
    print(f"a client that reads nothing: {possible:.0f} requests/s", flush=True)

    def ours(requests: int) -> tuple[float, float]:
        with endpoint(*flags) as url:
            run = bench(f"{url}/v1", "--requests", str(requests))
            with urllib.request.urlopen(f"{url}/record") as answer:
                record = json.load(answer)
        truth = sum(first - arrived for arrived, first, _, _ in record) / len(record)
        rate, ttft = run.summary["requests_per_s"], run.summary["ttft_s"]["mean"]
        print(
            f"ropeway bench: {rate:.0f} requests/s, {rate / possible:.2f} of it; mean TTFT"
            f" {ttft * 1000:.1f} ms where {truth * 1000:.1f} are true; doubts:"
            f" {run.document['doubts']}",
            flush=True,
        )
        return rate, run.cpu_s

    def vllms(requests: int) -> tuple[float, float]:
        with endpoint(*flags) as url:
            figures, cpu = bench_of_vllm(url, requests)
            with urllib.request.urlopen(f"{url}/record") as answer:
                record = json.load(answer)
        truth = sum(first - arrived for arrived, first, _, _ in record) / len(record)
        print(
            f"vllm bench serve: {figures['request_throughput']:.0f} requests/s; mean TTFT"
            f" {figures['mean_ttft_ms']:.1f} ms where {truth * 1000:.1f} are true",
            flush=True,
        )
        return figures["request_throughput"], cpu

    costs = {"ropeway bench": _cost(ours)}
    if importlib.util.find_spec("vllm"):
        costs["vllm bench serve"] = _cost(vllms)
    for name, cost in costs.items():
        print(f"{name}: {cost * 1000:.2f} ms of CPU a request, its start left out")


def unpaced() -> None:
    """Count requests/s of streams that come as fast as they can, beside wrk."""
    wrk = shutil.which("wrk")
    with endpoint("--tpot", "0") as url, tempfile.TemporaryDirectory() as folder:
        ratios = []
        for _ in range(3):
            run = bench(f"{url}/v1", "--requests", str(CLIENTS * 24))
            rate = run.summary["requests_per_s"]
            print(f"ropeway bench: {rate:.0f} requests/s", flush=True)
            if wrk:
                lua = Path(folder) / "post.lua"
                body = json.dumps({"model": "fake", "max_tokens": TOKENS, "stream": True})
                lua.write_text(f"wrk.method='POST' wrk.body=[[{body}]]")
                argv = [wrk, "-t1", f"-c{CLIENTS}", "-d8s", "-s", str(lua)]
                argv.append(f"{url}/v1/chat/completions")
                said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
                found = re.search(r"Requests/sec:\s+([\d.]+)", said)
                assert found is not None
                ratios.append(rate / float(found[1]))
                print(f"wrk: {found[1]} requests/s; {ratios[-1]:.2f} of it", flush=True)


def streams() -> None:
    """Follow 4,096 streams of ten tokens/s each."""
    with endpoint("--ttft", "0.5", "--tpot", "0.1") as url:
        run = bench(f"{url}/v1", "--requests", "8192", clients=4096)
    own = run.document["own_share"]
    print(
        f"4,096 streams: {run.summary['output_tokens_per_s']:,.0f} tokens/s; read late, ms:"
        f" p50 {own['read_late']['p50'] * 1000:.1f}, p99 {own['read_late']['p99'] * 1000:.1f};"
        f" {own['cpu']:.0%} of a core in the busiest of {own['processes']} processes",
        flush=True,
    )


def memory(requests: int) -> None:
    """Send very many short requests, and look at the memory of all of our processes."""
    with endpoint("--tpot", "0") as url, tempfile.TemporaryDirectory() as folder:
        argv = [ROPEWAY, "bench", "--url", f"{url}/v1", "--json", "--out", f"{folder}/run"]
        argv += ["--clients", "256", "--output-tokens", "1", "--input-tokens", "8"]
        child = subprocess.Popen(
            [*argv, "--requests", str(requests)], stdout=subprocess.PIPE, text=True, cwd=folder
        )
        sizes: list[str] = []
        record = Path(folder) / "run/timings.jsonl"

        def look() -> None:
            while child.poll() is None:
                time.sleep(5)
                done = record.stat().st_size if record.exists() else 0
                sizes.append(f"{done / 2**20:.0f} MiB written: {_resident(child.pid)}")

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        said, _ = child.communicate()
        thread.join()
        step = max(1, len(sizes) // 10)
        print("\n".join(sizes[::step]))
        summary = json.loads(said)["summary"]
        print(f"{summary['completed']:,} requests at {summary['requests_per_s']:,.0f} a second")


def _cost(run: Callable[[int], tuple[float, float]]) -> float:
    """Return CPU seconds a request: the difference of a long run and a short one."""
    few, many = CLIENTS, CLIENTS * 12
    _, small = run(few)
    _, large = run(many)
    return (large - small) / (many - few)


def _children_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _resident(pid: int) -> str:
    """Return the resident MB of a process and of those that it started."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        sizes = [
            int(Path(f"/proc/{one}/status").read_text().partition("VmRSS:")[2].split()[0]) // 1000
            for one in (pid, *children)
        ]
    except (OSError, IndexError):
        return "gone"
    return " + ".join(map(str, sizes)) + " MB"


def _two(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    return f"{quantile(ordered, 0.5) * 1000:.2f} / {quantile(ordered, 0.99) * 1000:.2f}"


PARTS: dict[str, Callable[[], None]] = {
    "accuracy": accuracy, "paced": paced, "unpaced": unpaced, "streams": streams,
}  # fmt: skip


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=[*PARTS, "memory"], default=[*PARTS, "memory"])
    parser.add_argument("--requests", type=int, default=1_000_000, help="of `memory`")
    args = parser.parse_args()
    print(conditions(), flush=True)
    for name in args.only:
        print(f"\n## {name}\n", flush=True)
        if name == "memory":
            memory(args.requests)
        else:
            PARTS[name]()


if __name__ == "__main__":
    main()

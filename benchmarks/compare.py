"""Does `ropeway compare` call noise a gain, and does it find an endpoint that is slower?

Two endpoints of `raw_http.py`, each in a process of its own, are compared in turns: equal ones, and
ones of which the second takes 5% longer for each token. All is on the same cores, so whatever else
runs on them is in the figures.

    python benchmarks/compare.py                    # 20 comparisons of each, a quarter of an hour
    python benchmarks/compare.py --times 5 --slower 0.03
    python benchmarks/compare.py --against          # the second beside a recorded run of the first
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from typing import Any

from load_generator import endpoint
from running import ROPEWAY, conditions

TTFT_S, TPOT_S = 0.05, 0.025
CLIENTS, REQUESTS, TOKENS = 8, 16, 40
# Of a run that is cut into rounds: ten waves more than these need.
_RECORDED_REQUESTS = 192


def compare(slower: float, rounds: int, clients: int, requests: int) -> dict[str, Any]:
    """Compare two endpoints, the second slower by a share; return the document."""
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        argv = [ROPEWAY, "compare", "--json", "--rounds", str(rounds), "--clients", str(clients)]
        argv += ["--requests", str(requests), "--output-tokens", str(TOKENS)]
        for by in (1.0, 1.0 + slower):
            flags = ("--ttft", str(TTFT_S * by), "--tpot", str(TPOT_S * by))
            argv += ["--url", f"{stack.enter_context(endpoint(*flags))}/v1"]
        done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def compare_with_run(slower: float, rounds: int, clients: int) -> dict[str, Any]:
    """Record a run of one endpoint, and compare another with it; return the document."""
    with tempfile.TemporaryDirectory() as folder:
        load = ["--clients", str(clients), "--requests", str(_RECORDED_REQUESTS), "--output-tokens"]
        with endpoint("--ttft", str(TTFT_S), "--tpot", str(TPOT_S)) as url:
            argv = [ROPEWAY, "bench", "-q", "--url", url, "--out", "before", *load, str(TOKENS)]
            subprocess.run(argv, cwd=folder, capture_output=True, check=True)
        by = 1.0 + slower
        with endpoint("--ttft", str(TTFT_S * by), "--tpot", str(TPOT_S * by)) as url:
            argv = [ROPEWAY, "compare", "--json", "--rounds", str(rounds), "--url", url]
            done = subprocess.run(
                [*argv, "--against", "before"], cwd=folder, capture_output=True, text=True,
                check=False,
            )  # fmt: skip
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def repeat(slower: float, args: argparse.Namespace) -> None:
    """Compare so many times, and print how often which verdict came."""
    name = f"the second {slower:.0%} slower" if slower else "a thing with itself"
    began = time.monotonic()
    headline: Counter[str] = Counter()
    each: Counter[tuple[str, str]] = Counter()
    found, doubted = [], 0
    for number in range(args.times):
        document = (
            compare_with_run(slower, args.rounds, args.clients)
            if args.against
            else compare(slower, args.rounds, args.clients, args.requests)
        )
        first, *_ = document["differences"]
        headline[first["verdict"]] += 1
        each.update((one["figure"], one["verdict"]) for one in document["differences"])
        if first["found_from"] is not None:
            found.append(first["found_from"])
        doubted += any(one["doubts"] for side in document["sides"] for one in side["rounds"])
        print(f"{name}, {number + 1}: {first['said']}", file=sys.stderr, flush=True)
    print(f"\n{name}, {args.times} times, {(time.monotonic() - began) / args.times:.0f} s each:")
    print(f"  output tokens/s: {dict(headline)}")
    print(f"  every figure: { {' '.join(key): count for key, count in sorted(each.items())} }")
    if found:
        found.sort()
        print(f"  would have been found: {found[0]:.1%} to {found[-1]:.1%}")
    print(f"  comparisons with a round in doubt: {doubted}", flush=True)


def main() -> None:
    """Measure, and print counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--requests", type=int, default=REQUESTS)
    parser.add_argument("--slower", type=float, nargs="*", default=[0.0, 0.05], help="shares")
    parser.add_argument("--against", action="store_true", help="one beside a recorded run")
    args = parser.parse_args()
    print(conditions(), flush=True)
    for slower in args.slower:
        repeat(slower, args)


if __name__ == "__main__":
    main()

"""Does `ropeway bench --find-max` find a limit that is known?

The endpoint is `raw_http.py` with slots: it answers so many requests at once, each for the same
time, and the others wait. So it can do slots ÷ time requests a second; how many of those keep a
bound on the whole time is computed by letting a million requests arrive in a model of it.

    python benchmarks/find_max.py                     # five searches of each, an hour
    python benchmarks/find_max.py --seeds 0 --only goals
"""

import argparse
import json
import math
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from running import ROPEWAY, conditions

RAW = Path(__file__).with_name("raw_http.py")
SLOTS, TTFT_S, TPOT_S, TOKENS = 16, 0.02, 0.02, 5
SERVICE_S = TTFT_S + TPOT_S * (TOKENS - 1)
GOAL_S, SHARE = 0.5, 0.99
# Requests of the model.
_MANY = 1_000_000
WITHIN = 0.05


def took(rate: float, count: int) -> Iterator[float]:
    """Yield how long each of `count` requests takes that arrive at a rate (Poisson)."""
    chance = random.Random(20)
    free = [0.0] * SLOTS
    now = 0.0
    for number in range(count):
        now += chance.expovariate(rate)
        # All take as long, so that slots become free in the order in which they were taken.
        slot = number % SLOTS
        free[slot] = max(now, free[slot]) + SERVICE_S
        yield free[slot] - now


def highest() -> float:
    """Return the highest rate at which so large a share keeps the goal, within a thousandth."""
    low, high = 0.5 * SLOTS / SERVICE_S, SLOTS / SERVICE_S
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        kept = sum(seconds <= GOAL_S for seconds in took(middle, _MANY))
        low, high = (middle, high) if kept >= SHARE * _MANY else (low, middle)
    return low


@contextmanager
def endpoint() -> Iterator[str]:
    """Serve; yields the URL."""
    argv = [sys.executable, str(RAW), "--slots", str(SLOTS)]
    argv += ["--ttft", str(TTFT_S), "--tpot", str(TPOT_S)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            yield f"{child.stdout.readline().strip()}/v1"
        finally:
            child.terminate()


def search(url: str, seed: int, *flags: str) -> dict[str, Any]:
    """Run `ropeway bench --find-max`; return its document."""
    with tempfile.TemporaryDirectory() as folder:
        argv = [ROPEWAY, "bench", "--url", url, "--json", "--out", f"{folder}/run", "--find-max"]
        argv += [
            "--seed",
            str(seed),
            "--output-tokens",
            str(TOKENS),
            "--input-tokens",
            "32",
            *flags,
        ]
        done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
        try:
            document: dict[str, Any] = json.loads(done.stdout)
        except ValueError:
            sys.exit(done.stdout + done.stderr)
        return document


def measure(name: str, truth: float, seeds: list[int], *flags: str) -> bool:
    """Search several times, and say how near to the truth each came."""
    print(f"\n## {name}: {truth:.1f} requests/s are true\n", flush=True)
    print("| seed | found | off by | confirmed | probes | minutes | doubts |")
    print("|---:|---:|---:|---|---:|---:|---|")
    near = 0
    for seed in seeds:
        began = time.monotonic()
        with endpoint() as url:
            document = search(url, seed, *flags)
        found = document["found"]
        minutes = (time.monotonic() - began) / 60
        rate = found["rate"] or 0.0
        off = rate / truth - 1
        near += abs(off) <= WITHIN and found["confirmed"]
        probes = len(document["rungs"]) - 2
        print(
            f"| {seed} | {rate:.1f} | {off:+.1%} | {'yes' if found['confirmed'] else 'no'} |"
            f" {probes} | {minutes:.1f} | {'; '.join(found['doubts'])} |",
            flush=True,
        )
    print(f"\n{near} of {len(seeds)} within {WITHIN:.0%}, and confirmed", flush=True)
    return near == len(seeds)


def main() -> None:
    """Search for what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("goals", "sustained"))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    args = parser.parse_args()
    print(conditions())
    print(f"{SLOTS} slots of {SERVICE_S * 1000:.0f} ms: {SLOTS / SERVICE_S:.0f} requests/s at most")
    good = []
    if args.only != "sustained":
        name = f"{SHARE:.0%} within {GOAL_S * 1000:.0f} ms"
        flags = ("--slo", f"e2e={GOAL_S * 1000:.0f}ms", "--slo-share", str(SHARE))
        good.append(measure(name, highest(), args.seeds, *flags))
    if args.only != "goals":
        good.append(measure("sustained", SLOTS / SERVICE_S, args.seeds))
    sys.exit(not all(good))


if __name__ == "__main__":
    main()

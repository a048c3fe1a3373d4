"""What each layout reaches, and what each of our choices in `sim/` brings: before against after.

Every line is one start, one client, then the median of load tests of the 382M MoE: in some runs
pipeline stages share requests unevenly, which costs a sixth. "Before" returns parts to stock
vLLM-CPU (`sim/plugin.py`); the lines of one layout run one after the other, under the same
conditions. A minute and a half for each line:

    python benchmarks/layouts.py                    # every layout as it is
    python benchmarks/layouts.py --before           # and with the stock parts, one by one
    python benchmarks/layouts.py TP2 DP2×TP2        # these layouts only
"""

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

from running import conditions, ropeway, service, write_spec

LAYOUTS = ("TP1", "TP2", "TP2+EP", "TP4", "TP4+EP", "TP2×PP2", "TP2×PP2+EP", "DP2×TP2")
# The parts that are returned to stock vLLM-CPU, and what that means.
STOCK = {
    "": "as it is",
    "gloo": "gloo instead of plain TCP",
    "gloo,spin": "and queues that spin",
    "gloo,spin,shm": "stock: and shared memory where ranks share a machine",
}
LOAD = "{clients: 16, requests: 32, input_tokens: 64, output_tokens: 32}"
SEEDS = (1, 2, 3)


@dataclass(frozen=True)
class Outcome:
    """One line: seconds, tokens per second, milliseconds."""

    start: float
    single: float
    loaded: float
    ttft: float
    tpot: float


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("layouts", nargs="*", default=LAYOUTS)
    parser.add_argument("--before", action="store_true", help="also with stock parts")
    options = parser.parse_args()
    print(f"{conditions()}\nload: {LOAD}\n")
    print("| layout | parts | start s | 1 client tok/s | 16 clients tok/s | TTFT ms | TPOT ms |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for layout in options.layouts:
        for stock in STOCK if options.before and layout != "TP1" else ("",):
            outcome = measured(layout, stock)
            print(
                f"| {layout} | {STOCK[stock]} | {outcome.start:.1f} | {outcome.single:.1f}"
                f" | {outcome.loaded:.1f} | {outcome.ttft:.0f} | {outcome.tpot:.0f} |",
                flush=True,
            )


def measured(layout: str, stock: str) -> Outcome:
    """Up, one client, sixteen clients, down."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        env = f'  env: {{ROPEWAY_VIRTUAL_NPU_STOCK: "{stock}"}}\n'
        write_spec(folder, layout, LOAD, env)
        with service(folder) as up:
            one = ("--clients", "1", "--requests", "3")
            single = ropeway(folder, "bench", "-c", "ropeway.yaml", *one)["summary"]
            runs = [
                ropeway(folder, "bench", "-c", "ropeway.yaml", "--seed", str(seed))["summary"]
                for seed in SEEDS
            ]
    loaded = sorted(runs, key=lambda summary: summary["output_tokens_per_s"])[len(runs) // 2]
    return Outcome(
        up["start_s"], single["output_tokens_per_s"], loaded["output_tokens_per_s"],
        1000 * loaded["ttft_s"]["p50"], 1000 * loaded["tpot_s"]["p50"],
    )  # fmt: skip


if __name__ == "__main__":
    main()

"""Whether `plan` knows this machine: `ropeway calibrate --local`, then the demo beside it.

Twelve minutes on two slow cores:

    python benchmarks/calibration.py
"""

import argparse
import tempfile
import time
from pathlib import Path

from running import conditions, ropeway


def main() -> None:
    """Calibrate, run the demo, and print what was predicted beside what was measured."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    print(f"{conditions()}\n", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        began = time.monotonic()
        rows = ropeway(folder, "calibrate", "--local")["layouts"]
        print(f"calibrated in {time.monotonic() - began:.0f} s\n", flush=True)
        results = ropeway(folder, "demo")["results"]
    predicted = {
        row["layout"]: row["predicted_tokens_per_s"]
        for row in rows
        if row["measured_tokens_per_s"] is None
    }
    measured = {row["layout"]: row["summary"]["output_tokens_per_s"] for row in results}
    print("| layout | predicted tok/s | measured tok/s | off by |\n|---|---:|---:|---:|")
    for layout, speed in measured.items():
        ours = predicted[layout]
        print(f"| {layout} | {ours:.1f} | {speed:.1f} | {ours / speed - 1:+.0%} |")
    orders = [sorted(speeds, key=speeds.__getitem__) for speeds in (predicted, measured)]
    print(f"\nsame order: {'yes' if orders[0] == orders[1] else 'no'}")


if __name__ == "__main__":
    main()

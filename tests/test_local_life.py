"""The life of a real engine: what happens when it is cut short, killed, or started wrongly."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from children import INTERRUPTIBLE
from json_documents import read_document
from local_cluster import (
    ROPEWAY,
    SERVICE,
    left_behind,
    ropeway,
    served,
    shared_memory_files,
    spec_text,
)
from ropeway.hosts import processes
from waiting import wait_for

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]


def has_come(moment: str, folder: Path) -> bool:
    logs = [path.read_text(errors="replace") for path in folder.glob("runs/*/engine.log")]
    titles = [process.title for process in processes.find(SERVICE)]
    return any(moment in text for text in (*titles, *logs))


# In a process's title or in the engine's log: the first process of all; ranks are placed; loading.
@pytest.mark.parametrize("moment", ["", "RayWorkerProc", "Starting to load model"])
def test_an_interrupted_start_leaves_nothing(tmp_path: Path, moment: str) -> None:
    before = shared_memory_files()
    (tmp_path / "ropeway.yaml").write_text(spec_text("tiny-qwen3-moe", "TP2×PP2", "float32", 2))
    up = subprocess.Popen(
        [*INTERRUPTIBLE, ROPEWAY, "up"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        wait_for(
            lambda: has_come(moment, tmp_path) or up.poll() is not None, seconds=120, what=moment
        )
        assert up.poll() is None, f"ended before `{moment}`"
    finally:
        up.send_signal(signal.SIGINT)
        _, said = up.communicate(timeout=60)
        if up.returncode == 0:  # too late: no service is left to the tests after it
            ropeway("down", "--name", SERVICE, cwd=tmp_path)
    assert up.returncode == 130, said
    assert "Traceback" not in said
    assert left_behind(before) == []


def test_a_flag_that_the_engine_does_not_know_is_named(tmp_path: Path) -> None:
    before = shared_memory_files()
    wrong = "  engine_args: {no-such-flag: 1}"
    (tmp_path / "ropeway.yaml").write_text(spec_text("tiny-qwen3-moe", "TP2", "float32", 1, wrong))
    up = ropeway("up", cwd=tmp_path)
    assert up.returncode == 1
    assert "unrecognized arguments: --no-such-flag" in up.stderr
    assert left_behind(before) == []


def test_a_service_whose_rank_was_killed_is_not_called_serving(tmp_path: Path) -> None:
    with served(tmp_path, "tiny-qwen3-moe", "TP2", npus=1):
        status = ropeway("status", "--json", cwd=tmp_path)
        assert (status.returncode, read_document(status.stdout)["ok"]) == (0, True)
        second = ropeway("up", cwd=tmp_path)
        assert second.returncode == 2
        assert "ropeway down" in second.stderr
        rank = next(each for each in processes.find(SERVICE) if "RayWorkerProc" in each.title)
        os.kill(rank.pid, signal.SIGKILL)

        def failing() -> "subprocess.CompletedProcess[str] | None":
            status = ropeway("status", "--json", cwd=tmp_path)
            return status if status.returncode else None

        status = wait_for(failing, what="a status that tells of the dead rank")
        assert status.returncode == 1
        assert read_document(status.stdout)["ok"] is False

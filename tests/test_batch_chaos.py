"""Jobs whose processes, servers, files, disks and clocks fail (benchmarks/batch_chaos.py)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "batch_chaos.py"


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(n, marks=pytest.mark.real_time if n < 2 else pytest.mark.slow)
        for n in range(10)
    ],
)
def test_each_row_is_committed_once_whatever_fails(number: int, tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, SCRIPT, "--runs", "1", "--first", str(number)],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout

"""Jobs whose processes, servers, files, disks and clocks fail (benchmarks/batch_chaos.py)."""

from pathlib import Path

import pytest
from batch_chaos import one_run


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(n, marks=pytest.mark.real_time if n < 2 else pytest.mark.slow)
        for n in range(10)
    ],
)
def test_each_row_is_committed_once_whatever_fails(number: int, tmp_path: Path) -> None:
    told = one_run(number, tmp_path)
    assert told.faults == []

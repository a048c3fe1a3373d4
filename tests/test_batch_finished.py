"""batch/finished: what is left of a job whose rows were all answered."""

import json
from pathlib import Path
from typing import Any

import pytest

from ropeway.batch.journal.finished import NAME, read_finished
from ropeway.errors import RopewayError


@pytest.mark.parametrize("key", ["rows", "size", "counts", "again", "prompt", "answer"])
@pytest.mark.parametrize("value", ["x", None, {"ANSWERED": "x"}])
def test_figures_that_are_no_numbers_are_none_of_ours(tmp_path: Path, key: str, value: Any) -> None:
    figures = {"rows": 1, "size": 1, "counts": {"ANSWERED": 1}, "again": 0, "prompt": 0,
               "answer": 0, "ordered": False}  # fmt: skip
    (tmp_path / NAME).write_text(json.dumps({**figures, key: value}))
    with pytest.raises(RopewayError, match="none of ours"):
        read_finished(tmp_path)

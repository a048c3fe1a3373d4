"""What the shell offers after a flag, asked as bash asks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ropeway.cli.completion import one_of


def offered(*words: str, folder: Path) -> list[str]:
    """Return what is offered for the last of the words."""
    asked = {
        "_ROPEWAY_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(("ropeway", *words)),
        "COMP_CWORD": str(len(words)),
    }
    done = subprocess.run(
        [sys.executable, "-m", "ropeway"], env={**os.environ, **asked}, cwd=folder,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("words", "first", "another"),
    [
        ("doctor --rehearse 2x8-910B4 --fault link", "link-down", None),
        ("up --rehearse 2x8-910B4 --fault never", "never-joins", None),
        ("plan --chip 910b", "910B1", "910B4"),
        ("plan --model qwen3-30b", "Qwen3-30B-A3B", "Qwen3-30B-A3B-Instruct-2507"),
        ("up --local --model smollm2", "smollm2", "smollm2-moe"),
        ("model fetch tiny", "tiny-qwen3-moe", None),
    ],
)
def test_values_are_offered(words: str, first: str, another: str | None, tmp_path: Path) -> None:
    found = offered(*words.split(), folder=tmp_path)
    assert found[0] == first
    assert another in (None, *found)


def test_a_path_is_left_to_the_shell() -> None:
    offer = one_of(lambda: ["/data/m"])
    [item] = offer(None, None, "/data")  # type: ignore[arg-type]
    assert (item.value, item.type) == ("/data", "file")

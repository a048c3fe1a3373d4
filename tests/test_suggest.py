"""What is suggested for a word that is not known."""

import pytest

from ropeway.models.known import published_files
from ropeway.sim.faults import FAULTS, LAUNCH_FAULTS
from ropeway.suggest import did_you_mean, nearest

_KNOWN = {"faults": FAULTS | LAUNCH_FAULTS, "models": published_files()}


@pytest.mark.parametrize(
    ("known", "word", "first"),
    [
        ("models", "qwen3-30b", "Qwen/Qwen3-30B-A3B"),
        ("models", "Qwen/Qwen3-235b", "Qwen/Qwen3-235B-A22B"),
        ("models", "qwen2.5-7b", "Qwen/Qwen2.5-7B-Instruct"),
        ("faults", "model-short", "shard-short"),
        ("faults", "model-shortt", "shard-short"),
        ("faults", "link", "link-down"),
        ("faults", "driver_old", "driver-old"),
    ],
)
def test_the_likeliest_comes_first(known: str, word: str, first: str) -> None:
    assert nearest(word, _KNOWN[known])[0] == first


def test_what_is_far_from_everything_is_no_suggestion() -> None:
    assert nearest("qqq", FAULTS) == ()
    assert did_you_mean("qqq", FAULTS) is None
    assert did_you_mean("ab", ["a", "ac", "abc"], most=2) == "did you mean `abc` or `a`?"

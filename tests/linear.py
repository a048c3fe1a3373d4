"""Asserts that work grows no faster than its input, in processor time."""

import time
from collections.abc import Callable

# Four times the input takes four times as long when it is linear, sixteen when it is quadratic.
_SMALL, _TIMES, _MOST = 250_000, 4, 8
# Below this a measurement is noise.
_NEGLIGIBLE_SECONDS = 0.05


def assert_linear(work: Callable[[str], object], piece: str) -> None:
    """Do the work on repetitions of `piece`: 250 kB, then 1 MB."""
    small = _seconds(work, piece * (_SMALL // len(piece)))
    large = _seconds(work, piece * (_SMALL // len(piece) * _TIMES))
    assert large < max(_MOST * small, _NEGLIGIBLE_SECONDS), f"{small:.3f} s, then {large:.3f} s"


def _seconds(work: Callable[[str], object], text: str) -> float:
    """Return the shortest of three runs."""
    runs = []
    for _ in range(3):
        start = time.process_time()
        work(text)
        runs.append(time.process_time() - start)
    return min(runs)

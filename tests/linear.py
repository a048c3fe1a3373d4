"""Asserts that work grows no faster than its input, in processor time."""

import time
from collections.abc import Callable

# Four times the input takes four times as long when it is linear, sixteen when it is quadratic.
_SMALL, _TIMES, _MOST = 250_000, 4, 8
# So few that lines which look alike are each read: a log's reader skips the 41st.
_LINES = 30
# Below this a measurement is noise.
_NEGLIGIBLE_SECONDS = 0.05


def assert_linear(
    work: Callable[[str], object], piece: str, *, cut: int = 0, small: int = _SMALL
) -> None:
    """Do the work on repetitions of `piece`: on one line of 250 kB, then of 1 MB.

    small  the length of the first line; for work that takes long
    cut    where the work cuts a longer line, so that a single one shows little of what each costs:
         the work is also done on lines a quarter as long, and just as long
    """
    _compare(work, *(piece * (size // len(piece)) for size in (small, small * _TIMES)))
    if cut:
        lines = (f"{piece * (size // len(piece))}\n" * _LINES for size in (cut // _TIMES, cut))
        _compare(work, *lines)


def _compare(work: Callable[[str], object], less: str, more: str) -> None:
    for _ in range(3):  # other work on the machine may disturb one
        small, large = _seconds(work, less), _seconds(work, more)
        if large < max(_MOST * small, _NEGLIGIBLE_SECONDS):
            return
    raise AssertionError(f"{small:.3f} s, then {large:.3f} s")


def _seconds(work: Callable[[str], object], text: str) -> float:
    start = time.process_time()
    work(text)
    return time.process_time() - start

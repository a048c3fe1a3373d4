"""The one way in which tests wait for something that another process or thread does."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# Whoever waits longer has found a fault: on a machine whose cores are all taken, a step that
# usually takes milliseconds takes seconds.
SECONDS = 60.0


def wait_for(
    condition: Callable[[], T], *, seconds: float = SECONDS, what: object = "the condition"
) -> T:
    """Return the first true value of `condition()`.

    condition  cheap, and asked every 20 ms; what it raises is raised
    what       is named (or, when it is callable, called and its result named) when time is up

    Raises AssertionError after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            named = what() if callable(what) else what
            raise AssertionError(f"not within {seconds:g} s: {named}")
        time.sleep(0.02)
    return value

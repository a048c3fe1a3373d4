"""Ctrl-C at a moment when it would leave something behind."""

import contextlib
import signal
from collections.abc import Iterator


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C, a closed terminal and a polite kill wait until the end, and then count.

    For what must not be cut off: an undo, or the begin of something that has to be undone.
    """
    before = {}
    came: list[int] = []
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        with contextlib.suppress(ValueError):  # only the main thread may
            before[each] = signal.signal(each, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    if came:
        signal.raise_signal(came[0])

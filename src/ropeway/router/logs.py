"""The router's log: what others wrote makes no line of its own, no long one, and not too many."""

import logging
import sys
import time
import traceback
from types import TracebackType

from ropeway.router.replicas import Clock

LINE_CHARS = 1000
# The first lines of a failure are all in the log; one that goes on does not fill the disk.
BURST_LINES = 200
LINES_PER_S = 2.0
_FRAMES = 6

_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


def printable(text: str, most: int = LINE_CHARS) -> str:
    """Return at most so many characters of a text, with escapes for all that is not printable."""
    kept = text if len(text) <= most else f"{text[:most]}…"
    if kept.isprintable():
        return kept
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in kept
    )


class OneLine(logging.Formatter):
    """Writes each record as one line, an exception with its innermost frames."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record).replace("\n", " "))

    def formatException(self, ei: _ExcInfo) -> str:
        frames = traceback.extract_tb(ei[2])[-_FRAMES:]
        path = ", ".join(f"{each.filename}:{each.lineno}" for each in reversed(frames))
        return f"[{type(ei[1]).__name__}: {printable(str(ei[1]), 300)}; at {path}]"


class Rate(logging.Filter):
    """Lets BURST_LINES through at once and LINES_PER_S after them, and counts the others."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._room, self._at, self._left_out = float(BURST_LINES), clock(), 0

    def filter(self, record: logging.LogRecord) -> bool:
        now = self._clock()
        self._room = min(BURST_LINES, self._room + (now - self._at) * LINES_PER_S)
        self._at = now
        if self._room < 1 and record.levelno < logging.CRITICAL:
            self._left_out += 1
            return False
        self._room -= 1
        if self._left_out:
            record.msg, record.args = (
                f"{record.getMessage()} ({self._left_out} lines before this one were left out)", ()
            )  # fmt: skip
            self._left_out = 0
        return True


def start() -> None:
    """Send the log of this process to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine("%(asctime)s %(levelname)s %(message)s"))
    handler.addFilter(Rate())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)

"""Bounds of what is sent at once, and how often."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of a job's sending.

    start, most  rows in flight for each replica: at first, and ever
    tries        of a row, before it has failed
    dedupe       send rows with the same request once, as far as they meet in the window
    most_bytes   of all rows that were read and have no outcome
    """

    start: int = 64
    most: int = 1024
    tries: int = 5
    dedupe: bool = False
    window_rows: int = 16384
    most_bytes: int = 256 * 2**20

"""Read by each Python that has this folder on its path: how `batch_chaos.py` is within a job.

`CHAOS_JUMPS`  the wall clock jumps, as those of laptops do
`CHAOS_SYNCED` a file that is told, for each file that was put onto the disk, how much of it was,
               and how many milliseconds that took
"""

import os
import random
import time
from collections.abc import Callable

_true_time, _lots = time.time, random.Random()
_off = _due = 0.0


def _jumping() -> float:
    global _off, _due
    now = _true_time()
    if now >= _due:
        _due, _off = now + _lots.uniform(0.2, 2.0), _lots.choice((0, 0, 3600, -3600, 1e6, -1e6))
    return now + _off


def _noted(sync: Callable[[int], None], ledger: int) -> Callable[[int], None]:
    def synced(handle: int) -> None:
        before, began = os.fstat(handle), time.monotonic()
        sync(handle)
        took = (time.monotonic() - began) * 1000
        os.write(ledger, b"%d %d %d\n" % (before.st_ino, before.st_size, took))

    return synced


if "CHAOS_JUMPS" in os.environ:
    time.time = _jumping
if "CHAOS_SYNCED" in os.environ:
    _ledger = os.open(os.environ["CHAOS_SYNCED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.fsync, os.fdatasync = _noted(os.fsync, _ledger), _noted(os.fdatasync, _ledger)

"""Watch a port of another host.

    peer.py open ADDRESS PORT SECONDS   wait until it is open; exit 1 when that takes longer
    peer.py gone ADDRESS PORT SECONDS   the same, and then wait until it is closed

A follower waits forever for a head that is gone. Because the head's port is watched, it ends, the
container engine starts it again, and it joins the head that has come back.
"""

from __future__ import annotations

import socket
import sys
import time

_EVERY = 2.0
_MISSES = 3  # a single one may be a full queue


def is_open(address: str, port: int) -> bool:
    """Return whether something listens there."""
    try:
        socket.create_connection((address, port), timeout=_EVERY).close()
    except OSError:
        return False
    return True


def opens(address: str, port: int, seconds: float) -> bool:
    """Wait until the port is open; return whether it was within this time."""
    deadline = time.monotonic() + seconds
    while not is_open(address, port):
        if time.monotonic() > deadline:
            return False
        time.sleep(_EVERY / 2)
    return True


if __name__ == "__main__":
    mode, address, number, limit = sys.argv[1:]
    where = f"{address}:{number}"
    if not opens(address, int(number), float(limit)):
        sys.exit(f"ropeway: {where} did not open within {limit} s")
    misses = 0
    while mode == "gone" and misses < _MISSES:
        time.sleep(_EVERY)
        misses = 0 if is_open(address, int(number)) else misses + 1
    sys.exit(f"ropeway: {where} is closed: the head is gone" if mode == "gone" else 0)

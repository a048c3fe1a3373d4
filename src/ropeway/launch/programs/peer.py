"""Watch a port of another host.

    peer.py open ADDRESS PORT SECONDS   wait until it is open; 1 when that takes longer
    peer.py gone ADDRESS PORT SECONDS   then go on, and end when it is closed

A follower beside a head that is gone waits for ever. With the head's port watched it ends, is
started again by the container engine, and joins the head that has come back.
"""

from __future__ import annotations

import socket
import sys
import time

_EVERY = 2.0
_MISSES = 3  # a single one may be a full queue


def is_open(address: str, port: int) -> bool:
    """Whether somebody listens there."""
    try:
        socket.create_connection((address, port), timeout=_EVERY).close()
    except OSError:
        return False
    return True


def opens(address: str, port: int, seconds: float) -> bool:
    """Whether it opened in this time."""
    deadline = time.monotonic() + seconds
    while not is_open(address, port):
        if time.monotonic() > deadline:
            return False
        time.sleep(_EVERY / 2)
    return True


if __name__ == "__main__":
    mode, there, number, limit = sys.argv[1:]
    where = f"{there}:{number}"
    if not opens(there, int(number), float(limit)):
        sys.exit(f"ropeway: {where} did not open within {limit} s")
    misses = 0
    while mode == "gone" and misses < _MISSES:
        time.sleep(_EVERY)
        misses = 0 if is_open(there, int(number)) else misses + 1
    sys.exit(f"ropeway: {where} is closed: the head is gone" if mode == "gone" else 0)

"""Ports for servers that tests start.

Each process of the tests claims a range of its own, so that a port is still free when the server
binds it some time later, whatever runs beside.
"""

import fcntl
import itertools
import socket
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TextIO

# Below the ports that the kernel gives to outgoing connections, above those of Ray's workers.
_FIRST, _SIZE, _RANGES = 20_000, 200, 60


def free_port() -> int:
    """Return a port of 127.0.0.1 that nothing listens on and nobody else will be given."""
    return next(port for port in _candidates() if _is_free(port))


@cache
def _candidates() -> Iterator[int]:
    """Return the ports of this process's range, round and round."""
    first = _FIRST + _SIZE * _claimed_range()[0]
    return itertools.cycle(range(first, first + _SIZE))


@cache
def _claimed_range() -> tuple[int, TextIO]:
    """Claim a range: its number, and the locked file, which is unlocked when this process ends."""
    for number in range(_RANGES):
        file = Path(tempfile.gettempdir(), f"ropeway-test-ports-{number}").open("w")  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
        else:
            return number, file
    raise AssertionError("every range of ports is claimed by another test run")


def _is_free(port: int) -> bool:
    try:
        with socket.create_server(("127.0.0.1", port)):
            return True
    except OSError:
        return False

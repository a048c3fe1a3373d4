"""How a replica is, as far as it can be known from here."""

import socket
from dataclasses import dataclass
from enum import Enum
from typing import Any

from ropeway.endpoint.metrics import Reading

# Seconds until the first question, between the next ones, and their number (the first of these
# names is Linux's, the second macOS's).
_ALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPALIVE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}


class Sign(Enum):
    """How a replica seems to be, when it is asked.

    WELL    it answers
    UNWELL  it says that it is not, which may be so for a moment
    SILENT  no answer: of it, or of the network to it
    GONE    nothing is there that could answer
    UNKNOWN it could not be asked, for a reason of our own
    """

    WELL = "well"
    UNWELL = "unwell"
    SILENT = "silent"
    GONE = "gone"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Health:
    """How a replica is, why it is not well, and what its engine says of itself."""

    sign: Sign = Sign.WELL
    fault: str = ""
    reading: Reading | None = None

    @property
    def bad(self) -> bool:
        """Whether it may be lost, and what is in flight there with it."""
        return self.sign in (Sign.UNWELL, Sign.SILENT, Sign.GONE)


def kept_alive(address: tuple[Any, ...]) -> socket.socket:
    """Return a socket of which the system notices that nobody is at the other end any more.

    An answer that is not streamed may take an hour, and until then nothing else would tell of a
    laptop that slept, or of a connection that a router between has forgotten.
    """
    made = socket.socket(*address[:3])
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _ALIVE.items():
        if hasattr(socket, name):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return made

"""A connection to the server that blocks nobody: it connects, sends and reads what is there."""

import errno
import os
import socket
import ssl
import struct
from dataclasses import dataclass
from typing import Any

from ropeway.bench.sending.flight import Flight
from ropeway.endpoint.address import Endpoint
from ropeway.endpoint.failures import (
    RequestFailed,
    cannot_connect,
    no_handshake,
    not_trusted,
)

# Linux gives the time at which the kernel had the last byte of what is read (socket(7); the numbers
# are those of asm-generic/socket.h, which Python's module does not name).
_SO_TIMESTAMPNS = 35
_STAMP = struct.Struct("qq")
_STAMPS = socket.CMSG_SPACE(_STAMP.size)
_READ = 2**16


@dataclass(frozen=True)
class Address:
    """Where connections go: as `getaddrinfo` says it, and TLS with the name to be proved."""

    family: int
    to: tuple[Any, ...]
    tls: ssl.SSLContext | None = None
    name: str = ""


def stamp_arrivals(made: socket.socket) -> None:
    """Let the kernel say when it had what is read: see `read_stamped`."""
    made.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)


def read_stamped(of: socket.socket) -> tuple[int, bytes]:
    """Return when the kernel had what is there, as `time.time_ns` counts, and that.

    A time of 0: it does not say. Raises BlockingIOError where nothing is there, OSError.
    """
    data, ancillary, _, _ = of.recvmsg(_READ, _STAMPS)
    for level, kind, value in ancillary:
        if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS:
            seconds, nanoseconds = _STAMP.unpack(value)
            return seconds * 1_000_000_000 + nanoseconds, data
    return 0, data


class Connection:
    """One socket. `ready`: whether it is open; `used`: whether an answer has come over it."""

    def __init__(self, address: Address) -> None:
        self.socket = socket.socket(address.family, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        self.number = self.socket.fileno()
        self.flight: Flight | None = None
        self.ready = self.used = self._connected = False
        self.idle_since = 0
        self._out: memoryview = memoryview(b"")
        self._tls: ssl.SSLObject | None = None
        if address.tls is not None:
            self._in_bio, self._out_bio = ssl.MemoryBIO(), ssl.MemoryBIO()
            self._tls = address.tls.wrap_bio(
                self._in_bio, self._out_bio, server_hostname=address.name
            )
        try:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            stamp_arrivals(self.socket)
            number = self.socket.connect_ex(address.to)
            if number not in (0, errno.EINPROGRESS):
                raise OSError(number, os.strerror(number))
        except OSError:
            self.socket.close()
            raise

    @property
    def waits_to_write(self) -> bool:
        """Whether there is something to be written, or a connection to be made."""
        return not self._connected or bool(self._out)

    def write(self) -> None:
        """Go on with what waited for the socket: connect, or send more. Raises OSError."""
        if not self._connected:
            number = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if number:
                raise OSError(number, os.strerror(number))
            self._connected = True
            self.ready = self._tls is None or self._shake_hands()
        self._flush()

    def send(self, data: bytes) -> None:
        """Send what the kernel takes now; `write` sends the rest. Raises OSError."""
        if self._tls is not None:
            self._tls.write(data)
            data = self._out_bio.read()
        self._out = memoryview(bytes(self._out) + data if self._out else data)
        self._flush()

    def read(self) -> tuple[int, bytes] | None:
        """Return what is there and when the kernel had it, as `time.time_ns` counts; None: nothing.

        No bytes: the server has closed the connection. A time of 0: the kernel does not say.
        Raises OSError.
        """
        try:
            stamp, data = read_stamped(self.socket)
        except BlockingIOError:
            return None
        return (stamp, data) if self._tls is None else self._plain(stamp, data)

    def close(self) -> None:
        """Let go of the socket."""
        self.socket.close()

    def _flush(self) -> None:
        while self._out:
            try:
                self._out = self._out[self.socket.send(self._out) :]
            except BlockingIOError:
                return

    def _shake_hands(self) -> bool:
        assert self._tls is not None
        try:
            self._tls.do_handshake()
            done = True
        except ssl.SSLWantReadError:
            done = False
        if data := self._out_bio.read():
            self._out = memoryview(bytes(self._out) + data)
            self._flush()
        return done

    def _plain(self, stamp: int, data: bytes) -> tuple[int, bytes] | None:
        assert self._tls is not None
        if not data:
            return stamp, data
        self._in_bio.write(data)
        if not self.ready:
            self.ready = self._shake_hands()
        parts = []
        while self.ready:
            try:
                part = self._tls.read(_READ)
            except ssl.SSLWantReadError:
                break
            if not part:  # a farewell: the socket's end follows
                break
            parts.append(part)
        return (stamp, b"".join(parts)) if parts else None


def no_way(endpoint: Endpoint, error: OSError) -> RequestFailed:
    """Return why no connection is made."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return not_trusted(endpoint, error.verify_message)
    if isinstance(error, ssl.SSLError):
        return no_handshake(endpoint, error)
    return cannot_connect(endpoint, error.errno, str(error))

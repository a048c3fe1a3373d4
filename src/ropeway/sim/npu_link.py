"""The links between virtual NPUs: one TCP connection for each pair of ranks of a group.

gloo hands every message through two or three threads. On two cores each hand-over is a wake-up, and
an all-reduce of one token's activations (1,152 bytes) took 1.8 ms over two ranks and 5.6 ms over
four, where the sockets below took 0.09 and 0.50 ms: sixty times per generated token
(docs/benchmarks.md, "All-reduce").
"""

import select
import socket
import struct
from collections.abc import Callable, Sequence

_RANK = struct.Struct("!i")
_TIMEOUT = 600.0  # seconds without a byte from a peer: it has died or hangs


class Mesh:
    """Connections from this rank to every other rank of its group.

    address             of this rank's host, where it listens while the others connect
    exchange_addresses  takes this rank's `host:port`, returns those of all ranks in order
    """

    def __init__(
        self, rank: int, address: str, exchange_addresses: Callable[[str], Sequence[str]]
    ) -> None:
        with socket.create_server((address, 0)) as server:
            addresses = exchange_addresses(f"{address}:{server.getsockname()[1]}")
            self.rank = rank
            self.peers = {other: _connect(rank, addresses[other]) for other in range(rank)}
            for _ in range(rank + 1, len(addresses)):
                other, peer = _accept(server)
                self.peers[other] = peer
        for peer in self.peers.values():
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            peer.setblocking(False)

    def exchange(self, outgoing: Sequence[memoryview], incoming: Sequence[memoryview]) -> None:
        """Send `outgoing[rank]` to every peer and fill `incoming[rank]` from each, as flat bytes.

        Blocks, without spinning, until all is sent and received. Raises ConnectionError when a peer
        has gone, TimeoutError when it is silent.
        """
        unsent = self._pending(outgoing)
        unread = self._pending(incoming)
        for number in list(unsent):
            _advance(unsent, number, socket.socket.send)
        while unsent or unread:
            waiting = select.poll()
            for number in unsent.keys() | unread.keys():
                events = (select.POLLOUT if number in unsent else 0) | (
                    select.POLLIN if number in unread else 0
                )
                waiting.register(number, events)
            ready = waiting.poll(_TIMEOUT * 1000)
            if not ready:
                raise TimeoutError(f"rank {self.rank}: a peer sent nothing for {_TIMEOUT:g} s")
            for number, _ in ready:
                if number in unread:
                    _advance(unread, number, _receive)
                if number in unsent:
                    _advance(unsent, number, socket.socket.send)

    def _pending(self, parts: Sequence[memoryview]) -> "_Pending":
        """Return the bytes to move by connection; nothing is sent for an empty part."""
        return {
            peer.fileno(): (peer, parts[rank])
            for rank, peer in self.peers.items()
            if len(parts[rank])
        }

    def close(self) -> None:
        for peer in self.peers.values():
            peer.close()


_Pending = dict[int, tuple[socket.socket, memoryview]]


def _advance(
    pending: _Pending, number: int, move: Callable[[socket.socket, memoryview], int]
) -> None:
    """Move what can be moved without waiting; remove the connection when all bytes are moved."""
    peer, data = pending[number]
    try:
        data = data[move(peer, data) :]
    except BlockingIOError:
        return
    if len(data):
        pending[number] = (peer, data)
    else:
        del pending[number]


def _receive(peer: socket.socket, data: memoryview) -> int:
    count = peer.recv_into(data)
    if count == 0:
        raise ConnectionError("a peer rank has gone")
    return count


def _connect(rank: int, address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    peer = socket.create_connection((host, int(port)), timeout=_TIMEOUT)
    peer.sendall(_RANK.pack(rank))
    return peer


def _accept(server: socket.socket) -> tuple[int, socket.socket]:
    server.settimeout(_TIMEOUT)
    peer, _ = server.accept()
    peer.settimeout(_TIMEOUT)
    return _RANK.unpack(peer.recv(_RANK.size, socket.MSG_WAITALL))[0], peer

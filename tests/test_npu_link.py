"""The wires between virtual NPUs, over real sockets: a thread stands for a rank."""

import random
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ropeway.sim import npu_link
from ropeway.sim.npu_link import Mesh


def on_ranks(size: int, act: Callable[[Mesh], Any]) -> list[Any]:
    """What `act` gives on each rank of a mesh over two virtual hosts; the meshes are closed."""
    places = [""] * size
    meet = threading.Barrier(size, timeout=10)

    def run(rank: int) -> Any:
        def agree(place: str) -> list[str]:
            places[rank] = place
            meet.wait()
            return places

        mesh = Mesh(rank, f"127.0.0.{2 + rank % 2}", agree)
        try:
            return act(mesh)
        finally:
            mesh.close()

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(run, range(size)))


def gathered(mesh: Mesh, own: bytes, sizes: list[int]) -> list[bytes]:
    parts = [bytearray(size) for size in sizes]
    parts[mesh.rank][:] = own
    mesh.exchange([memoryview(own)] * len(sizes), [memoryview(part) for part in parts])
    return [bytes(part) for part in parts]


# The last is more than buffers hold, both ways at once.
@pytest.mark.parametrize(
    ("size", "length"), [(1, 1152), (2, 1152), (3, 1152), (4, 1152), (2, 6_000_000)]
)
def test_every_rank_gets_what_every_rank_sent(size, length):
    sent = [random.Random(rank).randbytes(length) for rank in range(size)]
    got = on_ranks(size, lambda mesh: gathered(mesh, sent[mesh.rank], [length] * size))
    assert got == [sent] * size


def test_ranks_may_send_unequal_lengths_and_nothing():
    sent = [b"", b"ab", b"c" * 100_000]

    def act(mesh: Mesh) -> list[list[bytes]]:
        return [gathered(mesh, sent[mesh.rank], [0, 2, 100_000]) for _ in range(3)]

    assert on_ranks(3, act) == [[sent] * 3] * 3


def test_nobody_waits_for_a_peer_that_has_nothing_to_send():
    over = threading.Event()  # only then does rank 1 leave, which would wake rank 0

    def act(mesh: Mesh) -> list[bytes]:
        got = gathered(mesh, b"ab" if mesh.rank == 0 else b"", [2, 0])
        if mesh.rank == 0:
            over.set()
        assert over.wait(10), "rank 0 waited for an empty message"
        return got

    assert on_ranks(2, act) == [[b"ab", b""]] * 2


def test_one_exchange_does_not_run_into_the_next():
    def act(mesh: Mesh) -> bool:
        for turn in range(200):
            sent = [bytes([rank, turn % 251]) * (1 + turn % 40) for rank in range(3)]
            if gathered(mesh, sent[mesh.rank], [len(each) for each in sent]) != sent:
                return False
        return True

    assert on_ranks(3, act) == [True] * 3


def test_a_mesh_connects_every_pair_without_delay():
    def act(mesh: Mesh) -> tuple[list[int], set[int]]:
        flags = {
            peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for peer in mesh.peers.values()
        }
        return sorted(mesh.peers), flags

    assert on_ranks(3, act) == [([1, 2], {1}), ([0, 2], {1}), ([0, 1], {1})]


def test_a_peer_that_has_gone_is_an_error_and_no_hang():
    def act(mesh: Mesh) -> str:
        if mesh.rank == 1:
            return "left"
        with pytest.raises(ConnectionError, match="a peer rank has gone"):
            gathered(mesh, b"", [0, 10])
        with pytest.raises(ConnectionError):
            for _ in range(3):  # what was sent before the end was seen may still go
                gathered(mesh, b"x" * 1_000_000, [1_000_000] * 2)
        return "seen"

    assert on_ranks(2, act) == ["seen", "left"]


def test_a_silent_peer_is_an_error_after_the_timeout(monkeypatch):
    monkeypatch.setattr(npu_link, "_TIMEOUT", 0.2)
    over = threading.Event()

    def act(mesh: Mesh) -> str:
        if mesh.rank == 1:
            over.wait(10)
            return "silent"
        try:
            with pytest.raises(TimeoutError, match=r"rank 0: a peer sent nothing for 0.2 s"):
                gathered(mesh, b"x", [1, 1])
        finally:
            over.set()
        return "seen"

    assert on_ranks(2, act) == ["seen", "silent"]

"""What is sent where: the source's files against what every other host already has. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ropeway.errors import HostError
from ropeway.facts.host import WEIGHTS
from ropeway.hosts.ssh import SshHost
from ropeway.units import format_bytes
from ropeway.weights.commands import Destination, send_argv, send_from_here_argv, staging_folder
from ropeway.weights.schedule import SwarmState, Transfer
from ropeway.weights.survey import Peer

# For directories and the last blocks of files; a push must not leave a host with a full disk.
_SPARE = 64 * 2**20
# A run of rsync costs a login, some tenths of a second. Shards are gigabytes; smaller files are
# bundled, as long as their names do not make the command line too long (Linux takes 128 KiB for one
# argument, and quoting can turn one byte into four).
_SMALL = 16 * 2**20
_BUNDLE = 64 * 2**20
_NAMES = 16 * 2**10
_LAST = ("config.json",)  # without it no engine takes a folder for a model


@dataclass(frozen=True)
class File:
    """A file; `name` is relative to the model's folder, with `/` between folders; size in bytes."""

    name: str
    size: int


@dataclass(frozen=True)
class Piece:
    """Files that are sent together: a large one alone, or several small ones."""

    files: tuple[File, ...]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def label(self) -> str:
        """Return what to call the piece in messages."""
        first = self.files[0].name
        return first if len(self.files) == 1 else f"{first} and {len(self.files) - 1} more"


def split(files: Iterable[File]) -> tuple[Piece, ...]:
    """Put each file into one piece; the largest pieces come first."""
    ordered = sorted(files, key=lambda file: (-file.size, file.name))
    large = [Piece((file,)) for file in ordered if file.size > _SMALL]
    return (*large, *_bundles(file for file in ordered if file.size <= _SMALL))


def _bundles(files: Iterable[File]) -> Iterator[Piece]:
    bundle: list[File] = []
    for file in files:
        size = sum(other.size for other in bundle) + file.size
        names = sum(len(other.name.encode()) + 1 for other in (*bundle, file))
        if bundle and (size > _BUNDLE or names > _NAMES):
            yield Piece(tuple(bundle))
            bundle = []
        bundle.append(file)
    if bundle:
        yield Piece(tuple(bundle))


def in_publishing_order(names: Iterable[str]) -> tuple[str, ...]:
    """Sort verified files into the order in which they are moved into place, config.json last."""
    return tuple(sorted(names, key=lambda name: (name in _LAST, name)))


@dataclass(frozen=True)
class PushPlan:
    """One source, and all other hosts as receivers, in the order of the spec."""

    source: Peer
    receivers: tuple[Peer, ...]
    pieces: tuple[Piece, ...]

    @property
    def peers(self) -> tuple[Peer, ...]:
        return (self.source, *self.receivers)

    @property
    def remote(self) -> tuple[Peer, ...]:
        """Return the hosts that are reached over SSH: all of them, or all but this machine."""
        return tuple(peer for peer in self.peers if isinstance(peer.host, SshHost))

    @property
    def files(self) -> tuple[File, ...]:
        return tuple(file for piece in self.pieces for file in piece.files)

    @property
    def size(self) -> int:
        """Return the bytes of the model."""
        return sum(piece.size for piece in self.pieces)

    def peer(self, name: str) -> Peer:
        return next(peer for peer in self.peers if peer.name == name)

    def destination(self, name: str) -> Destination:
        """Return a host as the senders address it."""
        number = [peer.name for peer in self.peers].index(name)
        peer = self.peers[number]
        return Destination(number, peer.address, peer.port, peer.user)

    def claimed(self, peer: Peer) -> frozenset[int]:
        """Return the pieces that a host seems to have, going by names and sizes."""
        return frozenset(
            number
            for number, piece in enumerate(self.pieces)
            if all(
                file.size in (peer.files.get(file.name), peer.staged.get(file.name))
                for file in piece.files
            )
        )

    def stale(self, peer: Peer) -> tuple[str, ...]:
        """Return what an earlier push staged that cannot be the beginning of a file of this one."""
        sizes = {file.name: file.size for file in self.files}
        return tuple(name for name, size in peer.staged.items() if size > sizes.get(name, -1))

    def bytes_to_send(self, peer: Peer, piece: int) -> int:
        """Return how much of a piece goes over the link: without what an earlier push staged."""
        return sum(
            file.size - (staged if (staged := peer.staged.get(file.name, 0)) <= file.size else 0)
            for file in self.pieces[piece].files
        )

    def bytes_to_get(self, peer: Peer) -> int:
        """Return how much a host is still to receive."""
        if peer is self.source:
            return 0
        missing = frozenset(range(len(self.pieces))) - self.claimed(peer)
        return sum(self.bytes_to_send(peer, piece) for piece in missing)

    def initial_state(self) -> SwarmState:
        """Return the state before the first transfer.

        A piece that a host only claims is neither in `has` nor in `wants` until it is hashed.
        """
        every = frozenset(range(len(self.pieces)))
        return SwarmState(
            tuple(piece.size for piece in self.pieces),
            {peer.name: every if peer is self.source else frozenset() for peer in self.peers},
            {peer.name: every - self.claimed(peer) for peer in self.receivers},
        )

    def extra(self, peer: Peer) -> tuple[str, ...]:
        """Return weights in a host's folder that the source lacks: an engine may load them."""
        extra = peer.files.keys() - {file.name for file in self.files}
        return tuple(sorted(name for name in extra if name.endswith(WEIGHTS)))

    def as_json(self) -> dict[str, object]:
        return {
            "source": {"host": self.source.name, "path": self.source.root},
            "path": self.receivers[0].root,
            "size_bytes": self.size,
            "files": len(self.files),
            "hosts": [
                {
                    "host": peer.name,
                    "address": peer.address,
                    "missing_bytes": self.bytes_to_get(peer),
                }
                for peer in self.receivers
            ],
        }


def plan_push(source: Peer, receivers: Sequence[Peer]) -> PushPlan:
    """Plan to send everything that the source has to every receiver."""
    files = (File(name, size) for name, size in source.files.items())
    return PushPlan(source, tuple(receivers), split(files))


def obstacle(plan: PushPlan, peer: Peer) -> HostError | None:
    """Return why a host cannot take the model: no write permission there, or too little room."""
    where = f"{peer.name}:{peer.root}"
    if not peer.writable:
        return HostError(f"`{peer.user}` may not write there", where=where)
    missing = plan.bytes_to_get(peer)
    if missing and missing + _SPARE > peer.free:
        return HostError(
            f"needs {format_bytes(missing)} for the model and has {format_bytes(peer.free)} free",
            where=where,
        )
    return None


class Locations:
    """Which files lie in the model's folder of a host during a push, and which are staged.

    A file that was in the folder with the right size stays there unless its hash proves wrong.
    """

    def __init__(self, plan: PushPlan) -> None:
        self._plan = plan
        self._in_place = {
            peer.name: {
                file.name
                for file in plan.files
                if peer is plan.source or peer.files.get(file.name) == file.size
            }
            for peer in plan.peers
        }

    def folder(self, peer: Peer, file: File) -> str:
        in_place = file.name in self._in_place[peer.name]
        return peer.root if in_place else staging_folder(peer.root)

    def paths(self, peer: Peer, files: Iterable[File]) -> tuple[str, ...]:
        return tuple(f"{self.folder(peer, file)}/{file.name}" for file in files)

    def staged(self, peer: Peer) -> frozenset[str]:
        """Return the names of the files that lie, or will lie, in a host's staging folder."""
        return frozenset(file.name for file in self._plan.files) - self._in_place[peer.name]

    def restage(self, peer: Peer, files: Iterable[File]) -> None:
        """Note that these files will be staged anew: what is in the folder is wrong."""
        self._in_place[peer.name] -= {file.name for file in files}

    def send_argv(self, push_id: str, transfer: Transfer) -> tuple[str, ...]:
        """Return the command that the sender runs."""
        sender, receiver = self._plan.peer(transfer.sender), self._plan.peer(transfer.receiver)
        sources = [
            f"{self.folder(sender, file)}/./{file.name}"
            for file in self._plan.pieces[transfer.piece].files
        ]
        if isinstance(sender.host, SshHost):
            return send_argv(push_id, sources, self._plan.destination(receiver.name))
        assert isinstance(receiver.host, SshHost)
        return send_from_here_argv(sources, receiver.host, receiver.root)

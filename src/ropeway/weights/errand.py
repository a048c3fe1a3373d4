"""What is to be sent where: the source's files against what every other host has. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ropeway.errors import HostError
from ropeway.hosts.ssh import SshHost
from ropeway.units import format_bytes
from ropeway.weights.commands import Peer, send_argv, send_from_here_argv, stage_of
from ropeway.weights.files import Piece, pieces, weights
from ropeway.weights.schedule import Board, Transfer
from ropeway.weights.survey import Site

# Directories and the last blocks of files; a full disk is no state to leave a host in.
_SPARE = 64 * 2**20


@dataclass(frozen=True)
class Errand:
    """A push that is decided. `receivers` are all hosts but the source, in the spec's order."""

    source: Site
    receivers: tuple[Site, ...]
    pieces: tuple[Piece, ...]

    @property
    def sites(self) -> tuple[Site, ...]:
        return (self.source, *self.receivers)

    @property
    def remote(self) -> tuple[Site, ...]:
        """The hosts that are reached over SSH: all, or all but this machine."""
        return tuple(site for site in self.sites if isinstance(site.host, SshHost))

    @property
    def size(self) -> int:
        """Bytes of the model."""
        return sum(piece.size for piece in self.pieces)

    def site(self, name: str) -> Site:
        return next(site for site in self.sites if site.name == name)

    def peer(self, name: str) -> Peer:
        """The host as others call it."""
        number = [site.name for site in self.sites].index(name)
        site = self.site(name)
        return Peer(number, site.address, site.port, site.user)

    def claimed(self, site: Site) -> frozenset[int]:
        """Pieces that it seems to have, by names and sizes."""
        return frozenset(
            number
            for number, piece in enumerate(self.pieces)
            if all(
                file.size in (site.files.get(file.name), site.staged.get(file.name))
                for file in piece.files
            )
        )

    def stale(self, site: Site) -> tuple[str, ...]:
        """What an earlier push left that is no beginning of a file of this one."""
        wanted = {file.name: file.size for piece in self.pieces for file in piece.files}
        return tuple(name for name, size in site.staged.items() if size > wanted.get(name, -1))

    def kept(self, site: Site) -> frozenset[str]:
        """Files that lie in its folder in the right size."""
        return frozenset(
            file.name
            for piece in self.pieces
            for file in piece.files
            if site is self.source or site.files.get(file.name) == file.size
        )

    def bytes_of(self, host: str, piece: int, *, resumed: bool) -> int:
        """Bytes of a piece that go over the link; `resumed`: after what an earlier push brought."""
        site = self.site(host)
        there = {} if not resumed else site.staged
        return sum(
            file.size - (there.get(file.name, 0) if there.get(file.name, 0) <= file.size else 0)
            for file in self.pieces[piece].files
        )

    def bytes_to_get(self, site: Site) -> int:
        """What is still to come over its link; what an earlier push has brought counts as there."""
        if site is self.source:
            return 0
        wanted = frozenset(range(len(self.pieces))) - self.claimed(site)
        return sum(self.bytes_of(site.name, piece, resumed=True) for piece in wanted)

    def board(self) -> Board:
        """Before the first transfer. What is only claimed is neither had nor wanted yet."""
        every = frozenset(range(len(self.pieces)))
        return Board(
            tuple(piece.size for piece in self.pieces),
            {site.name: every if site is self.source else frozenset() for site in self.sites},
            {site.name: every - self.claimed(site) for site in self.receivers},
        )

    def send(self, push: str, transfer: Transfer, folder: Callable[[str], str]) -> tuple[str, ...]:
        """The command on the sender; `folder` says where a file lies there."""
        sources = [
            f"{folder(file.name)}/./{file.name}" for file in self.pieces[transfer.piece].files
        ]
        receiver = self.site(transfer.receiver)
        if isinstance(self.site(transfer.sender).host, SshHost):
            return send_argv(push, sources, self.peer(transfer.receiver))
        assert isinstance(receiver.host, SshHost)
        return send_from_here_argv(sources, receiver.host, receiver.root)

    def extra(self, site: Site) -> tuple[str, ...]:
        """Weights in its folder that the source does not have; an engine may load them."""
        wanted = {file.name for piece in self.pieces for file in piece.files}
        return weights(site.files.keys() - wanted)


def errand(source: Site, receivers: Sequence[Site]) -> Errand:
    """Everything the source has, to all others."""
    return Errand(source, tuple(receivers), pieces(source.manifest))


def obstacle(task: Errand, site: Site) -> HostError | None:
    """Why this host cannot take the model: nowhere to write, or too little room."""
    if not site.writable:
        who = f"`{site.user}` may not write there"
        return HostError(who, where=f"{site.name}:{site.root}")
    wanted = task.bytes_to_get(site)
    if wanted and wanted + _SPARE > site.free:
        return HostError(
            f"needs {format_bytes(wanted)} for the model and has {format_bytes(site.free)} free",
            where=f"{site.name}:{site.root}",
        )
    return None


def folder_of(site: Site, kept: frozenset[str], name: str) -> str:
    """Where a file lies on a host during a push."""
    return site.root if name in kept else stage_of(site.root)

"""What a push would do, without doing it: its commands in their order, and how long it takes. Pure.

The order is that of hosts of equal speed; a real push begins each transfer when its hosts are free.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from ropeway.weights.commands import lent_folder, stage_of
from ropeway.weights.errand import Errand, folder_of
from ropeway.weights.files import in_final_order
from ropeway.weights.schedule import Board, simulate

_PUSH = "NUMBER"  # stands for the number that each push draws for itself


@dataclass(frozen=True)
class Step:
    """One command on one host, and what it is for."""

    host: str
    what: str
    argv: tuple[str, ...]


def steps(task: Errand) -> tuple[Step, ...]:
    """The commands that matter, as they can be read and pasted: keys, transfers, hashes, moves.

    The scripts around them, which lock, look after the keys and take them back, are in
    `weights/scripts.py`.
    """
    return (*_keys(task), *_transfers(task), *_ends(task))


def forecast(task: Errand) -> float:
    """The time of the push in copies of the model over one host's link."""
    ends = [end for _, end, _ in simulate(_board(task), lambda one: _size(task, one.piece))]
    return max(ends, default=0.0) / max(1, task.size)


def _size(task: Errand, piece: int) -> float:
    return float(task.pieces[piece].size)


def _board(task: Errand) -> Board:
    """The first board, with what hosts claim to have taken for true."""
    board = task.board()
    for site in task.receivers:
        for piece in task.claimed(site):
            board = board.gain(site.name, piece)
    return board


def _keys(task: Errand) -> Iterator[Step]:
    if len(task.remote) < 2:
        return
    folder = lent_folder(_PUSH)
    key = ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"ropeway-push-{_PUSH}")
    for site in task.remote:
        yield Step(site.name, "a key for this push", (*key, "-f", f"{folder}/key"))
    for site in task.receivers:
        scan = ("ssh-keyscan", "-p", str(site.port), site.address)
        yield Step(site.name, "its host keys, for the others' known_hosts", scan)
        what = "the others' keys, for one rsync into the stage: ~/.ssh/authorized_keys"
        yield Step(site.name, what, ("mkdir", "-p", "--", stage_of(site.root)))


def _transfers(task: Errand) -> Iterator[Step]:
    for _, _, one in simulate(_board(task), lambda transfer: _size(task, transfer.piece)):
        sender = task.site(one.sender)
        argv = task.send(_PUSH, one, partial(folder_of, sender, task.kept(sender)))
        yield Step(one.sender, f"{task.pieces[one.piece].label} to {one.receiver}", argv)


def _ends(task: Errand) -> Iterator[Step]:
    for site in task.sites:
        kept = task.kept(site)
        paths = [
            f"{folder_of(site, kept, file.name)}/{file.name}"
            for piece in task.pieces
            for file in piece.files
        ]
        yield Step(site.name, "hashes, compared with the source's", ("sha256sum", "--", *paths))
        if site is not task.source:
            names = {file.name for piece in task.pieces for file in piece.files} - kept
            for name in in_final_order(names):
                argv = ("mv", "-fT", "--", f"{stage_of(site.root)}/{name}", f"{site.root}/{name}")
                yield Step(site.name, "to its place, when all hashes agree", argv)

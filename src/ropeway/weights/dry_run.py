"""What a push would do: its commands in their order, and how long it takes. Pure.

The order is that for hosts of equal speed; a real push begins each transfer when its hosts are
free.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from ropeway.weights.commands import key_folder, staging_folder
from ropeway.weights.plan import Locations, PushPlan, in_publishing_order
from ropeway.weights.schedule import SwarmState, Transfer, simulate

_PUSH_ID = "NUMBER"  # stands for the random word of a real push


@dataclass(frozen=True)
class Step:
    """One command on one host, and what it is for."""

    host: str
    what: str
    argv: tuple[str, ...]


def steps(plan: PushPlan) -> tuple[Step, ...]:
    """Return the commands that matter, to be read or pasted: keys, transfers, hashes, moves.

    The scripts around them, which hold the staging folders and add and revoke the keys, are in
    `weights/scripts.py`.
    """
    locations = Locations(plan)
    return (*_keys(plan), *_transfers(plan, locations), *_ends(plan, locations))


def forecast(plan: PushPlan) -> float:
    """Return how long the push takes, in times of one copy of the model over one host's link."""
    return max((end for _, end, _ in _schedule(plan)), default=0.0) / max(1, plan.size)


def _schedule(plan: PushPlan) -> Iterator[tuple[float, float, Transfer]]:
    """Simulate the transfers, with the bytes of a piece as its time."""
    return simulate(_claims_believed(plan), lambda transfer: plan.pieces[transfer.piece].size)


def _claims_believed(plan: PushPlan) -> SwarmState:
    """Return the initial state if every hash of what is already there proves right."""
    state = plan.initial_state()
    for peer in plan.receivers:
        for piece in plan.claimed(peer):
            state = state.gain(peer.name, piece)
    return state


def _keys(plan: PushPlan) -> Iterator[Step]:
    if len(plan.remote) < 2:
        return
    folder = key_folder(_PUSH_ID)
    key = ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"ropeway-push-{_PUSH_ID}")
    for peer in plan.remote:
        yield Step(peer.name, "a key for this push", (*key, "-f", f"{folder}/key"))
    for peer in plan.receivers:
        scan = ("ssh-keyscan", "-p", str(peer.port), peer.address)
        yield Step(peer.name, "its host keys, for the others' known_hosts", scan)
        what = "the staging folder, into which authorized_keys lets the others' keys write"
        yield Step(peer.name, what, ("mkdir", "-p", "--", staging_folder(peer.root)))


def _transfers(plan: PushPlan, locations: Locations) -> Iterator[Step]:
    for _, _, transfer in _schedule(plan):
        what = f"{plan.pieces[transfer.piece].label} to {transfer.receiver}"
        yield Step(transfer.sender, what, locations.send_argv(_PUSH_ID, transfer))


def _ends(plan: PushPlan, locations: Locations) -> Iterator[Step]:
    for peer in plan.peers:
        paths = locations.paths(peer, plan.files)
        yield Step(peer.name, "hashes, compared with the source's", ("sha256sum", "--", *paths))
        for name in in_publishing_order(locations.staged(peer)):
            argv = ("mv", "-fT", "--", f"{staging_folder(peer.root)}/{name}", f"{peer.root}/{name}")
            yield Step(peer.name, "into place, once all hashes agree", argv)

"""The staging folder of each host, where files arrive: held, cleaned, and published."""

from collections.abc import Callable, Iterable
from functools import partial

from ropeway.errors import HostError
from ropeway.hosts.base import Host
from ropeway.hosts.fleet import Outcome
from ropeway.weights.commands import staging_folder
from ropeway.weights.plan import in_publishing_order
from ropeway.weights.run import Run
from ropeway.weights.scripts import DISCARD, HOLD, PUBLISH
from ropeway.weights.survey import Peer

# What HOLD prints when it holds the folder, and its exit code when another does (EX_TEMPFAIL).
_READY, _HELD = "ready", 75
_LONGEST = 30 * 86400.0
_PUBLISH_SECONDS = 600.0
_TICK = 0.5


def hold_staging(run: Run, who: str, on_size: Callable[[str, int], None]) -> None:
    """Start HOLD on every remaining host, and wait until it holds the folder or has failed.

    who      what anyone else is told who wants to push to the same folder
    on_size  gets a host's name and the bytes in its staging folder, whenever they have changed
    """
    starting = {peer.name for peer in run.remaining()}

    def on_line(host: str, line: str) -> None:
        if line == _READY:
            starting.discard(host)
        elif line.isdecimal():
            on_size(host, int(line))

    def on_end(outcome: Outcome[None]) -> None:
        starting.discard(outcome.host.name)
        if outcome.error is not None:
            run.drop(outcome.host.name, outcome.error)

    def hold(peer: Peer, host: Host) -> None:
        staging = "" if peer is run.plan.source else staging_folder(peer.root)
        result = host.run(
            ("sh", "-c", HOLD.strip(), "sh", run.id, staging, who),
            timeout=_LONGEST,
            on_line=lambda line: run.pool.post(partial(on_line, peer.name, line)),
        )
        if result.exit_code == _HELD:
            holder = result.stdout.strip().partition(" ")[2]
            what = "another push is bringing files here"
            raise HostError(what, where=f"{peer.name}:{peer.root}", evidence=[holder])
        result.check("cannot prepare a folder for the files", where=peer.name)
        raise HostError("the command that holds the folder ended too early", where=peer.name)

    for peer in run.remaining():
        run.pool.submit(peer.host, partial(hold, peer), on_end)
    while starting:
        run.pool.handle_next(_TICK)


def discard(peer: Peer, names: Iterable[str]) -> None:
    """Remove files from a host's staging folder. Raises HostError."""
    peer.host.run(
        ("sh", "-c", DISCARD.strip(), "sh", staging_folder(peer.root)), stdin=_nul_ended(names)
    ).check("cannot remove files from the staging folder", where=peer.name)


def publish(run: Run, peer: Peer) -> None:
    """Move the verified files of a receiver into place, config.json last. Raises HostError."""
    peer.host.run(
        ("sh", "-c", PUBLISH.strip(), "sh", peer.root, staging_folder(peer.root)),
        stdin=_nul_ended(in_publishing_order(run.locations.staged(peer))),
        timeout=_PUBLISH_SECONDS,
    ).check("cannot move the files into place", where=f"{peer.name}:{peer.root}")


def _nul_ended(names: Iterable[str]) -> bytes:
    return "".join(f"{name}\0" for name in names).encode()

"""What the parts of a running push share, and the staging folders, where files arrive.

Only the thread that handles events changes a Run.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeVar

from ropeway.errors import HostError, RopewayError
from ropeway.hosts.base import Host
from ropeway.hosts.fleet import Outcome, WorkerPool, max_parallel, run_on_all
from ropeway.weights.commands import staging_folder
from ropeway.weights.plan import Locations, PushPlan, in_publishing_order
from ropeway.weights.scripts import DISCARD, HOLD, PUBLISH
from ropeway.weights.survey import Peer

# A receiver hashes what has just arrived; the source hashes everything before anyone can compare.
HASHES_ON_RECEIVER, HASHES_ON_SOURCE = 2, 4

# What HOLD prints when it holds the folder, and its exit code when another does (EX_TEMPFAIL).
_READY, _HELD = "ready", 75
_LONGEST = 30 * 86400.0
_PUBLISH_SECONDS = 600.0
_TICK = 0.5

T = TypeVar("T")


class Run:
    """A push while it runs.

    id         a random word that names the push on the hosts
    swarm      which host has which pieces, and which transfers are under way
    locations  where each file lies on each host
    errors     the hosts that have failed, and why
    mismatches (host, piece) → times that its hash was not the source's
    """

    def __init__(self, plan: PushPlan, push_id: str, on_fault: Callable[[str], None]) -> None:
        self.plan, self.id, self.on_fault = plan, push_id, on_fault
        # On each host one command holds the staging folder, one sends, and some hash.
        commands = len(plan.peers) * (2 + HASHES_ON_RECEIVER) + HASHES_ON_SOURCE
        self.pool = WorkerPool(min(commands, max_parallel()))
        self.swarm = plan.initial_state()
        self.locations = Locations(plan)
        self.errors: dict[str, RopewayError] = {}
        self.mismatches: Counter[tuple[str, int]] = Counter()

    def remaining(self) -> tuple[Peer, ...]:
        """Return the hosts reached over SSH that have not failed."""
        return tuple(peer for peer in self.plan.remote if peer.name not in self.errors)

    def drop(self, host: str, error: RopewayError) -> None:
        """Go on without a host that has failed. Raises the error when it is the source."""
        if host == self.plan.source.name:
            raise error
        if host not in self.errors:
            self.errors[host] = error
            self.swarm = self.swarm.without(host)

    def on_all(self, ask: Callable[[Peer], T]) -> dict[str, T]:
        """Ask the remaining hosts; drop those that fail; return the other results by host name."""
        peers = {peer.name: peer for peer in self.remaining()}
        hosts: tuple[Host, ...] = tuple(peer.host for peer in peers.values())
        results: dict[str, T] = {}
        for outcome in run_on_all(hosts, lambda host: ask(peers[host.name])):
            if outcome.error is not None:
                self.drop(outcome.host.name, outcome.error)
            else:
                results[outcome.host.name] = outcome.result  # type: ignore[assignment]
        return results


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

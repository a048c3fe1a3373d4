"""What the parts of a running push share; only the thread that handles events changes it."""

from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from ropeway.errors import Refused, RopewayError
from ropeway.hosts.base import Host
from ropeway.hosts.fleet import WorkerPool, max_parallel, run_on_all
from ropeway.weights.plan import Locations, PushPlan
from ropeway.weights.survey import Peer

# A receiver hashes what has just arrived; the source hashes everything before anyone can compare.
HASHES_ON_RECEIVER, HASHES_ON_SOURCE = 2, 4

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


def check_limits(plan: PushPlan) -> None:
    """Raise Refused when this machine cannot run a command on every host at the same time."""
    required = len(plan.peers) + 2
    if max_parallel() < required:
        raise Refused(
            f"a push to {len(plan.receivers)} hosts runs at least {required} commands at once, and"
            f" the limit of open files allows {max(0, max_parallel())}",
            hint="raise the limit in this shell: `ulimit -n 65536`",
        )

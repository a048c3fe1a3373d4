"""The transfers of a push: started as the schedule says, retried, given up."""

from collections import Counter
from collections.abc import Callable
from functools import partial

from ropeway.errors import RopewayError
from ropeway.hosts.base import Host
from ropeway.hosts.child import sleep_cancellable
from ropeway.hosts.fleet import Outcome
from ropeway.weights.run import Run
from ropeway.weights.schedule import Faults, Transfer, choose_transfers

_DISK_FULL = "No space left on device"
_LONGEST = 30 * 86400.0
_PAUSE = 2.0
# HOLD reports the bytes once a second. When the rest will have arrived in this many seconds at the
# present rate, the next transfer begins: its login takes 0.3 to 0.8 s, and the report is a second
# old.
_LEAD = 1.5


class Transfers:
    """Begins the transfers of a push, and decides what to do about those that fail.

    received  bytes of the pieces that each receiver got in this push
    failures  the last failure of a transfer to each receiver
    """

    def __init__(self, run: Run, on_arrival: Callable[[str, int], None]) -> None:
        self._run, self._on_arrival = run, on_arrival
        self.received: Counter[str] = Counter()
        self.failures: dict[str, RopewayError] = {}
        self._faults = Faults()
        self._staged: dict[str, tuple[int, int]] = {}  # bytes at first, and now

    @property
    def arrived_bytes(self) -> int:
        """Return how much has arrived on the receivers that have not failed."""
        return sum(
            max(0, now - first)
            for host, (first, now) in self._staged.items()
            if host not in self._run.errors
        )

    def start(self) -> None:
        """Begin every transfer that can go now."""
        run = self._run
        for transfer in choose_transfers(run.swarm):
            run.swarm = run.swarm.begin(transfer)
            argv = run.locations.send_argv(run.id, transfer)
            run.pool.submit(
                run.plan.peer(transfer.sender).host,
                partial(self._send, transfer, argv),
                partial(self._on_done, transfer),
            )

    def on_staged_bytes(self, host: str, size: int) -> None:
        """Note how much a host has staged, and whether the transfer to it is about to end."""
        first, before = self._staged.get(host, (size, size))
        self._staged[host] = (first, size)
        running = [transfer for transfer in self._run.swarm.running if transfer.receiver == host]
        expected = self.received[host] + sum(map(self._bytes, running))
        if 0 < expected - (size - first) <= _LEAD * (size - before):
            self._run.swarm = self._run.swarm.mark_ending(host)

    def _bytes(self, transfer: Transfer) -> int:
        """Return what a transfer sends; after a mismatch nothing of the piece is left there."""
        if self._run.mismatches[transfer.receiver, transfer.piece]:
            return self._run.plan.pieces[transfer.piece].size
        receiver = self._run.plan.peer(transfer.receiver)
        return self._run.plan.bytes_to_send(receiver, transfer.piece)

    def _send(self, transfer: Transfer, argv: tuple[str, ...], host: Host) -> None:
        result = host.run(("env", "LC_ALL=C", *argv), timeout=_LONGEST)
        if not result.ok:
            sleep_cancellable(_PAUSE)  # a link that is away for a moment must not fail twice in it
        piece = self._run.plan.pieces[transfer.piece]
        result.check(
            f"cannot send {piece.label} to {transfer.receiver}",
            where=transfer.sender,
            hint=_hint(result.stderr, transfer),
        )

    def _on_done(self, transfer: Transfer, outcome: Outcome[None]) -> None:
        run, error, receiver = self._run, outcome.error, transfer.receiver
        self._faults = self._faults.after(transfer, arrived=error is None)
        run.swarm = run.swarm.end(transfer, arrived=error is None)
        if receiver in run.errors:
            return
        if error is None:
            self.received[receiver] += self._bytes(transfer)
            self._on_arrival(receiver, transfer.piece)
            return
        self.failures[receiver] = error
        if self._faults.bars(transfer):
            run.swarm = run.swarm.bar(transfer.sender, receiver)
        disk_full = any(_DISK_FULL in line for line in error.evidence)
        if disk_full or self._faults.gives_up(receiver):
            run.drop(receiver, error)
        else:
            run.on_fault(f"{transfer.sender}: {error.what}; trying again")


def _hint(stderr: str, transfer: Transfer) -> str | None:
    """Return what to look at, going by what ssh and rsync printed on the sender."""
    if "Permission denied (" in stderr:
        receiver = transfer.receiver
        return f"does sshd of {receiver} read ~/.ssh/authorized_keys? see `sshd -T` there"
    if any(word in stderr for word in ("timed out", "No route", "refused", "unreachable")):
        return "is `cluster.nic` the network on which the hosts reach each other over SSH?"
    if "is your shell clean" in stderr:
        return f"a login on {transfer.receiver} prints something: see ~/.bashrc there"
    if "Host key verification failed" in stderr:
        return f"something between {transfer.sender} and {transfer.receiver} answers in its place"
    return None

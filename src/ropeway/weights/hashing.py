"""The hashes of a push: the source's first, then those of what every receiver has."""

from collections import Counter
from functools import partial

from ropeway.errors import HostError
from ropeway.hosts.base import Host
from ropeway.hosts.fleet import Outcome
from ropeway.weights.run import HASHES_ON_RECEIVER, HASHES_ON_SOURCE, Run, discard
from ropeway.weights.scripts import HASH
from ropeway.weights.survey import Peer

_UNREADABLE = "-"  # what HASH prints for such a file
_SECONDS = 6 * 3600.0
_MAX_MISMATCHES = 3  # times that a host is sent a piece again

Digests = tuple[str, ...]  # of the files of a piece, in their order


class Hashing:
    """Which pieces are still to be hashed on which host.

    A piece of a receiver whose hash is the source's is its own from then on and can be passed on;
    a piece whose hash differs is sent again.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._source = run.plan.source
        self._digests: dict[int, Digests] = {}  # the source's
        self._running: Counter[str] = Counter()
        self._waiting = {peer.name: set(run.plan.claimed(peer)) for peer in run.plan.receivers}
        self._waiting[self._source.name] = set(range(len(run.plan.pieces)))

    @property
    def idle(self) -> bool:
        return not self._running.total()

    @property
    def sha256(self) -> dict[str, str]:
        """Return name → hash, of the source's files."""
        return {
            file.name: digest
            for number, digests in sorted(self._digests.items())
            for file, digest in zip(self._run.plan.pieces[number].files, digests, strict=True)
        }

    def enqueue(self, host: str, piece: int) -> None:
        """Have a piece hashed that has arrived."""
        self._waiting[host].add(piece)

    def start(self) -> None:
        """Begin as many hashes as each host may run at once."""
        for peer in self._run.plan.peers:
            if peer.name in self._run.errors:
                continue
            on_source = peer is self._source
            room = HASHES_ON_SOURCE if on_source else HASHES_ON_RECEIVER
            room -= self._running[peer.name]
            waiting = self._waiting[peer.name]
            ready = sorted(piece for piece in waiting if on_source or piece in self._digests)
            for piece in ready[: max(0, room)]:
                waiting.discard(piece)
                self._running[peer.name] += 1
                self._run.pool.submit(
                    peer.host,
                    partial(self._hash, peer, piece, self._digests.get(piece)),
                    partial(self._on_done, peer, piece),
                )

    def _hash(self, peer: Peer, piece: int, expected: Digests | None, host: Host) -> Digests:
        """Hash a piece on its host; remove staged files that differ from `expected`."""
        files = self._run.plan.pieces[piece].files
        what = "cannot hash the model's files"
        paths = self._run.locations.paths(peer, files)
        argv = ("sh", "-c", HASH.strip(), "sh", *paths)
        result = host.run(argv, timeout=_SECONDS).check(what, where=peer.name)
        digests = tuple(result.stdout.split())
        if len(digests) != len(files):
            raise HostError(what, where=peer.name, evidence=result.stdout.splitlines()[:4])
        staged = self._run.locations.staged(peer)
        wrong = [
            file.name
            for file, digest, right in zip(files, digests, expected or digests, strict=True)
            if digest != right and file.name in staged
        ]
        if wrong:
            discard(peer, wrong)
        return digests

    def _on_done(self, peer: Peer, piece: int, outcome: Outcome[Digests]) -> None:
        run = self._run
        self._running[peer.name] -= 1
        if peer.name in run.errors:
            return
        if outcome.result is None:
            assert outcome.error is not None
            run.drop(peer.name, outcome.error)
        elif peer is self._source:
            self._check_readable(piece, outcome.result)
            self._digests[piece] = outcome.result
        elif outcome.result == self._digests[piece]:
            run.swarm = run.swarm.gain(peer.name, piece)
        else:
            self._on_mismatch(peer, piece)

    def _check_readable(self, piece: int, digests: Digests) -> None:
        if _UNREADABLE in digests:
            file = self._run.plan.pieces[piece].files[digests.index(_UNREADABLE)]
            where = f"{self._source.name}:{self._source.root}"
            raise HostError(f"cannot read {file.name}", where=where)

    def _on_mismatch(self, peer: Peer, number: int) -> None:
        """Have a piece sent again, up to a few times."""
        run, piece = self._run, self._run.plan.pieces[number]
        run.locations.restage(peer, piece.files)
        run.swarm = run.swarm.lose(peer.name, number)
        run.mismatches[peer.name, number] += 1
        if run.mismatches[peer.name, number] > _MAX_MISMATCHES:
            what = f"{piece.label} arrives there corrupted, every time it is sent"
            hint = f"is the memory or the disk of {peer.name} faulty? see dmesg"
            run.drop(peer.name, HostError(what, where=peer.name, hint=hint))
        else:
            run.on_fault(f"{peer.name}: {piece.label} differs from the source's; sending it again")

"""The push itself: keys, transfers and hashes side by side, and in the end every key revoked.

One loop handles what commands report and begins the next ones. A piece that has just arrived is
passed on at once and hashed meanwhile; a piece that was there before is passed on only when its
hash is the source's. No host gets anything into the model's folder before all of it is verified.
"""

import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from ropeway.errors import HostError, RopewayError
from ropeway.hosts.fleet import check_parallel
from ropeway.hosts.interrupts import uninterrupted
from ropeway.phrases import phrase
from ropeway.units import format_bytes, format_seconds
from ropeway.weights.hashing import Hashing
from ropeway.weights.plan import PushPlan, obstacle
from ropeway.weights.run import Run, discard, hold_staging, publish
from ropeway.weights.survey import Peer
from ropeway.weights.transfers import Transfers
from ropeway.weights.trust import Leftover, authorize, generate_key, revoke

_TICK = 0.5
_RATE_SECONDS = 10.0


@dataclass(frozen=True)
class Progress:
    """The progress of a push.

    done, total  bytes, of all receivers together
    rate         bytes per second, over the last ten seconds
    sending      transfers under way
    """

    done: int
    total: int
    rate: float
    sending: int

    def __str__(self) -> str:
        """Return `3.1 GiB of 12.4 GiB, 512.0 MiB/s, 18 s left, 3 sending`."""
        parts = [f"{format_bytes(self.done)} of {format_bytes(self.total)}"]
        if self.rate > 0:
            parts.append(f"{format_bytes(self.rate)}/s")
            if self.done < self.total:
                left = max(1.0, (self.total - self.done) / self.rate)
                parts.append(f"{format_seconds(left)} left")
        if self.sending:
            parts.append(f"{self.sending} sending")
        elif self.done >= self.total:
            parts.append("comparing hashes")
        return ", ".join(parts)


@dataclass(frozen=True)
class Delivery:
    """How the push to one receiver ended; for `extra` see PushPlan.extra."""

    host: str
    received_bytes: int
    error: RopewayError | None = None
    extra: tuple[str, ...] = ()

    def as_json(self) -> dict[str, object]:
        return {
            "host": self.host,
            "whole": self.error is None,
            "received_bytes": self.received_bytes,
            "extra": list(self.extra),
            "error": self.error.as_json() if self.error else None,
        }


@dataclass(frozen=True)
class PushResult:
    """How a push ended.

    seconds  from the first key to the last file in place
    sha256   name → hash, of the source's files
    """

    deliveries: tuple[Delivery, ...]
    seconds: float
    sha256: Mapping[str, str]

    @property
    def errors(self) -> tuple[RopewayError, ...]:
        return tuple(delivery.error for delivery in self.deliveries if delivery.error is not None)

    def as_json(self) -> dict[str, object]:
        return {
            "duration_s": round(self.seconds, 3),
            "sha256": dict(self.sha256),
            "deliveries": [delivery.as_json() for delivery in self.deliveries],
        }


def push(
    plan: PushPlan,
    *,
    who: str,
    on_progress: Callable[[Progress], None] = lambda _: None,
    on_fault: Callable[[str], None] = lambda _: None,
    on_leftover: Callable[[Leftover], None] = lambda _: None,
) -> PushResult:
    """Bring the model to every receiver. A host that fails is dropped; the others go on.

    who          what anyone else is told who wants to push to the same folder
    on_fault     gets a line about each failure that is retried
    on_leftover  gets each host on which a key could not be revoked

    Raises HostError when the source fails, Refused when this machine cannot serve so many hosts.
    """
    check_parallel(
        len(plan.peers) + 2, phrase("a push to {hosts} hosts", hosts=len(plan.receivers))
    )
    started = time.monotonic()
    run = Run(plan, secrets.token_hex(8), on_fault)
    hashing = Hashing(run)
    transfers = Transfers(run, on_arrival=hashing.enqueue)
    try:
        _prepare(run, who, transfers.on_staged_bytes)
        _deliver(run, hashing, transfers, on_progress)
        run.on_all(lambda peer: None if peer is plan.source else publish(run, peer))
    finally:
        with uninterrupted():
            run.pool.shutdown()
            for leftover in revoke(run.id, plan.remote):
                on_leftover(leftover)
    deliveries = tuple(
        Delivery(
            peer.name, transfers.received[peer.name], run.errors.get(peer.name), plan.extra(peer)
        )
        for peer in plan.receivers
    )
    return PushResult(deliveries, time.monotonic() - started, hashing.sha256)


def _prepare(run: Run, who: str, on_staged_bytes: Callable[[str, int], None]) -> None:
    """Check the room, make keys, hold and clean the staging folders, and exchange the keys."""
    plan = run.plan
    for peer in plan.receivers:
        if error := obstacle(plan, peer):
            run.drop(peer.name, error)
    needs_keys = len(run.remaining()) > 1  # a single host receives over our own connection
    keys = run.on_all(partial(generate_key, run.id)) if needs_keys else {}
    hold_staging(run, who, on_staged_bytes)

    def discard_stale(peer: Peer) -> None:
        if names := plan.stale(peer):
            discard(peer, names)

    run.on_all(discard_stale)
    if needs_keys:
        keys = {peer.name: keys[peer.name] for peer in run.remaining()}
        run.on_all(lambda peer: authorize(run.id, plan, peer, keys))


def _deliver(
    run: Run, hashing: Hashing, transfers: Transfers, on_progress: Callable[[Progress], None]
) -> None:
    """Send and hash until every host that has not failed has everything, verified."""
    samples: deque[tuple[float, int]] = deque()  # times, and the bytes that had arrived by then
    while True:
        hashing.start()
        transfers.start()
        if not run.swarm.running and hashing.idle:
            unreached = [host for host, pieces in run.swarm.wants.items() if pieces]
            if not unreached:
                return
            for host in unreached:
                why = HostError("no host that has the files reaches it", where=host)
                run.drop(host, transfers.failures.get(host, why))
        else:
            run.pool.handle_next(_TICK)
        on_progress(_progress(run, transfers, samples))


def _progress(run: Run, transfers: Transfers, samples: deque[tuple[float, int]]) -> Progress:
    """Measure the progress, and add it to the samples of the last ten seconds."""
    receivers = [peer for peer in run.plan.receivers if peer.name not in run.errors]
    total = sum(map(run.plan.bytes_to_get, receivers))
    arrived, now = transfers.arrived_bytes, time.monotonic()
    samples.append((now, arrived))
    while now - samples[0][0] > _RATE_SECONDS:
        samples.popleft()
    then, before = samples[0]
    rate = (arrived - before) / (now - then) if now - then >= 1 else 0.0
    return Progress(min(arrived, total), total, rate, len(run.swarm.running))

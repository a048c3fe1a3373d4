"""The push itself: keys, transfers and hashes side by side, and at the end all that was lent back.

One loop reads what has come of the commands and begins the next; what to begin is `schedule`'s to
say. A piece that has just arrived is passed on at once and hashed meanwhile; one that lay there
before only when its hash is the source's. On a host nothing takes its place in the model's folder
before all of it is verified.
"""

import secrets
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar, cast

from ropeway.errors import HostError, RopewayError
from ropeway.hosts.child import sleep_cancellable
from ropeway.hosts.fleet import run_on_all
from ropeway.hosts.interrupts import uninterrupted
from ropeway.weights.commands import hash_argv, stage_of
from ropeway.weights.crew import Crew, Event
from ropeway.weights.errand import Errand, folder_of, obstacle
from ropeway.weights.files import File, in_final_order
from ropeway.weights.schedule import Faults, Transfer, choose
from ropeway.weights.scripts import DISCARD, HOLD, SETTLE
from ropeway.weights.survey import Site
from ropeway.weights.trust import Left, admit, lend, take_back

_HELD = 75  # EX_TEMPFAIL: HOLD's word for "somebody else pushes here"
_READY = "ready"
_DISK_FULL = "No space left on device"
_LONGEST = 30 * 86400.0
_HASH_SECONDS = 6 * 3600.0
# The source hashes everything before anybody can compare; the others what has just arrived.
_HASHES_AT_ONCE, _HASHES_OF_SOURCE = 2, 4
_UNREADABLE = "-"  # what HASH says of such a file
_TICK = 0.5
_PAUSE = 2.0
# HOLD tells the bytes once a second. When at this rate what is left comes in so many seconds, the
# next transfer begins: its login takes 0.3 to 0.8 s, and the number that we have is a second old.
_LEAD = 1.5
_RATE_SECONDS = 10.0
_MOVE_SECONDS = 600.0
_AGAIN = 3  # times that a host is sent a piece whose hash is wrong


@dataclass(frozen=True)
class Hash:
    """A piece being hashed on a host."""

    host: str
    piece: int


@dataclass(frozen=True)
class Hold:
    """The command that runs on a host as long as we push."""

    host: str


T = TypeVar("T")

Job = Transfer | Hash | Hold


@dataclass(frozen=True)
class Progress:
    """How far it is: bytes of all receivers together, bytes a second of the last ten seconds."""

    done: int
    total: int
    rate: float
    sending: int
    verified: int
    hosts: int

    @property
    def seconds_left(self) -> float | None:
        return (self.total - self.done) / self.rate if self.rate > 0 else None


@dataclass(frozen=True)
class Delivery:
    """What came of one receiver. `received` bytes in this push; `extra` see Errand.extra."""

    host: str
    received: int
    error: RopewayError | None = None
    extra: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pushed:
    """The end of a push. `seconds` is from the first key to the last file in its place."""

    deliveries: tuple[Delivery, ...]
    seconds: float
    sha256: Mapping[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return all(one.error is None for one in self.deliveries)


def push(
    task: Errand,
    *,
    who: str,
    on_progress: Callable[[Progress], None] = lambda _: None,
    on_fault: Callable[[str], None] = lambda _: None,
    on_left: Callable[[Left], None] = lambda _: None,
) -> Pushed:
    """Bring the model to every receiver. A host that fails is in its delivery; the others go on.

    who      what others are told who find a host busy with this push
    on_fault hears of what went wrong and is tried again
    on_left  hears where the trust between hosts could not be taken back

    Raises HostError when the source itself fails.
    """
    number = secrets.token_hex(8)
    started = time.monotonic()
    run = _Run(task, number, on_progress, on_fault)
    try:
        run.open(who)
        run.deliver()
        run.settle()
    finally:
        with uninterrupted():
            run.crew.end()
            for left in take_back(number, task.remote):
                on_left(left)
    deliveries = tuple(
        Delivery(site.name, run.received[site.name], run.errors.get(site.name), task.extra(site))
        for site in task.receivers
    )
    return Pushed(deliveries, time.monotonic() - started, run.sha256)


class _Run:
    """What is known while it runs. `errors` are the hosts that have failed, and why."""

    def __init__(
        self,
        task: Errand,
        push: str,
        on_progress: Callable[[Progress], None],
        on_fault: Callable[[str], None],
    ) -> None:
        self.task, self.push = task, push
        self.on_progress, self.on_fault = on_progress, on_fault
        self.crew: Crew[Job] = Crew(len(task.sites) * (2 + _HASHES_AT_ONCE) + _HASHES_OF_SOURCE)
        self.errors: dict[str, RopewayError] = {}
        self.board = task.board()
        self.faults = Faults.none()
        self.kept = {site.name: set(task.kept(site)) for site in task.sites}
        self.digests: dict[int, tuple[str, ...]] = {}
        self.unhashed = {site.name: set(task.claimed(site)) for site in task.receivers}
        self.unhashed[task.source.name] = set(range(len(task.pieces)))
        self.verified: dict[str, set[int]] = {site.name: set() for site in task.receivers}
        self.hashing: set[Hash] = set()
        self.wrong: Counter[tuple[str, int]] = Counter()
        self.received: Counter[str] = Counter()
        self.stage_bytes: dict[str, tuple[int, int]] = {}  # at first, now
        self.total = sum(task.bytes_to_get(site) for site in task.receivers)
        self.rates: deque[tuple[float, int]] = deque()

    @property
    def sha256(self) -> dict[str, str]:
        """Name → hash, as the source has it."""
        return {
            file.name: digest
            for number, digests in sorted(self.digests.items())
            for file, digest in zip(self.task.pieces[number].files, digests, strict=True)
        }

    # Before the first transfer

    def open(self, who: str) -> None:
        """Room checked, stages held, keys exchanged. Who does not get so far is left out."""
        for site in self.task.receivers:
            if error := obstacle(self.task, site):
                self._drop(site.name, error)
        trusting = len(self._remote()) > 1  # a single one hears from us alone
        lent = self._everywhere(partial(lend, self.push)) if trusting else {}
        self._hold(who)
        self._everywhere(self._sweep)
        if trusting:
            present = {site.name for site in self._remote()}
            lent = {name: one for name, one in lent.items() if name in present}
            self._everywhere(lambda site: admit(self.push, self.task, site, lent))

    def _everywhere(self, ask: Callable[[Site], T]) -> dict[str, T]:
        """The answers of the hosts that have not failed; who fails now has."""
        sites = {site.name: site for site in self._remote()}
        answers: dict[str, T] = {}
        for one in run_on_all([s.host for s in sites.values()], lambda host: ask(sites[host.name])):
            if one.ok:
                answers[one.host.name] = cast(T, one.result)
            else:
                self._drop(one.host.name, one.error)
        return answers

    def _sweep(self, site: Site) -> None:
        """What an earlier push of another model has left."""
        if stale := self.task.stale(site):
            self._discard(site, stale)

    def _remote(self) -> tuple[Site, ...]:
        return tuple(site for site in self.task.remote if site.name not in self.errors)

    def _hold(self, who: str) -> None:
        """Begin HOLD everywhere, and wait until all of them hold."""
        waiting = {site.name for site in self._remote()}
        for site in self._remote():
            self.crew.go(Hold(site.name), partial(self._hold_one, site, who))
        while waiting:
            event = self.crew.next(_TICK)
            if event is not None:
                self._hear(event)
                if isinstance(event.about, Hold) and (event.ended or event.value == _READY):
                    waiting.discard(event.about.host)

    def _hold_one(self, site: Site, who: str) -> None:
        job = Hold(site.name)
        stage = "" if site is self.task.source else stage_of(site.root)
        result = site.host.run(
            ("sh", "-c", HOLD.strip(), "sh", self.push, stage, who),
            timeout=_LONGEST,
            on_line=lambda line: self.crew.say(job, line),
        )
        if result.exit_code == _HELD:
            holder = result.stdout.strip().partition(" ")[2]
            what = "another push is bringing files here"
            raise HostError(what, where=f"{site.name}:{site.root}", evidence=[holder])
        result.check("cannot make a place for the files", where=site.name)
        raise HostError("the push ended there before its time", where=site.name)

    # Transfers and hashes

    def deliver(self) -> None:
        """Until every host that has not failed has all of it, verified."""
        while True:
            self._begin_hashes()
            for transfer in choose(self.board):
                self.board = self.board.begin(transfer)
                self.crew.go(transfer, partial(self._send, transfer))
            if not self.board.running and not self.hashing:
                waiting = [name for name, wanted in self.board.wants.items() if wanted]
                if not waiting:
                    return
                for name in waiting:
                    self._drop(name, HostError("no host that has the files reaches it", where=name))
            elif (event := self.crew.next(_TICK)) is not None:
                self._hear(event)
            self._tell()

    def _begin_hashes(self) -> None:
        source = self.task.source.name
        for host, waiting in self.unhashed.items():
            running = sum(one.host == host for one in self.hashing)
            room = (_HASHES_OF_SOURCE if host == source else _HASHES_AT_ONCE) - running
            ready = sorted(n for n in waiting if host == source or n in self.digests)
            for number in ready[: max(0, room)]:
                waiting.discard(number)
                job = Hash(host, number)
                self.hashing.add(job)
                self.crew.go(job, partial(self._hash, job))

    def _hear(self, event: Event[Job]) -> None:
        if isinstance(event.about, Transfer):
            self._sent(event.about, event.error)
        elif isinstance(event.about, Hash):
            self._hashed(event.about, cast(tuple[str, ...], event.value or ()), event.error)
        elif event.ended:
            self._drop(event.about.host, event.error)
        elif str(event.value).isdecimal():
            host, now = event.about.host, int(str(event.value))
            self._grown(host, now)

    def _grown(self, host: str, now: int) -> None:
        """A stage holds so many bytes. In a second or so all that is on its way may have come."""
        before, last = self.stage_bytes.get(host, (now, now))
        self.stage_bytes[host] = (before, now)
        coming = sum(self._bytes(one) for one in self.board.running if one.receiver == host)
        missing = self.received[host] + coming - (now - before)
        if 0 < missing <= _LEAD * (now - last):
            self.board = self.board.soon_over(host)

    def _bytes(self, transfer: Transfer) -> int:
        """What a transfer brings."""
        receiver, piece = transfer.receiver, transfer.piece
        resumed = not self.wrong[receiver, piece]
        return self.task.bytes_of(receiver, piece, resumed=resumed)

    def _send(self, transfer: Transfer) -> None:
        sender, kept = self.task.site(transfer.sender), frozenset(self.kept[transfer.sender])
        argv = self.task.send(self.push, transfer, partial(folder_of, sender, kept))
        result = sender.host.run(("env", "LC_ALL=C", *argv), timeout=_LONGEST)
        if not result.ok:
            sleep_cancellable(_PAUSE)  # a link that is away for a moment must not fail twice in it
        result.check(
            f"cannot send {self.task.pieces[transfer.piece].label} to {transfer.receiver}",
            where=transfer.sender,
            hint=_hint(result.stderr, transfer),
        )

    def _sent(self, transfer: Transfer, error: RopewayError | None) -> None:
        self.faults = self.faults.after(transfer, arrived=error is None)
        self.board = self.board.end(transfer, arrived=error is None)
        receiver = transfer.receiver
        if receiver in self.errors:
            return
        if error is None:
            self.unhashed[receiver].add(transfer.piece)
            self.received[receiver] += self._bytes(transfer)
            return
        full = any(_DISK_FULL in line for line in error.evidence)
        if self.faults.bars(transfer):
            self.board = self.board.bar(transfer.sender, receiver)
        if full or self.faults.gives_up(receiver) or self._is_cut_off(receiver):
            self._drop(receiver, error)
        else:
            self.on_fault(f"{transfer.sender}: {error.what}; it is tried again")

    def _is_cut_off(self, receiver: str) -> bool:
        """Whether nobody who has anything for it reaches it."""
        wanted = self.board.wants.get(receiver, frozenset())
        return not any(
            held & wanted and (sender, receiver) not in self.board.barred
            for sender, held in self.board.has.items()
        )

    def _hash(self, job: Hash) -> tuple[str, ...]:
        site, kept = self.task.site(job.host), frozenset(self.kept[job.host])
        files = self.task.pieces[job.piece].files
        paths = [f"{folder_of(site, kept, file.name)}/{file.name}" for file in files]
        result = site.host.run(hash_argv(paths), timeout=_HASH_SECONDS)
        digests = tuple(result.stdout.split())
        if len(digests) != len(files):
            result.check("cannot hash the model's files", where=site.name)
            raise HostError("cannot hash the model's files", where=site.name)
        expected = self.digests.get(job.piece)
        if expected and (wrong := _differing(files, digests, expected, kept)):
            self._discard(site, wrong)
        return digests

    def _hashed(self, job: Hash, digests: tuple[str, ...], error: RopewayError | None) -> None:
        self.hashing.discard(job)
        if job.host == self.task.source.name:
            if error is None and _UNREADABLE in digests:
                file = self.task.pieces[job.piece].files[digests.index(_UNREADABLE)].name
                error = HostError(
                    f"cannot read {file}", where=f"{job.host}:{self.task.source.root}"
                )
            if error is not None:
                raise error
            self.digests[job.piece] = digests
        elif job.host in self.errors:
            return
        elif error is not None:
            self._drop(job.host, error)
        elif digests == self.digests[job.piece]:
            self.verified[job.host].add(job.piece)
            self.board = self.board.gain(job.host, job.piece)
        else:
            self._differs(job)

    def _differs(self, job: Hash) -> None:
        """What is there is not the source's: it is sent again, some times."""
        piece = self.task.pieces[job.piece]
        names = {file.name for file in piece.files}
        self.kept[job.host] -= names
        self.board = self.board.lose(job.host, job.piece)
        self.wrong[job.host, job.piece] += 1
        if self.wrong[job.host, job.piece] > _AGAIN:
            what = f"{piece.label} arrives there, and is not what was sent"
            hint = f"is the memory of {job.host} sound, is its disk? see dmesg"
            self._drop(job.host, HostError(what, where=job.host, hint=hint))
        else:
            self.on_fault(f"{job.host}: {piece.label} differs from the source's; it is sent again")

    def _discard(self, site: Site, names: tuple[str, ...]) -> None:
        """Remove files from a host's stage."""
        read = "".join(f"{name}\0" for name in names).encode()
        site.host.run(("sh", "-c", DISCARD.strip(), "sh", stage_of(site.root)), stdin=read).check(
            "cannot remove files of an earlier push", where=site.name
        )

    def _drop(self, host: str, error: RopewayError | None) -> None:
        """A host has failed. If it is the source, so has the push."""
        error = error or HostError("it failed without a word", where=host)
        if host == self.task.source.name:
            raise error
        if host not in self.errors:
            self.errors[host] = error
            self.board = self.board.without(host)
            self.unhashed.pop(host, None)

    def _tell(self) -> None:
        arrived = sum(
            max(0, now - before)
            for host, (before, now) in self.stage_bytes.items()
            if host not in self.errors
        )
        total = self.total - sum(
            self.task.bytes_to_get(site) for site in self.task.receivers if site.name in self.errors
        )
        now = time.monotonic()
        self.rates.append((now, arrived))
        while now - self.rates[0][0] > _RATE_SECONDS:
            self.rates.popleft()
        then, had = self.rates[0]
        rate = (arrived - had) / (now - then) if now - then >= 1 else 0.0
        verified = sum(
            len(found) for host, found in self.verified.items() if host not in self.errors
        )
        hosts = len(self.task.receivers) - len(self.errors)
        sending = len(self.board.running)
        self.on_progress(Progress(min(arrived, total), total, rate, sending, verified, hosts))

    # After the last

    def settle(self) -> None:
        """On every host that has all of it: the files take their place, config.json last."""
        self._everywhere(self._move)

    def _move(self, site: Site) -> None:
        if site is self.task.source:
            return
        names = {file.name for piece in self.task.pieces for file in piece.files}
        moving = in_final_order(names - self.kept[site.name])
        site.host.run(
            ("sh", "-c", SETTLE.strip(), "sh", site.root, stage_of(site.root)),
            stdin="".join(f"{name}\0" for name in moving).encode(),
            timeout=_MOVE_SECONDS,
        ).check("cannot move the files to their place", where=f"{site.name}:{site.root}")


def _differing(
    files: Sequence[File],
    digests: Sequence[str],
    expected: Sequence[str],
    kept: frozenset[str],
) -> tuple[str, ...]:
    """Files in the stage that are not the source's."""
    return tuple(
        file.name
        for file, found, wanted in zip(files, digests, expected, strict=True)
        if found != wanted and file.name not in kept
    )


def _hint(said: str, transfer: Transfer) -> str | None:
    """What to look at, by what ssh and rsync said on the sender."""
    if "Permission denied (" in said:
        there = transfer.receiver
        return f"does sshd of {there} read ~/.ssh/authorized_keys? see `sshd -T` there"
    if any(word in said for word in ("timed out", "No route", "refused", "unreachable")):
        return "is `cluster.nic` the network on which the hosts reach each other over SSH?"
    if "is your shell clean" in said:
        return f"a login on {transfer.receiver} prints something: see ~/.bashrc there"
    if "Host key verification failed" in said:
        return f"something between {transfer.sender} and {transfer.receiver} answers in its place"
    return None

"""Who changes what runs on a host: the author, the lock they hold, the audit log.

The lock is held by a process on the host that lives as long as our connection: `flock` on a folder.
Whatever ends us, Ctrl-C, a dead laptop, a cut cable, ends the connection, so a lock is never left
behind: it goes at once where the host hears of the end, else when the host's TCP gives up (Linux: a
quarter of an hour), for the process has something to say all the time. Beside it a file says who
holds it and since when; it counts only while the lock is held.
"""

import getpass
import json
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial

from ropeway.errors import CheckFailed, HostError, RopewayError, TimeLimit
from ropeway.facts.redaction import redact
from ropeway.hosts.base import Host, Result, room_hint
from ropeway.hosts.fleet import (
    Outcome,
    WorkerPool,
    check_parallel,
    run_on_all,
    run_on_all_or_raise,
)
from ropeway.hosts.interrupts import uninterrupted
from ropeway.phrases import joined, phrase
from ropeway.units import counted


@dataclass(frozen=True)
class Author:
    """Who changes what runs.

    who    `user@machine`
    run    a word that no other run has
    since  UTC, like 2026-11-28T03:00:00Z
    """

    who: str
    run: str
    since: str

    def as_holder(self) -> str:
        """Return the author as the file beside a lock names its holder."""
        return json.dumps(asdict(self))


def current_author() -> Author:
    """Return the author of this run: the user of this process, now."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without a name
        user = str(os.getuid())
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Author(f"{user}@{socket.gethostname()}", secrets.token_hex(6), now)


HELD, FREE = "ropeway: locked", "ropeway: not locked"
_LONGEST_SECONDS = 7 * 86_400.0  # a start takes minutes
_ANSWER_SECONDS = 60.0
_TICK_SECONDS = 0.5

# Where Ropeway keeps things on a host: here for root, else below its home. The folder itself is
# locked, so that no file is needed that another might own.
ROOTS_FOLDER = "/var/lib/ropeway"
BASE = f"""base={ROOTS_FOLDER}
[ "$(id -u)" = 0 ] || base=$HOME/.ropeway
mkdir -p "$base" || exit 3"""
# $1: who we are; with a second word nobody else may have had it since. The shell has the lock and
# ends when the connection does (hosts/remote.py). Its empty lines are for one that dies in silence:
# TCP notices only when there is something to send.
LOCK = f"""
{BASE}
exec 9<"$base" || exit 3
flock -n 9
case $? in
  0) [ $# = 1 ] || [ "$(cat "$base/holder")" = "$1" ] || {{ cat "$base/holder"; exit 5; }};;
  1) cat "$base/holder" 2>/dev/null; exit 4;;
  *) exit 3;;
esac
printf %s "$1" >"$base/holder" || exit 3
echo "{HELD}"
while sleep 10 && echo; do :; done
"""
# Whether nobody has the lock any more, and who had it last. If that is us ($1), carry out the
# command in the other arguments, if there is one.
CHECK = f"""
{BASE}
exec 9<"$base" || exit 3
! flock -n 9 || echo "{FREE}"
exec 9<&-
holder=$(cat "$base/holder" 2>/dev/null)
printf "%s\\n" "$holder"
[ "$holder" = "$1" ] || exit 0
shift
[ $# = 0 ] || exec "$@"
"""


class Lock:
    """The lock of several hosts, for as long as `locked` lasts."""

    def __init__(self, author: Author, hosts: Sequence[Host]) -> None:
        self.author = author
        self._hosts = {host.name: host for host in hosts}
        # Twice as many: the old connection of a lock that is taken again may not have ended yet.
        self._pool = WorkerPool(2 * len(hosts))

    def take(self, hosts: Sequence[Host], *more: str) -> None:
        """Take the lock of these of its hosts; see `locked`. `more` words are for LOCK."""
        waiting = {host.name for host in hosts}
        errors: dict[str, RopewayError | None] = {}

        def hold(host: Host) -> None:
            """Hold the lock until it is given back or the connection breaks."""

            def on_line(line: str) -> None:
                if line.strip() == HELD:
                    self._pool.post(partial(waiting.discard, host.name))

            argv = ("sh", "-c", LOCK, "sh", self.author.as_holder(), *more)
            raise _refusal(host, host.run(argv, timeout=_LONGEST_SECONDS, on_line=on_line))

        def on_end(outcome: Outcome[None]) -> None:
            waiting.discard(outcome.host.name)
            errors[outcome.host.name] = outcome.error

        with uninterrupted():
            for host in hosts:
                self._pool.submit(host, hold, on_end)
        deadline = time.monotonic() + _ANSWER_SECONDS
        while waiting:
            self._pool.handle_next(_TICK_SECONDS)
            if time.monotonic() > deadline:
                where = next(host.name for host in hosts if host.name in waiting)
                raise TimeLimit(phrase("the lock was not granted in time"), where=where)
        for host in hosts:
            if error := errors.get(host.name):
                raise error

    def ensure_held(
        self,
        then: Mapping[str, Sequence[str]] | None = None,
        purpose: str = "",
        *,
        on: Iterable[Host] | None = None,
    ) -> None:
        """Make sure that the lock is still ours on every host. Where it is only gone, retake it.

        then     host → a command to carry out there, in the same round trip, if the lock is ours
        purpose  what has failed when that command fails: "cannot set the restart policy"
        on       those of its hosts that are asked; None: all of them

        Raises HostError when somebody else has the lock of some host, or has had it since: our
        connection broke, or they used force.
        """
        holder = self.author.as_holder()
        commands = then or {}

        def ask(host: Host) -> tuple[bool, str]:
            command = commands.get(host.name, ())
            result = host.run(("sh", "-c", CHECK, "sh", holder, *command), timeout=120.0)
            first, _, rest = result.stdout.partition("\n")
            last = (rest if first == FREE else result.stdout).partition("\n")[0]
            checked = bool(command) and last == holder
            failed = purpose if checked else phrase("cannot ask for the lock")
            result.check(failed, where=host.name)
            return first == FREE, last.strip()

        hosts = self._hosts if on is None else {host.name: self._hosts[host.name] for host in on}
        answers = run_on_all_or_raise(hosts, ask)
        lost = {name: _loss(free, last) for name, (free, last) in answers.items() if last != holder}
        if lost:
            raise _lost(lost)
        self.take([self._hosts[name] for name, (free, _) in answers.items() if free], "again")

    def release(self) -> None:
        """Give the lock of all hosts back."""
        with uninterrupted():
            self._pool.shutdown("the lock is given back")


@contextmanager
def locked(hosts: Sequence[Host], author: Author) -> Iterator[Lock]:
    """Hold the lock of all hosts inside the block.

    Raises CheckFailed, with the holder and since when, where somebody else has it; HostError when a
    host cannot be asked. Each user of a host has another lock.
    """
    check_parallel(len(hosts) + 1, phrase("the lock of {hosts} hosts", hosts=len(hosts)))
    lock = Lock(author, hosts)
    try:
        lock.take(hosts)
        yield lock
    finally:
        lock.release()


def _refusal(host: Host, result: Result) -> RopewayError:
    """Return why the lock was not granted, by the end of the command that was to hold it."""
    output = result.stdout or result.stderr
    if result.exit_code == 5:
        return _lost({host.name: _loss(True, output.strip())})
    if result.exit_code == 4:
        who, since = _holder_in(output)
        return CheckFailed(
            phrase(
                "{who} has been changing what runs on this host since {since}",
                who=who, since=since,
            ),
            where=host.name,
            hint=phrase(
                "wait until that is done, and try again\nthe lock is released when its holder"
                " disconnects, or 15 minutes after the holder loses power or network"
            ),
        )  # fmt: skip
    return HostError(
        phrase("cannot lock the host"),
        where=host.name,
        evidence=tuple(output.strip().splitlines()[-3:]),
        hint=room_hint(output)
        or phrase("it needs `flock` (util-linux), and a home that can be written to"),
    )


def _lost(reasons: Mapping[str, str]) -> HostError:
    return HostError(
        phrase("the lock was lost, and others may change what runs there"),
        where=joined(reasons, ", "),
        evidence=tuple(
            phrase("{name}: {reason}", name=name, reason=reason) for name, reason in reasons.items()
        ),
        hint=phrase("`ropeway status` shows what runs; `ropeway down` removes what is left"),
    )


def _loss(free: bool, holder: str) -> str:
    """Say how the lock was lost: whether it is free now, and who had it last."""
    if not holder:
        return phrase("its folder was removed")
    who, since = _holder_in(holder)
    if free:
        return phrase("{who} took it at {since}, and has released it", who=who, since=since)
    return phrase("{who} took it at {since}, and has it now", who=who, since=since)


def _holder_in(text: str) -> tuple[str, str]:
    """Read who holds a lock, and since when."""
    try:
        holder = json.loads(text)
        return str(holder["who"]), str(holder["since"])
    except (ValueError, KeyError, TypeError):
        return phrase("somebody else"), phrase("some time ago")


APPEND = f'{BASE}\nprintf "%s\\n" "$1" >>"$base/audit.log"'
TAIL = f'{BASE}\ntail -n 200 "$base/audit.log" 2>/dev/null; true'


@contextmanager
def audited(
    hosts: Iterable[Host], author: Author, service: str, verb: str, warn: Callable[[str], None]
) -> Iterator[None]:
    """Write the outcome of the block into the audit log of each host.

    One warning names the hosts on which that fails.
    """
    outcome = "interrupted"
    try:
        yield
        outcome = "done"
    except Exception as error:
        outcome = f"failed: {redact(str(error))}"  # others may read this log
        raise
    finally:
        entry = {**asdict(author), "verb": verb, "service": service, "outcome": outcome}
        argv = ("sh", "-c", APPEND, "sh", json.dumps(entry))

        def append(host: Host) -> None:
            host.run(argv).check(phrase("cannot write the audit log"), where=host.name)

        outcomes = run_on_all(tuple(hosts), append)
        failures = [
            phrase("{host}: {reason}", host=one.host.name, reason=_reason(one.error))
            for one in outcomes
            if one.error
        ]
        if failures:
            warn(
                phrase(
                    "the audit log could not be written on {n} of {hosts}: {reasons}",
                    n=len(failures), hosts=counted(len(outcomes), "host"),
                    reasons=joined(failures),
                )
            )  # fmt: skip


def read_audit(host: Host) -> str:
    """Return the last lines of a host's audit log. Raises HostError."""
    return host.run(("sh", "-c", TAIL)).stdout


def _reason(error: RopewayError) -> str:
    """Return an error on one line: the last words of the host, else what is wrong."""
    return next((line for line in reversed(error.evidence) if line.strip()), error.what)

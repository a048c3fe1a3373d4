"""One start at a time on each host, and who made it.

The lock is held by a process on the host that lives as long as our connection: `flock` on a folder.
Whatever ends us, Ctrl-C, a dead laptop, a cut cable, ends the connection, so a lock is never left
behind: it goes at once where the host hears of the end, else when the host's TCP gives up (Linux: a
quarter of an hour), for the process has something to say all the time. Beside it a file says who
holds it and since when; it counts only while the lock is held.
"""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from ropeway.errors import HostError, Refused, RopewayError, TimeLimit
from ropeway.hosts.base import Host, room_hint
from ropeway.hosts.child import CancelToken, cancellable
from ropeway.hosts.fleet import run_on_all_or_raise
from ropeway.launch.labels import Author

HELD, FREE = "ropeway: locked", "ropeway: not locked"
_LONG = 7 * 86_400.0  # seconds; a start takes minutes
_ANSWER = 60.0  # seconds

# Where Ropeway keeps things on a host; complete.py says the same from facts. $1: who we are. The
# folder itself is locked, so that no file is needed that another might own. The shell has the lock
# and ends when the connection does (hosts/remote.py). Its empty lines are for one that dies in
# silence: TCP finds out only when there is something to send.
BASE = """base=/var/lib/ropeway
[ "$(id -u)" = 0 ] || base=$HOME/.ropeway
mkdir -p "$base" || exit 3"""
LOCK = f"""
{BASE}
exec 9<"$base" || exit 3
flock -n 9 || {{ cat "$base/holder" 2>/dev/null; exit 4; }}
printf %s "$1" >"$base/holder" || exit 3
echo "{HELD}"
while sleep 10 && echo; do :; done
"""
# Who had the lock last, and first of all whether nobody has it any more.
ASK = f"""
{BASE}
exec 9<"$base" || exit 3
! flock -n 9 || echo "{FREE}"
cat "$base/holder" 2>/dev/null; true
"""
AUDIT = f'{BASE}\nprintf "%s\\n" "$1" >>"$base/audit.log"'
AUDITED = f'{BASE}\ntail -n 200 "$base/audit.log" 2>/dev/null; true'


@dataclass
class _Claim:
    """The lock of one host: its thread, and what became of it."""

    host: Host
    held: threading.Event
    ended: threading.Event
    output: str = ""
    code: int | None = None
    error: RopewayError | None = None


class Lock:
    """The lock of several hosts, for as long as `locked` lasts."""

    def __init__(self, author: Author) -> None:
        self.author = author
        self._claims: list[_Claim] = []
        self._stop = CancelToken()

    def take(self, hosts: Sequence[Host]) -> None:
        """See `locked`."""
        claims = [_Claim(host, threading.Event(), threading.Event()) for host in hosts]
        self._claims += claims
        for claim in claims:
            given = (claim, self.author, self._stop)
            threading.Thread(target=_hold, args=given, daemon=True).start()
        _wait(claims)

    def check(self) -> None:
        """Raises HostError when somebody else has it on some host, or has had it since: the
        connection broke, or they used force. Where it is only gone, it is taken again."""
        mine = holder(self.author)
        hosts = {claim.host.name: claim.host for claim in self._claims}

        def ask(host: Host) -> tuple[bool, str]:
            result = host.run(("sh", "-c", ASK)).check("cannot ask for the lock", where=host.name)
            first, _, rest = result.stdout.partition("\n")
            return first == FREE, (rest if first == FREE else result.stdout).strip()

        said = run_on_all_or_raise(hosts, ask)
        lost = {name: _loss(free, last) for name, (free, last) in said.items() if last != mine}
        if lost:
            raise HostError(
                "the lock was lost, and others may change what runs there",
                where=", ".join(lost),
                evidence=tuple(f"{name}: {why}" for name, why in lost.items()),
                hint="`ropeway status` shows what runs; `ropeway down` takes away what is left",
            )
        self.take([hosts[name] for name, (free, _) in said.items() if free])

    def give_back(self) -> None:
        """On all hosts."""
        self._stop.cancel("the lock is given back")
        for claim in self._claims:
            claim.ended.wait(5.0)


@contextmanager
def locked(hosts: Sequence[Host], author: Author) -> Iterator[Lock]:
    """Nobody else starts or ends anything on these hosts meanwhile, unless the lock is lost: check
    it before a step that would do harm then.

    Raises Refused, naming the holder, when somebody does; HostError for a host that cannot be
    asked. As another user of the host one has another lock.
    """
    lock = Lock(author)
    try:
        lock.take(hosts)
        yield lock
    finally:
        lock.give_back()


def audit(host: Host, author: Author, verb: str, service: str, outcome: str) -> None:
    """Write down on the host who did what. Raises HostError."""
    line = json.dumps({**asdict(author), "verb": verb, "service": service, "outcome": outcome})
    host.run(("sh", "-c", AUDIT, "sh", line)).check("cannot write the audit", where=host.name)


def read_audit(host: Host) -> str:
    """The last lines of what was written down on this host. Raises HostError."""
    return host.run(("sh", "-c", AUDITED)).stdout


def holder(author: Author) -> str:
    """What stands in the file beside the lock."""
    return json.dumps(asdict(author))


def _hold(claim: _Claim, author: Author, stop: CancelToken) -> None:
    def heard(line: str) -> None:
        if line.strip() == HELD:
            claim.held.set()

    argv = ("sh", "-c", LOCK, "sh", holder(author))
    try:
        with cancellable(stop):
            result = claim.host.run(argv, timeout=_LONG, on_line=heard)
        claim.code, claim.output = result.exit_code, result.stdout or result.stderr
    except RopewayError as error:
        claim.error = error
    finally:
        claim.ended.set()
        claim.held.set()  # so that nobody waits for it; `ended` tells the two apart


def _wait(claims: Sequence[_Claim]) -> None:
    for claim in claims:
        if not claim.held.wait(_ANSWER):
            raise TimeLimit("the lock was not granted in time", where=claim.host.name)
    for claim in claims:
        if claim.ended.is_set():
            raise _refusal(claim)


def _refusal(claim: _Claim) -> RopewayError:
    if claim.error is not None:
        return claim.error
    if claim.code == 4:
        who, since = _holder(claim.output)
        return Refused(
            f"{who} is changing what runs on this host, since {since}",
            where=claim.host.name,
            hint="wait until that is done, and try again\nthe lock goes with its holder; where that"
            " has lost power or network, a quarter of an hour later",
        )
    return HostError(
        "cannot lock the host",
        where=claim.host.name,
        evidence=tuple(claim.output.strip().splitlines()[-3:]),
        hint=room_hint(claim.output)
        or "it needs `flock` (util-linux), and a home that can be written to",
    )


def _loss(free: bool, last: str) -> str:
    """How the lock was lost: whether nobody has it now, and who had it last."""
    if not last:
        return "its folder was removed"
    who, since = _holder(last)
    return f"{who} took it, {since}" + (", and has given it back" if free else ", and has it now")


def _holder(text: str) -> tuple[str, str]:
    try:
        found = json.loads(text)
        return str(found["who"]), str(found["since"])
    except (ValueError, KeyError, TypeError):
        return "somebody else", "some time ago"

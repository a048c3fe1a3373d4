"""One start at a time on each host, and who made it.

The lock is held by a process on the host that lives as long as our connection: `flock` on a folder.
Whatever ends us, Ctrl-C, a dead laptop, a cut cable, ends the connection, so a lock is never left
behind. Beside it a file says who holds it and since when; it counts only while the lock is held.
"""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from ropeway.errors import HostError, Refused, RopewayError, TimeLimit
from ropeway.hosts.base import Host
from ropeway.hosts.child import Stop, under
from ropeway.launch.labels import Author

HELD = "ropeway: locked"
_LONG = 7 * 86_400.0  # seconds; a start takes minutes
_ANSWER = 60.0  # seconds

# Where Ropeway keeps things on a host; complete.py says the same from facts. $1: who we are. The
# folder itself is locked, so that no file is needed that another might own. The sleep has the lock
# and ends when the connection does (hosts/remote.py).
BASE = """base=/var/lib/ropeway
[ "$(id -u)" = 0 ] || base=$HOME/.ropeway
mkdir -p "$base" || exit 3"""
LOCK = f"""
{BASE}
exec 9<"$base" || exit 3
flock -n 9 || {{ cat "$base/holder" 2>/dev/null; exit 4; }}
printf %s "$1" >"$base/holder" || exit 3
echo "{HELD}"
exec sleep 604800
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


@contextmanager
def locked(hosts: Sequence[Host], author: Author) -> Iterator[None]:
    """Nobody else starts or ends anything on these hosts meanwhile.

    Raises Refused, naming the holder, when somebody does; HostError for a host that cannot be
    asked. As another user of the host one has another lock.
    """
    stop = Stop()
    claims = [_Claim(host, threading.Event(), threading.Event()) for host in hosts]
    threads = [
        threading.Thread(target=_hold, args=(claim, author, stop), daemon=True) for claim in claims
    ]
    try:
        for thread in threads:
            thread.start()
        _wait(claims)
        yield
    finally:
        stop.now("the lock is given back")
        for claim in claims:
            claim.ended.wait(5.0)


def audit(host: Host, author: Author, verb: str, service: str, outcome: str) -> None:
    """Write down on the host who did what. Raises HostError."""
    line = json.dumps({**asdict(author), "verb": verb, "service": service, "outcome": outcome})
    host.run(("sh", "-c", AUDIT, "sh", line)).check("cannot write the audit", where=host.name)


def read_audit(host: Host) -> str:
    """The last lines of what was written down on this host. Raises HostError."""
    return host.run(("sh", "-c", AUDITED)).stdout


def _hold(claim: _Claim, author: Author, stop: Stop) -> None:
    def heard(line: str) -> None:
        if line.strip() == HELD:
            claim.held.set()

    argv = ("sh", "-c", LOCK, "sh", json.dumps(asdict(author)))
    try:
        with under(stop):
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
        holder, since = _holder(claim.output)
        return Refused(
            f"{holder} is changing what runs on this host, since {since}",
            where=claim.host.name,
            hint="wait until that is done, and try again; the lock goes with its holder",
        )
    return HostError(
        "cannot lock the host",
        where=claim.host.name,
        evidence=tuple(claim.output.strip().splitlines()[-3:]),
        hint="it needs `flock` (util-linux), and a home that can be written to",
    )


def _holder(text: str) -> tuple[str, str]:
    try:
        found = json.loads(text)
        return str(found["who"]), str(found["since"])
    except (ValueError, KeyError, TypeError):
        return "somebody else", "some time ago"

"""The audit log of a host: who changed what, when, and what came of it."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict

from ropeway.errors import RopewayError
from ropeway.hosts.base import Host
from ropeway.hosts.fleet import run_on_all
from ropeway.launch.author import Author
from ropeway.launch.lock import BASE

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
        outcome = f"failed: {error}"
        raise
    finally:
        entry = {**asdict(author), "verb": verb, "service": service, "outcome": outcome}
        argv = ("sh", "-c", APPEND, "sh", json.dumps(entry))

        def append(host: Host) -> None:
            host.run(argv).check("cannot write the audit log", where=host.name)

        outcomes = run_on_all(tuple(hosts), append)
        failures = [f"{one.host.name}: {_reason(one.error)}" for one in outcomes if one.error]
        if failures:
            count = f"{len(failures)} of {len(outcomes)} hosts"
            warn(f"the audit log could not be written on {count}: {'; '.join(failures)}")


def read_audit(host: Host) -> str:
    """Return the last lines of a host's audit log. Raises HostError."""
    return host.run(("sh", "-c", TAIL)).stdout


def _reason(error: RopewayError) -> str:
    """Return an error on one line: the last words of the host, else what is wrong."""
    return next((line for line in reversed(error.evidence) if line.strip()), error.what)

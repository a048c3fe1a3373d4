"""Trust between hosts for the time of one push, and its end.

Every host makes a key pair; the private key never leaves it. Every receiver lets those keys start
one command, a plain rsync into the stage of this push, and nothing else: no shell, no forwarding,
no terminal (`restrict`), and not for long. Every sender knows the receivers' host keys as they were
read over the connections that we have verified ourselves. What trust the hosts have in each other
besides is neither needed nor touched.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ropeway.errors import RopewayError
from ropeway.hosts.fleet import run_on_all
from ropeway.hosts.ssh import SshHost
from ropeway.weights.commands import (
    EXPIRES_SINCE,
    OPTIONS,
    Server,
    key_line,
    known_hosts_lines,
    lent_folder,
    receive_script,
    server_of,
    undo_by_hand,
)
from ropeway.weights.errand import Errand
from ropeway.weights.scripts import ADMIT, LEND, UNDO
from ropeway.weights.survey import Site

_SECONDS = 60.0


@dataclass(frozen=True)
class Lent:
    """What one host has made for this push: its public key, its rsync's command for the other
    side, and the keys of its own sshd as known_hosts has them."""

    public: str
    server: Server
    keys: str


def lend(push: str, site: Site) -> Lent:
    """Have a host make its key. Raises HostError."""
    given = (push, site.address, str(site.port), *OPTIONS)
    result = site.host.run(
        ("env", "LC_ALL=C", "sh", "-c", LEND.strip(), "sh", *given), timeout=_SECONDS
    ).check("cannot make a key for this push", where=site.name)
    said = dict(record.split(" ", 1) for record in result.stdout.split("\0") if record)
    server = server_of(said.get("line", ""), site.name)
    return Lent(said.get("public", ""), server, said.get("keys", ""))


def admit(push: str, task: Errand, site: Site, lent: Mapping[str, Lent]) -> None:
    """Have a host know the others and, where it receives, let them in. Raises HostError."""
    folder = lent_folder(push)
    others = [name for name in lent if name != site.name]
    known = "".join(known_hosts_lines(task.peer(name), lent[name].keys, name) for name in others)
    site.host.put(known.encode(), f"{folder}/known_hosts", mode=0o600)
    if site is task.source:
        return
    expires = site.openssh >= EXPIRES_SINCE
    lines = "".join(
        key_line(push, lent[name].public, lent[name].server, expires=expires, where=name)
        for name in others
    )
    script = receive_script(site.root, site.tools["rsync"])
    site.host.put(script.encode(), f"{folder}/receive", mode=0o700)
    site.host.put(lines.encode(), f"{folder}/lines", mode=0o600)
    site.host.run(("sh", "-c", ADMIT.strip(), "sh", push), timeout=_SECONDS).check(
        "cannot let the other hosts in", where=site.name
    )


@dataclass(frozen=True)
class Left:
    """Where something of a push may still lie, why, and the command that takes it away."""

    host: str
    error: RopewayError
    command: str


def take_back(push: str, sites: Sequence[Site]) -> tuple[Left, ...]:
    """Remove keys, lines and folders of this push from all of them; what is gone is no error."""
    hosts = [site.host for site in sites if isinstance(site.host, SshHost)]

    def undo(host: SshHost) -> None:
        host.run(("sh", "-c", UNDO, "sh", push), timeout=_SECONDS).check(
            "cannot take the key of this push back", where=host.name
        )

    return tuple(
        Left(one.host.name, one.error, undo_by_hand(push, one.host))
        for one in run_on_all(hosts, undo)
        if one.error is not None and isinstance(one.host, SshHost)
    )

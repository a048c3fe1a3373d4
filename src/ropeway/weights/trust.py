"""Trust between the hosts for the time of one push, and its end.

Every host makes a key pair; the private key never leaves it. Every receiver lets those keys start
one command, a plain rsync into the staging folder of this push, and nothing else: no shell, no
forwarding, no terminal (`restrict`), and not for long. Every sender knows the receivers' host keys
as they were read over the connections that we have verified ourselves. Any other trust between the
hosts is neither needed nor touched.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ropeway.errors import RopewayError
from ropeway.hosts.fleet import run_on_all
from ropeway.hosts.ssh import SshHost
from ropeway.weights.commands import (
    EXPIRES_SINCE,
    OPTIONS,
    RsyncServer,
    authorized_line,
    key_folder,
    known_hosts_lines,
    parse_server,
    receive_script,
    revoke_command,
)
from ropeway.weights.plan import PushPlan
from ropeway.weights.scripts import AUTHORIZE, GENERATE_KEY, REVOKE
from ropeway.weights.survey import Peer

_SECONDS = 60.0


@dataclass(frozen=True)
class PushKey:
    """What one host has made for this push.

    public     its public key
    server     the command that its rsync asks a receiver to run
    host_keys  the keys of its own sshd, as known_hosts writes them
    """

    public: str
    server: RsyncServer
    host_keys: str


def generate_key(push_id: str, peer: Peer) -> PushKey:
    """Have a host make its key. Raises HostError."""
    arguments = (push_id, peer.address, str(peer.port), *OPTIONS)
    result = peer.host.run(
        ("env", "LC_ALL=C", "sh", "-c", GENERATE_KEY.strip(), "sh", *arguments), timeout=_SECONDS
    ).check("cannot make a key for this push", where=peer.name)
    records = dict(record.split(" ", 1) for record in result.stdout.split("\0") if record)
    server = parse_server(records.get("line", ""), peer.name)
    return PushKey(records.get("public", ""), server, records.get("keys", ""))


def authorize(push_id: str, plan: PushPlan, peer: Peer, keys: Mapping[str, PushKey]) -> None:
    """Have a host know the others and, where it receives, let them in. Raises HostError.

    keys  by the name of the host that made them
    """
    folder = key_folder(push_id)
    others = {name: key for name, key in keys.items() if name != peer.name}
    known = "".join(
        known_hosts_lines(plan.destination(name), key.host_keys, name)
        for name, key in others.items()
    )
    peer.host.put(known.encode(), f"{folder}/known_hosts", mode=0o600)
    if peer is plan.source:
        return
    expires = peer.openssh >= EXPIRES_SINCE
    lines = "".join(
        authorized_line(push_id, key.public, key.server, expires=expires, where=name)
        for name, key in others.items()
    )
    script = receive_script(peer.root, peer.tools["rsync"])
    peer.host.put(script.encode(), f"{folder}/receive", mode=0o700)
    peer.host.put(lines.encode(), f"{folder}/lines", mode=0o600)
    peer.host.run(("sh", "-c", AUTHORIZE.strip(), "sh", push_id), timeout=_SECONDS).check(
        "cannot let the other hosts in", where=peer.name
    )


@dataclass(frozen=True)
class Leftover:
    """A host on which something of a push may still lie, why, and the command that removes it."""

    host: str
    error: RopewayError
    command: str


def revoke(push_id: str, peers: Sequence[Peer]) -> tuple[Leftover, ...]:
    """Remove the keys, lines and folders of this push from all hosts.

    Return the hosts on which that failed. It may be repeated.
    """
    hosts = {peer.name: peer.host for peer in peers if isinstance(peer.host, SshHost)}

    def ask(host: SshHost) -> None:
        host.run(("sh", "-c", REVOKE, "sh", push_id), timeout=_SECONDS).check(
            "cannot revoke the key of this push", where=host.name
        )

    return tuple(
        Leftover(name, outcome.error, revoke_command(push_id, hosts[name]))
        for name, outcome in zip(hosts, run_on_all(tuple(hosts.values()), ask), strict=True)
        if outcome.error is not None
    )

"""Trust between the hosts for the duration of one push, and its end.

Every host makes a key pair; the private key never leaves it. Every receiver lets those keys start
one command, a plain rsync into the staging folder of this push, and nothing else: no shell, no
forwarding, no terminal (`restrict`), and not for long. Every sender knows the receivers' host keys
as they were read over the connections that we have verified ourselves. Any other trust between the
hosts is neither needed nor touched.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ropeway.errors import HostError, RopewayError
from ropeway.hosts.fleet import run_on_all
from ropeway.hosts.ssh import SshHost
from ropeway.weights.commands import OPTIONS, Destination, key_folder, staging_folder
from ropeway.weights.plan import PushPlan
from ropeway.weights.scripts import AUTHORIZE, GENERATE_KEY, REVOKE
from ropeway.weights.survey import Peer

_SECONDS = 60.0
_RECEIVED = "--append", "--timeout"
_SERVER_LINE = re.compile(
    r"peer rsync --server -(?P<flags>[A-Za-z]+)e\.(?P<abilities>[A-Za-z]+)"
    r"(?P<options>(?: --[a-z-]+(?:=\d+)?)*) \. \."
)
_PUBLIC_KEY = re.compile(r"ssh-ed25519 [A-Za-z0-9+/=]+ [A-Za-z0-9-]+")
_HOST_KEY = re.compile(r"(?P<key>[a-z0-9@.-]+ [A-Za-z0-9+/=]+)(?: .*)?")
EXPIRES_SINCE = (7, 7)  # of OpenSSH; an older one ignores a line with unknown options


@dataclass(frozen=True)
class RsyncServer:
    """What a sender's rsync asks the receiver to run: its flags, and its version's abilities."""

    flags: str
    abilities: str
    options: tuple[str, ...]


def parse_server(line: str, where: str) -> RsyncServer:
    """Parse the line in which the sender's rsync names the receiver's command.

    The line comes from one host and becomes a command on all others; so only what a plain write
    into one folder needs is accepted. Raises HostError for anything else.
    """
    match = _SERVER_LINE.fullmatch(line.strip())
    if match:
        options = tuple(match["options"].split())
        allowed = all(option.split("=")[0] in _RECEIVED for option in options)
        if set(match["flags"]) <= set("tR") and allowed:
            return RsyncServer(match["flags"], match["abilities"], options)
    raise HostError(
        "its rsync asks for something that a push does not allow",
        where=where,
        evidence=[line.strip()[:300]],
        hint="is `rsync` there a script, or configured by RSYNC_* variables or popt?",
    )


def receive_script(root: str, rsync: str) -> str:
    """Return the only script that a push key can start: an rsync into the staging folder.

    What the sender asks for is ignored; the script's arguments come from authorized_keys.
    """
    staging, program = shlex.quote(staging_folder(root)), shlex.quote(rsync)
    return f"""\
flags=$1 abilities=$2; shift 2
cd -- {staging} && exec {program} --server "-${{flags}}e.$abilities" "$@" . .
"""


def authorized_line(
    push_id: str, public: str, server: RsyncServer, *, expires: bool, where: str
) -> str:
    """Return a sender's line in the receiver's authorized_keys.

    Paths are in `receive_script`, because a path may contain a line break, and such a line may not.
    Raises HostError when `public` is not a key.
    """
    if not _PUBLIC_KEY.fullmatch(public):
        raise HostError("ssh-keygen made no key", where=where, evidence=[public[:200]])
    words = (server.flags, server.abilities, *server.options)
    command = f"exec sh {key_folder(push_id)}/receive {' '.join(words)}"
    expiry = ',expiry-time="EXPIRY"' if expires else ""
    return f'restrict,command="{command}"{expiry} {public}\n'


def known_hosts_lines(receiver: Destination, host_keys: str, where: str) -> str:
    """Return a receiver's host keys as the senders' known_hosts lists them.

    Raises HostError when there are none.
    """
    lines = host_keys.splitlines()
    keys = [match["key"] for line in lines if (match := _HOST_KEY.fullmatch(line))]
    if not keys:
        raise HostError(
            "cannot read the host keys of its sshd",
            where=where,
            evidence=lines[:2],
            hint=f"on that host try: ssh-keyscan -p {receiver.port} {receiver.address}",
        )
    return "".join(f"{receiver.alias} {key}\n" for key in keys)


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
    """Tell a host who the others are and, where it receives, let them in. Raises HostError.

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

    folder = key_folder(push_id)
    by_hand = f"sed -i /ropeway-push-{push_id}/d ~/.ssh/authorized_keys; rm -rf {folder}"
    return tuple(
        Leftover(name, outcome.error, f"{hosts[name].by_hand} {shlex.quote(by_hand)}")
        for name, outcome in zip(hosts, run_on_all(tuple(hosts.values()), ask), strict=True)
        if outcome.error is not None
    )

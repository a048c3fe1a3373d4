"""The commands of a push as data: rsync on the sender, and the one command the receiver allows.

Why `--append` into a folder of our own, and not `--partial-dir`: rsync moves a half file into its
partial dir only when it can still react. After a power cut, a kill -9 or a lost connection that
nobody noticed, the gigabytes lie in a temporary file that no later run looks at. With `--append`
the half file is the file, and the next run goes on at its end. It trusts what is there; so nothing
leaves the folder before its sha256 is the source's. `--append-verify` would read every half file
twice for the same.
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from ropeway.errors import HostError
from ropeway.hosts.ssh import SshHost, ssh_argv
from ropeway.weights.scripts import HASH, STAGE

# Seconds without a byte after which rsync gives a connection up.
_SILENCE = 60
_RECEIVED = "--append", "--timeout"
OPTIONS = (
    *("--append", "--times", "--copy-links", "--relative"),
    # Names go over the wire and never through a shell; with `-s` the server would take its options
    # from the sender, too.
    *("--no-protect-args", f"--timeout={_SILENCE}"),
)
# The fast ones first, OpenSSH's own first choice after them: where the processor has instructions
# for AES, as all of Kunpeng and x86 do, AES-128-GCM encrypts 2.4 GB/s a core against 1.9 GB/s of
# chacha20-poly1305 (`openssl speed`, 16 KiB blocks, docs/push.md).
_CIPHERS = (
    "aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com,"
    "aes128-ctr,aes256-ctr"
)
_SERVER_LINE = re.compile(
    r"peer rsync --server -(?P<flags>[A-Za-z]+)e\.(?P<abilities>[A-Za-z]+)"
    r"(?P<options>(?: --[a-z-]+(?:=\d+)?)*) \. \."
)
_PUBLIC_KEY = re.compile(r"ssh-ed25519 [A-Za-z0-9+/=]+ [A-Za-z0-9-]+")
_HOST_KEY = re.compile(r"(?P<key>[a-z0-9@.-]+ [A-Za-z0-9+/=]+)(?: .*)?")
EXPIRES_SINCE = (7, 7)  # OpenSSH; an older one ignores a line whose options it does not know


def stage_of(root: str) -> str:
    """Where files wait until all are there and verified: in the folder, so on the same disk."""
    return f"{root}/{STAGE}"


def lent_folder(push: str) -> str:
    """Where the key of this push and what belongs to it lie, on every host."""
    return f"/tmp/ropeway-push.{push}"


@dataclass(frozen=True)
class Peer:
    """A receiver as a sender sees it. `number` tells hosts apart in known_hosts."""

    number: int
    address: str
    port: int
    user: str

    @property
    def alias(self) -> str:
        return f"ropeway-{self.number}"


def send_argv(push: str, sources: Sequence[str], peer: Peer) -> tuple[str, ...]:
    """rsync on the sender. `sources` are `FOLDER/./NAME`: what is after the dot is the name there.

    Nothing of the sender's own ssh is used, no config, no agent, no known hosts: the trust between
    hosts is this push's alone. The receiver decides where it writes.
    """
    lent = lent_folder(push)
    settings = {
        "HostName": peer.address,
        "HostKeyAlias": peer.alias,
        "IdentitiesOnly": "yes",
        "BatchMode": "yes",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": f"{lent}/known_hosts",
        "GlobalKnownHostsFile": "/dev/null",
        "ConnectTimeout": "10",
        "ServerAliveInterval": "10",
        "ServerAliveCountMax": "3",
        "Compression": "no",
        "Ciphers": _CIPHERS,
    }
    options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
    ssh = ("ssh", "-F", "/dev/null", "-i", f"{lent}/key", *options, "-T", "-x")
    return _rsync((*ssh, "-p", str(peer.port), "-l", peer.user), sources, f"{peer.alias}:.")


def send_from_here_argv(sources: Sequence[str], receiver: SshHost, root: str) -> tuple[str, ...]:
    """rsync on this machine: over the connection that we have to the receiver."""
    address = f"[{receiver.address}]" if ":" in receiver.address else receiver.address
    there = f"cd {shlex.quote(stage_of(root))} && exec rsync"
    argv = _rsync(ssh_argv(receiver), sources, f"{address}:.")
    return (*argv[:1], f"--rsync-path={there}", *argv[1:])


def _rsync(ssh: Sequence[str], sources: Sequence[str], target: str) -> tuple[str, ...]:
    return ("rsync", *OPTIONS, "-e", _rsync_join(ssh), "--", *sources, target)


def _rsync_join(argv: Sequence[str]) -> str:
    """Words for `rsync -e`: it splits at spaces and knows quotes, but no backslash (rsync(1))."""
    return " ".join(
        word
        if re.fullmatch(r"[\w@%+=:,./-]+", word, re.ASCII)
        else "'" + word.replace("'", "''") + "'"
        for word in argv
    )


@dataclass(frozen=True)
class Server:
    """What a sender's rsync would have the receiver run: its flags, its version's abilities."""

    flags: str
    abilities: str
    options: tuple[str, ...]


def server_of(line: str, where: str) -> Server:
    """Read the line that the sender's rsync gave out. Raises HostError for any but the expected.

    It comes from a host and becomes a command on all others; so only what a plain write into one
    folder needs is let through.
    """
    found = _SERVER_LINE.fullmatch(line.strip())
    if found:
        options = tuple(found["options"].split())
        known = all(option.split("=")[0] in _RECEIVED for option in options)
        if set(found["flags"]) <= set("tR") and known:
            return Server(found["flags"], found["abilities"], options)
    raise HostError(
        "its rsync asks for something that a push does not allow",
        where=where,
        evidence=[line.strip()[:300]],
        hint="is `rsync` there a script, or set up by RSYNC_* variables or popt?",
    )


def receive_script(root: str, rsync: str) -> str:
    """The only thing that a lent key can start: rsync that writes below this host's stage.

    What the sender asks for is not looked at; the script's arguments stand in the file of keys.
    """
    there, program = shlex.quote(stage_of(root)), shlex.quote(rsync)
    return f"""\
flags=$1 abilities=$2; shift 2
cd -- {there} && exec {program} --server "-${{flags}}e.$abilities" "$@" . .
"""


def key_line(push: str, public: str, server: Server, *, expires: bool, where: str) -> str:
    """A sender's line in the receiver's file of keys. Raises HostError when it is no key.

    Paths stand in `receive_script`: a line has no way to write a line end.
    """
    if not _PUBLIC_KEY.fullmatch(public):
        raise HostError("ssh-keygen made no key", where=where, evidence=[public[:200]])
    words = (server.flags, server.abilities, *server.options)
    command = f"exec sh {lent_folder(push)}/receive {' '.join(words)}"
    expiry = ',expiry-time="EXPIRY"' if expires else ""
    return f'restrict,command="{command}"{expiry} {public}\n'


def known_hosts_lines(peer: Peer, keys: str, where: str) -> str:
    """A receiver's host keys as the senders are to know them. Raises HostError when it has none."""
    found = [match["key"] for line in keys.splitlines() if (match := _HOST_KEY.fullmatch(line))]
    if not found:
        raise HostError(
            "its own sshd does not tell its host keys",
            where=where,
            evidence=keys.splitlines()[:2],
            hint=f"on that host try: ssh-keyscan -p {peer.port} {peer.address}",
        )
    return "".join(f"{peer.alias} {key}\n" for key in found)


def hash_argv(paths: Sequence[str]) -> tuple[str, ...]:
    """The sha256 of each, a line each."""
    return ("sh", "-c", HASH.strip(), "sh", *paths)


def undo_by_hand(push: str, host: SshHost) -> str:
    """What takes everything of this push back from one host, to be pasted."""
    there = f"sed -i /ropeway-push-{push}/d ~/.ssh/authorized_keys; rm -rf {lent_folder(push)}"
    user = ("-l", host.user) if host.user else ()
    port = ("-p", str(host.port)) if host.port else ()
    return shlex.join(("ssh", *user, *port, host.address, there))

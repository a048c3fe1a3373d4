"""The commands of a push as data: rsync on the sender, and the one command the receiver allows.

Files arrive with `--append` in a folder of our own, and not with `--partial-dir`: rsync moves a
partial file there only if it can still react. After a power cut, a kill -9 or a lost connection
that nobody noticed, the gigabytes lie in a temporary file that no later run looks at. With
`--append` the partial file is the file itself, and the next run continues at its end. `--append`
trusts what is there; so nothing leaves the folder before its sha256 equals the source's.
`--append-verify` would read every partial file twice for the same result.
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from ropeway.errors import HostError
from ropeway.hosts.ssh import SshHost, ssh_argv
from ropeway.weights.scripts import HASH, STAGING

# Seconds without a byte after which rsync gives up.
_SILENCE = 60
_RECEIVED = "--append", "--timeout"
OPTIONS = (
    *("--append", "--times", "--copy-links", "--relative"),
    # Names go over the wire and never through a shell. With `-s` the server would take its options
    # from the sender as well.
    *("--no-protect-args", f"--timeout={_SILENCE}"),
)
# The fastest first, then OpenSSH's own first choice: where the processor has instructions for AES,
# as all Kunpeng and x86 ones do, a core encrypts 2.4 GB/s with AES-128-GCM and 1.9 GB/s with
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
EXPIRES_SINCE = (7, 7)  # of OpenSSH; an older one ignores a line with unknown options


def staging_folder(root: str) -> str:
    """Return where files wait until all are verified: inside the folder, so on the same disk."""
    return f"{root}/{STAGING}"


def key_folder(push_id: str) -> str:
    """Return where each host keeps its key for this push and the files that belong to it."""
    return f"/tmp/ropeway-push.{push_id}"


@dataclass(frozen=True)
class Destination:
    """A receiver as a sender addresses it. `number` tells hosts apart in known_hosts."""

    number: int
    address: str
    port: int
    user: str

    @property
    def alias(self) -> str:
        return f"ropeway-{self.number}"


def send_argv(push_id: str, sources: Sequence[str], destination: Destination) -> tuple[str, ...]:
    """Return the rsync command of a sender.

    sources  `FOLDER/./NAME` each; the receiver gets NAME, and decides itself where it writes

    The sender's own ssh config, agent and known hosts are not used: the trust between the hosts
    belongs to this push alone.
    """
    folder = key_folder(push_id)
    settings = {
        "HostName": destination.address,
        "HostKeyAlias": destination.alias,
        "IdentitiesOnly": "yes",
        "BatchMode": "yes",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": f"{folder}/known_hosts",
        "GlobalKnownHostsFile": "/dev/null",
        "ConnectTimeout": "10",
        "ServerAliveInterval": "10",
        "ServerAliveCountMax": "3",
        "Compression": "no",
        "Ciphers": _CIPHERS,
    }
    options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
    ssh = ("ssh", "-F", "/dev/null", "-i", f"{folder}/key", *options, "-T", "-x")
    login = (*ssh, "-p", str(destination.port), "-l", destination.user)
    return _rsync(login, sources, f"{destination.alias}:.")


def send_from_here_argv(sources: Sequence[str], receiver: SshHost, root: str) -> tuple[str, ...]:
    """Return the rsync command of this machine, over our own connection to the receiver."""
    address = f"[{receiver.address}]" if ":" in receiver.address else receiver.address
    receive = f"cd {shlex.quote(staging_folder(root))} && exec rsync"
    argv = _rsync(ssh_argv(receiver), sources, f"{address}:.")
    return (*argv[:1], f"--rsync-path={receive}", *argv[1:])


def _rsync(ssh: Sequence[str], sources: Sequence[str], target: str) -> tuple[str, ...]:
    return ("rsync", *OPTIONS, "-e", _rsync_join(ssh), "--", *sources, target)


def _rsync_join(argv: Sequence[str]) -> str:
    """Quote words for `rsync -e`, which knows spaces and quotes but not backslashes (rsync(1))."""
    return " ".join(
        word
        if re.fullmatch(r"[\w@%+=:,./-]+", word, re.ASCII)
        else "'" + word.replace("'", "''") + "'"
        for word in argv
    )


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


def hash_argv(paths: Sequence[str]) -> tuple[str, ...]:
    """Return the command that prints the sha256 of each file, one per line."""
    return ("sh", "-c", HASH.strip(), "sh", *paths)


def revoke_command(push_id: str, host: SshHost) -> str:
    """Return a shell command that removes everything of a push from one host, to be pasted."""
    folder = key_folder(push_id)
    script = f"sed -i /ropeway-push-{push_id}/d ~/.ssh/authorized_keys; rm -rf {folder}"
    user = ("-l", host.user) if host.user else ()
    port = ("-p", str(host.port)) if host.port else ()
    return shlex.join(("ssh", *user, *port, host.address, script))

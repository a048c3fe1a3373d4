"""The rsync commands of a push as data.

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

from ropeway.hosts.ssh import SshHost, ssh_argv
from ropeway.weights.scripts import STAGING

# Seconds without a byte after which rsync gives up.
_SILENCE = 60
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

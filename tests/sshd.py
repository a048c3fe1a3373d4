"""A real sshd on loopback, as many as a test wants, each with keys and a configuration of its own.

It runs as whoever runs the tests and lets in only them, with a key made for the purpose. As root,
sshd wants a user `sshd` and a folder in /run; where they are missing it gets them in a mount
namespace of its own, and the machine stays as it was.

    with sshd(tmp_path) as server:
        host = server.host()

Which sshd: $ROPEWAY_SSHD, or what `scripts/get-sshd .venv/sshd` fetched, or the machine's own.
"""

import contextlib
import itertools
import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ports import free_port
from ropeway.hosts.ssh import SshHost

USER = pwd.getpwuid(os.getuid()).pw_name
_NUMBERS = itertools.count()
_CHECKOUT = Path(__file__).parent.parent
_AS_ROOT = r"""
mount --bind "$1" /etc/passwd || exit
[ -d /run/sshd ] || { mount -t tmpfs -o mode=755 tmpfs /run && mkdir /run/sshd; } || exit
shift
exec "$@"
"""


def find_sshd() -> str | None:
    """Its absolute path."""
    fetched = _CHECKOUT / ".venv/sshd/usr/sbin/sshd"
    places = (os.environ.get("ROPEWAY_SSHD"), fetched, shutil.which("sshd"), "/usr/sbin/sshd")
    return next((str(place) for place in places if place and os.access(place, os.X_OK)), None)


def why_not() -> str | None:
    """Why no sshd can run here; None when one can. One is started to see."""
    if find_sshd() is None:
        return "no sshd: install openssh-server, or `scripts/get-sshd .venv/sshd`"
    if shutil.which("ssh") is None:
        return "no ssh: install openssh-client"
    with tempfile.TemporaryDirectory() as folder:
        try:
            with sshd(Path(folder)):
                return None
        except RuntimeError as error:
            return str(error)


@dataclass
class Server:
    """A running sshd. `config` is an ssh_config that knows its key and how to log in.

    sockets  a folder with a short name for control sockets
    """

    port: int
    folder: Path
    config: Path
    sockets: Path
    process: "subprocess.Popen[bytes]" = field(repr=False)

    def host(self, name: str = "", **other: object) -> SshHost:
        """This server as a host, with a control socket of its own; `other` replaces fields."""
        where = {"address": "127.0.0.1", "socket": f"{self.sockets}/{next(_NUMBERS)}"}
        way = {"user": USER, "port": self.port, "config": str(self.config)}
        return SshHost(**{"name": name or f"host{self.port}", **where, **way, **other})

    @property
    def log(self) -> str:
        """What sshd says."""
        return (self.folder / "log").read_text()

    @property
    def connections(self) -> int:
        """Logins so far."""
        return self.log.count("Accepted publickey")

    def sessions(self) -> tuple[int, ...]:
        """The processes that serve connections: for users other than root two each."""
        return tuple(
            pid
            for pid in descendants(self.process.pid)
            if Path(f"/proc/{pid}/comm").read_text().startswith("sshd")
        )


def descendants(parent: int) -> tuple[int, ...]:
    """Processes that this one started and that run, and what they started in turn."""
    pids: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                state, number = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if int(number) == parent and state != "Z":
                    pids += [int(entry.name), *descendants(int(entry.name))]
    return tuple(pids)


@contextlib.contextmanager
def sshd(folder: Path, settings: Mapping[str, str] | None = None) -> Iterator[Server]:
    """An sshd on a free port of 127.0.0.1; `settings` go into its sshd_config.

    All sshds of one `folder` share host key and user key.
    Raises RuntimeError when it does not come up; ends it and its sessions, by pid.
    """
    own = Path(tempfile.mkdtemp(prefix="sshd-", dir=folder))
    host_key, user_key = key(folder / "host_key"), key(folder / "user_key")
    shutil.copyfile(f"{user_key}.pub", own / "authorized_keys")
    port = free_port()
    known = own / "known_hosts"
    known.write_text(f"[127.0.0.1]:{port} {Path(f'{host_key}.pub').read_text()}")
    config = own / "ssh_config"
    config.write_text(client_config(user_key, known))
    options = {
        "Port": str(port),
        "ListenAddress": "127.0.0.1",
        "HostKey": str(host_key),
        "AuthorizedKeysFile": str(own / "authorized_keys"),
        "PidFile": "none",
        "UsePAM": "no",
        "StrictModes": "no",
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "MaxStartups": "1000",
        "LogLevel": "VERBOSE",
        "SetEnv": f"HOME={own}",  # whose .bashrc is nobody's
        **(settings or {}),
    }
    lines = "".join(f"{name} {value}\n" for name, value in options.items())
    (own / "sshd_config").write_text(lines)
    argv = (str(find_sshd()), "-D", "-e", "-f", str(own / "sshd_config"))
    with (own / "log").open("wb") as log:
        process = subprocess.Popen(_confined(argv, own), stderr=log, stdin=subprocess.DEVNULL)
    sockets = Path(tempfile.mkdtemp(prefix="rw-"))
    try:
        _wait_for_port(process, port, own / "log")
        yield Server(port, own, config, sockets, process)
    finally:
        for pid in (process.pid, *descendants(process.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(sockets, ignore_errors=True)


def client_config(user_key: Path, known: Path) -> str:
    """An ssh_config that leaves aside the user's own keys, agents and known hosts."""
    return (
        "Host *\n"
        f"  IdentityFile {user_key}\n"
        "  IdentitiesOnly yes\n"
        "  IdentityAgent none\n"
        f"  UserKnownHostsFile {known}\n"
        "  GlobalKnownHostsFile /dev/null\n"
    )


def key(path: Path) -> Path:
    """A key pair at this path, made if it is not there."""
    if not path.exists():
        make = ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "ropeway", "-f", str(path))
        subprocess.run(make, check=True)
    return path


def _confined(argv: Sequence[str], folder: Path) -> tuple[str, ...]:
    """As root, with the user and the folder that sshd separates its privileges with."""
    if os.getuid():
        return tuple(argv)
    users = [entry.pw_name for entry in pwd.getpwall()]
    if "sshd" in users and Path("/run/sshd").is_dir():
        return tuple(argv)
    passwd = folder / "passwd"
    line = "" if "sshd" in users else "sshd:x:65530:65534::/run/sshd:/usr/sbin/nologin\n"
    passwd.write_text(Path("/etc/passwd").read_text() + line)
    return ("unshare", "--mount", "sh", "-c", _AS_ROOT, "sh", str(passwd), *argv)


def _wait_for_port(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.01)
    message = next(reversed(log.read_text().splitlines()), "it says nothing")
    raise RuntimeError(f"sshd does not come up: {message} ({shlex.join(process.args)})")

"""A port of a host's loopback, reached from this machine through the SSH connection that is there.

Nothing here reads an ssh_config: what it forwards is for the user's own sessions, and the socket of
the connection is all that is needed.
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ropeway.errors import ConnectionLost, HostError, RopewayError, reason_of
from ropeway.hosts.base import Result
from ropeway.hosts.interrupts import uninterrupted
from ropeway.hosts.local import LocalHost
from ropeway.hosts.ssh import SshHost
from ropeway.phrases import phrase
from ropeway.spec.types import bracketed

_HERE = "127.0.0.1"
_SECONDS = 20.0
# A port that was free may be somebody's a moment later.
_PORTS_TRIED = 5
# An sshd that forwards nothing says so within a round trip; one that does says nothing.
_REFUSED_SECONDS = 2.0
_REACH_SECONDS = 5.0
_REFUSED = "administratively prohibited"  # channels.c


@contextmanager
def forwarded(host: SshHost, address: str, port: int) -> Iterator[int]:
    """Yield a port of our loopback from which connections go to an address of the host.

    address, port  as the host itself reaches them

    Raises HostError. What fails inside the block is a ConnectionLost where the connection, and the
    forwarding with it, has ended meanwhile.
    """
    with uninterrupted():
        here = _begin(host, address, port)
    try:
        yield here
    except RopewayError as error:
        if not _control(host, "check").ok:
            raise ConnectionLost(
                phrase("the connection was lost, and with it the port that it forwards"),
                where=host.name,
                evidence=(error.what, *error.evidence),
            ) from error
        raise
    finally:
        with uninterrupted():
            _control(host, "cancel", "-L", _forwarding(here, address, port))


def is_reached(address: str, port: int) -> bool:
    """Return whether what this machine sends there comes to a host, be it that nobody listens."""
    try:
        socket.create_connection((address, port), _REACH_SECONDS).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return True


def check_forwarding(host: SshHost, address: str, port: int) -> None:
    """Raise HostError where the host's sshd forwards no port. Nothing needs to listen there.

    It can be known only by trying: sshd refuses when a connection comes, and not before that.
    """
    with forwarded(host, address, port) as here:
        try:
            said = _said_of_a_call(Path(f"{host.socket}.log"), here)
        except OSError as error:
            raise HostError(
                phrase("the port that it forwards cannot be tried: {reason}",
                       reason=reason_of(error)),
                where=host.name,
            ) from error  # fmt: skip
    if _REFUSED in said:
        raise HostError(
            phrase(
                "the host's sshd forwards no port, and this machine reaches the service in no other"
                " way"
            ),
            where=host.name,
            evidence=tuple(said.strip().splitlines()[-1:]),
            hint=phrase(
                "allow it there (AllowTcpForwarding, PermitOpen), or set `serve.address` to one"
                " that this machine reaches"
            ),
        )


def _said_of_a_call(log: Path, here: int) -> str:
    """Call our port, and return what ssh has added to its log then. Raises OSError."""
    before = len(log.read_bytes())
    with socket.create_connection((_HERE, here), _SECONDS) as connection:
        connection.settimeout(_REFUSED_SECONDS)
        with suppress(OSError):  # it stays open, or whoever listens has closed it
            connection.recv(1)
    return log.read_bytes()[before:].decode(errors="replace")


def _begin(host: SshHost, address: str, port: int) -> int:
    """Begin the forwarding, and return our port. Raises HostError."""
    host.run(("true",)).check(phrase("cannot forward a port"), where=host.name)  # connected now
    for left in reversed(range(_PORTS_TRIED)):
        here = _free_port()
        result = _control(host, "forward", "-L", _forwarding(here, address, port))
        if result.ok or not left:
            break
    result.check(phrase("cannot forward a port"), where=host.name)
    return here


def _free_port() -> int:
    with socket.create_server((_HERE, 0)) as listening:
        port: int = listening.getsockname()[1]
    return port


def _forwarding(here: int, address: str, port: int) -> str:
    return f"{_HERE}:{here}:{bracketed(address)}:{port}"


def _control(host: SshHost, command: str, *more: str) -> Result:
    """Have the ssh that holds the connection carry out a command of `ssh -O`."""
    argv = ("ssh", "-F", "/dev/null", "-S", host.socket, "-O", command, *more, "--", host.address)
    return LocalHost().run(argv, timeout=_SECONDS)

"""A port of a host reached through SSH, by a real sshd on loopback."""

import os
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ports import free_port
from ropeway.errors import ConnectionLost, EndpointError, HostError
from ropeway.hosts.forwarding import check_forwarding, forwarded, is_reached
from sshd import sshd

pytestmark = pytest.mark.slow


@contextmanager
def greeting(address: str = "127.0.0.1") -> Iterator[int]:
    """A port that says `hello` to whoever calls."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as listening:

        def serve() -> None:
            try:
                while True:
                    call, _ = listening.accept()
                    with call:
                        call.sendall(b"hello")
            except OSError:
                return

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def heard(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 10) as call:
        return call.recv(64)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "localhost"])
def test_a_port_of_the_host_is_reached_and_gone_afterwards(server, address):
    host = server.host()
    with greeting("127.0.0.1" if address == "localhost" else address) as port:
        before = server.connections
        with forwarded(host, address, port) as here:
            assert here != port
            assert heard(here) == b"hello"
            assert heard(here) == b"hello"
        assert server.connections == before + 1, "over the connection that commands share"
        with pytest.raises(ConnectionRefusedError):
            heard(here)
        assert host.run(("true",)).ok
        assert server.connections == before + 1
    host.close()


def test_it_is_gone_after_a_failure_and_what_failed_is_told(server):
    host = server.host()
    with greeting() as port:
        with pytest.raises(EndpointError, match="no answer"):  # noqa: SIM117
            with forwarded(host, "127.0.0.1", port) as here:
                raise EndpointError("no answer")
        with pytest.raises(ConnectionRefusedError):
            heard(here)
    host.close()


def test_what_the_users_config_forwards_stays_out_of_it(server, tmp_path):
    own = free_port()
    config = tmp_path / "config"
    config.write_text(f"{server.config.read_text()}  LocalForward {own} 127.0.0.1:9\n")
    host = server.host(config=str(config))
    with greeting() as port, forwarded(host, "127.0.0.1", port) as here:
        assert heard(here) == b"hello"
        with pytest.raises(ConnectionRefusedError):
            heard(own)
    host.close()


def test_a_connection_that_was_lost_is_said_to_be_the_cause(alone):
    host = alone.host("npu0")
    with pytest.raises(ConnectionLost, match="port that it forwards") as lost:  # noqa: SIM117
        with greeting() as port, forwarded(host, "127.0.0.1", port) as here:
            assert heard(here) == b"hello"
            for pid in alone.sessions():
                os.kill(pid, signal.SIGKILL)
            while True:
                try:
                    heard(here)
                except OSError:
                    break
            raise EndpointError("the server is away")
    assert (lost.value.where, lost.value.evidence) == ("npu0", ("the server is away",))
    host.close()


def test_an_sshd_that_forwards_nothing_is_found_before_it_matters(server, tmp_path):
    check_forwarding(server.host(), "127.0.0.1", free_port())
    with greeting() as port:
        check_forwarding(server.host(), "127.0.0.1", port)
    with sshd(tmp_path, {"AllowTcpForwarding": "no"}) as strict:
        host = strict.host("npu0")
        with pytest.raises(HostError, match="forwards no port") as refused:
            check_forwarding(host, "127.0.0.1", free_port())
        assert "AllowTcpForwarding" in (refused.value.hint or "")
        assert "administratively prohibited" in refused.value.evidence[0]
        host.close()


@pytest.mark.parametrize(
    ("at_forward", "why"),
    [
        ("exit 0", "connection refused"),  # it says that it forwards, and does not
        ('"$ssh" "$@"; rm "$log"; exit 0', "no such file or directory"),
    ],
)
def test_a_forwarding_that_cannot_be_tried_is_an_error_of_the_host(
    server, tmp_path, monkeypatch, at_forward, why
):
    host = server.host("npu0")
    ssh = tmp_path / "bin/ssh"
    ssh.parent.mkdir()
    ssh.write_text(
        f"#!/bin/sh\nssh={shutil.which('ssh')} log={host.socket}.log\n"
        f'case "$*" in *"-O forward"*) {at_forward};; esac\nexec "$ssh" "$@"\n'
    )
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{ssh.parent}:{os.environ['PATH']}")
    with pytest.raises(HostError, match=why) as failed:
        check_forwarding(host, "127.0.0.1", free_port())
    assert failed.value.where == "npu0"
    host.close()


def test_an_address_is_reached_though_nobody_listens_there():
    assert is_reached("127.0.0.1", free_port())
    with greeting() as port:
        assert is_reached("127.0.0.1", port)
    assert not is_reached("fe80::1", 8000), "without an interface it leads nowhere"

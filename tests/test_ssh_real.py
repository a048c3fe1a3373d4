"""SSH for real: an sshd on loopback, as it is when all is well, and in each way it can fail."""

import contextlib
import dataclasses
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from children import are_gone, interrupt, pids, sleeping
from ports import free_port
from ropeway.errors import (
    ChangedHostKey,
    ConnectionLost,
    HostError,
    LoginRefused,
    NoAnswer,
    NoSuchHost,
    PortRefused,
    SshError,
    TimeLimit,
    TurnedAway,
    UnknownHostKey,
)
from ropeway.hosts.connect import connected
from ropeway.hosts.fleet import run_on_all
from ropeway.hosts.ssh import SshHost
from ropeway.spec.cluster import Cluster, RemoteHost
from sshd import USER, Server, client_config, key, sshd
from waiting import wait_for

pytestmark = pytest.mark.slow
IN_A_GROUP = "timeout 60 sleep 60"  # of its own


@pytest.fixture(scope="module")
def host(server) -> SshHost:
    """The sshd of all tests as a host, over one connection."""
    return server.host("npu0")


def sleeper(file: Path) -> tuple[str, ...]:
    """A command with children, its process ids in `file`, that would go on for a minute."""
    return ("sh", "-c", sleeping(IN_A_GROUP), str(file))


@contextmanager
def hanging_up(calls: list[object]) -> Iterator[int]:
    """A port that is not an sshd's: whoever calls is noted, and let go at once."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    call, caller = listening.accept()
                    call.close()
                    calls.append(caller)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


# As it is when all is well


def test_fifty_megabytes_arrive_whole(host):
    result = host.run(("sh", "-c", "head -c 37500000 /dev/zero | base64 -w 76; echo end >&2"))
    assert len(result.stdout) == 50_000_000 + 50_000_000 // 76 + 1
    assert result.stderr == "end\n"


def test_all_commands_share_one_connection_and_close_ends_it(server):
    before = server.connections
    host = server.host()
    for _ in range(5):
        assert host.run(("true",)).ok
    assert server.connections == before + 1
    assert Path(host.socket).is_socket()
    assert dataclasses.replace(host, name="other").run(("true",)).ok, "the socket alone decides"
    assert server.connections == before + 1
    host.close()
    assert not Path(host.socket).exists()
    assert host.run(("true",)).ok, "and the next command makes it anew"
    assert server.connections == before + 2
    host.close()
    host.close()


def test_more_commands_at_once_than_sshd_allows_on_a_connection(server):
    host = server.host()
    with ThreadPoolExecutor(12) as pool:  # MaxSessions is 10
        results = list(pool.map(lambda n: host.run(("sh", "-c", f"sleep 1; echo {n}")), range(12)))
    assert [result.stdout for result in results] == [f"{n}\n" for n in range(12)]
    host.close()


def test_leaving_the_cluster_ends_every_connection(server):
    remote = RemoteHost(address="127.0.0.1", port=server.port, user=USER, npus=8)
    before = set(server.sessions())
    with connected(Cluster(hosts=(remote,)), ssh_config=str(server.config)) as hosts:
        assert hosts[0].run(("id", "-un")).stdout == f"{USER}\n"
        assert len(set(server.sessions()) - before) == 1
    wait_for(lambda: not set(server.sessions()) - before)


def test_what_the_login_shell_prints_is_not_the_commands(server):
    profile = server.folder / ".bashrc"
    profile.write_text("echo welcome; echo to this host >&2; cd /")
    try:
        result = server.host().run(("sh", "-c", "echo hello"))
    finally:
        profile.unlink()
    assert (result.stdout, result.stderr) == ("hello\n", "")


def test_a_jump_host_is_gone_through(server):
    config = with_jump(server, server.port)
    through = server.host(address="target", config=config)
    assert through.run(("echo", "hello")).stdout == "hello\n"
    through.close()


def test_a_put_whose_connection_breaks_leaves_the_old_file_and_no_draft(tmp_path, alone):
    path = tmp_path / "weights"
    path.write_bytes(b"old")
    host = alone.host()
    host.run(("true",))
    with ThreadPoolExecutor(1) as pool:
        putting = pool.submit(host.put, bytes(200_000_000), str(path))
        wait_for(lambda: len(list(tmp_path.iterdir())) == 2)
        end_sessions(alone, signal.SIGKILL)
        with pytest.raises(ConnectionLost):
            putting.result()
    wait_for(lambda: list(tmp_path.iterdir()) == [path])
    assert path.read_bytes() == b"old"


# The ways to fail before anything runs


def test_no_config_can_switch_the_check_off(server, tmp_path):
    config = Path(knowing("", server, tmp_path))
    config.write_text(config.read_text() + "  StrictHostKeyChecking no\n")
    with pytest.raises(UnknownHostKey):
        server.host(config=str(config)).run(("true",))
    assert (tmp_path / "known").read_text() == ""


def test_a_host_whose_key_has_changed(server, tmp_path):
    other = Path(f"{key(tmp_path / 'other')}.pub").read_text()
    known = f"[127.0.0.1]:{server.port} {other}"
    with pytest.raises(ChangedHostKey) as caught:
        server.host(config=knowing(known, server, tmp_path)).run(("true",))
    forget = f"ssh-keygen -f {tmp_path}/known -R '[127.0.0.1]:{server.port}'"
    assert forget in (caught.value.hint or "")


def test_a_host_that_hangs_up_is_asked_again_and_then_given_up(server):
    calls: list[object] = []
    with hanging_up(calls) as port, pytest.raises(TurnedAway):
        server.host(port=port).run(("true",))
    assert len(calls) == 4


def test_a_login_shell_that_runs_nothing(tmp_path):
    message = "This account is currently not available."
    with (
        sshd(tmp_path, {"ForceCommand": f"echo '{message}'; exit 1"}) as refusing,
        pytest.raises(SshError) as caught,
    ):
        refusing.host().run(("true",))
    assert caught.value.what == "the login shell on the host does not run commands"
    assert caught.value.evidence == (message,)


def test_a_jump_host_that_fails_is_heard(server):
    away = server.host(address="target", config=with_jump(server, free_port()))
    with pytest.raises(PortRefused) as caught:
        away.run(("true",))
    assert "Connection refused" in caught.value.evidence[0]
    beyond = server.host(address="target", port=free_port(), config=with_jump(server, server.port))
    with pytest.raises(PortRefused) as caught:
        beyond.run(("true",))
    assert "open failed: connect failed: Connection refused" in caught.value.evidence[0]


# The ways to fail half-way


def end_sessions(server: Server, what: signal.Signals) -> tuple[int, ...]:
    """Signal the processes that serve a connection; returns them."""
    sessions = server.sessions()
    for pid in sessions:
        os.kill(pid, what)
    return sessions


def test_a_connection_that_breaks_ends_the_command_on_the_host_too(alone, tmp_path):
    file = tmp_path / "pids"
    host = alone.host()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(host.run, sleeper(file))
        wait_for(lambda: pids(file))
        end_sessions(alone, signal.SIGKILL)
        with pytest.raises(ConnectionLost) as caught:
            running.result()
    assert "while `sh` ran" in caught.value.what
    assert caught.value.evidence == ("begun",)
    wait_for(lambda: are_gone(file))
    assert host.run(("echo", "again")).stdout == "again\n"


def test_a_server_that_hangs_holds_nobody_and_ends_the_command_when_it_wakes(alone, tmp_path):
    file = tmp_path / "pids"
    host = alone.host()
    host.run(("true",))
    began = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(host.run, sleeper(file), timeout=5)
        wait_for(lambda: pids(file))
        stopped = end_sessions(alone, signal.SIGSTOP)
        with pytest.raises(TimeLimit) as caught:
            running.result()
    assert "5 s" in caught.value.what
    assert time.monotonic() - began < 50, "the command itself takes a minute"
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)
    wait_for(lambda: are_gone(file))


def test_what_prints_without_end_is_stopped(host, tmp_path):
    file = tmp_path / "pids"
    with pytest.raises(HostError, match=r"printed more than 256\.0 MiB and was stopped"):
        host.run(("sh", "-c", f"echo $$ >{file}; exec cat /dev/zero"))
    wait_for(lambda: are_gone(file))


def test_ctrl_c_leaves_nothing_on_any_host(server, tmp_path):
    files = [tmp_path / f"pids{number}" for number in range(3)]
    code = (
        "import sys\n"
        "from ropeway.hosts.fleet import run_on_all\n"
        "from ropeway.hosts.ssh import SshHost\n"
        "hosts = [SshHost(file, '127.0.0.1', socket, port=int(sys.argv[1]), config=sys.argv[2])\n"
        "         for file, socket in zip(sys.argv[4::2], sys.argv[5::2])]\n"
        "run_on_all(hosts, lambda host: host.run(('sh', '-c', sys.argv[3], host.name)))\n"
    )
    pairs = [word for file in files for word in (str(file), server.host().socket)]
    args = (str(server.port), str(server.config), sleeping(IN_A_GROUP), *pairs)
    interrupt(code, *args, once=lambda: all(map(pids, files)))
    assert are_gone(*files)


# Many at once


def test_hosts_that_let_in_two_at_a_time_are_all_reached(tmp_path):
    with sshd(tmp_path, {"MaxStartups": "2:100:2"}) as narrow:
        hosts = [narrow.host(f"npu{number}") for number in range(8)]
        outcomes = run_on_all(hosts, lambda host: host.run(("true",)).exit_code)
        assert [outcome.result for outcome in outcomes] == [0] * 8
        assert "drop connection" in narrow.log or "MaxStartups" in narrow.log, "some came again"


def test_twenty_hosts_side_by_side_one_failing_each_way(alone, server, tmp_path):
    hosts = [server.host(f"npu{number:02}") for number in range(20)]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent_port = silent.getsockname()[1]
        failing = {
            3: (UnknownHostKey, {"config": knowing("", server, tmp_path)}),
            5: (LoginRefused, {"user": "nobody"}),
            7: (PortRefused, {"port": free_port()}),
            8: (NoSuchHost, {"address": "no-such-host.invalid"}),
            11: (NoAnswer, {"port": silent_port}),
            13: (TimeLimit, {"name": "slow"}),
            17: (ConnectionLost, {"port": alone.port, "config": str(alone.config)}),
        }
        for number, (_, changes) in failing.items():
            hosts[number] = dataclasses.replace(hosts[number], **changes)
        file = tmp_path / "pids"
        slow = hosts[13]
        slow.run(("true",))  # its few seconds are for the command alone, and not for the login

        def ask(host: SshHost) -> str:
            if host.name == "slow":
                return host.run(("sleep", "60"), timeout=3).stdout
            if host.port == alone.port:
                return host.run(sleeper(file)).stdout
            limit = 2 if host.port == silent_port else 60
            return host.run(("echo", host.name), timeout=limit).stdout

        def drop() -> None:
            wait_for(lambda: pids(file))
            end_sessions(alone, signal.SIGKILL)

        reports = []
        with ThreadPoolExecutor(1) as pool:
            dropped = pool.submit(drop)
            outcomes = run_on_all(hosts, ask, on_done=reports.append)
            dropped.result()
    assert [outcome.host for outcome in outcomes] == hosts
    assert {n: type(one.error) for n, one in enumerate(outcomes) if not one.ok} == {
        number: kind for number, (kind, _) in failing.items()
    }
    assert all(one.result == f"{one.host.name}\n" for one in outcomes if one.ok)
    assert outcomes[5].error.evidence == ("nobody@127.0.0.1: Permission denied (publickey).",)
    assert outcomes[11].error.what == "the host did not answer within 2 s"
    assert {one.error.where for one in outcomes if one.error} == {
        hosts[number].name for number in failing
    }
    assert sorted(reports, key=lambda one: hosts.index(one.host)) == list(outcomes)


def knowing(known: str, server: Server, folder: Path) -> str:
    """An ssh_config of somebody who knows these host keys."""
    (folder / "known").write_text(known)
    config = folder / "config"
    config.write_text(client_config(server.folder.parent / "user_key", folder / "known"))
    return str(config)


def with_jump(server: Server, jump_port: int) -> str:
    """An ssh_config in which `target` is this server, behind a jump host on `jump_port`."""
    config = server.folder / f"jump{jump_port}"
    config.write_text(
        f"Host jump\n  HostName 127.0.0.1\n  Port {jump_port}\n  User {USER}\n"
        f"Host target\n  HostName 127.0.0.1\n  ProxyJump jump\n"
        f"  HostKeyAlias [127.0.0.1]:{server.port}\n{server.config.read_text()}"
    )
    return str(config)

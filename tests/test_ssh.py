"""SSH without a host: the command lines, ssh's words, and the way from a spec to hosts."""

import os
import stat
import tempfile
from pathlib import Path

import pytest

from ropeway import errors
from ropeway.hosts.connect import connected, socket_folder, ssh_hosts
from ropeway.hosts.local import LocalHost
from ropeway.hosts.ssh import (
    LONGEST_SOCKET,
    SshHost,
    alone_argv,
    command_argv,
    exit_argv,
    ssh_argv,
)
from ropeway.hosts.ssh_errors import connection_failure, connection_lost, is_proxy_failure
from ropeway.spec.cluster import Cluster, Local, RemoteHost

PLAIN = SshHost("npu7", "npu7", "/tmp/ropeway-x/0")
WHOLE = SshHost("npu7", "10.0.0.7", "/tmp/ropeway-x/1", "ma-user", 2222, "/etc/my config")
SHARED = (
    "ssh",
    "-S", "/tmp/ropeway-x/0", "-o", "ControlMaster=auto", "-o", "ControlPersist=60",
    "-E", "/tmp/ropeway-x/0.log", "-o", "LogLevel=INFO",
    "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes",
    "-o", "ConnectTimeout=10",
    "-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3",
    "-T", "-x", "-o", "ClearAllForwardings=yes",
)  # fmt: skip


def test_ssh_gets_what_the_spec_says_and_a_command_as_one_word():
    assert command_argv(PLAIN, "exec sh -c 'a b'") == (*SHARED, "--", "npu7", "exec sh -c 'a b'")
    assert ssh_argv(WHOLE)[-6:] == ("-F", "/etc/my config", "-l", "ma-user", "-p", "2222")
    assert exit_argv(PLAIN) == (*SHARED, "-O", "exit", "--", "npu7")


def test_a_connection_alone_shares_no_socket_and_checks_the_key_too():
    assert alone_argv(WHOLE) == (
        "ssh",
        "-o", "ControlMaster=no", "-S", "none", "-o", "ConnectTimeout=10",
        "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-T", "-x",
        "-F", "/etc/my config", "-l", "ma-user", "-p", "2222",
        "--", "10.0.0.7", "exit",
    )  # fmt: skip


# ssh's words, as OpenSSH 7.4 to 9.9 print them


def recorded(name: str) -> str:
    path = Path(__file__).parent / "recordings" / "ssh" / f"{name}.txt"
    return path.read_bytes().decode()  # carriage returns too


CHANGED_92, CHANGED_74, REVOKED = map(recorded, ("changed-9.2", "changed-7.4", "revoked"))
KEX = "kex_exchange_identification: "
PROXY_END = f"{KEX}Connection closed by remote host\r\nConnection closed by UNKNOWN port 65535\r\n"
AT = "10.0.0.7 port 22"
CONNECT, NAME = f"ssh: connect to host {AT}: ", "ssh: Could not resolve hostname npu7: "
# What the jump host says of the host, or of us, before the connection through it ends.
JUMP, JUMP_END = "channel 0: open failed: ", f"\r\nstdio forwarding failed\r\n{PROXY_END}"

FAILED = "Host key verification failed."
UNKNOWN = "No ED25519 host key is known for npu7 and you have requested strict checking.\r\n"

WORDS = [
    ("PortRefused", f"{CONNECT}Connection refused\r\n"),
    ("NoRoute", f"{CONNECT}No route to host"),
    ("NoRoute", f"{CONNECT}Network is unreachable"),
    ("NoRoute", f"{CONNECT}Host is down"),  # macOS
    ("NoAnswer", f"{CONNECT}Connection timed out"),
    ("NoAnswer", f"{CONNECT}Operation timed out"),  # macOS
    ("NoAnswer", "Connection timed out during banner exchange"),
    ("NoAnswer", f"Connection timed out during banner exchange\r\nConnection to {AT} timed out"),
    ("NoAnswer", f"banner exchange: Connection to {AT}: Connection timed out"),
    ("NoSuchHost", f"{NAME}Name or service not known"),
    ("NoSuchHost", f"{NAME}Temporary failure in name resolution"),
    ("NoSuchHost", f"{NAME}No address associated with hostname"),
    ("NoSuchHost", f"{NAME}Name does not resolve"),  # musl
    ("NoSuchHost", f"{NAME}nodename nor servname provided, or not known"),
    ("UnknownHostKey", f"{UNKNOWN}{FAILED}\r\n"),
    ("UnknownHostKey", FAILED),
    ("ChangedHostKey", CHANGED_74),
    ("ChangedHostKey", CHANGED_92),
    ("ChangedHostKey", REVOKED),
    ("LoginRefused", "Permission denied (publickey,gssapi-keyex,gssapi-with-mic,password)."),  # 7.4
    ("LoginRefused", "root@10.0.0.7: Permission denied (publickey).\r\n"),
    (
        "LoginRefused",
        f"Received disconnect from {AT}:2: Too many authentication failures\r\n"
        f"Disconnected from {AT}\r\n",
    ),
    ("TurnedAway", "ssh_exchange_identification: Connection closed by remote host"),  # 7.4
    ("TurnedAway", "ssh_exchange_identification: read: Connection reset by peer"),
    ("TurnedAway", f"{KEX}Connection closed by remote host\r\nConnection closed by {AT}\r\n"),
    ("TurnedAway", f"{KEX}read: Connection reset by peer\r\nConnection reset by {AT}\r\n"),
    ("TurnedAway", f"{KEX}banner line 0: Exceeded MaxStartups"),
    ("TurnedAway", f"{KEX}banner line 0: Not allowed at this time"),  # 9.8
    ("TurnedAway", f"Connection closed by {AT}\r\n"),
    ("PortRefused", f"{JUMP}connect failed: Connection refused{JUMP_END}"),
    ("NoRoute", f"{JUMP}connect failed: No route to host{JUMP_END}"),
    ("SshError", f"{JUMP}administratively prohibited: open failed{JUMP_END}"),
    ("LoginRefused", f"me@jump: Permission denied (publickey).\r\n{PROXY_END}"),
    ("TurnedAway", PROXY_END),
    # A connection that stood, and broke before the command was heard to begin
    ("ConnectionLost", "Timeout, server 10.0.0.7 not responding.\r\n"),
    ("ConnectionLost", "client_loop: send disconnect: Broken pipe\r\n"),
    ("ConnectionLost", f"packet_write_wait: Connection to {AT}: Broken pipe"),  # 7.4
    ("NoAnswer", f"Timeout, server 10.0.0.7 not responding.\nConnection to {AT} timed out"),
    # What we have no kind for
    (
        "SshError",
        f"Unable to negotiate with {AT}: no matching host key type found. Their offer: ssh-rsa",
    ),
    ("SshError", "Bad owner or permissions on /root/.ssh/config"),
    ("SshError", "/root/.ssh/config: terminating, 1 bad configuration options"),
    ("SshError", ""),
]


@pytest.mark.parametrize(("kind", "words"), WORDS)
def test_ssh_failures_have_a_kind(kind, words):
    error = connection_failure(words, "npu7", "ssh npu7")
    assert type(error) is getattr(errors, kind)
    assert error.where == "npu7"
    assert "\r" not in "".join(error.evidence)
    assert len(error.evidence) <= 6


def test_of_many_words_the_last_are_the_evidence():
    words = "".join(f"debug1: line {number}\n" for number in range(9))
    error = connection_failure(words, "npu7", "ssh npu7")
    assert error.evidence == tuple(f"debug1: line {number}" for number in range(3, 9))


def test_a_kind_is_an_ssh_error_and_ends_with_1():
    names = {kind for kind, _ in WORDS}
    assert all(issubclass(getattr(errors, name), errors.SshError) for name in names)
    assert issubclass(errors.SshError, errors.HostError)
    assert {getattr(errors, name).exit_code for name in names} == {errors.Exit.NO}


def test_an_unknown_key_is_added_by_hand_and_compared():
    error = connection_failure(UNKNOWN, "npu7", "ssh -l me npu7")
    assert (type(error), error.where) == (errors.UnknownHostKey, "npu7")
    assert error.evidence == (UNKNOWN.strip(),)
    assert "fingerprint" in error.hint
    assert "ssh -l me npu7\n" in error.hint
    assert "ssh-keyscan HOST" in error.hint


@pytest.mark.parametrize(
    ("words", "forget", "fingerprint"),
    [
        (
            CHANGED_92, "ssh-keygen -f /root/.ssh/known_hosts -R '[10.0.0.7]:2222'",
            "SHA256:2HCRs6mPmDyCc27RNr2QgsbSOocw36vM7jYThAnwzq4.",
        ),
        (
            CHANGED_74, "ssh-keygen -f '/home/my user/known' -R 10.0.0.7",
            "SHA256:vjQeIGjFMcyDOvHvLsyo0rhH7dqFNRsTnwDE9LQ5t0c.",
        ),
    ],
)  # fmt: skip
def test_a_changed_key_is_told_with_the_command_that_forgets_the_old_one(
    words, forget, fingerprint
):
    error = connection_failure(words, "npu7", "ssh npu7")
    assert type(error) is errors.ChangedHostKey
    assert error.hint is not None
    commands = [line.rpartition(": ")[2] for line in error.hint.splitlines()[1:]]
    assert commands == [forget, "ssh npu7"]
    first, offending, changed, last = error.evidence
    assert (first, last) == (fingerprint, FAILED)
    assert offending in words and changed in words


def test_a_revoked_key_is_not_to_be_forgotten():
    error = connection_failure(REVOKED, "npu7", "ssh npu7")
    assert "revoked" in error.what
    assert "ssh-keygen" not in (error.hint or "")


def test_a_jump_hosts_failure_hides_behind_the_connection_through_it():
    assert is_proxy_failure(PROXY_END)
    assert not is_proxy_failure(WORDS[0][1])
    words = f"me@jump: Permission denied (publickey).\n{PROXY_END}"
    error = connection_failure(words, "npu7", "ssh npu7")
    assert error.evidence == (
        "me@jump: Permission denied (publickey).",
        f"{KEX}Connection closed by remote host",
    )


def test_a_lost_connection_says_how_and_shows_the_last_output():
    silence = "Timeout, server 10.0.0.7 not responding."
    error = connection_lost("npu-smi", f"{silence}\r\n", "npu7", "ssh npu7", ("half a ta",))
    assert "timed out while `npu-smi` ran" in error.what
    assert error.evidence == ("half a ta", silence)
    assert "lost while `ls` ran" in connection_lost("ls", "", "npu7", "ssh npu7", ()).what


def test_a_machine_without_ssh_is_told_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(errors.NoSsh) as caught:
        PLAIN.run(("true",))
    assert caught.value.what == "this machine has no `ssh`"
    assert caught.value.hint == "apt install openssh-client"


def test_a_command_line_that_is_too_long_is_not_taken_for_a_missing_ssh():
    with pytest.raises(errors.SshError) as caught:
        PLAIN.run(("echo", "x" * 200_000))  # MAX_ARG_STRLEN is 128 KiB
    assert caught.value.what == "cannot run `ssh`: argument list too long"


# From the spec to hosts


def test_hosts_are_called_by_their_address_and_by_their_port_where_that_is_needed():
    remote = (
        RemoteHost(address="npu7", npus=8),
        RemoteHost(address="10.0.0.8", npus=8, user="root", port=2222),
        RemoteHost(address="10.0.0.8", npus=8),
    )
    assert ssh_hosts(Cluster(hosts=remote), "/tmp/x", "my.conf") == (
        SshHost("npu7", "npu7", "/tmp/x/0", None, None, "my.conf"),
        SshHost("10.0.0.8:2222", "10.0.0.8", "/tmp/x/1", "root", 2222, "my.conf"),
        SshHost("10.0.0.8:22", "10.0.0.8", "/tmp/x/2", None, None, "my.conf"),
    )


def test_a_local_cluster_is_this_machine_under_several_addresses():
    with connected(Cluster(local=Local(hosts=2, npus=2))) as hosts:
        assert hosts == (LocalHost("host0", "127.0.0.2"), LocalHost("host1", "127.0.0.3"))


def test_sockets_lie_in_a_private_folder_that_is_gone_afterwards():
    with connected(Cluster(hosts=(RemoteHost(address="npu7", npus=8),))) as hosts:
        (host,) = hosts
        assert isinstance(host, SshHost)
        folder = Path(host.socket).parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not folder.exists()


def test_a_socket_fits_into_an_address_whatever_the_temporary_folder(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/tmp/" + 20 * "deep/")
    folder = Path(socket_folder())
    folder.rmdir()
    assert len(os.fsencode(folder / "65535")) <= LONGEST_SOCKET

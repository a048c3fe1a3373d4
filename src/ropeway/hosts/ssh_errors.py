"""ssh's messages → what is wrong and what to do about it. Pure.

OpenSSH speaks English in every locale and exits with 255 after every failure; so only its messages
tell failures apart. The phrases are from the sources of 7.4 to 9.9 (ssh.c, sshconnect.c,
sshconnect2.c, packet.c, kex.c, clientloop.c, channels.c) and of the C libraries.
"""

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ropeway.errors import (
    ChangedHostKey,
    ConnectionLost,
    LoginRefused,
    NoAnswer,
    NoRoute,
    NoSuchHost,
    PortRefused,
    SshError,
    TurnedAway,
    UnknownHostKey,
)

_MAX_LINES = 6
_MAX_CHARACTERS = 300
# What ssh calls the other end of a ProxyCommand or a ProxyJump.
_PROXY = "UNKNOWN port 65535"
# Lines that say nothing about this case.
_NOISE = re.compile(
    r"@|IT IS POSSIBLE|Someone could|It is also possible|Please contact|Add correct host key"
    r"|This could mean|impersonate this host|The fingerprint for the|remove with:|ssh-keygen "
    r"|Warning: Permanently added|\*\* |.*" + _PROXY
)


@dataclass(frozen=True)
class _Case:
    """A kind of failure.

    pattern  matches a line of ssh's messages
    hint     gets ssh's messages, and ssh as a person would call it
    """

    kind: type[SshError]
    what: str
    pattern: str
    hint: Callable[[str, str], str]


def connection_failure(messages: str, where: str, by_hand: str) -> SshError:
    """Return why there is no connection. `by_hand` is ssh as a person would call it."""
    matches = (case for case in _CASES if re.search(case.pattern, messages, re.MULTILINE))
    case = next(matches)  # the last one matches everything
    hint = case.hint(messages, by_hand)
    return case.kind(case.what, where=where, evidence=_evidence(messages), hint=hint)


def connection_lost(
    program: str, messages: str, where: str, output: Sequence[str]
) -> ConnectionLost:
    """Return the error of a connection that broke when the command had begun, or may have."""
    how = "timed out" if "Timeout, server" in messages else "was lost"
    return ConnectionLost(
        f"the connection {how} while `{program}` ran",
        where=where,
        evidence=(*output, *_evidence(messages)),
        hint="is the host still up? what the command had done by then is not undone",
    )


def is_proxy_failure(messages: str) -> bool:
    """Return whether a jump host failed, whose own messages ssh has discarded."""
    return _PROXY in messages


def _evidence(messages: str) -> tuple[str, ...]:
    lines = [line.strip()[:_MAX_CHARACTERS] for line in messages.splitlines()]
    relevant = [line for line in lines if line and not _NOISE.match(line)]
    return tuple(dict.fromkeys(relevant))[-_MAX_LINES:]


def _unknown_key(_messages: str, ssh: str) -> str:
    return (
        f"connect once by hand, and compare the fingerprint with the host's own: {ssh}\n"
        "for many hosts in a network that you trust: ssh-keyscan HOST… >> ~/.ssh/known_hosts"
    )


def _changed_key(messages: str, ssh: str) -> str:
    file = re.search(r"^Offending \S+ key in (.+):\d+\s*$", messages, re.MULTILINE)
    name = re.search(r"[Hh]ost key for (\S+) has changed", messages)
    forget = "ssh-keygen -R HOST"
    if file and name:
        forget = shlex.join(("ssh-keygen", "-f", file[1], "-R", name[1]))
    return (
        "was the host reinstalled? if not, somebody may be intercepting the connection\n"
        f"forget the old key: {forget}\ncompare the new one yourself: {ssh}"
    )


def _advice(text: str) -> Callable[[str, str], str]:
    return lambda _messages, ssh: f"{text}: {ssh} true"


# The order matters. A changed key is also a failed verification; and what a jump host says about
# the host is more specific than that the connection through it was closed.
_CASES = (
    _Case(
        ChangedHostKey,
        "the host's key is revoked",
        r"REVOKED HOST KEY|revoked by file",
        lambda _messages, _ssh: "somebody marked it as revoked on this machine: ask them first",
    ),
    _Case(
        ChangedHostKey,
        "the host's key is not the one in known_hosts",
        r"HOST IDENTIFICATION HAS CHANGED",
        _changed_key,
    ),
    _Case(
        UnknownHostKey,
        "the host's key is not in known_hosts",
        r"^No .+ host key is known for|^Host key verification failed",
        _unknown_key,
    ),
    _Case(
        LoginRefused,
        "the host refuses the login",
        r"Permission denied \(|Too many authentication failures",
        _advice("Ropeway never asks for a password, so this must work without one"),
    ),
    _Case(
        SshError,
        "the jump host refuses to forward the connection",
        r"administratively prohibited",
        _advice("does its sshd allow forwarding (AllowTcpForwarding)? this must work"),
    ),
    _Case(
        NoSuchHost,
        "the name server does not answer",
        r"failure in name resolution",
        _advice("does DNS work on this machine? this must work"),
    ),
    _Case(
        NoSuchHost,
        "there is no host of this name",
        r"Could not resolve host|Name or service not known|nodename nor servname|No address assoc",
        _advice("look at `cluster.hosts` and ~/.ssh/config; this must work"),
    ),
    _Case(
        NoRoute,
        "there is no route to the host",
        r"No route to host|Network is unreachable|Network is down|Host is down",
        _advice("is it up, and are you in its network (VPN)? try"),
    ),
    _Case(
        PortRefused,
        "the host is up, but no sshd listens on the port",
        r"Connection refused",
        _advice("is sshd running, and is the port right? try"),
    ),
    _Case(
        NoAnswer,
        "the host does not answer",
        r"timed out",
        _advice("is it up, and does a firewall let you through? try"),
    ),
    _Case(
        TurnedAway,
        "the host closed the connection before the login",
        r"Exceeded MaxStartups|Not allowed at this time|Connection (closed|reset) by"
        r"|exchange_identification: ",
        _advice("too many connections at once (MaxStartups), or locked out (fail2ban)? try"),
    ),
    _Case(
        ConnectionLost,  # one that had been made before
        "the connection was lost",
        r"^Timeout, server |send disconnect: |^Read from remote host|packet_write_|^Write failed",
        _advice("is the host still up? try"),
    ),
    _Case(SshError, "ssh cannot connect", r"", _advice("this must work")),
)

"""ssh's words → what is wrong and what to do about it. Pure.

OpenSSH speaks English whatever the locale, and ends with 255 whatever was wrong; so its words are
all there is to tell failures apart. The phrases are those of the sources of 7.4 to 9.9 (ssh.c,
sshconnect.c, sshconnect2.c, packet.c, kex.c, clientloop.c, channels.c) and of the C libraries.
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

_MOST_LINES = 6
_MOST_CHARACTERS = 300
# How ssh calls the other end of a ProxyCommand or a ProxyJump.
_PROXY = "UNKNOWN port 65535"
# Lines that say nothing about this case.
_NOISE = re.compile(
    r"@|IT IS POSSIBLE|Someone could|It is also possible|Please contact|Add correct host key"
    r"|This could mean|impersonate this host|The fingerprint for the|remove with:|ssh-keygen "
    r"|Warning: Permanently added|\*\* |.*" + _PROXY
)


@dataclass(frozen=True)
class _Case:
    """A failure: a line like `sign` tells it. `hint` gets ssh's words, and ssh as typed by hand."""

    kind: type[SshError]
    what: str
    sign: str
    hint: Callable[[str, str], str]


def failure(words: str, where: str, by_hand: str) -> SshError:
    """Why there is no connection. `by_hand` is ssh as a person would call it, for the hint."""
    case = _case(words)
    return case.kind(case.what, where=where, evidence=_said(words), hint=case.hint(words, by_hand))


def lost(program: str, words: str, where: str, output: Sequence[str]) -> ConnectionLost:
    """The connection is gone, and the command had begun or may have."""
    how = "went dead" if "Timeout, server" in words else "broke off"
    return ConnectionLost(
        f"the connection {how} while `{program}` ran",
        where=where,
        evidence=(*output, *_said(words)),
        hint="is the host still up? what the command had done by then stays as it is",
    )


def hides_a_proxy(words: str) -> bool:
    """Whether it is a jump host that failed, whose own words ssh has thrown away."""
    return _PROXY in words


def _case(words: str) -> _Case:
    for case in _CASES:
        if re.search(case.sign, words, re.MULTILINE):
            return case
    raise AssertionError("the last case fits everything")


def _said(words: str) -> tuple[str, ...]:
    lines = [line.strip()[:_MOST_CHARACTERS] for line in words.splitlines()]
    telling = [line for line in lines if line and not _NOISE.match(line)]
    return tuple(dict.fromkeys(telling))[-_MOST_LINES:]


def _unknown_key(_words: str, ssh: str) -> str:
    return (
        f"connect once by hand, and compare the fingerprint with the host's own: {ssh}\n"
        "many hosts, in a network that you trust: ssh-keyscan HOST… >> ~/.ssh/known_hosts"
    )


def _changed_key(words: str, ssh: str) -> str:
    file = re.search(r"^Offending \S+ key in (.+):\d+\s*$", words, re.MULTILINE)
    name = re.search(r"[Hh]ost key for (\S+) has changed", words)
    forget = "ssh-keygen -R HOST"
    if file and name:
        forget = shlex.join(("ssh-keygen", "-f", file[1], "-R", name[1]))
    return (
        "was the host installed anew? if not, somebody may stand between you and it\n"
        f"forget the old key: {forget}\ncompare the new one by hand: {ssh}"
    )


def _advice(text: str) -> Callable[[str, str], str]:
    return lambda _words, ssh: f"{text}: {ssh} true"


# The order matters. A changed key is also a failed verification; and what a jump host says of the
# host comes before what the connection through it says, which is that it was closed.
_CASES = (
    _Case(
        ChangedHostKey,
        "the host's key is revoked",
        r"REVOKED HOST KEY|revoked by file",
        lambda _words, _ssh: "somebody has marked it so on this machine: ask them, do not go on",
    ),
    _Case(
        ChangedHostKey,
        "the host's key is not the one that is known",
        r"HOST IDENTIFICATION HAS CHANGED",
        _changed_key,
    ),
    _Case(
        UnknownHostKey,
        "the host's key is not known",
        r"^No .+ host key is known for|^Host key verification failed",
        _unknown_key,
    ),
    _Case(
        LoginRefused,
        "the host does not let us in",
        r"Permission denied \(|Too many authentication failures",
        _advice("Ropeway never asks for a password, so this must work without one"),
    ),
    _Case(
        SshError,
        "the jump host does not let us through",
        r"administratively prohibited",
        _advice("does its sshd allow forwarding (AllowTcpForwarding)? this must work"),
    ),
    _Case(
        NoSuchHost,
        "the name of the host cannot be looked up",
        r"failure in name resolution",
        _advice("is this machine's DNS there? this must work"),
    ),
    _Case(
        NoSuchHost,
        "there is no host of this name",
        r"Could not resolve host|Name or service not known|nodename nor servname|No address assoc",
        _advice("look at `cluster.hosts` and ~/.ssh/config; this must work"),
    ),
    _Case(
        NoRoute,
        "there is no way to the host",
        r"No route to host|Network is unreachable|Network is down|Host is down",
        _advice("is it up, and are you in its network (VPN)? try"),
    ),
    _Case(
        PortRefused,
        "the host is there, but no sshd listens",
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
        "the host hung up before the login",
        r"Exceeded MaxStartups|Not allowed at this time|Connection (closed|reset) by"
        r"|exchange_identification: ",
        _advice("too many connections at once (MaxStartups), or locked out (fail2ban)? try"),
    ),
    _Case(
        ConnectionLost,  # the one that stood already
        "the connection broke off",
        r"^Timeout, server |send disconnect: |^Read from remote host|packet_write_|^Write failed",
        _advice("is the host still up? try"),
    ),
    _Case(SshError, "ssh cannot connect", r"", _advice("this must work")),
)

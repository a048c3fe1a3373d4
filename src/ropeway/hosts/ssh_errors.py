"""ssh's messages → what is wrong and what to do about it. Pure.

OpenSSH speaks English in every locale and exits with 255 after every failure; so only its messages
tell failures apart. The phrases are from the sources of 7.4 to 9.9 (ssh.c, sshconnect.c,
sshconnect2.c, packet.c, kex.c, clientloop.c, channels.c) and of the C libraries.
"""

import re
import shlex
from collections.abc import Sequence

from ropeway import errors
from ropeway.phrases import phrase

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


# The error, what is wrong, a pattern for a line of ssh's messages, and what to do: `{ssh}` is ssh
# as a person would call it, `{forget}` the command that forgets the host's key. The order matters.
# A changed key is also a failed verification; and what a jump host says about the host is more
# specific than that the connection through it was closed.
_CASES: tuple[tuple[type[errors.SshError], str, str, str], ...] = (
    (errors.ChangedHostKey, "the host's key is revoked",
     r"REVOKED HOST KEY|revoked by file",
     "somebody marked it as revoked on this machine: ask them first\n"
     "then this must work: {ssh} true"),
    (errors.ChangedHostKey, "the host's key is not the one in known_hosts",
     r"HOST IDENTIFICATION HAS CHANGED",
     "was the host reinstalled? if not, somebody may be intercepting the connection\n"
     "forget the old key: {forget}\ncompare the new one yourself: {ssh}"),
    (errors.UnknownHostKey, "the host's key is not in known_hosts",
     r"^No .+ host key is known for|^Host key verification failed",
     "connect once by hand, and compare the fingerprint with the host's own: {ssh}\n"
     "for many hosts in a network that you trust: ssh-keyscan HOST… >> ~/.ssh/known_hosts"),
    (errors.LoginRefused, "the host refuses the login",
     r"Permission denied \(|Too many authentication failures",
     "Ropeway never asks for a password, so this must work without one: {ssh} true"),
    (errors.SshError, "the jump host refuses to forward the connection",
     r"administratively prohibited",
     "does its sshd allow forwarding (AllowTcpForwarding)? this must work: {ssh} true"),
    (errors.NoSuchHost, "the name server does not answer",
     r"failure in name resolution",
     "does DNS work on this machine? this must work: {ssh} true"),
    (errors.NoSuchHost, "there is no host of this name",
     r"Could not resolve host|Name or service not known|nodename nor servname|No address assoc",
     "look at `cluster.hosts` and ~/.ssh/config; this must work: {ssh} true"),
    (errors.NoRoute, "there is no route to the host",
     r"No route to host|Network is unreachable|Network is down|Host is down",
     "is it up, and are you in its network (VPN)? try: {ssh} true"),
    (errors.PortRefused, "the host is up, but no sshd listens on the port",
     r"Connection refused",
     "is sshd running, and is the port right? try: {ssh} true"),
    (errors.NoAnswer, "the host does not answer",
     r"timed out",
     "is it up, and does a firewall let you through? try: {ssh} true"),
    (errors.TurnedAway, "the host closed the connection before the login",
     r"Exceeded MaxStartups|Not allowed at this time|Connection (closed|reset) by"
     r"|exchange_identification: ",
     "too many connections at once (MaxStartups), or locked out (fail2ban)? try: {ssh} true"),
    (errors.ConnectionLost, "the connection was lost",  # one that had been made before
     r"^Timeout, server |send disconnect: |^Read from remote host|packet_write_|^Write failed",
     "is the host still up? try: {ssh} true"),
    (errors.SshError, "ssh cannot connect", r"", "this must work: {ssh} true"),
)  # fmt: skip


def connection_failure(messages: str, where: str, by_hand: str) -> errors.SshError:
    """Return why there is no connection. `by_hand` is ssh as a person would call it."""
    # The last case matches everything.
    kind, what, _, hint = next(
        case for case in _CASES if re.search(case[2], messages, re.MULTILINE)
    )
    advice = phrase(hint, ssh=by_hand, forget=_forget_command(messages))
    return kind(what, where=where, evidence=_evidence(messages), hint=advice)


def connection_lost(
    program: str, messages: str, where: str, by_hand: str, output: Sequence[str]
) -> errors.ConnectionLost:
    """Return the error of a connection that broke when the command had begun, or may have."""
    lost = "the connection was lost while `{program}` ran"
    if "Timeout, server" in messages:
        lost = "the connection timed out while `{program}` ran"
    return errors.ConnectionLost(
        phrase(lost, program=program),
        where=where,
        evidence=(*output, *_evidence(messages)),
        hint=phrase(
            "is the host still up? try: {ssh} true\n"
            "what the command had done by then is not undone",
            ssh=by_hand,
        ),
    )


def is_proxy_failure(messages: str) -> bool:
    """Return whether a jump host failed, whose own messages ssh has discarded."""
    return _PROXY in messages


def _evidence(messages: str) -> tuple[str, ...]:
    lines = [line.strip()[:_MAX_CHARACTERS] for line in messages.splitlines()]
    relevant = [line for line in lines if line and not _NOISE.match(line)]
    return tuple(dict.fromkeys(relevant))[-_MAX_LINES:]


def _forget_command(messages: str) -> str:
    """Return the command that forgets the old key of a host whose key has changed."""
    file = re.search(r"^Offending \S+ key in (.+):\d+\s*$", messages, re.MULTILINE)
    name = re.search(r"[Hh]ost key for (\S+) has changed", messages)
    if file and name:
        return shlex.join(("ssh-keygen", "-f", file[1], "-R", name[1]))
    return "ssh-keygen -R HOST"

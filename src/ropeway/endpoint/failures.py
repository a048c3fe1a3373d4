"""How a request can fail, in the words that the user reads."""

import errno
import os
from typing import ClassVar

from ropeway.endpoint.address import Endpoint
from ropeway.errors import EndpointError
from ropeway.phrases import joined, phrase


class RequestFailed(EndpointError):
    """One request failed, or its answer is incomplete. Failures are grouped by `kind`."""

    kind: ClassVar[str]

    def __init_subclass__(cls, kind: str) -> None:
        cls.kind = kind


class ServerAway(RequestFailed, kind="server away"):
    """No server answers at this address."""


class ModelUnknown(RequestFailed, kind="model unknown"):
    """The server does not serve this model."""


class KeyRefused(RequestFailed, kind="key refused"):
    """The server requires another API key."""


class BadRequest(RequestFailed, kind="bad request"):
    """The server refuses the request as it is: too long, a wrong parameter."""


class ServerFailed(RequestFailed, kind="server error"):
    """The server reports a fault of its own (5xx, or 429 when it is overloaded)."""


class StreamBroke(RequestFailed, kind="stream broke"):
    """The stream of the answer ended too early."""


class TimedOut(RequestFailed, kind="timeout"):
    """Nothing arrived within the endpoint's timeout."""


class NotOpenAI(RequestFailed, kind="not an OpenAI server"):
    """Something answers at this address that is not an OpenAI-compatible server."""


class Redirected(RequestFailed, kind="redirect"):
    """The server wants another one to be asked."""


def broke(endpoint: Endpoint, tokens: int, why: str) -> RequestFailed:
    """The stream ended too early, after `tokens` tokens."""
    template = "the stream broke before the first token"
    if tokens:
        template = "the stream broke after {tokens} tokens"
    return StreamBroke(
        phrase(template, tokens=tokens),
        where=endpoint.url,
        evidence=(why,),
        hint="check the engine with `ropeway status` and `ropeway logs`",
    )


def key_refused(endpoint: Endpoint, status: int, message: str) -> RequestFailed:
    """The server requires a key, or another one."""
    name = endpoint.key_name
    what = phrase("the server refuses the API key ({status})", status=status)
    if endpoint.key is None:
        what = phrase(
            "the server requires an API key, and `{name}` is not set ({status})",
            name=name,
            status=status,
        )
    hint = phrase(
        "set it with `export {name}=…`, or name another variable with `--key-env`", name=name
    )
    return KeyRefused(what, where=endpoint.url, evidence=(message,), hint=hint)


def not_openai(endpoint: Endpoint, why: str) -> RequestFailed:
    """What answers is no OpenAI-compatible server: it {why}."""
    return NotOpenAI(
        phrase("this is not an OpenAI-compatible server: it {why}", why=why),
        where=endpoint.url,
        hint="check host and port; the base URL usually ends in `/v1`",
    )


def redirected(endpoint: Endpoint, status: int, target: str) -> RequestFailed:
    """The server sends us elsewhere, where key and prompt are not meant to go."""
    return Redirected(
        phrase(
            "the server redirects to `{target}` ({status}), which is not followed",
            target=target,
            status=status,
        ),
        where=endpoint.url,
        hint="if that is the server you mean, name it: `--url`",
    )


def no_connection_within(endpoint: Endpoint, limit: float) -> RequestFailed:
    """Nobody has answered the call for a connection within `limit` seconds."""
    what = phrase("no connection within {limit:.0f} s", limit=limit)
    hint = "check the host, and any firewall in front of it"
    return ServerAway(what, where=endpoint.url, hint=hint)


def nothing_within(
    endpoint: Endpoint, tokens: int = 0, *, single_bytes: bool = False
) -> RequestFailed:
    """The server has been silent for as long as we wait, after so many tokens of an answer.

    single_bytes  it was not silent: bytes came, and no answer
    """
    template = "nothing arrived for {limit:g} s"
    if tokens:
        template = "nothing arrived for {limit:g} s after {tokens} tokens"
    elif single_bytes:
        template = "the answer was not complete within {limit:g} s"
    return TimedOut(
        phrase(template, limit=endpoint.timeout_s, tokens=tokens),
        where=endpoint.url,
        hint="wait longer with `--timeout`, or read the engine's log with `ropeway logs`",
    )


def cannot_connect(endpoint: Endpoint, number: int | None, reason: str) -> RequestFailed:
    """No connection can be made: the number of the system's error, or a reason without one."""
    if number in (errno.EMFILE, errno.ENFILE):
        hint = "raise the limit with `ulimit -n 8192`, or use fewer clients"
        return ServerAway("this process has too many open files", where=endpoint.url, hint=hint)
    if number:
        reason = os.strerror(number)
    usual = phrase("check the URL, or see what is running with `ropeway status`")
    return ServerAway(
        phrase("no server answers: {reason}", reason=reason.lower()),
        where=endpoint.url,
        hint=joined(filter(None, (endpoint.way_there, usual)), "\n"),
    )


def not_trusted(endpoint: Endpoint, why: str) -> RequestFailed:
    """The server's certificate is not signed by anybody that this machine trusts."""
    return ServerAway(
        phrase("its certificate is not trusted: {why}", why=why),
        where=endpoint.url,
        hint="if you trust the authority that signed it: `export SSL_CERT_FILE=ca.pem`",
    )


def no_handshake(endpoint: Endpoint, error: Exception) -> RequestFailed:
    """What answers does not speak TLS, or not ours."""
    hint = "if the server has no TLS, begin the URL with `http://`"
    return ServerAway(
        phrase("the TLS handshake failed: {error}", error=error), where=endpoint.url, hint=hint
    )

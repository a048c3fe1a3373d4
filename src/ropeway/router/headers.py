"""Which headers are passed on, and whether a client's key is right."""

import hashlib
import hmac
import re
from collections.abc import Mapping

from multidict import CIMultiDict

# RFC 9110, 7.6.1: for one connection only. Host and length are those of our own message.
_OURS = frozenset((
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection",
    "te", "trailer", "transfer-encoding", "upgrade", "host", "content-length", "expect",
    # Bodies pass unchanged, and a compressed stream could not be read when it breaks.
    "accept-encoding",
))  # fmt: skip
# Not allowed in the value of a header (RFC 9110, 5.5), and aiohttp refuses to send them: such a
# header is left out.
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")
_OURS_BACK = _OURS | {"server", "date"}


def forward(headers: Mapping[str, str], authorization: str | None) -> CIMultiDict[str]:
    """Return a client's headers for a replica, with our key in place of its own if we have one."""
    kept = _without(headers, _OURS)
    kept["Accept-Encoding"] = "identity"
    if authorization is not None:
        kept["Authorization"] = authorization
    return kept


def back(headers: Mapping[str, str], replica: str) -> CIMultiDict[str]:
    """Return a replica's headers for the client, with the replica's name."""
    kept = _without(headers, _OURS_BACK)
    kept["X-Ropeway-Replica"] = replica
    return kept


def authorized(header: str | None, key: str) -> bool:
    """Return whether an Authorization header has the key; takes the same time for any wrong one."""
    scheme, _, token = (header or "").partition(" ")
    same = hmac.compare_digest(_digest(token.strip()), _digest(key))
    return same and scheme.lower() == "bearer"


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogateescape")).digest()


def _without(headers: Mapping[str, str], ours: frozenset[str]) -> CIMultiDict[str]:
    named = {name.strip().lower() for name in headers.get("Connection", "").split(",")}
    return CIMultiDict(
        (name, value)
        for name, value in headers.items()
        if name.lower() not in ours and name.lower() not in named and not _CONTROL.search(value)
    )

"""Which headers go through, and whose key is right."""

import hashlib
import hmac
from collections.abc import Mapping

from multidict import CIMultiDict

# RFC 9110, 7.6.1: for one connection only. Host and length belong to the message that we make.
_OURS = frozenset((
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection",
    "te", "trailer", "transfer-encoding", "upgrade", "host", "content-length", "expect",
    # Bodies pass as they are; a compressed stream could not be read when it breaks.
    "accept-encoding",
))  # fmt: skip
_OURS_BACK = _OURS | {"server", "date"}


def forward(headers: Mapping[str, str], authorization: str | None) -> CIMultiDict[str]:
    """A client's headers for a replica; ours is the key, when there is one."""
    found = _without(headers, _OURS)
    found["Accept-Encoding"] = "identity"
    if authorization is not None:
        found["Authorization"] = authorization
    return found


def back(headers: Mapping[str, str], replica: str) -> CIMultiDict[str]:
    """A replica's headers for the client, and which replica it was."""
    found = _without(headers, _OURS_BACK)
    found["X-Ropeway-Replica"] = replica
    return found


def authorized(given: str | None, key: str) -> bool:
    """Whether an Authorization header carries the key, in the same time for any that does not."""
    scheme, _, token = (given or "").partition(" ")
    same = hmac.compare_digest(_digest(token.strip()), _digest(key))
    return same and scheme.lower() == "bearer"


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogateescape")).digest()


def _without(headers: Mapping[str, str], ours: frozenset[str]) -> CIMultiDict[str]:
    named = {name.strip().lower() for name in headers.get("Connection", "").split(",")}
    return CIMultiDict(
        (name, value)
        for name, value in headers.items()
        if name.lower() not in ours and name.lower() not in named
    )

"""A host as it is given on the command line."""

import re

from ropeway.errors import Refused
from ropeway.spec.cluster import RemoteHost

_TARGET = re.compile(r"(?:(?P<user>[^@\s]+)@)?(?P<address>[^@\s]+?)(?::(?P<port>\d{1,5}))?")


def remote_host(text: str) -> RemoteHost:
    """Return `user@address:port` as a host of the spec. Raises Refused."""
    match = _TARGET.fullmatch(text)
    if match is None:
        raise Refused(f"`{text}` is not a host", hint="write it like `root@192.168.0.147:22`")
    port = match["port"]
    try:
        return RemoteHost(
            address=match["address"],
            npus=1,
            user=match["user"],
            port=int(port) if port else None,
        )
    except ValueError as error:
        raise Refused(f"`{text}` is not a host", evidence=str(error).splitlines()[1:3]) from None

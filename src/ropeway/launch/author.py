"""Who changes what runs on the hosts: for labels, locks and the audit log."""

import getpass
import json
import os
import secrets
import socket
from dataclasses import asdict, dataclass
from datetime import UTC, datetime


@dataclass(frozen=True)
class Author:
    """Who changes what runs.

    who    `user@machine`
    run    a word that no other run has
    since  UTC, like 2026-11-28T03:00:00Z
    """

    who: str
    run: str
    since: str

    def as_holder(self) -> str:
        """Return the author as the file beside a lock names its holder."""
        return json.dumps(asdict(self))


def current_author() -> Author:
    """Return the author of this run: the user of this process, now."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without a name
        user = str(os.getuid())
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Author(f"{user}@{socket.gethostname()}", secrets.token_hex(6), now)

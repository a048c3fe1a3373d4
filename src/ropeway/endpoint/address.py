"""Where an endpoint is and how we show who we are: its URL as people type it, and its API key."""

import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from ropeway.errors import Refused
from ropeway.phrases import phrase
from ropeway.spec.types import check_key


@dataclass(frozen=True)
class Endpoint:
    """Where requests go: base URL (see `normalise_url`), key, and the longest silence.

    Raises Refused for a key that no HTTP header can carry.
    """

    url: str
    key: str | None = field(default=None, repr=False)
    key_name: str = "OPENAI_API_KEY"
    """The environment variable the key came from, to be named when the key is refused."""
    timeout_s: float = 300.0
    """The longest wait for the next piece of a stream, the first one included."""
    way_there: str = ""
    """What opens a way to an address that is not reached from everywhere."""

    def __post_init__(self) -> None:
        check_key(self.key or "", self.key_name)


def normalise_url(text: str) -> str:
    """Return the base URL for what a user typed: `host:8000`, `http://host:8000`, `…/v1`, `…/v1/`.

    A missing scheme is http; a missing path is `/v1`; any other path stays. Raises Refused.
    """
    typed = text.strip()
    full = typed if "://" in typed else f"http://{typed}"
    full = full.replace("://:", "://127.0.0.1:", 1)
    hint = "write it like `http://127.0.0.1:8000/v1`"
    host = re.split(r"[/?#]", full.partition("://")[2])[0]
    if "@" in host or "?" in typed or "#" in typed:
        raise Refused("the URL may have only host, port and path, no password or query", hint=hint)
    if any(ch.isspace() for ch in typed):
        raise Refused(phrase("`{typed}` has a space in it", typed=typed), hint=hint)
    if not typed.isprintable():
        raise Refused("the URL has a character in it that cannot be printed", hint=hint)
    try:
        parts = urlsplit(full)
        port = parts.port
        (parts.hostname or "").encode("idna")  # as the system's resolver is asked
    except UnicodeError as error:
        raise Refused(
            phrase("`{typed}` has a part in its host name that is empty or too long", typed=typed),
            hint=hint,
        ) from error
    except ValueError as error:
        why = str(error).lower()
        raise Refused(
            phrase("`{typed}` is not a URL: {why}", typed=typed, why=why), hint=hint
        ) from error
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise Refused(phrase("`{typed}` is not the URL of an HTTP server", typed=typed), hint=hint)
    path = parts.path.rstrip("/").removesuffix("/completions").removesuffix("/chat")
    return f"{parts.scheme}://{parts.netloc}{path.rstrip('/') or '/v1'}"

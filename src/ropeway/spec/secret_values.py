"""Secrets whose value is known, hidden in what others wrote."""

import base64
import json
import shlex
from collections.abc import Collection, Iterator
from urllib.parse import quote, quote_plus

from ropeway.spec.secret_shapes import HIDDEN

# Shorter values (`1`, `true`) are switches; hiding them would make a text unreadable.
SHORTEST_SECRET = 6


def text_without(text: str, key: str | None) -> str:
    """Return what a server said without our key, unless that is too short to be a secret."""
    return without_values(text, (key,)) if key and len(key) >= SHORTEST_SECRET else text


def data_without(data: bytes, key: str | None) -> bytes:
    """Return what a server sent without our key; see `text_without`."""
    text = text_without(data.decode(errors="surrogateescape"), key)
    return text.encode(errors="surrogateescape")


def without_values(text: str, values: Collection[str]) -> str:
    """Return the text without these values, however they are written."""
    forms = {form for value in values for form in _forms(value)}
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, HIDDEN)
    return text


def _forms(value: str) -> Iterator[str]:
    """Yield the ways in which a secret may be written."""
    yield from (value, shlex.quote(value))
    # A variable of ours that is not UTF-8 has halves of surrogate pairs for its bytes.
    for escape, safe in ((quote, "/"), (quote, ""), (quote_plus, "")):
        yield escape(value, safe=safe, errors="surrogateescape")
    for ascii_only in (True, False):
        once = json.dumps(value, ensure_ascii=ascii_only)[1:-1]
        yield from (once, json.dumps(once, ensure_ascii=ascii_only)[1:-1])
    if len(value) < SHORTEST_SECRET:
        return
    data = value.encode(errors="surrogateescape")
    yield data.hex()
    for before in range(3):  # where it begins within the three bytes that four characters hold
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            whole = encode(b"\0" * before + data).decode()
            first = (0, 2, 3)[before]  # characters that depend on what stands before it
            last = len(whole) if (before + len(data)) % 3 == 0 else whole.index("=") - 1
            yield whole[first:last]

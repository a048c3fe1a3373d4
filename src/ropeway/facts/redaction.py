"""Text without the secrets in it, for reports and bundles that people hand on.

Secrets that we know are found by their value, as it is and as it is written in URLs, JSON, shells,
base64 and hex; others by what they are called or look like. What is called nothing telling and
looks like nothing in particular stays, unless its value is known.
"""

import base64
import json
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from urllib.parse import quote, quote_plus

from ropeway.spec.secret_shapes import HIDDEN, is_secret
from ropeway.spec.secret_text import without_secrets

# Shorter values (`1`, `true`) are switches; hiding them would make a text unreadable.
_SHORTEST_SECRET = 6


def secret_values(
    args: Sequence[str], environ: Mapping[str, str], named: Collection[str] = ()
) -> frozenset[str]:
    """Return the secrets of an environment: by the names of their variables, by `--key-env` in
    `args`, and those of the variables that are `named`."""
    variables = {after for flag, after in pairwise(args) if flag == "--key-env"}
    variables |= {flag.partition("=")[2] for flag in args if flag.startswith("--key-env=")}
    variables |= set(named)
    by_name = {name for name, value in environ.items() if is_secret(name, value)} - variables
    long = {environ[name] for name in by_name if len(environ[name]) >= _SHORTEST_SECRET}
    return frozenset(long | {environ[name] for name in variables if environ.get(name)})


def redact(text: str, values: Collection[str] = ()) -> str:
    """Return the text without secrets: the `values`, and what is called or looks like one."""
    return without_secrets(_without_values(text, values))


def data_without(data: bytes, value: str) -> bytes:
    """Return what others sent without a value, unless that is too short to be a secret."""
    if len(value) < _SHORTEST_SECRET:
        return data
    text = _without_values(data.decode(errors="surrogateescape"), (value,))
    return text.encode(errors="surrogateescape")


def _without_values(text: str, values: Collection[str]) -> str:
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
    if len(value) < _SHORTEST_SECRET:
        return
    data = value.encode(errors="surrogateescape")
    yield data.hex()
    for before in range(3):  # where it begins within the three bytes that four characters hold
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            whole = encode(b"\0" * before + data).decode()
            first = (0, 2, 3)[before]  # characters that depend on what stands before it
            last = len(whole) if (before + len(data)) % 3 == 0 else whole.index("=") - 1
            yield whole[first:last]

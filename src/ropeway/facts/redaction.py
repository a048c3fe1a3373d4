"""Text without the secrets in it, for reports and bundles that people hand on.

Secrets that we know are found by their value, as it is and as it is written in URLs, JSON, shells,
base64 and hex; others by what they are called or look like. What is called nothing telling and
looks like nothing in particular stays, unless its value is known.
"""

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise

from ropeway.spec.secret_shapes import is_secret
from ropeway.spec.secret_text import without_secrets
from ropeway.spec.secret_values import SHORTEST_SECRET, without_values


def secret_values(
    args: Sequence[str], environ: Mapping[str, str], named: Collection[str] = ()
) -> frozenset[str]:
    """Return the secrets of an environment: by the names of their variables, by `--key-env` in
    `args`, and those of the variables that are `named`."""
    variables = {after for flag, after in pairwise(args) if flag == "--key-env"}
    variables |= {flag.partition("=")[2] for flag in args if flag.startswith("--key-env=")}
    variables |= set(named)
    by_name = {name for name, value in environ.items() if is_secret(name, value)} - variables
    long = {environ[name] for name in by_name if len(environ[name]) >= SHORTEST_SECRET}
    return frozenset(long | {environ[name] for name in variables if environ.get(name)})


def redact(text: str, values: Collection[str] = ()) -> str:
    """Return the text without secrets: the `values`, and what is called or looks like one."""
    return without_secrets(without_values(text, values))

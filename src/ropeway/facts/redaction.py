"""Text without the secrets in it, for reports and bundles that people hand on."""

import re
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise

from ropeway.spec.secret_words import SECRET_WORDS

HIDDEN = "***"
# More than SECRET_WORDS: to hide the value of a harmless variable costs nothing.
SECRET_NAME = re.compile(f"{SECRET_WORDS}|key|auth", re.IGNORECASE)
_USER_IN_URL = re.compile(r"(?<=://)[^/\s@]+@")
_BEARER = re.compile(r"(?<=Bearer )\S+", re.IGNORECASE)
# Shorter values (`1`, `true`) are switches; hiding them would make the report unreadable.
_SHORTEST_SECRET = 6
# What a secret looks like wherever it is, beside the values that we know: `API_KEY=…`,
# `"token": "…"`, and the words that OpenAI's and Hugging Face's begin with. The numbers of tokens
# in a model's config.json are not secrets.
_LIKE_A_SECRET = re.compile(
    rf"(?i)((?:{SECRET_WORDS})(?!(?<=token)[\"']\s*:\s*\d+\s*[,}}])"
    r"[\"']?\s*[:=]\s*[\"']?)[^\s\"',}]{6,}"
    r"|\b(?:sk|hf)[-_][A-Za-z0-9_-]{16,}"
)


def without_secrets(text: str, args: Sequence[str], environ: Mapping[str, str]) -> str:
    """Hide the values of secret environment variables and the user part of URLs."""
    key_variables = {after for flag, after in pairwise(args) if flag == "--key-env"}
    key_variables |= {flag.partition("=")[2] for flag in args if flag.startswith("--key-env=")}
    secrets = {
        value
        for name, value in environ.items()
        if (name in key_variables or SECRET_NAME.search(name)) and len(value) >= _SHORTEST_SECRET
    }
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return _BEARER.sub(HIDDEN, _USER_IN_URL.sub(f"{HIDDEN}@", text))


def redact(
    text: str, args: Sequence[str], environ: Mapping[str, str], named: Collection[str] = ()
) -> str:
    """Return the text without secrets: those we know by value, and what looks like one.

    `named`: environment variables that hold secrets, whatever they are called
    """
    plain = without_secrets(text, args, environ)
    for value in sorted((environ.get(name, "") for name in named), key=len, reverse=True):
        plain = plain.replace(value, HIDDEN) if value else plain
    return _LIKE_A_SECRET.sub(lambda match: f"{match[1] or ''}{HIDDEN}", plain)

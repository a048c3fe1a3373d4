"""Text without the secrets in it, for reports and bundles that people hand on.

Secrets that we know are found by their value, as it is and as it is written in URLs, JSON, shells
and base64; others by what they are called or look like. What is called nothing telling and looks
like nothing in particular stays, unless its value is known.
"""

import base64
import json
import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from urllib.parse import quote, quote_plus

from ropeway.spec.secret_shapes import is_secret_name, without_secret_shapes

HIDDEN = "***"
# Shorter values (`1`, `true`) are switches; hiding them would make a text unreadable.
_SHORTEST_SECRET = 6
_QUOTE = r"\\*[\"']"
# NAME=value, "name": "value", Name: Bearer value, --name value, "--name", "value"; a value, which
# is read only where the name is a secret's, is a list in brackets, a text in quotes, which may be
# escaped themselves, or a word.
_NAME = re.compile(
    r"(?<![\w.-])(?P<name>-{0,2}[A-Za-z_][\w.-]{0,100}+)"
    rf"(?P<between>(?P<quote>{_QUOTE})?\s{{0,4}}+(?:[:=,]|(?<=\s))\s{{0,4}}+(?:(?:Bearer|Basic)\s+)?)",
    re.IGNORECASE,
)
_VALUE = re.compile(
    r"\[(?P<list>[^\]\n]*+)|\"(?P<double>(?:\\.|[^\"\\\n])*+)|'(?P<single>(?:\\.|[^'\\\n])*+)"
    r"|(?P<open>\\+[\"'])(?P<escaped>(?:(?!(?<!\\)(?P=open))[^\n])*+)|(?P<word>[^\s,;&\"'}\])]++)"
)
# What follows a flag up to the next one: `--api-key one two --port 8000`, `--api-key=one,two`.
_MORE = re.compile(r"[^\s\"'\]}]++(?:[^\S\n]+(?!-)[^\s\"'\]}]++)*+")
# One of these is in every secret's name; they are found faster.
_IN_NAMES = (
    "token", "key", "pass", "pwd", "secret", "credential", "auth", "cookie", "sig", "bearer", "pat",
)  # fmt: skip
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_REST = re.compile(r"(?i)(?<=\bcookie: )[^\n\"']+|(?<=\s-u )\S+:\S+|(?<=\s--user )\S+:\S+")
_TOKEN = re.compile(r"(?i)token(?:_?id)?$")
_NOTHING = {"", "false", "no", "none", "null", "true", "yes"}


def secret_values(
    args: Sequence[str], environ: Mapping[str, str], named: Collection[str] = ()
) -> frozenset[str]:
    """Return the secrets of an environment: by the names of their variables, by `--key-env` in
    `args`, and those of the variables that are `named`."""
    variables = {after for flag, after in pairwise(args) if flag == "--key-env"}
    variables |= {flag.partition("=")[2] for flag in args if flag.startswith("--key-env=")}
    variables |= set(named)
    by_name = {name for name in environ if is_secret_name(name)} - variables
    long = {environ[name] for name in by_name if len(environ[name]) >= _SHORTEST_SECRET}
    return frozenset(long | {environ[name] for name in variables if environ.get(name)})


def redact(text: str, values: Collection[str] = ()) -> str:
    """Return the text without secrets: the `values`, and what is called or looks like one."""
    forms = {form for value in values for form in _forms(value)}
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, HIDDEN)
    text = without_secret_shapes(text, HIDDEN)
    return "".join(map(_without_named, text.splitlines(keepends=True)))


def _without_named(line: str) -> str:
    line = _REST.sub(HIDDEN, line)  # cookies, and curl's user
    low = line.lower()
    if not any(word in low for word in _IN_NAMES):
        return line
    parts, done, at = [], 0, 0
    while match := _NAME.search(line, at):
        at = match.end("name")
        value = _VALUE.match(line, match.end()) if is_secret_name(match["name"]) else None
        if value is None or not value.lastgroup or not _is_secret(match, value[value.lastgroup]):
            continue
        begin, end = value.span(value.lastgroup)
        if value["word"] and match["name"].startswith("-") and not match["quote"]:
            more = _MORE.match(line, begin)
            end = more.end() if more else end
        parts += [line[done:begin], HIDDEN]
        done = at = end
    return "".join((*parts, line[done:]))


def _forms(value: str) -> Iterator[str]:
    """Yield the ways in which a secret may be written."""
    yield from (value, quote(value), quote(value, safe=""), quote_plus(value), shlex.quote(value))
    for ascii_only in (True, False):
        once = json.dumps(value, ensure_ascii=ascii_only)[1:-1]
        yield from (once, json.dumps(once, ensure_ascii=ascii_only)[1:-1])
    if len(value) < _SHORTEST_SECRET:
        return
    data = value.encode(errors="surrogateescape")
    for before in range(3):  # where it begins within the three bytes that four characters hold
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            whole = encode(b"\0" * before + data).decode()
            first = (0, 2, 3)[before]  # characters that depend on what stands before it
            last = len(whole) if (before + len(data)) % 3 == 0 else whole.index("=") - 1
            yield whole[first:last]


def _is_secret(match: re.Match[str], value: str) -> bool:
    name, bare = match["name"], value.strip()
    if bare.startswith(("<", "$", HIDDEN)) or bare.lower() in _NOTHING:
        return False  # `"pad_token": "<pad>"`, `$NAME`, `auth: none`
    if _NUMBER.fullmatch(bare) and _TOKEN.search(name):
        return False  # `"image_token": 151655`
    # `first token is` is prose.
    return re.search("[:=,]", match["between"]) is not None or re.search("[_-]", name) is not None

"""What secrets look like: what they are called, and what some of them are written like."""

import re

from ropeway.errors import Refused
from ropeway.phrases import phrase

# The parts of a name: HF_TOKEN, hf-token, hfToken.
_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
# A name that ends so is a secret's: DB_PASS, OPENAI_KEY, apikey, X-Amz-Signature.
_LAST = re.compile(
    r".*(?:token|passw(?:or)?d|passphrase|secret|credentials?|(?:api|access|secret|private|auth)key)"
    r"|authtok|authorization|bearer|cookie|key|pass|pat|pwd|sig|signature"
)
# A name with one of these anywhere, as SECRET_NAME or passwordHash; and one that ends in `auth`.
_ANYWHERE = {
    "secret",
    "secrets",
    "password",
    "passwords",
    "passwd",
    "passphrase",
    "credential",
    "credentials",
}
# Whose keys are secrets also where there are several; and what has keys that are none.
_OF_KEYS = {"access", "api", "auth", "encryption", "private", "secret"}
_NOT_OF_KEYS = {"cache", "foreign", "partition", "primary", "public", "routing", "sort"}
# But not what says where a secret is, or tells something about it.
_ABOUT = {
    "bytes", "count", "dir", "directory", "env", "file", "format", "length", "mode", "name", "path",
    "size", "threshold", "timeout", "ttl", "type",
}  # fmt: skip

# What is a secret wherever it stands, by the beginnings that services give to theirs: Hugging
# Face, OpenAI, GitHub, GitLab, Slack, AWS, Google, npm, PyPI, Docker Hub, NVIDIA; JSON web tokens;
# private keys, to their end or that of the text; the user in a URL; what stands behind `Bearer`.
# Each begins with fixed letters, which `re` finds fast in much text.
_WORD = "[A-Za-z0-9_-]"
_SHAPES = tuple(
    re.compile(shape)
    for shape in (
        rf"(?P<secret>sk-(?=[A-Za-z_-]{{0,60}}\d){_WORD}{{16,}}+)",
        rf"(?P<secret>hf_{_WORD}{{16,}}+)",
        *(rf"(?P<secret>gh{kind}_{_WORD}{{16,}}+)" for kind in "opsur"),
        *(
            rf"(?P<secret>{begin}{_WORD}{{16,}}+)"
            for begin in ("github_pat_", "glpat-", "npm_", "pypi-", "dckr_pat_", "nvapi-")
        ),
        rf"(?P<secret>xox[a-z]-{_WORD}{{8,}}+)",
        *(rf"(?P<secret>{begin}[A-Z0-9]{{16}})" for begin in ("AKIA", "ASIA")),
        rf"(?P<secret>AIza{_WORD}{{35}})",
        rf"(?P<secret>ya29\.{_WORD}{{20,}}+)",
        rf"(?P<secret>eyJ{_WORD}{{8,1024}}+\.{_WORD}{{8,4096}}+(?:\.{_WORD}*+)?)",
        r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----(?P<secret>(?:[^-]|-(?!----))*+)",
        r"://(?P<secret>[^/\s@\"'<>]{1,400}+)@",
        r"Bearer (?P<secret>[^\s\"',]{6,}+)",
    )
)


def without_secret_shapes(text: str, hidden: str) -> str:
    """Return the text with `hidden` in place of everything that is written like a secret."""

    def hide(match: re.Match[str]) -> str:
        begin, end = match.span("secret")
        if begin == match.start() > 0 and match.string[begin - 1].isalnum():
            return match[0]  # within a word: `task-…`
        return match.string[match.start() : begin] + hidden + match.string[end : match.end()]

    for shape in _SHAPES:
        text = shape.sub(hide, text)
    return text


def check_key(key: str, variable: str) -> None:
    """Raise Refused for an API key, from this variable, that no HTTP header can carry."""
    unfit = next((ch for ch in key if not "!" <= ch <= "~"), None)
    if unfit is None:
        return
    what = phrase("a control character")
    if not unfit.isascii():
        what = phrase("a character that is not ASCII")
    elif unfit.isspace():
        what = phrase("a space or a line end")
    raise Refused(
        phrase("the API key in `{name}` has {what} in it", name=variable, what=what),
        hint=phrase("set it anew with `export {name}=…`", name=variable),
    )


def is_secret_name(name: str) -> bool:
    """Return whether a variable, flag or key of this name holds a secret."""
    parts = [part.lower() for part in _PART.findall(name)]
    while parts and (parts[-1].isdigit() or (parts[-1] == "id" and len(parts) > 1)):
        parts.pop()  # AWS_ACCESS_KEY_ID, TOKEN_2
    if not parts or parts[-1] in _ABOUT:
        return False
    last = parts[-1]
    if last == "keys":
        return len(parts) > 1 and parts[-2] in _OF_KEYS
    if last == "key" and (len(parts) == 1 or parts[-2] in _NOT_OF_KEYS):
        return name == "KEY"  # `key: serve.context` is none
    return bool(_LAST.fullmatch(last)) or last == "auth" or not _ANYWHERE.isdisjoint(parts)

"""Reads text for what is called a secret: finds names, and by the syntax around each its value.

A name is read in one place, what joins it to its value in one, and the value in one for each way
to write values: brackets, quotes, lines that are indented, headers, words. Each of them reads a
bounded part, or what it hides, so that all takes time in proportion to the text.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ropeway.spec.secret_shapes import HIDDEN, harmless_values, is_secret, without_secret_shapes

Span = tuple[int, int]


# One backslash, or as many as JSON within JSON has; the percent sign, also of URLs within URLs.
_ESCAPE = r"\\{1,15}"
_PERCENT = r"%(?:25){0,4}"


def _or_escaped(*words: str) -> str:
    """Return what these words match, also as JSON for ASCII writes them."""
    escaped = ("".join(rf"{_ESCAPE}u{ord(ch):04x}" for ch in word) for word in words)
    return f"(?:{'|'.join((*words, *escaped))})"


# A quote, also escaped, and as URLs, HTML and JSON spell it; a newline within JSON.
_QUOTE = rf"(?:(?:{_ESCAPE})?[\"']|{_PERCENT}2[27]|&(?:quot|apos|#3[49]);|{_ESCAPE}u002[27])"
_NEWLINE = rf"(?:\r?\n|(?:{_ESCAPE}r)?{_ESCAPE}n)"
_NUL = rf"(?:\0|{_ESCAPE}(?:u0000|x00))"
_BLANK = rf"(?:[ \t]|{_ESCAPE}t)"
# What stands before a message in logs: times, levels, places, processes, containers.
_PREFIX = (
    r"(?:(?:\d{2,4}[-/:]\d\d[\d:.,TZ/+-]{0,40}|DEBUG|INFO|WARN(?:ING)?|ERROR|CRITICAL"
    r"|\([^()\n]{1,60}\)|\[[^\[\]\n]{1,60}\]|[^\s|]{1,40}[ \t]{1,9}\|):?[ \t]){0,8}"
)
_NAME = re.compile(
    r"(?:(?<![A-Za-z0-9_.\\-])|(?<=\\)(?![nrtu])|(?<=\\[nrt])|(?<=\\u[0-9A-Fa-f]{4})"
    r"|(?<=%[0-9A-Fa-f]{2})|(?<=%25[0-9A-Fa-f]{2}))"
    r"(?P<name>-{0,2}[A-Za-z_](?:[A-Za-z0-9_.-]{0,100}[A-Za-z0-9_])?)(?![A-Za-z0-9_])"
    rf"|(?P<chinese>(?P<token>{_or_escaped('令牌')})"
    rf"|{_or_escaped('密码', '口令', '密钥', '秘钥', '私钥', '凭证', '凭据')})"
)
# `api key`, of which `_NAME` finds the second word.
_OF_KEY = re.compile(r"(?i)\b(access|api|auth|encryption|private|secret)[ \t]$")
# What joins a name to its value: `=`, `"name": `, `->`, `| name | `, `, "value": `.
_SIGN = re.compile(
    rf"(?P<quote>{_QUOTE})?(?P<mark>[`*\]]{{0,3}}){_BLANK}{{0,40}}+"
    rf"(?:(?P<sign>:=|[-=]>|==?|:(?!:)|{_or_escaped('→', '：', '＝')}|(?P<comma>,)|(?P<tag>>)"
    rf"|(?P<bar>\||{_or_escaped('│', '┃')})|(?P<encoded>{_PERCENT}3[ADad])"
    rf"|(?P<verb>{_or_escaped('为', '是')})){_BLANK}{{0,40}}+)?"
)
# An environment's entry in two keys: `"name": "API_KEY", "value": "…"`.
_SPACE = rf"(?:\s|{_ESCAPE}n)"
_VALUE_KEY = re.compile(
    rf"(?:{_QUOTE})?(?:,{_SPACE}{{0,80}}+|{_SPACE}{{1,80}}+)(?:{_QUOTE})?value(?:{_QUOTE})?"
    r"\s?[:=]\s{0,9}+"
)
_SCHEME = re.compile(r"(?:(?:Bearer|Basic)\s{1,9}+)?(?:[bBrRuU]{1,2}(?=[\"']))?", re.IGNORECASE)
_OPEN = re.compile(rf"(?:(?:{_ESCAPE})?\"){{3}}|(?:(?:{_ESCAPE})?'){{3}}|{_QUOTE}")
_LINE_END = re.compile(
    rf"{_BLANK}*+(?:[|>][+-]?{_BLANK}*+)?(?:#(?:(?!{_ESCAPE}n)[^\n]){{0,200}}+)?"
    rf"(?:\\?{_NEWLINE}|\Z)|{_NUL}"
)
_MARGIN = re.compile(rf"{_PREFIX}[ \t]{{0,200}}+(?:- )?")
# Where a line begins, or a text in quotes does, and what may stand before its first key.
_HEAD_LENGTH = 300
_BAR_BEFORE = re.compile(rf"(?:\n|\||{_or_escaped('│', '┃')})\Z")  # a table, not a pipe of a shell
_HEAD = re.compile(
    rf"(?s:.*(?:\n|\\n|[\"'])|\A)(?!\\n)(?P<before>{_PREFIX}(?P<indent>[ \t]*)(?P<dash>(?:- )*)"
    rf"(?:export |-e )?{_QUOTE}?)"
)
_LINE = re.compile(
    rf"{_PREFIX}(?P<indent>[ \t]*+)(?P<dash>(?:- )*+)"
    rf"(?:{_QUOTE}?[A-Za-z0-9_.-]{{1,100}}+{_QUOTE}?[ \t]*+:(?=\s|{_ESCAPE}n|\Z)[ \t]*+)?"
    rf"(?P<rest>(?:(?!{_ESCAPE}n)[^\n])*+){_NEWLINE}?"
)

_DELIMITERS = r"\s,;&\"'}\])|"
# A word ends at a delimiter, unless more than delimiters and the next pair stand behind it.
_WORD = re.compile(
    rf"(?:[^{_DELIMITERS}\0]|[\"'}}\])|](?=[^{_DELIMITERS}:=>])"
    rf"|[,;&](?![A-Za-z0-9_.-]{{1,60}}+\s?[=:])(?=[^{_DELIMITERS}]))++"
)
_ENCODED = re.compile(rf"(?:(?!{_PERCENT}(?:2[267C]|3B|7D))[^\s\"'<>&])++", re.IGNORECASE)
# Within quotes of a shell or YAML, `'"'"'`, `'\''` and `''` are a quote.
_QUOTED = re.compile(
    r"\"(?P<double>(?:\\.|[^\"\\\n])*+)\"?+"
    rf"|'(?P<single>(?:'(?:{_ESCAPE})?\"'(?:{_ESCAPE})?\"'|'{_ESCAPE}''|''|\\.|[^'\\\n])*+)'?+"
)
_GLUED = re.compile(rf"(?![{_DELIMITERS}:=\0]){_WORD.pattern}")
_SPELLED = re.compile(
    rf"(?P<open>{_OPEN.pattern})(?P<text>(?:(?!(?<!\\)(?P=open))[^\n])*+)(?P=open)?"
)
_HEADER = re.compile(r"(?:=\\*[\"'][^\"'\n]*+[\"']?+|[^\n\"'\\])*+")
_TAGGED = re.compile(r"[^<\n]*+")
_LINE_REST = re.compile(rf"(?:[^\n#\"']|(?<!\s)#|[\"'](?=[^{_DELIMITERS}:=>]))*+")
# What follows a flag up to the next one: `--api-key one two --port 8000`, `--api-key=one,two`.
_MORE_WORD = rf"(?:[^\s\"'\]}}\0]|[\"'](?=[^{_DELIMITERS}:=>]))++"
_MORE = re.compile(rf"{_MORE_WORD}(?:[^\S\n]+(?!-){_MORE_WORD})*+")
_INNER = re.compile(
    rf"(?P<open>[{{\[(])|(?P<close>[}}\])])|(?P<spelled>{_QUOTE})"
    rf"|(?P<word>[^\s,:=\"'\\{{}}\[\]()]++)|\n(?!{_PREFIX}[ \t\"'}}\])])(?P<out>)|.",
    re.DOTALL,
)
_KEY_SIGN = re.compile(r"\s{0,9}[:=]")
_ENDS = re.compile(
    rf"[{_DELIMITERS}>\\\0:：。，]|\Z|</|\.(?=\s|\Z)|{_PERCENT}(?:2[267C]|3B|7D)", re.IGNORECASE
)

# Flags of one letter that take a password; the rest are in names.
_ARGUMENT = r"[\s\"',=\\]{0,6}(?P<secret>[^\s\"',\]]++)"
_PROGRAMS = (
    *(
        re.compile(rf"{program}\b[^\n|;&]{{0,200}}?[\s\"']-{flag}{_ARGUMENT}")
        for program, flag in (
            ("sshpass", "p"),
            (r"(?:docker|podman|nerdctl|helm)[\s\"',\\]{1,9}login", "p"),
            ("redis-cli", "a"),
            ("obsutil", "[ik]"),
            ("ipmitool", "P"),
            ("ldapsearch", "w"),
        )
    ),
    re.compile(
        r"(?:mysql|mariadb)[a-z-]{0,10}\b[^\n|;&]{0,200}?[\s\"']-p(?P<secret>[^\s\"',\]]++)"
    ),
    re.compile(
        r"\s(?:-u|--user)[ =][\"']?(?!\d+:\d+\b|\w+://)(?P<secret>[^\s:\"']{1,100}+:[^\s\"']++)"
    ),
    re.compile(r"\b(?:login|user|account)\s+\S{1,100}+\s+password\s+(?P<secret>\S++)"),  # netrc
    re.compile(r"(?:requirepass|masterauth)[ \t]+(?P<secret>\S++)"),
)


def without_secrets(text: str) -> str:
    """Return the text with `HIDDEN` in place of what is called or looks like a secret."""
    text = without_secret_shapes(text)
    for program in _PROGRAMS:
        text = program.sub(
            lambda match: match[0][: match.start("secret") - match.start()] + HIDDEN, text
        )
    parts, done = [], 0
    for begin, end in _values(text):
        if begin < end:
            parts += [text[done:begin], HIDDEN]
            done = end
    return "".join((*parts, text[done:]))


def _values(text: str) -> Iterator[Span]:
    """Yield where the values of names that are secrets' stand, in order; some spans are empty."""
    at = 0
    while match := _NAME.search(text, at):
        at = match.end()
        name = _whole_name(match)
        harmless = harmless_values(name)
        if harmless is None:
            continue
        sign = _SIGN.match(text, match.end())
        for begin, end in _Named(match, name, harmless, sign).values() if sign else ():
            yield begin, end
            at = max(at, end)


def _whole_name(match: re.Match[str]) -> str:
    """Return the name; with the word before it where that says whose key it is."""
    if match["chinese"]:
        return "token" if match["token"] else "password"
    before = match.string[max(0, match.start() - 12) : match.start()]
    if match["name"].lower() in ("key", "keys") and (whose := _OF_KEY.search(before)):
        return f"{whose[1]}_{match['name']}"
    return match["name"]


@dataclass(frozen=True)
class _Named:
    """A name that is a secret's, and what joins it to its value.

    match     of `_NAME`; its string is the whole text
    name      as `harmless_values` reads it
    harmless  what its harmless values match
    sign      the match of `_SIGN` behind it, of which each part may be empty
    """

    match: re.Match[str]
    name: str
    harmless: re.Pattern[str]
    sign: re.Match[str]

    @property
    def text(self) -> str:
        return self.match.string

    @property
    def is_flag(self) -> bool:
        return self.name.startswith("-")

    def values(self) -> Iterator[Span]:
        """Yield where its values stand; an empty span says that the text was read up to there."""
        at = self._begin()
        if at is None:
            return iter(())
        if line_end := _LINE_END.match(self.text, at):
            return self._below(line_end)
        return self._at(at)

    def _begin(self) -> int | None:
        """Return where the value or the end of the name's line is; None where there is no value."""
        sign = self.sign
        if pair := _VALUE_KEY.match(self.text, self.match.end()):
            return pair.end()
        if sign["sign"]:
            return sign.end() if self._is_joined() else None
        if sign["mark"] or (sign["quote"] and not self.is_flag):
            return None
        apart = sign.end() > self.match.end() or _LINE_END.match(self.text, sign.end())
        # `first token is` is prose.
        return sign.end() if apart and re.search("[_-]", self.match[0]) else None

    def _is_joined(self) -> bool:
        """Return whether the sign joins name and value where it stands."""
        start, sign = self.match.start(), self.sign
        before = self.text[max(0, start - 40) : start].rstrip(" \t*`")
        if sign["bar"]:
            return not before or bool(_BAR_BEFORE.search(before))
        if sign["tag"]:
            return before.endswith(("<", ":"))
        if sign["comma"]:
            return bool(sign["quote"]) or self.is_flag
        return not sign["verb"] or bool(self.match["chinese"])

    def _at(self, at: int) -> Iterator[Span]:
        """Yield the value that begins here, unless it is harmless."""
        text = self.text
        scheme = _SCHEME.match(text, at)
        at = scheme.end() if scheme else at
        if self.match["chinese"] and "\u4e00" <= text[at : at + 1] <= "\u9fff":
            return  # `密钥：运行前请先设置` is prose
        opened = _OPEN.match(text, at)
        rest = self.harmless.match(text, opened.end() if opened else at)
        if rest and (
            text.startswith(opened[0], rest.end()) if opened else _ENDS.match(text, rest.end())
        ):
            return
        if text.startswith(("{", "[", "("), at):
            yield from _within(text, at)
        elif opened:
            begin, end = _in_quotes(text, at)
            is_key = self.sign["comma"] and _KEY_SIGN.match(text, end + len(opened[0]))
            if not is_key:  # `"key_env": "API_KEY", "port": 8000`
                yield begin, end
        elif found := self._plain().match(text, at):
            yield at, at + len(found[0].rstrip())

    def _plain(self) -> re.Pattern[str]:
        """Return what a value without quotes matches."""
        sign = self.sign
        if sign["sign"] and re.search(r"(?i)(?:cookie|authorization)$", self.name):
            return _HEADER
        if sign["tag"]:
            return _TAGGED
        if sign["encoded"]:
            return _ENCODED
        if self.is_flag and not sign["quote"]:
            return _MORE
        # Several words on a line of YAML are one value.
        return _LINE_REST if sign["sign"] == ":" and not sign["quote"] and self._head() else _WORD

    def _head(self) -> re.Match[str] | None:
        """Return what stands before the name on its line, if that is nothing but indentation."""
        start = self.match.start()
        before = self.text[max(0, start - _HEAD_LENGTH) : start]
        return _HEAD.fullmatch(before)

    def _below(self, line_end: re.Match[str]) -> Iterator[Span]:
        """Yield the values on the lines below: of a flag, of JSON, or of YAML."""
        text, sign, head = self.text, self.sign, self._head()
        margin = _MARGIN.match(text, line_end.end())
        at = margin.end() if margin else line_end.end()
        if self.is_flag:
            on_its_own = sign["sign"] or head or not line_end[0].isspace()
            if on_its_own and not text.startswith("-", at):
                yield from self._at(at)
        elif sign["quote"] and (text.startswith(("{", "["), at) or _OPEN.match(text, at)):
            yield from self._at(at)
        elif sign["sign"] and head:
            yield from _block(text, line_end.end(), len(head["indent"]) + len(head["dash"]))


def _in_quotes(text: str, at: int) -> Span:
    """Return what stands in the quotes that begin here, and what a shell joins to it: `'a'b`."""
    opened = _OPEN.match(text, at)
    if opened and len(opened[0]) == 1 and (quoted := _QUOTED.match(text, at)):
        glued = _GLUED.match(text, quoted.end())
        return at + 1, glued.end() if glued else quoted.end(quoted.lastgroup or 0)
    spelled = _SPELLED.match(text, at)
    return spelled.span("text") if spelled else (at, at)


def _within(text: str, at: int) -> Iterator[Span]:
    """Yield all values within brackets, which may have no end, and not their keys."""
    depth = 0
    while (token := _INNER.match(text, at)) and token["out"] is None:
        at = token.end()
        depth += bool(token["open"]) - bool(token["close"])
        span = token.span("word")
        if token["spelled"] and (spelled := _SPELLED.match(text, token.start())):
            at, span = spelled.end(), spelled.span("text")
        if span[1] > span[0] and not _KEY_SIGN.match(text, at) and _is_secret(text, *span):
            yield span
        if depth <= 0:
            break
    yield at, at


def _block(text: str, at: int, indent: int) -> Iterator[Span]:
    """Yield all values on the lines that are indented deeper than a key, and not their keys."""
    while at < len(text) and (line := _LINE.match(text, at)):
        rest, own = line["rest"].strip(), len(line["indent"])
        if rest and not (own > indent or (own == indent and line["dash"])):
            break
        begin = line.start("rest")
        if _is_secret(text, begin, begin + len(rest)):
            yield begin, begin + len(rest)
        at = line.end()
    yield at, at


def _is_secret(text: str, begin: int, end: int) -> bool:
    """Return whether one of the values under a secret's name is one."""
    return is_secret("secret", text[begin:end])

"""Reads text for what is called a secret: finds names, and by the syntax around each its value.

A name is read in one place, what joins it to its value in one, and the value in one for each way
to write values: brackets, quotes, lines that are indented, headers, words. Each of them reads a
bounded part, or what it hides, so that all takes time in proportion to the text.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ropeway.spec.secret_shapes import (
    HIDDEN,
    LOOKS_SECRET,
    SAID_BEHIND_COLON,
    SAID_OF_SECRET,
    harmless_values,
    is_secret,
    of_key,
    without_secret_shapes,
)

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
_WORD_BEFORE = re.compile(r"\b([A-Za-z]{1,20})[ \t]$")
# What joins a name to its value: `=`, `"name": `, `->`, `| name | `, `, "value": `.
_SIGN = re.compile(
    rf"(?P<quote>{_QUOTE})?(?P<mark>[`*\]]{{0,3}}){_BLANK}{{0,40}}+"
    rf"(?:(?P<sign>:=|[-=]>|==?|:(?!:)|{_or_escaped('→', '：', '＝')}|(?P<comma>,)|(?P<tag>>)"
    rf"|(?P<bar>\||{_or_escaped('│', '┃')})|(?P<encoded>{_PERCENT}3[ADad])"
    rf"|(?P<verb>{_or_escaped('为', '是')}|is(?=[ \t]))){_BLANK}{{0,40}}+)?"
)
# An environment's entry in two keys, in either order and with others between them:
# `"name": "API_KEY", "value": "…"`. What stands between a name and `value`, or a value and a name.
_SPACE = rf"(?:\s|{_ESCAPE}n)"
_NEXT = (
    rf"(?:{_QUOTE})?(?:,|(?={_SPACE})){_SPACE}{{0,80}}+"
    rf"(?:#(?:(?!{_ESCAPE}n)[^\n]){{0,200}}+{_SPACE}{{1,80}}+)?{_PREFIX}[ \t]{{0,80}}+(?:{_QUOTE})?"
)
_OTHER = (
    rf"(?!(?i:key|name|value)\b)[A-Za-z_]{{1,40}}+(?:{_QUOTE})?\s?[:=]\s?"
    rf"(?:{_QUOTE}[^\"'\\\n{{}}&%]{{0,200}}+|[^\s,:=\"'\\{{}}\[\]()&%]{{0,60}}+)"
)
_TO_PAIR = rf"(?:{_NEXT}{_OTHER}){{0,3}}{_NEXT}"
_TO_VALUE = re.compile(rf"{_TO_PAIR}(?=(?i:value)(?:{_QUOTE})?\s?[:=])")
_TO_NAME = re.compile(rf"{_TO_PAIR}(?i:key|name)(?:{_QUOTE})?\s?[:=]\s{{0,9}}+(?:{_QUOTE})?")
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

_CONTINUED = r"\\\r?\n(?=\S)"  # a shell joins the lines
_DELIMITERS = r"\s,;&\"'}\])|"
# A word ends at a delimiter, unless more than delimiters and the next pair stand behind it.
_WORD = re.compile(
    rf"(?:{_ESCAPE}[ \t,;&}}\])|]|{_CONTINUED}|[^{_DELIMITERS}\0]"
    rf"|[\"'}}\])|](?=[^{_DELIMITERS}:=>])"
    rf"|[,;&](?![A-Za-z0-9_.-]{{1,60}}+\s?[=:])(?=[^{_DELIMITERS}]))++"
)
_ENCODED = re.compile(rf"(?:(?!{_PERCENT}(?:2[267C]|3B|7D))[^\s\"'<>&])++", re.IGNORECASE)
# Within quotes of a shell or YAML, `'"'"'`, `'\''` and `''` are a quote.
_QUOTED = re.compile(
    r"\"(?P<double>(?:\\(?:.|\r?\n)|[^\"\\\n])*+)\"?+"
    rf"|'(?P<single>(?:'(?:{_ESCAPE})?\"'(?:{_ESCAPE})?\"'|'{_ESCAPE}''|''|\\.|[^'\\\n])*+)'?+"
)
# What a shell joins to a text in quotes: `'a'b"c d"`.
_GLUED = re.compile(
    rf"(?:(?<=')\"(?=[^{_DELIMITERS}:=\\])[^\"\n]++\"|(?<=\")'(?=[^{_DELIMITERS}:=\\])[^'\n]++'"
    rf"|(?![{_DELIMITERS}:=\0]){_WORD.pattern})++"
)
_SPELLED = re.compile(
    rf"(?P<open>{_OPEN.pattern})(?P<text>(?:(?!(?<!\\)(?P=open))[^\n])*+)(?P=open)?"
)
_HEADER = re.compile(r"(?:=\\*[\"'][^\"'\n]*+[\"']?+|[^\n\"'\\])*+")
_TAGGED = re.compile(r"[^<\n]*+")
_LINE_REST = re.compile(
    rf"(?:[^\n#\"'\\]|(?<!\s)#|[\"'](?=[^{_DELIMITERS}:=>])"
    rf"|\\(?!\\{{0,14}}n{_PREFIX}[ \t]{{0,80}}(?i:key|name){_BLANK}?:))*+"
)
# What follows a flag up to the next one: `--api-key one two --port 8000`, `--api-key=one,two`.
_MORE_WORD = rf"(?:{_CONTINUED}|[^\s\"'\]}}\0]|[\"'](?=[^{_DELIMITERS}:=>]))++"
_MORE = re.compile(rf"{_MORE_WORD}(?:[^\S\n]+(?!-){_MORE_WORD})*+")
_INNER = re.compile(
    rf"(?P<open>[{{\[(])|(?P<close>[}}\])])|(?P<spelled>{_QUOTE})"
    rf"|(?P<word>[^\s,:=\"'\\{{}}\[\]()]++)|\n(?!{_PREFIX}[ \t\"'}}\])])(?P<out>)|.",
    re.DOTALL,
)
_KEY_SIGN = re.compile(r"\s{0,9}[:=]")
_ENDS = re.compile(
    rf"[{_DELIMITERS}>\0:：。，]|(?<=\w)`|{_ESCAPE}(?:[nrt\"'\s]|u00|\Z)|\Z|</|\.(?=\s|\Z)"
    rf"|{_PERCENT}(?:2[267C]|3B|7D)",
    re.IGNORECASE,
)

# `"token": " hello", "logprob": …` is one of a text.
_TOKEN_OF_TEXT = re.compile(r" ?[A-Za-z]{1,8}(?=[ \t]{0,9}(?:[\n\"',;)\]}\\]|\Z))")

# Programs whose secrets stand behind flags of one letter, or behind none; the other flags have
# names. What begins the command, what stands before a secret, and how many of them there are at
# most, 0 for any number.
_APART = r"(?:[\s\"',\\]|(?<=\\)n){1,80}+"
_JOINT = r"(?:[\s,=\\]|(?<=\\)n)"
_PROGRAMS = tuple(
    (
        re.compile(
            rf"{program.replace(' ', _APART)}"
            r"(?P<rest>(?:[^\n|;&\\\"']|\"[^\"\n]*+\"|'[^'\n]*+'|\\(?:\r?\n|[|;&])?|[\"']"
            r"|(?<=>)&)*+)"
        ),
        re.compile(rf"(?<=[\s\"'])(?:{flag})(?:{_QUOTE}(?=[\s,]))?{_JOINT}{{0,80}}+"),
        most,
    )
    for program, flag, most in (
        (r"sshpass(?=(?: -v| -P \S{1,60}){0,2} -p)", "-p", 1),
        (r"(?:docker|podman|nerdctl|skopeo|oras|helm(?: registry)?|crane auth|az) login", "-p", 0),
        (r"swanlab login", "-k", 0),
        (r"wandb login", r"(?=[\"']?\w{16})", 1),
        (r"redis-cli", r"-a\b", 0),
        (r"(?:obsutil|ossutil|coscli)", r"-[ikt]\b", 0),
        (r"coscmd config", r"-[as]\b", 0),
        (r"mc(?:li)? (?:alias set|config host add) \S{1,100} \S{1,400}", r"(?=[\"']?[\w+/])", 2),
        (r"mc(?:li)? admin user add \S{1,100}", r"(?=[\"']?[\w+/])", 2),
        (r"rclone", r"(?:obscure|pass)(?=[\s\"'=])", 0),
        (r"(?:mysql|mariadb)", r"-p(?!\d+:\d)(?=[\"']?[^\s\"',\]])", 0),
        (r"curl", r"-[fgikLsSv]{0,8}[uU]|--proxy-user", 0),
        (r"create secret", rf"--from-literal(?:{_JOINT}{{1,80}}+[\w.-]{{1,100}}=)?", 0),
        (r"ipmitool", "-P", 0),
        (r"zip", "-P", 0),
        (r"ldapsearch", "-w", 0),
    )
)
_PASSED = (
    re.compile(
        r"\s(?:-u|--user)[ =][\"']?(?!\d+:\d+\b|\w+://)(?P<secret>[^\s:\"']{1,100}+:[^\s\"']++)"
    ),
    re.compile(r"\b(?:login|user|account)\s+\S{1,100}+\s+password\s+(?P<secret>\S++)"),  # netrc
    re.compile(r"(?:requirepass|masterauth)[ \t]+(?P<secret>\S++)"),
    re.compile(
        r"echo[ \t]+(?P<secret>(?!\\*[\"']?\$)[^\s|][^\n|]{0,200}+)"
        r"\|(?=[^\n|;&]{0,200}?(?:password-stdin|chpasswd|sudo -S))"
    ),
)


def without_secrets(text: str) -> str:
    """Return the text with `HIDDEN` in place of what is called or looks like a secret."""
    text = without_secret_shapes(text)
    for program, flag, most in _PROGRAMS:
        text = _hide(text, _arguments(text, program, flag, most))
    for passed in _PASSED:
        text = _hide(text, (match.span("secret") for match in passed.finditer(text)))
    return _hide(text, _values(text))


def _hide(text: str, spans: Iterable[Span]) -> str:
    """Return the text with `HIDDEN` in place of these spans, which are in order."""
    parts, done = [], 0
    for begin, end in spans:
        if begin < end:
            parts += [text[done:begin], HIDDEN]
            done = end
    return "".join((*parts, text[done:]))


def _arguments(
    text: str, program: re.Pattern[str], flag: re.Pattern[str], most: int
) -> Iterator[Span]:
    """Yield where the secrets in the commands of a program stand."""
    for command in program.finditer(text):
        at, stop = command.span("rest")
        count = 0
        while (before := flag.search(text, at, stop)) and (not most or count < most):
            at, count = before.end(), count + 1
            if _OPEN.match(text, at):
                begin, end = _in_quotes(text, at)
            else:
                word = _WORD.match(text, at)
                begin, end = word.span() if word else (at, at)
            # In single quotes, `$NAME` is no variable.
            if text[begin - 1] == "'" or _is_secret(text, begin, end):
                yield begin, end
            at = max(at, end)


def _values(text: str) -> Iterator[Span]:
    """Yield where the values of names that are secrets' stand, in order; some spans are empty."""
    at = read = 0
    while match := _NAME.search(text, at):
        at = match.end()
        name = _whole_name(match)
        spans: Iterable[Span] = ()
        if harmless := harmless_values(name):
            pair = _TO_VALUE.match(text, at)
            key = (pair and _NAME.match(text, pair.end())) or match
            if sign := _SIGN.match(text, key.end()):
                spans = _Named(key, name, harmless, sign).values()
        elif name.lower() == "value" and at > read:  # what was read is not read again
            values = list(_values_of(match))
            read = values[-1][1] if values else at
            behind = _TO_NAME.match(text, read)
            named = behind and _NAME.match(text, behind.end())
            spans = values if named and harmless_values(_whole_name(named)) else ()
        for begin, end in spans:
            yield begin, end
            at = max(at, end)


def _values_of(key: re.Match[str]) -> Iterator[Span]:
    """Yield where the value of the key `value` stands, unless it is in brackets."""
    sign, harmless = _SIGN.match(key.string, key.end()), harmless_values("secret")
    bracket = sign and key.string.startswith(("{", "[", "("), sign.end())
    if harmless and sign and sign["sign"] and not bracket:
        yield from _Named(key, "value", harmless, sign).values()


def _whole_name(match: re.Match[str]) -> str:
    """Return the name; with the word before it where that says whose key it is."""
    if match["chinese"]:
        return "token" if match["token"] else "password"
    before = match.string[max(0, match.start() - 22) : match.start()]
    if (whose := _WORD_BEFORE.search(before)) and of_key(whose[1], match["name"]):
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
        if sign["sign"]:
            return sign.end() if self._is_joined() else None
        if sign["mark"] or (sign["quote"] and not self.is_flag):
            return None
        apart = sign.end() > self.match.end() or _LINE_END.match(self.text, sign.end())
        if self.match["chinese"]:
            clear = LOOKS_SECRET.match(self.text, sign.end())
        else:
            clear = re.search("[_-]", self.match[0])  # `first token is` is prose
        return sign.end() if apart and clear else None

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
        clear = self.match["chinese"] or LOOKS_SECRET.match(self.text, sign.end())
        return not sign["verb"] or bool(clear)

    def _at(self, at: int) -> Iterator[Span]:
        """Yield the value that begins here, unless it is harmless."""
        text = self.text
        scheme = _SCHEME.match(text, at)
        at = scheme.end() if scheme else at
        if self.match["chinese"] and "\u4e00" <= text[at : at + 1] <= "\u9fff":
            return  # `密钥：运行前请先设置` is prose
        opened = _OPEN.match(text, at)
        begin = opened.end() if opened else at
        if self.name == "token" and self.sign["sign"] == ":" and _TOKEN_OF_TEXT.match(text, begin):
            return
        rest = self.harmless.match(text, begin)
        if rest and (
            text.startswith(opened[0], rest.end()) if opened else _ENDS.match(text, rest.end())
        ):
            return
        if not opened and self._is_said(at):
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

    def _is_said(self, at: int) -> bool:
        """Return whether a message goes on here about the secret: `HF_TOKEN is not set`."""
        sign = self.sign["sign"]
        if self.match[0].lower() == "value":  # the second key of an entry
            return False
        if sign in (":", "："):
            return bool(SAID_BEHIND_COLON.match(self.text, at))
        return not sign and bool(SAID_OF_SECRET.match(self.text, at))

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

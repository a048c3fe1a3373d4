"""What a host's commands print, whatever they are: lines, JSON, or a shell's refusal.

The parsers of system, processor, docker, network, storage and ray stand on these few functions.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ropeway.facts.base import ErrorKind, Reading, ToolError
from ropeway.facts.captures import read_capture

# Retyped prompts that captures.py does not know: a blank after the colon, Markdown's backslashes.
_PROMPT = re.compile(
    r"(?:\([\w. -]{1,40}\) ?)?"
    r"(?:\\?\[[^\s\]]{1,60}@[^\]]{1,200}\] ?\\?[#$>]"
    r"|[\w.-]{1,60}@[\w.-]{1,100} ?: ?[^\s#$]{0,200} ?[#$](?=\s|$)"
    r"|[$#%] )"
)
_ESCAPE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\ufeff\u200b\x00]")
_FENCE = re.compile(r"\s*(?:```|~~~)[\w+-]*\s*$")
_ELISION = re.compile(r"\s*(?:\.{3,}|…+)\s*,?\s*$")
_DOCUMENT = re.compile(r"^[ \t]*(?=[\[{])", re.MULTILINE)
_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|[{}\[\],]', re.DOTALL)
_TRAILING_COMMA = re.compile(r",(?=\s*[\]}])")
# Half of a character: Python reads it and then cannot print it.
_LONE_SURROGATE = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    r"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)
_MOST_FAILURES = 8
_MOST_DOCUMENTS = 20_000
_DEEPEST = 200

# Cells of a table have at most single blanks inside.
_CELL = re.compile(r"\S+(?: \S+)*")
_WHOLE = re.compile(r"[0-9]{1,18}")
_DECIMAL = re.compile(r"-?[0-9]{1,15}(?:\.[0-9]{1,12})?")

# What shells and programs say, in the two languages seen on these hosts.
_REFUSALS: tuple[tuple[ErrorKind | None, re.Pattern[str]], ...] = (
    (
        "denied",
        re.compile(
            r"permission denied|operation not permitted|must be (?:run as )?root|access denied"
            r"|权限不够|权限不足|不允许的操作|拒绝访问",
            re.IGNORECASE,
        ),
    ),
    (
        None,
        re.compile(
            r"command not found|: not found\b|no such file or directory|executable file not found"
            r"|applet not found|未找到命令|找不到命令|没有那个文件或目录",
            re.IGNORECASE,
        ),
    ),
    ("failed", re.compile(r"RTNETLINK answers|Cannot find device|is unreachable", re.IGNORECASE)),
    ("timeout", re.compile(r"timed out|timeout expired|deadline exceeded|超时", re.IGNORECASE)),
)
_READ_FOR_REFUSAL = 20_000


@dataclass(frozen=True)
class Printed:
    """Lines that are not blank, indentation kept; `cut` when something was left out."""

    lines: tuple[str, ...]
    cut: bool


@dataclass(frozen=True)
class Documents:
    """The JSON values of a text in order.

    unread  lines beside them
    cut     the last one had no end; it holds what came before the cut
    """

    values: tuple[object, ...]
    unread: tuple[str, ...]
    cut: bool


def _finite(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None


# What JSON does not have, and Python reads and then cannot print: NaN, 1e999.
_DECODER = json.JSONDecoder(parse_float=_finite, parse_constant=lambda _: None)


def printed(text: str, *programs: str) -> Printed:
    """The output in a capture; lines that only repeat a call of one of `programs` are left out."""
    capture = read_capture(text)
    lines = [line for line in capture.lines if not _is_typed(line, programs)]
    return Printed(tuple(lines), capture.elided)


def whole_lines(text: str) -> list[str]:
    """Lines of any length, without escapes, fences and the quote marks of a page."""
    lines = _ESCAPE.sub("", text.replace("\r\n", "\n")).split("\n")
    if all(line.startswith(">") for line in lines if line.strip()):
        lines = [line[1:].removeprefix(" ") for line in lines]
    return [line for line in lines if not _FENCE.match(line)]


def documents(text: str, *programs: str) -> Documents:
    """Every JSON object and array that starts a line; never raises, linear in the text.

    Lines that only repeat a call of one of `programs` are left out.
    """
    text, elided = _json_text(text)
    if "\\ud" in text or "\\uD" in text:
        text = _LONE_SURROGATE.sub(r"\\ufffd", text)
    values: list[object] = []
    unread: list[str] = []
    position, failures, cut = 0, 0, elided
    while failures < _MOST_FAILURES and len(values) < _MOST_DOCUMENTS:
        found = _DOCUMENT.search(text, position)
        if not found:
            break
        unread += _lines(text[position : found.start()])
        try:
            value, position = _DECODER.raw_decode(text, found.end())
        except (ValueError, RecursionError):
            failures += 1
            mended = _mended(text[found.end() :]) if failures == 1 else None
            if mended is not None:
                values.append(mended[0])
                position, cut = found.end() + mended[1], True
                continue
            line, _, _ = text[found.end() :].partition("\n")
            unread.append(line)
            position = found.end() + len(line)
        else:
            values.append(value)
    unread += _lines(text[position:])
    kept = tuple(line for line in unread if not _is_typed(line, programs))
    return Documents(tuple(values), kept, cut)


def read_table(
    lines: Iterable[str], needed: tuple[str, ...], *, alone: bool = False
) -> tuple[list[dict[str, str]] | None, tuple[str, ...]]:
    """Rows of a table whose columns stand two blanks apart, by the names in its header.

    `needed`: names of which the header has one; `alone`: a row may have a single cell, as where one
    goes on over several lines. Returns no rows where there is no header, and the
    lines that are no rows. A row with an empty cell is laid out by the places of the header.
    """
    rows: list[dict[str, str]] | None = None
    header: list[re.Match[str]] = []
    unread = []
    for line in lines:
        cells = list(_CELL.finditer(line))
        names = [cell[0] for cell in cells]
        if any(name in names for name in needed):
            header, rows = cells, rows or []
        elif rows is None or not (1 if alone else 2) <= len(cells) <= len(header):
            unread.append(line)
        elif len(cells) == len(header):
            rows.append({name[0]: cell[0] for name, cell in zip(header, cells, strict=True)})
        else:
            rows.append(_placed(header, cells))
    return rows, tuple(unread)


def refusal(text: str) -> Reading[Any]:
    """What a text is that holds no value: absent, an error of the tool, or unknown."""
    head = text[:_READ_FOR_REFUSAL]
    for kind, pattern in _REFUSALS:
        found = pattern.search(head)
        if found and kind is None:
            return Reading.absent(text)
        if found and kind is not None:
            return Reading.failed(ToolError(kind, line_at(head, found.start())), text)
    return Reading.unknown(text)


def seen(text: str, sure: float, *patterns: re.Pattern[str]) -> float:
    """`sure` when the start of the text has all of these, else 0. For `Output.recognise`."""
    head = text[:_READ_FOR_REFUSAL].replace("\r", "")
    return sure if all(pattern.search(head) for pattern in patterns) else 0.0


def line_at(text: str, position: int) -> str:
    """The line of the text that a position is in, at most 200 characters of it."""
    start = text.rfind("\n", 0, position) + 1
    end = text.find("\n", position)
    line = text[start : end if end >= 0 else len(text)]
    return line.strip()[:200]


def whole(text: str) -> int | None:
    """A whole number in plain digits; none when it is anything else or absurdly long."""
    return int(text) if _WHOLE.fullmatch(text) else None


def decimal(text: str) -> float | None:
    """A number in plain digits with or without a point."""
    return float(text) if _DECIMAL.fullmatch(text) else None


def at(value: object, *path: str) -> object:
    """A member of nested JSON objects; None where there is no such place."""
    for name in path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def text_at(value: object, *path: str) -> str | None:
    """A non-empty text in nested JSON objects."""
    found = at(value, *path)
    return found if isinstance(found, str) and found else None


def whole_at(value: object, *path: str) -> int | None:
    """A whole number in nested JSON objects."""
    found = at(value, *path)
    if isinstance(found, bool) or not isinstance(found, int):
        return None
    return found


def flag_at(value: object, *path: str) -> bool | None:
    """A truth value in nested JSON objects."""
    found = at(value, *path)
    return found if isinstance(found, bool) else None


def items_at(value: object, *path: str) -> tuple[object, ...]:
    """The items of a list in nested JSON objects."""
    found = at(value, *path)
    return tuple(found) if isinstance(found, list) else ()


def texts_at(value: object, *path: str) -> tuple[str, ...]:
    """The texts of a list in nested JSON objects."""
    return tuple(item for item in items_at(value, *path) if isinstance(item, str))


def labels_at(value: object, *path: str) -> dict[str, str]:
    """An object of texts in nested JSON objects."""
    found = at(value, *path)
    if not isinstance(found, Mapping):
        return {}
    return {str(name): text for name, text in found.items() if isinstance(text, str)}


def _is_typed(line: str, programs: tuple[str, ...]) -> bool:
    if _PROMPT.match(line):
        return True
    words = line.split(maxsplit=2)
    if len(words) > 1 and words[0] in ("sudo", "+"):
        words = words[1:]
    return words[0].rsplit("/", 1)[-1] in programs


def _placed(header: list[re.Match[str]], cells: list[re.Match[str]]) -> dict[str, str]:
    """Each cell under the column whose start or end is nearest to its own."""
    row = {}
    for cell in cells:
        nearest = min(
            header,
            key=lambda name: min(abs(name.start() - cell.start()), abs(name.end() - cell.end())),
        )
        row[nearest[0]] = cell[0]
    return row


def _json_text(text: str) -> tuple[str, bool]:
    """The text without prompts and `...`; whether there was a `...`."""
    plain = [line for line in whole_lines(text) if not _PROMPT.match(line)]
    kept = [line for line in plain if not _ELISION.match(line)]
    return "\n".join(kept), len(kept) < len(plain)


def _lines(text: str) -> list[str]:
    return [line for line in text.split("\n") if line.strip()]


def _mended(text: str) -> tuple[object, int] | None:
    """A JSON value whose end is missing, up to its last whole member, and where the text goes on.

    Also one with a comma before a closing bracket, as is left when a member is taken out.
    """
    safe = 0
    depth = 0
    for token in _TOKEN.finditer(text):
        mark = token[0]
        if mark == ",":
            safe = token.start()
        elif mark in ("[", "{", "]", "}"):
            depth += 1 if mark in "[{" else -1
            safe = token.end()
            if depth <= 0 or depth > _DEEPEST:
                break
    head = _TRAILING_COMMA.sub("", text[:safe])
    try:
        value = _DECODER.decode(head + _closing(head))
    except (ValueError, RecursionError):
        return None
    return value, safe if depth == 0 else len(text)


def _closing(text: str) -> str:
    """The brackets that are open at the end of a text, closed."""
    open_brackets: list[str] = []
    for token in _TOKEN.finditer(text):
        if token[0] in ("[", "{"):
            open_brackets.append("]" if token[0] == "[" else "}")
        elif token[0] in ("]", "}") and open_brackets:
            open_brackets.pop()
    return "".join(reversed(open_brackets))

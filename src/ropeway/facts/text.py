"""Odds and ends of reading what commands print: lines, numbers, sizes, JSON."""

import json
import math
import re
from collections.abc import Mapping

from ropeway.outside import check_depth, whole_number

# Nothing that we read goes beyond this; it keeps the work linear in what is sane.
LONGEST_LINE = 4_096
MOST_LINES = 50_000
_MOST_VALUES = 20_000
_MOST_FAILURES = 8

_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # colours and cursor moves
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"  # window titles
    r"|\x1b[@-Z\\^_]?"
    r"|\ufffd\[[0-9;]{0,12}m"  # colours of which a decoder replaced the first character
)
_DROPPED = dict.fromkeys([*range(9), 11, 12, *range(14, 32), 127, 0x200B, 0x200E, 0x200F, 0xFEFF])
_CHARACTERS = {**_DROPPED, 0xA0: " ", 0x3000: " "}
_VALUE = re.compile(r"^[ \t]*(?=[\[{])", re.MULTILINE)
_LABEL = re.compile(r"([^:=：]{0,80}?)[ \t]*[:=：][ \t]*(.*)$")
_WHOLE = re.compile(r"[0-9]{1,18}")
_DECIMAL = re.compile(r"-?[0-9]{1,15}(?:\.[0-9]{1,12})?")
_NOTHING = frozenset({"", "-", "--", "na", "n/a", "none", "null"})


def without_escapes(text: str) -> str:
    """Return the text without the sequences that steer a terminal."""
    return _ESCAPES.sub("", text)


def plain_lines(text: str) -> list[str]:
    """Return the lines that are not blank, without escapes, control characters and line ends.

    Indentation is kept. Very long lines are cut, and so are texts of very many lines.
    """
    text = without_escapes(text).replace("\r\n", "\n").replace("\r", "\n")
    lines = (line[:LONGEST_LINE] for line in text.split("\n", MOST_LINES)[:MOST_LINES])
    plain = (
        line if line.isprintable() and line.isascii() else line.translate(_CHARACTERS)
        for line in lines
    )
    return [line.rstrip() for line in plain if line and not line.isspace()]


def rows(text: str, pattern: re.Pattern[str]) -> tuple[list[re.Match[str]], list[str]]:
    """Return the matches of the lines that are all of what the pattern says, and the other lines.

    Blanks around a line are left out.
    """
    matches: list[re.Match[str]] = []
    others: list[str] = []
    for line in map(str.strip, plain_lines(text)):
        if match := pattern.fullmatch(line):
            matches.append(match)
        else:
            others.append(line)
    return matches, others


def is_rule(line: str) -> bool:
    """Whether the line only draws: `+----+`, `=====`, blank."""
    return not any(map(str.isalnum, line))


def cells(line: str) -> list[str]:
    """Return the cells of a table row between its `|`, stripped, without what is outside."""
    parts = line.strip().split("|")
    inner = parts[1:-1] if len(parts) > 2 and not parts[-1].strip() else parts[1:]
    return [part.strip() for part in inner]


def label(line: str) -> tuple[str, str] | None:
    """Return both sides of `label : value` or `label=value`; None when the line is neither."""
    match = _LABEL.match(line.strip())
    return (match[1], match[2].strip()) if match else None


def or_none(value: str) -> str | None:
    """Return the value, or None for `NA`, `-` and the like."""
    return None if value.lower() in _NOTHING else value


def parse_int(text: str) -> int | None:
    """Return a number in plain digits; None when it is anything else or absurdly long."""
    return int(text) if _WHOLE.fullmatch(text) else None


def decimal(text: str) -> float | None:
    """Return a number in plain digits, with or without a point; None for anything else."""
    return float(text) if _DECIMAL.fullmatch(text) else None


def word_after(words: list[str], word: str) -> str:
    """Return the word after this one; "" where there is none."""
    place = words.index(word) + 1 if word in words else len(words)
    return words[place] if place < len(words) else ""


def _finite(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None


# What JSON does not have, and Python reads and then cannot print: NaN, 1e999.
_DECODER = json.JSONDecoder(
    parse_float=_finite, parse_int=whole_number, parse_constant=lambda _: None
)


def json_values(text: str) -> tuple[list[object], list[str]]:
    """Return the JSON objects and arrays that begin a line, in order, and the lines beside them.

    A value that has no end is not returned; its first line is. Linear in the text.
    """
    values: list[object] = []
    lines: list[str] = []
    position = failures = 0
    while failures < _MOST_FAILURES and len(values) < _MOST_VALUES:
        match = _VALUE.search(text, position)
        if not match:
            break
        lines += text[position : match.start()].split("\n")
        try:
            value, end = _DECODER.raw_decode(text, match.end())
            check_depth(value)
            value = _without_surrogates(value)
        except (ValueError, RecursionError):
            failures += 1
            line, _, _ = text[match.end() :].partition("\n")
            lines.append(line)
            position = match.end() + len(line)
        else:
            values.append(value)
            position = end
    lines += text[position:].split("\n")
    return values, [line.strip() for line in lines if line.strip()]


def _without_surrogates(value: object) -> object:
    """Return the value with halves of UTF-16 pairs replaced: JSON can name them, and no file or
    terminal takes them."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {str(_without_surrogates(k)): _without_surrogates(v) for k, v in value.items()}
    return value


def at(value: object, *path: str) -> object:
    """Return a member of nested JSON objects; None where there is no such place."""
    for name in path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def text_at(value: object, *path: str) -> str | None:
    """Return a non-empty text in nested JSON objects."""
    member = at(value, *path)
    return member if isinstance(member, str) and member else None


def items_at(value: object, *path: str) -> list[object]:
    """Return the items of a list in nested JSON objects."""
    member = at(value, *path)
    return member if isinstance(member, list) else []

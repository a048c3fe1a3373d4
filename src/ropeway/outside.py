"""What others wrote, read within bounds: files of a model's folder, answers of servers.

Python's own reader of JSON raises three kinds of errors, takes brackets as deep as the stack, whole
numbers of thousands of digits and halves of characters that cannot be printed. Here every document
that is too much for us raises a ValueError that says why.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any, BinaryIO

from ropeway.phrases import phrase
from ropeway.units import format_bytes

# Published files nest to 10; code that walks them may recurse so far on any stack.
MOST_DEPTH = 100
# Tokenizers write 10^30 for "no limit"; a product of a few such is still a float and prints.
MOST_DIGITS = 40

# C0 and C1 but for tab and newline; then what shows nothing itself (Unicode's categories Cf, Zl and
# Zp, and its fillers) and reorders what is shown, hides text, or makes two names look the same:
# CVE-2021-42574. What joins or separates letters (U+200C, and U+200D, of which emoji are made),
# chooses a form (U+FE0F) or is seen (U+0600) stays.
UNSEEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u2028-\u202e"
    r"\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb"
    r"\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e00ff]"
)

# Escapes, each read whole, so that a backslash that is escaped itself begins none.
_ESCAPE = re.compile(r"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|u[dD][89a-fA-F]..|.)", re.DOTALL)


def parse_json(data: bytes | str, *, lenient: bool = False) -> Any:
    """Return a JSON document from outside. Raises ValueError when it is none.

    Its first argument says why. Refused are text that is not UTF-8, brackets deeper than
    `MOST_DEPTH`, and whole numbers of more than `MOST_DIGITS` digits. NaN and Infinity stay floats,
    as published configs have them. Half of a surrogate pair becomes U+FFFD.

    lenient  for a log, of which one odd value must not hide the others: every whole number becomes
             a float, however long it is, and texts may hold control characters
    """
    try:
        text = data.decode("utf-8-sig") if isinstance(data, bytes) else data
    except UnicodeDecodeError as error:
        raise ValueError(phrase("byte {byte} is not UTF-8 text", byte=error.start)) from None
    if "\\ud" in text or "\\uD" in text:
        text = _ESCAPE.sub(_whole_characters, text)
    try:
        document = (_LENIENT_DECODER if lenient else _DECODER).decode(text)
    except RecursionError:
        raise _too_deep() from None
    # The events of a stream come by the thousand a second, and have few brackets.
    if text.count("[") + text.count("{") > MOST_DEPTH:
        check_depth(document)
    return document


def whole_number(digits: str) -> int:
    """Return the number; raise ValueError for one of more than `MOST_DIGITS` digits."""
    if len(digits.lstrip("-")) > MOST_DIGITS:
        raise ValueError(
            phrase("a whole number in it has more than {most} digits", most=MOST_DIGITS)
        )
    return int(digits)


def check_depth(document: object) -> None:
    """Raise ValueError for a document that is too deep; goes down by levels, without recursion."""
    level = [document] if _is_nested(document) else []
    for _ in range(MOST_DEPTH):
        level = [inner for item in level for inner in _items(item) if _is_nested(inner)]
    if level:
        raise _too_deep()


def local_path(text: str) -> Path:
    """Return the path that a user wrote; `~name` stays as it is where there is no such user."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def is_there(path: Path) -> bool:
    """Say whether a path is there for us. One that the system refuses to look at is not."""
    return _mode(path) != 0


def is_file(path: Path) -> bool:
    """Say whether a regular file is there for us."""
    return S_ISREG(_mode(path))


def is_folder(path: Path) -> bool:
    """Say whether a folder is there for us."""
    return S_ISDIR(_mode(path))


@contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """Open a file to read its bytes. Raises OSError when the system refuses.

    Raises ValueError for a device or a pipe, which may never end or never begin.
    """
    # Without O_NONBLOCK, opening a pipe waits until someone writes to it.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError(phrase("this is not a regular file"))
        yield file


def read_bounded(path: Path, most: int) -> bytes:
    """Read a regular file; ValueError also for one of more than `most` bytes."""
    with open_regular(path) as file:
        return read_at_most(file, most)


def read_at_most(file: BinaryIO, most: int) -> bytes:
    """Read an open file to its end. Raises ValueError when it has more than `most` bytes."""
    data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(phrase("it is longer than {size}", size=format_bytes(most)))
    return data


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except (OSError, ValueError):  # no such file, too long a name, a NUL in it, not allowed
        return 0


def _whole_characters(escape: re.Match[str]) -> str:
    text = escape[0]
    return "\\ufffd" if len(text) == 6 and text[2] in "dD" else text


_DECODER = json.JSONDecoder(parse_int=whole_number)
_LENIENT_DECODER = json.JSONDecoder(parse_int=float, strict=False)


def _too_deep() -> ValueError:
    return ValueError(phrase("its brackets are more than {most} deep", most=MOST_DEPTH))


def _items(nested: Any) -> Iterable[object]:
    return nested.values() if isinstance(nested, dict) else nested


def _is_nested(value: object) -> bool:
    return isinstance(value, dict | list)

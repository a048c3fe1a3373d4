"""Documents of others, read within bounds (`outside`)."""

import json
import os
from pathlib import Path

import pytest

from ropeway.outside import MOST_DEPTH, MOST_DIGITS, parse_json, read_bounded


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[" * 100_000 + "]" * 100_000, "deep"),
        ('{"a":' * (MOST_DEPTH + 1) + "1" + "}" * (MOST_DEPTH + 1), "deep"),
        ("[" * 100_000, "deep"),
        ("1" * 5000, "digits"),
        ('{"n": -1' + "0" * MOST_DIGITS + "}", "digits"),
        (b'"\xed\xa0\x80"', "byte 1 is not UTF-8"),
        (b"{}\x00", "Extra data"),
        ("", "Expecting value"),
    ],
)
def test_a_document_that_is_too_much_says_why(text: str | bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_json(text)


def test_published_extremes_are_read() -> None:
    deep = "[" * MOST_DEPTH + "]" * MOST_DEPTH
    text = f'{{"limit": [0.0, Infinity], "max": {10**30}, "deep": 1}}'
    assert parse_json(text) == {"limit": [0.0, float("inf")], "max": 10**30, "deep": 1}
    assert json.dumps(parse_json(deep)) == deep
    assert parse_json(b'\xef\xbb\xbf{"a": "\xe4\xb8\xad"}') == {"a": "中"}


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (r'"\ud83d\ude00"', "\U0001f600"),
        (r'"\uD83D"', "\ufffd"),
        (r'"\ude00\ud83d"', "\ufffd\ufffd"),
        (r'"\\ud83d"', r"\ud83d"),
        (r'"\\\ud83d"', "\\\ufffd"),
        (r'"\ud83d\u0041"', "\ufffdA"),
    ],
)
def test_half_a_surrogate_pair_becomes_a_character_that_prints(text: str, read: str) -> None:
    assert parse_json(text) == read
    assert parse_json(text).encode()


def test_only_regular_files_of_a_bounded_length_are_read(tmp_path: Path) -> None:
    file, pipe = tmp_path / "file", tmp_path / "pipe"
    file.write_bytes(b"12345")
    os.mkfifo(pipe)
    assert read_bounded(file, 5) == b"12345"
    for path, most, why in (
        (file, 4, "longer"),
        (pipe, 5, "regular"),
        (Path("/dev/zero"), 5, "regular"),
    ):
        with pytest.raises(ValueError, match=why):
            read_bounded(path, most)
    with pytest.raises(OSError):
        read_bounded(tmp_path, 5)

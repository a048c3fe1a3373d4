"""The odds and ends of reading: lines, labels, numbers, JSON, complaints."""

import pytest

from ropeway.facts.complaints import complaint, to_parsed
from ropeway.facts.question import ErrorKind, Parsed, ToolError
from ropeway.facts.text import (
    LONGEST_LINE,
    MOST_LINES,
    decimal,
    json_values,
    label,
    parse_int,
    plain_lines,
)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a\r\nb\r", ["a", "b"]),
        ("\ufeffa", ["a"]),
        ("\x1b[1;32ma\x1b[0m b\x1b]0;title\x07", ["a b"]),
        ("a\x00\x08\u200bb\xa0c", ["ab c"]),
        ("\ta\n\n  \n\t\tb  ", ["\ta", "\t\tb"]),
        ("# a\n$ b\n% c\n> d\n```", ["# a", "$ b", "% c", "> d", "```"]),
        ("\ufffd[31ma\ufffd[0m", ["a"]),
        ("", []),
    ],
)
def test_lines_are_freed_of_what_a_terminal_put_around_them(text, lines):
    assert plain_lines(text) == lines


def test_what_nobody_reads_is_cut_off():
    assert len(plain_lines("a\n" * 2 * MOST_LINES)) == MOST_LINES
    assert plain_lines("a" * 2 * LONGEST_LINE) == ["a" * LONGEST_LINE]


@pytest.mark.parametrize("text", ["²", "٣", "1_000", " 1", "+1", "-1", "0x1", "", "9" * 19])
def test_what_only_looks_like_a_whole_number_is_none(text):
    assert parse_int(text) is None
    assert (parse_int("0"), parse_int("9" * 18)) == (0, 10**18 - 1)
    assert (decimal("-1.5"), decimal("1e9")) == (-1.5, None)


@pytest.mark.parametrize(
    ("line", "pair"),
    [
        ("\tNPU ID    : 0", ("NPU ID", "0")),
        ("Version=25.3", ("Version", "25.3")),
        ("链路状态：已连接", ("链路状态", "已连接")),
        (" : node type=adda", ("", "node type=adda")),
        ("no label", None),
    ],
)
def test_a_label_stands_before_its_value(line, pair):
    assert label(line) == pair


def test_json_values_stand_among_lines():
    text = 'first\n{"a": 1}\n[1,\n 2]\nlast\n{"b": '
    assert json_values(text) == ([{"a": 1}, [1, 2]], ["first", "last", '{"b":'])


def test_json_values_hold_nothing_that_cannot_be_printed():
    [value], _ = json_values(r'{"a": NaN, "b": -Infinity, "c": 1e999, "d\ud800": "x\ud800"}')
    assert value == {"a": None, "b": None, "c": None, "d\ufffd": "x\ufffd"}


@pytest.mark.parametrize("depth", [400, 600, 900, 5_000])
def test_json_of_any_depth_is_a_value_or_a_line(depth):
    values, lines = json_values("[" * depth + "]" * depth)
    assert len(values) + bool(lines) == 1


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("Permission denied", "denied"),
        ("bash: x: Permission denied", "denied"),
        ("error: it broke", "failed"),
        ("Message : permission denied", "denied"),
        ("Error Information : heart beat lost failed", None),
        ("[ERROR] 12:00 cannot: permission denied", None),
        ("recv time out seq=1", None),
        ("x" * 500 + " permission denied", None),
        ("all is well", None),
    ],
)
def test_a_complaint_is_a_short_sentence(line: str, kind: ErrorKind | None):
    error = complaint(line)
    assert (error.kind if error else None) == kind


def test_leftovers_are_sorted():
    lines = [
        "hello",
        "execute failed! ret is -8007",
        "Usage: x",
        "  -a  all",
        "---",
        "x: not found",
    ]
    parsed = to_parsed("text", 1, lines)
    assert (parsed.state, parsed.value, parsed.unparsed) == ("partial", 1, ("hello",))
    assert parsed.error == ToolError("no-device", "execute failed! ret is -8007", -8007)
    assert to_parsed("text", None, ["a", "b", "c", "d", "error: x"]) == Parsed.unknown("text")
    assert to_parsed("text", None, ["x: not found"]) == Parsed.absent("text")


def test_lines_that_were_left_out_make_an_answer_partial():
    assert to_parsed("a\n ...\nb", 1, []).state == "partial"
    assert to_parsed("a ... b", 1, []).state == "ok"

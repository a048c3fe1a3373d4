"""What stands around an output when people paste it, and what a tool says instead of one."""

import pytest

from ropeway.facts.captures import (
    LONGEST_LINE,
    MOST_LINES,
    Block,
    Capture,
    cells,
    clean_lines,
    flag_value,
    is_rule,
    marked,
    read_capture,
)
from ropeway.facts.complaints import Leftovers, complaint, conclude, worst
from ropeway.facts.labelled import device_tag, integer, label, number


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a\r\nb\r", ["a", "b", ""]),
        ("\ufeffa", ["a"]),
        ("\x1b[1;32ma\x1b[0m b\x1b]0;title\x07", ["a b"]),
        ("^[[0;31ma^[[0m", ["a"]),
        ("a\x00\x08\u200bb\xa0c", ["ab c"]),
        ("```text\na\n```", ["a"]),
        ("> a\n>\n> > b", ["a", "", "b"]),
        (">a\n> b", ["a", " b"]),
        ("    a\n      b\n\n    c  ", ["a", "  b", "", "c"]),
        ("\ta\n\t\tb", ["a", "\tb"]),
        ("", [""]),
    ],
)
def test_what_a_terminal_or_a_page_put_around_lines_is_gone(text: str, lines: list[str]) -> None:
    assert clean_lines(text) == lines


def test_what_nobody_reads_is_cut_off() -> None:
    assert len(clean_lines("a\n" * 2 * MOST_LINES)) == MOST_LINES
    assert read_capture("a\n" * 2 * MOST_LINES).elided
    assert clean_lines("a" * 2 * LONGEST_LINE) == ["a" * LONGEST_LINE]


@pytest.mark.parametrize(
    "prompt",
    [
        "root@npu1:~# ",
        "[root@npu1 ~]# ",
        "(base) user@npu-1:/data/x$ ",
        "bash-5.1$ ",
        "sh-4.2# ",
        "# ",
        "$",
        "",
        "sudo ",
        "/usr/local/Ascend/driver/tools/",
    ],
)
def test_a_command_begins_a_block(prompt: str) -> None:
    capture = read_capture(f"before\n{prompt}hccn_tool -i 3 -ip -g\nafter\n")
    assert [(block.device, block.lines) for block in capture.blocks] == [
        (None, ("before",)),
        (3, ("after", "")),
    ]


def test_a_loop_over_several_lines_is_one_command() -> None:
    text = "for i in {0..7}\ndo\nhccn_tool -i $i -ip -g\ndone\na\n"
    (block,) = read_capture(text).blocks
    assert block == Block(text.removesuffix("\na\n"), None, ("a", ""))


def test_commands_without_output_do_not_lend_their_npu() -> None:
    text = "$ hccn_tool -i 0 -lldp -g\n$ hccn_tool -i 1 -lldp -g\na\n"
    devices = [block.device for block in read_capture(text).blocks if block.lines]
    assert devices == [1]


@pytest.mark.parametrize(
    "line",
    ["===== NPU 3 =====", "NPU 3:", "npu3", "device 3", "--- dev_3 ---", "# NPU 3", "卡3", "[3]"],
)
def test_a_heading_names_an_npu(line: str) -> None:
    (block,) = read_capture(f"{line}\na").blocks
    assert (block.device, block.lines) == ((None, ("[3]", "a")) if line == "[3]" else (3, ("a",)))


@pytest.mark.parametrize(
    "line", ["...", "......", "…", "   ...", "| ... | ... |", "[...]", "... (5 more)", "(省略)"]
)
def test_dots_stand_for_what_was_left_out(line: str) -> None:
    assert read_capture(f"a\n{line}\nb") == Capture((Block(None, None, ("a", "b"), True),), True)


@pytest.mark.parametrize("line", ["a...", "MAC: ...", "1...2", "+----+", "-"])
def test_dots_within_a_line_do_not(line: str) -> None:
    assert read_capture(f"a\n{line}") == Capture((Block(None, None, ("a", line)),), False)


def test_prompts_and_comments_are_no_output() -> None:
    assert list(read_capture("[root@a ~]# \n# look here\na\n[root@a ~]#").lines) == ["a"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("| a | b |", ["a", "b"]),
        ("| a | b", ["a", "b"]),
        ("|  |", [""]),
        ("a", []),
        ("x | a |", ["a"]),
    ],
)
def test_cells_stand_between_bars(line: str, expected: list[str]) -> None:
    assert cells(line) == expected


def test_a_rule_has_neither_letters_nor_digits() -> None:
    assert is_rule("+====|----+") and is_rule("") and not is_rule("+-1-+")


def test_the_value_of_a_flag_is_a_number() -> None:
    command = "hccn_tool -i 3 -u 1 -p $x -cnt 5"
    assert [flag_value(command, flag) for flag in ("-i", "-u", "-p", "-z")] == [3, 1, None, None]


def test_marks_are_looked_for_at_the_start_of_lines() -> None:
    recognise = marked((0.9, r"^b"), (0.5, r"c"))
    assert [recognise(text) for text in ("a\nb", "ab", "ac", "bc")] == [0.9, 0.0, 0.5, 0.9]


# Labelled lines


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a b : c: d", ("a b", "c: d")),
        ("a=b:c", ("a", "b:c")),
        ("a：b", ("a", "b")),
        (" : b", ("", "b")),
        ("a:", ("a", "")),
        ("a b", None),
        ("a" * 81 + ": b", None),
    ],
)
def test_a_label_ends_at_the_first_colon(line: str, expected: tuple[str, str] | None) -> None:
    assert label(line) == expected


def test_a_tag_names_an_npu() -> None:
    assert device_tag("[devid 3] a: 1") == (3, "a: 1")
    assert device_tag("[device 12]a") == (12, "a")
    assert device_tag("[other 3] a") == (None, "[other 3] a")


@pytest.mark.parametrize("value", ["x", "1 2", "1.5", "0x", "9" * 5000])
def test_what_is_no_whole_number_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        integer(value)


def test_numbers_may_be_missing() -> None:
    assert [integer(value) for value in ("7", "0xff", "NA", "-", "")] == [7, 255, None, None, None]
    assert [number(value) for value in ("7", "-1.5 dBm", "N/A")] == [7.0, -1.5, None]


# Complaints


@pytest.mark.parametrize(
    "line",
    [
        "temperature          : not supported",
        "net health status: Socket failed",
        "Compatibility : NOT SUPPORT",
        "[ascend][ERROR][devdrv][wait 12] send msg failed. (ret=110)",
        "Error Code                     : NA",
        "ipaddr:10.0.0.1",
        "2025-01-01 12:00:00 job failed",
        "the weather is fine",
        "",
    ],
)
def test_a_value_and_a_line_of_a_log_are_no_complaints(line: str) -> None:
    assert complaint(line) is None


def test_the_most_telling_complaint_wins() -> None:
    lines = ["Cmd execute failed!", "hccn_tool is busy, please try again.", "I2c is busy."]
    found = [error for line in lines if (error := complaint(line))]
    assert worst(found).message == lines[1]


def test_a_failure_somewhere_in_a_log_is_no_answer() -> None:
    leftovers = Leftovers()
    for line in ["Cmd execute failed!", *(f"line {n}" for n in range(9))]:
        leftovers.add(line)
    assert conclude("text", None, leftovers).state == "unknown"


def test_lines_that_were_left_over_make_a_value_partial() -> None:
    leftovers = Leftovers()
    assert conclude("text", 1, leftovers).state == "ok"
    assert conclude("text", 1, leftovers, cut=True).state == "partial"
    leftovers.add("what is this")
    reading = conclude("text", 1, leftovers)
    assert (reading.state, reading.unread) == ("partial", ("what is this",))

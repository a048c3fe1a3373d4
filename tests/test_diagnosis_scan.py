"""Logs of any size and content are scanned in blocks, in bounded memory and linear time."""

import weakref
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linear import assert_linear
from recorded import LOGS
from ropeway.diagnosis.decide import diagnose, diagnose_blocks
from ropeway.diagnosis.result import Diagnosis
from ropeway.diagnosis.scan import LONGEST_JUDGED, scan
from ropeway.diagnosis.signatures import table

ROOT = "RuntimeError: alloc device memory failed"
CALM = "INFO 12-15 11:45:16 [x.py:1] all is well"
PLOG = "(1,python):2025-12-15-11:45:"


def details(**logs: str) -> list[str]:
    return [detail.en for detail in diagnose(logs).details]


def notes(diagnosis: Diagnosis) -> list[str]:
    return [note.en for note in diagnosis.notes]


# Numbers of several lines and logs


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "HCCL_BUFFSIZE is too SMALL, maxBs = 512, NEEDED_HCCL_BUFFSIZE(((maxBs * a) + b) * 2) ="
            " 2032MB, HCCL_BUFFSIZE=200MB.",
            ["needed: HCCL_BUFFSIZE=2032", "it is 200 MB now"],
        ),
        (
            "RuntimeError: HCCL function error: hcclCommInitRootInfoConfig(n, &root, rank, config,"
            " &(comm->hcclComm_)), error code is 11",
            [f"code 11 is {table().codes['hccl']['11'].meaning.en}"],
        ),
        (
            "ValueError: Free memory on device (1.2/29.5 GiB) on startup is less than desired GPU"
            " memory utilization (0.9, 26.55 GiB).",
            ["1.2 of 29.5 GiB is free; 26.55 GiB was asked for"],
        ),
        ("KeyError: 'layers.3.mlp.experts.w13_weight'", ["weight layers.3.mlp.experts.w13_weight"]),
    ],
)
def test_the_numbers_of_a_line_are_put_into_words(line: str, expected: list[str]) -> None:
    assert details(a=line) == expected


def test_a_rank_that_did_not_answer_is_named_from_the_tables_of_all_ranks() -> None:
    head = f"[ERROR] HCCL{PLOG}09.100.000 [manager.cc:596] [7]"
    silent = f"[ERROR] HCCL{PLOG}09.000.000 [manager.cc:1] [7]Getting socket times out."
    rows = {
        "rank0.log": f"{head}|  10.0.0.3(3)  |  10.0.0.1(0)  |  server  | time out |",
        "rank1.log": f"{head}|  10.0.0.3(3)  |  10.0.0.2(1)  |  server  | time out |",
        "rank2.log": f"{head}|  10.0.0.4(4)  |  10.0.0.5(2)  |  server  | connected |",
    }
    words = details(**{name: f"{silent}\n{row}\n" for name, row in rows.items()})
    assert words == ["rank 3 (10.0.0.3) did not answer rank 0, 1"]


def test_ranks_that_wait_tell_how_far_apart_they_are() -> None:
    line = "(Worker_TP{0} pid={0}) ERROR 12-15 11:45:{1} [w.py:1] RuntimeError: The wait execution "
    logs = {
        f"{rank}.log": line.format(rank, at) + "of the Notify register times out"
        for rank, at in ((0, 10), (1, 17), (2, 40))
    }
    assert details(**logs) == ["3 processes report it, the last 30 s after the first"]


def test_logs_in_which_nothing_failed_are_named_when_others_wait() -> None:
    wait = "RuntimeError: The wait execution of the Notify register times out"
    diagnosis = diagnose({"rank0.log": wait, "rank1.log": CALM, "rank2.log": ""})
    [_, silent] = notes(diagnosis)
    assert silent.endswith(": rank1.log, rank2.log")
    assert notes(diagnose({"rank0.log": ROOT, "rank1.log": CALM})) == []


def test_a_clock_of_the_npu_that_differs_from_the_hosts_is_noted() -> None:
    line = "[ERROR] RUNTIME(1,python):2025-12-15-{}:45:16.000.000 [e.cc:1]1 {}"
    info = "Other info[0]:time=2025-12-15-11:45:03"
    for hour, words in (("03", "8 h ahead of"), ("13", "2 h behind")):
        diagnosis = diagnose({"plog": f"{line.format(hour, ROOT)}\n{line.format(hour, info)}\n"})
        [note] = notes(diagnosis)
        assert words in note
    assert notes(diagnose({"plog": f"{line.format('11', ROOT)}\n{line.format('11', info)}"})) == []


def test_an_exception_takes_what_it_leaves_to_the_lines_around_it() -> None:
    code = "Traceback (most recent call last):\n    assert len(ranks) == 8\n    ^^^\nAssertionError"
    assert diagnose({"a": code}).headline == "AssertionError: assert len(ranks) == 8"


def test_source_code_in_a_stack_is_not_taken_for_what_it_would_raise() -> None:
    stack = 'Traceback (most recent call last):\n    raise ValueError("No space left on device")\n'
    diagnosis = diagnose({"a": stack})
    assert (diagnosis.verdict, diagnosis.signature) == ("unknown", None), "it broke off"


# In pieces


@pytest.mark.parametrize("name", LOGS.names())
@pytest.mark.parametrize("size", [1, 7, 997])
def test_a_log_in_pieces_has_the_diagnosis_of_the_whole(name: str, size: int) -> None:
    text = LOGS.text_of(name)
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    assert diagnose_blocks([(name, pieces)]) == diagnose({name: text})


def test_a_line_far_into_a_log_in_pieces_keeps_its_number_and_its_neighbours() -> None:
    lines = [CALM] * 5_000
    lines[3_000] = f"(Worker pid=1) ERROR 12-15 11:45:16 [w.py:1] {ROOT}"
    lines[3_001] = "(Worker pid=1) ERROR 12-15 11:45:16 [w.py:1] a line of its own"
    text = "\n".join(lines)
    whole = diagnose({"a": text})
    assert whole.line is not None
    assert whole.line.number == 3_001
    assert [line.text for line in whole.evidence] == ["a line of its own"]
    for size in (100, 10_007, 130_000):
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        assert diagnose_blocks([("a", pieces)]) == whole


def test_a_block_is_forgotten_once_it_is_read() -> None:
    """Else a log of a gigabyte would be in memory twice."""

    class Block(str):  # with a place for weak references, unlike its base
        pass

    blocks: list[weakref.ref[Block]] = []

    def read() -> Iterator[str]:
        for _ in range(50):
            block = Block(f"{CALM}\n" * 1000)
            blocks.append(weakref.ref(block))
            yield block
            del block
            assert sum(each() is not None for each in blocks) <= 1

    assert scan("a", read()).lines == 50_000


# Without bound


def test_what_comes_again_and_again_is_counted_and_kept_once() -> None:
    result = scan("a", [f"{ROOT} {number}\n" for number in range(10_000)])
    assert len(result.failures) == 1
    assert len(result.shapes) == 1
    [failure] = result.failures.values()
    assert failure.entry.line == 1
    assert result.lines == 10_000


def test_a_log_full_of_errors_is_kept_within_bounds_and_its_first_cause_is_found() -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [f"{a}{b}{c}" for a in letters for b in letters for c in letters[:8]]
    result = scan("a", (f"{word.capitalize()}Error: {word}\n" for word in [*words, ROOT]))
    assert (len(words), len(result.failures), len(result.shapes)) == (5_408, 400 + 1, 4_000)
    assert [each.entry.line for each in result.failures.values() if each.row] == [5_409]


@pytest.mark.parametrize(
    "piece",
    ["x", "E", "ERROR ", "[ERROR] ", "(", "(Worker pid=1) ", "error code is 507014 ", "Error: ",
     "HCCL ", "|", "a(1)|", "NEEDED_HCCL_BUFFSIZE(", "\x1b[", "\r", "1:2025-01-01-", f"{ROOT} "],
)  # fmt: skip
def test_a_megabyte_on_one_line_is_diagnosed_in_linear_time(piece: str) -> None:
    assert_linear(lambda text: diagnose({"a": text}), piece, cut=LONGEST_JUDGED)


def test_a_line_without_an_end_is_judged_where_something_failed() -> None:
    far = "x" * 2_000_000 + f" ERROR {ROOT} " + "y" * 2_000_000
    size = 1 << 18
    diagnosis = diagnose_blocks([("a", [far[at : at + size] for at in range(0, len(far), size)])])
    assert diagnosis.signature == "device-memory-allocation"
    assert diagnosis.line is not None
    assert diagnosis.line.number == 1
    assert len(diagnosis.headline) < 10_000


@pytest.mark.parametrize("filler", ["", "x" * 130, "x" * 150, "x" * 300])
@pytest.mark.parametrize("gap", ["\r", " 40% 0:00:10 ", "\n"])
def test_a_line_behind_one_that_came_often_is_judged(filler: str, gap: str) -> None:
    often = f"2026-01-01 10:00:00,123 ERROR w.py:1] boom {filler}"
    lines = "".join(f"{often} {number}\n" for number in range(100))
    assert (
        diagnose({"a": f"{lines}{often} 7{gap}{ROOT}\n"}).signature
        == diagnose({"a": ROOT}).signature
    )


def test_a_line_that_came_often_is_neither_split_nor_parsed_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    split: list[str] = []

    def pieces(line: str) -> list[str]:
        split.append(line)
        return [line]

    monkeypatch.setattr("ropeway.diagnosis.scan.pieces", pieces)
    scan("a", ["".join(f"ERROR w.py:1] boom {number}\n" for number in range(1_000))])
    assert len(split) < 100


def test_a_progress_bar_does_not_hide_what_stands_after_it() -> None:
    bars = "\r".join(f"Loading: {done}%" for done in range(100))
    assert diagnose({"a": f"{bars}\r{ROOT}\r\n"}).headline == ROOT


FRAGMENTS = st.sampled_from(
    [
        *(row.example for row in table().signatures if row.example),
        *("\n", "\r\n", "\r", " ", "|", "\x00", "\ufeff", "中文", "ERROR ", "[ERROR] HCCL"),
        *("Traceback (most recent call last):", "AssertionError", "Other info[0]:time="),
        *("2025-13-40-99:99:99", "error code is ", "validation error for X", "a(1) | b(2) |"),
    ]
)


@given(st.lists(st.one_of(FRAGMENTS, st.text(max_size=20))).map("".join))
def test_no_text_is_too_odd(text: str) -> None:
    diagnosis = diagnose({"a": text, "b": text[::-1]})
    assert diagnosis.headline
    assert diagnose_blocks([("b", [text[::-1]]), ("a", text)]) == diagnosis

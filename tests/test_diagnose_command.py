"""`ropeway diagnose`: which logs it reads, what it answers, and how it ends."""

import gzip
import io
import json
import re
import sys
from dataclasses import asdict
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from json_documents import read_document
from recorded import LOGS
from ropeway.cli.main import exit_code
from ropeway.diagnosis.decide import diagnose
from ropeway.diagnosis.result import CATEGORIES
from ropeway.diagnosis.signatures import table
from ropeway.report.table import prose
from widths import too_wide

Captured = pytest.CaptureFixture[str]

HEALTHY = "INFO:     all is well\n"
FAILED = "INFO:     one\nRuntimeError: alloc device memory failed\n"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, and English."""
    monkeypatch.chdir(tmp_path)
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)


def write(path: str, text: str | bytes) -> str:
    """A file in the folder, with the folders above it."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def shown(capsys: Captured) -> list[str]:
    """What was answered, without the blanks that fill a table's last column."""
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


def answer(args: list[str], code: int, capsys: Captured) -> Any:
    """The JSON document of `ropeway diagnose`, which must end with this code."""
    assert exit_code(["diagnose", "--json", *args]) == code
    return read_document(capsys.readouterr().out)


def places(document: Any) -> tuple[Any, list[str]]:
    """Where the cause is, and the names of all logs that were read."""
    line = document["line"]
    return line and (line["log"], line["number"]), [log["name"] for log in document["logs"]]


def test_a_failure_is_told_with_its_line_its_fix_and_its_source(capsys: Captured) -> None:
    assert exit_code(["diagnose", write("engine.log", LOGS.text_of("err_log_09"))]) == 1
    assert shown(capsys) == [
        "device: A process of an earlier job still holds the NPU.",
        "",
        "line      engine.log:2 · 2025-08-26 04:05:21.569071 · VllmWorker TP0",
        "          EJ0001: Failed to initialize the HCCP process. Reason: Maybe the last",
        "          training process is running.",
        "fix       `npu-smi info` shows it; end it by its pid, wait 10 s, start again.",
        "source    https://github.com/hiyouga/LlamaFactory/issues/3839",
        "          https://github.com/vllm-project/vllm-ascend/issues/2546",
        "how sure  recorded elsewhere with this line; not verified on NPU hardware by us",
        "",
        "ruled out",
        "  engine.log:1 · 2025-08-26 04:05:21 · VllmWorker TP0",
        "    ERR02200: DIST call hccl api failed.",
        "    → torch_npu code ERR02200: a call into HCCL failed.",
        "",
        "read 1 log of 4 lines",
    ]


def test_a_failure_is_told_in_chinese(capsys: Captured) -> None:
    name = write("engine.log", LOGS.text_of("err_log_09"))
    assert exit_code(["diagnose", name, "--lang", "zh"]) == 1
    headline, *lines = shown(capsys)
    assert headline == "设备：上一个任务的进程仍在占用 NPU。"
    assert lines[1] == "日志行  engine.log:2 · 2025-08-26 04:05:21.569071 · VllmWorker TP0"
    first_words = [line.split()[0] for line in lines if line and not line.startswith(" ")]
    assert first_words == ["日志行", "处理", "来源", "依据", "未采用", "共读取"]
    assert "    → torch_npu 错误码 ERR02200：调用 HCCL 失败。" in lines


@pytest.mark.parametrize(
    ("locale", "chinese"),
    [
        ({"LANG": "zh_CN.UTF-8"}, True),
        ({"LANG": "en_US.UTF-8"}, False),
        ({"LANG": "zh_CN.UTF-8", "LC_MESSAGES": "C"}, False),
        ({"LANG": "C", "LC_ALL": "zh_TW.UTF-8", "LC_MESSAGES": "C"}, True),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": ""}, True),
    ],
)
def test_the_language_is_that_of_the_terminal(
    locale: dict[str, str], chinese: bool, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in locale.items():
        monkeypatch.setenv(name, value)
    name = write("a.log", HEALTHY)
    assert exit_code(["diagnose", name]) == 0
    assert shown(capsys)[0] == ("没有发现报错。" if chinese else "No line reports a failure.")
    assert exit_code(["diagnose", name, "--lang", "en"]) == 0
    assert shown(capsys)[0] == "No line reports a failure."


def test_a_healthy_log_ends_well(capsys: Captured) -> None:
    name = write("a.log", HEALTHY + "INFO:     Application startup complete.\n")
    assert exit_code(["diagnose", name]) == 0
    assert shown(capsys) == [
        "No line reports a failure.",
        "the server reports that it is ready: a.log:2",
        "read 1 log of 2 lines",
    ]


def test_a_failure_nobody_knows_is_an_error_too(capsys: Captured) -> None:
    assert exit_code(["diagnose", write("a.log", "ValueError: the moon is full\n")]) == 1
    headline, _, line, text, fix, *rest = shown(capsys)
    assert headline == "unknown: No row of the failure table matches this line."
    assert (line, text) == ("line  a.log:1", "      ValueError: the moon is full")
    assert fix.startswith("fix   ")
    assert not any(more.startswith(("source", "how sure")) for more in rest)


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("name", LOGS.names())
def test_every_answer_fits_into_its_columns(
    name: str, language: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write("engine.log", LOGS.text_of(name))
    for width in (20, 40, 80):
        monkeypatch.setenv("COLUMNS", str(width))
        exit_code(["diagnose", file, "--lang", language])
        assert too_wide("\n".join(shown(capsys)), width) == []


def test_a_chinese_line_is_filled_though_a_word_in_latin_letters_follows(capsys: Captured) -> None:
    line = "Failed to connect to target: 10.9.0.12:20064, status: 503900"
    exit_code(["diagnose", write("a.log", line), "--lang", "zh"])
    cause = "".join(f"{each}\n" for each in shown(capsys)).partition("\n  对端")[0].splitlines()
    assert len(cause) == 3
    assert all(72 <= cell_len(each) <= 80 for each in cause[:-1])


@given(st.text("a错，`（） \n", max_size=60), st.integers(2, 20))
def test_prose_is_wrapped_whole(text: str, width: int) -> None:
    console = Console(file=StringIO(), width=width)
    console.print(prose(text), crop=False)
    lines = console.file.getvalue()
    assert "".join(lines.split()) == "".join(text.split())


def test_the_document_holds_the_whole_diagnosis_in_both_languages(capsys: Captured) -> None:
    text = LOGS.text_of("err_log_11")
    found = answer([write("engine.log", text)], 1, capsys)
    said = json.loads(json.dumps(asdict(diagnose({"engine.log": text}))))
    assert found.items() >= {**said, "unread": [], "ok": False}.items()
    assert found["details"][1] == {
        "en": "rank 27 (10.20.0.29) did not answer rank 0",
        "zh": "rank 27（10.20.0.29）没有应答 rank 0",
    }


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_table_lists_every_row_and_code_in_one_language(
    language: str, capsys: Captured
) -> None:
    assert exit_code(["diagnose", "--table", "--lang", language]) == 0
    page = capsys.readouterr().out
    for row in table().signatures:
        assert page.count(f"\n### {row.id}\n") == 1
        for words in (row.cause, row.fix) if row.kind != "noise" else (row.cause,):
            assert words.in_language(language) in page
    for codes in table().codes.values():
        for code, row in codes.items():
            meaning = row.meaning.in_language(language)
            assert re.search(rf"^\| {code} \|.*\| {re.escape(meaning)} \|$", page, re.MULTILINE)
    assert [line for line in page.splitlines() if line.startswith("## ")][: len(CATEGORIES)] == [
        f"## {chinese if language == 'zh' else category.capitalize()}"
        for category, chinese in CATEGORIES.items()
    ]


def test_the_table_is_data_with_json(capsys: Captured) -> None:
    data = answer(["--table"], 0, capsys)
    rows = {row["id"]: row for row in data["rows"]}
    assert set(rows) == {row.id for row in table().signatures}
    row = table()["npu-out-of-memory"]
    assert rows[row.id]["cause"] == {"en": row.cause.en, "zh": row.cause.zh}
    assert rows[row.id]["source"][0].startswith("https://github.com/")
    assert {kind: len(codes) for kind, codes in data["codes"].items()} == {
        kind: len(codes) for kind, codes in table().codes.items()
    }


def test_files_and_folders_are_read_together_and_each_once(capsys: Captured) -> None:
    for name in ("run/engine.log", "run/plog/plog-1_2.log", "run/ray.out", "run/raylet.err"):
        write(name, HEALTHY)
    write("run/old/engine.log.1", FAILED)
    write("run/spec.yaml", FAILED)
    write("run/core", b"\x7fELF RuntimeError: alloc device memory failed")
    document = answer(["run", "run/engine.log", write("named", HEALTHY)], 1, capsys)
    assert places(document) == (
        ("run/old/engine.log.1", 2),
        [
            "named",
            "run/engine.log",
            "run/old/engine.log.1",
            "run/plog/plog-1_2.log",
            "run/ray.out",
            "run/raylet.err",
        ],
    )


def test_a_packed_log_is_unpacked_whatever_its_name(capsys: Captured) -> None:
    for name in ("plog-1.log.gz", "packed.log"):
        write(name, gzip.compress(FAILED.encode()))
        assert places(answer([name], 1, capsys)) == ((name, 2), [name])


def test_a_log_comes_by_standard_input(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(FAILED.encode())))
    assert places(answer(["-"], 1, capsys)) == (("stdin", 2), ["stdin"])


def test_a_log_in_another_encoding_is_read_as_far_as_it_can_be(capsys: Captured) -> None:
    name = write("a.log", "错误\n".encode("gbk") + b"\xff\x00\n" + FAILED.encode())
    assert places(answer([name], 1, capsys))[0] == ("a.log", 4)


@pytest.mark.parametrize(
    ("name", "what"),
    [("gone.log", "this log does not exist"), ("empty", "there is no log in this directory")],
)
def test_a_log_that_is_not_there_is_refused(name: str, what: str, capsys: Captured) -> None:
    Path("empty").mkdir()
    write("a.log", FAILED)
    error = answer(["a.log", name], 2, capsys)["error"]
    assert (error["what"], error["where"]) == (what, name)


@pytest.mark.parametrize(
    ("names", "what", "where"),
    [
        (["gone.log"], "this log does not exist", "gone.log"),
        (["/dev/null"], "this is a device, not a log", "/dev/null"),
        (["empty.log"], "there is nothing to read", "empty.log"),
        (["empty.log", "empty.log.gz"], "there is nothing to read", "empty.log, empty.log.gz"),
    ],
)
def test_where_there_is_nothing_to_read_a_hint_says_what_to_give(
    names: list[str], what: str, where: str, capsys: Captured
) -> None:
    write("empty.log", "")
    write("empty.log.gz", gzip.compress(b""))
    error = answer(names, 2, capsys)["error"]
    assert (error["what"], error["where"]) == (what, where)
    assert "2>&1 | ropeway diagnose -" in error["hint"]


def test_an_empty_log_beside_one_with_lines_is_no_obstacle(capsys: Captured) -> None:
    assert answer([write("a.log", HEALTHY), write("empty.log", "")], 0, capsys)["logs"]


BROKEN = gzip.compress(HEALTHY.encode() * 1000)[:60]
BROKEN_OFF = "b.log.gz: Compressed file ended before the end-of-stream marker was reached"


def test_a_log_that_breaks_off_is_no_proof_of_health(capsys: Captured) -> None:
    names = [write("a.log", HEALTHY), write("b.log.gz", BROKEN)]
    error = answer(names, 2, capsys)["error"]
    assert error["what"] == "1 of 2 logs could not be read to the end"
    assert error["evidence"] == [BROKEN_OFF]


def test_a_failure_is_told_though_another_log_breaks_off(capsys: Captured) -> None:
    names = [write("a.log", FAILED), write("b.log.gz", BROKEN)]
    document = answer(names, 1, capsys)
    assert places(document) == (("a.log", 2), names)
    assert document["unread"] == [BROKEN_OFF]
    assert exit_code(["diagnose", *names]) == 1
    assert BROKEN_OFF in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("args", [[], ["--table", "a.log"]])
def test_without_a_log_or_with_a_table_of_one_the_call_is_refused(
    args: list[str], capsys: Captured
) -> None:
    assert exit_code(["diagnose", *args]) == 2
    assert "LOG…" in capsys.readouterr().err

"""`ropeway facts parse`: a saved output in, one JSON document out."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from facts_recordings import RECORDINGS, expected_of, text_of
from ropeway.cli.facts import facts
from ropeway.cli.main import exit_code
from ropeway.facts.catalogue import OUTPUTS

Captured = pytest.CaptureFixture[str]
TOPO = "npu_smi_topo_02"


def run(*args: str) -> int:
    return exit_code(list(args), facts)


def document(capsys: Captured) -> Any:
    return json.loads(capsys.readouterr().out)


def feed(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))


@pytest.mark.parametrize(
    "args",
    [
        ["npu-smi-topo", "FILE"],
        ["npu_smi_topo", "FILE"],
        ["npu-smi info -t topo", "FILE"],
        ["FILE"],
        ["npu-smi-topo", "FILE", "--json"],
    ],
)
def test_a_file_is_read_as_the_output_it_is(args: list[str], capsys: Captured) -> None:
    file = str(RECORDINGS / f"{TOPO}.txt")
    assert run("parse", *(file if arg == "FILE" else arg for arg in args)) == 0
    assert document(capsys) == {
        "schema": 1,
        "output": "npu-smi-topo",
        "state": "error",
        "value": None,
        "error": {
            "kind": "unsupported",
            "message": "This device does not support querying topo.",
            "code": None,
        },
        "unread": [],
        "text": text_of(TOPO),
    }


@pytest.mark.parametrize("args", [["-"], [], ["npu-smi-info"], ["npu-smi-info", "-"]])
def test_an_output_comes_through_a_pipe(
    args: list[str], capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed(monkeypatch, text_of("npu_smi_info_17").encode())
    assert run("parse", *args) == 0
    shown = document(capsys)
    assert (shown["output"], shown["state"]) == ("npu-smi-info", "ok")
    assert shown["value"]["chips"][0]["name"] == "910B4"
    assert shown["value"]["chips"][0]["phy_id"] is None


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_files_that_windows_saved_are_read(encoding: str, tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "saved.txt"
    file.write_bytes(text_of("hccn_ip_05").replace("\n", "\r\n").encode(encoding))
    assert run("parse", str(file)) == 0
    assert len(document(capsys)["value"]) == len(expected_of("hccn_ip_05")["value"])


def test_broken_bytes_are_replaced(tmp_path: Path, capsys: Captured) -> None:
    file = tmp_path / "saved.txt"
    file.write_bytes(b"\xff\xfa link status: UP\nlink status: UP\n")
    assert run("parse", "hccn-link", str(file)) == 0
    shown = document(capsys)
    assert (shown["state"], len(shown["value"])) == ("partial", 1)


def test_a_mapping_of_values_is_an_object(capsys: Captured) -> None:
    assert run("parse", str(RECORDINGS / "hccn_hw_stats_01.txt")) == 0
    assert document(capsys)["value"][0]["counters"]["cq_alloc"] == 1


@pytest.mark.parametrize("args", [["npu-smi-info"], []])
def test_what_nobody_knows_ends_with_1(
    args: list[str], capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed(monkeypatch, b"the quick brown fox\n")
    assert run("parse", *args) == 1
    shown = document(capsys)
    assert (shown["state"], shown["value"]) == ("unknown", None)
    assert shown["output"] == (args[0] if args else None)
    assert shown["text"] == "the quick brown fox\n"


def test_an_output_that_does_not_exist_is_refused_with_one_that_does(capsys: Captured) -> None:
    assert run("parse", "npu-smi-inof") == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "no output is called `npu-smi-inof`" in shown.err
    assert "did you mean `npu-smi-info`" in shown.err


@pytest.mark.parametrize("args", [["./missing.txt"], ["npu-smi-info", "missing.txt"], ["x" * 5000]])
def test_a_file_that_is_not_there_is_refused(args: list[str], capsys: Captured) -> None:
    assert run("parse", *args) == 2
    assert "error: " in capsys.readouterr().err


def test_a_refusal_is_a_document_too(capsys: Captured) -> None:
    assert run("parse", "--json", "nonsense") == 2
    assert document(capsys)["error"]["kind"] == "Refused"


def test_the_list_names_every_output_with_its_command(capsys: Captured) -> None:
    assert run("parse", "--list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [output.name for output in OUTPUTS]
    assert any(line.endswith("  hccn_tool -i N -ip -g") for line in lines)
    assert run("parse", "--list", "--json") == 0
    assert len(document(capsys)["outputs"]) == len(OUTPUTS)


def test_without_a_verb_the_help_is_shown(capsys: Captured) -> None:
    assert run() == 0
    assert "parse" in capsys.readouterr().out

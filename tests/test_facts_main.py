"""`python -m ropeway.facts`: a saved output in, what is parsed from it out, as JSON."""

import io
import json
import os
from pathlib import Path

import pytest

from recorded import ANSWERS, RECORDINGS
from ropeway.errors import Refused
from ropeway.facts.__main__ import main
from ropeway.facts.questions import ALL, questions
from ropeway.facts.transcript import Transcript, ask_for_transcript, transcript_from
from ropeway.sim.hosts import virtual_hosts
from ropeway.sim.machine import parse_fleet, sound_fleet


def run(capsys, *arguments: str):
    code = main(arguments)
    return code, capsys.readouterr()


def test_without_arguments_every_question_is_listed(capsys):
    code, printed = run(capsys)
    assert code == 0
    keys = [line.split()[0] for line in printed.out.splitlines()]
    assert keys == [question.key for question in ALL]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_saved_output_is_parsed(capsys, tmp_path, encoding):
    file = tmp_path / "saved.txt"
    file.write_bytes(ANSWERS.text_of("npu_smi_info_17").replace("\n", "\r\n").encode(encoding))
    code, printed = run(capsys, "npu-smi-info", str(file))
    parsed = json.loads(printed.out)
    assert (code, parsed["state"]) == (0, "ok")
    assert parsed["value"]["chips"][0]["name"] == "910B4"


def test_what_is_not_understood_ends_with_1(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff what nobody knows\n")))
    code, printed = run(capsys, "hccn-link", "-")
    assert (code, json.loads(printed.out)["state"]) == (1, "unknown")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["npu-smi-inof", str(RECORDINGS / "npu_smi_info_17.txt")], "npu-smi-inof"),
        (["npu-smi-info", "missing.txt"], "missing.txt"),
        (["npu-smi-info"], "a question and a file"),
    ],
)
def test_a_wrong_question_or_file_is_refused(capsys, arguments, word):
    code, printed = run(capsys, *arguments)
    assert (code, printed.out) == (2, "")
    assert word in printed.err


def test_an_answer_of_a_bundle_is_found_by_its_number(capsys, tmp_path):
    host = virtual_hosts(sound_fleet(*parse_fleet("1x2-910B4")))[0]
    transcript = ask_for_transcript(host, questions(), timeout=9)
    file = tmp_path / "host1.txt"
    file.write_text(transcript.as_text())
    for key, address in (("hccn-ip:0", "10.20.0.0"), ("hccn-ip:1", "10.20.0.1")):
        code, printed = run(capsys, key, str(file))
        assert (code, json.loads(printed.out)["value"]["address"]) == (0, address)
    assert run(capsys, "hccn-ip:7", str(file))[0] == 2


def test_a_transcript_comes_back_as_it_was():
    transcript = Transcript("主机 1", "fd00::1", "R0", "\nR0 a\n# x\r\n\nR0 = 0\n")
    assert transcript_from(transcript.as_text(), "here") == transcript


@pytest.mark.parametrize(
    "text", ["", "hello", "{}", "[1]\n", '{"host": 1, "address": "a"}\n', "[" * 9999]
)
def test_what_is_no_transcript_is_refused(text):
    with pytest.raises(Refused) as caught:
        transcript_from(text, "here.txt")
    assert caught.value.where == "here.txt"


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_only_a_file_is_read_by_its_name(capsys, tmp_path, kind):
    paths = {"pipe": tmp_path / "pipe", "device": Path("/dev/zero"), "folder": tmp_path}
    os.mkfifo(paths["pipe"])
    code, printed = run(capsys, "npu-smi-info", str(paths[kind]))
    assert code == 2
    assert f"cannot read `{paths[kind]}`" in printed.err


def test_an_answer_without_an_end_is_refused(capsys, monkeypatch):
    with Path("/dev/zero").open() as endless:
        monkeypatch.setattr("sys.stdin", endless)
        code, printed = run(capsys, "npu-smi-info", "-")
    assert code == 2
    assert "longer than 64.0 MiB" in printed.err

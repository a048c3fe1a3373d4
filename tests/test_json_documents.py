"""`--json`: the documents of all verbs are those that docs/json.md and the schema describe."""

import json
import re
import shutil
import socket
import subprocess
from pathlib import Path

import click
import pytest

from json_documents import SCHEMA, read_document
from rehearsed import Make, cluster  # noqa: F401  (the fixture)
from ropeway.cli.calibrate import calibration_json
from ropeway.cli.main import VERBS, exit_code, ropeway
from ropeway.plan.calibration import _START, Calibration
from ropeway.report.calibration import Explained

PAGE = (Path(__file__).parent.parent / "docs" / "json.md").read_text(encoding="utf-8")
QWEN = ("--model", "Qwen3-30B-A3B", "--chip", "910B4")
REHEARSED = ("--rehearse", "2x8-910B4")
NOBODY = ("--name", "nobody-has-this-name")

Captured = pytest.CaptureFixture[str]


def sections() -> dict[str, list[str]]:
    """Return the keys in the table of each section of the page."""
    parts = re.split(r"^### (.+)\n", PAGE, flags=re.MULTILINE)
    names, texts = parts[1::2], parts[2::2]
    return {
        name: re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE)
        for name, text in zip(names, texts, strict=True)
    }


def described() -> dict[str, list[str]]:
    """Return the keys of each definition of the schema, without those that every document has."""
    return {
        name: [key for key in definition["properties"] if key != "verb"]
        for name, definition in SCHEMA["$defs"].items()
        if name != "failed"
    }


def test_the_page_and_the_schema_have_the_same_keys_in_the_same_order() -> None:
    assert sections() == described()
    before = PAGE[: PAGE.index("```")]
    assert re.findall(r"^\| `(\w+)` \|", before, flags=re.MULTILINE) == list(SCHEMA["properties"])


def test_the_schema_leaves_no_room_for_other_keys() -> None:
    assert SCHEMA["unevaluatedProperties"] is False
    for name, definition in SCHEMA["$defs"].items():
        if name == "failed":
            continue
        assert set(definition["required"]) == set(definition["properties"]) - {"verb"}, name
        if "verb" not in definition["properties"]:
            assert definition["additionalProperties"] is False, name


def test_units_are_named_alike() -> None:
    names = {key for keys in described().values() for key in keys}
    assert not [name for name in names if re.search(r"_(ms|seconds?|minutes?|gib|mib)$", name)]


def test_every_verb_is_described() -> None:
    verbs: set[str] = set()
    for name in VERBS:
        command = ropeway.get_command(click.Context(ropeway), name)
        parts = command.commands if isinstance(command, click.Group) else ()
        verbs |= {f"{name} {part}" for part in parts} or {name}
    described_verbs = [
        verb
        for definition in SCHEMA["$defs"].values()
        for verb in definition["properties"].get("verb", {}).get("enum", ())
    ]
    assert set(described_verbs) == verbs


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["init"], 0),
        (["model", "list"], 0),
        (["model", "show", "DeepSeek-V3", "--layout", "TP8xPP2"], 0),
        (["model", "show", "Qwen3-30B-A3B", "--layout", "TP7"], 1),
        (["model", "show", "Qwen3-Next-80B-A3B-Instruct"], 0),
        (["model", "show", "Qwen3-VL-30B-A3B-Instruct"], 0),
        (["doctor", *REHEARSED], 0),
        (["doctor", *REHEARSED, "--fault", "host-down", "--fault", "link-down"], 1),
        (["doctor", "--list-faults"], 0),
        (["plan", *QWEN, "--price", "18", "--prompts", "1000"], 0),
        (["plan", *QWEN, "--why", "layout"], 0),
        (["plan", *QWEN, "--why", "TP1"], 0),
        (["plan", "--model", "DeepSeek-V3-W8A8", "--chip", "910B4", "--hosts", "1"], 1),
        (["up", *REHEARSED, "--dry-run"], 0),
        (["status", "--local", *NOBODY], 1),
        (["down", "--local", *NOBODY], 0),
        (["diagnose", "--table"], 0),
        (["diagnose", "calm.log"], 0),
        (["diagnose", "bad.log"], 1),
    ],
)
def test_what_a_verb_prints_is_described(
    args: list[str], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "calm.log").write_text("INFO: Application startup complete.\n")
    (tmp_path / "bad.log").write_text("INFO: begin\nBus error (core dumped)\n")
    assert exit_code([*args, "--json"]) == code
    document = read_document(capsys.readouterr().out)
    assert document["ok"] is (code == 0)
    assert document["error"] is None


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@pytest.mark.parametrize(
    ("args", "kind"),
    [
        (["plan"], "Refused"),
        (["plan", "-c", "wrong.yaml"], "SpecError"),
        (["plan", *QWEN, "--layout", "TP7"], "LayoutError"),
        (["model", "show", "broken"], "ModelError"),
        (["logs", "--local", *NOBODY], "Refused"),
        (["chat", "-p", "hello", "--url", "http://127.0.0.1:PORT/v1"], "ServerAway"),
        (["bench", "-c", "wrong.yaml"], "SpecError"),
        (["init", "--focre"], "Refused"),
        (["calibrate"], "Refused"),
    ],
)
def test_every_kind_of_error_is_described(
    args: list[str],
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wrong.yaml").write_text("modle: x\n")
    (tmp_path / "broken").mkdir()
    (tmp_path / "empty").touch()
    with (tmp_path / "empty").open(encoding="utf-8") as empty:
        monkeypatch.setattr("sys.stdin", empty)
        code = exit_code([*(arg.replace("PORT", str(free_port())) for arg in args), "--json"])
    document = read_document(capsys.readouterr().out)
    assert (document["ok"], code == 0) == (False, False)
    assert document["verb"] == (" ".join(args[:2]) if args[0] == "model" else args[0])
    assert (document["error"]["kind"], document["error"]["exit_code"]) == (kind, code)


def test_a_life_on_hosts_is_described(cluster: Make) -> None:  # noqa: F811
    """Each of these is held to the schema by `json`."""
    two = cluster()
    assert two.json("status")["containers"] == []
    assert two.json("down")["removed"]["containers"] == 0
    assert two.json("up", "--dry-run")["script"].startswith("#!/bin/bash")
    assert two.json("up")["start_s"] is not None
    assert two.json("up")["start_s"] is None
    assert two.json("status")["ok"]
    assert two.json("logs")["lines"]
    assert two.run("exec", "--json", "--all", "no-such-program") == 1
    assert len(read_document(two.out)["answers"]) == 2
    assert two.json("restart")["restarted"]
    assert "versions.txt" in two.json("bundle", "-o", "help.zip")["files"]
    assert two.json("down")["removed"]["containers"] == 2


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed")
def test_the_examples_with_jq_print_what_they_say(capsys: Captured) -> None:
    layout, faults = re.findall(r"jq -r '([^']+)'", PAGE)
    for program, args, said in (
        (layout, ["plan", *QWEN, "--hosts", "2"], r"\d × \S+: \d+ ms"),
        (
            faults,
            ["doctor", *REHEARSED, "--fault", "link-down:host2"],
            "RoCE .*host2",
        ),
        (faults, ["plan", "-c", "none.yaml"], "the file cannot be read"),
    ):
        exit_code([*args, "--json"])
        text = capsys.readouterr().out
        done = subprocess.run(
            ["jq", "-r", program], input=text, capture_output=True, text=True, check=True
        )
        assert re.match(said, done.stdout), done.stdout


def test_a_calibration_is_described() -> None:
    calibration = Calibration(_START, (), "smollm2-moe", "2 cores", "2026-01-31T10:12:05+00:00")
    rows = [Explained("TP1", "1 client", 22.0, 22.1), Explained("TP2", "1 client", 12.3)]
    data = calibration_json(calibration, rows, "calibration.json")
    head = dict.fromkeys(SCHEMA["properties"])
    head |= {"schema": 1, "verb": "calibrate", "ok": True, "rehearsal": False, "warnings": []}
    assert (
        read_document(json.dumps({**head, **data}))["layouts"][1]["measured_tokens_per_s"] is None
    )

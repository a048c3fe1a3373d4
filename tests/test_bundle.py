"""`ropeway doctor --bundle`: a cluster examined from one file, with no host at hand."""

import json
import zipfile
from pathlib import Path

import pytest

from json_documents import read_document
from ropeway.cli.main import exit_code
from ropeway.facts import bundle
from ropeway.facts.bundle import ERROR, member_of
from ropeway.facts.gather import facts_of, gather
from ropeway.facts.questions import questions
from ropeway.facts.transcript import ask_for_transcript
from ropeway.sim.faults import faulty_fleet
from ropeway.sim.hosts import virtual_hosts

SPEC = """\
model: {path: /data/model}
cluster:
  hosts:
    - {address: 192.168.0.1, npus: 8}
    - {address: 192.168.0.2, npus: 8}
"""


def members(*faults: str, size: str = "2x8-910B4") -> dict[str, str]:
    """What `ropeway bundle` writes of a rehearsed fleet."""
    return {
        member_of(host.name): ask_for_transcript(
            host, questions(model_path="/data/model"), timeout=9
        ).as_text()
        for host in virtual_hosts(faulty_fleet(size, faults))
        if host.machine.failure is None
    }


def packed(folder: Path, parts: dict[str, str]) -> str:
    path = folder / "bundle.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in parts.items():
            archive.writestr(name, text)
    return str(path)


def run(capsys, *arguments: str):
    code = exit_code(["doctor", *arguments])
    return code, capsys.readouterr()


def examined(capsys, *arguments: str):
    code, printed = run(capsys, "--json", *arguments)
    return code, read_document(printed.out)


def test_a_transcript_gives_the_facts_of_its_host():
    host = virtual_hosts(faulty_fleet("2x16-910C", ()))[1]
    every = questions(model_path="/data/model")
    assert facts_of(ask_for_transcript(host, every, timeout=9)) == gather(host, every, timeout=9)


def test_a_sound_cluster_is_not_called_sound_where_nobody_looked(capsys, tmp_path):
    code, report = examined(capsys, "--bundle", packed(tmp_path, {**members(), "spec.yaml": SPEC}))
    assert code == 0
    assert (report["hosts"], report["answered"], report["npus"], report["pings"]) == (2, 2, 16, 0)
    assert report["findings"] == []
    assert report["passed"] == ["NPUs", "versions", "containers", "model", "ports"]
    assert report["not_checked"] == [
        {"subject": "hosts", "partly": True, "why": ["host1, host2: the clock was not read"]},
        {"subject": "network", "partly": False, "why": ["no pings were sent"]},
    ]
    _, printed = run(capsys, "--bundle", str(tmp_path / "bundle.zip"))
    assert "no fault in what was checked" in printed.out
    assert "not checked: network (no pings were sent)" in printed.out


def test_one_host_has_no_other_to_be_compared_with(capsys, tmp_path):
    parts = members(size="1x8-910B4")
    _, report = examined(capsys, "--bundle", packed(tmp_path, parts))
    assert report["not_checked"] == []
    assert "network" not in report["passed"]


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ("tls-on:host2:7", "roce-tls"),
        ("shard-short:host2", "model-short"),
        ("container-holds:host1", "npu-container"),
        ("no-driver:host1", "npu-driver"),
        ("card-dropped:host2:3", "npu-dropped"),
    ],
)
def test_faults_are_found_as_on_the_hosts(capsys, tmp_path, fault, check):
    code, report = examined(capsys, "--bundle", packed(tmp_path, members(fault)))
    _, live = examined(capsys, "--rehearse", "2x8-910B4", "--fault", fault)
    checks = [finding["check"] for finding in report["findings"]]
    unknown = {"roce-ping", "npu-count"}  # without pings, and without a spec
    assert check in checks
    assert checks == [one["check"] for one in live["findings"] if one["check"] not in unknown]
    assert code == (0 if live["ok"] else 1)


def test_hosts_that_did_not_answer_then_are_told(capsys, tmp_path):
    parts = {**members("host-down:host2"), member_of("host2", ERROR): "no route to host\n"}
    code, report = examined(capsys, "--bundle", packed(tmp_path, parts))
    assert (code, report["hosts"], report["answered"]) == (1, 2, 1)
    assert report["findings"][0]["check"] == "host-reach"
    assert "no route to host" in json.dumps(report["findings"][0])


def test_what_the_spec_requires_is_taken_from_the_bundle(capsys, tmp_path):
    parts = {
        name.replace("host", "192.168.0."): text.replace('"host": "host', '"host": "192.168.0.')
        for name, text in members().items()
    }
    _, report = examined(capsys, "--bundle", packed(tmp_path, {**parts, "spec.yaml": SPEC}))
    assert report["findings"] == []
    more = SPEC.replace("npus: 8", "npus: 9")
    _, report = examined(capsys, "--bundle", packed(tmp_path, {**parts, "spec.yaml": more}))
    assert {finding["check"] for finding in report["findings"]} == {"npu-count"}


def test_a_file_that_is_no_bundle_is_refused_once(capsys, tmp_path):
    whole = Path(packed(tmp_path, members())).read_bytes()
    middle = len(whole) // 3
    spoilt = whole[:middle] + bytes(200) + whole[middle + 200 :]
    files = {"empty": b"", "text": b"hello\n", "cut": whole[: len(whole) // 2], "spoilt": spoilt}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    for name in ("nothing", *files):
        code, printed = run(capsys, "--bundle", str(tmp_path / name))
        assert (code, printed.out, printed.err.count("error:")) == (2, "", 1), name
        assert name in printed.err
    assert run(capsys, "--bundle", str(tmp_path))[0] == 2


@pytest.mark.parametrize(
    ("parts", "word"),
    [
        ({"readme.txt": "hello"}, "no answers"),
        ({"host1/facts.json": "{}"}, "no answers"),
        ({"facts/host1.txt": "hello"}, "facts/host1.txt"),
        ({"facts/host1.txt": ""}, "facts/host1.txt"),
        ({"facts/a.txt": "{}", "spec.yaml": SPEC}, "facts/a.txt"),
    ],
)
def test_a_bundle_without_answers_is_refused(capsys, tmp_path, parts, word):
    code, printed = run(capsys, "--bundle", packed(tmp_path, parts))
    assert (code, printed.out) == (2, "")
    assert word in printed.err


def test_a_bundle_with_a_broken_spec_or_one_host_twice_is_refused(capsys, tmp_path):
    parts = members()
    for more in ({"spec.yaml": "model: ["}, {"facts/other.txt": parts["facts/host1.txt"]}):
        assert run(capsys, "--bundle", packed(tmp_path, {**parts, **more}))[0] == 2


def test_many_large_members_and_a_large_spec_are_not_read(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(bundle, "_LARGEST_TOTAL", 1_000_000)
    for name, size in (("facts/host{}.txt", 300_000), ("spec.yaml", 300_000)):
        many = {name.format(number): "0" * size for number in range(4)}
        code, printed = run(capsys, "--bundle", packed(tmp_path, {**members(), **many}))
        assert code == 2
        assert "which nothing in a bundle is" in printed.err


def test_a_member_without_end_is_not_read_to_it(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(bundle, "_LARGEST_BYTES", 100_000)
    bomb = {**members(), "facts/host9.txt": "0" * 10_000_000}
    code, printed = run(capsys, "--bundle", packed(tmp_path, bomb))
    assert code == 2
    assert "facts/host9.txt" in printed.err


@pytest.mark.parametrize(
    "more", [["host1"], ["--rehearse", "2x8-910B4"], ["--deep"], ["--model", "/m"]]
)
def test_a_bundle_stands_alone(capsys, tmp_path, more):
    code, printed = run(capsys, "--bundle", packed(tmp_path, members()), *more)
    assert (code, printed.out) == (2, "")
    assert "--bundle" in printed.err

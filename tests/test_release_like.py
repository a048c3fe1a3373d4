"""Releases that Ropeway does not know: what `plan` and `doctor` make of them."""

import re

from plan_requests import SPEC
from ropeway.spec.model import load_spec
from test_plan_command import document, run


def test_a_release_that_is_not_known_is_taken_as_the_nearest_loudly(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ("--model", "Qwen3-8B", "--chip", "910B4", "--engine-version", "0.33.0")
    plan = document(capsys, *flags)
    assert plan["exit"] == 0 and plan["request"]["release"] == "0.32.0rc1"
    assert any("0.33.0 is no release" in doubt for doubt in plan["doubts"])
    _, out, _ = run(capsys, *flags)
    assert "--release-like" in out
    like = document(capsys, *flags, "--release-like", "0.30.0")
    assert like["request"]["release"] == "0.30.0"


def test_a_development_build_is_taken_as_other_newer_releases_are(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = tmp_path / "ropeway.yaml"
    for version in ("0.33.0.dev1", "v0.33.0rc1.dev20261120+g0123abc"):
        text = re.sub(r"\n  (version|release_like): .*", "", SPEC)
        spec.write_text(text.replace("serve:\n", f"serve:\n  version: {version}\n"))
        plan = document(capsys)
        assert plan["request"]["release"] == "0.32.0rc1"
        assert any("is no release that Ropeway knows" in doubt for doubt in plan["doubts"])


def test_a_plan_writes_the_release_that_was_asked_for(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = tmp_path / "ropeway.yaml"
    spec.write_text(re.sub(r"\n  version: .*", "", SPEC))
    flags = ("--engine-version", "0.33.0", "--release-like", "0.23.0", "--write")
    assert run(capsys, *flags)[0] == 0
    serve = load_spec(spec).serve
    assert (serve.version, serve.release_like) == ("0.33.0", "0.23.0")

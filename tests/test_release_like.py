"""Releases that Ropeway does not know: what `plan` and `doctor` make of them."""

import re

import pytest

from plan_requests import SPEC
from ropeway.engines.ascend_releases import taken_release
from ropeway.errors import Refused
from ropeway.spec.model import load_spec
from test_plan_command import document, run

IMAGE = "r.example/vllm-ascend"


@pytest.mark.parametrize(
    ("image", "version", "like", "found", "taken", "asked"),
    [
        (None, None, None, "", "0.30.0", ""),
        (None, "0.33.0", None, "", "0.32.0rc1", "0.33.0"),
        (None, "0.17.1rc1", None, "", "0.17.0rc1", "0.17.1rc1"),
        (None, "0.33.0", "0.30.0", "", "0.30.0", "0.33.0"),
        (None, "0.33.0.dev1", None, "", "0.32.0rc1", "0.33.0.dev1"),
        (None, "v0.33.0rc1.dev9+g0123", None, "", "0.32.0rc1", "0.33.0rc1.dev9"),
        (None, "0.18.0", "0.18.0", "", "0.18.0", ""),
        (None, "v0.18.0", "0.18.0", "", "0.18.0", ""),
        (f"{IMAGE}:main", None, None, "", "0.32.0rc1", f"{IMAGE}:main"),
        (f"{IMAGE}:prod", None, None, "", "0.30.0", f"{IMAGE}:prod"),
        (f"{IMAGE}:prod", "0.18.0", None, "", "0.18.0", ""),
        (f"{IMAGE}@sha256:01", None, "0.23.0", "", "0.23.0", f"{IMAGE}@sha256:01"),
        (f"{IMAGE}:nightly-a3", None, None, "0.30.1.dev12+g01", "0.30.0", "0.30.1.dev12"),
        (f"{IMAGE}:v0.18.0", None, None, "0.1.dev1+g01", "0.18.0", ""),
    ],
)
def test_an_unknown_release_is_taken_as_the_nearest_and_says_so(
    image, version, like, found, taken, asked
):
    row = taken_release(image, version, like, found)
    assert (row.version, row.asked) == (taken, asked)
    assert any("--release-like" in note for note in row.notes) == bool(asked)


def test_a_known_release_is_not_said_to_be_unknown_for_being_taken_as_another():
    (note,) = taken_release(None, "0.18.0", "0.23.0").notes
    assert "0.18.0 is a release that Ropeway knows" in note and "vLLM-Ascend 0.23.0" in note
    (note,) = taken_release("r.example/vllm-ascend:v0.18.0", None, "0.23.0").notes
    assert "needs no `--release-like`" in note


def test_a_release_before_all_or_like_none_is_refused():
    with pytest.raises(Refused, match="not known") as error:
        taken_release(None, "0.7.3")
    assert "--release-like" in str(error.value.hint)
    with pytest.raises(Refused, match="not known"):
        taken_release(None, "0.33.0", "0.99.0")


def test_a_release_that_is_not_known_is_taken_as_the_nearest_loudly(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ("--model", "Qwen3-8B", "--chip", "910B4", "--engine-version", "0.33.0")
    plan = document(capsys, *flags)
    assert plan["exit"] == 0 and plan["request"]["release"] == "0.32.0rc1"
    assert any("does not know release 0.33.0" in doubt for doubt in plan["doubts"])
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
        assert any("does not know release" in doubt for doubt in plan["doubts"])


def test_a_plan_writes_the_release_that_was_asked_for(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = tmp_path / "ropeway.yaml"
    spec.write_text(re.sub(r"\n  version: .*", "", SPEC))
    flags = ("--engine-version", "0.33.0", "--release-like", "0.23.0", "--write")
    assert run(capsys, *flags)[0] == 0
    serve = load_spec(spec).serve
    assert (serve.version, serve.release_like) == ("0.33.0", "0.23.0")

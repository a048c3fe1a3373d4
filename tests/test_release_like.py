"""Releases that Ropeway does not know: what `plan` and `doctor` make of them."""

import re

import pytest

from plan_requests import SPEC
from ropeway.cli.main import exit_code
from ropeway.engines.ascend_releases import taken_release
from ropeway.errors import Refused
from ropeway.report.chinese import error_in_chinese
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
    (*said,) = (note for note in row.notes if "does not know release" in note)
    assert bool(said) == bool(asked)
    assert any("--release-like" in note for note in said) == (bool(asked) and like is None)


def test_a_known_release_is_not_said_to_be_unknown_for_being_taken_as_another():
    (note,) = taken_release(None, "0.18.0", "0.23.0").notes
    assert "0.18.0 is a release that Ropeway knows" in note and "vLLM-Ascend 0.23.0" in note
    (note,) = taken_release("r.example/vllm-ascend:v0.18.0", None, "0.23.0").notes
    assert "needs no `--release-like`" in note


def test_a_release_before_all_or_like_none_is_refused():
    with pytest.raises(Refused, match=r"older than the oldest .*, 0\.9\.0rc1") as error:
        taken_release(None, "0.7.3")
    assert "--release-like" in str(error.value.hint)
    with pytest.raises(Refused, match="not known"):
        taken_release(None, "0.33.0", "0.99.0")


def test_like_a_release_that_is_not_known_is_refused_with_those_near_it():
    with pytest.raises(Refused) as error:
        taken_release(None, "0.33.0", "0.27.1")
    (near,) = error.value.evidence
    assert "0.26.0rc1, 0.27.1rc1, 0.28.0rc1" in near
    assert (error.value.where, error.value.hint) == ("serve.release_like", "take one of these")


@pytest.mark.parametrize(
    ("flags", "place"),
    [
        (("--release-like", "0.27.1"), "--release-like"),
        (("--engine-version", "0.7.3"), "--engine-version"),
        ((), "ropeway.yaml:"),
    ],
)
def test_the_place_of_an_unknown_release_is_where_it_was_given(
    flags, place, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    text = re.sub(r"\n  (version|release_like): .*", "", SPEC)
    text = text if flags else text.replace("serve:\n", "serve:\n  release_like: 0.27.1\n")
    (tmp_path / "ropeway.yaml").write_text(text)
    code, _, err = run(capsys, *flags)
    assert code == 2 and f"  at {place}" in err
    if "--release-like" in flags:
        assert exit_code(["up", "--dry-run", *flags]) == 2
        assert f"  at {place}" in capsys.readouterr().err


def test_where_nothing_is_named_that_a_release_could_be_like_it_is_refused():
    with pytest.raises(Refused, match="no image or version") as error:
        taken_release(None, None, "0.11.0")
    assert "`serve.version: 0.11.0`" in str(error.value.hint)
    assert error_in_chinese(error.value) is not None


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

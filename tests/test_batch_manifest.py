"""batch/manifest: a job goes on only as what it began as."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_rows import files_of_at_most, fill, result
from ropeway.batch.journal.journal import Journal
from ropeway.batch.journal.manifest import (
    NAME,
    FileIdentity,
    Manifest,
    check_same,
    differences,
    read_manifest,
    write_manifest,
)
from ropeway.errors import Refused, RopewayError

PARTS = (
    FileIdentity("a.jsonl", 1200, "ab" * 32, "jsonl"),
    FileIdentity("b.jsonl.gz", 7, "cd" * 32, "jsonl"),
)
JOB = Manifest(
    "qwen", 30, PARTS, engine="0.32.0", settings={"temperature": 0.5, "stop": ["a"]}, template="{q}"
)


def test_it_reads_what_it_wrote(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None
    write_manifest(tmp_path, JOB)
    assert read_manifest(tmp_path) == JOB
    assert differences(JOB, read_manifest(tmp_path)) == ()
    assert sorted(path.name for path in tmp_path.iterdir()) == [NAME]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.text() | st.floats(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), JSON), st.text())
def test_any_setting_is_itself_again(tmp_path_factory, settings, template) -> None:
    folder = tmp_path_factory.mktemp("j")
    job = replace(JOB, settings=settings, template=template)
    write_manifest(folder, job)
    assert differences(read_manifest(folder), job) == ()


@pytest.mark.parametrize(
    ("changed", "lines"),
    [
        ({"model": "llama"}, ["model was qwen, and is llama"]),
        ({"engine": "0.33.0"}, ["engine was 0.32.0, and is 0.33.0"]),
        ({"template": ""}, ["template was {q}, and is –"]),
        (
            {"settings": {"temperature": 0, "seed": 1, "stop": ["a"]}},
            ["seed was –, and is 1", "temperature was 0.5, and is 0"],
        ),
        ({"parts": PARTS[:1]}, ["input was 2 files, and is 1 file"]),
        (
            {"parts": (PARTS[0], FileIdentity("c.jsonl", 8, "cd" * 32, "jsonl"))},
            ["input was b.jsonl.gz (7 B, cdcdcdcdcdcd), and is c.jsonl (8 B, cdcdcdcdcdcd)"],
        ),
        (
            {"parts": PARTS[::-1]},
            [
                "input was a.jsonl (1,200 B, abababababab), and is b.jsonl.gz (7 B, cdcdcdcdcdcd)",
                "input was b.jsonl.gz (7 B, cdcdcdcdcdcd), and is a.jsonl (1,200 B, abababababab)",
            ],
        ),
        ({"parts": (PARTS[0], replace(PARTS[1], shape="csv"))}, ["format was jsonl, and is csv"]),
        ({"rows": 120}, ["rows was 30, and is 120"]),
    ],
)
def test_what_differs_is_a_line_each(tmp_path: Path, changed: dict, lines: list[str]) -> None:
    assert list(differences(JOB, replace(JOB, **changed))) == lines
    check_same(tmp_path, JOB)
    with pytest.raises(Refused, match="not the job that began this output") as caught:
        check_same(tmp_path, replace(JOB, **changed))
    assert list(caught.value.evidence) == lines
    check_same(tmp_path, JOB)


@pytest.mark.parametrize(
    "same",
    [
        {"engine": ""},  # a server that does not tell
        {"ropeway": "9.9"},
        {"parts": (replace(PARTS[0], name="/mnt/elsewhere/a.jsonl"), PARTS[1])},
        {"settings": {"stop": ["a"], "temperature": 0.5}},
    ],
)
def test_what_may_change(tmp_path: Path, same: dict) -> None:
    check_same(tmp_path, JOB)
    check_same(tmp_path, replace(JOB, **same))
    assert read_manifest(tmp_path) == JOB


def test_a_journal_of_another_input_is_refused_without_its_manifest(tmp_path: Path) -> None:
    fill(tmp_path / "j", 30, [result(0)], job=JOB.job)
    with pytest.raises(Refused, match="belongs to another input"):
        Journal.open(tmp_path / "j", rows=30, job=replace(JOB, parts=PARTS[:1]).job)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "{",
        '{"parts": 3}',
        json.dumps({"parts": [], "model": "m", "more": 1}),
        json.dumps({"parts": [], "model": "m", "rows": "1"}),
        json.dumps({"parts": [], "model": "m", "rows": 1, "settings": 5}),
        json.dumps({"parts": [{"name": "a", "size": None, "hash": "", "shape": ""}], "rows": 1}),
        "\xff",
    ],
)
def test_a_manifest_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / NAME).write_bytes(text.encode("latin-1"))
    with pytest.raises(Refused, match="none of ours"):
        read_manifest(tmp_path)


def test_a_later_format_is_not_guessed_at(tmp_path: Path) -> None:
    write_manifest(tmp_path, replace(JOB, format=2, ropeway="9.9"))
    with pytest.raises(Refused, match=r"another version of Ropeway: 9\.9"):
        read_manifest(tmp_path)


def test_without_room_the_old_one_stays(tmp_path: Path) -> None:
    write_manifest(tmp_path, JOB)
    with files_of_at_most(100), pytest.raises(RopewayError, match="cannot be written"):
        write_manifest(tmp_path, replace(JOB, model="llama"))
    assert read_manifest(tmp_path) == JOB

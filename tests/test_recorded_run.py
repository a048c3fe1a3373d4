"""A run that `bench` recorded, read again: what is one, what is none, and what is several."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ropeway.bench.load_test import Conditions, LoadTest
from ropeway.bench.recorded_run import read_conditions, side_of_run
from ropeway.errors import Refused

LOAD = LoadTest(input_tokens=16, output_tokens=4, clients=2, requests=80)


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ("[]", "it has no schema"),
        ("{}", "it has no schema"),
        ('{"schema": 9}', "its schema is 9"),
        ('{"schema": 1, "load": {}}', "missing required field"),
        ('{"schema": 1, "load": 3}', "Expected `object`"),
        ("nonsense", "Expecting value"),
    ],
)
def test_a_folder_that_holds_no_run_is_refused(tmp_path: Path, document: str, why: str) -> None:
    (tmp_path / "conditions.json").write_text(document)
    with pytest.raises(Refused, match="this is no run of `ropeway bench`") as refused:
        read_conditions(tmp_path)
    assert why in refused.value.what


@pytest.mark.parametrize(
    ("beside", "runs", "what", "hint"),
    [
        (
            "sweep.json", ("clients-16", "clients-8"),
            "this is a sweep", "name one of its loads: {folder}/clients-8",
        ),
        (
            "comparison.json", ("2-b/round-1", "1-a/round-2", "1-a/round-1"),
            "this folder holds several runs", "name one of them: {folder}/1-a/round-1",
        ),
        (
            "other", ("round-2", "round-10"),
            "this folder holds several runs", "name one of them: {folder}/round-2",
        ),
    ],
)  # fmt: skip
def test_of_a_folder_with_several_runs_one_is_named(
    tmp_path: Path, beside: str, runs: tuple[str, ...], what: str, hint: str
) -> None:
    (tmp_path / beside).write_text("{}")
    for run in runs:
        (tmp_path / run).mkdir(parents=True)
        (tmp_path / run / "conditions.json").write_text("{}")
    with pytest.raises(Refused) as refused:
        read_conditions(tmp_path)
    assert (refused.value.what, refused.value.hint) == (what, hint.format(folder=tmp_path))
    assert refused.value.where == str(tmp_path)


def written(folder: Path, timings: str = "", **load: Any) -> Path:
    """A folder of a run."""
    folder.mkdir(exist_ok=True)
    conditions = Conditions(load=replace(LOAD, **load), url="http://a/v1", model="fake")
    document = {"schema": 1, **conditions.as_json()}
    (folder / "conditions.json").write_text(json.dumps(document))
    (folder / "timings.jsonl").write_text(timings)
    return folder


@pytest.mark.parametrize(
    ("timings", "why"),
    [("", "too short to be cut into 3 rounds"), ("[]\n", "these are no timings"),
     ("no json\n", "these are no timings")],
)  # fmt: skip
def test_a_recorded_run_without_rounds_in_it_is_refused(
    tmp_path: Path, timings: str, why: str
) -> None:
    folder = written(tmp_path / "run", timings)
    with pytest.raises(Refused) as refused:
        side_of_run("run", folder, 6, recorded=True)
    assert why in refused.value.what
    (folder / "timings.jsonl").unlink()
    with pytest.raises(Refused, match="cannot be read: no such file"):
        side_of_run("run", folder, 6, recorded=True)


def test_a_new_run_that_is_too_short_is_a_side_without_a_verdict(tmp_path: Path) -> None:
    side = side_of_run("run", written(tmp_path / "run"), 6, recorded=False)
    assert side.rounds == ()


def test_what_a_later_version_adds_to_a_record_is_ignored(tmp_path: Path) -> None:
    folder = written(tmp_path / "run")
    document = json.loads((folder / "conditions.json").read_text())
    document["load"]["later"] = document["later"] = 1
    del document["load"]["fresh"]
    (folder / "conditions.json").write_text(json.dumps(document))
    assert read_conditions(folder).load == LOAD

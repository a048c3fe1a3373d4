"""`tune` on the local cluster: the search ends, writes the best, and leaves nothing behind."""

import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from children import INTERRUPTIBLE
from json_documents import read_document
from local_cluster import ROPEWAY, left_behind, ropeway, shared_memory_files, spec_text
from ropeway.checkpoints.fetch import default_root, ensure
from ropeway.hosts.local import LocalHost
from ropeway.plan import calibration
from ropeway.plan.calibration import Calibration, calibration_path, write_calibration
from ropeway.spec.file import read_spec_file
from waiting import wait_for

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

TUNE = (
    "tune", "--layouts", "1", "--vary", "max-sequences", "--rounds", "3", "--no-confirm",
    "--clients", "2", "--requests", "4", "--input-tokens", "16", "--output-tokens", "8",
    "--out", "search",
)  # fmt: skip


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A spec of one NPU, and a machine that was calibrated, whatever this one is."""
    root = default_root(os.environ)
    ensure("tiny-qwen3-moe", root, host=LocalHost(), on_step=lambda _: None)
    cache = tmp_path / "cache"
    (cache / "ropeway").mkdir(parents=True)
    (cache / "ropeway/models").symlink_to(root)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    made = Calibration(replace(calibration._START, cores=2), (), "tiny", "2 cores", "2026-12-01")
    write_calibration(made, calibration_path(default_root(os.environ)))
    path = tmp_path / "ropeway.yaml"
    path.write_text(spec_text("tiny-qwen3-moe", "TP1", "float32", 1))
    before = shared_memory_files()
    yield path
    assert left_behind(before) == []


def test_a_search_ends_and_writes_what_it_found(spec: Path) -> None:
    found = ropeway(*TUNE, "--write", "--json", cwd=spec.parent, timeout=500)
    document = read_document(found.stdout)
    assert (found.returncode, document["ended"], document["following"]) == (0, "complete", None)
    trials = document["trials"]
    tried = [trial["setting"]["max_sequences"] for trial in trials]
    assert tried[:2] == [None, 1], "where one sequence is the best, those beside it come too"
    assert len(set(tried)) == len(tried)
    assert all(trial["error"] is None and trial["start_s"] > 0 for trial in trials)
    assert all(0 not in trial["figures"] for trial in trials)
    assert "# tune: " in spec.read_text()
    best = read_spec_file(spec).spec.serve
    assert (str(best.layout), best.max_sequences) == ("TP1", document["best"]["max_sequences"])


def test_ctrl_c_takes_down_what_is_up_and_the_search_goes_on(spec: Path) -> None:
    search = subprocess.Popen(
        [*INTERRUPTIBLE, ROPEWAY, *TUNE],
        cwd=spec.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    record = spec.parent / "search/trials.jsonl"
    try:
        wait_for(lambda: record.exists() or search.poll() is not None, seconds=200)
        wait_for(lambda: any(spec.parent.glob("search/02-*/engine.log")), seconds=60)
    finally:
        search.send_signal(signal.SIGINT)
        said, errors = search.communicate(timeout=60)
    assert search.returncode == 130, errors
    assert "next it would have tried TP1, one sequence" in " ".join(said.split())
    assert "Traceback" not in errors
    first = record.read_text()
    again = ropeway(*TUNE, "--json", cwd=spec.parent, timeout=400)
    assert again.returncode == 0, again.stderr
    assert record.read_text().startswith(first)
    document = read_document(again.stdout)
    assert document["following"] is None
    tried = [trial["setting"]["max_sequences"] for trial in document["trials"]]
    assert tried[:2] == [None, 1]
    assert len(set(tried)) == len(tried)

"""batch/own_files: no file of a job is another, an input, or a stranger's."""

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from batch_endpoint import Faults

from batch_calls import columns, lines, run, serving, texts
from ropeway.batch.job import Order, open_job
from ropeway.batch.journal import take_folder
from ropeway.batch.own_files import check_places
from ropeway.batch.servers import Servers
from ropeway.batch.settings import make_form
from ropeway.errors import Refused


def test_files_that_are_there_are_never_written_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = columns(tmp_path / "in.jsonl", {"prompt": "a"})
    out, errors = tmp_path / "out.jsonl", tmp_path / "out.errors.jsonl"
    with serving() as (url, endpoint):
        for path in (out, errors):
            path.write_text("mine\n")
            code, said, _ = run(capsys, source, "-o", out, "--url", url)
            assert (code, said["error"]["where"]) == (2, str(path))
            assert path.read_text() == "mine\n"
            path.unlink()
        code, said, _ = run(capsys, source, "-o", source, "--url", url)
        assert (code, said["error"]["where"]) == (2, str(source))
        code, said, _ = run(capsys, source, "-o", tmp_path / "x" / "out", "--url", url)
        assert (code, said["error"]["where"]) == (2, str(tmp_path / "x"))
        assert endpoint.requests == 0
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


@pytest.mark.parametrize(
    ("flags", "where"),
    [
        (["-o", "o", "--html", "o"], "o"),
        (["-o", "o", "--html", "in.jsonl"], "in.jsonl"),
        (["-o", "o", "--errors", "{folder}/o"], "{folder}/o"),
        (["-o", "o", "--errors", "link"], "link"),  # which leads to `o`, where nothing is yet
        (["-o", "o", "--html", "hard"], "in.jsonl"),
        (["-o", "o", "--check", "schema", "--errors", "./schema"], "schema"),
        (["-o", "o", "--html", "o.journal/page.html"], "o.journal/page.html"),
        (["-o", "o", "--errors", "o.journal"], "o.journal"),
        (["-o", "o", "--html", "away/page.html"], "away"),
        (["-o", "dangling"], "{folder}/away"),
        (["-o", "-"], None),
        (["-o", "o.jsonl.GZ"], "o.jsonl.GZ"),
        (["-o", "o", "--errors", "e.zst"], "e.zst"),
        (["-o", "o", "--errors", "file://{folder}/o"], "file://{folder}/o"),
        (["-o", "file://{folder}/o", "--html", "o"], "o"),
        (["-o", "file://{folder}/o.journal/o"], "file://{folder}/o.journal/o"),
        (["-o", "file://{folder}/away/o"], "{folder}/away"),
        (["-o", "file://{folder}/o.gz"], "file://{folder}/o.gz"),
        (["-o", "o", "--journal", "away/journal"], "away"),
        (["-o", "o", "--journal", "o"], "o"),
    ],
)
def test_no_file_of_a_job_is_another(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
    where: str | None,
) -> None:
    monkeypatch.chdir(tmp_path)
    source = columns(tmp_path / "in.jsonl", {"prompt": "a"})
    (tmp_path / "schema").write_text("{}")
    (tmp_path / "link").symlink_to("o")
    (tmp_path / "dangling").symlink_to("away/o")
    (tmp_path / "hard").hardlink_to(source)
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.exists()}
    with serving() as (url, endpoint):
        flags = [flag.format(folder=tmp_path) for flag in flags]
        code, said, _ = run(capsys, "in.jsonl", *flags, "--url", url)
        assert endpoint.requests == 0
    assert code == 2
    assert said["error"]["where"] == (where and where.format(folder=tmp_path))
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.exists()} == before


def test_a_pipe_that_nobody_may_read_at_the_end_is_refused_at_the_start(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    check_places(tmp_path / "o.journal", [tmp_path / "o", Path(os.devnull)])
    with pytest.raises(Refused, match="this is a pipe"):
        check_places(tmp_path / "o.journal", [tmp_path / "o", tmp_path / "pipe"])


def test_a_job_that_goes_on_writes_over_its_own_files_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = columns(tmp_path / "in.jsonl", {"prompt": "a"}), tmp_path / "o"
    mine, other = tmp_path / "mine", tmp_path / "other"
    mine.write_text("mine\n")
    with serving(faults=Faults(refused=1.0)) as (url, _):
        args = (source, "-o", out, "--url", url)
        for _ in range(2):
            assert run(capsys, *args)[1]["outcomes"]["refused"] == 1
        code, said, _ = run(capsys, *args, "--errors", mine)
        assert (code, said["error"]["where"]) == (2, str(mine))
        assert mine.read_text() == "mine\n"
        for _ in range(2):
            assert run(capsys, *args, "--errors", other)[0] == 1
        assert len(lines(other)) == 1
        moved = tmp_path / "moved"
        moved.mkdir()
        for path in (out, other, tmp_path / "o.journal"):
            path.rename(moved / path.name)
        again = (source, "-o", moved / "o", "--errors", moved / "other", "--url", url)
        assert run(capsys, *again)[0] == 1


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_glob_does_not_find_what_the_job_itself_has_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], scheme: str
) -> None:
    columns(tmp_path / "in.jsonl", *({"prompt": f"say {n}"} for n in range(40)))
    page = tmp_path / "page.jsonl"
    args = (f"{scheme}{tmp_path}/**/*", "-o", tmp_path / "o.jsonl", "--html", page)
    with serving(faults=Faults(refused=0.5)) as (url, _):
        first = run(capsys, *args, "--url", url)
        assert first[1]["rows"] == 40
        code, said, _ = run(capsys, *args, "--url", url)
    assert said["outcomes"] == first[1]["outcomes"]
    assert code == 1
    own = ["o.errors.jsonl", "o.jsonl", "page.jsonl"]
    assert said["warnings"] == [f"{tmp_path}/{name} is the job's own, and no input" for name in own]


def test_what_came_through_a_pipe_is_not_lost_to_another_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def pipe(*prompts: str) -> tuple[int, dict[str, Any], str]:
        text = "".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts)
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        return run(capsys, "-", "-o", tmp_path / "o", "--url", url, *flags)

    flags = ["--max-cost", "1e-9", "--price", "1"]
    with serving() as (url, _):
        assert pipe("a", "b")[1]["ended"] == "cost"
        kept = (tmp_path / "o.journal" / "input-0").read_bytes()
        code, said, _ = pipe("c")
        assert (code, said["error"]["evidence"]) == (2, ["other bytes come through the pipe"])
        assert (tmp_path / "o.journal" / "input-0").read_bytes() == kept
        assert not (tmp_path / "o.journal" / "input-0.new").exists()
        flags = []
        assert (pipe()[0], len(texts(tmp_path / "o"))) == (0, 2)
        assert pipe("a", "b")[0] == 0


def test_another_run_does_not_lose_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that was made for nothing is removed while it is locked still."""
    order = Order((str(tmp_path / "away"),), tmp_path / "o", tmp_path / "e", make_form())
    held: list[bool] = []

    def removed(folder: Path, **_: object) -> None:
        with pytest.raises(Refused, match="another run"):
            take_folder(folder)
        held.append(True)

    monkeypatch.setattr("ropeway.batch.job.shutil.rmtree", removed)
    servers = Servers((), "m", None, frozenset(), "", ())
    job = open_job(order, servers, io.BytesIO(), lambda *_: None)
    with pytest.raises(Refused, match="no such file"):
        job.__enter__()
    assert held == [True]
    take_folder(order.folder).release()

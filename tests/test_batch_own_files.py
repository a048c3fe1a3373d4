"""batch/own_files: no file of a job is another, an input, or a stranger's."""

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from batch_endpoint import BatchEndpoint, Faults

from batch_calls import columns, lines, run, serving, texts
from ropeway.batch.input.template import make_form
from ropeway.batch.job import Order, open_job
from ropeway.batch.journal.journal import take_folder
from ropeway.batch.output.own_files import check_places
from ropeway.batch.sending.servers import Servers
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
        (["-o", "o", "--html", "hard"], "hard"),
        (["-o", "o", "--check", "schema", "--errors", "./schema"], "schema"),
        (["-o", "o", "--html", "o.journal/page.html"], "o.journal/page.html"),
        (["-o", "o", "--errors", "o.journal"], "o.journal"),
        (["-o", "o", "--html", "away/page.html"], "away"),
        (["-o", "dangling"], "{folder}/away"),
        (["-o", "-"], None),
        (["-o", "o.jsonl.GZ"], "o.jsonl.GZ"),
        (["-o", "o", "--errors", "e.zst"], "e.zst"),
        (["-o", "o", "--errors", "file://{folder}/o"], "{folder}/o"),
        (["-o", "file://{folder}/o", "--html", "o"], "o"),
        (["-o", "o", "--errors", "file://{folder}/o.journal/e"], "{folder}/o.journal/e"),
        (["-o", "file://{folder}/away/o"], "{folder}/away"),
        (["-o", "file://{folder}/o.gz"], "{folder}/o.gz"),
        (["-o", "o", "--journal", "away/journal"], "away"),
        (["-o", "o", "--journal", "o"], "o"),
        (["-o", ""], "."),
        (["-o", "."], "."),
        (["-o", "/"], "/"),
        (["-o", "s3://[x/y"], "s3://[x/y"),
        (["-o", "file:///tmp/%00x"], "file:///tmp/%00x"),
        (["-o", "o", "--journal", "in.jsonl"], "in.jsonl"),
        (["-o", "p", "--journal", "link"], "link"),
        (["-o", "n" * 300, "--journal", "j", "--errors", "e"], "n" * 300),
        (["-o", "n" * 250, "--journal", "j", "--errors", "e"], "n" * 250),
        (["-o", "n" * 240, "--journal", "j"], "n" * 240 + ".errors.jsonl"),
        (["-o", "o", "--html", "n" * 250], "n" * 250),
        (["-o", "s3://KEY12345:SEC/RET12345@b/o"], "s3://b/o"),
        (["-o", "gs://KEY12345:SEC/RET12345@b/o"], "gs://b/o"),
        (["s3://KEY12345:SEC/RET12345@b/o", "-o", "o"], "s3://b/o"),
        (["gs://KEY12345:SEC/RET12345@b/o", "-o", "o"], "gs://b/o"),
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
    assert "ret12345" not in json.dumps(said).lower()
    assert said["error"]["where"] == (where and where.format(folder=tmp_path))
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.exists()} == before


def test_the_folder_that_is_to_be_made_is_quoted_for_a_shell(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="there is no such folder") as caught:
        check_places(tmp_path / "o.journal", [tmp_path / "a b;c" / "o"])
    assert caught.value.hint == f"make it first: `mkdir -p '{tmp_path}/a b;c'`"


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


@pytest.mark.parametrize("name", ["shard-0/a", "survey.json", "lock.d/a"])
def test_a_folder_with_something_else_in_it_is_not_the_jobs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    source, folder = columns(tmp_path / "in.jsonl", {"prompt": "a"}), tmp_path / "data"
    precious = folder / name
    precious.parent.mkdir(parents=True)
    precious.write_text("precious")
    with serving() as (url, endpoint):
        code, said, _ = run(capsys, source, "-o", tmp_path / "o", "--journal", folder, "--url", url)
        assert endpoint.requests == 0
    assert (code, said["error"]["where"]) == (2, str(folder))
    assert [path for path in folder.rglob("*") if path.is_file()] == [precious]
    assert precious.read_text() == "precious"


def test_a_folder_may_be_empty_or_of_a_run_that_was_killed_early(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, folder = columns(tmp_path / "in.jsonl", {"prompt": "a"}), tmp_path / "journal"
    folder.mkdir()
    with serving(faults=Faults(refused=1.0)) as (url, _):
        args = (source, "-o", tmp_path / "o", "--journal", folder, "--url", url)
        for name in ("lock", "left-out.jsonl.1", ".survey.json.x1_y", "input-0.new"):
            (folder / name).write_bytes(b"")
        assert run(capsys, *args)[0] == 1
    (folder / "shard-1").mkdir()
    with serving() as (url, _):
        assert run(capsys, *args[:-1], url, "--retry-errors")[0] == 0
    assert (folder / "finished.json").exists()
    assert (folder / "shard-1").is_dir()


def test_a_current_folder_that_is_gone_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = columns(tmp_path / "in.jsonl", {"prompt": "a"})
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with serving() as (url, _):
        code, said, _ = run(capsys, source, "-o", tmp_path / "o", "--url", url)
    assert (code, said["error"]["what"]) == (2, "the current folder is gone")
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_a_page_of_another_is_not_written_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, page = columns(tmp_path / "in.jsonl", {"prompt": "a"}), tmp_path / "page.html"
    page.write_text("mine")
    with serving() as (url, endpoint):
        args = (source, "-o", tmp_path / "o", "--url", url, "--html", page)
        code, said, _ = run(capsys, *args)
        assert (code, said["error"]["where"]) == (2, str(page))
        assert (page.read_text(), endpoint.requests) == ("mine", 0)
        page.unlink()
        for _ in range(2):
            assert run(capsys, *args)[0] == 0
    assert page.stat().st_size > 1000


@pytest.mark.parametrize("outcome", ["answered", "refused"])
@pytest.mark.parametrize("how", ["stranger", "unwritable"])
def test_a_page_that_cannot_be_written_is_told_and_costs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str, outcome: str
) -> None:
    source, page = columns(tmp_path / "in.jsonl", {"prompt": "a"}), tmp_path / "p" / "page.html"
    page.parent.mkdir()

    class Meanwhile(BatchEndpoint):
        """When the row comes, something happens to the page's place."""

        def take(self, connection: Any, head: bytes, body: bytes) -> None:
            if head.startswith(b"POST") and how == "stranger":
                page.write_text("mine")
            elif head.startswith(b"POST"):
                page.parent.rmdir()
            super().take(connection, head, body)

    faults = Faults(refused=float(outcome == "refused"))
    with serving(Meanwhile, faults=faults) as (url, _):
        args = (source, "-o", tmp_path / "o", "--url", url, "--html", page)
        code, said, err = run(capsys, *args)
    assert (code, said["error"], said["outcomes"][outcome]) == (int(bool(faults.refused)), None, 1)
    assert len(lines(tmp_path / ("o" if outcome == "answered" else "o.errors.jsonl"))) == 1
    (warning,) = said["warnings"]
    assert warning.startswith(f"{page}: ")
    assert f"page: {page}" not in err
    if how == "stranger":
        assert page.read_text() == "mine"
        assert "this job has not written it" in warning
    else:
        assert not page.parent.exists()

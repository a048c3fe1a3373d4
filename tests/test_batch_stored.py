"""Outputs in stores of pyarrow (`batch.stored`): a folder by its URL, and one with objects."""

import socket
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from batch_endpoint import Faults
from pyarrow import fs

from batch_calls import columns, requests, run, serving, texts
from batch_rows import fill, result
from fake_s3 import fake_s3
from ropeway.batch import stores
from ropeway.batch.input.parts import Part, Shape
from ropeway.batch.output.assemble import assemble
from ropeway.batch.output.own_files import (
    check_strangers,
    distinct_files,
    found_at,
    is_inside,
    is_one_of,
    note_written,
)
from ropeway.batch.output.stored import Stored, output_at
from ropeway.batch.rows import Outcome
from ropeway.batch.stores import open_store
from ropeway.errors import Refused, RopewayError

ROWS = [result(0), result(1), result(2, Outcome.FAILED)]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_url_of_this_machine_is_a_path_like_any_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, here = tmp_path / "store", tmp_path / "here"
    store.mkdir()
    here.mkdir()
    monkeypatch.chdir(here)
    requests(here / "in.jsonl", 30)
    with serving() as (url, endpoint):
        args = ("in.jsonl", "-o", f"file://{store}/out.jsonl", "--url", url)
        code, said, _ = run(capsys, *args)
        assert (code, said["output"]) == (0, f"{store}/out.jsonl")
        assert said["errors"] == f"{store}/out.errors.jsonl"
        assert len(texts(store / "out.jsonl")) == 30
        assert (names(here), names(store)) == (
            ["in.jsonl"], ["out.errors.jsonl", "out.jsonl", "out.jsonl.journal"]
        )  # fmt: skip
        assert names(store / "out.jsonl.journal") == [
            "finished.json", "left-out.jsonl", "lock",
            "manifest.json", "survey.json", "written.json",
        ]  # fmt: skip
        (store / "out.errors.jsonl").unlink()
        assert run(capsys, *args)[0] == 0
        assert endpoint.requests == 30
        assert names(store) == ["out.errors.jsonl", "out.jsonl", "out.jsonl.journal"]
        (store / "out.jsonl").unlink()
        code, said, _ = run(capsys, *args)
    assert (code, said["error"]["where"]) == (2, f"{store}/out.jsonl")


def test_the_journal_lies_where_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = columns(tmp_path / "in.jsonl", {"prompt": "a"})
    with serving() as (url, _):
        code, said, _ = run(
            capsys, source, "-o", tmp_path / "o", "--journal", tmp_path / "j", "--url", url
        )
    assert (code, said["folder"]) == (0, str(tmp_path / "j"))
    assert names(tmp_path) == ["in.jsonl", "j", "o", "o.errors.jsonl"]


def test_files_of_a_store_are_not_written_over_either(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = columns(tmp_path / "in.jsonl", {"prompt": "a"})
    (tmp_path / "mine").write_text("mine\n")
    with serving() as (url, endpoint):
        for name, what in (
            ("mine", "the file is there already, and this job has not written it"),
            ("in.jsonl", "the file is there already, and this job has not written it"),
            ("", "this is a folder"),
        ):
            code, said, _ = run(capsys, source, "-o", f"file://{tmp_path}/{name}", "--url", url)
            assert (code, said["error"]["what"]) == (2, what)
        assert endpoint.requests == 0
    assert names(tmp_path) == ["in.jsonl", "mine"]


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        (["-o", "s3://x/out?region=x"], "a job on the head writes files there"),
        (["-o", "out", "--on", "ray"], "`--detach`, `--on ray` contradict each other"),
    ],
)
def test_a_detached_job_has_files_of_its_own_and_no_ray(
    capsys: pytest.CaptureFixture[str], flags: list[str], what: str
) -> None:
    code, said, _ = run(capsys, "in.jsonl", "--detach", *flags)
    assert code == 2
    assert what in said["error"]["what"]


@pytest.mark.usefixtures("no_aws")
@pytest.mark.real_time
def test_a_file_of_a_store_is_known_by_its_path_there(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    folder.mkdir()
    with fake_s3() as (query, bucket):
        output = output_at(f"s3://KEY:SECRET@b/in/o.jsonl?{query}")
        assert isinstance(output, Stored)
        store, path = output.store, output.path
        part = Part(f"s3://{path}", path, Shape.LINES, "", 1, 0, store)
        with pytest.raises(Refused, match="`-o` is in the input"):
            distinct_files(folder, {"-o": output}, [part])
        with pytest.raises(Refused, match="`-o` and `--errors` name the same file"):
            distinct_files(folder, {"-o": output, "--errors": replace(output)})
        distinct_files(folder, {"-o": output, "--errors": tmp_path / path})
        assert is_one_of([output], found_at(path, store))
        assert not is_one_of([tmp_path / path], found_at(path, store))
        assert not is_inside(Path("b/in"), found_at(path, store))
        bucket.objects[path] = b"{}"
        with pytest.raises(Refused, match="this job has not written it"):
            check_strangers(folder, [output])
        note_written(folder, {output: 2})
        check_strangers(folder, [output])


@pytest.mark.usefixtures("no_aws")
@pytest.mark.real_time
@pytest.mark.parametrize("ordered", [False, True])
def test_an_upload_that_fails_leaves_nothing_and_costs_no_answer(
    tmp_path: Path, ordered: bool
) -> None:
    folder = tmp_path / "j"
    folder.mkdir()
    fill(folder, 3, ROWS)
    before = names(folder)
    with fake_s3() as (query, bucket):
        output = output_at(f"s3://KEY:SECRET@b/out.jsonl?{query}")
        errors = output.with_name("bad")
        assert str(errors) == "s3://b/bad"
        bucket.denied = True
        with pytest.raises(RopewayError, match=r"(?i)cannot be stored: .*access.?denied") as caught:
            assemble(folder, output, errors, ordered=ordered)
        assert caught.value.where == "s3://b/out.jsonl"
        assert bucket.objects == {}
        assert names(folder) == sorted([*before, "written.json"])
        bucket.denied = False
        assert assemble(folder, output, errors, ordered=ordered).total() == 3
        good = ROWS[0].line + ROWS[1].line
        assert bucket.objects == {"b/out.jsonl": good, "b/bad": ROWS[2].line}


@pytest.mark.usefixtures("no_aws")
@pytest.mark.real_time
def test_what_is_stored_already_outlives_an_upload_that_never_began(tmp_path: Path) -> None:
    file = tmp_path / "o"
    file.write_bytes(b"new")
    with fake_s3() as (query, bucket):
        output = output_at(f"s3://KEY:SECRET@b/out.jsonl?{query}")
        assert isinstance(output, Stored)
        bucket.objects["b/out.jsonl"] = b"earlier"
        bucket.closed = True
        with pytest.raises(RopewayError, match=r"(?i)cannot be stored: .*access.?denied"):
            output.put(file)
        assert bucket.objects == {"b/out.jsonl": b"earlier"}
        bucket.closed, bucket.denied = False, True
        with pytest.raises(RopewayError, match=r"(?i)cannot be stored: .*access.?denied"):
            output.put(file)
        assert bucket.objects == {}


def test_what_a_url_of_this_machine_names_is_no_store(tmp_path: Path) -> None:
    assert output_at(f"file://{tmp_path}/a%20b") == tmp_path / "a b"
    (tmp_path / "a b").write_text("{}")
    store, path = fs.FileSystem.from_uri(f"file://{tmp_path}/a%20b")
    assert found_at(path, store) == tmp_path / "a b"


def test_a_url_is_shown_without_its_keys() -> None:
    made = output_at("s3://KEY:SECRET@bucket/a/out.jsonl?region=x&endpoint_override=http://h:9")
    assert isinstance(made, Stored)
    assert (str(made), made.path) == ("s3://bucket/a/out.jsonl", "bucket/a/out.jsonl")
    assert "SECRET" not in repr(made)
    assert str(made.with_name("b")) == "s3://bucket/a/b"


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("https://h/out.jsonl", "an output is not written over HTTP"),
        ("s3://bucket/a/?region=x", "this is a folder"),
        ("ftp://KEY:SECRET@h/a", "the output cannot be stored"),
    ],
)
def test_a_url_that_cannot_be_written_to_is_refused(url: str, what: str) -> None:
    with pytest.raises(Refused, match=what) as caught:
        output_at(url)
    assert "SECRET" not in str(caught.value.as_json())


@pytest.fixture
def no_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the library from looking for machines of Amazon's."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


class _Amazon(BaseHTTPRequestHandler):
    """Says where its bucket is, as Amazon does also to strangers."""

    def do_HEAD(self) -> None:
        self.send_response(403)
        if not self.path.startswith("/none"):
            self.send_header("x-amz-bucket-region", "eu-test-1")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def amazon(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Amazon) as server:
        url = f"http://127.0.0.1:{server.server_port}/{{bucket}}"
        monkeypatch.setattr(stores, "_BUCKET", url)
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield
        server.shutdown()
        thread.join()


@pytest.mark.usefixtures("no_aws", "amazon")
def test_a_bucket_without_a_region_is_asked_for_it() -> None:
    made = output_at("s3://KEY:SECRET@bucket/a%20b/out.jsonl")
    assert isinstance(made, Stored)
    assert made.store.region == "eu-test-1"
    options = "s3://KEY:SECRET@bucket/a%20b/out.jsonl?allow_bucket_creation=false&region=x"
    store, path = open_store(options)
    assert (store.region, path) == ("x", made.path)
    with pytest.raises(Refused, match="region cannot be found out: Amazon knows none") as caught:
        open_store("s3://none/a")
    assert "s3://none/…?region=" in str(caught.value.hint)


@pytest.mark.parametrize("listens", [False, True])
def test_a_region_that_nobody_tells_is_asked_for_when_it_is_needed_and_not_for_long(
    monkeypatch: pytest.MonkeyPatch, listens: bool
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        monkeypatch.setattr(stores, "_BUCKET", f"http://127.0.0.1:{port}/{{bucket}}")
        monkeypatch.setattr(stores, "_ASKING_S", 0.2)
        if not listens:
            silent.close()
        output = output_at("s3://KEY:SECRET@bucket/out.jsonl")
        assert isinstance(output, Stored)
        with pytest.raises(Refused) as caught:
            output.size()
    assert "region=" in str(caught.value.hint)
    assert "SECRET" not in str(caught.value.as_json())


@pytest.mark.usefixtures("no_aws")
@pytest.mark.real_time
def test_the_library_of_s3_itself_speaks_to_a_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    requests(tmp_path / "in.jsonl", 30)
    with serving() as (url, endpoint), fake_s3() as (query, store):
        args = ("in.jsonl", "-o", f"s3://KEY:SECRET@bucket/a/out.jsonl?{query}", "--url", url)
        store.denied = True
        code, said, _ = run(capsys, *args)
        assert (code, said["error"]["where"]) == (1, "s3://bucket/a/out.jsonl")
        assert "ACCESS_DENIED" in said["error"]["what"].upper()
        assert "SECRET" not in str(said["error"])
        assert store.objects == {}
        store.denied = False
        code, said, _ = run(capsys, *args)
        assert (code, said["output"]) == (0, "s3://bucket/a/out.jsonl")
        assert (sorted(store.objects), endpoint.requests) == (
            ["bucket/a/out.errors.jsonl", "bucket/a/out.jsonl"], 30
        )  # fmt: skip
        (tmp_path / "out").write_bytes(store.objects["bucket/a/out.jsonl"])
        assert len(texts(tmp_path / "out")) == 30
        assert run(capsys, *args)[0] == 0
        store.objects["bucket/a/out.jsonl"] += b"{}"
        code, said, _ = run(capsys, *args)
    assert (code, said["error"]["what"]) == (
        2, "the job is finished, and its output is no longer as it was written"
    )  # fmt: skip


@pytest.mark.usefixtures("no_aws")
@pytest.mark.real_time
def test_a_glob_of_a_store_does_not_find_what_the_job_has_written_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with serving(faults=Faults(refused=1.0)) as (url, _), fake_s3() as (query, store):
        store.objects["bucket/a/in.jsonl"] = b'{"prompt": "a"}\n'
        folder = "s3://KEY:SECRET@bucket/a"
        args = (f"{folder}/*.jsonl?{query}", "-o", f"{folder}/o.jsonl?{query}", "--url", url)
        for own in ([], ["bucket/a/o.errors.jsonl", "bucket/a/o.jsonl"]):
            code, said, _ = run(capsys, *args)
            assert (code, said["rows"], said["outcomes"]["refused"]) == (1, 1, 1)
            assert said["warnings"] == [f"{name} is the job's own, and no input" for name in own]

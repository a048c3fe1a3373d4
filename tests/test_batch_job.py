"""batch/job: who has a job, as long as it is open, and what is its own."""

import io
import os
import time
from collections import Counter
from pathlib import Path

import pytest

from batch_calls import columns, run, serving
from batch_rows import result
from ropeway.batch.input.template import make_form
from ropeway.batch.job import Order, open_job, open_shards, write_files
from ropeway.batch.journal.journal import take_folder
from ropeway.batch.journal.manifest import read_manifest
from ropeway.batch.journal.one_writer import NAME
from ropeway.batch.journal.segments import shard_folders
from ropeway.batch.rows import Outcome
from ropeway.batch.sending.servers import Servers
from ropeway.cli import batch_run
from ropeway.errors import Refused

SERVERS = Servers((), "m", None, frozenset(), "", ())


def order(folder: Path, *inputs: str, **how: object) -> Order:
    columns(folder / "in.jsonl", {"prompt": "a"}, {"prompt": "b"})
    inputs = inputs or (str(folder / "in.jsonl"),)
    return Order(inputs, folder / "out", folder / "bad", make_form(), **how)


def quiet(*_: object) -> None:
    pass


def lives(folder: Path) -> bool:
    """Whether its lock shows life."""
    lock = folder / NAME
    os.utime(lock, (1, 1))
    deadline = time.monotonic() + 10
    while lock.stat().st_mtime == 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    return lock.stat().st_mtime > 1


def test_it_shows_life_whatever_it_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ropeway.batch.journal.one_writer.BEAT", 0.01)
    asked, lived = order(tmp_path, "-"), []

    class Pipe(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            lived.append(lives(asked.folder))
            return super().read(size)

    with open_job(asked, SERVERS, Pipe(b'{"prompt": "a"}\n'), quiet) as job:
        job.journal.close()
        lived.append(lives(asked.folder))
    assert set(lived) == {True}


def test_nobody_else_has_it_until_its_files_are_written(tmp_path: Path) -> None:
    asked = order(tmp_path)
    with open_job(asked, SERVERS, io.BytesIO(), quiet) as job:
        job.journal.add(result(0))
        job.journal.close()
        other = Servers((), "other", None, frozenset(), "", ())
        with pytest.raises(Refused, match="another run is writing"):
            open_job(asked, other, io.BytesIO(), quiet).__enter__()
        assert read_manifest(asked.folder) == job.manifest
        write_files(asked, job.journal.counts)
    with open_job(asked, SERVERS, io.BytesIO(), quiet) as job:
        assert job.journal.counts == {Outcome.ANSWERED: 1}


def test_nor_while_the_verb_writes_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = columns(tmp_path / "in.jsonl", {"prompt": "say one"})
    asked: list[str] = []

    def write(order: Order, counts: Counter[Outcome]) -> None:
        with pytest.raises(Refused) as refused:
            take_folder(order.folder, silence=0)
        asked.append(refused.value.what)
        write_files(order, counts)

    monkeypatch.setattr(batch_run, "write_files", write)
    with serving() as (url, _):
        assert run(capsys, source, "-o", tmp_path / "o", "--url", url)[0] == 0
    assert asked == ["another run is writing to this output"]


def test_a_job_that_ends_later_does_not_write_over_anothers_output(tmp_path: Path) -> None:
    one, other = (order(tmp_path, journal=tmp_path / name) for name in ("j1", "j2"))
    with (
        open_job(one, SERVERS, io.BytesIO(), quiet) as first,
        open_job(other, SERVERS, io.BytesIO(), quiet) as second,
    ):
        for job, row in ((first, 0), (second, 1)):
            job.journal.add(result(row))
            job.journal.close()
        write_files(one, first.journal.counts)
        with pytest.raises(Refused, match="this job has not written it") as caught:
            write_files(other, second.journal.counts)
    assert caught.value.where == str(tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == result(0).line


@pytest.mark.parametrize("opener", [open_job, open_shards])
def test_only_the_owner_can_read_what_is_in_a_folder_that_was_there(tmp_path: Path, opener) -> None:
    folder = tmp_path / "open"
    folder.mkdir(0o755)
    folder.chmod(0o755)
    asked = order(tmp_path, "-", journal=folder, skip_bad=True)
    with opener(asked, SERVERS, io.BytesIO(b'{"prompt": "a"}\n{\n'), quiet) as job:
        if opener is open_job:
            job.journal.close()
            write_files(asked, job.journal.counts)
        else:
            assert shard_folders(folder)
    others = {str(path): path.stat().st_mode & 0o077 for path in folder.rglob("*")}
    assert others
    assert {path for path, mode in others.items() if mode} == set()

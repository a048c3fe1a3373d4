"""batch/journal when it is killed, cut off from power, or finds no room."""

import errno
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from batch_rows import ROWS, files_of_at_most, fill, finish, lines, result, segments
from ropeway.batch.journal.journal import Journal
from ropeway.batch.journal.replay import read_journal
from ropeway.batch.output.assemble import assemble
from ropeway.batch.rows import Outcome
from ropeway.durable import write_whole
from ropeway.errors import RopewayError


@contextmanager
def watched_syncs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, int]]]:
    """What is synced or gets its name, in that order: names of calls, and inodes."""
    seen: list[tuple[str, int]] = []

    def watched(name: str, call):
        def watch(subject, *rest):
            seen.append((name, os.stat(subject).st_ino))  # noqa: PTH116 - or a handle
            return call(subject, *rest)

        return watch

    with monkeypatch.context() as patch:
        for name in ("fsync", "fdatasync", "replace"):
            patch.setattr(os, name, watched(name, getattr(os, name)))
        yield seen


def test_names_of_new_files_are_synced_too(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "made").mkdir()  # by one who was killed before it synced anything
    for name in ("j", "made"):
        with watched_syncs(monkeypatch) as seen:
            fill(tmp_path / name, ROWS, [result(0)])
        for path in (tmp_path, tmp_path / name, segments(tmp_path / name)[0]):
            assert ("fsync", path.stat().st_ino) in seen


def test_what_a_killed_writer_did_not_sync_is_synced_before_it_counts(
    tmp_path, monkeypatch
) -> None:
    fill(tmp_path / "j", ROWS, [result(0)])
    killed = segments(tmp_path / "j")[0].stat().st_ino
    with watched_syncs(monkeypatch) as seen:
        Journal.open(tmp_path / "j", rows=ROWS).close()
    head = segments(tmp_path / "j")[1].stat().st_ino
    assert seen.index(("fdatasync", killed)) < seen.index(("fsync", head))


def test_files_are_on_the_disk_before_they_get_their_names(tmp_path: Path, monkeypatch) -> None:
    fill(tmp_path / "j", ROWS, [result(0), result(1, Outcome.FAILED)])
    with watched_syncs(monkeypatch) as seen:
        assemble(tmp_path / "j", tmp_path / "o", tmp_path / "e")
        write_whole(tmp_path / "m", b"{}")
    for path in (tmp_path / "o", tmp_path / "e", tmp_path / "m"):
        inode = path.stat().st_ino
        renamed = seen.index(("replace", inode))
        assert ("fsync", inode) in seen[:renamed]
        assert seen[renamed + 1] == ("fsync", tmp_path.stat().st_ino)


WRITER = """
import sys
from pathlib import Path
from batch_rows import result
from ropeway.batch.output.assemble import assemble
from ropeway.batch.journal.journal import Journal
from ropeway.errors import RopewayError
try:
    with Journal.open(Path(sys.argv[1]), rows=3000) as journal:
        for row in range(3000):
            if row not in journal.done:
                journal.add(result(row, size=20_000 if row % 50 == 0 else 100))
                if row % 7 == 0:
                    journal.flush()
                    print(row, flush=True)
except RopewayError as error:
    sys.exit("\\n".join([error.what, *error.evidence]))
"""


def writer(folder: Path, *before: str) -> subprocess.Popen[str]:
    path = os.pathsep.join([*sys.path, str(Path(__file__).parent)])
    return subprocess.Popen(
        [*before, sys.executable, "-c", WRITER, str(folder)],
        env={"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.real_time
def test_kill_minus_nine_at_any_time(tmp_path: Path) -> None:
    folder, told = tmp_path / "j", set()
    for number in range(16):
        with writer(folder) as process:
            # Ever later, from before the first segment is there.
            for _ in range(number % 8 * 4):
                told.update(filter(None, [process.stdout.readline().strip()]))
            time.sleep(number % 3 * 0.01)
            process.kill()
            told.update(process.stdout.read().split())
        if folder.exists():
            done = read_journal(folder).done
            assert [row for row in map(int, told) if row not in done] == []
    with writer(folder) as process:
        assert process.wait() == 0, process.stderr.read()
    assert len(read_journal(folder).done) == 3000
    assert all(b'"row":%d,' % row in line for row, line in lines(folder).items())


def test_no_room_is_one_error_and_loses_nothing_committed(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    journal = Journal.open(folder, rows=ROWS)
    journal.add(result(0))
    journal.flush()
    size = segments(folder)[0].stat().st_size
    with files_of_at_most(size + 100):  # the next record, and a part of the one after it
        with journal._one_commits:
            for row in range(1, 5):
                journal.add(result(row))
        with pytest.raises(RopewayError, match="cannot be written: file too large") as caught:
            journal.flush()
    assert segments(folder)[0].stat().st_size == size  # cut back
    assert caught.value.where == str(segments(folder)[0])
    assert caught.value.evidence == (
        "1 row is committed and safe",
        "164 B of answers were not yet written",
    )
    assert "same command again" in str(caught.value.hint)
    with pytest.raises(RopewayError, match="file too large"):
        journal.add(result(6))
    assert len(journal.done) == 1
    with pytest.raises(RopewayError, match="file too large"):
        journal.close()
    finish(folder)


def test_a_disk_that_only_fails_is_one_error_and_not_waited_for(tmp_path, monkeypatch) -> None:
    journal = Journal.open(tmp_path / "j", rows=ROWS)

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        for name in ("stat", "pwrite", "ftruncate", "fdatasync"):
            patch.setattr(os, name, fail)
        journal.add(result(0))
        with pytest.raises(RopewayError, match="input/output error"):
            journal.flush()
    with pytest.raises(RopewayError, match="input/output error"):
        journal.close()
    finish(tmp_path / "j")


def test_no_room_for_a_segment_leaves_none(tmp_path: Path) -> None:
    fill(tmp_path / "j", ROWS, [result(0)])
    with files_of_at_most(5000), pytest.raises(RopewayError, match="cannot be written"):
        Journal.open(tmp_path / "j", rows=ROWS)
    assert len(segments(tmp_path / "j")) == 1
    finish(tmp_path / "j")


@pytest.mark.real_time
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    mount = f'mount -t tmpfs -o size=400k none {tmp_path} && "$@"; cp -r {tmp_path} {tmp_path}2'
    with writer(tmp_path / "j", "unshare", "-m", "sh", "-c", mount, "sh") as process:
        out, err = process.communicate()
    if not out:
        pytest.skip("a file system of one's own needs root")
    assert "no space left on device" in err
    assert "B of disk are free there" in err
    assert "the rest takes" in err
    done = read_journal(Path(f"{tmp_path}2") / "j").done
    assert [row for row in map(int, out.split()) if row not in done] == []
    assert 500 < len(done) < 3000


def test_an_exception_of_the_run_is_not_hidden_by_the_journals(tmp_path: Path) -> None:
    with pytest.raises(KeyError), Journal.open(tmp_path / "j", rows=ROWS) as journal:
        shutil.rmtree(tmp_path / "j")
        journal.add(result(0))
        raise KeyError

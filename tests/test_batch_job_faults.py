"""A whole batch job, from `open_job` to `write_files`, cut off between any two system calls."""

import io
import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from batch_calls import columns
from batch_rows import result
from ropeway.batch.input.template import make_form
from ropeway.batch.job import OneJob, Order, open_job, write_files
from ropeway.batch.journal.segments import epochs
from ropeway.batch.rows import Outcome
from ropeway.batch.sending.servers import Servers

CALLS = (
    "open", "pwrite", "fsync", "fdatasync", "ftruncate", "replace", "mkdir", "unlink", "close"
)  # fmt: skip
LINES = 12


class Crashes:
    """What a crash before each system call leaves of a folder.

    A kill leaves all. After a power cut a file has what was synced of it, perhaps with zeros behind
    it; and a folder has the names that were synced, or those and one of the others.
    """

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.left: dict[frozenset[tuple[str, bytes]], set[int]] = {}  # and what was committed
        self.committed: set[int] = set()
        self._one = threading.RLock()
        self._open, self._handles = os.open, dict[int, int]()  # of each inode: none is used twice
        self._seen = dict[int, tuple[object, bytes]]()
        self._contents = dict[bytes, bytes]()
        self._synced = {path.stat().st_ino: path.read_bytes() for path in folder.iterdir()}
        self._names = {folder.stat().st_ino: self._listed(folder)}
        for name in CALLS:
            patch.setattr(os, name, self._watched(name, getattr(os, name)))

    def _watched(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def watch(*args: Any, **how: Any) -> Any:
            with self._one:
                self._crash()
                done = call(*args, **how)
                if name in ("fsync", "fdatasync"):
                    self._sync(args[0])
                return done

        return watch

    def _sync(self, handle: int) -> None:
        status, path = os.fstat(handle), Path(f"/proc/self/fd/{handle}").readlink()
        if stat.S_ISDIR(status.st_mode):
            if path.is_relative_to(self.folder):
                self._names[status.st_ino] = self._listed(path)
        elif path.exists():
            self._synced[status.st_ino] = self._content(path)

    def _listed(self, folder: Path) -> dict[str, int]:
        """The inode of each name, which is held so that no other file gets it."""
        found = {entry.name: entry.stat().st_ino for entry in os.scandir(folder)}
        for name, inode in found.items():
            if inode not in self._handles:
                self._handles[inode] = self._open(folder / name, os.O_RDONLY)
        return found

    def _content(self, path: Path) -> bytes:
        status = path.stat()
        version = (status.st_mtime_ns, status.st_size, status.st_ctime_ns)
        if self._seen.get(status.st_ino, (None,))[0] != version:
            data = path.read_bytes()
            self._seen[status.st_ino] = version, self._contents.setdefault(data, data)
        return self._seen[status.st_ino][1]

    def _crash(self) -> None:
        now = dict[int, dict[str, int]]()
        for folder in (self.folder, *filter(Path.is_dir, self.folder.iterdir())):
            now[folder.stat().st_ino] = self._listed(folder)
            for path in filter(Path.is_file, folder.iterdir()):
                self._content(path)
        for names in self._all_names(now):
            for loss in (self._none, self._cut, self._zeros):
                files = frozenset(self._files(self.folder.stat().st_ino, names, loss))
                self.left[files] = self.left.get(files, set()) | self.committed

    def _all_names(self, now: dict[int, dict[str, int]]) -> Iterator[dict[int, dict[str, int]]]:
        yield now
        synced = {inode: self._names.get(inode, {}) for inode in now}
        yield synced
        for inode, names in now.items():
            for name in {*names, *synced[inode]}:
                one = {key: value for key, value in synced[inode].items() if key != name}
                if name in names:
                    one[name] = names[name]
                yield {**synced, inode: one}

    def _files(
        self, folder: int, names: dict[int, dict[str, int]], loss: Callable[[int], bytes]
    ) -> Iterator[tuple[str, bytes]]:
        for name, inode in names[folder].items():
            if inode in names:
                for inside, data in self._files(inode, names, loss):
                    yield f"{name}/{inside}", data
            elif inode in self._seen:
                yield name, loss(inode)

    def _none(self, inode: int) -> bytes:
        return self._seen[inode][1]

    def _cut(self, inode: int) -> bytes:
        return self._synced.get(inode, b"")

    def _zeros(self, inode: int) -> bytes:
        kept = self._cut(inode)
        padded = kept.ljust(len(self._none(inode)), b"\0")
        return self._contents.setdefault(padded, padded)

    def end(self) -> None:
        """Let go of the files."""
        for handle in self._handles.values():
            os.close(handle)


def opened(servers: Servers, *, ordered: bool) -> Any:
    order = Order(
        ("in.jsonl",), Path("out"), Path("bad"), make_form(), skip_bad=True, ordered=ordered
    )
    return open_job(order, servers, io.BytesIO(), lambda *_: None)


def write(job: OneJob) -> None:
    job.journal.close()
    write_files(job.order, job.journal.counts)


def whole_lines(path: Path) -> list[bytes]:
    data = path.read_bytes() if path.exists() else b""
    assert data.endswith(b"\n") or not data
    return data.splitlines(keepends=True)


@pytest.mark.parametrize("bad", [True, False])
def test_nothing_that_was_committed_is_lost_or_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: bool
) -> None:
    servers = Servers((), "m", None, frozenset(), "", ())
    first, again = tmp_path / "first", tmp_path / "again"
    first.mkdir()
    monkeypatch.chdir(first)
    # They share a beginning, so that what is known of beginnings is asked for.
    source = columns(first / "in.jsonl", *({"prompt": "a" * 400 + str(n)} for n in range(LINES)))
    if bad:
        source.write_text(source.read_text().replace('{"prompt"', "{", 1))
    changed = source.stat().st_mtime_ns
    with monkeypatch.context() as patch:
        crashes = Crashes(first, patch)
        for upto in (5, LINES):
            with opened(servers, ordered=bad) as job:
                for row in list(job.rows())[: upto - len(job.journal.done)]:
                    job.journal.add(result(row.ordinal))
                    if row.ordinal % 2:
                        job.journal.flush()
                        crashes.committed.update(n for n in range(LINES) if n in job.journal.done)
                write(job)
            crashes.committed.update(n for n in range(LINES) if n in job.journal.done)
    crashes.end()
    assert len(crashes.left) > 100
    assert (epochs(Path("out.journal")) == []) is not bad
    trimmed = cache(lambda data: data.rstrip(b"\0"))
    expected = {n: result(n).line for n in range(LINES) if n or not bad}
    # What is synced from now on is not looked at, and a disk would be busy with it for long.
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(os, "fdatasync", lambda _: None)
    for files, committed in crashes.left.items():
        again.mkdir()
        monkeypatch.chdir(again)
        for name, data in files:
            Path(name).parent.mkdir(exist_ok=True)
            with Path(name).open("wb") as file:
                file.write(trimmed(data))  # what is known of beginnings is 8 MB of zeros, mostly
                file.truncate(len(data))
        os.utime("in.jsonl", ns=(changed, changed))
        assert set(whole_lines(Path("out"))) <= set(expected.values())
        with opened(servers, ordered=bad) as job:
            for row in job.rows():
                assert row.ordinal not in committed
                job.journal.add(result(row.ordinal))
            write(job)
            assert job.journal.counts == {
                Outcome.ANSWERED: len(expected), **({Outcome.SKIPPED: 1} if bad else {})
            }  # fmt: skip
        assert sorted(whole_lines(Path("out"))) == sorted(expected.values())
        assert len(whole_lines(Path("bad"))) == bad
        monkeypatch.chdir(tmp_path)
        shutil.rmtree(again)

"""durable: a file is the old one or the new one."""

import errno
import os
from pathlib import Path

import pytest

from ropeway.durable import PRIVATE, whole, write_whole


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def test_a_file_keeps_its_permissions_or_gets_those_that_are_asked_for(tmp_path: Path) -> None:
    path, link = tmp_path / "a", tmp_path / "link"
    write_whole(path, b"1")
    assert mode(path) == 0o644
    path.chmod(0o640)
    write_whole(path, b"2")
    assert (mode(path), path.read_bytes()) == (0o640, b"2")
    link.symlink_to(path)
    write_whole(link, b"3", mode=PRIVATE)
    assert (mode(link), link.is_symlink(), path.read_bytes()) == (0o600, False, b"2")


def test_a_block_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_whole(path, b"old")
    with pytest.raises(KeyError), whole(path) as file:
        file.write(b"new")
        raise KeyError
    assert [(one.name, one.read_bytes()) for one in tmp_path.iterdir()] == [("a", b"old")]


@pytest.mark.parametrize(("number", "fails"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_a_file_system_that_syncs_no_folder_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, fails: bool
) -> None:
    sync = os.fsync

    def fsync(handle: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{handle}"):  # noqa: PTH112
            raise OSError(number, "no")
        sync(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    failed = False
    try:
        write_whole(tmp_path / "a", b"1")
    except OSError:
        failed = True
    assert failed is fails

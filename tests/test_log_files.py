"""What `ropeway diagnose` reads: files, folders and pipes, never what has no end or is no log."""

import bz2
import io
import json
import lzma
import os
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ropeway.cli.main import exit_code
from ropeway.diagnosis import log_files

Captured = pytest.CaptureFixture[str]

HEALTHY = b"INFO:     all is well\n"
FAILED = b"INFO:     one\nRuntimeError: alloc device memory failed\n"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def answer(name: str, code: int, capsys: Captured) -> str:
    """The document of `ropeway diagnose NAME`, which must end with this code, as text."""
    assert exit_code(["diagnose", "--json", name]) == code
    return capsys.readouterr().out


@pytest.mark.parametrize("name", ["/dev/zero", "/dev/null", "/dev/urandom"])
def test_a_device_is_refused(name: str, capsys: Captured) -> None:
    assert "this is a device" in answer(name, 2, capsys)


def test_a_socket_is_refused(capsys: Captured) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s.log")
        assert "this is a device" in answer("s.log", 2, capsys)


def test_standard_input_from_a_device_is_refused_and_a_closed_one_too(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Path("/dev/zero").open() as zero:
        monkeypatch.setattr(sys, "stdin", zero)
        assert "this is a device" in answer("-", 2, capsys)
    monkeypatch.setattr(sys, "stdin", None)
    assert "standard input is closed" in answer("-", 2, capsys)


def test_a_pipe_is_read_to_its_end_and_the_user_told(capsys: Captured) -> None:
    reading, writing = os.pipe()
    threading.Thread(target=lambda: (os.write(writing, FAILED), os.close(writing))).start()
    assert exit_code(["diagnose", f"/dev/fd/{reading}"]) == 1
    os.close(reading)
    shown = capsys.readouterr()
    assert "alloc device memory failed" in shown.out
    assert "until it ends" in shown.err


def test_a_pipe_without_an_end_is_read_up_to_a_bound_and_is_no_proof_of_health(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_files, "_MOST_OF_STREAM", 2 << 20)

    class Endless(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return HEALTHY * ((size or 0) // len(HEALTHY) + 1)

        def readinto(self, buffer: object, /) -> int:
            view = memoryview(buffer)  # type: ignore[arg-type]
            view[:] = bytes(len(view))
            return len(view)

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(Endless()))
    assert "only the first" in answer("-", 2, capsys)


@pytest.mark.parametrize("pack", [bz2.compress, lzma.compress])
def test_a_log_packed_by_logrotate_is_unpacked(
    pack: Callable[[bytes], bytes], capsys: Captured
) -> None:
    Path("engine.log.1.xz").write_bytes(pack(FAILED))
    assert json.loads(answer(".", 1, capsys))["line"]["number"] == 2


@pytest.mark.parametrize("begin", [b"PK\x03\x04", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\x00", b"BZh"])
def test_a_packed_log_that_cannot_be_unpacked_is_no_proof_of_health(
    begin: bytes, capsys: Captured
) -> None:
    Path("a.log").write_bytes(begin + b"no more")
    assert "could not be read" in answer("a.log", 2, capsys)


@pytest.mark.parametrize("name", ["x" * 300, "a.log/b", "a\0b", "loop"])
def test_a_name_that_leads_nowhere_is_refused(name: str, capsys: Captured) -> None:
    Path("a.log").write_bytes(HEALTHY)
    Path("loop").symlink_to("loop")
    assert "cannot be read" in answer(name, 2, capsys)


def test_a_folder_that_contains_itself_and_logs_that_have_gone_is_read_once(
    capsys: Captured,
) -> None:
    Path("run").mkdir()
    Path("run/again").symlink_to(".")
    Path("run/a.log").write_bytes(HEALTHY)
    assert len(json.loads(answer("run", 0, capsys))["logs"]) == 1
    Path("run/gone.log").symlink_to("nowhere")
    assert "run/gone.log: no such file" in answer("run", 2, capsys)
    Path("run/a.log").write_bytes(FAILED)
    assert json.loads(answer("run", 1, capsys))["unread"] == [
        "run/gone.log: no such file or directory"
    ]


def test_a_log_that_goes_between_finding_and_reading_is_told() -> None:
    Path("a.log").write_bytes(HEALTHY)
    unread: list[str] = []
    [path] = log_files.find_logs(["a.log"], unread)
    path.unlink()
    assert log_files.size_of(path) == 0
    assert list(log_files.blocks_of(path, unread, print)) == []
    assert unread == ["a.log: no such file or directory"]


def test_more_logs_than_are_read_are_told(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_files, "_MOST_FILES", 2)
    for name in ("a.log", "b.log", "c.log"):
        Path(name).write_bytes(HEALTHY)
    assert "only the first 2 logs" in answer(".", 2, capsys)


def test_a_name_in_bytes_that_are_no_text_is_printed(capsys: Captured) -> None:
    Path(os.fsdecode(b"\xff.log")).write_bytes(FAILED)
    assert json.loads(answer(".", 1, capsys))["line"]["log"] == "\ufffd.log"


def test_file_systems_without_logs_are_not_walked(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("proc").mkdir()
    Path("proc/a.log").write_bytes(HEALTHY)
    Path("b.log").write_bytes(HEALTHY)
    monkeypatch.setattr(log_files, "_PSEUDO", {Path("proc").absolute()})
    assert log_files.find_logs(["."], []) == [Path("b.log")]

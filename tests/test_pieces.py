"""Files piece by piece: real scripts in a real `sh`, on this machine as the host."""

import os
import random
import shutil
from pathlib import Path

import pytest

from ropeway.errors import ConnectionLost, HostError, Refused
from ropeway.hosts import pieces
from ropeway.hosts.local import LocalHost
from ropeway.hosts.pieces import content_of, contents_on, fetch_file, send_file

SIZES = pytest.mark.parametrize("size", [0, 1, 1000, 2500, 3000])


class Cut(LocalHost):
    """A host whose connection is lost after so many more commands; `left` of its class."""

    left = 10**9

    def run(self, argv, **named):
        Cut.left -= 1
        if Cut.left < 0:
            raise ConnectionLost("the connection was lost", where=self.name)
        return super().run(argv, **named)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Cut:
    monkeypatch.setattr(pieces, "PIECE", 1000)
    monkeypatch.setattr(Cut, "left", 10**9)
    return Cut()


def write(path: Path, size: int, seed: int = 0) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(random.Random(seed).randbytes(size))
    return path


def nothing(*_: int) -> None:
    pass


@SIZES
def test_a_file_goes_to_a_host_and_comes_back_as_it_was(host, tmp_path, size):
    source, there = write(tmp_path / "it's $(x)", size), tmp_path / "host" / "a 'b'"
    there.parent.mkdir()
    content = content_of(source)
    told: list[tuple[int, int]] = []
    send_file(host, source, str(there), content, lambda *both: told.append(both))
    assert there.read_bytes() == source.read_bytes()
    assert [sent for sent, _ in told[-1:]] == [size] * bool(size)
    assert contents_on(host, [str(there), "/nowhere"]) == [content, None]
    back = tmp_path / "back"
    fetch_file(host, str(there), back, content, nothing)
    assert back.read_bytes() == source.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {source.name, "host", "back"}
    assert [path.name for path in there.parent.iterdir()] == [there.name]


@pytest.mark.parametrize("commands", [1, 2, 3])
def test_it_goes_on_where_the_connection_was_lost(host, tmp_path, commands):
    source, there = write(tmp_path / "in", 2500), tmp_path / "there"
    content = content_of(source)
    Cut.left = commands
    with pytest.raises(ConnectionLost):
        send_file(host, source, str(there), content, nothing)
    assert not there.exists()
    Cut.left = 10**9
    told: list[int] = []
    send_file(host, source, str(there), content, lambda sent, _: told.append(sent))
    assert told == [1000, 2000, 2500][commands - 1 :]
    assert there.read_bytes() == source.read_bytes()
    Cut.left = commands - 1
    with pytest.raises(ConnectionLost):
        fetch_file(host, str(there), tmp_path / "back", content, nothing)
    assert not (tmp_path / "back").exists()
    Cut.left = 10**9
    told.clear()
    fetch_file(host, str(there), tmp_path / "back", content, lambda here, _: told.append(here))
    assert told == [1000, 2000, 2500][commands - 1 :]
    assert (tmp_path / "back").read_bytes() == source.read_bytes()


def test_nothing_is_sent_or_fetched_twice(host, tmp_path):
    source, there = write(tmp_path / "in", 2500), tmp_path / "there"
    content = content_of(source)
    send_file(host, source, str(there), content, nothing)
    send_file(host, source, str(there), content, pytest.fail)
    shutil.copy(source, tmp_path / "back")
    fetch_file(host, str(there), tmp_path / "back", content, pytest.fail)


def test_a_file_that_was_fetched_stays_after_a_power_cut(host, tmp_path, monkeypatch):
    """Its only other copy may be removed next."""
    source, back = write(tmp_path / "in", 2500), tmp_path / "out" / "back"
    back.parent.mkdir()
    synced: list[tuple[str, bool]] = []
    fsync = os.fsync

    def note(handle: int) -> None:
        fsync(handle)
        synced.append((str(Path(f"/proc/self/fd/{handle}").readlink()), back.exists()))

    monkeypatch.setattr(os, "fsync", note)
    fetch_file(host, str(source), back, content_of(source), nothing)
    assert synced[1:] == [(str(back.parent), True)]
    synced.clear()  # and where an earlier call was ended before that
    fetch_file(host, str(source), back, content_of(source), nothing)
    assert synced == [(str(back), True), (str(back.parent), True)]


def test_another_file_is_never_written_over(host, tmp_path):
    source, back = write(tmp_path / "in", 2500), write(tmp_path / "back", 10)
    with pytest.raises(Refused) as caught:
        fetch_file(host, str(source), back, content_of(source), nothing)
    assert caught.value.where == str(back)
    assert back.stat().st_size == 10


def test_what_arrives_otherwise_takes_no_place_and_the_next_call_begins_anew(host, tmp_path):
    source, there = write(tmp_path / "in", 2500), tmp_path / "there"
    content = content_of(source)
    write(tmp_path / "there.part", 1000, seed=1)
    with pytest.raises(HostError, match="not what was sent"):
        send_file(host, source, str(there), content, nothing)
    assert not there.exists()
    send_file(host, source, str(there), content, nothing)
    write(source, 2500, seed=2)
    with pytest.raises(HostError, match="not what was sent"):
        fetch_file(host, str(source), tmp_path / "back", content, nothing)
    assert not list(tmp_path.glob(".back*")) + list(tmp_path.glob("back"))


def test_two_who_send_the_same_do_not_mix(host, tmp_path):
    """Whoever finds more in the draft than they have sent leaves it alone."""
    source, there = write(tmp_path / "in", 2500), tmp_path / "there"

    def other(sent: int, _: int) -> None:
        if sent == 1000:
            with (tmp_path / "there.part").open("ab") as draft:
                draft.write(b"x")

    with pytest.raises(HostError, match="somebody else is sending this file"):
        send_file(host, source, str(there), content_of(source), other)
    assert (tmp_path / "there.part").stat().st_size == 1001

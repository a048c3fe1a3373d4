"""batch/journal, segments, replay: what is committed stays, and is committed once."""

import asyncio
import os
import shutil
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_rows import ROWS, fill, finish, folders, lines, result, segments
from ropeway.batch.journal.journal import Journal, take_folder
from ropeway.batch.journal.one_writer import NAME
from ropeway.batch.journal.replay import read_journal
from ropeway.batch.journal.segments import packed, read_segments, records
from ropeway.batch.rows import Outcome
from ropeway.errors import Refused, RopewayError

HEAD = 8192  # bytes, both copies


def record_ends(folder: Path) -> list[int]:
    """Where each record of the last segment ends."""
    last = read_segments(folder, [])[-1]
    return [record.offset + 32 + len(record.line) for record in records(last)]


def test_a_row_is_done_once_it_is_on_the_disk(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j", rows=ROWS) as journal:
        journal._one_commits.acquire()  # so that the thread does not
        journal.add(result(3))
        assert 3 not in journal.done
        assert (len(journal.done), journal.counts.total()) == (0, 0)
        assert journal.behind == len(result(3).line)
        journal._one_commits.release()
        asyncio.run(journal.commit())
        assert 3 in journal.done
        assert (len(journal.done), journal.behind) == (1, 0)
        assert lines(tmp_path / "j") == {3: result(3).line}


def test_a_thread_commits_what_nobody_waits_for(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j", rows=ROWS) as journal:
        journal.add(result(3))
        deadline = time.monotonic() + 30
        while 3 not in journal.done and time.monotonic() < deadline:
            time.sleep(0.01)
        assert 3 in journal.done


def test_the_next_run_knows_what_was_done(tmp_path: Path) -> None:
    outcomes = [*Outcome, Outcome.CUT]
    fill(tmp_path / "j", ROWS, [result(row, outcome) for row, outcome in enumerate(outcomes)])
    with Journal.open(tmp_path / "j", rows=ROWS) as journal:
        assert [row in journal.done for row in range(ROWS)] == [True] * 7 + [False] * 5
        assert journal.counts == Counter(outcomes)
        assert (journal.prompt, journal.answer) == (sum(range(10, 17)), sum(range(7)))
        assert (journal.again, journal.damage) == (0, [])


def test_a_row_is_committed_once(tmp_path: Path) -> None:
    fill(tmp_path / "j", ROWS, [result(1), result(2), result(1, Outcome.FAILED)])
    with Journal.open(tmp_path / "j", rows=ROWS) as journal:
        journal.add(result(2, Outcome.CUT))
        journal.add(result(3))
        journal.flush()
        assert journal.again == 1
        assert journal.counts == {Outcome.ANSWERED: 3}
    assert sorted(lines(tmp_path / "j")) == [1, 2, 3]


@pytest.mark.parametrize("line", [b"", b"{}", b"{}\n{}\n", b"{\n}\n"])
def test_what_is_not_one_line_is_our_bug(tmp_path: Path, line: bytes) -> None:
    with Journal.open(tmp_path / "j", rows=ROWS) as journal, pytest.raises(ValueError, match="LF"):
        journal.add(type(result(0))(0, Outcome.ANSWERED, line))


def test_a_closed_journal_takes_nothing(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "j", rows=ROWS)
    journal.close()
    with pytest.raises(ValueError, match="closed"):
        journal.add(result(0))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_bug_of_ours_ends_the_journal_and_is_not_waited_for(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "j", rows=ROWS)
    journal.add(type(result(0))(0, Outcome.ANSWERED, b"{}\n", prompt=None))
    with pytest.raises((TypeError, RopewayError)):
        journal.flush()
    with pytest.raises(RopewayError, match="fault of Ropeway's own"):
        journal.flush()
    with pytest.raises(RopewayError, match="fault of Ropeway's own"):
        journal.close()


def test_what_a_server_cannot_have_counted_ends_nothing(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j", rows=ROWS) as journal:
        journal.add(type(result(0))(0, Outcome.ANSWERED, b"{}\n", prompt=-5, answer=2**70))
    assert read_journal(tmp_path / "j").answer == 2**32 - 1


def test_long_lines_among_short_ones(tmp_path: Path) -> None:
    sizes = [40, 50_000_000, 40, 4 << 20, (4 << 20) - 33, 40]
    fill(tmp_path / "j", ROWS, [result(row, size=size) for row, size in enumerate(sizes)])
    assert {row: len(line) - 1 for row, line in lines(tmp_path / "j").items()} == dict(
        enumerate(sizes)
    )


@given(st.data())
def test_a_segment_that_is_cut_anywhere_loses_only_what_was_cut(data: st.DataObject) -> None:
    with folders() as folder:
        fill(folder, ROWS, map(result, range(4)))
        fill(folder, ROWS, map(result, range(4, 9)))
        ends = record_ends(folder)
        cut = data.draw(st.integers(0, ends[-1]))
        os.truncate(segments(folder)[-1], cut)
        if data.draw(st.booleans()):  # after a power cut a file may have its size and no bytes
            os.truncate(segments(folder)[-1], cut + data.draw(st.integers(0, 5000)))
        replay = read_journal(folder)
        whole = sum(end <= cut for end in ends) if cut >= HEAD // 2 else 0
        assert len(replay.done) == 4 + whole
        assert replay.damage == []
        finish(folder)


@pytest.mark.parametrize("cut", range(0, 40, 4))
def test_a_head_that_ends_in_zeros_is_none(tmp_path: Path, cut: int) -> None:
    fill(tmp_path / "j", ROWS, [result(0)])
    os.truncate(segments(tmp_path / "j")[0], cut)
    os.truncate(segments(tmp_path / "j")[0], HEAD)
    assert read_journal(tmp_path / "j").counts == {}
    finish(tmp_path / "j")


@given(st.data())
def test_a_flipped_bit_costs_one_row_at_most_and_is_said(data: st.DataObject) -> None:
    with folders() as folder:
        fill(folder, ROWS, map(result, range(5)))
        fill(folder, ROWS, map(result, range(5, 9)))
        path = data.draw(st.sampled_from(segments(folder)))
        content = bytearray(path.read_bytes())
        place = data.draw(st.integers(0, len(content) - 1) | st.integers(HEAD, len(content) - 1))
        content[place] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(content)
        replay = read_journal(folder)
        lost = set(range(9)) - set(lines(folder))
        assert len(lost) == (place >= HEAD)
        assert len(replay.done) == 9 - len(lost)
        assert len(replay.damage) == (len(lost) and lost != {8})  # as if cut off, if it is the last
        assert all(line == result(row).line for row, line in lines(folder).items())
        finish(folder)


def test_damage_says_where_and_how_much_is_whole_behind_it(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    fill(folder, ROWS, map(result, range(9)))
    ends = record_ends(folder)
    content = bytearray(segments(folder)[0].read_bytes())
    content[ends[2] + 5 : ends[4] - 5] = bytes(ends[4] - ends[2] - 10)
    segments(folder)[0].write_bytes(content)
    with Journal.open(folder, rows=ROWS) as journal:
        assert [row for row in range(9) if row not in journal.done] == [3, 4]
        assert journal.damage == [
            f"000001.journal is damaged from byte {ends[2]} to byte {ends[4]}: rows in there are "
            "done again; after it 4 rows are whole"
        ]
    finish(folder)


def lose(path: Path) -> None:
    path.unlink()


def behead(path: Path) -> None:
    path.write_bytes(bytes(HEAD) + path.read_bytes()[HEAD:])


def shorten(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 20)


@pytest.mark.parametrize(
    ("how", "lost", "says"),
    [
        (lose, 5, "000001.journal has lost its last"),
        (behead, 5, "000001.journal has no head that can be read"),
        (shorten, 1, "000001.journal has lost its last 20 B of"),
    ],
)
def test_an_earlier_segment_that_is_not_whole_is_said(tmp_path, how, lost, says) -> None:
    folder = tmp_path / "j"
    fill(folder, ROWS, map(result, range(5)))
    fill(folder, ROWS, map(result, range(5, 9)))
    how(segments(folder)[0])
    with Journal.open(folder, rows=ROWS) as journal:
        assert len(journal.done) == 9 - lost
        assert journal.damage[0].startswith(says)
    finish(folder)


def test_bytes_of_another_segment_are_no_records(tmp_path: Path) -> None:
    """As a file system may show an old file's blocks in a new one after a power cut."""
    fill(tmp_path / "old", ROWS, map(result, range(9)))
    fill(tmp_path / "j", ROWS, [result(0)])
    with segments(tmp_path / "j")[0].open("ab") as file:
        file.write(segments(tmp_path / "old")[0].read_bytes()[HEAD:])
    assert len(read_journal(tmp_path / "j").done) == 1


def test_another_input_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "j", ROWS, [result(0)])
    with pytest.raises(Refused, match="belongs to another input"):
        Journal.open(tmp_path / "j", rows=ROWS + 1)
    fill(tmp_path / "j", ROWS, [result(1)])  # the lock is free again


def test_a_newer_format_is_not_guessed_at(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("ropeway.batch.journal.segments.FORMAT", 2)
    fill(tmp_path / "j", ROWS, [result(0)])
    monkeypatch.undo()
    with pytest.raises(Refused, match="another version"):
        read_journal(tmp_path / "j")


def test_outcomes_that_are_taken_back_are_done_again(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    first = [result(0), result(1, Outcome.FAILED), result(2, Outcome.REFUSED), result(3)]
    fill(folder, ROWS, [*first, result(4, Outcome.FAILED)])
    with Journal.open(folder, rows=ROWS, revoked=[Outcome.FAILED]) as journal:
        assert [row for row in range(5) if row not in journal.done] == [1, 4]
        assert journal.counts == {Outcome.ANSWERED: 2, Outcome.REFUSED: 1}
        journal.add(result(1))
        journal.add(result(2))
    # An ordinary run goes on with what the one before began.
    with Journal.open(folder, rows=ROWS) as journal:
        assert [row for row in range(5) if row not in journal.done] == [4]
        assert (journal.counts, journal.again) == ({Outcome.ANSWERED: 3, Outcome.REFUSED: 1}, 0)
        journal.add(result(4, Outcome.FAILED))
    assert read_journal(folder).counts[Outcome.FAILED] == 1
    assert lines(folder)[1] == result(1).line


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "j", rows=ROWS):
        with pytest.raises(Refused, match="another run is writing") as caught:
            Journal.open(tmp_path / "j", rows=ROWS)
        assert f"process {os.getpid()} on " in caught.value.evidence[0]
    fill(tmp_path / "j", ROWS, [result(0)])
    assert (tmp_path / "j" / NAME).read_bytes() == b""


def test_who_lost_the_lock_does_not_free_it(tmp_path: Path) -> None:
    old = Journal.open(tmp_path / "j", rows=ROWS)
    lock = tmp_path / "j" / NAME
    lock.write_text("of the next one")
    old.close()
    assert lock.read_text() == "of the next one"


def test_a_lock_of_another_machine_is_taken_when_it_shows_no_life(tmp_path: Path) -> None:
    fill(tmp_path / "j", ROWS, [result(0)])
    lock = tmp_path / "j" / NAME
    lock.write_text('{"process": "7", "node": "far", "machine": "far", "began": "then"}')
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(0.05):
            os.utime(lock)

    thread = threading.Thread(target=beat)
    thread.start()
    with pytest.raises(Refused, match="another run is writing") as caught:
        Journal.open(tmp_path / "j", rows=ROWS, silence=20)
    assert "process 7 on far, since then" in caught.value.evidence
    stop.set()
    thread.join()
    fill(tmp_path / "j", ROWS, [result(1)], silence=0.2)
    assert lock.read_bytes() == b""


def test_a_writer_shows_life(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("ropeway.batch.journal.one_writer.BEAT", 0.01)
    with Journal.open(tmp_path / "j", rows=ROWS):
        lock = tmp_path / "j" / NAME
        os.utime(lock, (1, 1))
        deadline = time.monotonic() + 30
        while lock.stat().st_mtime == 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert lock.stat().st_mtime > 1


@given(st.lists(st.sampled_from("abt"), max_size=12))
def test_a_writer_that_lost_its_lock_adds_nothing(steps: list[str]) -> None:
    """a and b add rows, t lets another begin; the newest one's rows count, and only its."""
    with folders() as folder:
        fill(folder, 99, [])
        (old,) = read_segments(folder, [])
        new, counted = None, []
        for row, step in enumerate(steps):
            if step == "t" and new is None:
                new = Journal.open(folder, rows=99)
            elif step == "b" and new:
                new.add(result(row))
                counted.append(row)
            elif step == "a":
                # Straight into its file, as one does that does not yet know.
                with old.path.open("ab") as file:
                    file.write(packed(result(row), old.head.salt) + result(row).line)
                counted += [] if new else [row]
        if new:
            new.close()
        assert sorted(lines(folder)) == counted
        assert len(read_journal(folder).done) == len(counted)
        finish(folder, 99)


def test_and_is_told(tmp_path: Path) -> None:
    take_folder(tmp_path / "j").release()
    old = Journal(tmp_path / "j", rows=ROWS)
    with Journal.open(tmp_path / "j", rows=ROWS) as new:
        new.add(result(0))
        old.add(result(1))
        with pytest.raises(Refused, match="another run has taken over"):
            old.flush()
        with pytest.raises(Refused, match="another run has taken over"):
            old.add(result(2))
        with pytest.raises(Refused, match="another run has taken over"):
            old.close()
    assert sorted(lines(tmp_path / "j")) == [0]


def test_a_folder_that_was_removed_ends_the_run(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "j", rows=ROWS)
    shutil.rmtree(tmp_path / "j")
    journal.add(result(0))
    with pytest.raises(RopewayError, match="removed"):
        journal.close()

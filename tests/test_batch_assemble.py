"""batch/assemble: the user's files hold what the journal holds, each row once, and only whole."""

import fcntl
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_rows import ROWS, files_of_at_most, fill, folders, result, segments
from ropeway.batch.journal.finished import NAME
from ropeway.batch.journal.journal import Journal
from ropeway.batch.journal.replay import read_journal
from ropeway.batch.journal.segments import Lines, read_segments, records, shard_folder
from ropeway.batch.output.assemble import DRAFT, assemble
from ropeway.batch.output.own_files import note_written
from ropeway.batch.rows import Outcome, Result
from ropeway.errors import Refused, RopewayError

OUTCOMES = st.sampled_from(list(Outcome))


def made(folder: Path, **how: object) -> tuple[Counter[Outcome], bytes, bytes]:
    """What is counted, the output and the file of errors."""
    output, errors = folder.parent / "out.jsonl", folder.parent / "out.errors.jsonl"
    counts = assemble(folder, output, errors, **how)
    assert sorted(path.name for path in folder.parent.iterdir() if path != folder) == [
        "out.errors.jsonl",
        "out.jsonl",
    ]
    return counts, output.read_bytes(), errors.read_bytes()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def joined(results: list[Result], good: bool) -> bytes:
    return b"".join(one.line for one in results if one.outcome.good is good)


@given(st.lists(st.lists(st.tuples(st.integers(0, ROWS - 1), OUTCOMES))), st.booleans())
def test_each_row_is_in_one_file_once(runs: list, ordered: bool) -> None:
    with folders() as folder:
        first: dict[int, Result] = {}
        for run in runs or [[]]:
            results = [result(row, outcome, size=row * 700) for row, outcome in run]
            fill(folder, ROWS, results)
            for one in results:
                first.setdefault(one.ordinal, one)
        held = [first[row] for row in sorted(first)] if ordered else list(first.values())
        expected = Counter(one.outcome for one in held)
        assert read_journal(folder).counts == expected
        counts, output, errors = made(folder, ordered=ordered, expected=expected)
        assert (counts, output, errors) == (expected, joined(held, True), joined(held, False))


@pytest.mark.parametrize("ordered", [False, True])
def test_what_is_there_so_far_while_the_job_runs(tmp_path: Path, ordered: bool) -> None:
    folder = tmp_path / "j"
    fill(folder, ROWS, map(result, range(4)))
    with Journal.open(folder, rows=ROWS) as journal:
        journal.add(result(7))
        journal.add(result(5, Outcome.FAILED))
        journal.flush()
        journal.add(result(8))
        counts, output, errors = made(folder, ordered=ordered)
        assert counts.total() in (6, 7)
        assert output.count(b"\n") == counts[Outcome.ANSWERED]
        assert errors == result(5, Outcome.FAILED).line
        journal.add(result(9))
    assert made(folder, ordered=ordered)[0] == {Outcome.ANSWERED: 7, Outcome.FAILED: 1}


@pytest.mark.parametrize("ordered", [False, True])
def test_rows_that_were_taken_back_are_replaced(tmp_path: Path, ordered: bool) -> None:
    folder = tmp_path / "j"
    fill(folder, 3, [result(0), result(1, Outcome.FAILED), result(2, Outcome.POISON)])
    before = made(folder, ordered=ordered)
    assert before[2] == result(1, Outcome.FAILED).line + result(2, Outcome.POISON).line
    fill(folder, 3, [result(1)], revoked=[Outcome.FAILED])
    counts, output, errors = made(folder, ordered=ordered)
    assert counts == {Outcome.ANSWERED: 2, Outcome.POISON: 1}
    assert (output, errors) == (result(0).line + result(1).line, result(2, Outcome.POISON).line)


def test_a_finished_job_keeps_its_figures_and_no_second_copy(tmp_path: Path) -> None:
    folder = tmp_path / "of two words"
    results = [result(0), result(1, Outcome.CUT), result(2)]
    fill(folder, 3, results)
    before = read_journal(folder)
    first = made(folder)
    assert (segments(folder), (folder / NAME).exists()) == ([], True)
    replay = read_journal(folder)
    assert (replay.counts, replay.prompt, replay.answer, replay.size) == (
        before.counts, before.prompt, before.answer, before.size
    )  # fmt: skip
    with Journal.open(folder, rows=3, revoked=[Outcome.FAILED]) as journal:
        assert [row in journal.done for row in range(3)] == [True] * 3
        assert (len(journal.done), journal.counts) == (3, before.counts)
    assert segments(folder) == [], "nothing is added, so no segment is begun"
    assert made(folder) == first
    (tmp_path / "out.errors.jsonl").unlink()
    assert made(folder) == first, "the file of errors is made again"
    with pytest.raises(Refused, match="in the order in which answers came") as caught:
        made(folder, ordered=True)
    assert caught.value.hint == f"to do the whole job again: rm -r '{folder}'"
    (tmp_path / "out.jsonl").write_text("edited\n")
    with pytest.raises(Refused, match="no longer as it was written") as caught:
        made(folder)
    assert caught.value.hint == f"to do the whole job again: rm -r '{folder}'"
    assert (tmp_path / "out.jsonl").read_text() == "edited\n"


@pytest.mark.parametrize("last", [Outcome.FAILED, None])
def test_but_one_with_errors_or_rows_left_keeps_its_segments(tmp_path: Path, last) -> None:
    folder = tmp_path / "j"
    fill(folder, 3, [result(0), result(1), *([result(2, last)] if last else [])])
    made(folder)
    assert (len(segments(folder)), (folder / NAME).exists()) == (1, False)


def test_a_removal_that_was_cut_off_is_still_finished(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    fill(folder, 2, [result(0)])
    kept = segments(folder)[0].read_bytes()
    fill(folder, 2, [result(1)])
    counts = made(folder)[0]
    shard = shard_folder(folder, 0)
    shard.mkdir()
    for left in (folder, shard):
        (left / "000001.journal").write_bytes(kept)
    assert read_journal(folder).counts == counts
    assert made(folder)[0] == counts
    assert (segments(folder), shard.exists()) == ([], False), "they are a second copy of the output"


def test_what_rotted_since_the_journal_was_closed_replaces_nothing(tmp_path: Path) -> None:
    folder, output = tmp_path / "j", tmp_path / "out.jsonl"
    with Journal.open(folder, rows=ROWS) as journal:
        for row in range(3):
            journal.add(result(row))
    output.write_text("old\n")
    content = bytearray(segments(folder)[0].read_bytes())
    content[8192 + 40] ^= 1
    segments(folder)[0].write_bytes(content)
    with pytest.raises(RopewayError, match="had 3 rows when it was closed, and now 2") as caught:
        assemble(folder, output, tmp_path / "e", expected=journal.counts)
    assert "000001.journal is damaged from byte 8192" in caught.value.evidence[0]
    assert output.read_text() == "old\n"
    assert names(tmp_path) == ["j", "out.jsonl"]


@pytest.mark.parametrize("ordered", [False, True])
def test_without_room_the_old_files_stay(tmp_path: Path, ordered: bool) -> None:
    folder, output = tmp_path / "j", tmp_path / "out.jsonl"
    fill(folder, 5, [result(row, size=3000) for row in range(5)])
    output.write_text("old\n")
    note_written(folder, {output: 4})
    with files_of_at_most(9000), pytest.raises(RopewayError, match="file too large") as caught:
        assemble(folder, output, tmp_path / "e", ordered=ordered)
    assert caught.value.where == str(output)
    assert "all answers are kept" in str(caught.value.hint)
    assert output.read_text() == "old\n"
    assert names(tmp_path) == ["j", "out.jsonl"]
    assert made(folder, ordered=ordered)[0] == {Outcome.ANSWERED: 5}


def test_what_an_earlier_kill_left_is_written_over(tmp_path: Path) -> None:
    fill(tmp_path / "j", 5, map(result, range(4)))
    (tmp_path / f".out.jsonl{DRAFT}").write_text("half a line of a long file\n" * 100)
    assert made(tmp_path / "j")[1] == joined([result(row) for row in range(4)], True)


def test_no_regular_file_is_replaced(tmp_path: Path) -> None:
    fill(tmp_path / "j", 3, [result(0), result(1, Outcome.FAILED)])
    (tmp_path / "there").mkdir()
    (tmp_path / "out.jsonl").symlink_to(tmp_path / "there" / "answers")
    assemble(tmp_path / "j", tmp_path / "out.jsonl", Path("/dev/null"))
    assert Path("/dev/null").is_char_device()
    assert (tmp_path / "out.jsonl").is_symlink()
    assert (tmp_path / "there" / "answers").read_bytes() == result(0).line
    assemble(tmp_path / "j", Path("/dev/null"), tmp_path / "e", ordered=True)
    assert (tmp_path / "e").read_bytes() == result(1, Outcome.FAILED).line


def test_two_do_not_make_the_same_file(tmp_path: Path) -> None:
    """Of two jobs with one output; a link to it is no other name."""
    one, other, output = tmp_path / "one", tmp_path / "other", tmp_path / "out"
    link = tmp_path / "link"
    link.symlink_to(output)
    fill(one, 3, [result(0)])
    fill(other, 3, [result(1)])
    with (tmp_path / f".out{DRAFT}").open("wb") as draft:
        draft.write(b"half")
        draft.flush()
        fcntl.flock(draft, fcntl.LOCK_EX)
        for name in (output, link):
            with pytest.raises(Refused, match="another run is writing"):
                assemble(one, name, tmp_path / "e1")
        assert (tmp_path / f".out{DRAFT}").read_bytes() == b"half"
    assemble(one, link, tmp_path / "e1")
    for name in (output, link):
        with pytest.raises(Refused, match="this job has not written it"):
            assemble(other, name, tmp_path / "e2")
    assert output.read_bytes() == result(0).line
    assert names(tmp_path) == ["e1", "link", "one", "other", "out"]


def test_a_draft_that_just_became_anothers_output_is_left_alone(tmp_path: Path) -> None:
    """Its name was asked for before it was renamed, and it is locked afterwards."""
    fill(tmp_path / "j", 3, [result(0)])
    output, draft = tmp_path / "out", tmp_path / f".out{DRAFT}"
    draft.write_text("another's\n")
    renamed = []

    def rename(handle: int, _: int) -> None:
        if not renamed:
            draft.rename(output)
        renamed.append(handle)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fcntl, "flock", rename)
        with pytest.raises(Refused, match="another run is writing"):
            assemble(tmp_path / "j", output, tmp_path / "e")
    assert output.read_text() == "another's\n"


def test_what_took_the_place_of_the_jobs_output_is_not_written_over(tmp_path: Path) -> None:
    folder, output = tmp_path / "j", tmp_path / "out.jsonl"
    fill(folder, 3, [result(0)])
    made(folder)
    output.rename(tmp_path / "kept")
    output.write_text("of another job\n")
    fill(folder, 3, [result(1, Outcome.FAILED)])
    with pytest.raises(Refused, match="this job has not written it"):
        assemble(folder, output, tmp_path / "out.errors.jsonl")
    assert output.read_text() == "of another job\n"
    (tmp_path / "kept").rename(output)
    assert made(folder)[0].total() == 2


def test_a_folder_without_a_job(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="there is no journal"):
        assemble(tmp_path / "j", tmp_path / "out.jsonl", tmp_path / "e")


def test_more_segments_than_files_may_be_open(tmp_path: Path) -> None:
    for row in range(9):
        fill(tmp_path / "j", ROWS, [result(8 - row, size=row * 1000)])
    found = [
        (segment, record.offset, bytes(record.line))
        for segment in read_segments(tmp_path / "j", [])
        for record in records(segment)
    ]
    assert len(found) == 9
    with Lines(most=2) as lines:
        for segment, offset, line in [*found, *found]:
            assert lines.read(segment, offset) == (Outcome.ANSWERED, line)
    assert made(tmp_path / "j", ordered=True)[1] == b"".join(
        result(row, size=(8 - row) * 1000).line for row in range(9)
    )


def test_a_draft_goes_through_no_link_and_over_no_file_of_the_users(tmp_path: Path) -> None:
    fill(tmp_path / "job", 1, [result(0)])
    (tmp_path / ".out.jsonl.part").write_text("mine")
    (tmp_path / "victim").write_text("mine")
    link = tmp_path / f".out.errors.jsonl{DRAFT}"
    link.symlink_to("victim")
    with pytest.raises(RopewayError, match="cannot be written"):
        assemble(tmp_path / "job", tmp_path / "out.jsonl", tmp_path / "out.errors.jsonl")
    assert [path.read_text() for path in (tmp_path / ".out.jsonl.part", tmp_path / "victim")] == [
        "mine",
        "mine",
    ]

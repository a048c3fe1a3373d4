"""A job in shards: together they are the whole, whoever does them (`batch.shards`, `one_shard`)."""

import asyncio
import io
import json
import pickle
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from batch_endpoint import BatchEndpoint
from hypothesis import given
from hypothesis import strategies as st

from batch_rows import fill, result
from fake_s3 import fake_s3
from ropeway.batch.input import source, survey
from ropeway.batch.input.parts import find_parts
from ropeway.batch.input.template import Form, make_form
from ropeway.batch.job import Order, ShardedJob, open_job, open_shards, write_files
from ropeway.batch.journal.journal import Journal
from ropeway.batch.journal.segments import shard_folder
from ropeway.batch.journal.totals import Totals
from ropeway.batch.progress import Progress, Rates, ReplicaProgress
from ropeway.batch.rows import Outcome
from ropeway.batch.run import Settings
from ropeway.batch.sending.servers import Server, Servers
from ropeway.batch.shards import one_shard
from ropeway.batch.shards.board import Board
from ropeway.batch.shards.one_shard import Done, Work, make_work, run_shard
from ropeway.batch.shards.shard import plan_shards
from ropeway.endpoint.address import Endpoint
from ropeway.errors import Refused
from ropeway.phrases import phrase

Tell = Callable[[Progress], int]


def cut_small(patch: pytest.MonkeyPatch) -> None:
    """Cut files every 50 bytes, for they are read 16 at a time."""
    patch.setattr(source, "_BLOCK", 16)
    patch.setattr(survey, "_MARK_EVERY", 50)


@pytest.fixture(name="small_cuts")
def _small_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    cut_small(monkeypatch)


SMALL = pytest.mark.usefixtures("small_cuts")


def servers(*urls: str) -> Servers:
    every = tuple(Server(Endpoint(url)) for url in urls or ("http://127.0.0.1:9/v1",))
    return Servers(every, "fake", None, frozenset(), "", ())


def order(folder: Path, *names: str, **how: Any) -> Order:
    how.setdefault("form", Form())
    inputs = tuple(str(folder / name) for name in names or ("*.jsonl",))
    return Order(inputs, folder / "out", folder / "bad", skip_bad=True, **how)


def quiet(*_: object) -> None:
    pass


def write(folder: Path, files: list[list[str]]) -> None:
    for number, lines in enumerate(files):
        (folder / f"{number}.jsonl").write_text("".join(f"{line}\n" for line in lines))


def work_of(job: ShardedJob, *urls: str) -> Work:
    return make_work(job, servers(*urls).endpoints, Settings(job.found.rows, 100))


LINES = st.lists(
    st.sampled_from(['{"prompt": "a"}', '{"prompt": "a long one"}', "", "{", '{"prompt": "ä"}']),
    max_size=12,
)


@given(st.lists(LINES, min_size=1, max_size=3), st.integers(1, 3), st.booleans())
def test_the_rows_of_all_shards_are_those_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory, files: list, samples: int, end: bool
) -> None:
    folder = tmp_path_factory.mktemp("in")
    write(folder, [['{"prompt": "first"}'], *files])
    if not end:  # the last line has no line feed
        last = folder / f"{len(files)}.jsonl"
        last.write_text(last.read_text().removesuffix("\n"))
    form = make_form(samples=samples)
    with pytest.MonkeyPatch.context() as patch:
        cut_small(patch)
        parts = find_parts([str(folder / "*.jsonl")], folder, io.BytesIO())
        found = survey.survey(parts, form, folder, skip_bad=True)
        whole = list(survey.rows(parts, form, found, folder, ()))
        left_out = list(survey.skipped(form, folder))
        shards = plan_shards(found)
        rows, skipped = [], []
        for shard in shards:
            one = [shard.of(parts)], [replace(found.parts[shard.file], lines=shard.lines)]
            rows += survey.rows_from(*one, form, found.kind, folder, (), first=shard.first)
            skipped += survey.skipped(form, folder, shard.indices)
    assert rows == whole
    assert skipped == left_out
    assert len(whole) + len(left_out) == found.rows
    assert [shard.number for shard in shards] == list(range(len(shards)))
    assert sum(shard.lines for shard in shards) * samples == found.rows


@SMALL
def test_only_plain_json_lines_are_cut(tmp_path: Path) -> None:
    lines = ['{"prompt": "a row"}'] * 10
    write(tmp_path, [lines, [""], lines[:2]])
    (tmp_path / "3.csv").write_text("prompt\n" + "a row\n" * 40)
    names = [str(tmp_path / name) for name in ("0.jsonl", "1.jsonl", "2.jsonl", "3.csv")]
    parts = find_parts(names, tmp_path, io.BytesIO())
    shards = plan_shards(survey.survey(parts, Form(), tmp_path))
    assert Counter(shard.file for shard in shards) == {0: 4, 2: 1, 3: 1}
    assert [(shard.begin, shard.line, shard.first) for shard in shards[:3]] == [
        (0, 1, 0), (60, 4, 3), (120, 7, 6)
    ]  # fmt: skip
    assert [shard.end for shard in shards] == [60, 120, 180, None, None, None]


@SMALL
def test_how_it_was_cut_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, [['{"prompt": "a row"}'] * 10])
    with open_shards(order(tmp_path), servers(), io.BytesIO(), quiet) as job:
        shards = job.shards
    assert len(shards) == 4
    monkeypatch.setattr(survey, "_MARK_EVERY", 1000)
    (tmp_path / "out.journal" / "survey.json").unlink()
    with open_shards(order(tmp_path), servers(), io.BytesIO(), quiet) as job:
        assert job.shards == shards


@pytest.mark.parametrize("sharded", [True, False])
def test_a_job_goes_on_in_the_way_it_began(tmp_path: Path, sharded: bool) -> None:
    write(tmp_path, [['{"prompt": "a row"}']])
    first, other = (open_shards, open_job) if sharded else (open_job, open_shards)
    with first(order(tmp_path), servers(), io.BytesIO(), quiet):
        pass
    with (
        pytest.raises(Refused, match="begun with" if sharded else "begun without"),
        other(order(tmp_path), servers(), io.BytesIO(), quiet),
    ):
        pass
    with first(order(tmp_path), servers(), io.BytesIO(), quiet) as job:
        assert job.journal.counts == {}


def test_only_one_run_at_a_time_has_the_shards(tmp_path: Path) -> None:
    write(tmp_path, [['{"prompt": "a row"}']])
    with (
        open_shards(order(tmp_path), servers(), io.BytesIO(), quiet),
        pytest.raises(Refused, match="another run is writing"),
        open_shards(order(tmp_path), servers(), io.BytesIO(), quiet),
    ):
        pass


async def all_shards(job: ShardedJob, tell: Tell, **faults: Any) -> tuple[list[Done], int]:
    """Do all shards that are left at the same time; return what came of them, and the requests."""
    endpoint = BatchEndpoint(**faults)
    server = await endpoint.start()
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    work = pickle.loads(pickle.dumps(work_of(job, url)))
    try:
        done = await asyncio.gather(*(run_shard(work, shard, tell) for shard in job.to_do()))
    finally:
        server.close()
    return pickle.loads(pickle.dumps(done)), endpoint.requests


@SMALL
@pytest.mark.parametrize(("ordered", "scheme"), [(False, ""), (True, ""), (True, "file://")])
def test_each_shard_has_its_journal_and_all_make_one_output(
    tmp_path: Path, ordered: bool, scheme: str
) -> None:
    lines = [json.dumps({"prompt": f"say {n}"}) for n in range(40)]
    write(tmp_path, [lines[:25], ["{"], lines[25:]])
    asked = order(tmp_path, ordered=ordered)
    asked = replace(asked, inputs=tuple(f"{scheme}{name}" for name in asked.inputs))
    with open_shards(asked, servers(), io.BytesIO(), quiet) as job:
        assert len(job.shards) > 8
        done, requests = asyncio.run(all_shards(job, lambda _: 1))
        assert requests == 40
        counts = sum((one.kept for one in done if one.kept), Totals()).counts
    assert {one.reason for one in done} == {"complete"}
    assert counts == {Outcome.ANSWERED: 40, Outcome.SKIPPED: 1}
    with open_shards(asked, servers(), io.BytesIO(), quiet) as job:
        assert (job.to_do(), job.journal.counts) == ([], counts)
        write_files(asked, counts)
    names = [json.loads(line)["custom_id"] for line in (tmp_path / "out").read_text().splitlines()]
    expected = [f"row-{n}" for n in range(41) if n != 25]
    assert (names if ordered else sorted(names, key=expected.index)) == expected
    assert json.loads((tmp_path / "bad").read_text())["custom_id"] == "row-25"


@SMALL
@pytest.mark.real_time
def test_shards_lie_in_object_storage_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with fake_s3() as (query, store):
        for number in range(2):
            text = "".join(f'{{"prompt": "say {number} {n}"}}\n' for n in range(20))
            store.objects[f"bucket/in/{number}.jsonl"] = text.encode()
        asked = replace(
            order(tmp_path),
            inputs=(f"s3://KEY:SECRET@bucket/in/*.jsonl?{query}",),
            journal=tmp_path / "j",
        )
        with open_shards(asked, servers(), io.BytesIO(), quiet) as job:
            assert len(job.shards) > 8
            done, requests = asyncio.run(all_shards(job, lambda _: 1))
            assert [one.failure for one in done if one.failure] == []
            counts = sum((one.kept for one in done if one.kept), Totals()).counts
            assert (requests, counts) == (40, {Outcome.ANSWERED: 40})
            write_files(asked, counts)
    names = [json.loads(line)["custom_id"] for line in (tmp_path / "out").read_text().splitlines()]
    assert sorted(names) == sorted(f"row-{n}" for n in range(40))
    assert "SECRET" not in "".join(
        path.read_text(errors="replace") for path in (tmp_path / "j").glob("*.json")
    )


@SMALL
def test_it_goes_on_from_its_journals_and_leaves_none_when_all_is_answered(tmp_path: Path) -> None:
    write(tmp_path, [[json.dumps({"prompt": f"say {n}"}) for n in range(40)]])
    asked = order(tmp_path)
    with open_shards(asked, servers(), io.BytesIO(), quiet) as job:
        first = job.shards[0]
        fill(shard_folder(asked.folder, 0), 40, [result(0)], job=job.manifest.job)
        fill(shard_folder(asked.folder, 1), 40, [result(first.lines)], job=job.manifest.job)
    with open_shards(asked, servers(), io.BytesIO(), quiet) as job:
        assert job.journal.counts == {Outcome.ANSWERED: 2}
        done, requests = asyncio.run(all_shards(job, lambda _: 1))
        counts = sum((one.kept for one in done if one.kept), Totals()).counts
        assert (requests, counts) == (38, {Outcome.ANSWERED: 40})
        write_files(asked, counts)
    assert not list(asked.folder.glob("shard-*"))
    with open_shards(asked, servers(), io.BytesIO(), quiet) as job:
        assert (job.to_do(), job.journal.counts) == ([], counts)
        write_files(asked, counts)


def test_a_task_stops_when_it_is_told_to(tmp_path: Path) -> None:
    write(tmp_path, [[json.dumps({"prompt": f"say {n}"}) for n in range(3000)]])
    with open_shards(order(tmp_path), servers(), io.BytesIO(), quiet) as job:
        done, requests = asyncio.run(all_shards(job, lambda _: 0, seconds=0.05))
    assert [one.reason for one in done] == ["stopped"]
    assert done[0].kept is not None
    assert done[0].kept.counts.total() == requests < 3000


@pytest.mark.real_time
def test_a_shard_waits_for_whoever_had_it_before(tmp_path: Path) -> None:
    write(tmp_path, [['{"prompt": "a"}']])
    with open_shards(order(tmp_path), servers(), io.BytesIO(), quiet) as job:
        before = Journal.open(shard_folder(job.order.folder, 0), rows=1, job=job.manifest.job)

        async def main() -> tuple[list[Done], int]:
            asyncio.get_running_loop().call_later(1.5, before.close)
            return await all_shards(job, lambda _: 1)

        (done,), requests = asyncio.run(main())
    assert (done.reason, requests) == ("complete", 1)


def test_a_journal_of_another_job_is_refused_at_once(tmp_path: Path) -> None:
    write(tmp_path, [['{"prompt": "a"}']])
    with open_shards(order(tmp_path), servers(), io.BytesIO(), quiet) as job:
        fill(shard_folder(job.order.folder, 0), 1, [result(0)], job="another")

        async def main() -> Done:
            # Only whoever waits for another run needs so long.
            return await asyncio.wait_for(run_shard(work_of(job), job.shards[0], lambda _: 1), 20)

        done = asyncio.run(main())
    assert (done.reason, type(done.failure)) == ("broken", Refused)


@pytest.mark.real_time
def test_what_all_must_see_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_shard, "_SEEN_WITHIN_S", 1)
    write(tmp_path, [['{"prompt": "a"}']])
    with open_shards(order(tmp_path), servers(), io.BytesIO(), quiet) as job:
        work, (shard,) = work_of(job), job.shards
        for elsewhere in (replace(work, sign="other"), replace(work, folder=tmp_path / "not")):
            done = asyncio.run(run_shard(elsewhere, shard, lambda _: 1))
            assert done.failure is not None
            assert done.failure.what == "not all machines see the job's folder"


@SMALL
@pytest.mark.parametrize("how", ["longer", "other"])
@pytest.mark.parametrize("scheme", ["", "file://"])
def test_an_input_that_changes_is_noticed_in_a_part_of_it(
    tmp_path: Path, how: str, scheme: str
) -> None:
    lines = [json.dumps({"prompt": f"say {n}"}) for n in range(10, 40)]
    write(tmp_path, [lines])
    asked = order(tmp_path)
    asked = replace(asked, inputs=tuple(f"{scheme}{name}" for name in asked.inputs))
    with open_shards(asked, servers(), io.BytesIO(), quiet) as job:
        write(tmp_path, [[*lines, lines[0]] if how == "longer" else lines[::-1]])
        done, _ = asyncio.run(all_shards(job, lambda _: 1))
    assert {one.failure.what for one in done if one.failure} == {
        "the input has changed since the job began"
    }
    assert all(one.failure for one in done)


def progress(**how: Any) -> Progress:
    url = how.pop("url", "http://a/v1")
    replica = ReplicaProgress(url, how.pop("state", "working"), "", 3, 8, 5, Rates(1.0, 2.0, 3.0))
    usual = {
        "rows": 10, "done": {Outcome.ANSWERED: 4}, "in_flight": 3, "again": 1,
        "faults": {"reset": 2}, "replicas": (replica,), "rates": Rates(1.0, 2.0, 3.0),
        "elapsed_s": 1.0, "cost": 0.5,
    }  # fmt: skip
    return Progress(**{**usual, **how})


def test_the_board_adds_up() -> None:
    before = [Totals(counts=Counter({Outcome.CUT: n})) for n in range(4)]
    board = Board(40, before)
    assert board.progress(1.0).done == {Outcome.CUT: 6}
    board.told = {0: progress(), 1: progress(state="away"), 2: progress(url="http://b/v1")}
    kept = Totals(counts=Counter({Outcome.FAILED: 9}))
    board.ended = {2: Done("complete", board.told[2], kept)}
    now = board.progress(2.0)
    assert now.done == {Outcome.ANSWERED: 8, Outcome.FAILED: 9, Outcome.CUT: 3}
    assert (now.in_flight, now.again, now.faults, now.cost) == (6, 3, {"reset": 6}, 1.5)
    assert now.rates == Rates(2.0, 4.0, 6.0)
    a, b = now.replicas
    assert (a.url, a.state, a.in_flight, a.limit, a.rows) == ("http://a/v1", "working", 6, 16, 10)
    assert (b.url, b.in_flight, b.limit, b.rows) == ("http://b/v1", 0, 0, 5)
    assert board.kept().counts == {Outcome.CUT: 0 + 1 + 3, Outcome.FAILED: 9}


def test_what_a_task_had_spent_that_began_anew_still_counts() -> None:
    board = Board(40, [Totals()])
    board.take({0: progress(elapsed_s=9.0, done={Outcome.ANSWERED: 6})})
    board.take({0: progress(elapsed_s=9.5, done={Outcome.ANSWERED: 7})})
    assert board.progress(10.0).cost == 0.5
    board.take({0: progress(elapsed_s=0.5, done={Outcome.ANSWERED: 5})})
    now = board.progress(11.0)
    assert (now.again, now.faults, now.cost) == (2, {"reset": 4}, 1.0)
    assert (now.in_flight, now.done, now.rates) == (
        3, {Outcome.ANSWERED: 5}, Rates(1.0, 2.0, 3.0)
    )  # fmt: skip


def test_errors_of_a_task_come_back_as_they_were() -> None:
    error = Refused(phrase("no {n}", n=1), where="w", evidence=[phrase("e")], hint=phrase("h"))
    back = pickle.loads(pickle.dumps(Done("broken", failure=error))).failure
    assert (type(back), back.as_json()) == (Refused, error.as_json())
    assert back.what.template == "no {n}"

"""All of an input before anything is sent, and its rows afterwards (`batch.survey`)."""

import gzip
import io
import json
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropeway.batch.input.beginnings import Beginnings
from ropeway.batch.input.names import Names
from ropeway.batch.input.parts import Part, find_parts
from ropeway.batch.input.pictures import PictureRow
from ropeway.batch.input.requests import Kind
from ropeway.batch.input.survey import Survey, kept_survey, rows, skipped, survey
from ropeway.batch.input.template import CHAT, Form, make_form
from ropeway.batch.journal.bitmap import Bitmap
from ropeway.batch.rows import Outcome, Row
from ropeway.errors import Refused, RopewayError

PLAIN = Form()


def line(name: str, text: str = "a", **keys: Any) -> str:
    """A line of OpenAI's Batch API."""
    body = {"model": "m", "messages": [{"role": "user", "content": text}], **keys}
    return json.dumps({"custom_id": name, "method": "POST", "url": CHAT, "body": body})


def plain(*texts: str) -> list[str]:
    return [json.dumps({"prompt": text}) for text in texts]


class Job:
    """Files with these lines, and a folder for what is found in them."""

    def __init__(self, folder: Path, *files: list[str] | bytes) -> None:
        self.folder = folder / "job"
        self.folder.mkdir(exist_ok=True)
        self.paths = [folder / f"{number}.jsonl" for number in range(len(files))]
        for path, lines in zip(self.paths, files, strict=True):
            text = (
                lines if isinstance(lines, bytes) else "".join(f"{one}\n" for one in lines).encode()
            )
            path.write_bytes(text)

    @property
    def parts(self) -> tuple[Part, ...]:
        return find_parts([str(path) for path in self.paths], self.folder, io.BytesIO())

    def survey(self, form: Form = PLAIN, **flags: Any) -> Survey:
        return survey(self.parts, form, self.folder, **flags)

    def rows(self, found: Survey, form: Form = PLAIN, done: Any = ()) -> list[Row]:
        return list(rows(self.parts, form, found, self.folder, done))

    def refusal(self, form: Form = PLAIN, **flags: Any) -> Refused:
        with pytest.raises(Refused) as caught:
            self.survey(form, **flags)
        assert caught.value.exit_code == 2
        return caught.value

    def left_out(self, form: Form = PLAIN) -> dict[int, str]:
        """What became of the ordinals that are left out."""
        results = list(skipped(form, self.folder))
        assert [one.ordinal for one in results] == sorted({one.ordinal for one in results})
        for one in results:
            assert one.outcome is Outcome.SKIPPED
            assert one.line.endswith(b"}\n")
            assert b"\n" not in one.line[:-1]
        return {one.ordinal: json.loads(one.line)["error"]["message"] for one in results}


GOOD = line("good")
BAD = {
    "json": b'{"custom_id": "x", "method": "POST"',
    "duplicate": line("good", "other").encode(),
    "url": line("x").replace("/chat/", "/no/").encode(),
    "method": line("x").replace("POST", "GET").encode(),
    "stream": line("x", stream=True).encode(),
    "encoding": line("x", "中").encode().decode("unicode_escape").encode("gb18030"),
    "long": line("x", "y" * 50 * 10**6).encode(),
    "context": line("x", "word " * 2000).encode(),
    "mixed": b'{"prompt": "a"}',
    "model": line("x", model="other").encode(),
    "body": b'{"custom_id": "x", "method": "POST", "url": "/v1/embeddings", "body": 5}',
    "line": b'{"method": "POST", "url": "/v1/embeddings", "body": {}}',
}
UNNAMED = ("json", "encoding", "long", "mixed", "line")  # what has no name, or cannot be read
KNOWN: Any = {"context": 1000, "served": ["m"]}


@pytest.mark.parametrize("kind", sorted(BAD))
def test_a_line_that_cannot_be_sent_is_named_or_left_out(tmp_path: Path, kind: str) -> None:
    data = f"{GOOD}\n\n".encode() + BAD[kind] + f"\n{line('last')}\r\n".encode()
    job = Job(tmp_path, [line("first")], data)
    refusal = job.refusal(**KNOWN)
    assert refusal.where == f"{tmp_path}/1.jsonl:3"
    assert refusal.evidence == ()
    assert "--skip-bad" in str(refusal.hint)
    assert [*job.folder.iterdir()] == []
    found = job.survey(skip_bad=True, **KNOWN)
    assert (found.rows, found.bad, found.faults) == (4, 1, {kind: 1})
    assert [row.name for row in job.rows(found)] == ["first", "good", "last"]
    assert [row.ordinal for row in job.rows(found)] == [0, 1, 3]
    assert job.left_out() == {2: f"{refusal.where}: {refusal.what}"}
    name = {"duplicate": "good"}.get(kind, "row-2" if kind in UNNAMED else "x")
    assert [json.loads(one.line)["custom_id"] for one in skipped(PLAIN, job.folder)] == [name]


def test_a_refusal_shows_some_faults_in_their_order_and_counts_the_others(tmp_path: Path) -> None:
    job = Job(tmp_path, [line("a"), line("a"), *["broken"] * 9])
    refusal = job.refusal()
    assert "row-" not in refusal.what
    assert refusal.what.startswith("its name `a`")
    assert refusal.where == f"{tmp_path}/0.jsonl:2"
    assert [text.partition(": ")[0].rpartition(":")[2] for text in refusal.evidence[:4]] == [
        *"3456"
    ]
    assert refusal.evidence[4] == "and 5 more"
    many = Job(tmp_path, [line("a"), *["broken"] * 10_000])
    assert many.refusal().evidence[4].endswith("more, at least")


def test_nothing_but_bad_lines_is_refused_whatever_is_said(tmp_path: Path) -> None:
    refusal = Job(tmp_path, ["a", "b"]).refusal(skip_bad=True)
    assert "no line is left" in str(refusal.hint)
    for empty in (b"", b"\n \r\n\n", b"\xef\xbb\xbf"):
        assert Job(tmp_path, empty).refusal().what == "the input is empty"


def test_a_column_that_no_line_has_is_one_fault(tmp_path: Path) -> None:
    refusal = Job(tmp_path, [json.dumps({"id": n, "text": "a"}) for n in range(60)]).refusal()
    assert refusal.what == "there is no column `prompt`"
    assert [*refusal.evidence] == ["so it is with every line that was read"]
    assert "`id`, `text`" in str(refusal.hint)
    assert "--skip-bad" not in str(refusal.hint)
    some = Job(tmp_path, ['{"prompt": "a"}', '{"id": 1}']).refusal()
    assert "--skip-bad" in str(some.hint)


def test_a_file_may_have_any_bytes_for_a_name(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.paths = [tmp_path / "\udcff.jsonl"]
    job.paths[0].write_text('{"prompt": "a"}\nbad\n{"prompt": "b", "image": "p.png"}\n')
    found = job.survey(skip_bad=True)
    assert kept_survey(job.parts, PLAIN, job.folder) == found
    assert found.parts[0].name == f"{tmp_path}/\\udcff.jsonl"
    assert [row.ordinal for row in job.rows(found)] == [0]
    left_out = job.left_out()
    assert left_out[1].startswith(f"{tmp_path}/\\udcff.jsonl:2: ")
    assert left_out[2].endswith(f"there is no picture `{tmp_path}/p.png`")


def test_an_empty_file_among_others_is_noted(tmp_path: Path) -> None:
    job = Job(tmp_path, b"", plain("a"))
    found = job.survey()
    assert found.empty == (f"{tmp_path}/0.jsonl",)
    assert found.rows == 1


def test_a_name_is_one_rows_over_all_files(tmp_path: Path) -> None:
    job = Job(tmp_path, [line("a"), line("b")], [line("c"), line("a"), line("a")])
    refusal = job.refusal()
    assert refusal.what == f"its name `a` is that of {tmp_path}/0.jsonl:1"
    found = job.survey(skip_bad=True)
    assert found.faults == {"duplicate": 2}
    assert sorted(job.left_out()) == [3, 4]
    assert [row.ordinal for row in job.rows(found)] == [0, 1, 2]


def test_a_row_without_a_name_gets_none_that_another_has(tmp_path: Path) -> None:
    job = Job(tmp_path, ['{"prompt": "a"}', '{"prompt": "b", "custom_id": "row-0"}'])
    assert "`row-0`" in job.refusal().what
    same = Job(tmp_path, plain("a", "a"))
    assert [row.name for row in same.rows(same.survey())] == ["row-0", "row-1"]


def test_a_line_that_is_left_out_takes_no_name_away(tmp_path: Path) -> None:
    job = Job(tmp_path, [line("a", model="other"), line("a"), line("b"), line("a")])
    found = job.survey(skip_bad=True, served=["m"])
    assert found.faults == {"model": 1, "duplicate": 1}
    assert sorted(job.left_out()) == [0, 3]


def test_names_with_the_same_hash_are_not_the_same(tmp_path: Path) -> None:
    job = Job(tmp_path, [line("a"), line("b"), line("c")])
    assert job.survey(hashed=lambda _name: 7).bad == 0
    twice = Job(tmp_path, [line("a"), line("b"), line("a")])
    found = twice.survey(hashed=lambda _name: 7, skip_bad=True)
    assert [*twice.left_out()] == [2]
    assert found.bad == 1


@given(st.lists(st.text(max_size=2)), st.integers(1, 9))
def test_repeated_names_are_found_in_memory_and_on_disk(names: list[str], in_memory: int) -> None:
    with Names(Path("/tmp"), in_memory=in_memory) as kept:
        for name in names:
            kept.add(name)
        repeated = {hash(name) for name, times in Counter(names).items() if times > 1}
        assert kept.repeated() == repeated


def test_samples_are_rows_of_their_own(tmp_path: Path) -> None:
    form = make_form(settings=["seed=1"], samples=3)
    job = Job(tmp_path, ['{"prompt": "a", "custom_id": "x"}', "bad", '{"prompt": "b"}'])
    found = job.survey(form, skip_bad=True)
    assert found.rows == 9
    assert sorted(job.left_out(form)) == [3, 4, 5]
    sent = job.rows(found, form, done={1, 6})
    assert [(row.ordinal, row.name) for row in sent] == [
        (0, "x#1"), (2, "x#3"), (7, "row-2#2"), (8, "row-2#3"),
    ]  # fmt: skip
    assert [json.loads(row.body)["seed"] for row in sent] == [1, 3, 2, 3]
    assert job.rows(found, form, done=range(9)) == []


def test_what_is_done_is_not_decoded_and_a_change_is_found(tmp_path: Path) -> None:
    job = Job(tmp_path, plain(*"abcdef"))
    found = job.survey()
    text = job.paths[0].read_bytes()
    job.paths[0].write_bytes(text.replace(b'"a"', b'"a'))
    again = rows(job.parts, PLAIN, found, job.folder, {0})
    assert [next(again).ordinal for _ in range(5)] == [1, 2, 3, 4, 5]
    with pytest.raises(RopewayError, match="has changed"):
        next(again)
    with pytest.raises(RopewayError, match="has changed") as caught:
        job.rows(found)
    assert caught.value.where == f"{tmp_path}/0.jsonl:1"


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("files", [1, 2])
def test_lines_that_are_added_later_are_no_rows(tmp_path: Path, files: int, samples: int) -> None:
    job = Job(tmp_path, *[plain(*"abcdefgh")] * files)
    form = Form(samples=samples)
    found = job.survey(form)
    with job.paths[0].open("a") as file:
        file.write('\n{"prompt": "new"}\n' * 20)
    again = rows(job.parts, form, found, job.folder, Bitmap(found.rows))
    assert [next(again).ordinal for _ in range(8 * samples)] == [*range(8 * samples)]
    with pytest.raises(RopewayError, match="has changed") as caught:
        next(again)
    assert caught.value.where == f"{tmp_path}/0.jsonl:10"


def test_a_picture_that_goes_away_later_does_not_end_the_job(tmp_path: Path) -> None:
    job = Job(tmp_path, ['{"prompt": "a", "image": "p.png"}'])
    assert job.refusal().what == f"there is no picture `{tmp_path}/p.png`"
    (tmp_path / "p.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    found = job.survey()
    (tmp_path / "p.png").unlink()
    (row,) = job.rows(found)
    assert isinstance(row, PictureRow)
    with pytest.raises(RopewayError, match="no such file"):
        row.payload()


def test_a_kept_survey_is_that_of_the_same_files_and_flags(tmp_path: Path) -> None:
    job = Job(tmp_path, [*plain("a", "b"), "bad"])
    found = job.survey(skip_bad=True)
    assert kept_survey(job.parts, PLAIN, job.folder) == found
    assert kept_survey(job.parts, make_form(template="{prompt}"), job.folder) is None
    before = job.paths[0].stat()
    job.paths[0].write_bytes(job.paths[0].read_bytes().replace(b"a", b"c"))
    os.utime(job.paths[0], ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert kept_survey(job.parts, PLAIN, job.folder) is None
    (job.folder / "survey.json").write_bytes(b"{")
    assert kept_survey(job.parts, PLAIN, job.folder) is None


def test_models_of_lines_that_are_left_out_are_the_inputs_too(tmp_path: Path) -> None:
    job = Job(tmp_path, [line("a"), line("b", model="adapter")])
    before = job.survey(served=("m",), skip_bad=True)
    after = job.survey(served=("m", "adapter"), skip_bad=True)
    assert (before.bad, after.bad) == (1, 0)
    assert before.models == after.models == ("m", "adapter")


def test_the_survey_says_how_large_the_job_is(tmp_path: Path) -> None:
    lines = [line(f"a{n}", "x" * 400, max_tokens=10 * n) for n in range(1, 5)]
    found = Job(tmp_path, [*lines, line("b", model="other")]).survey(context=100)
    assert (found.kind, found.rows, found.models) == (Kind.REQUESTS, 5, ("m", "other"))
    assert (found.answer.total, found.answer.most, found.unlimited) == (100, 40, 1)
    assert 4 * 100 < found.prompt.total < 4 * 125
    assert found.long == 4


def test_what_is_read_is_told(tmp_path: Path) -> None:
    told: list[int] = []
    job = Job(tmp_path, plain("a"), plain("b" * 3_000_000))
    job.survey(tell=told.append)
    assert sum(told) == sum(path.stat().st_size for path in job.paths)


def test_a_record_names_its_line_and_a_template_its_columns(tmp_path: Path) -> None:
    job = Job(tmp_path, b"")
    job.paths = [tmp_path / "t.csv"]
    job.paths[0].write_text('text,id\n"a\nb",1\nshort\nc,2\n')
    form = make_form(template="Translate: {text}")
    assert job.refusal(form).where == f"{tmp_path}/t.csv:4"
    found = job.survey(form, skip_bad=True)
    assert [json.loads(row.body)["messages"][0]["content"] for row in job.rows(found, form)] == [
        "Translate: a\nb", "Translate: c",
    ]  # fmt: skip
    assert found.unused == ("id",)
    assert job.refusal(make_form(template="{txt}")).hint.startswith("did you mean `text`?")  # type: ignore[union-attr]


def test_flags_that_do_not_go_with_the_input_name_the_file(tmp_path: Path) -> None:
    refusal = Job(tmp_path, [GOOD]).refusal(make_form(settings=["temperature=0"]), skip_bad=True)
    assert refusal.where == f"{tmp_path}/0.jsonl"
    assert "`--set`" in refusal.what


LINE = st.sampled_from(
    [GOOD.encode(), line("b").encode(), line("c", n=2).encode(), b"{}", b"", b"[", b"\xff", b"a\0",
     b'{"prompt": "a"}', b'{"custom_id": "\\ud800"}', line("d", stream=True).encode(), b" \r"]
)  # fmt: skip


@given(st.lists(LINE, max_size=12), st.integers(1, 3), st.integers(0, 12))
def test_every_line_is_a_row_or_left_out_and_never_both(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], samples: int, cut: int
) -> None:
    folder = tmp_path_factory.mktemp("job")
    job = Job(folder, b"\n".join(lines[:cut]), b"\n".join(lines[cut:]))
    form = Form(samples=samples)
    try:
        found = job.survey(form, skip_bad=True)
    except Refused:
        return
    sent = [row.ordinal for row in job.rows(found, form)]
    names = [row.name for row in job.rows(found, form)]
    assert len(names) == len(set(names))
    assert sorted([*sent, *job.left_out(form)]) == list(range(found.rows))
    assert found.rows == sum(bool(one.strip()) for one in lines) * samples
    assert len(sent) == found.rows - found.bad * samples


TABLE = 'prompt,id\n"a\nb",1\n"x ""y""",2\n中,3\n'.encode()
FILES = {
    "a.jsonl": "\n".join([line("a"), line("b"), *plain("c")]).encode(),
    "a.csv": TABLE,
    "a.tsv": TABLE.replace(b",", b"\t"),
    "a.gz": gzip.compress("\n".join(plain("a", "b")).encode()),
    "a.csv.gz": gzip.compress(TABLE),
}


def parquet_file(folder: Path) -> bytes:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"prompt": ["a", "b"], "image": ["x.png", None]}), folder / "p")
    return (folder / "p").read_bytes()


@pytest.mark.parametrize("name", [*FILES, "a.parquet"])
@given(data=st.data())
def test_whatever_is_in_a_file_it_is_surveyed_or_refused(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: Any
) -> None:
    folder = tmp_path_factory.mktemp("job")
    whole = bytearray(FILES.get(name) or parquet_file(folder))
    for _ in range(data.draw(st.integers(0, 4))):
        place = data.draw(st.integers(0, len(whole) - 1))
        whole[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
        whole = whole or bytearray(b"x")
    job = Job(folder, b"")
    job.paths = [folder / name]
    job.paths[0].write_bytes(whole)
    try:
        found = job.survey(skip_bad=data.draw(st.booleans()))
    except Refused as refusal:
        assert refusal.where
        return
    assert len(job.rows(found)) + len(job.left_out()) == found.rows


def group_sizes(texts: list[str]) -> Counter[int]:
    """How many prompts have each key."""
    beginnings = Beginnings()
    for text in texts:
        beginnings.note(text.encode())
    kept = Beginnings(beginnings.kept())
    return Counter(kept.key(text.encode()) for text in texts)


def shuffled(prefixes: list[str], each: int) -> list[str]:
    texts = [f"{prefix} {n} " + "q" * (n % 300) for prefix in prefixes for n in range(each)]
    random.Random(1).shuffle(texts)
    return texts


def test_prompts_that_share_a_long_beginning_belong_together() -> None:
    chance = random.Random(2)
    common = "You are a helpful assistant. " * 8
    for head in ("", common):
        long = [head + "".join(chance.choices("abcdef ", k=2800)) for _ in range(64)]
        assert set(group_sizes(shuffled(long, 40)).values()) == {40}
    short = [f"system {n} " + "".join(chance.choices("abcdef ", k=300)) for n in range(20)]
    assert set(group_sizes(shuffled(short, 10)).values()) == {10}


def test_what_all_prompts_share_makes_groups_of_a_bounded_size() -> None:
    sizes = group_sizes(shuffled(["You are a helpful assistant. " * 20], 5000))
    assert max(sizes.values()) <= 256
    assert len(sizes) < 200


def test_prompts_that_share_nothing_do_not_belong_together() -> None:
    chance = random.Random(3)
    texts = ["".join(chance.choices("abcdef ", k=chance.choice((50, 400)))) for _ in range(20_000)]
    assert max(group_sizes(texts).values()) <= 2


def test_the_survey_counts_what_prompts_share(tmp_path: Path) -> None:
    texts = shuffled(["a" * 500, "b" * 500], 10)
    found = Job(tmp_path, plain(*texts, *map(str, range(50)))).survey()
    assert (found.groups, found.grouped) == (2, 20)


def test_a_change_is_found_before_a_changed_row_is_sent(tmp_path: Path) -> None:
    texts = [f"{n:06}" + "z" * 500 for n in range(10_000)]
    job = Job(tmp_path, plain(*texts))
    found = job.survey()
    again = rows(job.parts, PLAIN, found, job.folder, ())
    before = [next(again)]
    with job.paths[0].open("r+b") as file:
        file.write(b"".join(b'{"prompt": "X%06d"}\n' % n for n in range(10_000)))
    with pytest.raises(Refused, match="has changed") as caught:
        before += again
    assert caught.value.exit_code == 2
    assert len(before) < 5000
    sent = [json.loads(row.body)["messages"][0]["content"] for row in before]
    assert sent == texts[: len(sent)]


def test_a_change_whose_time_was_set_back_is_looked_at(tmp_path: Path) -> None:
    job = Job(tmp_path, plain("a", "b"))
    found = job.survey()
    before = job.paths[0].stat()
    job.paths[0].write_bytes(job.paths[0].read_bytes().replace(b"a", b"c"))
    os.utime(job.paths[0], ns=(before.st_atime_ns, before.st_mtime_ns))
    assert kept_survey(job.parts, PLAIN, job.folder) is None
    assert job.survey().parts[0].digest != found.parts[0].digest


@pytest.mark.parametrize(("own", "name"), [("5", "5"), ('"x"', "x"), ("null", "row-0")])
def test_an_error_row_has_the_name_of_its_line(tmp_path: Path, own: str, name: str) -> None:
    job = Job(tmp_path, [f'{{"custom_id": {own}, "prompt": null}}', *plain("a")])
    job.survey(skip_bad=True)
    assert names_left_out(job) == [name]
    table = Job(tmp_path, f"custom_id,prompt,image\n{own.strip(chr(34))},a,no.png\ny,b,\n".encode())
    table.paths = [table.paths[0].rename(tmp_path / "t.csv")]
    table.survey(skip_bad=True)
    assert names_left_out(table) == [own.strip('"')]


@pytest.mark.parametrize("bad", ["no JSON", '{"prompt": null}'])
def test_no_row_has_the_name_that_is_made_for_an_error_row(tmp_path: Path, bad: str) -> None:
    job = Job(tmp_path, [bad, '{"prompt": "a", "custom_id": "row-0"}', *plain("b")])
    found = job.survey(skip_bad=True)
    assert sorted(job.left_out()) == [0, 1]
    assert [row.name for row in job.rows(found)] == ["row-2"]


def names_left_out(job: Job) -> list[str]:
    return [json.loads(one.line)["custom_id"] for one in skipped(PLAIN, job.folder)]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("left-out.jsonl", None),
        ("left-out.jsonl", b""),
        ("left-out.jsonl", b"garbage\n"),
        ("beginnings.bin", b"short"),
    ],
)
def test_a_survey_whose_files_are_damaged_is_made_again(
    tmp_path: Path, name: str, data: bytes | None
) -> None:
    job = Job(tmp_path, [*plain("a"), "bad"])
    found = job.survey(skip_bad=True)
    (job.folder / name).unlink() if data is None else (job.folder / name).write_bytes(data)
    assert kept_survey(job.parts, PLAIN, job.folder) is None
    assert job.survey(skip_bad=True) == found
    assert kept_survey(job.parts, PLAIN, job.folder) == found

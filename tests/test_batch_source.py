"""The files of an input: which there are, and what is in them (`batch.parts`, `batch.source`)."""

import gzip
import hashlib
import io
import json
import os
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linear import assert_linear
from ropeway.batch.input.parts import Part, Shape, find_parts
from ropeway.batch.input.source import MOST_FIELD, MOST_LINE, Fault, Item, Reading, _lines
from ropeway.batch.stores import library
from ropeway.errors import Refused

NOTHING = io.BytesIO()
LINES = b'{"prompt": "a"}\n{"prompt": "b"}\n'


def read(part: Part) -> list[tuple[int, Item]]:
    """The numbered lines of a file, all columns of a table among them."""
    chunks = Reading(part, lambda names: names).chunks()
    return [pair for chunk in chunks for pair in zip(chunk.numbers, chunk.items, strict=True)]


def part_of(path: Path, data: bytes) -> Part:
    path.write_bytes(data)
    (part,) = find_parts([str(path)], path.parent, NOTHING)
    return part


def kinds(part: Part) -> list[str]:
    """What is wrong with each line; nothing with a line that can be read."""
    return [item.kind if isinstance(item, Fault) else "" for _, item in read(part)]


def test_files_come_in_the_order_of_the_names_and_a_globs_files_sorted(tmp_path: Path) -> None:
    for name in ("b-2.jsonl", "b-1.jsonl", "a.jsonl", "[x].jsonl", "in/c.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(LINES)
    names = [f"{tmp_path}/{name}" for name in ("b-*.jsonl", "a.jsonl", "[x].jsonl", "**/c.jsonl")]
    found = [part.name for part in find_parts(names, tmp_path, NOTHING)]
    expected = ("b-1.jsonl", "b-2.jsonl", "a.jsonl", "[x].jsonl", "in/c.jsonl")
    assert found == [f"{tmp_path}/{name}" for name in expected]


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("no.jsonl", "there is no such file"),
        ("no-*.jsonl", "no file has such a name"),
        (".", "this is a folder"),
        ("a\0b", "cannot be read"),
        ("packed.xz", "a file of xz"),
        ("http://127.0.0.1/in.jsonl", "HTTP"),
    ],
)
def test_a_name_without_a_file_is_refused(tmp_path: Path, name: str, what: str) -> None:
    (tmp_path / "packed.xz").write_bytes(b"\xfd7zXZ\0")
    full = name if "://" in name else f"{tmp_path}/{name}"
    with pytest.raises(Refused, match=what) as caught:
        find_parts([full], tmp_path, NOTHING)
    assert caught.value.where


def test_the_url_that_a_hint_names_is_quoted_for_a_shell(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="HTTP") as caught:
        find_parts(["https://h/a b;c.jsonl"], tmp_path, NOTHING)
    assert caught.value.hint == "fetch it first: `curl -O 'https://h/a b;c.jsonl'`"


def test_the_same_file_twice_is_refused(tmp_path: Path) -> None:
    part_of(tmp_path / "a.jsonl", LINES)
    (tmp_path / "link").symlink_to(tmp_path / "a.jsonl")
    with pytest.raises(Refused, match="twice"):
        find_parts([f"{tmp_path}/a.jsonl", f"{tmp_path}/link"], tmp_path, NOTHING)


def test_standard_input_is_kept_and_can_be_read_again(tmp_path: Path) -> None:
    (first,) = find_parts(["-"], tmp_path, io.BytesIO(LINES))
    lines = read(first)
    assert read(first) == lines != []
    # The job goes on without the pipe before it; with another one it is seen that it is another.
    (second,) = find_parts(["-"], tmp_path, io.BytesIO())
    assert read(second) == lines
    (third,) = find_parts(["-"], tmp_path, io.BytesIO(b"{}\n"))
    assert [item for _, item in read(third)] == [b"{}"]


def test_a_pipe_is_kept_too(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(LINES))
    writer.start()
    (part,) = find_parts([str(pipe)], tmp_path, NOTHING)
    writer.join()
    assert len(read(part)) == len(read(part)) == 2


def test_a_pipe_that_nobody_writes_to_any_more_is_not_waited_for(tmp_path: Path) -> None:
    pipe, found = tmp_path / "pipe", []
    os.mkfifo(pipe)
    (tmp_path / "input-0").write_bytes(LINES)  # what an earlier run kept of it
    reader = threading.Thread(
        target=lambda: found.extend(find_parts([str(pipe)], tmp_path, NOTHING)), daemon=True
    )
    reader.start()
    reader.join(10)
    assert [len(read(part)) for part in found] == [2]


@given(st.lists(st.binary(max_size=6)), st.data())
def test_lines_are_the_same_wherever_the_blocks_end(pieces: list[bytes], data: Any) -> None:
    whole = b"\n".join(pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    edges = [0, *cuts, len(whole)]
    blocks = [whole[a:b] for a, b in pairwise(edges)]
    chunks = list(_lines(blocks))
    lines = [item for chunk in chunks for item in chunk.items]
    expected = whole.split(b"\n")
    assert lines == (expected if expected[-1] else expected[:-1])
    numbers = [number for chunk in chunks for number in chunk.numbers]
    assert numbers == list(range(1, len(lines) + 1))


def test_a_line_of_200_mb_is_a_fault_and_is_not_kept() -> None:
    def blocks() -> Iterator[bytes]:
        yield b"first\n"
        for _ in range(200):
            yield b"x" * 2**20
        yield b"\nlast\n"

    tracemalloc.start()
    items = [item for chunk in _lines(blocks()) for item in chunk.items]
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [items[0], items[2]] == [b"first", b"last"]
    assert isinstance(items[1], Fault)
    assert "209,715,200 bytes" in items[1].what
    assert most < 1.2 * MOST_LINE


@pytest.mark.parametrize("line_end", ["", "\n"])
def test_lines_are_read_in_linear_time(line_end: str) -> None:
    def work(text: str) -> object:
        data = text.encode()
        return list(_lines(data[at : at + 64] for at in range(0, len(data), 64)))

    assert_linear(work, "x" * 50 + line_end)


@pytest.mark.parametrize("name", ["a.gz", "a.jsonl"])
def test_gzip_is_told_by_its_first_bytes_and_may_be_several(tmp_path: Path, name: str) -> None:
    many = b"".join(b'{"prompt": "%d"}\n' % number for number in range(50_000))
    packed = gzip.compress(many[:1000]) + gzip.compress(many[1000:]) + b"\0" * 512
    part = part_of(tmp_path / name, packed)
    assert [item for _, item in read(part)] == many.splitlines()
    plain = part_of(tmp_path / "plain.gz", LINES)
    assert len(read(plain)) == 2


@pytest.mark.parametrize(
    ("keep", "change"), [(-1, b""), (-9, b""), (30, b""), (3, b""), (100, b"\xff" * 8)]
)
def test_gzip_that_is_cut_or_broken_is_refused(tmp_path: Path, keep: int, change: bytes) -> None:
    whole = gzip.compress(os.urandom(4000) + LINES)
    rest = whole[keep + len(change) :] if change else b""
    part = part_of(tmp_path / "a.gz", whole[:keep] + change + rest)
    with pytest.raises(Refused, match="cannot be read") as caught:
        read(part)
    assert caught.value.where == str(tmp_path / "a.gz")


def test_zstd_that_is_cut_is_refused_and_several_frames_are_read(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    codec = arrow.Codec("zstd")
    packed = codec.compress(LINES * 1000, asbytes=True)
    part = part_of(tmp_path / "a", packed + packed)
    assert len(read(part)) == 4000
    for data in (packed[:-3], packed + packed[:20], packed + b"garbage"):
        with pytest.raises(Refused, match="cannot be read"):
            read(part_of(tmp_path / "a", data))


def test_the_hash_is_that_of_the_file_as_it_lies_there(tmp_path: Path) -> None:
    for name, data in (("a", LINES), ("b.gz", gzip.compress(LINES)), ("c.csv", b"prompt\na\n")):
        part = part_of(tmp_path / name, data)
        reading = Reading(part, lambda names: names)
        assert len(list(reading.chunks())) > 0
        assert reading.digest == hashlib.sha256(data).hexdigest()
        assert reading.bytes_read == part.size == len(data)


def test_a_line_that_is_no_text_is_a_fault_and_the_next_is_read(tmp_path: Path) -> None:
    data = b'\xef\xbb\xbf{"a": 1}\n\xb0\xa1\n{"a": "\xe4\xb8\xad"}\r\nx\0y\n'
    part = part_of(tmp_path / "a.jsonl", data)
    assert kinds(part) == ["", "encoding", "", "encoding"]
    assert [item for _, item in read(part)][::2] == [b'{"a": 1}', '{"a": "中"}\r'.encode()]


def test_utf_16_is_refused_with_what_makes_utf_8_of_it(tmp_path: Path) -> None:
    for encoding in ("utf-16", "utf-16-be"):
        mark = "" if encoding == "utf-16" else "\ufeff"
        part = part_of(tmp_path / "a", (mark + '{"prompt": "a"}\n').encode(encoding))
        with pytest.raises(Refused, match="UTF-16") as caught:
            read(part)
        assert "iconv -f UTF-16" in str(caught.value.hint)


def test_a_table_of_text_names_the_line_where_each_record_begins(tmp_path: Path) -> None:
    data = 'id, text \n1,"two\nlines"\n\n2,"a ""b"""\n3\n4,"x"y\n5,中\n'
    part = part_of(tmp_path / "a.csv", b"\xef\xbb\xbf" + data.encode())
    found = read(part)
    assert found[0] == (2, {"id": b'"1"', "text": b'"two\\nlines"'})
    assert found[1] == (4, b"")
    assert found[2] == (5, {"id": b'"2"', "text": rb'"a \"b\""'})
    assert [number for number, _ in found] == [2, 4, 5, 6, 7, 8]
    assert kinds(part) == ["", "", "", "csv", "csv", ""]
    assert found[5][1] == {"id": b'"5"', "text": '"中"'.encode()}


def test_tabs_separate_what_is_called_tsv(tmp_path: Path) -> None:
    part = part_of(tmp_path / "a.TSV.gz", gzip.compress(b"a\tb\n1,5\t2\n"))
    assert read(part) == [(2, {"a": b'"1,5"', "b": b'"2"'})]
    path = tmp_path / "other"
    path.write_bytes(b"a\n1\n")
    (said,) = find_parts([str(path)], tmp_path, NOTHING, Shape.CSV)
    assert read(said) == [(2, {"a": b'"1"'})]


@pytest.mark.parametrize(
    ("data", "what", "line"),
    [
        (b'a,b\n1,2\n3,"4\n5,6\n', "quote", 3),
        (b"a,a\n1,2\n", "two columns are called `a`", 1),
        (b"\xb0\xa1,b\n1,2\n", "not UTF-8", 1),
        (b'"a"x,b\n1,2\n3,4\n', "columns are no CSV", 1),
    ],
)
def test_a_table_that_cannot_be_read_on_is_refused(
    tmp_path: Path, data: bytes, what: str, line: int
) -> None:
    part = part_of(tmp_path / "a.csv", data)
    with pytest.raises(Refused, match=what) as caught:
        read(part)
    assert caught.value.where == f"{tmp_path}/a.csv:{line}"


def test_a_record_that_is_no_text_is_a_fault(tmp_path: Path) -> None:
    part = part_of(tmp_path / "a.csv", b"a,b\n1,\xb0\xa1\n2,x\0\n3,4\n")
    assert kinds(part) == ["encoding", "encoding", ""]


def test_parquet_is_read_by_pieces_and_only_what_is_wanted(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.bin"
    count = 3000
    table = arrow.table(
        {
            "text": [f"t{number}" for number in range(count)],
            "n": list(range(count)),
            "bytes": [b"plain"] * (count - 1) + [b"\xff"],
            "messages": [[{"role": "user", "content": "中"}]] * count,
            "none": arrow.array([None] * count, arrow.string()),
        }
    )
    parquet.write_table(table, path, row_group_size=700)
    (part,) = find_parts([str(path)], tmp_path, NOTHING)
    found = read(part)
    assert [number for number, _ in found] == list(range(1, count + 1))
    first = found[0][1]
    assert isinstance(first, dict)
    assert {name: json.loads(value) for name, value in first.items()} == {
        "text": "t0", "n": 0, "bytes": "plain", "none": None,
        "messages": [{"role": "user", "content": "中"}],
    }  # fmt: skip
    assert isinstance(found[-1][1], Fault)
    chunks = list(Reading(part, lambda _names: ["n"]).chunks())
    assert max(len(chunk.items) for chunk in chunks) <= 1024
    assert chunks[0].items[5] == {"n": b"5"}
    assert sum(len(chunk.items) for chunk in Reading(part, lambda _names: []).chunks()) == count
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(Refused, match="cannot be read"):
        read(part)


def test_a_store_is_read_by_its_url(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    for name in ("a/2.jsonl", "a/1.jsonl.gz", "a/b/3.jsonl", "a/x.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(gzip.compress(LINES) if name.endswith("gz") else LINES)
    parts = find_parts([f"file://{tmp_path}/a/*.jsonl*"], tmp_path, NOTHING)
    assert [part.name.rpartition("/")[2] for part in parts] == ["1.jsonl.gz", "2.jsonl"]
    assert [len(read(part)) for part in parts] == [2, 2]
    deep = find_parts([f"file://{tmp_path}/**/*.jsonl"], tmp_path, NOTHING)
    assert [part.name.rpartition("/")[2] for part in deep] == ["2.jsonl", "3.jsonl"]
    (one,) = find_parts([f"file://{tmp_path}/a/2.jsonl"], tmp_path, NOTHING)
    assert one.size == len(LINES)
    for name, what in (("a/no.jsonl", "no such file"), ("a/no*", "such a name")):
        with pytest.raises(Refused, match=what):
            find_parts([f"file://{tmp_path}/{name}"], tmp_path, NOTHING)


def test_the_keys_of_a_store_are_in_no_error(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    with pytest.raises(Refused) as caught:
        find_parts(["nostore://key:secret@bucket/a.jsonl"], tmp_path, NOTHING)
    assert "secret" not in json.dumps(caught.value.as_json())


def test_a_package_that_is_away_is_named_with_the_extra_that_has_it() -> None:
    with pytest.raises(Refused, match="no_such_package") as caught:
        library("no_such_package.inner")
    assert "ropeway[batch]" in str(caught.value.hint)


def test_columns_that_are_not_read_may_have_any_name(tmp_path: Path) -> None:
    part = part_of(tmp_path / "a.csv", b"\n\na,,\n1,,\n")
    chunks = Reading(part, lambda names: [name for name in names if name == "a"]).chunks()
    assert [item for chunk in chunks for item in chunk.items] == [{"a": b'"1"'}]


def test_a_field_that_is_too_long_is_one_fault(tmp_path: Path) -> None:
    long = b'"' + b"x\n" * (MOST_FIELD // 2 + 1) + b'"'
    part = part_of(tmp_path / "a.csv", b"a,b\n1,2\n" + long + b",3\n4,5\n")
    assert kinds(part) == ["", "long", ""]


def test_a_table_of_long_fields_is_read_a_few_records_at_a_time(tmp_path: Path) -> None:
    record = b"x" * 10**6 + b",1\n"
    part = part_of(tmp_path / "a.csv", b"a,b\n" + record * 30)
    chunks = [len(chunk.items) for chunk in Reading(part, lambda names: names).chunks()]
    assert sum(chunks) == 30
    assert max(chunks) == 9  # as soon as it is 8 MiB


def test_long_values_of_parquet_come_a_few_at_a_time_and_none_too_long(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    # On average they are short.
    texts = ["short"] * 3000 + ["x" * 10**6] * 40 + ["y" * (MOST_FIELD + 1), "last"]
    parquet.write_table(arrow.table({"prompt": texts}), path)
    (part,) = find_parts([str(path)], tmp_path, NOTHING)
    number, most = 1, 0
    faults: list[tuple[int, str]] = []
    for chunk in Reading(part, lambda names: names).chunks():
        assert list(chunk.numbers) == list(range(number, number + len(chunk.items)))
        number += len(chunk.items)
        values = [item["prompt"] for item in chunk.items if isinstance(item, dict)]
        most = max(most, sum(map(len, values)))
        faults += [
            (at, item.kind)
            for at, item in zip(chunk.numbers, chunk.items, strict=True)
            if isinstance(item, Fault)
        ]
    assert number == len(texts) + 1
    assert faults == [(3041, "long")]
    assert most < 1.1 * 2**23


@pytest.mark.parametrize("packed", [False, True])
def test_utf_32_is_not_called_utf_16(tmp_path: Path, packed: bool) -> None:
    data = '{"prompt": "a"}\n'.encode("utf-32")
    with pytest.raises(Refused, match="UTF-32"):
        read(part_of(tmp_path / "a", gzip.compress(data) if packed else data))


@pytest.mark.parametrize("first", [0x50, 0x5F])
def test_zstd_may_begin_with_a_frame_to_be_skipped(tmp_path: Path, first: int) -> None:
    arrow = pytest.importorskip("pyarrow")
    frame = bytes((first, 0x2A, 0x4D, 0x18, 3, 0, 0, 0)) + b"abc"
    packed = arrow.Codec("zstd").compress(LINES, asbytes=True)
    assert len(read(part_of(tmp_path / "a", frame + packed))) == 2


def test_a_time_that_python_has_not_is_one_fault(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    days = arrow.array([1, 2**30, 3], arrow.date32())
    moments = arrow.array([1000, 2000, 3001], arrow.timestamp("ns"))
    parquet.write_table(arrow.table({"day": days, "moment": moments}), tmp_path / "a.parquet")
    (part,) = find_parts([str(tmp_path / "a.parquet")], tmp_path, NOTHING)
    assert kinds(part) == ["", "value", "value"]
    assert read(part)[0][1] == {"day": b'"1970-01-02"', "moment": b'"1970-01-01T00:00:00.000001"'}


def test_two_columns_of_a_name_are_refused_in_parquet_too(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = arrow.Table.from_arrays([arrow.array(["a"]), arrow.array(["b"])], names=["p", "p"])
    parquet.write_table(table, tmp_path / "a.parquet")
    (part,) = find_parts([str(tmp_path / "a.parquet")], tmp_path, NOTHING)
    with pytest.raises(Refused, match="two columns are called `p`"):
        read(part)
    assert len(list(Reading(part, lambda _: []).chunks())) == 1


def test_a_parquet_file_whose_end_is_damaged_is_refused(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(arrow.table({"prompt": ["a", "b"], "x": [1, 2]}), path)
    whole = path.read_bytes()
    for place in range(len(whole) - parquet.read_metadata(path).serialized_size, len(whole) - 8):
        with suppress(Refused):
            read(part_of(path, whole[:place] + b"\x55" + whole[place + 1 :]))

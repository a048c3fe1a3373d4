"""Pictures of rows: which files are taken for some, and how they are sent (`batch.pictures`)."""

import asyncio
import base64
import errno
import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import msgspec
import pytest

from batch_server import BatchServer, completion
from ropeway.batch.input import pictures
from ropeway.batch.input.parts import Part, Shape
from ropeway.batch.input.pictures import PictureRow, picture_type
from ropeway.batch.input.requests import Reader, Request
from ropeway.batch.input.source import Fault
from ropeway.batch.input.template import CHAT, Form, make_form
from ropeway.batch.input.tokens import PICTURE
from ropeway.batch.sending.send import Sender
from ropeway.batch.sending.verdict import Answer, Verdict
from ropeway.errors import RopewayError

PNG = b"\x89PNG\r\n\x1a\n"


def reader_in(folder: Path, form: Form | None = None) -> Reader:
    reader = Reader(form or Form())
    reader.begin(Part("in", "in", Shape.LINES, "", 0, 0, folder=folder))
    return reader


def read(folder: Path, image: object, form: Form | None = None) -> Request | Fault:
    return reader_in(folder, form).read(json.dumps({"prompt": "a", "image": image}).encode())


def row_of(folder: Path, **columns: object) -> PictureRow:
    reader = reader_in(folder)
    request = reader.read(json.dumps({"prompt": "a", **columns}).encode())
    assert isinstance(request, Request), request
    assert request.pictures
    return PictureRow(0, "a", CHAT, next(reader.bodies(request)), 0, 0)


def body_of(row: PictureRow) -> bytes:
    size, blocks = row.payload()
    body = b"".join(blocks)
    assert len(body) == size
    return body


def content(body: bytes) -> Any:
    return json.loads(body)["messages"][0]["content"]


def url(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def test_pictures_are_read_when_a_row_is_sent(tmp_path: Path) -> None:
    path = tmp_path / 'a "1".png'
    path.write_bytes(PNG)
    prompt = '{"url":"file:///etc/x"}'
    row = row_of(tmp_path, prompt=prompt, image=path.name, images=["http://h/b.jpg"])
    assert b"data:" not in row.body
    data = PNG + os.urandom(100_001)
    path.write_bytes(data)
    first, second, text = content(body_of(row))
    assert first["image_url"]["url"] == url(data)
    assert second["image_url"]["url"] == "http://h/b.jpg"
    assert text == {"type": "text", "text": prompt}
    path.unlink()
    with pytest.raises(RopewayError, match="cannot be read"):
        row.payload()


def test_a_picture_counts_as_many_tokens(tmp_path: Path) -> None:
    request = read(tmp_path, ["http://h/a.png", "http://h/b.png"])
    assert isinstance(request, Request)
    assert request.tokens > 2 * PICTURE
    assert not request.pictures


@pytest.mark.parametrize("image", ["away.png", ".", "a\0b", 5, [""], {"path": None}, [[]], True])
def test_a_picture_that_is_away_is_a_fault(tmp_path: Path, image: object) -> None:
    fault = read(tmp_path, image)
    assert isinstance(fault, Fault)
    assert fault.kind == "picture"
    assert isinstance(read(tmp_path, image, make_form(pictures=False)), Request)


@pytest.mark.parametrize("image", [None, "", []])
def test_a_row_may_have_no_picture(tmp_path: Path, image: object) -> None:
    request = read(tmp_path, image)
    assert isinstance(request, Request)
    assert b"image" not in request.core


@pytest.mark.parametrize("name", ["../out.png", "{}/out.png", "file://{}/out.png", "link.png"])
def test_only_files_under_the_inputs_folder_are_pictures(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (tmp_path / "out.png").write_bytes(PNG)
    (folder / "link.png").symlink_to("../out.png")
    image = name.format(tmp_path)
    fault = read(folder, image)
    assert isinstance(fault, Fault)
    assert f"`{tmp_path}/out.png` is not under" in fault.what
    assert fault.hint == f"allow it: `--pictures-from {tmp_path}`"
    assert isinstance(read(folder, image, make_form(pictures_from=tmp_path)), Request)


def test_the_folder_that_a_hint_names_is_quoted_for_a_shell(tmp_path: Path) -> None:
    folder, other = tmp_path / "in", tmp_path / "a b;c"
    for one in (folder, other):
        one.mkdir()
    (other / "p.png").write_bytes(PNG)
    fault = read(folder, f"{other}/p.png")
    assert isinstance(fault, Fault)
    assert fault.hint == f"allow it: `--pictures-from '{other}'`"


def test_a_folder_may_have_any_bytes_for_a_name(tmp_path: Path) -> None:
    folder = tmp_path / "\udcff"
    folder.mkdir()
    fault = read(folder, "p.png")
    assert isinstance(fault, Fault)
    assert fault.what == f"there is no picture `{tmp_path}/\\udcff/p.png`"
    (folder / "p.png").write_bytes(b"text")
    with pytest.raises(RopewayError) as caught:
        row_of(folder, image="p.png").payload()
    assert caught.value.where == f"{tmp_path}/\\udcff/p.png"


def test_a_folder_that_is_a_link_is_the_inputs_folder_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "p.png").write_bytes(PNG)
    (tmp_path / "link").symlink_to("real")
    assert content(body_of(row_of(tmp_path / "link", image="p.png")))[0]["image_url"]
    assert row_of(tmp_path / "link", image=f"{tmp_path}/link/p.png").payload()


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("file://{}/a%20b.png", "a b.png"),
        ("{}/a%20b.png", "a%20b.png"),
        ("file://{}/a%2520b.png", "a%20b.png"),
        ("file://{}/%e4.png", "\udce4.png"),
    ],
)
def test_a_url_of_a_file_is_decoded_and_a_path_is_not(
    tmp_path: Path, image: str, name: str
) -> None:
    (tmp_path / name).write_bytes(PNG)
    assert row_of(tmp_path, image=image.format(tmp_path)).payload()


@pytest.mark.parametrize("data", [b"", b"root:x:0:0", b"BMW is a car", b"%PDF-1.7", b"x" * 99])
def test_what_is_no_picture_by_its_bytes_is_not_sent(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "p.png").write_bytes(data)
    with pytest.raises(RopewayError, match="no picture by its first bytes"):
        row_of(tmp_path, image="p.png").payload()


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (PNG, "image/png"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "image/jpeg"),
        (b"GIF89a", "image/gif"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "image/webp"),
        (b"BM\x10\0\0\0\0\0\0\0\x36\0", "image/bmp"),
        (b"\0\0\0\x1cftypavif", "image/avif"),
        (b"\0\0\0\x1cftypheic", "image/heic"),
        (b"\0\0\0\x1cftypisom", None),
        (b"RIFF\x10\0\0\0WAVEfmt ", None),
    ],
)
def test_a_picture_is_told_by_its_first_bytes(head: bytes, kind: str | None) -> None:
    assert picture_type(head) == kind


@pytest.mark.parametrize("path", ["p.jpg", None])
def test_pictures_of_a_data_set_are_sent_as_they_are(path: str | None) -> None:
    image = msgspec.json.encode({"bytes": PNG, "path": path})
    request = Reader(Form()).read({"prompt": b'"a"', "image": image})
    assert isinstance(request, Request)
    assert url(PNG).encode() in request.core
    none = msgspec.json.encode({"bytes": b"root:x:0:0", "path": "p.png"})
    assert isinstance(Reader(Form()).read({"prompt": b'"a"', "image": none}), Fault)


def sent(row: PictureRow) -> tuple[Answer, list[bytes]]:
    """What a server says, and the pictures' URLs of which it was asked."""

    async def main() -> tuple[Answer, list[bytes]]:
        async with BatchServer(answer=seen) as server, Sender(server.endpoint, 60.0) as sender:
            told: list[bool] = []
            answer = await sender.send(row, "id", lambda: told.append(True))
            assert len(told) == len(server.bodies)  # each that was sent is told of
            return answer, server.bodies

    async def seen(_: BatchServer, __: str) -> Any:
        return completion("a")

    return asyncio.run(main())  # virtual time does not wait for threads


def with_prompt(row: PictureRow) -> PictureRow:
    """The row as the server of the tests takes it, which looks for a prompt."""
    return PictureRow(0, "a", "/v1/completions", b'{"prompt":"a",' + row.body[1:], 0, 0)


def test_many_pictures_are_sent_whole(tmp_path: Path) -> None:
    names = [f"{n}.png" for n in range(50)]
    for n, name in enumerate(names):
        (tmp_path / name).write_bytes(PNG + os.urandom(n * 20_000))
    answer, (body,) = sent(with_prompt(row_of(tmp_path, images=names)))
    assert answer.verdict is Verdict.ANSWERED
    urls = [part["image_url"]["url"] for part in content(body)[:-1]]
    assert urls == [url((tmp_path / name).read_bytes()) for name in names]


def test_a_large_picture_takes_little_memory(tmp_path: Path) -> None:
    with (tmp_path / "p.png").open("wb") as file:
        file.write(PNG)
        file.truncate(40 * 10**6)
    row = row_of(tmp_path, image="p.png")
    tracemalloc.start()
    size, blocks = row.payload()
    assert sum(map(len, blocks)) == size > 50 * 10**6
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ESTALE, errno.EIO])
def test_a_picture_that_is_away_for_a_moment_costs_a_try(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "p.png").write_bytes(PNG)
    row = with_prompt(row_of(tmp_path, image="p.png"))

    def opened(_: Path) -> Any:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(pictures, "open_regular", opened)
    answer, bodies = sent(row)
    assert (answer.verdict, answer.fault, answer.broke, bodies) == (
        Verdict.UNREADY,
        "no picture",
        False,
        [],
    )


def test_a_picture_that_becomes_shorter_while_it_is_sent_costs_a_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "p.png"
    path.write_bytes(PNG + bytes(10**6))
    row = with_prompt(row_of(tmp_path, image="p.png"))
    as_it_was = row.payload()
    path.write_bytes(PNG)
    monkeypatch.setattr(PictureRow, "payload", lambda _: as_it_was)
    answer, bodies = sent(row)
    assert (answer.verdict, answer.fault, answer.broke, bodies) == (
        Verdict.UNREADY,
        "no picture",
        False,
        [],
    )
    assert "shorter" in answer.words

"""The user's own prompts, read as `ropeway batch` reads its input, and made ready to be sent.

A table or a packed file has no row that can be read by itself. So the rows are written into a file
of their own once, from which each process that sends takes what it draws.
"""

import asyncio
import io
import os
import tempfile
from array import array
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import BinaryIO, cast

import msgspec
from msgspec import Raw

from ropeway.batch.input.parts import Part, Shape, find_parts
from ropeway.batch.input.pictures import PictureRow
from ropeway.batch.input.requests import Kind, Reader, Request
from ropeway.batch.input.reread import blank
from ropeway.batch.input.source import Fault, Item, Reading
from ropeway.batch.input.template import CHAT, make_form
from ropeway.batch.input.tokens import text_tokens
from ropeway.bench.load_test import LoadTest
from ropeway.bench.workloads.conversations import Exchange, elements, exchange_in, is_array
from ropeway.bench.workloads.spool import Held, Spool, drawn
from ropeway.endpoint.client import ServedModel
from ropeway.errors import Refused, RopewayError, reason_of
from ropeway.phrases import joined, phrase
from ropeway.units import format_bytes

CountText = Callable[[str], Awaitable[int | None]]
"""Tokens of a text; None when they are unknown."""

MOST_COUNTED = 4096
"""Answers that the server's tokenizer is asked about: it takes some milliseconds for each."""

_MOST_BYTES = 8 * 2**30
_AT_ONCE = 16
_LIMITS = ("max_completion_tokens", "max_tokens")
_read_body = msgspec.json.Decoder(dict[str, Raw]).decode


async def read_prompts(load: LoadTest, model: ServedModel, count: CountText) -> Spool:
    """Read the load's files, and count the answers in them.

    Raises Refused for the first row that cannot be sent, and where no row can.
    """
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            tempfile.TemporaryFile() as file,
            tempfile.TemporaryFile() as answers,
        ):
            parts = find_parts(load.files, Path(folder), io.BytesIO())
            writer = _Writer(load, model, cast(BinaryIO, file), cast(BinaryIO, answers))
            digests = [writer.read(part) for part in parts]
            return await writer.spool([part.name for part in parts], digests, count)
    except OSError as error:
        what = phrase("the prompts cannot be kept: {reason}", reason=reason_of(error))
        raise Refused(what, where=tempfile.gettempdir()) from None


class _Writer:
    """Writes rows into the file of a spool, and the texts of answers into another."""

    def __init__(
        self, load: LoadTest, model: ServedModel, file: BinaryIO, answers: BinaryIO
    ) -> None:
        self._load, self._model, self._file, self._answers = load, model, file, answers
        self._reader = Reader(make_form(CHAT, load.template, load.settings), streams=True)
        self._begins, self._limits = array("Q", [0]), array("Q")
        self._texts = array("Q", [0])  # where the text of each row's answer ends
        self._prompt_tokens = self._answer_tokens = self._left_out = 0

    def read(self, part: Part) -> str:
        """Take the rows of a file; return its SHA-256. Raises Refused."""
        self._reader.begin(part)
        reading, items = _items(part, self._reader)
        for number, item in items:
            where = f"{part.name}:{number}"
            exchange = exchange_in(item) if isinstance(item, bytes) else None
            if exchange is not None:
                self._take_exchange(exchange)
                continue
            request = self._reader.read(item)
            if isinstance(request, Fault):
                raise Refused(request.what, where=where, hint=_hint(request))
            self._take_request(request, where)
        return reading.digest

    async def spool(self, names: Sequence[str], digests: Sequence[str], count: CountText) -> Spool:
        """Return all that was taken. Raises Refused where that is nothing."""
        rows = len(self._limits)
        if not rows:
            raise Refused(
                phrase("no conversation has a question, and an answer that the model has room for")
                if self._left_out
                else "the input is empty",
                where=joined(names, ", "),
            )
        counted = await self._count_answers(count)
        self._file.flush()
        held = Held(self._file)
        return Spool(
            path=held.path,
            begins=self._begins,
            limits=self._limits,
            files=tuple(names),
            digests=tuple(digests),
            input_tokens=max(1, round(self._prompt_tokens / rows)),
            output_tokens=max(1, round((self._answer_tokens + sum(self._limits)) / rows)),
            left_out=self._left_out,
            answers=sum(map(self._has_answer, range(rows))),
            counted=counted,
            held=held,
        )

    def _take_exchange(self, exchange: Exchange) -> None:
        prompt = msgspec.json.encode(exchange.question)
        answer = exchange.answer.encode()
        tokens, length = text_tokens(prompt), text_tokens(answer)
        context = self._model.context
        if not exchange.question or (context is not None and tokens + length > context):
            self._left_out += 1
            return
        self._answers.write(answer)
        messages = Raw(b'[{"role":"user","content":%b}]' % prompt)
        self._put({"messages": messages, **self._temperature()}, tokens, length, len(answer))

    def _take_request(self, request: Request, where: str) -> None:
        """Raises Refused for what a load test cannot send."""
        context = self._model.context
        if request.path != CHAT:
            raise Refused(phrase("a load test sends chats, and this row asks for `{path}`",
                                 path=request.path), where=where)  # fmt: skip
        if context is not None and request.fewest > context:
            what = phrase(
                "the prompt has about {tokens:,} tokens, and the model takes {context:,}",
                tokens=request.tokens,
                context=context,
            )
            raise Refused(what, where=where)
        body = next(iter(self._reader.bodies(request)))
        if request.pictures:
            body = _with_pictures(body, where)
        keys = _read_body(body)
        if _is_set(keys, "n") and bytes(keys["n"]) != b"1":
            raise Refused(
                phrase("the row asks for several answers"),
                where=where,
                hint=phrase("take `n` out: a load test follows one answer for each request"),
            )
        if self._reader.kind is Kind.COLUMNS:
            keys = self._temperature() | keys
        limit = 0
        if any(_is_set(keys, name) for name in _LIMITS):
            self._answer_tokens += max(0, request.answer)
        else:
            limit = self._load.answer_tokens(f"{self._load.seed} row {len(self._limits)}")
        self._put(keys, request.tokens, limit)

    def _put(self, keys: dict[str, Raw], tokens: int, limit: int, answer: int = 0) -> None:
        """Write a row. `limit`: the most tokens of its answer; 0: `keys` say so.

        answer  bytes of an answer that is in the user's file
        """
        keys.pop("model", None)
        keys["stream"], keys["stream_options"] = Raw(b"true"), Raw(b'{"include_usage":true}')
        if limit:
            for name in _LIMITS:
                keys.pop(name, None)
            if self._load.ignore_eos:
                keys.setdefault("ignore_eos", Raw(b"true"))
        body = msgspec.json.encode(keys)
        self._file.write(body)
        self._begins.append(self._begins[-1] + len(body))
        self._texts.append(self._texts[-1] + answer)
        self._limits.append(limit)
        self._prompt_tokens += tokens
        if self._begins[-1] > _MOST_BYTES:
            size = format_bytes(_MOST_BYTES)
            raise Refused(
                phrase("the prompts are longer than {size} together", size=size),
                hint=phrase("name fewer files, or a part of them"),
            )

    def _temperature(self) -> dict[str, Raw]:
        return {"temperature": Raw(msgspec.json.encode(self._load.temperature))}

    def _has_answer(self, row: int) -> bool:
        return self._texts[row] < self._texts[row + 1]

    async def _count_answers(self, count: CountText) -> int:
        """Have the answers counted that are sent first; return of how many rows that was."""
        rows = len(self._limits)
        first = islice(drawn(rows, self._load.seed, 0), min(rows, MOST_COUNTED))
        left = filter(self._has_answer, first)
        self._answers.flush()
        done = 0
        while some := list(islice(left, 1 if not done else _AT_ONCE)):
            counts = await asyncio.gather(*(count(self._answer(row)) for row in some))
            for row, tokens in zip(some, counts, strict=True):
                if tokens is None:
                    return done
                self._limits[row] = tokens
                done += 1
        return done

    def _answer(self, row: int) -> str:
        begin, end = self._texts[row : row + 2]
        return os.pread(self._answers.fileno(), end - begin, begin).decode()


def _hint(fault: Fault) -> str | None:
    if fault.hint is not None or fault.kind != "json":
        return fault.hint
    return phrase(
        "prompts are read from JSON lines such as `{line}`, CSV, Parquet, requests of OpenAI's"
        " Batch API, and ShareGPT's conversations",
        line='{"prompt": "…"}',
    )


def _items(part: Part, reader: Reader) -> tuple[Reading, Iterator[tuple[int, Item]]]:
    """Return a file's rows, each with the number of its line, or of its place in an array."""
    if part.shape is Shape.LINES:
        reading = Reading(part, reader.wanted)
        with closing(reading.unpacked()) as blocks:
            start = next((block for block in blocks if not block.isspace()), b"")
        if is_array(start):
            reading = Reading(part, reader.wanted)
            return reading, enumerate(_elements(reading), 1)
    reading = Reading(part, reader.wanted)
    return reading, _lines(reading)


def _elements(reading: Reading) -> Iterator[bytes]:
    blocks = reading.unpacked()
    try:
        yield from elements(blocks)
    except ValueError as error:
        raise Refused(error.args[0], where=reading.part.name) from None
    for _ in blocks:  # what follows belongs to the file's hash
        pass


def _lines(reading: Reading) -> Iterator[tuple[int, Item]]:
    for chunk in reading.chunks():
        for number, item in zip(chunk.numbers, chunk.items, strict=True):
            if not blank(item):
                yield number, item


def _with_pictures(body: bytes, where: str) -> bytes:
    """Return a body with the pictures that it has the paths of."""
    try:
        return b"".join(PictureRow(0, "", CHAT, body, 0, 0).payload()[1])
    except (RopewayError, OSError) as error:
        what = error.what if isinstance(error, RopewayError) else reason_of(error)
        raise Refused(what, where=where) from None


def _is_set(keys: dict[str, Raw], name: str) -> bool:
    return name in keys and bytes(keys[name]) != b"null"

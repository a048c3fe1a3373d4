"""The input's files, read as often as it takes: lines of text, or records of named columns.

Reading is sequential, in time that grows with the input and in memory that does not.

A line that cannot be used is a `Fault`, for the job may go on without it. A file that cannot be
read to its end raises Refused: nobody knows which rows are missing.
"""

import csv
import hashlib
import io
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import msgspec

from ropeway.batch.input.parts import Part, Shape, cannot_read, open_part
from ropeway.batch.stores import library
from ropeway.errors import Refused, reason_of
from ropeway.phrases import phrase

MOST_LINE = 50 * 10**6
"""Bytes of the longest line that is read."""
MOST_FIELD = 10**7
"""Characters of the longest field of CSV."""

_BLOCK = 2**20
_PACKED_BLOCK = 2**16  # of a packed file, which may unpack to a thousand times as much
_RECORDS = 1024  # of a table at once, at most
_RECORDS_BYTES = 2**23  # and about so many bytes

Columns = Mapping[str, bytes]
"""A record: the JSON of its columns."""
Wanted = Callable[[Sequence[str]], Sequence[str]]
"""Says which columns of a table are to be read."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a line cannot be used: `kind` in one word, by which faults are counted.

    name  its own `custom_id`, where that can be read
    """

    kind: str
    what: str
    hint: str | None = None
    name: str = ""


Item = bytes | Columns | Fault


@dataclass(frozen=True, slots=True)
class Chunk:
    """Neighbouring lines or records, each with the number of its line (in Parquet: of its row).

    begin  the byte at which the first line begins, of a file that is lines and not packed
    """

    numbers: Sequence[int]
    items: Sequence[Item]
    begin: int = 0


class Reading:
    """One pass over a file: its chunks, and then the hash of the bytes that were read."""

    def __init__(self, part: Part, wanted: Wanted) -> None:
        self.part = part
        self.bytes_read = 0
        self._wanted = wanted
        self._hash = hashlib.sha256()

    @property
    def digest(self) -> str:
        """The SHA-256 of the file, once its chunks have been read to the end."""
        return self._hash.hexdigest()

    def chunks(self) -> Iterator[Chunk]:
        """Yield what is in the file. Raises Refused where it cannot be read."""
        with open_part(self.part) as file:
            try:
                if self.part.shape is Shape.PARQUET:
                    for _ in self._blocks(file, _BLOCK):  # its reader jumps about in the file
                        pass
                    yield from _parquet(self.part, self._wanted)
                    return
                lines = _lines(self._unpacked(file), self.part.line, self.part.begin)
                if self.part.shape is Shape.LINES:
                    yield from map(self._checked, lines)
                else:
                    yield from _csv(map(self._checked_start, lines), self.part, self._wanted)
            except (OSError, EOFError, zlib.error) as error:
                raise cannot_read(self.part.name, reason_of(error)) from None

    def unpacked(self) -> Generator[bytes, None, None]:
        """Yield the bytes that are in the file. Raises Refused where it cannot be read."""
        with open_part(self.part) as file:
            try:
                yield from self._unpacked(file)
            except (OSError, EOFError, zlib.error) as error:
                raise cannot_read(self.part.name, reason_of(error)) from None

    def _unpacked(self, file: BinaryIO) -> Iterator[bytes]:
        if not self.part.packing:
            return self._blocks(file, _BLOCK)
        packed = self._blocks(file, _PACKED_BLOCK)
        return _gunzip(packed) if self.part.packing == "gzip" else _unzstd(packed)

    def _blocks(self, file: BinaryIO, size: int) -> Iterator[bytes]:
        end = self.part.end
        left = None if end is None else end - self.part.begin
        while block := file.read(size if left is None else min(size, left - self.bytes_read)):
            self._hash.update(block)
            self.bytes_read += len(block)
            yield block

    def _checked(self, chunk: Chunk) -> Chunk:
        """Return the chunk with a fault for each line that is no text."""
        chunk = self._checked_start(chunk)
        whole = b"\n".join(line for line in chunk.items if isinstance(line, bytes))
        if whole.isascii() and b"\0" not in whole:
            return chunk
        return replace(chunk, items=[_text(line) for line in chunk.items])

    def _checked_start(self, chunk: Chunk) -> Chunk:
        first = chunk.items[0]
        if chunk.numbers[0] == 1 and isinstance(first, bytes):
            if first.startswith((b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")):
                wide = first.startswith((b"\xff\xfe\0\0", b"\0\0"))
                encoding = "UTF-32" if wide else "UTF-16"
                what = phrase("the file is {encoding} text", encoding=encoding)
                raise _not_utf8(what, self.part.name, encoding)
            # What some editors and Excel put before UTF-8.
            return replace(chunk, items=[first.removeprefix(b"\xef\xbb\xbf"), *chunk.items[1:]])
        return chunk


def _gunzip(packed: Iterator[bytes]) -> Iterator[bytes]:
    """Unpack gzip, which may be several files one after the other."""
    engine, begun = zlib.decompressobj(wbits=31), False
    for piece in packed:
        rest = piece if begun else piece.lstrip(b"\0")  # what fills up a block of a tape
        while rest:
            begun = True
            yield engine.decompress(rest, _BLOCK)
            rest = engine.unconsumed_tail
            if engine.eof:
                rest = engine.unused_data.lstrip(b"\0")
                engine, begun = zlib.decompressobj(wbits=31), False
    if begun:
        raise EOFError(phrase("it ends in the middle of its packed data"))


def _unzstd(packed: Iterator[bytes]) -> Iterator[bytes]:
    """Unpack zstd by pyarrow: the package zstandard ends without an error where data is missing."""
    arrow = library("pyarrow")
    stream = arrow.CompressedInputStream(arrow.PythonFile(_File(packed), "r"), "zstd")
    while block := stream.read(_BLOCK):
        yield block


class _File(io.RawIOBase):
    """Blocks of bytes as a file that is read once."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._rest or next(self._blocks, b"")
        part = data[: len(buffer)]
        buffer[: len(part)] = part
        self._rest = data[len(part) :]
        return len(part)


def _lines(blocks: Iterable[bytes], number: int = 1, begin: int = 0) -> Iterator[Chunk]:
    """Yield the lines without their line feeds. The first is line `number`, at byte `begin`."""
    length, read = 0, begin
    begun: list[bytes] = []  # pieces of a line whose end has not come; none once it is too long
    for block in blocks:
        rest, *others = block.split(b"\n")
        if others:
            first, rest = rest, others.pop()
            lines: list[Item] = [_line([*begun, first], length + len(first)), *others]
            yield Chunk(range(number, number + len(lines)), lines, begin)
            number, length, begun = number + len(lines), 0, []
            begin = read + len(block) - len(rest)
        read += len(block)
        length += len(rest)
        if length <= MOST_LINE:
            begun.append(rest)
        else:
            begun = []
    if length:
        yield Chunk(range(number, number + 1), [_line(begun, length)], begin)


def _line(pieces: list[Any], length: int) -> Item:
    if length <= MOST_LINE:
        return b"".join(pieces)
    return Fault("long", phrase("the line has {n:,} bytes; the most is {most:,}", n=length,
                                most=MOST_LINE))  # fmt: skip


def _text(line: Item) -> Item:
    if not isinstance(line, bytes):
        return line
    if b"\0" in line:
        return Fault("encoding", phrase("the line has NUL bytes: the file is damaged, or no text"))
    try:
        line.decode()
    except UnicodeDecodeError as error:
        what = phrase(
            "the line is not UTF-8 text: byte 0x{byte:02x} cannot be read", byte=line[error.start]
        )
        return Fault("encoding", what, _iconv("GB18030"))
    return line


def _not_utf8(what: str, name: str, encoding: str) -> Refused:
    return Refused(what, where=name, hint=_iconv(encoding))


def _iconv(encoding: str) -> str:
    return phrase("convert the file: `iconv -f {encoding} -t UTF-8`", encoding=encoding)


def _csv(lines: Iterable[Chunk], part: Part, wanted: Wanted) -> Iterator[Chunk]:
    """Yield the records of a table in text, whose first line names its columns."""
    # Bytes that are no UTF-8 become halves of characters, which no JSON is made of: see `_record`.
    csv.field_size_limit(MOST_LINE)
    reader = csv.reader(
        _csv_lines(lines, part.name),
        delimiter="," if part.shape is Shape.CSV else "\t",
        strict=True,
    )
    header: list[str] | None = None
    places: list[tuple[int, str]] = []
    numbers: list[int] = []
    items: list[Item] = []
    size = 0
    while True:
        number = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            if str(error).startswith(("unexpected end", "field larger")):
                # All of the rest is within the quote.
                what = phrase(
                    "a quote is not closed in the record that begins here, or a field has more "
                    "than {most:,} characters", most=MOST_LINE,
                )  # fmt: skip
                raise Refused(what, where=f"{part.name}:{number}") from None
            if header is None:
                what = phrase("the names of the columns are no CSV: {why}", why=str(error))
                raise Refused(what, where=f"{part.name}:{number}") from None
            items.append(Fault("csv", phrase("the record is no CSV: {why}", why=str(error))))
        else:
            if header is None:
                if fields:
                    where = f"{part.name}:{number}"
                    header = _header(fields, where)
                    names = _once(wanted(header), where)
                    places = [(header.index(name), name) for name in names]
                continue
            items.append(_record(fields, len(header), places))
            size += sum(map(len, fields))
        numbers.append(number)
        if len(numbers) == _RECORDS or size >= _RECORDS_BYTES:
            yield Chunk(numbers, items)
            numbers, items, size = [], [], 0
    if numbers:
        yield Chunk(numbers, items)


def _csv_lines(lines: Iterable[Chunk], name: str) -> Iterator[str]:
    for chunk in lines:
        for number, line in zip(chunk.numbers, chunk.items, strict=True):
            if not isinstance(line, bytes):
                what = line.what if isinstance(line, Fault) else ""
                raise Refused(what, where=f"{name}:{number}")
            yield line.decode("utf-8", "surrogateescape") + "\n"


def _header(fields: list[str], where: str) -> list[str]:
    names = [field.strip() for field in fields]
    try:
        "".join(names).encode()
    except UnicodeEncodeError:
        what = phrase("the names of the columns are not UTF-8 text")
        raise _not_utf8(what, where, "GB18030") from None
    return names


def _once(names: Sequence[str], where: str) -> Sequence[str]:
    """Return the columns that are read; refuse two of the same name."""
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise Refused(phrase("two columns are called `{name}`", name=twice), where=where)
    return names


def _record(fields: list[str], count: int, places: list[tuple[int, str]]) -> Item:
    if not fields:
        return b""
    if len(fields) != count:
        what = phrase(
            "the record has {n} fields, and the table {count} columns", n=len(fields), count=count
        )
        return Fault("csv", what)
    if (longest := max((len(fields[place]) for place, _ in places), default=0)) > MOST_FIELD:
        return _long(longest)
    try:
        record = {name: msgspec.json.encode(fields[place]) for place, name in places}
    except UnicodeEncodeError:
        what = phrase("the record is not UTF-8 text")
        return Fault("encoding", what, _iconv("GB18030"))
    if b"\\u0000" in b"".join(record.values()):
        return _text(b"\0")
    return record


def _parquet(part: Part, wanted: Wanted) -> Iterator[Chunk]:
    """Yield the records of a Parquet file, a piece of a row group at a time."""
    parquet = library("pyarrow.parquet")
    try:
        with parquet.ParquetFile(part.path, filesystem=part.store, buffer_size=_BLOCK) as file:
            names = _once(wanted(file.schema_arrow.names), part.name)
            rows, number = file.metadata.num_rows, 1
            groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
            row_bytes = max((g.total_byte_size // max(g.num_rows, 1) for g in groups), default=1)
            size = max(1, min(_RECORDS, _RECORDS_BYTES // max(row_bytes, 1)))
            if not names:
                yield Chunk(range(1, rows + 1), [{}] * rows)
                return
            for batch in file.iter_batches(batch_size=size, columns=names):
                for piece in _pieces(batch):
                    items = _records(piece)
                    yield Chunk(range(number, number + len(items)), items)
                    number += len(items)
    except (ValueError, OverflowError, library("pyarrow").ArrowException) as error:
        raise cannot_read(part.name, str(error).partition("\n")[0]) from None


def _pieces(batch: Any) -> Iterator[Any]:
    """Yield a batch in pieces of so many bytes: some of its rows may be longer than most."""
    if batch.nbytes <= _RECORDS_BYTES or len(batch) == 1:
        yield batch
        return
    half = len(batch) // 2
    yield from _pieces(batch.slice(0, half))
    yield from _pieces(batch.slice(half))


def _records(batch: Any) -> list[Item]:
    try:
        return [_values(record) for record in batch.to_pylist()]
    except (ValueError, OverflowError) as error:  # of a time that Python has no value for
        if len(batch) == 1:
            why = str(error).partition(".")[0]
            return [Fault("value", phrase("a column has a value that is not read: {why}", why=why))]
    return [item for i in range(len(batch)) for item in _records(batch.slice(i, 1))]


def _long(length: int) -> Fault:
    what = phrase("a field has {n:,} characters; the most is {most:,}", n=length, most=MOST_FIELD)
    return Fault("long", what)


def _values(record: dict[str, Any]) -> Item:
    texts = (len(value) for value in record.values() if isinstance(value, (str, bytes)))
    if (longest := max(texts, default=0)) > MOST_FIELD:
        return _long(longest)
    try:
        return {
            name: msgspec.json.encode(value.decode() if isinstance(value, bytes) else value)
            for name, value in record.items()
        }
    except (ValueError, TypeError):
        return Fault("encoding", phrase("a column has bytes that are no UTF-8 text"))

"""The pictures of a row: files that are looked at when it is sent, and read while it is sent.

They are read by blocks, so that hundreds of rows in flight with large ones do not fill the memory.
"""

import re
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote_to_bytes

from ropeway.batch.input.parts import printable
from ropeway.batch.input.source import MOST_LINE
from ropeway.batch.rows import Row
from ropeway.errors import RopewayError, reason_of
from ropeway.outside import open_regular
from ropeway.phrases import phrase
from ropeway.units import format_bytes

HEAD = 16
"""Bytes of a picture that say what it is."""

# What files of each kind begin with, and from which byte on.
_STARTS = (
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"GIF8", "image/gif"),
    (8, b"WEBP", "image/webp"),
    (6, b"\0\0\0\0", "image/bmp"),
    (0, b"II*\0", "image/tiff"),
    (0, b"MM\0*", "image/tiff"),
    (4, b"ftypavi", "image/avif"),
    (4, b"ftyphe", "image/heic"),
    (4, b"ftypmi", "image/heif"),
    (4, b"jP  \r\n\x87\n", "image/jp2"),
    (4, b"JXL \r\n\x87\n", "image/jxl"),
)
_ALSO = {"image/webp": b"RIFF", "image/bmp": b"BM"}  # at the very beginning
_LOCAL = re.compile(rb'(?<=\{"url":")file://([^"]*)(?="\})')
_BLOCK = 3 * 2**15  # of a file at once: base64 makes 4 bytes of 3
_FINAL = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError)


def picture_type(head: bytes) -> str | None:
    """Return the media type of a picture by its first bytes; None for what is none."""
    for place, start, kind in _STARTS:
        if head.startswith(start, place) and head.startswith(_ALSO.get(kind, b"")):
            return kind
    return None


@dataclass(frozen=True, slots=True)
class _Picture:
    """A file as it was looked at; `start`: what stands before its base64."""

    path: Path
    size: int
    start: bytes


class PictureRow(Row):
    """A row whose body has the paths of pictures."""

    __slots__ = ()

    def payload(self) -> tuple[int, Iterator[bytes]]:
        """Return the length of the body with the pictures in it, and the body by blocks.

        Raises RopewayError for what is no picture or is away, and OSError for what may pass.
        """
        texts = _LOCAL.split(self.body)
        pictures = [_look(url) for url in texts[1::2]]
        texts = texts[::2]
        size = sum(map(len, texts))
        size += sum(len(one.start) + (one.size + 2) // 3 * 4 for one in pictures)
        return size, _blocks(texts, pictures)


def _look(url: bytes) -> _Picture:
    path = Path(unquote_to_bytes(url).decode(errors="surrogateescape"))
    try:
        with open_regular(path) as file:
            kind = picture_type(file.read(HEAD))
            size = file.seek(0, 2)
        if kind is None:
            raise ValueError(phrase("it is no picture by its first bytes"))
        if size > MOST_LINE:
            raise ValueError(phrase("it is longer than {size}", size=format_bytes(MOST_LINE)))
    except (*_FINAL, ValueError) as error:
        raise _cannot_read(path, error) from None
    return _Picture(path, size, b"data:%b;base64," % kind.encode())


def _blocks(texts: Sequence[bytes], pictures: Sequence[_Picture]) -> Iterator[bytes]:
    yield texts[0]
    for picture, text in zip(pictures, texts[1:], strict=True):
        yield picture.start
        yield from map(b64encode, _read(picture))
        yield text


def _read(picture: _Picture) -> Iterator[bytes]:
    """Yield a picture's bytes. Raises RopewayError where it is not what it was."""
    left = picture.size
    try:
        with open_regular(picture.path) as file:
            while left:
                data = file.read(min(left, _BLOCK))
                if not data:
                    raise ValueError(phrase("it has become shorter"))
                left -= len(data)
                yield data
    except (OSError, ValueError) as error:
        raise _cannot_read(picture.path, error) from None


def _cannot_read(path: Path, error: OSError | ValueError) -> RopewayError:
    reason = reason_of(error) if isinstance(error, OSError) else error.args[0]
    return RopewayError(
        phrase("the picture cannot be read: {reason}", reason=reason), where=printable(str(path))
    )

"""Pictures of random blocks, as large on the wire as a photograph of their size may be.

Random pixels do not compress, so that a picture of 4096×4096 would take 50 MB and a process of ours
a second. So at most 64 kB of a picture are random: the larger it is, the larger are its blocks.
"""

import base64
import random
import struct
import zlib
from math import ceil, sqrt

MOST_SIDE = 4096
"""Pixels of a picture's longer side."""

_RANDOM_BYTES = 2**16
_COLOURS = 3
_AS_IT_IS, _AS_ABOVE = b"\0", b"\2"  # how PNG filters a row


def picture_url(name: str, width: int, height: int) -> str:
    """Return a picture as a data URL, decided by its name alone."""
    data = base64.b64encode(picture(name, width, height)).decode()
    return f"data:image/png;base64,{data}"


def picture(name: str, width: int, height: int) -> bytes:
    """Return a picture as a PNG file, decided by its name alone."""
    chance = random.Random(f"picture {name}")
    side = max(1, ceil(sqrt(width * height * _COLOURS / _RANDOM_BYTES)))
    same = _AS_ABOVE + bytes(width * _COLOURS)  # each pixel is that above it
    packer, pixels = zlib.compressobj(level=1), []
    for top in range(0, height, side):
        pixels.append(packer.compress(_AS_IT_IS + _row(chance, width, side)))
        pixels += [packer.compress(same) for _ in range(min(side, height - top) - 1)]
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits of red, green and blue
    data = b"".join([*pixels, packer.flush()])
    parts = (b"IHDR", header), (b"IDAT", data), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, part) for kind, part in parts)


def _row(chance: random.Random, width: int, side: int) -> bytes:
    """Return a row of pixels, `side` neighbours of the same colour each."""
    blocks = ceil(width / side)
    colours = chance.randbytes(blocks * _COLOURS)
    row = bytearray(blocks * side * _COLOURS)
    for place in range(side * _COLOURS):
        row[place :: side * _COLOURS] = colours[place % _COLOURS :: _COLOURS]
    return bytes(row[: width * _COLOURS])


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

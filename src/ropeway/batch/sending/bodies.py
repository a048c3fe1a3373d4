"""Bodies that are sent in pieces, and tell when all of them is sent."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

_ENOUGH = 2**17  # bytes that are read from files at once


async def whole(body: bytes, sent: Callable[[], None]) -> AsyncIterator[bytes]:
    """Give a large body in one piece, which the event loop then sends as the server takes it.

    A server that rejects the body for its size may close the connection before it is sent. Where
    the loop sends, it reads what came first; a failed write of ours would lose the answer.
    """
    yield body
    sent()


async def streamed(
    size: int, blocks: Iterator[bytes], sent: Callable[[], None]
) -> AsyncIterator[bytes]:
    """Yield a body of so many bytes, which is read from files meanwhile."""
    while size > 0:
        data = await asyncio.to_thread(_some, blocks)
        size -= len(data)
        yield data
    sent()


def _some(blocks: Iterator[bytes]) -> bytes:
    """Return the next blocks: many small ones together, as a thread is asked for them."""
    data = bytearray()
    for block in blocks:
        data += block
        if len(data) >= _ENOUGH:
            break
    return bytes(data)

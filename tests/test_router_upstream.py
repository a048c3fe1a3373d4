"""The router's own connections to replicas: which of them may carry the next request."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest

from ropeway.router.upstream import Upstreams, read


@contextlib.asynccontextmanager
async def slow_server() -> AsyncIterator[tuple[Upstreams, str, list[str]]]:
    """Connections to a server that says which path it was asked for, the head a moment after the
    request and the body a moment after the head; its URL; and in which requests it was left."""
    left: list[str] = []
    serving: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        while line := await reader.readline():
            path = line.split()[1].decode()
            while (await reader.readline()).strip():
                pass
            body = f"answer to {path}"
            for piece in (f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n", body):
                await asyncio.sleep(0.1)
                writer.write(piece.encode())
            if reader.at_eof():
                left.append(path)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        upstreams = Upstreams(5, time.monotonic)
        yield upstreams, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", left
        upstreams.close_overdue(0)
        await asyncio.gather(*filter(None, serving))


async def ask(upstreams: Upstreams, url: str, path: str) -> str:
    async with upstreams.request(url, "GET", path, {}, b"") as answer:
        return (await read(answer, 1000)).decode()


@pytest.mark.parametrize("after_s", [0.05, 0.15])  # before the head, and before the body
def test_an_answer_that_nobody_waited_for_is_not_the_next_ones(after_s: float) -> None:
    async def scene() -> None:
        async with slow_server() as (upstreams, url, left):
            assert await ask(upstreams, url, "/first") == "answer to /first"
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(after_s):
                    await ask(upstreams, url, "/alice")
            assert await ask(upstreams, url, "/bob") == "answer to /bob"
            assert await ask(upstreams, url, "/carol") == "answer to /carol"
            assert left == ["/alice"], "the replica sees that the client has gone"

    asyncio.run(scene())


def test_a_connection_whose_answer_was_read_carries_the_next_request() -> None:
    async def scene() -> None:
        async with slow_server() as (upstreams, url, _):
            for path in ("/a", "/b", "/c"):
                assert await ask(upstreams, url, path) == f"answer to {path}"
                assert len(upstreams) == 1

    asyncio.run(scene())

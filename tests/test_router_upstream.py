"""The router's own connections to replicas: which of them may carry the next request."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropeway.router import upstream
from ropeway.router.upstream import Upstreams, read


@dataclass
class Alice:
    """What a server sees of the client that asks for /alice."""

    asked: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)


@contextlib.asynccontextmanager
async def server(withheld: int = 0) -> AsyncIterator[tuple[Upstreams, str, Alice]]:
    """Connections to a server whose answers say which path was asked for, and its URL.

    Of its answer to /alice, the head and the body, it withholds that part and what follows until
    the client has left or goes on.
    """
    alice = Alice()
    serving: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        with contextlib.closing(writer), contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                path = line.split()[1].decode()
                while (await reader.readline()).strip():
                    pass
                body = f"answer to {path}"
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n"
                for number, part in enumerate((head, body)):
                    if path == "/alice" and number == withheld:
                        alice.asked.set()
                        if not await reader.read(1):
                            alice.left.set()
                            return
                    writer.write(part.encode())

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        upstreams = Upstreams(60, lambda: 0.0)
        yield upstreams, f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", alice
        upstreams.close_overdue(0)
        await asyncio.gather(*filter(None, serving))


async def ask(upstreams: Upstreams, url: str, path: str, head: asyncio.Event | None = None) -> str:
    """Return the body of an answer; set `head` when its head has come."""
    async with upstreams.request(url, "GET", path, {}, b"") as answer:
        if head is not None:
            head.set()
        return (await read(answer, 1000)).decode()


@pytest.mark.parametrize("withheld", [0, 1], ids=["before the head", "before the body"])
def test_an_answer_that_nobody_waited_for_is_not_the_next_ones(withheld: int) -> None:
    async def scene() -> None:
        async with server(withheld) as (upstreams, url, alice), asyncio.timeout(60):
            assert await ask(upstreams, url, "/first") == "answer to /first"
            head = asyncio.Event()
            asking = asyncio.create_task(ask(upstreams, url, "/alice", head))
            await (head if withheld else alice.asked).wait()
            asking.cancel()
            await asyncio.wait([asking])
            assert await ask(upstreams, url, "/bob") == "answer to /bob"
            assert await ask(upstreams, url, "/carol") == "answer to /carol"
            await alice.left.wait()

    asyncio.run(scene())


def test_a_connection_whose_answer_was_read_carries_the_next_request() -> None:
    async def scene() -> None:
        async with server() as (upstreams, url, _):
            for path in ("/a", "/b", "/c"):
                assert await ask(upstreams, url, path) == f"answer to {path}"
                assert len(upstreams) == 1

    asyncio.run(scene())


EVENTS = [b"data: %d\n\n" % number for number in range(12)]


class Unplugged(asyncio.Transport):
    """A transport of which nothing comes by itself."""

    def close(self) -> None:
        pass


def in_chunks(pieces: list[bytes]) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)


def cut(data: bytes, at: list[int]) -> list[bytes]:
    places = [0, *sorted({place % len(data) for place in at} - {0}), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(places)]


def received(
    packets: list[bytes],
    refused: Collection[int] = (),
    *,
    pauses: Collection[int] = range(99),
    with_head: bytes = b"",
) -> tuple[list[bytes], list[bytes]]:
    """Return what a reader and its sink got of an answer, in order, and what the sink was offered.

    It is the second answer of its connection. The sink refuses its n-th offer if n is among
    `refused`; the reader may run before the n-th packet if n is among `pauses`. `with_head` comes
    in the packet of the answer's head.
    """
    got: list[bytes] = []
    offers: list[bytes] = []

    async def scene() -> None:
        connection = upstream._Connection(asyncio.get_running_loop())
        connection.connection_made(Unplugged())
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.set_response_params(read_until_eof=True, auto_decompress=False)
        connection.data_received(head)
        answer = await upstream._answer(connection)
        connection.data_received(in_chunks([b"data: before\n\n"]) + b"0\r\n\r\n")
        assert await upstream.read(answer, 1000) == b"data: before\n\n"
        connection.set_response_params(read_until_eof=True, auto_decompress=False)
        connection.data_received(head + with_head)
        answer = await upstream._answer(connection)

        def sink(chunks: bytes, whole: bytes) -> bool:
            offers.append(chunks)
            if len(offers) in refused:
                return False
            got.append(whole)
            return True

        async def read_all() -> None:
            while piece := await answer.read(2**15, sink):
                got.append(piece)

        reading = asyncio.create_task(read_all())
        for number, packet in enumerate([*packets, b"0\r\n\r\n"]):
            if number in pauses:
                await asyncio.sleep(0)
            connection.data_received(packet)
        async with asyncio.timeout(10):
            await reading

    asyncio.run(scene())
    return got, offers


@given(
    chunks=st.lists(st.integers(0, 10**6), max_size=6),
    packets=st.lists(st.integers(0, 10**6), max_size=20),
    refused=st.sets(st.integers(1, 8)),
    pauses=st.sets(st.integers(0, 12)),
)
def test_what_passes_the_parser_by_keeps_its_place(
    chunks: list[int], packets: list[int], refused: set[int], pauses: set[int]
) -> None:
    body = b"".join(EVENTS)
    in_packets = (
        cut(in_chunks(cut(body, chunks)), packets)
        if chunks
        else [in_chunks([event]) for event in EVENTS]
    )
    got, _ = received(in_packets, refused, pauses={0, *pauses})
    assert b"".join(got) == body


def test_a_length_in_two_packets_does_not_hide_where_its_chunk_ends() -> None:
    body = b"data: abcde\n\n" + b"\r\n" + b"data: abcdef\n\n"
    length, rest = in_chunks([body])[:1], in_chunks([body])[1:]
    assert length + rest[:1] == b"1d", "so that the rest looks like a chunk of 13 bytes"
    got, offers = received([in_chunks([EVENTS[0]]) + length, rest[:18], rest[18:]])
    assert b"".join(got) == EVENTS[0] + body
    assert not offers


def test_events_that_come_one_by_one_pass_by_all_but_the_first() -> None:
    # The first shows that the parser is between two chunks.
    got, offers = received([in_chunks([event]) for event in EVENTS])
    assert got == EVENTS
    assert offers == [in_chunks([event]) for event in EVENTS[1:]]


def test_what_only_looks_like_a_chunk_within_a_chunk_does_not_pass_by() -> None:
    inner = in_chunks([b"data: inner\n\n"])
    body = b"data: outer\n\n" + inner + b"\n\n"
    head, tail = b"%x\r\ndata: outer\n\n" % len(body), b"\n\n\r\n"
    got, offers = received([in_chunks([EVENTS[0]]), head, inner, tail])
    assert b"".join(got) == EVENTS[0] + body
    assert inner not in offers


def test_an_answer_that_begins_within_a_chunk_is_parsed_until_its_end() -> None:
    inner = in_chunks([b"data: inner\n\n"])
    body = b"\r\n" + inner + b"\n\n"
    head, rest = in_chunks([body])[:6], in_chunks([body])[6:]
    assert head.endswith(b"\r\n\r\n"), "as if a chunk had ended"
    got, offers = received([inner, rest[len(inner) :]], with_head=head)
    assert b"".join(got) == body
    assert not offers


@pytest.mark.parametrize(
    "wrong",
    [
        b"0x5\r\nhello\r\n", b"+5\r\nhello\r\n", b"-5\r\nhello\r\n",
        b"3\r\nhello\r\n",
        b"1" * 18 + b"\r\n", b"no length\r\n", b"0\r\nno trailer\r\n\r\n",
    ],
)  # fmt: skip
def test_an_answer_that_ceases_to_be_http_breaks_at_once(wrong: bytes) -> None:
    with pytest.raises(aiohttp.ClientPayloadError, match="no HTTP"):
        received([in_chunks(EVENTS[:1]), wrong])


@pytest.mark.parametrize(
    ("last", "told"), [(b"", "not completed"), (b"1", "not completed"), (b"no\r\n", "no HTTP")]
)
@pytest.mark.parametrize("why", [None, ConnectionResetError()], ids=["closed", "reset"])
@pytest.mark.parametrize("read_first", [False, True], ids=["unread", "read"])
def test_how_an_answer_ended_is_told_to_who_reads_on_later(
    last: bytes, told: str, why: Exception | None, read_first: bool
) -> None:
    async def scene() -> None:
        connection = upstream._Connection(asyncio.get_running_loop())
        connection.connection_made(Unplugged())
        connection.set_response_params(read_until_eof=True, auto_decompress=False)
        connection.data_received(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        answer = await upstream._answer(connection)
        connection.data_received(in_chunks(EVENTS[:1]))
        if read_first:
            assert await answer.read(1000, None) == EVENTS[0]
        connection.data_received(last)
        connection.connection_lost(why)
        with pytest.raises(aiohttp.ClientPayloadError, match=told):
            await answer.read(1000, None)

    asyncio.run(scene())


@pytest.mark.parametrize(
    "data",
    [
        b"+9\r\ndata: x\n\n\r\n", b"0x9\r\ndata: x\n\n\r\n", b"9;a=b\r\ndata: x\n\n\r\n",
        b"9\ndata: x\n\n\r\n", b"8\r\ndata: x\n\n\r\n", b"a\r\ndata: x\n\n\r\n", b"0\r\n\r\n",
        b"9\r\ndata: x\n\n\r\n1", b"6\r\ndata: \r\n", b"9\r\ndata: x\n\nab", b"",
    ],
)  # fmt: skip
def test_only_plain_chunks_of_whole_events_pass_by(data: bytes) -> None:
    assert upstream._whole_chunks(data) == b""
    assert upstream._whole_chunks(in_chunks(EVENTS)) == b"".join(EVENTS)

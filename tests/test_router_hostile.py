"""Whatever one replica answers, the router lives, and serves from the others."""

import asyncio
import contextlib
import json
import os
import resource
import signal
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

import virtual_time
from ropeway.router import events
from ropeway.router.breaker import State
from ropeway.router.transcript import (
    FOLD_BYTES,
    MOST_BYTES,
    MOST_EVENTS,
    PartialAnswer,
    Transcript,
    with_chunks,
)
from router_backends import QUICK, TEXT, Bench, Engine, Reply, bench, until
from router_raw import OK, STREAM, TOKEN, Raw, chunk, sized

LIMITS = replace(QUICK, first_byte_s=0.5, stall_s=0.5, whole_s=0.5, event_bytes=200_000)
DEEP = b"[" * 100_000
ANY = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=3),
    lambda some: st.lists(some, max_size=3) | st.dictionaries(
        st.sampled_from(["choices", "error", "usage", "delta", "text", "content", "index", "code",
                         "message", "finish_reason", "completion_tokens", "id", "object"]),
        some, max_size=5,
    ), max_leaves=12,
)  # fmt: skip
EVENTS = st.builds(
    lambda values, end: b"".join(
        (f"data: {value if isinstance(value, str) else json.dumps(value)}{end}{end}").encode()
        for value in values
    ),
    st.lists(ANY, max_size=4),
    st.sampled_from(["\n", "\r\n", "\r"]),
)
BODIES = EVENTS | st.binary(max_size=50) | st.sampled_from((
    b"data: " + DEEP + b"\n\n", b'{"error": ' + DEEP, b"data: [DONE]\n\n", TOKEN,
    b"\xef\xbb\xbf" + TOKEN,
    b": hm\n\n" + TOKEN, b"\n" * 1000, TOKEN[:-1], b"data: [DONE]", b"data: x" * 50_000,
))  # fmt: skip
STATUSES = st.sampled_from((
    b"HTTP/1.1 200 OK", b"HTTP/1.0 200 OK", b"HTTP/1.1 200 ", b"HTTP/1.1 101 Switching Protocols",
    b"HTTP/1.1 204 No Content", b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/", b"\xff\xfe",
    b"HTTP/1.1 500 Oh", b"HTTP/1.1 999 Much", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK",
    b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100 + b"HTTP/1.1 200 OK", b"HTTP/9.9 200 OK", b"",
))  # fmt: skip
HEADERS = st.sampled_from((
    b"Content-Type: text/event-stream", b"Content-Type: text/event-stream; charset=hex",
    b"Content-Type: application/json; charset=\"", b"Content-Type: ;;;", b"Content-Encoding: gzip",
    b"Content-Encoding: br", b"X-Bad: \x01", b"X-Bad: \xff\xfe", b"Transfer-Encoding: chunked",
    b"Content-Length: 5", b"Content-Length: 99999", b"Content-Length: -1", b"Set-Cookie: a=b",
    b"Connection: close", b"X: " + b"x" * 9000, b"\r\n".join([b"Y: y"] * 200), b"no colon",
    b"Connection: X-Hop, Content-Type", b"Trailer: Z", b"Upgrade: websocket",
))  # fmt: skip
ANSWERS = st.builds(
    lambda status, headers, body: b"\r\n".join((status, *headers, b"", body)),
    STATUSES, st.lists(HEADERS, max_size=3), BODIES,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _alive() -> Iterator[None]:
    """Fail the test, and not the whole run, when the router ends its own process."""

    def ended(*_: Any) -> None:
        raise AssertionError("the router ended itself")

    before = signal.signal(signal.SIGTERM, ended)
    yield
    signal.signal(signal.SIGTERM, before)


@contextlib.asynccontextmanager
async def beside(raw: Raw, *engines: Engine, alive: int, **more: Any) -> AsyncIterator[Bench]:
    """The engines, and the raw replica as the last one."""
    async with raw.served() as url, bench(*engines, urls=(url,), **{"limits": LIMITS} | more) as b:
        await until(lambda: len(b.router.pool.alive) >= alive)
        b.first(len(engines))
        yield b


@example(sized(OK, b'data: {"error": null, "choices": 5}\n\n'))
@example(sized(OK, b'data: {"error": ' + DEEP + b"\n\n"))
@example(sized(STREAM, b'data: {"choices": [5]}\n\n'))
@settings(max_examples=100, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(ANSWERS)
def test_no_answer_to_a_probe_ends_the_router_or_earns_trust_without_a_token(answer: bytes) -> None:
    async def play() -> None:
        raw = Raw(answer, probe=None)
        async with beside(raw, Engine(), alive=1) as b:
            await until(lambda: b.replica(1).last_failure or b.replica(1).breaker.alive)
            assert b.replica(1).breaker.alive <= (b'"choices": [' in answer)
            b.first(0)
            assert (await b.ask()).text == TEXT
            assert b.replica(0).breaker.state is State.CLOSED

    virtual_time.run(play())


@example(sized(STREAM, b"data: " + DEEP + b"\n\n"), False)
@example(STREAM + b"X-Bad: \x01\r\n\r\n" + TOKEN, False)
@settings(max_examples=1000, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(ANSWERS, st.booleans())
def test_no_answer_to_a_request_ends_the_router_or_cuts_its_client(
    answer: bytes, hangs: bool
) -> None:
    async def play() -> None:
        raw = Raw(answer, hangs=hangs)
        async with beside(raw, Engine(), alive=2) as b:
            for streamed in (True, False):
                b.first(1)
                reply = await b.ask(stream=streamed)
                assert "the router failed" not in reply.content
                if reply.status == 200 and "chunked" in reply.headers.values():
                    assert _ends_well(reply), reply
            assert raw.heard
            b.replica(1).url = "http://127.0.0.1:9"
            assert (await b.ask()).text == TEXT
            assert b.replica(0).failures == 0

    virtual_time.run(play())


def _ends_well(reply: Reply) -> bool:
    """Whether the stream ends with the mark of a whole answer, or says why it does not."""
    last = reply.content.rstrip("\r\n")
    return last.endswith("data: [DONE]") or '"error":' in last.splitlines()[-1]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("piece", [0, 1])
def test_a_stream_passes_as_it_is_whatever_ends_its_lines(end: str, piece: int) -> None:
    text = f'\ufeff: hello\n\ndata: {{\ndata: "choices": []}}\n\n{TOKEN.decode()}'
    stream = text.replace("\n", end).encode()

    async def play() -> None:
        raw = Raw(STREAM + b"\r\n" + stream, piece=piece)
        async with beside(raw, Engine(), alive=2) as b:
            # A CR is a whole end of a line: the LF of a last CR LF may come too late.
            assert (await b.ask()).content.encode().rstrip(b"\n") == stream.rstrip(b"\n")
            assert b.replica(1).failures == 0

    virtual_time.run(play())


def test_text_behind_a_byte_order_mark_is_known_when_a_stream_breaks() -> None:
    raw = Raw(
        STREAM + b"\r\n" + b'\xef\xbb\xbfdata: {"choices": [{"index": 0, "text": "One"}]}\n\n'
    )

    async def play() -> None:
        async with beside(raw, Engine(), alive=2) as b:
            assert (await b.ask()).content.count("One") == 1
            assert b.engines[0].bodies[0]["prompt"].endswith("One")

    virtual_time.run(play())


def test_a_whole_answer_is_whole_though_its_connection_hangs() -> None:
    async def play() -> None:
        async with beside(Raw(STREAM + b"\r\n" + TOKEN, hangs=True), Engine(), alive=2) as b:
            assert (await b.ask()).done
            assert b.replica(1).failures == 0

    virtual_time.run(play())


def test_an_event_that_is_too_deep_is_its_replicas_fault() -> None:
    async def play() -> None:
        raw = Raw(STREAM + b"\r\ndata: " + DEEP + b"\n\n")
        async with beside(raw, Engine(), alive=2) as b:
            await b.ask()
            assert b.replica(1).failures == 1
            assert b.replica(0).failures == 0

    virtual_time.run(play())


@pytest.mark.parametrize("piece", [b"x" * 10_000, b"data: " + b"x" * 10_000 + b"\n"])
def test_an_event_without_an_end_is_given_up(piece: bytes) -> None:
    async def play() -> None:
        raw = Raw(STREAM + b"\r\n", endless=piece)
        async with beside(raw, Engine(), alive=2) as b:
            assert (await b.ask()).text == TEXT
            assert "200,000 bytes" in b.replica(1).last_failure
            await until(lambda: not b.replica(1).attempts)
            assert raw.said < 2**24

    virtual_time.run(play())


ONE = b'data: {"id": "x", "choices": [{"index": 0, "text": "One"}]}\n\n'
ABORTED = b'{"choices": [{"text": "", "finish_reason": "abort"}]}'
JSON = OK + b"Content-Type: application/json\r\n"


@pytest.mark.parametrize("before", [b"", b": hello\n\n", ONE])
@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize(
    "sign",
    [b": ping\n\n", b"\n\n", b":", b"data: x", b"data: {}\n\n", b'data: {"choices": []}\n\n',
     b'data: {"type": "ping"}\n\n'],
)  # fmt: skip
def test_a_stream_without_tokens_hangs_whatever_else_comes(
    sign: bytes, chunked: bool, before: bytes
) -> None:
    async def play() -> None:
        head = STREAM + b"Transfer-Encoding: chunked\r\n" * chunked + b"\r\n"
        first, again = (
            (chunk(before) if before else b"", chunk(sign)) if chunked else (before, sign)
        )
        raw = Raw(head + first, endless=again, pause_s=0.1)
        async with beside(raw, Engine(), alive=2) as b:
            content = (await asyncio.wait_for(b.ask(), 5)).content.encode()
            chunks = filter(None, map(events.payload, events.each(content)))
            assert with_chunks(PartialAnswer(), chunks).text == TEXT
            assert content.endswith(events.DONE)
            assert b.replica(1).failures == 1
            assert (b.router.totals.retried, b.router.totals.continued) == (
                before != ONE,
                before == ONE,
            )
            if before == ONE and sign.startswith(b": "):
                assert sign in content, "a client that waits is told that it is not forgotten"

    virtual_time.run(play())


@pytest.mark.parametrize("sign", [b": ping\n\n" * 1000, b"data: {}\n\n" * 1000])
def test_of_a_flood_before_the_first_token_only_so_much_is_kept(sign: bytes) -> None:
    async def play() -> None:
        async with beside(Raw(STREAM + b"\r\n", endless=sign), Engine(), alive=2) as b:
            assert (await b.ask()).text == TEXT
            assert "no token" in b.replica(1).last_failure

    virtual_time.run(play())


def test_an_answer_that_is_not_streamed_has_its_time_however_it_drips() -> None:
    async def play() -> None:
        raw = Raw(JSON + b"Content-Length: 9999\r\n\r\n", endless=b" ", pause_s=0.1)
        async with beside(raw, Engine(), alive=2) as b:
            assert TEXT in json.loads((await b.ask(stream=False)).content)["choices"][0]["text"]
            assert b.replica(1).failures == 1

    virtual_time.run(play())


@pytest.mark.parametrize(
    ("streamed", "answer"),
    [
        (True, sized(JSON, b"null")),
        (True, sized(JSON, b'{"error": {"code": [1]}}')),
        (True, sized(JSON, b"\xff\xfe")),
        (True, sized(JSON, ABORTED)),
        (False, sized(JSON, ABORTED)),
        (False, sized(JSON, b"[]")),
        (False, sized(JSON, b"")),
        (True, OK + b"\r\n"),
        (True, b"HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n"),
        (False, b"HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n"),
        (False, sized(STREAM, TOKEN)),
        (False, STREAM + b"\r\n" + ONE),
    ],
)
def test_what_cannot_be_the_answer_is_asked_for_elsewhere(streamed: bool, answer: bytes) -> None:
    async def play() -> None:
        async with beside(Raw(answer), Engine(), alive=2) as b:
            reply = await b.ask(stream=streamed)
            assert reply.headers["X-Ropeway-Replica"] == "r0"
            assert "One" in reply.content
            assert b.replica(1).failures == 1
            assert b.replica(1).last_token == float("-inf")
        async with beside(Raw(answer), alive=1) as b:  # nobody answers better
            assert (await b.ask(stream=streamed)).headers["X-Ropeway-Replica"] == "r0"

    virtual_time.run(play())


@pytest.mark.parametrize("streamed", [True, False])
def test_a_whole_completion_is_an_answer_even_to_who_asked_for_a_stream(streamed: bool) -> None:
    async def play() -> None:
        answer = b'{"choices" : [{"text": "\\"error\\"", "finish_reason": "stop"}]}'
        async with beside(Raw(sized(JSON, answer)), Engine(), alive=2) as b:
            assert (await b.ask(stream=streamed)).content.encode() == answer
            assert b.replica(1).failures == 0

    virtual_time.run(play())


def test_tokens_that_are_counted_are_none_that_were_generated() -> None:
    async def play() -> None:
        async with beside(Raw(sized(JSON, b'{"count": 1}')), alive=1) as b:
            assert (await b.ask("/tokenize", stream=False)).status == 200
            assert b.replica(0).last_token == float("-inf")

    virtual_time.run(play())


@pytest.mark.parametrize(
    "event",
    [b'data: {"error": [' + b"[]," * 2**22, b'data: {"error": 1}\n' + b":\n" * 2**22],
    ids=["many pieces", "many lines"],
)
def test_an_event_that_takes_long_to_read_is_not_read(event: bytes) -> None:
    began = time.process_time()
    assert events.broken(event + b"\n\n") is None
    assert not events.generated(event + b"\n\n")
    transcript = Transcript()
    transcript.add(event + b"\n\n")
    assert "too large" in (transcript.answer().foreign or "")
    assert time.process_time() - began < 0.5, "others wait meanwhile"


@pytest.mark.parametrize(
    "head", [STREAM + b"\r\n", OK, OK + b"Content-Type: application/json\r\n\r\n"]
)
def test_an_endless_answer_to_a_probe_is_given_up(head: bytes) -> None:
    async def play() -> None:
        raw = Raw(head, probe=None, endless=b"X: y\r\n" * 5000)
        async with beside(raw, Engine(), alive=1) as b:
            await until(lambda: b.replica(1).last_failure)
            assert not b.replica(1).breaker.alive
            assert raw.said < 2**25

    virtual_time.run(play())


@pytest.mark.parametrize(
    "metrics",
    [
        sized(OK + b"Content-Type: text/plain; charset=hex\r\n", b"vllm:generation_tokens_total 1"),
        sized(OK, b"vllm:generation_tokens_total NaN\n" * 3),
        sized(OK, b"vllm:generation_tokens_total " + b"9" * 5000 + b"\n"),
        sized(OK, b"\xff\xfe vllm:generation_tokens_total x"),
        sized(OK + b"Content-Encoding: gzip\r\n", b"vllm:generation_tokens_total 1"),
        b"\x00",
    ],
)
def test_no_metrics_of_a_replica_that_hangs_end_the_router(metrics: bytes) -> None:
    async def play() -> None:
        raw = Raw(b"", probe=b"", metrics=metrics, hangs=True)
        async with beside(raw, Engine(), alive=1) as b:
            await until(lambda: "no token within" in b.replica(1).last_failure)
            assert (await b.ask()).text == TEXT

    virtual_time.run(play())


def test_blank_lines_and_comments_cost_no_more_than_their_bytes() -> None:
    assert list(events.each(b"\n" * 10**6 + b": hm\n\n" * 10)) == []
    transcript = Transcript()
    for _ in range(MOST_BYTES // 2**20 + 10):
        transcript.add(b"data: {}\n\n: " + b"x" * 2**20 + b"\n\n")
    assert len(transcript._raw) <= FOLD_BYTES
    assert transcript.answer().foreign


def test_of_a_flood_of_events_only_so_many_are_read() -> None:
    transcript = Transcript()
    for _ in range(MOST_EVENTS // 1000 + 10):
        transcript.add(b'data: {"choices": [{"text": "x"}]}\n\n' * 1000)
    assert len(transcript.answer().text) == MOST_EVENTS
    assert transcript.answer().foreign


@given(st.lists(ANY))
def test_no_chunk_is_too_strange_to_be_read(values: list[Any]) -> None:
    chunks = [value for value in values if isinstance(value, dict)]
    answer = with_chunks(PartialAnswer(), chunks)
    assert isinstance(answer.text, str)
    assert answer.counted is None or answer.counted >= 0
    assert not chunks or answer.first == next((it for it in chunks if it), {})
    events.broken(b"".join(map(events.encode, chunks)))


def test_want_of_files_is_no_replicas_fault() -> None:
    async def play() -> None:
        async with bench(Engine(), limits=replace(QUICK, probe_period_s=0.2)) as b:
            await b.alive(1)
            async with b.session.get(b.url + "/health"):  # from here on the client is connected
                pass
            b.router.upstreams.close_overdue(0)
            await asyncio.sleep(0.01)
            with _no_files():
                reply = await b.ask()
                await asyncio.sleep(2)  # probes, too
            assert (reply.status, reply.headers.get("Retry-After")) == (503, "1"), reply
            assert "Too many open files" in reply.content
            assert (b.replica(0).breaker.state, b.replica(0).failures) == (State.CLOSED, 0)
            assert (await b.ask()).done

    virtual_time.run(play())


@contextlib.contextmanager
def _no_files() -> Iterator[None]:
    """This process can open no further file."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(each.name) for each in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, limits[1]))
    taken: list[int] = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        yield
    finally:
        for each in taken:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)

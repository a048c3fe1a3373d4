"""What clients may do to the router: too many, too slow, too large, malformed, of old."""

import asyncio
import contextlib
import gzip
import io
import json
import logging
import re
import resource
import sys
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import virtual_time
from ropeway.router import logs
from ropeway.router.balance import MAX_BLOCKS
from ropeway.router.config import Limits
from ropeway.router.connections import Connections
from ropeway.router.request import READ_BYTES, READ_PIECES, parse_request
from router_backends import CHAT, MODEL, QUICK, TEXT, Bench, Engine, bench, fault, scene, served
from router_raw import OK, Raw, said_to, sized

BODY = json.dumps({"model": MODEL, "prompt": "Count: ", "stream": True}).encode()


def posted(
    body: bytes, *headers: str, version: str = "1.1", path: str = "/v1/completions"
) -> bytes:
    head = (f"POST {path} HTTP/{version}", "Host: x", "Content-Type: application/json", *headers)
    return "\r\n".join((*head, f"Content-Length: {len(body)}", "", "")).encode() + body


# --- bodies --------------------------------------------------------------------------------------

PIECES = [
    b"[]", b"{}", b"1", b'""', b"1.5", b"[[[1]]]", b'{"role":"user","content":"a"}',
    b'{"content":[[]]}', b'{"content":[{"type":"text","text":"a"}]}', b'{"type":"f"}', b'"\\ud800"',
]  # fmt: skip


@pytest.mark.parametrize("name", ["messages", "prompt", "tools", "input", "x"])
@pytest.mark.parametrize("piece", PIECES)
def test_a_body_in_very_many_pieces_is_passed_on_unread(name: str, piece: bytes) -> None:
    """To read 8 MB of `[],` would hold up everybody for a second, and 60 MB for ten."""
    many = piece + (b"," + piece) * (READ_PIECES + 10)
    parsed = parse_request(CHAT, b'{"stream":true,"%b":[%b]}' % (name.encode(), many))
    assert parsed.body is None
    assert len(parsed.prefix) == MAX_BLOCKS
    assert 0 < parsed.prompt_tokens <= 32 * 1024


def test_a_large_body_is_passed_on_unread_and_large_texts_are_read() -> None:
    text = {"messages": [{"role": "user", "content": "x" * (READ_BYTES - 1000)}]}
    assert parse_request(CHAT, json.dumps(text).encode()).prompt_tokens > READ_BYTES // 5
    assert parse_request(CHAT, b'{"prompt":"%b"}' % (b"x" * READ_BYTES)).body is None
    ids = {"prompt": [123456] * (READ_PIECES - 10)}
    assert parse_request(CHAT, json.dumps(ids).encode()).prompt_tokens == READ_PIECES - 10


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "identity"])
def test_a_body_reaches_the_replica_as_it_came(encoding: str) -> None:
    body = gzip.compress(b"[]," * 10**6) + bytes(range(256))

    async def play() -> None:
        raw = Raw(sized(OK, b"{}"))
        async with raw.served() as url, bench(urls=(url,)) as b:
            await b.alive(1)
            headers = {"Content-Encoding": encoding, "Content-Type": "application/json"}
            post = b.session.post(f"{b.url}/v1/completions", data=body, headers=headers)
            async with post as response:
                assert response.status == 200
            assert raw.heard[0].endswith(b"\r\n\r\n" + body)
            assert f"Content-Encoding: {encoding}".encode() in raw.heard[0]

    virtual_time.run(play())


@scene(Engine())
async def test_a_large_body_and_one_in_chunks_of_a_byte_arrive_whole(b: Bench) -> None:
    body = io.BytesIO(b"[]," * 2 * 10**6)
    async with b.session.post(f"{b.url}/v1/echo/x", data=body) as response:
        assert (await response.json())["bytes"] == 6 * 10**6
    head = b"POST /v1/echo/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    head += b"Transfer-Encoding: chunked\r\n\r\n"
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in BODY * 50)
    answer = await said_to(b.url, head + chunks + b"0\r\nTrailer: x\r\n\r\n")
    assert b'"bytes": %d' % (len(BODY) * 50) in answer


# --- HTTP ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [(), ("Connection: keep-alive",)])
@scene(Engine(tpot_s=0.1))  # so that events come one by one, as on the way past the parser
async def test_a_stream_over_http_1_0_ends_with_its_connection(b: Bench, keep: Any) -> None:
    answer = await said_to(b.url, posted(BODY, *keep, version="1.0"))
    head, _, stream = answer.partition(b"\r\n\r\n")
    usual = (await b.ask()).content.encode()
    assert re.sub(rb"cmpl-\d+", b"", stream) == re.sub(rb"cmpl-\d+", b"", usual)
    assert head.startswith(b"HTTP/1.0 200 OK\r\n")
    assert b"chunked" not in head
    assert stream.startswith(b"data: {")
    assert stream.endswith(b"data: [DONE]\n\n")


@scene(Engine())
async def test_answers_over_http_1_0_keep_the_connection_if_asked(b: Bench) -> None:
    plain = json.dumps({"model": MODEL, "prompt": "Count: "}).encode()
    kept = posted(plain, "Connection: keep-alive", version="1.0")
    answer = await said_to(b.url, kept + posted(plain, version="1.0"))
    assert answer.count(b"HTTP/1.0 200 OK") == 2


@scene(Engine())
async def test_pipelined_requests_are_all_answered(b: Bench) -> None:
    requests = posted(BODY) * 20 + posted(BODY, "Connection: close")
    assert (await said_to(b.url, requests)).count(b"data: [DONE]\n\n") == 21
    asked = b"GET /health HTTP/1.1\r\nHost: x\r\n%b\r\n"
    many = asked % b"" * 2000 + asked % b"Connection: close\r\n"
    assert (await said_to(b.url, many)).count(b"HTTP/1.1 200 OK\r\n") == 2001


HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
MALFORMED = [
    b"\x16\x03\x01\x00\xa5\x01\x00", b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nBad Header\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 10**6 + b"\r\n\r\n", b"GET /" + b"x" * 10**6,
    b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 100_000 + b"\r\n", posted(b"x", "Content-Length: 5"),
    posted(b"", "Transfer-Encoding: chunked"), posted(b"", "Transfer-Encoding: x"),
    b"POST /v1/x HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"POST /v1/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET /v1/\x1b[2J HTTP/1.1\r\nHost: x\r\nX: \x00\r\n\r\n",
    # What other programs may read in another way: `/health` would be answered with 200.
    HEALTH + b"Content-Length: +4\r\n\r\nx: y", HEALTH.replace(b"\r\n", b"\n") + b"\n",
    HEALTH + b"X: y\nX: z\r\n\r\n",
]  # fmt: skip


@pytest.mark.parametrize("request_", MALFORMED)
@scene(Engine(), key="s3cret")
async def test_what_is_no_http_gets_400_and_no_line_in_the_log(
    b: Bench, request_: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.clear()
    for _ in range(3):
        answer = await said_to(b.url, request_ + b"\r\n\r\n")
        # Nothing: what was still on its way when the connection closed has reset it.
        assert not answer or answer.partition(b" ")[2][:3] in (b"400", b"401", b"404")
    assert [record for record in caplog.records if record.name != "asyncio"] == []
    assert (await b.ask()).done
    assert b.engines[0].bodies[1:] == []


@scene(Engine())
async def test_headers_that_cannot_be_sent_are_left_out(b: Bench) -> None:
    answer = await said_to(b.url, posted(BODY, "X-Bad: a\x01b", "X-Good: c", "Connection: close"))
    assert answer.partition(b" ")[2][:3] in (b"200", b"400")
    assert (await b.ask()).done
    assert b.replica(0).failures == 0


# --- too slow, too many --------------------------------------------------------------------------

SLOW = replace(QUICK, head_s=2, body_s=3, idle_s=5)


@pytest.mark.parametrize("start", [b"", b"P", b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"])
@scene(Engine(), limits=SLOW)
async def test_a_connection_without_a_request_is_closed(b: Bench, start: bytes) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert await said_to(b.url, start, most_s=60) == b""
    assert loop.time() - began < 2 * SLOW.head_s


@scene(Engine(), limits=SLOW)
async def test_a_body_that_does_not_come_is_not_waited_for(b: Bench) -> None:
    answer = await said_to(b.url, posted(BODY)[:-5], most_s=60)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b.engines[0].bodies == []


@scene(Engine(), limits=SLOW)
async def test_a_stream_longer_than_all_these_limits_is_not_closed_and_its_connection_kept(
    b: Bench,
) -> None:
    b.engines[0].tpot_s = 2
    assert (await b.ask()).text == TEXT
    await asyncio.sleep(SLOW.idle_s / 2)
    assert len(b.router.connections) == 1
    await asyncio.sleep(SLOW.idle_s)
    assert len(b.router.connections) == 0


@dataclass(eq=False)
class Link:
    closed: bool = False

    def force_close(self) -> None:
        self.closed = True


def test_the_oldest_that_wait_make_room_for_the_new() -> None:
    now, others = [0.0], [0]
    table = Connections(Limits(), lambda: others[0], 1024, lambda: now[0])
    links = [Link() for _ in range(300)]
    for number, link in enumerate(links):
        now[0] = float(number)
        table.opened(link)
    gone = [link.closed for link in links]
    assert gone == sorted(gone, reverse=True)
    assert 0 < gone.count(False) <= 256
    others[0] = 900
    assert not table.served(links[-1]), "there is no file for it"
    assert sum(not link.closed for link in links) == 1
    others[0] = 0
    assert table.served(links[-1])


def test_those_who_have_only_just_come_are_not_closed_for_others() -> None:
    table = Connections(Limits(), lambda: 0, 1024, lambda: 0.0)
    links = [Link() for _ in range(700)]
    for link in links:
        table.opened(link)
    assert not any(link.closed for link in links)
    assert all(table.served(link) for link in links)


@contextlib.contextmanager
def _many_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@contextlib.asynccontextmanager
async def _router(folder: Path, *urls: str, files: int, **limits: float) -> AsyncIterator[str]:
    """The URL of a router in a process that begins with a soft limit of so many files."""
    backends = [{"name": f"r{number}", "url": url} for number, url in enumerate(urls)]
    about = {"listen": {"host": "127.0.0.1", "port": 0}, "model": MODEL, "backends": backends}
    (folder / "c.json").write_text(json.dumps(about | {"limits": limits}))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ropeway.router", str(folder / "c.json"),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard)),
    )  # fmt: skip
    try:
        yield (await child.stdout.readline()).decode().strip()
        child.terminate()
        _, log = await child.communicate()
        assert child.returncode == 0
        assert b"Traceback" not in log
    finally:
        if child.returncode is None:
            child.kill()
            await child.communicate()


@pytest.mark.real_time
@pytest.mark.skipif(
    resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 8192,
    reason="the hard limit of open files (`ulimit -Hn`) is below the 8,192 that its clients take",
)
def test_silent_connections_and_many_streams_fit_where_the_soft_limit_is_1024(
    tmp_path: Path,
) -> None:
    async def play() -> None:
        async with (
            served(Engine(tpot_s=0.1).app()) as one,
            served(Engine(tpot_s=0.1).app()) as other,
            _router(tmp_path, one, other, files=1024, head_s=8) as url,
            bench(urls=(url,)) as b,  # for its client
        ):
            b.url = url
            host, port = url.removeprefix("http://").split(":")
            silent = [await asyncio.open_connection(host, int(port)) for _ in range(1100)]
            async with asyncio.timeout(60):
                while (await _state(b))["alive"] < 2:
                    await asyncio.sleep(0.1)
            asked = (b.ask(prompt=f"{number}: ") for number in range(700))
            replies = await asyncio.gather(*asked)
            assert Counter((it.status, it.status == 200 and it.done) for it in replies) == {
                (200, True): 700
            }
            assert [each["failures_total"] for each in (await _state(b))["backends"]] == [0, 0]
            async with asyncio.timeout(60):  # those who say nothing are closed
                assert {await reader.read() for reader, _ in silent} == {b""}
            for _, writer in silent:
                writer.close()

    with _many_files():
        asyncio.run(play())


def test_nothing_is_kept_of_requests_that_are_over() -> None:
    async def play() -> None:
        async with bench(Engine(tpot_s=0.01), fault("cut", 3), fault("500"), limits=SLOW) as b:

            async def client(number: int, each: int) -> None:
                for turn in range(each):
                    # Some want a whole answer; some leave before their stream begins, or within it.
                    asking = b.ask(prompt=f"{number} and {turn}: ", stream=turn % 4 > 0)
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(asking, 0.05 if turn % 4 == 3 else None)

            async def kept(clients: int, each: int) -> tuple[int, int]:
                await asyncio.gather(*(client(number, each) for number in range(clients)))
                await asyncio.sleep(2 * SLOW.idle_s)  # connections that nobody uses are closed
                return held(b.router), len(asyncio.all_tasks())

            await b.alive(3)
            things, tasks = await kept(50, 4)
            more_things, more_tasks = await kept(50, 20)
            assert b.router.totals.retried > 0
            assert len(b.engines[0].bodies) > 500
            # But for probes that are on their way.
            assert (more_things < things + 20, more_tasks < tasks + 5) == (True, True)
            assert len(b.router.upstreams) <= 3
            assert len(b.router.connections) == 0

    virtual_time.run(play())


def held(thing: object, seen: set[int] | None = None) -> int:
    """How many things an object of the router holds, in containers and in objects of its own."""
    seen = set() if seen is None else seen
    if id(thing) in seen:
        return 0
    seen.add(id(thing))
    inside: list[object] = []
    if isinstance(thing, Mapping):
        inside = [*thing, *thing.values()]
    elif isinstance(thing, list | tuple | set | frozenset | deque):
        inside = [*thing]
    elif type(thing).__module__.startswith("ropeway.router"):
        names = (*getattr(thing, "__dict__", ()), *getattr(thing, "__slots__", ()))
        inside = [getattr(thing, name, None) for name in names]
    return len(inside) + sum(held(each, seen) for each in inside)


async def _state(b: Bench) -> dict[str, Any]:
    async with b.session.get(f"{b.url}/ropeway/backends") as response:
        state: dict[str, Any] = await response.json()
    return state


# --- the log -------------------------------------------------------------------------------------


def test_a_line_of_the_log_is_one_line_without_control_characters() -> None:
    text = "a\nb\r\x1b[2J\u202e\x9b中" + "x" * 10**5
    record = logging.LogRecord("ropeway.router", logging.ERROR, "", 0, "%s", (text,), None)
    line = logs.OneLine("%(levelname)s %(message)s").format(record)
    assert line.isprintable()
    assert line.startswith("ERROR a b\\r\\x1b[2J\\u202e\\x9b中xxx")
    assert len(line) < 2 * logs.LINE_CHARS


def test_a_fault_is_logged_in_one_line_with_its_place() -> None:
    try:
        raise RecursionError("deep\n" * 1000)
    except RecursionError:
        info = sys.exc_info()
    record = logging.LogRecord("x", logging.ERROR, "", 0, "failed", (), info)
    line = logs.OneLine("%(message)s").format(record)
    assert line.startswith("failed [RecursionError: deep\\ndeep")
    assert f"{__file__}:" in line
    assert line.isprintable()


def test_a_log_grows_at_a_limited_rate_and_says_what_it_left_out() -> None:
    now = [0.0]
    rate = logs.Rate(lambda: now[0])

    def passed(count: int) -> list[str]:
        records = (logging.LogRecord("x", logging.INFO, "", 0, "m", (), None) for _ in range(count))
        return [record.getMessage() for record in records if rate.filter(record)]

    assert passed(10_000) == ["m"] * logs.BURST_LINES
    now[0] = 3 / logs.LINES_PER_S
    assert passed(10) == ["m (9800 lines before this one were left out)", "m", "m"]

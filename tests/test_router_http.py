"""The router's configuration, its manners over HTTP while replicas are well, its one file."""

import asyncio
import contextlib
import io
import json
import re
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import virtual_time
from ropeway.router import events, headers
from ropeway.router.__main__ import main
from ropeway.router.archive import archive
from ropeway.router.config import ConfigError, Limits, is_loopback, load, parse
from router_backends import ANSWER, CHAT, MODEL, QUICK, TEXT, Bench, Engine, bench, scene, until
from router_raw import OK, Raw, said_to, sized

pytestmark = pytest.mark.real_time

LIMITS = Limits()


GOOD: dict[str, Any] = {
    "listen": {"host": "127.0.0.1", "port": 8000},
    "model": "m",
    "backends": [{"name": "a", "url": "http://10.0.0.1:8001/v1"}],
}


def test_a_configuration_is_read() -> None:
    config = parse(GOOD | {"limits": {"drain_s": 5}, "key_env": "K"}, {"K": "s3cret"})
    assert config.backends[0].url == "http://10.0.0.1:8001"
    assert (config.limits.drain_s, config.limits.connect_s) == (5, LIMITS.connect_s)
    assert config.key == "s3cret"
    assert "s3cret" not in repr(config)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"listen": {"host": "0.0.0.0", "port": 1}}, "no API key"),
        ({"listen": {"host": "node-1", "port": 1}}, "no API key"),
        ({"listen": {"host": "127.0.0.1", "port": True}}, "listen.port"),
        ({"backends": []}, "backends"),
        ({"backends": GOOD["backends"] * 2}, "the same name"),
        ({"backends": [{"name": "a", "url": "file:///etc"}]}, "http://HOST:PORT"),
        ({"backends": [{"name": "a", "url": "http://h:99999999"}]}, r"backends\[0\].url"),
        ({"backends": [{"name": "a", "url": "http://h:0/v1"}]}, r"backends\[0\].url"),
        ({"backends": [{"name": "a", "url": "http://h:abc"}]}, "http://HOST:PORT"),
        ({"backends": [{"name": "a", "url": "http://[::1"}]}, "http://HOST:PORT"),
        ({"limits": {"drain": 5}}, "key drain"),
        ({"limits": {"drain_s": -1}}, "limits.drain_s"),
        ({"limits": {"deaths": 1.5}}, "limits.deaths"),
        ({"key_env": "MISSING"}, "MISSING"),
        ({"key_env": "SPLIT"}, "blanks"),
        ({"colour": "red"}, "key colour"),
    ],
)
def test_a_wrong_configuration_is_refused_with_its_place(change: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse(GOOD | change, {"SPLIT": "a\nb"})


def test_a_key_is_read_only_from_a_file_of_its_owner(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("s3cret\n")
    config = tmp_path / "router.json"
    config.write_text(json.dumps(GOOD | {"key_file": str(file)}))
    file.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        load(config, {})
    file.chmod(0o600)
    assert load(config, {}).key == "s3cret"


def test_what_is_loopback() -> None:
    assert [*map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "localhost"))] == [True] * 4
    assert [*map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "", "localhost.evil"))] == [False] * 5


def test_hop_by_hop_headers_stop_here_and_the_key_is_ours() -> None:
    given = {
        "Host": "x", "Connection": "close, X-Hop", "X-Hop": "1", "TE": "trailers", "Upgrade": "h2c",
        "Transfer-Encoding": "chunked", "Content-Length": "5", "Accept-Encoding": "gzip",
        "Authorization": "Bearer theirs", "X-Request-Id": "7",
    }  # fmt: skip
    assert dict(headers.forward(given, "Bearer ours")) == {
        "Accept-Encoding": "identity", "Authorization": "Bearer ours", "X-Request-Id": "7"
    }  # fmt: skip
    assert headers.forward(given, None)["Authorization"] == "Bearer theirs"


@pytest.mark.parametrize(
    ("given", "right"),
    [
        ("Bearer k", True), ("bearer k", True), ("Bearer  k", True), ("Bearer K", False),
        ("Basic k", False), ("k", False), ("", False), (None, False), ("Bearer kö", False),
        ("Bearer \udcff", False),
    ],
)  # fmt: skip
def test_the_key_is_compared(given: str | None, right: bool) -> None:
    assert headers.authorized(given, "k") is right


# --- over HTTP -----------------------------------------------------------------------------------


@scene(Engine())
async def test_answers_pass_through_unchanged(b: Bench) -> None:
    streamed = await b.ask(stream_options={"include_usage": True})
    assert (streamed.text, streamed.finish, streamed.done) == (TEXT, ["stop"], True)
    assert streamed.chunks[-1]["usage"]["completion_tokens"] == len(ANSWER)
    assert streamed.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert streamed.headers["X-Ropeway-Replica"] == "r0"
    assert (await b.ask(CHAT)).text == TEXT
    whole = await b.ask(stream=False)
    assert json.loads(whole.content)["choices"][0]["text"] == TEXT
    url = f"{b.url}/v1/echo/a%2Fb?x=%20y&z"
    async with b.session.put(url, data=b"12345") as response:
        data = await response.json()
        assert data == {"method": "PUT", "path": "/v1/echo/a%2Fb?x=%20y&z", "bytes": 5}
        assert response.headers["X-Theirs"] == "1"
        assert "X-Hop" not in response.headers


@scene(Engine(key="s3cret"), key="s3cret")
async def test_the_key_is_wanted_and_handed_on(b: Bench) -> None:
    assert (await b.ask()).done
    assert b.engines[0].heads[-1]["Authorization"] == "Bearer s3cret"
    wrong = {"Authorization": "Bearer no"}
    for path in ("/v1/models", "/v1/completions", "/ropeway/backends", "/tokenize"):
        async with b.session.get(b.url + path, headers=wrong) as response:
            assert response.status == 401
            assert (await response.json())["error"]["code"] == 401
    async with b.session.get(b.url + "/health", headers=wrong) as response:
        assert response.status == 200


KEY = "Bearer s3cret"
PATHS = [
    "/v1/../x", "/v1/%2e%2e/x", "/v1/..%2f..%2fx", "/v1//x", "//v1/x", "/./v1/x", "/V1/x", "/v1",
    "/health/../v1/x", "/v1/%00", "http://127.0.0.1:9/v1/x", "http://127.0.0.1:9/x", "*", "v1/x",
]  # fmt: skip
WRONG_KEYS = [
    ("Authorization: Bearer no", f"Authorization: {KEY}"), ("x-api-key: s3cret",), (),
    ("Authorization: Basic s3cret",), (f"Authorization: {KEY}{'x' * 7000}",),
    (f"Proxy-Authorization: {KEY}",), ("Cookie: api_key=s3cret",),
]  # fmt: skip


def asked(method: str, path: str, *lines: str) -> bytes:
    return "\r\n".join((f"{method} {path} HTTP/1.1", "Host: x", *lines, "", "")).encode()


def heard(*requests: bytes, key: str | None = None) -> tuple[list[int], list[bytes]]:
    """The statuses that the router answers with, and what its only replica hears meanwhile."""
    raw, statuses = Raw(sized(OK, b"{}")), []

    async def play() -> None:
        async with raw.served() as url, bench(urls=(url,), key=key) as b:
            await b.alive(1)
            for request in requests:
                answer = await said_to(b.url, request)
                statuses.append(int(answer.split()[1]))

    virtual_time.run(play())
    return statuses, raw.heard


@pytest.mark.parametrize("path", PATHS)
def test_no_spelling_of_a_path_goes_past_the_key_or_to_anybody_else(path: str) -> None:
    closed = "Connection: close"
    statuses, reached = heard(asked("GET", path, closed), key="s3cret")
    assert (statuses[0] in (400, 401, 404), reached) == (True, [])
    statuses, reached = heard(asked("GET", path, closed, f"Authorization: {KEY}"), key="s3cret")
    assert statuses[0] in (200, 400, 404)
    assert len(reached) == (statuses[0] == 200)
    assert all(request.startswith(b"GET /v1/") for request in reached)


@pytest.mark.parametrize("lines", WRONG_KEYS, ids=range(len(WRONG_KEYS)))
def test_a_key_in_another_place_is_none(lines: tuple[str, ...]) -> None:
    path = "/v1/models?api_key=s3cret&key=s3cret"
    assert heard(asked("GET", path, "Connection: close", *lines), key="s3cret") == ([401], [])


def test_of_two_keys_the_replica_gets_ours_alone() -> None:
    lines = (f"Authorization: {KEY}", "Authorization: Bearer theirs", "Connection: close")
    statuses, (request,) = heard(asked("GET", "/v1/models", *lines), key="s3cret")
    assert statuses == [200]
    assert request.lower().count(b"authorization:") == 1
    assert b"theirs" not in request


def test_what_would_leave_http_is_answered_as_http() -> None:
    close = "Connection: close, Upgrade, HTTP2-Settings"
    web = (close, "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIA==")
    plain = ("Connection: close", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk")
    statuses, reached = heard(
        asked("CONNECT", "127.0.0.1:9", close), asked("TRACE", "/", close),
        asked("GET", "/", *web), asked("GET", "/", *plain),
        asked("GET", "/v1/realtime", *web), asked("GET", "/v1/models", *plain),
    )  # fmt: skip
    assert statuses == [404] * 4 + [200] * 2
    assert [request.split(b"\r\n")[0] for request in reached] == [
        b"GET /v1/realtime HTTP/1.1", b"GET /v1/models HTTP/1.1",
    ]  # fmt: skip
    assert not any(b"upgrade" in request.lower() for request in reached)


def test_where_a_replica_redirects_to_the_client_is_told_and_nobody_goes() -> None:
    elsewhere = Raw(sized(OK, b"{}"))

    async def play() -> None:
        async with elsewhere.served() as other:
            head = b"HTTP/1.1 302 Found\r\nLocation: " + other.encode() + b"/v1/models\r\n"
            async with Raw(sized(head, b"")).served() as url, bench(urls=(url,)) as b:
                await b.alive(1)
                assert [(await b.ask(stream=streamed)).status for streamed in (True, False)] == [
                    302, 302,
                ]  # fmt: skip

    virtual_time.run(play())
    assert elsewhere.heard == []


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
@scene(Engine(), limits=replace(QUICK, body_bytes=10_000))
async def test_a_body_in_chunks_without_an_end_is_refused(b: Bench, encoding: str) -> None:
    lines = ("Transfer-Encoding: chunked", f"Content-Encoding: {encoding}")
    request = asked("POST", "/v1/completions", *lines) + b"3e8\r\n%b\r\n" % (b"x" * 1000) * 11
    assert (await said_to(b.url, request)).startswith(b"HTTP/1.1 413 ")
    assert b.engines[0].bodies == []


@scene(Engine(), limits=replace(QUICK, body_bytes=1000))
async def test_requests_that_are_too_large_are_refused(b: Bench) -> None:
    refused = await b.ask(prompt="x" * 2000)
    assert refused.status == 413
    assert "1,000 bytes" in json.loads(refused.content)["error"]["message"]
    assert b.engines[0].bodies == []


@scene(Engine(), Engine(), Engine(), first=None)
async def test_one_conversation_stays_on_one_replica_and_others_spread(b: Bench) -> None:
    for turn in range(5):
        history = "h" * 2000 + f"turn {turn}" * turn
        await b.ask(CHAT, messages=[{"role": "user", "content": history}])
    assert sorted(len(engine.bodies) for engine in b.engines) == [0, 0, 5]
    for number in range(30):
        await b.ask(prompt=f"{number} something else")
    assert min(len(engine.bodies) for engine in b.engines) >= 8


@scene(Engine(tpot_s=0.02), Engine(tpot_s=0.02), first=None)
async def test_a_popular_beginning_spreads_when_its_replica_is_busy(b: Bench) -> None:
    prompt = "the same long prompt " * 400
    await asyncio.gather(*(b.ask(prompt=prompt) for _ in range(24)))
    one, other = (len(engine.bodies) for engine in b.engines)
    assert one + other == 24
    assert min(one, other) >= 8
    assert all(replica.outstanding == 0 for replica in b.router.pool)


@scene(Engine(tpot_s=0.03), Engine(tpot_s=0.03))
async def test_tokens_and_not_requests_are_balanced(b: Bench) -> None:
    b.first(0)
    big = asyncio.create_task(b.ask(prompt="x" * 20_000))
    await until(lambda: b.engines[0].bodies)
    # 5000 tokens there: eight small requests together are still fewer.
    b.replica(0).requests = 0
    await asyncio.gather(*(b.ask(prompt=f"{n}", max_tokens=3) for n in range(8)))
    assert (await big).done
    assert [len(engine.bodies) for engine in b.engines] == [1, 8]


@scene(Engine(), urls=("http://127.0.0.1:9",))
async def test_the_state_is_told(b: Bench) -> None:
    await b.ask()
    async with b.session.get(b.url + "/ropeway/backends") as response:
        data = await response.json()
    assert data["alive"] == 1
    assert [row["state"] for row in data["backends"]] == ["closed", "unproven"]
    assert data["backends"][0]["requests_total"] == 1
    assert "onnect" in data["backends"][1]["last_failure"]
    async with b.session.get(b.url + "/metrics") as response:
        text = await response.text()
    assert 'ropeway_router_requests_total{backend="r0"} 1\n' in text
    assert 'ropeway_router_breaker{backend="r1",state="unproven"} 1\n' in text
    async with b.session.get(b.url + "/elsewhere") as response:
        assert response.status == 404


def test_the_archive_is_the_same_bytes_and_needs_nothing_of_ours() -> None:
    content = archive()
    assert content == archive()
    with zipfile.ZipFile(io.BytesIO(content)) as zipped:
        names = zipped.namelist()
    assert "__main__.py" in names
    assert {name for name in names if name.startswith("ropeway/")} - {"ropeway/__init__.py"} == {
        name for name in names if name.startswith("ropeway/router/")
    }


def test_the_archive_serves_and_ends_gracefully(tmp_path: Path) -> None:
    (tmp_path / "router.pyz").write_bytes(archive())

    async def scene() -> None:
        # 2.6 s of answer: longer than the server waits for handlers without a drain.
        async with bench(Engine(tpot_s=0.2)) as b:
            backends = [{"name": "a", "url": b.engines[0].url}]
            config = {"listen": {"host": "127.0.0.1", "port": 0}, "backends": backends}
            (tmp_path / "c.json").write_text(json.dumps({**GOOD, **config, "model": MODEL}))
            # -I: no PYTHONPATH, no current folder; -S would lose aiohttp as well.
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "router.pyz", "c.json", cwd=tmp_path,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
            try:
                url = (await process.stdout.readline()).decode().strip()
                await _until_status(b.session, url, 200)
                body = {"model": MODEL, "prompt": "p", "stream": True}
                async with b.session.post(url + "/v1/completions", json=body) as response:
                    first = await response.content.readany()
                    process.terminate()
                    await _until_status(b.session, url, 503)
                    rest = await response.content.read()
                assert (first + rest).endswith(events.DONE), "a running stream is finished"
                assert await process.wait() == 0
            finally:
                if process.returncode is None:
                    process.kill()
                await process.communicate()

    asyncio.run(scene())


async def _until_status(session: aiohttp.ClientSession, url: str, status: int) -> None:
    """By a connection that is open already; a server that ends takes no new one."""
    async with asyncio.timeout(60):
        with contextlib.suppress(aiohttp.ClientConnectionError):
            while (await session.get(url + "/health")).status != status:
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("argv", [[], ["-h"], ["missing.json"], ["a", "b"]])
def test_wrong_arguments_are_refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    assert re.search(r"usage:|missing\.json", capsys.readouterr().err)

"""What an answer means for its row, and the line that is written of it."""

import asyncio
import contextlib
import errno
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from batch_endpoint import BatchEndpoint

import virtual_time
from batch_server import BatchServer, row
from ports import free_port
from ropeway.batch.rows import Outcome, Row
from ropeway.batch.sending import send, verdict
from ropeway.batch.sending.health import Health, Sign
from ropeway.batch.sending.send import Sender
from ropeway.batch.sending.verdict import (
    Answer,
    Verdict,
    judge,
    result_of,
    retry_after,
    without_answer,
)
from ropeway.endpoint.address import Endpoint

CHAT, TEXT, EMBED = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
USAGE = '"usage":{"prompt_tokens":3,"completion_tokens":2,"prompt_tokens_details":null}'
GOOD = f'{{"id":"c","choices":[{{"index":0,"finish_reason":"stop","text":"hé"}}],{USAGE}}}'.encode()


def judged(data: bytes, status: int = 200, path: str = CHAT, **headers: str) -> Answer:
    return judge(path, status, {k.replace("_", "-"): v for k, v in headers.items()}, data, "ours-7")


def test_an_answer_is_kept_as_it_came() -> None:
    answer = judged(GOOD)
    assert answer.verdict is Verdict.ANSWERED
    assert answer.body == GOOD
    assert (answer.prompt, answer.answer) == (3, 2)
    assert answer.request_id == "ours-7"
    assert judged(GOOD, X_Request_Id="theirs").request_id == "theirs"


@pytest.mark.parametrize(
    ("status", "data", "headers"),
    [
        (200, GOOD, {"X_Request_Id": "a\udce9"}),
        (200, GOOD, {"Content_Encoding": "\udce9"}),
        (400, b"{}", {"X_Request_Id": "\udce9"}),
        (400, b'{"error":{"message":"\\ud800"}}', {}),
        (500, b'{"error":{"message":"\\ud800"}}', {"Retry_After": "\udce9", "Date": "\udce9"}),
        (503, b"\xed\xa0\x80", {"Retry_After": "\udce9"}),
        (200, b'{"error":{"message":"\\ud800"}}', {}),
        (200, b'{"choices":[{"text":"\\ud800"}]}', {}),
    ],
)
def test_bytes_that_are_no_text_harm_nothing(status: int, data: bytes, headers) -> None:
    answer = judged(data, status, **headers)
    answer.words.encode()
    line_of(result_of(row(3), answer))


def test_the_words_of_a_check_may_quote_half_a_character() -> None:
    line_of(without_answer(row(3), Outcome.FAILED, "it does not fit: \ud800"))


@pytest.mark.parametrize(
    ("reasons", "verdict"),
    [
        (["length"], Verdict.CUT),
        (["stop", "length"], Verdict.CUT),
        (["stop", "tool_calls"], Verdict.ANSWERED),
        ([None], Verdict.ANSWERED),
        (["abort"], Verdict.FAILED),
        (["stop", "error"], Verdict.FAILED),
    ],
)
def test_how_an_answer_ended(reasons: list[str | None], verdict: Verdict) -> None:
    choices = [{"finish_reason": reason} for reason in reasons]
    assert judged(json.dumps({"choices": choices}).encode()).verdict is verdict


@pytest.mark.parametrize(
    ("path", "data", "verdict"),
    [
        (EMBED, b'{"data":[{"embedding":[0.1,-2e-3],"index":0}]}', Verdict.ANSWERED),
        (EMBED, b'{"data":[{"embedding":"AAAA"}],"usage":{"prompt_tokens":4}}', Verdict.ANSWERED),
        (EMBED, b'{"data":[]}', Verdict.FAILED),
        (CHAT, b'{"data":[{}]}', Verdict.FAILED),
        ("/rerank", b'{"results":[]}', Verdict.ANSWERED),
        (TEXT, b'{"choices":[]}', Verdict.FAILED),
        (TEXT, b"{}", Verdict.FAILED),
        (TEXT, b"", Verdict.FAILED),
        (TEXT, b"[]", Verdict.FAILED),
        (TEXT, b"null", Verdict.FAILED),
        (TEXT, b"<html>It works!</html>", Verdict.FAILED),
        (TEXT, b'{"choices":[{"text":"half', Verdict.FAILED),
        (TEXT, b'{"choices":["text"]}', Verdict.FAILED),
        (TEXT, b'{"choices":[{"text":"\xff"}]}', Verdict.FAILED),
        (TEXT, b'{"choices":[{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}]}", Verdict.FAILED),
        (TEXT, b'{"choices":[{}],"error":{"message":"x"}}', Verdict.FAILED),
        (TEXT, b'{"choices":[{}],"error":null}', Verdict.ANSWERED),
        (TEXT, b'{"object":"error","message":"x"}', Verdict.FAILED),
        (TEXT, b'{"choices":[{}],"usage":{"prompt_tokens":1.5}}', Verdict.ANSWERED),
        (TEXT, b'{"choices":[{}],"usage":"none"}', Verdict.ANSWERED),
        (TEXT, b'{"choices":[{}],"usage":{"prompt_tokens":-5}}', Verdict.ANSWERED),
        (TEXT, b'data: {"choices":[{}]}\n\n', Verdict.FAILED),
    ],
)
def test_a_200_is_an_answer_only_when_it_holds_one(
    path: str, data: bytes, verdict: Verdict
) -> None:
    answer = judged(data, path=path)
    assert answer.verdict is verdict
    assert (verdict is Verdict.FAILED) == bool(answer.words)
    assert answer.prompt >= 0


@pytest.mark.parametrize(
    "error", ['{"message":"boo","code":1}', '"boo"', '["boo"]', '{"error":{"message":"boo"}}']
)
def test_an_error_in_a_200_is_told_in_the_servers_words(error: str) -> None:
    answer = judged(f'{{"choices":null,"error":{error}}}'.encode())
    assert answer.words.startswith("the server says: ")
    assert "boo" in answer.words


def test_a_compressed_answer_is_none() -> None:
    assert judged(GOOD, Content_Encoding="gzip").verdict is Verdict.FAILED
    assert judged(GOOD, Content_Encoding="identity").verdict is Verdict.ANSWERED


def test_an_answer_on_many_lines_becomes_one_and_keeps_its_numbers() -> None:
    data = (
        b'{\r\n  "choices": [ {"text": "a\\nb", "x": 1.10,\n "x": 12345678901234567890123} ]\n}\n'
    )
    answer = judged(data)
    assert answer.body == b'{"choices":[{"text":"a\\nb","x":1.10,"x":12345678901234567890123}]}'


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (400, Verdict.REFUSED), (413, Verdict.REFUSED), (422, Verdict.REFUSED),
        (499, Verdict.REFUSED),
        (408, Verdict.FAILED), (409, Verdict.FAILED), (425, Verdict.FAILED), (429, Verdict.LATER),
        (500, Verdict.FAILED), (502, Verdict.FAILED), (503, Verdict.FAILED), (204, Verdict.FAILED),
        (301, Verdict.BARRED), (401, Verdict.BARRED), (402, Verdict.BARRED), (403, Verdict.BARRED),
        (404, Verdict.BARRED), (405, Verdict.BARRED),
    ],
)  # fmt: skip
def test_what_a_status_means(status: int, verdict: Verdict) -> None:
    answer = judged(b'{"error":{"message":"the words"}}', status)
    assert answer.verdict is verdict
    assert answer.words == f"{status}: the words"
    assert answer.pause_s is None


def test_who_asks_to_wait_is_waited_for() -> None:
    assert judged(b"", 503, Retry_After="7").verdict is Verdict.LATER
    assert judged(b"", 429, Retry_After="7").pause_s == 7
    assert judged(b"", 500, Retry_After="7").verdict is Verdict.FAILED


@pytest.mark.parametrize(
    ("asked", "date", "seconds"),
    [
        ("7", None, 7.0),
        ("0.5", None, 0.5),
        ("99999999999999999999", None, 600.0),
        ("9" * 8000, None, 600.0),
        ("86400", None, 600.0),
        ("Thu, 01 Jan 1970 00:01:40 GMT", None, 60.0),
        ("Thu, 01 Jan 1970 00:01:40 GMT", "Thu, 01 Jan 1970 00:01:30 GMT", 10.0),
        ("Thu, 01 Jan 1970 00:01:40 GMT", "yesterday", 60.0),
        ("Thu, 01 Jan 1970 00:00:10 GMT", None, 0.0),
        ("soon", None, None),
        ("-5", None, None),
        ("nan", None, None),
        ("٧", None, None),
        ("", None, None),
    ],
)
def test_how_long_a_server_asks_to_be_left_alone(asked, date, seconds) -> None:
    headers = {"Retry-After": asked} | ({"Date": date} if date else {})
    assert retry_after(headers, now=40.0) == seconds


def line_of(result) -> dict:
    assert result.line.endswith(b"\n")
    assert result.line.count(b"\n") == 1
    return json.loads(result.line)


def test_the_line_of_an_answer_is_that_of_the_batch_api() -> None:
    one = Row(7, 'my "own" näme', CHAT, b"", 0, 0)
    result = result_of(one, judged(GOOD))
    assert (result.ordinal, result.outcome, result.prompt, result.answer) == (
        7, Outcome.ANSWERED, 3, 2,
    )  # fmt: skip
    assert GOOD in result.line
    assert line_of(result) == {
        "id": "batch_req_7",
        "custom_id": 'my "own" näme',
        "response": {"status_code": 200, "request_id": "ours-7", "body": json.loads(GOOD)},
        "error": None,
    }


@pytest.mark.parametrize(
    ("data", "body", "message"),
    [
        (b'{\n"error": {"message": "too long"}}', {"error": {"message": "too long"}}, "too long"),
        (b"<html>\nno</html>", "<html>\nno</html>", "<html> no</html>"),
        (b"\xff", "�", "�"),
        (b"", "", "Bad Request"),
    ],
)
def test_a_refusal_is_kept_in_the_servers_words(data, body, message) -> None:
    line = line_of(result_of(row(3), judged(data, 400)))
    assert line["response"] == {"status_code": 400, "request_id": "ours-7", "body": body}
    assert line["error"] == {"code": "refused", "message": f"400: {message}"}


def test_a_row_without_an_answer_has_an_error_instead() -> None:
    line = line_of(without_answer(row(3), Outcome.POISON, "the engine died"))
    assert line["response"] is None
    assert line["error"] == {"code": "poison", "message": "the engine died"}
    failed = result_of(row(3), judged(b"", 500))
    assert failed.outcome is Outcome.FAILED
    assert line_of(failed)["error"]["code"] == "failed"


@contextlib.contextmanager
def tcp_server(*pieces: bytes, endless: bytes = b"") -> Iterator[tuple[Endpoint, list[int]]]:
    """Read one request, send these pieces and then `endless` again and again; count its bytes."""
    sent = [0]
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.recv(65536)
                connection.sendall(b"".join(pieces))
                while endless:
                    connection.sendall(endless)
                    sent[0] += len(endless)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield Endpoint(f"http://127.0.0.1:{listener.getsockname()[1]}/v1"), sent
        thread.join(60)


def sent_once(endpoint: Endpoint, one: Row | None = None) -> Answer:
    async def main() -> Answer:
        async with Sender(endpoint, 60.0) as sender:
            return await sender.send(one or row(0), "ours-7", lambda: None)

    return asyncio.run(main())


@pytest.mark.parametrize(
    "head",
    [b"Content-Length: 1000000000\r\n\r\n", b"\r\n", b"Transfer-Encoding: chunked\r\n\r\n"],
)
def test_an_answer_without_end_does_not_fill_the_memory(head, monkeypatch) -> None:
    for module in (send, verdict):
        monkeypatch.setattr(module, "LONGEST_ANSWER", 2**20)
    piece = b"x" * 65536
    endless = b"10000\r\n%b\r\n" % piece if b"chunked" in head else piece
    with tcp_server(b"HTTP/1.1 200 OK\r\n" + head, endless=endless) as (endpoint, sent):
        answer = sent_once(endpoint)
    assert answer.verdict is Verdict.FAILED
    assert "longer than 1.0 MiB" in answer.words
    assert sent[0] < 2**25


@pytest.mark.parametrize(
    ("data", "verdict", "broke"),
    [
        (b"", Verdict.FAILED, True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{", Verdict.FAILED, True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{", Verdict.FAILED, True),
        (b"SSH-2.0-OpenSSH_9.6\r\n", Verdict.FAILED, False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", Verdict.FAILED, False),
        (b"HTTP/1.1 200 OK\r\n\r\n" + GOOD, Verdict.ANSWERED, False),
    ],
)  # fmt: skip
def test_what_a_connection_may_do(data: bytes, verdict: Verdict, broke: bool) -> None:
    with tcp_server(data) as (endpoint, _):
        answer = sent_once(endpoint)
    assert (answer.verdict, answer.broke) == (verdict, broke)


@pytest.mark.parametrize("size", [2**16, 2**21, 2**24])
def test_a_refusal_that_comes_before_the_body_is_sent_is_read(size: int) -> None:
    error = b'{"error":{"message":"too large"}}'
    head = b"HTTP/1.1 413 No\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(error)
    with tcp_server(head + error) as (endpoint, _):
        answer = sent_once(endpoint, row(0, "x" * size))
    assert (answer.verdict, answer.words) == (Verdict.REFUSED, "413: too large")


@pytest.mark.parametrize("status", ["400 No", "401 No", "500 No", "200 OK"])
def test_our_key_is_not_kept_where_a_server_repeats_it(status: str) -> None:
    key = 'tok/en-"1234'
    body = json.dumps({"error": {"message": f"bad Authorization: Bearer {key}"}}).encode()
    head = b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n" % (status.encode(), len(body))
    with tcp_server(head + body) as (endpoint, _):
        answer = sent_once(Endpoint(endpoint.url, key))
    assert "bad Authorization: Bearer ***" in answer.words
    line = line_of(result_of(row(0), answer))
    assert "1234" not in json.dumps(line)


def test_an_answer_is_kept_as_it_came_though_it_has_our_key_in_it() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(GOOD)
    with tcp_server(head + GOOD) as (endpoint, _):
        assert sent_once(Endpoint(endpoint.url, "choices")).body == GOOD


def test_the_system_asks_whether_the_peer_is_still_there() -> None:
    async def half_an_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
        await reader.read()
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(half_an_answer, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        async with server, Sender(Endpoint(url), 60.0) as sender, sender._session.get(url) as got:
            assert got.connection is not None
            assert got.connection.transport is not None
            used = got.connection.transport.get_extra_info("socket")
            assert used.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert used.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
        await asyncio.sleep(0.05)

    asyncio.run(main())


def test_a_row_that_no_server_took_is_told_from_one_that_failed() -> None:
    answer = sent_once(Endpoint(f"http://127.0.0.1:{free_port()}/v1"))
    assert answer.verdict is Verdict.AWAY
    assert "connection refused" in answer.words
    with tcp_server(b"HTTP/1.1 200 OK\r\n\r\n") as (endpoint, _):
        tls = Endpoint(endpoint.url.replace("http://", "https://"))
        assert sent_once(tls).verdict is Verdict.AWAY


@pytest.mark.parametrize("size", [10, 2**21])
def test_it_is_told_when_a_row_is_sent_and_not_before(size: int) -> None:
    async def main() -> None:
        told: list[bool] = []

        async def send(sender: Sender) -> None:
            await sender.send(row(0, "x" * size), "id", lambda: told.append(True))

        async with BatchServer() as server, Sender(server.endpoint, 60.0) as sender:
            await send(sender)
            assert told == [True]
            await server.die()
            await send(sender)
            assert told == [True]

    virtual_time.run(main())


@pytest.mark.parametrize(
    ("base", "path", "asked"),
    [
        ("/v1", CHAT, "/v1/chat/completions"),
        ("/v1", "/rerank", "/rerank"),
        ("/api/v3", CHAT, "/api/v3/chat/completions"),
        ("/team/v1", EMBED, "/team/v1/embeddings"),
    ],
)
def test_which_address_is_asked(base: str, path: str, asked: str) -> None:
    async def main() -> None:
        async with BatchServer() as server:
            url = server.endpoint.url.removesuffix("/v1") + base
            async with Sender(Endpoint(url, "secret"), 60.0) as sender:
                await sender.send(Row(0, "n", path, row(0).body, 0, 0), "id", lambda: None)
            assert server.asked == [(asked, "Bearer secret")]

    virtual_time.run(main())


def test_how_a_replica_is() -> None:
    async def main() -> None:
        async with BatchServer() as server, Sender(server.endpoint, 60.0) as sender:
            assert (await sender.healthy()).fault == ""
            assert (await sender.metrics()).reading is None
            server.figures = lambda: "vllm:num_requests_running 2\nvllm:num_requests_waiting 1\n"
            health = await sender.metrics()
            assert health.reading is not None
            assert (health.reading.running, health.reading.waiting) == (2, 1)
            server.unwell = 503
            health = await sender.healthy()
            assert ("503" in health.fault, health.sign) == (True, Sign.UNWELL)
            server.hung, began = True, asyncio.get_running_loop().time()
            health = await sender.healthy()
            assert asyncio.get_running_loop().time() - began < 6
            assert ("within 5.0 s" in health.fault, health.sign) == (True, Sign.SILENT)
            await server.die()
            health = await sender.healthy()
            assert ("refused" in health.fault, health.sign) == (True, Sign.GONE)

    virtual_time.run(main())


def test_kept_connections_that_were_forgotten_are_no_death_and_cost_a_row_one_try() -> None:
    async def main() -> None:
        server = await BatchEndpoint(seconds=0.01, idle=0.0).start()
        base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        async with server, Sender(Endpoint(base), 60.0) as sender:
            await asyncio.gather(*(sender.send(row(n), f"id-{n}", bool) for n in range(4)))
            assert (await sender.send(row(5), "id-5", bool)).broke
            again = await sender.send(row(5), "id-5-1", bool, again=True)
            assert again.verdict is Verdict.ANSWERED
            assert (await sender.healthy()).sign is Sign.WELL

    asyncio.run(main())


@pytest.mark.parametrize(
    ("number", "sign"),
    [
        (errno.ECONNREFUSED, Sign.GONE),
        (errno.ECONNRESET, Sign.GONE),
        (errno.EHOSTUNREACH, Sign.SILENT),
        (errno.ETIMEDOUT, Sign.SILENT),
        (errno.ENETUNREACH, Sign.UNKNOWN),
        (errno.EMFILE, Sign.UNKNOWN),
    ],
)
def test_only_who_is_asked_can_be_gone(number: int, sign: Sign) -> None:
    def refuse(_: object) -> socket.socket:
        raise OSError(number, "why")

    assert health_of("127.0.0.1", make_socket=refuse).sign is sign


def test_a_name_that_is_not_known_for_a_moment_is_no_death(monkeypatch) -> None:
    def refuse(*_: object, **__: object) -> list[object]:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert health_of("host.example").sign is Sign.UNKNOWN


def test_what_is_no_http_is_no_death() -> None:
    with tcp_server(b"SSH-2.0-OpenSSH_9.6\r\n") as (endpoint, _):
        assert health_of("127.0.0.1", endpoint.url.rpartition(":")[2]).sign is Sign.SILENT


def health_of(host: str, port: str = "1/v1", **how: Any) -> Health:
    async def main() -> Health:
        async with Sender(Endpoint(f"http://{host}:{port}"), 60.0, **how) as sender:
            return await sender.healthy()

    return asyncio.run(main())

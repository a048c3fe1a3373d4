"""The client against the fake endpoint: times, tokens, and the words for each way to fail."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, TypeVar

import pytest
from fake_endpoint import Behaviour, FakeEndpoint, running

import virtual_time
from ports import free_port
from ropeway.cli.main import exit_code
from ropeway.endpoint import failures
from ropeway.endpoint.address import Endpoint, normalise_url
from ropeway.endpoint.client import Client, ServedModel, served_model
from ropeway.endpoint.failures import RequestFailed
from ropeway.endpoint.request import Request
from ropeway.endpoint.stream import Clock, Delta, SseParser, Stopwatch, Timing
from ropeway.errors import Exit, Refused
from router_backends import served

T = TypeVar("T")
HELLO = Request("fake", messages=[{"role": "user", "content": "good day"}], max_tokens=8)


async def ask_async(endpoint: Endpoint, request: Request, clock: Clock, **options: Any) -> Timing:
    async with Client(endpoint, clock) as client:
        return await client.ask(request, **options)


async def fail_async(
    endpoint: Endpoint, request: Request, clock: Clock
) -> tuple[RequestFailed, Timing]:
    """Return the failure, and what arrived before it."""
    watch = Stopwatch(clock)
    with pytest.raises(RequestFailed) as caught:
        await ask_async(endpoint, request, clock, watch=watch)
    return caught.value, watch.timing()


def ask(url: str, request: Request = HELLO, **endpoint: Any) -> Timing:
    return asyncio.run(ask_async(Endpoint(url, **endpoint), request, time.monotonic))


def fail(url: str, request: Request = HELLO, **endpoint: Any) -> tuple[RequestFailed, Timing]:
    return asyncio.run(fail_async(Endpoint(url, **endpoint), request, time.monotonic))


@contextmanager
def tcp_server(answer: bytes) -> Iterator[str]:
    """A server that reads one request, sends these bytes, and closes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        thread.join(60)


def stream(*data: str) -> bytes:
    """A whole answer with these events."""
    head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    return (head + "".join(f"data: {event}\n\n" for event in data)).encode()


@pytest.mark.parametrize(
    ("typed", "url"),
    [
        ("127.0.0.1:8000", "http://127.0.0.1:8000/v1"),
        ("http://h:8000", "http://h:8000/v1"),
        ("http://h:8000/", "http://h:8000/v1"),
        ("http://h:8000/v1", "http://h:8000/v1"),
        ("https://h/v1/", "https://h/v1"),
        (" h:1/v1/chat/completions ", "http://h:1/v1"),
        ("https://api.h.cn/api/paas/v4", "https://api.h.cn/api/paas/v4"),
        ("[::1]:8000", "http://[::1]:8000/v1"),
        (":8000", "http://127.0.0.1:8000/v1"),
        ("npu1", "http://npu1/v1"),
    ],
)
def test_a_url_is_understood_however_it_is_typed(typed: str, url: str) -> None:
    assert normalise_url(typed) == url
    assert normalise_url(url) == url


@pytest.mark.parametrize(
    "typed",
    [
        *("", "ftp://h", "http://", "a b", "//h", "h:eight", "h:99999", "h:-1", "h:0", "h:８０"),
        *("http://me:pw@h", "http://me:pw@h:99999", "http://pw@h", "h/v1?key=pw", "h:x?key=pw"),
        *("h#pw", "a..b", "...", f"{'x' * 64}.h", "é" * 70, "h\xadx", "[::1", "h/\x1b[31m"),
        *("h/\x00x", "h\x85x", "h/\ud800", "h/\u202ev1", "h\u2028x"),
    ],
)
def test_an_unusable_url_is_refused(typed: str) -> None:
    with pytest.raises(Refused) as caught:
        normalise_url(typed)
    assert caught.value.exit_code == Exit.REFUSED
    assert "pw" not in caught.value.what


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("pw\r", "a space or a line end"), ("pw\r\nHost: evil", "a space or a line end"),
        ("pw pw", "a space or a line end"), ("pw\x1b[31m", "a control character"),
        ("pw\x7f", "a control character"), ("pw密钥", "not ASCII"), ("pw\u202e", "not ASCII"),
        ("pw\udcff", "not ASCII"), ("pw\x85", "not ASCII"),
    ],
)  # fmt: skip
def test_a_key_that_no_header_can_carry_is_refused_by_the_name_of_its_variable(
    key: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MY_KEY", key)
    assert exit_code(["chat", "-p", "hi", "--url", "h:1", "--key-env", "MY_KEY"]) == 2
    said = capsys.readouterr().err
    assert "the API key in `MY_KEY` has " in said
    assert words in said
    assert "pw" not in said


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
def test_events_are_whole_however_the_bytes_are_cut(size: int) -> None:
    stream = (
        ": a comment\r\nevent: x\r\ndata: 你好，缆车\r\n\r\n"
        'data:{"a":\r\ndata: 1}\r\n\r\nid: 7\n\ndata: 🚡\r\rdata: [DONE]\n\n'
    )
    parser, data = SseParser(), stream.encode()
    events = [event for at in range(0, len(data), size) for event in parser.feed(data[at:][:size])]
    assert events + parser.close() == ["你好，缆车", '{"a":\n1}', "🚡", "[DONE]"]


def test_a_long_line_is_read_once_however_small_its_pieces() -> None:
    """It was searched anew with each piece, which took minutes for this one."""
    parser = SseParser()
    assert [event for _ in range(2**21) for event in parser.feed(b"x")] == []
    with pytest.raises(ValueError, match=r"longer than 4\.0 MiB"):
        parser.feed(b"x" * 2**22)


def test_a_last_event_without_its_blank_line_is_read_at_the_end() -> None:
    parser = SseParser()
    assert parser.feed(b"data: one\n\ndata: two") == ["one"]
    assert parser.close() == ["two"]


def events(*rows: dict[str, Any]) -> Timing:
    ticks = iter(range(100))
    watch = Stopwatch(lambda: float(next(ticks)))
    watch.start()
    for row in rows:
        watch.add(row)
    return watch.timing()


def piece(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"delta": delta, "finish_reason": finish}]}


ROLE = piece(role="assistant", content="")


def test_the_role_is_no_token_and_the_total_comes_from_the_usage() -> None:
    usage = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 10}}
    timing = events(ROLE, piece(content="a b c"), piece("stop"), usage)
    assert timing.first_token == 2
    assert timing.last == 3
    assert (timing.input_tokens, timing.output_tokens, timing.counted) == (5, 10, True)
    assert timing.tpot_s == pytest.approx((3 - 2) / 9)
    assert timing.e2e_s == 3


SO_FAR = [{"usage": {"completion_tokens": count}} for count in (0, 2, 5, 40)]


@pytest.mark.parametrize(
    ("rows", "tokens", "total", "counted"),
    [
        ([piece(content="a"), piece(content="b"), piece("stop")], [1, 1], 2, False),
        # A token that shows no text yet is a token.
        ([ROLE, piece(content=""), piece("stop", content="猫")], [1, 1], 2, False),
        # A server that counts in every piece is believed.
        (
            [ROLE | SO_FAR[0], piece(content="a b") | SO_FAR[1],
             piece("length", content=" c d e") | SO_FAR[2]],
            [2, 3], 5, True,
        ),
        # A total in the last piece is not taken for its size.
        ([piece(content="a"), piece("stop", content="b") | SO_FAR[3]], [1, 1], 40, True),
    ],
    ids=["by pieces", "silent tokens", "in every piece", "at the end"],
)  # fmt: skip
def test_tokens_are_counted_by_the_server_or_else_by_pieces(
    rows: list[dict[str, Any]], tokens: list[int], total: int, counted: bool
) -> None:
    timing = events(*rows)
    assert [count for _, count in timing.chunks] == tokens
    assert (timing.output_tokens, timing.counted, timing.input_tokens) == (total, counted, None)


def test_both_names_of_the_reasoning_are_read() -> None:
    timing = events(piece(reasoning="hm"), piece(reasoning_content="m"), piece(content="猫"))
    assert (timing.reasoning, timing.text) == ("hmm", "猫")


def test_an_answer_without_tokens_has_no_times() -> None:
    timing = events(piece("stop"))
    assert (timing.ttft_s, timing.tpot_s) == (None, None)


def in_virtual_time(
    act: Callable[..., Coroutine[Any, Any, T]],
    behaviour: Behaviour,
    request: Request = HELLO,
    timeout_s: float = 300,
    **options: Any,
) -> T:
    """Let `act` have an endpoint that behaves so, a request, and a clock."""

    async def whole() -> T:
        clock = asyncio.get_running_loop().time
        async with served(FakeEndpoint(behaviour, clock).app()) as url:
            return await act(Endpoint(f"{url}/v1", timeout_s=timeout_s), request, clock, **options)

    return virtual_time.run(whole())  # fmt: skip


def test_times_and_tokens_of_a_known_endpoint_are_recovered() -> None:
    behaviour = Behaviour(ttft_s=0.2, tpot_s=0.02, answer_tokens=16)
    timing = in_virtual_time(ask_async, behaviour, Request("fake", messages=HELLO.messages))
    assert timing.ttft_s == pytest.approx(0.2, abs=0.002)
    assert timing.tpot_s == pytest.approx(0.02, abs=0.0002)
    assert (timing.input_tokens, timing.output_tokens) == (6, 16)
    assert timing.finish_reason == "stop"
    assert timing.text.startswith("The lift goes up")
    assert len(timing.chunks) == 16


def test_the_extra_body_and_the_usage_wish_are_sent() -> None:
    request = Request("fake", HELLO.messages, temperature=0.5, extra={"ignore_eos": True})
    with running(Behaviour(ttft_s=0, tpot_s=0)) as fake:
        ask(fake.url, request)
    (body,) = fake.requests
    assert body["ignore_eos"] is True
    assert body["temperature"] == 0.5
    assert body["stream_options"] == {"include_usage": True}
    assert "max_tokens" not in body


def test_pieces_come_one_by_one_and_chinese_stays_whole() -> None:
    pieces: list[Delta] = []
    behaviour = Behaviour(answer=("缆", "车", "🚡"), answer_tokens=3, tpot_s=0.02)
    in_virtual_time(ask_async, behaviour, on_delta=pieces.append)
    assert [piece.text for piece in pieces] == ["缆", "车", "🚡"]
    assert pieces[2].at - pieces[0].at == pytest.approx(0.04, abs=0.002)


def test_a_connection_is_used_again_even_when_the_end_of_a_body_comes_late() -> None:
    head = (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    body = b'data: {"choices": [{"delta": {"content": "up"}}]}\n\ndata: [DONE]\n\n'
    answered: list[int] = []  # the client's port, for each answer

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            writer.write(head + b"%x\r\n%s\r\n" % (len(body), body))
            await asyncio.sleep(0.5)
            writer.write(b"0\r\n\r\n")
            answered.append(writer.get_extra_info("peername")[1])
        writer.close()

    async def whole() -> None:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            async with Client(Endpoint(f"http://127.0.0.1:{port}/v1", timeout_s=2)) as client:
                for _ in range(3):
                    await client.ask(HELLO)

    virtual_time.run(whole())
    assert len(answered) == 3
    assert len(set(answered)) == 1


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with running(Behaviour()) as fake:
        assert ask(fake.url).output_tokens == 8


def test_the_first_model_is_measured_unless_one_is_named() -> None:
    def choose(url: str, name: str | None) -> ServedModel:
        return asyncio.run(served_model(Endpoint(url), name))

    with running(Behaviour(models=("a", "b"), context=4096)) as fake:
        assert choose(fake.url, None) == ServedModel("a", 4096)
        assert choose(fake.url, "b") == ServedModel("b", 4096)
        assert choose(fake.url, "alias") == ServedModel("alias", None)
    with running(Behaviour(models=())) as fake, pytest.raises(Refused, match="no model"):
        choose(fake.url, None)


def test_no_server_says_where_and_what_to_check() -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    error, timing = fail(url)
    assert type(error) is failures.ServerAway
    assert "connection refused" in error.what
    assert error.where == url
    assert "`ropeway status`" in (error.hint or "")
    assert timing.chunks == ()
    error, _ = fail("http://no-such-host.invalid:8000/v1")
    assert (error.kind, "host name" in error.what) == ("server away", True)


@pytest.mark.parametrize(
    ("behaviour", "asked", "kind", "what", "evidence", "hint"),
    [
        (Behaviour(models=("smollm2", "qwen3-vl")), {"model": "/data/Qwen3-VL"},
         failures.ModelUnknown, "`/data/Qwen3-VL`", "`smollm2`, `qwen3-vl`", "`--model qwen3-vl`"),
        (Behaviour(models=("smollm2",)), {"model": "qwen3-vl"},
         failures.ModelUnknown, "`qwen3-vl`", "`smollm2`", "`--model`"),
        (Behaviour(context=10), {"max_tokens": 100},
         failures.BadRequest, "maximum context length is 10 tokens", "", "`--max-tokens`"),
        (Behaviour(fault="error"), {}, failures.ServerFailed, "500", "", ""),
        (Behaviour(fault="full"), {}, failures.ServerFailed, "429", "", ""),
        (Behaviour(fault="html"), {}, failures.NotOpenAI, "`text/html`", "", "`/v1`"),
    ],
)  # fmt: skip
def test_a_refusal_has_its_kind_and_says_what_to_do(
    behaviour: Behaviour, asked: Any, kind: type, what: str, evidence: str, hint: str
) -> None:
    with running(behaviour) as fake:
        error, _ = fail(fake.url, replace(HELLO, **asked))
    assert type(error) is kind
    assert what in error.what
    assert evidence in "".join(error.evidence)
    assert hint in (error.hint or "")


def test_a_variable_that_is_named_and_not_set_is_refused_before_anything_is_sent(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with running(Behaviour()) as fake:
        assert exit_code(["chat", "-p", "hi", "--url", fake.url, "--key-env", "MY_KYE"]) == 2
        assert "`--key-env MY_KYE`: that variable is not set" in capsys.readouterr().err
        assert fake.requests == []


def test_a_refused_key_names_the_variable_and_not_the_key() -> None:
    with running(Behaviour(key="sesame")) as fake:
        wrong, _ = fail(fake.url, key="opensaysme", key_name="MY_KEY")
        missing, _ = fail(fake.url, key_name="MY_KEY")
    assert type(wrong) is failures.KeyRefused
    assert "401" in wrong.what
    assert all(words in (wrong.hint or "") for words in ("`export MY_KEY=…`", "`--key-env`"))
    assert type(missing) is failures.KeyRefused
    assert "`MY_KEY` is not set" in missing.what
    assert "opensaysme" not in str(wrong.as_json()) + repr(Endpoint(fake.url, key="opensaysme"))


@pytest.mark.parametrize(
    ("fault", "after", "text", "evidence"),
    [
        ("cut", 3, "The lift goes", ""),
        ("stream-error", 2, "The lift", "EngineCore encountered an issue"),
        ("no-finish", 4, "The lift goes up", "finish reason"),
    ],
)
def test_a_stream_that_breaks_keeps_what_came_and_says_why(
    fault: Any, after: int, text: str, evidence: str
) -> None:
    with running(Behaviour(fault=fault, fault_after=after)) as fake:
        error, timing = fail(fake.url)
    assert type(error) is failures.StreamBroke
    assert f"after {after} tokens" in error.what
    assert (timing.text, timing.output_tokens) == (text, after)
    assert evidence in "".join(error.evidence)


@pytest.mark.parametrize(("after", "words"), [(0, ""), (3, " after 3 tokens")])
def test_a_silent_server_times_out(after: int, words: str) -> None:
    behaviour = Behaviour(fault="hang", fault_after=after, ttft_s=0)
    error, timing = in_virtual_time(fail_async, behaviour, timeout_s=0.3)
    assert type(error) is failures.TimedOut
    assert error.what.endswith(f"0.3 s{words}")
    silence = timing.ended - (timing.last or timing.sent)
    assert silence == pytest.approx(0.3, abs=0.05)


@pytest.mark.parametrize("begin", [b"X-Slow: ", b"Content-Type: application/json\r\n\r\n"])
def test_who_answers_by_single_bytes_is_not_waited_for_without_end(begin: bytes) -> None:
    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            writer.write(b"HTTP/1.1 200 OK\r\n" + begin)
            for _ in range(3600):
                writer.write(b"1")
                await writer.drain()
                await asyncio.sleep(1)

    async def main() -> float:
        loop = asyncio.get_running_loop()
        server = await asyncio.start_server(drip, "127.0.0.1", 0)
        endpoint = Endpoint(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1")
        began = loop.time()
        async with server, Client(replace(endpoint, timeout_s=20.0)) as client:
            with pytest.raises(failures.TimedOut, match="not complete within 20 s"):
                await client.models()
        return loop.time() - began

    assert 20 <= virtual_time.run(main()) <= 60


def test_a_path_that_is_not_there_is_no_openai_server() -> None:
    with running(Behaviour()) as fake:
        error, _ = fail(fake.url + "/v2")
    assert type(error) is failures.NotOpenAI


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH_9.2\r\n", b""])
def test_another_protocol_on_the_port_is_one_clear_error(answer: bytes) -> None:
    with tcp_server(answer) as url:
        error, _ = fail(url)
    assert error.kind in ("not an OpenAI server", "stream broke")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("nonsense", "`nonsense` is not an event"),
        ("[1]", "`[1]` is not an event"),
        ('{"choices": 5}', "`choices` in the answer is `5`"),
        ('{"choices": {"0": {}}}', '`choices` in the answer is `{"0": {}}`'),
        ('{"choices": [null]}', "`choices` in the answer is `null`"),
        ('{"choices": [{"delta": [1]}]}', "`delta` in the answer is `[1]`"),
        ('{"choices": [{"delta": {"content": 5}}]}', "`content` in the answer is `5`"),
        ('{"choices": [{"finish_reason": {}}]}', "`finish_reason` in the answer is `{}`"),
    ],
)
def test_an_event_that_is_none_breaks_the_stream(data: str, words: str) -> None:
    with tcp_server(stream(data)) as url:
        error, _ = fail(url)
    assert type(error) is failures.StreamBroke
    assert "before the first token" in error.what
    assert words in error.evidence[0]

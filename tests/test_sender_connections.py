"""Connections of the sender: closed, reset, refused, and those to a server that comes back."""

import contextlib
import itertools
import json
import select
import socket
import struct
import threading
import time
from pathlib import Path

import pytest

from certificates import self_signed
from ports import free_port
from ropeway.bench.sending import sender
from talking import HEAD, SECOND, Talk, answer, echoing, listening, request, send

pytestmark = pytest.mark.real_time


@pytest.mark.parametrize("taken_s", [0.0, 0.3])
def test_a_connection_that_was_closed_while_it_was_idle_costs_no_request(taken_s: float) -> None:
    def serve(connection: socket.socket, _: int) -> None:
        connection.sendall(answer(request(connection).decode()))
        request(connection)  # it is taken, and the connection closed without a word
        time.sleep(taken_s)

    with listening(serve) as url:
        run = send(url, [Talk(str(number)) for number in range(4)])
    assert sorted(run.texts) == [str(number) for number in range(4)]
    assert not run.errors
    assert run.repeated == 3
    again = [timing.ttft_s or 0 for timing in run.timings if timing.text != "0"]
    assert all(ttft >= taken_s for ttft in again), "a time counts from when it was sent first"


def test_a_request_that_the_server_has_had_for_long_is_lost_with_its_connection() -> None:
    def serve(connection: socket.socket, _: int) -> None:
        connection.sendall(answer(request(connection).decode()))
        request(connection)
        time.sleep(1.2)

    with listening(serve) as url:
        run = send(url, [Talk("a"), Talk("b"), Talk("c")])
    assert [one.partition(" (")[0] for one in run.errors] == [
        "stream broke: the stream broke before the first token"
    ]
    (lost,) = (timing for timing in run.timings if timing.error)
    assert lost.ended - lost.sent >= 1.2
    assert (sorted(run.texts), run.repeated) == (["", "a", "c"], 0)


def test_a_request_that_an_idle_connection_refuses_goes_over_a_new_one() -> None:
    reset, napping = threading.Event(), threading.Event()

    def serve(connection: socket.socket, number: int) -> None:
        connection.sendall(answer(request(connection).decode()))
        if number:
            return
        assert napping.wait(30)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        reset.set()

    later = Talk("b", due=1000.0)
    looks = iter(range(1_000_000))

    def nap() -> None:
        if next(looks) == 1:
            napping.set()
            assert reset.wait(30)
            time.sleep(0.2)
            later.due = 0.0  # it is sent before anybody reads that the connection is gone

    with listening(serve) as url:
        run = send(url, [Talk("a"), later], silence=5, on_look=nap)
    assert (run.texts, run.errors) == (["a", "b"], [])


def test_a_server_that_ends_with_its_connection_is_understood() -> None:
    def serve(connection: socket.socket, _: int) -> None:
        body = request(connection).decode()
        text = HEAD.replace(b"Transfer-Encoding: chunked", b"Connection: close")
        plain = (
            b"data: %b\n\ndata: [DONE]\n\n"
            % json.dumps(
                {"choices": [{"delta": {"content": body}, "finish_reason": "stop"}]}
            ).encode()
        )
        connection.sendall(text + plain)

    with listening(serve) as url:
        run = send(url, [Talk("a"), Talk("b")])
    assert run.texts == ["a", "b"]
    assert not run.errors


def test_nobody_there_is_an_error_of_each_request() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/v1"
    run = send(url, [Talk("a"), Talk("b")], connected=False)
    assert run.errors == ["server away: no server answers: connection refused"] * 2


def test_a_request_that_waits_for_its_connection_in_vain_has_taken_that_long() -> None:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1))
        address, hangs = server.getsockname(), False
        while not hangs:  # until nobody is let in any more
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(address)
            hangs = not select.select((), (client,), (), 0.3)[1]
        url = f"http://127.0.0.1:{address[1]}/v1"
        run = send(url, [Talk("q")], connected=False, limit=1.0)
    (timing,) = run.timings
    assert timing.error
    assert timing.ended - timing.sent >= 0.9


def test_of_several_addresses_the_first_that_answers_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def known(_: str, port: int, **__: object) -> list[object]:
        kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        return [(*kind, (f"127.0.0.{number}", port)) for number in (2, 1, 3)]

    monkeypatch.setattr(socket, "getaddrinfo", known)  # as `localhost` may be ::1 and 127.0.0.1
    with listening(echoing) as url:
        run = send(url, [Talk("q")])
    assert (run.texts, run.errors) == (["q"], [])


def test_a_client_that_finds_no_server_rests_before_it_tries_again() -> None:
    run = send(
        f"http://127.0.0.1:{free_port()}/v1", [Talk("q"), Talk("q"), Talk("q")], connected=False
    )
    begun = sorted(timing.due or 0 for timing in run.timings)
    assert len(begun) == 3
    assert all(later - earlier >= 0.5 for earlier, later in itertools.pairwise(begun))


def test_a_run_ends_when_nobody_has_been_there_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "_AWAY_NS", SECOND)
    talks = [Talk("q") for _ in range(10_000)]
    run = send(f"http://127.0.0.1:{free_port()}/v1", talks, clients=3, connected=False)
    assert run.ended == "server away"
    assert 3 <= len(run.timings) < 100
    assert set(run.errors) == {"server away: no server answers: connection refused"}


def test_a_server_that_comes_back_is_measured_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "_AWAY_NS", SECOND)
    with contextlib.ExitStack() as stack:
        port, looks = free_port(), iter(range(1_000_000))

        def come_back() -> None:
            if next(looks) == 1:
                stack.enter_context(listening(echoing, port=port))

        talks = [Talk("a", due=0.0), Talk("b", due=0.6), Talk("c", due=3.0)]
        url = f"http://127.0.0.1:{port}/v1"
        run = send(url, talks, connected=False, on_look=come_back)
    assert run.ended == "complete"
    assert run.texts == ["", "b", "c"]


def test_tls_is_spoken_and_the_name_proved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, certificate = self_signed(tmp_path, "DNS:localhost")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with listening(echoing, context) as url:
        run = send(url, [Talk(str(number)) for number in range(20)], clients=3)
        wrong = send(url.replace("localhost", "127.0.0.1"), [Talk("a")], connected=False)
    assert sorted(run.texts) == sorted(str(number) for number in range(20))
    assert not run.errors
    assert "certificate" in wrong.errors[0]

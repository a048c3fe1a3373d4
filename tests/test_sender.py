"""Requests over sockets of our own: when they are sent, what comes back, and what goes wrong."""

import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from certificates import self_signed
from ropeway.bench.sending.answers import UNFINISHED, AnswerReader
from ropeway.bench.sending.flight import Flight
from ropeway.bench.sending.sender import Ended, Sender
from ropeway.bench.sending.worker import way_to
from ropeway.endpoint.address import Endpoint
from ropeway.endpoint.stream import Timing

pytestmark = pytest.mark.real_time

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
SECOND = 1_000_000_000


def event(text: str, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    data = b"data: %b\n\n" % json.dumps({"choices": [choice]}).encode()
    return b"%x\r\n%b\r\n" % (len(data), data)


def answer(text: str) -> bytes:
    done = b"data: [DONE]\n\n"
    end = b"%x\r\n%b\r\n0\r\n\r\n" % (len(done), done)
    return HEAD + event(text) + event("", "stop") + end


@contextlib.contextmanager
def listening(
    serve: Callable[[socket.socket, int], None], tls: ssl.SSLContext | None = None
) -> Iterator[str]:
    """Give each connection and its number to `serve`, in a thread of its own."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:

        def accept() -> None:
            for number in range(10_000):
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=one, args=(connection, number), daemon=True).start()

        def one(connection: socket.socket, number: int) -> None:
            with (
                contextlib.suppress(OSError),
                contextlib.closing(connection),
                tls.wrap_socket(connection, server_side=True) if tls else connection as ready,
            ):
                serve(ready, number)

        threading.Thread(target=accept, daemon=True).start()
        scheme = "https" if tls else "http"
        yield f"{scheme}://localhost:{server.getsockname()[1]}/v1"
        server.shutdown(socket.SHUT_RDWR)


def request(connection: socket.socket) -> bytes:
    """Return the body of the next request; raise OSError at the end of the connection."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += received(connection)
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.rpartition(b"Content-Length: ")[2])
    while len(body) < length:
        body += received(connection)
    return body


def received(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise OSError("closed")
    return data


def echoing(connection: socket.socket, _: int) -> None:
    while True:
        connection.sendall(answer(request(connection).decode()))


@dataclass
class Talk:
    """Questions that name each other: the next one is what was answered, and a letter more."""

    first: str
    turns: int = 1
    due: float | None = None

    @property
    def more(self) -> bool:
        return self.turns > 0

    def question(self, answer: str) -> bytes:
        self.turns -= 1
        return (answer + "+" if answer else self.first).encode()


@dataclass
class Run:
    """What became of the talks; `start`: when they began, seconds of the monotonic clock."""

    ended: Ended
    start: float
    timings: list[Timing] = field(default_factory=list)

    @property
    def texts(self) -> list[str]:
        return [timing.text for timing in self.timings]

    @property
    def errors(self) -> list[str]:
        return [f"{one.error.kind}: {one.error.message}" for one in self.timings if one.error]


def send(
    url: str,
    talks: list[Talk],
    clients: int = 1,
    *,
    silence: float = 10,
    limit: float | None = None,
    connected: bool = True,
    on_look: Callable[[], None] = lambda: None,
) -> Run:
    """Have talks with what listens at a URL, over connections that are open before or not."""
    endpoint = Endpoint(url, timeout_s=silence)
    start = time.monotonic_ns()
    run = Run("complete", start / SECOND)

    def read(flight: Flight) -> str:
        flight.reader = flight.reader or AnswerReader(flight, endpoint, start)
        text: str = flight.reader.read()
        if flight.ended:
            run.timings.append(flight.reader.timing())
        return text

    sender = Sender(way_to(endpoint), clients, on_look)
    with contextlib.closing(sender):
        if connected:
            sender.connect(clients)
        run.ended = sender.run(iter(talks), read, start, lambda: False, limit)
    return run


def test_every_question_gets_its_own_answer() -> None:
    with listening(echoing) as url:
        run = send(url, [Talk(f"q{number}") for number in range(300)], clients=7)
    assert sorted(run.texts) == sorted(f"q{number}" for number in range(300))
    assert not run.errors
    assert all(timing.finish_reason == "stop" for timing in run.timings)


def test_a_next_question_follows_from_the_answer_at_once() -> None:
    with listening(echoing) as url:
        run = send(url, [Talk("a", turns=3), Talk("b", turns=2)], clients=2)
    assert sorted(run.texts) == ["a", "a+", "a++", "b", "b+"]
    ended = {timing.text: timing.ended for timing in run.timings}
    due = {timing.text: timing.due for timing in run.timings}
    assert due["a+"] == pytest.approx(ended["a"])


def test_requests_are_never_sent_before_they_are_due_and_their_wait_is_kept() -> None:
    def slow(connection: socket.socket, _: int) -> None:
        while True:
            body = request(connection)
            time.sleep(0.2)
            connection.sendall(answer(body.decode()))

    talks = [Talk(str(number), due=0.1 + number * 0.05) for number in range(4)]
    with listening(slow) as url:
        run = send(url, talks, clients=1)
    assert [timing.due for timing in run.timings] == pytest.approx([0.1, 0.15, 0.2, 0.25])
    waits = [timing.sent - (timing.due or 0) for timing in run.timings]
    assert all(wait >= 0 for wait in waits)
    assert waits[3] >= 0.4
    assert all((timing.ttft_s or 0) >= 0.2 for timing in run.timings)


def test_pieces_have_the_time_of_their_arrival_though_we_read_them_late() -> None:
    def serve(connection: socket.socket, _: int) -> None:
        request(connection)
        time.sleep(0.5)
        connection.sendall(HEAD + event("one"))
        sent.append(time.monotonic())
        time.sleep(1.5)
        connection.sendall(answer("two").removeprefix(HEAD))
        time.sleep(1)

    sent: list[float] = []
    naps = iter((0.0, 1.0))  # the second look is late, while the first piece comes
    with listening(serve) as url:
        run = send(url, [Talk("q")], on_look=lambda: time.sleep(next(naps, 0.0)))
    (timing,) = run.timings
    assert timing.first_token == pytest.approx(sent[0] - run.start, abs=0.1)
    assert timing.late_s > 0.3


def test_a_connection_that_was_closed_while_it_was_idle_costs_no_request() -> None:
    def serve(connection: socket.socket, number: int) -> None:
        connection.sendall(answer(request(connection).decode()))
        if number:
            request(connection)  # it is taken, and the connection closed without a word

    with listening(serve) as url:
        run = send(url, [Talk(str(number)) for number in range(6)])
    assert sorted(run.texts) == [str(number) for number in range(6)]
    assert not run.errors


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


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"", "stream broke: the stream broke before the first token"),
        (HEAD + event("one"), "stream broke: the stream broke after 1 tokens"),
        (b"SSH-2.0-OpenSSH\r\n", "not an OpenAI server"),
        (HEAD + b"zz\r\n\r\n", "not an OpenAI server"),
        (HEAD + b"b\r\ndata: {no}\n\r\n1\r\n\n\r\n0\r\n\r\n", "stream broke"),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 2\r\n\r\n{}", "server error: the server failed"),
        (b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n", "key refused"),
        (b"HTTP/1.1 302 Go\r\nLocation: http://x/\r\nContent-Length: 0\r\n\r\n", "redirect"),
        (b"HTTP/1.1 400 No\r\nContent-Length: 2\r\n\r\n{}", "bad request"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n<p>", "not an OpenAI server"),
        (HEAD[:-2] + b"Content-Encoding: br\r\n\r\n1\r\nh\r\n0\r\n\r\n", "not an OpenAI server"),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_said_and_the_rest_goes_on(said: bytes, words: str) -> None:
    def serve(connection: socket.socket, _: int) -> None:
        while True:
            body = request(connection).decode()
            if body == "bad":
                connection.sendall(said)
                return
            connection.sendall(answer(body))

    with listening(serve) as url:
        run = send(url, [Talk("good"), Talk("bad"), Talk("better")])
    assert [text for text in run.texts if text in ("good", "better")] == ["good", "better"]
    assert len(run.errors) == 1
    assert run.errors[0].startswith(words)


def test_silence_ends_a_request_with_its_true_duration() -> None:
    def serve(connection: socket.socket, _: int) -> None:
        request(connection)
        connection.sendall(HEAD + event("one"))
        time.sleep(5)

    with listening(serve) as url:
        run = send(url, [Talk("a")], silence=0.5)
    assert run.errors == ["timeout: nothing arrived for 0.5 s after 1 tokens"]
    assert 0.5 <= run.timings[0].ended - run.timings[0].sent < 3
    assert run.texts == ["one"]


def test_nobody_there_is_an_error_of_each_request() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/v1"
    run = send(url, [Talk("a"), Talk("b")], connected=False)
    assert run.errors == ["server away: no server answers: connection refused"] * 2


def test_a_time_limit_cuts_off_what_is_in_flight() -> None:
    def serve(connection: socket.socket, _: int) -> None:
        request(connection)
        connection.sendall(HEAD + event("one"))
        time.sleep(5)

    with listening(serve) as url:
        run = send(url, [Talk("a"), Talk("b"), Talk("c")], clients=2, limit=0.5)
    assert run.ended == "time limit"
    assert [timing.error and timing.error.kind for timing in run.timings] == [UNFINISHED] * 2
    assert run.texts == ["one", "one"]


def test_a_long_answer_is_read_while_it_goes_on() -> None:
    pieces = 5000

    def serve(connection: socket.socket, _: int) -> None:
        request(connection)
        connection.sendall(HEAD)
        for number in range(pieces):
            connection.sendall(event(f"{number} "))
        connection.sendall(answer("").removeprefix(HEAD))
        time.sleep(1)

    with listening(serve) as url:
        run = send(url, [Talk("a")])
    assert run.texts == ["".join(f"{number} " for number in range(pieces))]
    assert run.timings[0].output_tokens == pieces + 1


def test_what_waits_to_be_read_is_bounded_though_the_server_never_lets_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    together = threading.Barrier(8)

    def serve(connection: socket.socket, _: int) -> None:
        for _ in range(20):
            request(connection)
            together.wait(10)
            connection.sendall(answer("yes"))

    waiting = []

    class Watched(Sender):
        def _wait(self, seconds: float) -> list[tuple[int, int]]:
            waiting.append((len(self._unread), self._pieces))
            time.sleep(0.005)  # so that all answer at once
            return super()._wait(seconds)

    monkeypatch.setitem(globals(), "Sender", Watched)
    for most in ({"_MOST_UNREAD": 0}, {"_MOST_PIECES": 0}):
        waiting.clear()
        with monkeypatch.context() as bounds, listening(serve) as url:
            for name, value in most.items():
                bounds.setattr(f"ropeway.bench.sending.sender.{name}", value)
            assert len(send(url, [Talk("x") for _ in range(160)], clients=8).texts) == 160
        assert {unread for unread, _ in waiting} == {0}
        assert waiting[-1][1] == 0, "every piece that came was read"


def test_tls_is_spoken_and_the_name_proved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, certificate = self_signed(tmp_path, "DNS:localhost")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with listening(echoing, context) as url:
        run = send(url, [Talk(str(number)) for number in range(20)], clients=3)
        wrong = send(url.replace("localhost", "127.0.0.1"), [Talk("a")], connected=False)
    assert sorted(run.texts) == sorted(str(number) for number in range(20))
    assert not run.errors
    assert "certificate" in wrong.errors[0]

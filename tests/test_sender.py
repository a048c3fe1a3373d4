"""Requests over sockets of our own: when they are sent, what comes back, and what goes wrong."""

import socket
import threading
import time

import pytest

from ropeway.bench.sending.answers import UNFINISHED
from ropeway.bench.sending.sender import Sender
from talking import HEAD, Talk, answer, echoing, event, listening, request, send

pytestmark = pytest.mark.real_time


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


def test_the_opening_burst_is_not_late_after_a_warm_up_either() -> None:
    with listening(echoing) as url:
        talks = [Talk(str(number)) for number in range(8)]
        run = send(url, talks[4:], clients=4, warm_up=talks[:4])
        late = send(url, [Talk("q", due=0.0), Talk("q", due=0.0)], clients=1).sent_late
    assert sorted(run.texts) == ["4", "5", "6", "7"]
    assert run.sent_late.longest == 0
    assert late.longest > 0


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


def test_first_tokens_that_were_read_with_later_ones_may_have_come_earlier() -> None:
    def serve(connection: socket.socket, _: int) -> None:
        request(connection)
        assert napping.wait(30)
        connection.sendall(HEAD + event("0"))
        sent.append(time.monotonic())
        for number in range(1, 10):
            time.sleep(0.1)
            connection.sendall(event(str(number)))
        all_sent.set()
        request(connection)  # nothing: the rest of the answer is not sent

    sent: list[float] = []
    napping, all_sent = threading.Event(), threading.Event()

    looks = iter(range(1_000_000))

    def nap() -> None:
        if next(looks) == 1:
            napping.set()
            assert all_sent.wait(30)

    with listening(serve) as url:
        run = send(url, [Talk("q")], on_look=nap, limit=2.5)
    (timing,) = run.timings
    (early,) = run.first_early
    assert timing.text == "0123456789"
    too_long = (timing.first_token or 0) - (sent[0] - run.start)
    assert 0.5 < too_long <= early
    assert timing.late_s >= early


def test_what_comes_together_while_we_wait_for_it_has_come_when_it_is_read() -> None:
    def serve(connection: socket.socket, _: int) -> None:
        while True:
            body = request(connection).decode()
            time.sleep(0.05)
            connection.sendall(HEAD + event(body) + answer("2").removeprefix(HEAD))

    with listening(serve) as url:
        run = send(url, [Talk("1") for _ in range(8)])
    assert run.texts == ["12"] * 8
    assert 0.0 in run.first_early


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

    monkeypatch.setattr("talking.Sender", Watched)
    for most in ({"_MOST_UNREAD": 0}, {"_MOST_PIECES": 0}):
        waiting.clear()
        with monkeypatch.context() as bounds, listening(serve) as url:
            for name, value in most.items():
                bounds.setattr(f"ropeway.bench.sending.sender.{name}", value)
            assert len(send(url, [Talk("x") for _ in range(160)], clients=8).texts) == 160
        assert {unread for unread, _ in waiting} == {0}
        assert waiting[-1][1] == 0, "every piece that came was read"

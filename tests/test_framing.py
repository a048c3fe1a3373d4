"""Where an HTTP/1.1 response ends, wherever its bytes are split."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropeway.bench.sending.framing import Body, Malformed, Response

_EVENTS = b'data: {"a":1}\n\n'
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def taken(pieces: list[bytes]) -> tuple[list[bool], bytes, Response]:
    """Give a response its pieces; return what it says of each, and the body."""
    response = Response()
    said = [response.take(piece) for piece in pieces]
    body = Body(response)
    return said, b"".join(map(body.feed, pieces)), response


def split(data: bytes, places: list[int]) -> list[bytes]:
    at = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(at) if b > a]


@given(
    st.lists(st.binary(min_size=1, max_size=40), max_size=6),
    st.lists(st.integers(0, 10_000), max_size=12),
    st.sampled_from([b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Hints\r\nA: b\r\n\r\n"]),
    st.sampled_from([b"0\r\n\r\n", b"0\r\nX-Trailer: 1\r\n\r\n", b"000;last\r\n\r\n"]),
)
def test_a_chunked_response_ends_at_its_end_wherever_it_is_split(
    parts: list[bytes], places: list[int], greeting: bytes, end: bytes
) -> None:
    data = greeting + CHUNKED + b"".join(map(chunk, parts)) + end
    said, body, response = taken(split(data, places))
    assert said == [False] * (len(said) - 1) + [True]
    assert body == b"".join(parts)
    assert (response.status, response.close) == (200, False)
    assert response.headers[b"content-type"] == b"text/event-stream"


@given(st.binary(max_size=60), st.lists(st.integers(0, 10_000), max_size=8))
def test_a_response_of_known_length_ends_there(content: bytes, places: list[int]) -> None:
    data = b"HTTP/1.1 500 Oh\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content)
    said, body, response = taken(split(data, places))
    assert said == [False] * (len(said) - 1) + [True]
    assert (body, response.status) == (content, 500)


def test_without_a_length_a_response_ends_with_its_connection() -> None:
    said, body, response = taken([b"HTTP/1.0 200 OK\r\n\r\n", _EVENTS])
    assert (said, body, response.close) == ([False, False], _EVENTS, True)
    assert response.at_close()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        CHUNKED[:30],
        CHUNKED,
        CHUNKED + chunk(_EVENTS),
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab",
    ],
)
def test_a_connection_that_closes_too_early_leaves_no_whole_response(data: bytes) -> None:
    response = Response()
    assert not response.take(data)
    assert not response.at_close()


def test_bytes_in_an_event_that_look_like_the_end_are_not_it() -> None:
    looks = b"0\r\n\r\n"
    response = Response()
    assert not response.take(CHUNKED + chunk(looks)[:-2])
    assert response.take(b"\r\n0\r\n\r\n")


@pytest.mark.parametrize("close", [b"close", b"Close"])
def test_a_server_that_closes_says_so(close: bytes) -> None:
    data = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: %b\r\n\r\n" % close
    response = Response()
    assert response.take(data)
    assert response.close


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -4\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 20_000,
        CHUNKED + b"zz\r\n\r\n",
        CHUNKED + b"5" * 20 + b"\r\n\r\n",
    ],
)
def test_what_is_no_http_is_an_error(data: bytes) -> None:
    with pytest.raises(Malformed):
        Response().take(data)

"""One row to one endpoint, and what becomes of it: sent, answered, judged, written as a line."""

import asyncio
import contextlib
import errno
import re
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from email.utils import parsedate_to_datetime
from enum import IntEnum
from http import HTTPStatus
from typing import Any, Self

import aiohttp
import msgspec
from yarl import URL

from ropeway.batch.health import Health, Sign
from ropeway.batch.pace import read_metrics
from ropeway.batch.pictures import PictureRow
from ropeway.batch.rows import Outcome, Result, Row
from ropeway.endpoint.address import Endpoint
from ropeway.endpoint.client import explain, open_session, server_words
from ropeway.errors import RopewayError, reason_of
from ropeway.outside import parse_json
from ropeway.phrases import Phrase, phrase
from ropeway.units import format_bytes, format_seconds

# Embeddings of a full request and log probabilities of a long answer take some tens of megabytes.
LONGEST_ANSWER = 64 * 2**20
_LONGEST_REFUSAL = 2**16
_LONGEST_METRICS = 4 * 2**20
_READ_BUFFER = 2**20
# A server, or what is between, may have forgotten a connection that is kept. Whether somebody is
# there only a new one can tell, and a row that was sent in vain is not to meet the next of these.
_NOT_KEPT = {"keepalive_timeout": None, "force_close": True}
# aiohttp warns of larger ones.
_LARGE_BODY = 2**20
_ENOUGH = 2**17  # bytes of a body that is read from files, at once
_PROBE_S = 5.0
_MOST_PAUSE_S = 600.0
# What a server says of us (wrong key, wrong address, no credit), or of a model that it has not.
_NOT_OF_THE_ROW = {300, 301, 302, 303, 307, 308, 401, 402, 403, 404, 405, 407}
_MAYBE_OF_THE_ROW = {403, 404, 405}  # its contents, its model, its API
_MAY_PASS = {408, 409, 425, 429}
# Seconds until the first question, between the next ones, and their number (the first of these
# names is Linux's, the second macOS's).
_ALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPALIVE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
# What a system says where no process is any more, and what it says of our own machine.
_NOBODY_THERE = {errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE}
_OUR_OWN = {
    errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL, errno.ENETDOWN,
    errno.ENETUNREACH,
}  # fmt: skip
_STATUSES = {status.value for status in HTTPStatus}
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_MOST_SHOWN = 200
_NO_ANSWER = "no answer of its API"
_encode = msgspec.json.Encoder().encode
# What is wrong with an answer, if anything.
Check = Callable[[bytes], Phrase | None]


class Kind(IntEnum):
    """What an answer means for its row.

    ANSWERED, CUT, REFUSED  as `Outcome` has them
    FAILED  no answer; it counts as one of the row's tries, unless the replica died
    LATER   the replica has too much to do: it is left alone for `pause_s`, and no try is counted
    AWAY    no server took the row
    BARRED  a refusal that is hardly about the row: of the key, the address, the model
    UNFIT   an answer that is not what was asked for, and is paid: it counts as a try
    UNREADY     a picture of the row cannot be read now: it counts as a try, and the replica as well
    UNSENDABLE  it can never be read
    """

    ANSWERED = 1
    CUT = 2
    REFUSED = 3
    FAILED = 4
    LATER = 5
    AWAY = 6
    BARRED = 7
    UNFIT = 8
    UNREADY = 9
    UNSENDABLE = 10


_OUTCOMES = {
    Kind.ANSWERED: Outcome.ANSWERED,
    Kind.CUT: Outcome.CUT,
    Kind.REFUSED: Outcome.REFUSED,
    Kind.BARRED: Outcome.REFUSED,
}


class Answer(msgspec.Struct, frozen=True):  # made in a tenth of the time of a frozen dataclass
    """What came of sending a row once.

    body      the server's own JSON, on one line; empty where there is none
    words     what went wrong, for people
    fault     the same in a word or two, by which failures are counted
    pause_s   how long the server asks to be left alone; None where it does not say
    broke     whether the connection ended before the answer did
    """

    kind: Kind
    status: int = 0
    request_id: str = ""
    body: bytes = b""
    prompt: int = 0
    answer: int = 0
    words: str = ""
    fault: str = ""
    pause_s: float | None = None
    broke: bool = False

    @property
    def of_api(self) -> bool:
        """Whether a refusal is in the words of such a server, not of something before it."""
        return self.body.startswith(b"{") and b'"message"' in self.body

    @property
    def may_be_of_the_row(self) -> bool:
        """Whether a refusal that is hardly about the row is so, where other rows are served."""
        return self.status in _MAYBE_OF_THE_ROW


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Unread(msgspec.Struct):
    """An object of which nothing is read."""


class _Bare(msgspec.Struct):
    """What is read of an answer; the rest is only checked to be JSON."""

    object: str | None = None
    choices: list[_Choice] | None = None
    data: list[_Unread] | None = None
    error: msgspec.Raw | None = None


class _Counted(_Bare):
    usage: _Usage | None = None


_COUNTED, _BARE = msgspec.json.Decoder(_Counted), msgspec.json.Decoder(_Bare)


class Sender:
    """A session with one replica: `async with Sender(endpoint, silence_s) as sender`.

    An answer that is not streamed begins when all of it is there: `silence_s` is longer than the
    longest answer takes. `check` looks at each whole answer.
    """

    def __init__(self, endpoint: Endpoint, silence_s: float, check: Check | None = None) -> None:
        self.endpoint = endpoint
        self._silence_s = silence_s
        self._check = check
        self._urls: dict[str, URL] = {}

    async def __aenter__(self) -> Self:
        self._session, self._fresh = self._open(), self._open(**_NOT_KEPT)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()
        await self._fresh.close()

    def _open(self, **connector: Any) -> aiohttp.ClientSession:
        return open_session(
            self.endpoint, self._silence_s, read_bufsize=_READ_BUFFER,
            cookie_jar=aiohttp.DummyCookieJar(),
            connector={"socket_factory": _kept_alive, **connector},
        )  # fmt: skip

    async def send(self, row: Row, request_id: str, *, again: bool = False) -> Answer:
        """Send a row once, and judge what comes."""
        headers = {"Content-Type": "application/json", "X-Request-Id": request_id}
        data: bytes | AsyncIterator[bytes] = row.body
        if isinstance(row, PictureRow):
            try:
                size, blocks = await asyncio.to_thread(row.payload)
            except RopewayError as error:
                words = phrase("{where}: {what}", where=error.where, what=error.what)
                return Answer(Kind.UNSENDABLE, words=words, fault="no picture")
            except OSError as error:
                reason = reason_of(error)
                return _no_picture(phrase("a picture cannot be read: {reason}", reason=reason))
            data, headers["Content-Length"] = _streamed(size, blocks), str(size)
        elif len(row.body) > _LARGE_BODY:
            data, headers["Content-Length"] = _whole(row.body), str(len(row.body))
        session = self._fresh if again else self._session
        asking = session.post(
            self._url(row.path), data=data, headers=headers, allow_redirects=False
        )
        try:
            async with asking as response:
                came = await _read(response, LONGEST_ANSWER)
                answer = judge(row.path, response.status, response.headers, came, request_id)
                return self._checked(answer) if self._check else answer
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return self._lost(error)

    def _checked(self, answer: Answer) -> Answer:
        """Return an answer, or that it is none, since it is not what was asked for."""
        wrong = self._check and answer.kind is Kind.ANSWERED and self._check(answer.body)
        if not wrong:
            return answer
        return msgspec.structs.replace(answer, kind=Kind.UNFIT, words=wrong, fault="does not fit")

    async def healthy(self) -> Health:
        """Ask how the replica is, as those do that watch over servers."""
        return await self._ask("/health", _LONGEST_REFUSAL)

    async def metrics(self) -> Health:
        """Ask the engine for its figures; a server without such is well if it answers at all."""
        return await self._ask("/metrics", _LONGEST_METRICS)

    async def _ask(self, path: str, most: int) -> Health:
        url = self.endpoint.url.removesuffix("/v1") + path
        try:
            async with (
                asyncio.timeout(_PROBE_S),
                self._fresh.get(url, allow_redirects=False) as response,
            ):
                data = await _read(response, most)
        except TimeoutError:
            within = format_seconds(_PROBE_S)
            what = phrase("`{path}` gives no answer within {within}", path=path, within=within)
            return Health(Sign.SILENT, what)
        except (aiohttp.ClientError, OSError) as error:
            return Health(_sign(error), explain(error, self.endpoint).what)
        status = response.status
        if status >= 500:
            what = phrase("`{path}` answers {status}", path=path, status=status)
            return Health(Sign.UNWELL, what)
        return Health(reading=read_metrics(data) if status == 200 and data else None)

    def _url(self, path: str) -> URL:
        url = self._urls.get(path)
        if url is None:
            base = self.endpoint.url
            own = path.startswith("/v1/")
            whole = base + path.removeprefix("/v1") if own else base.removesuffix("/v1") + path
            url = self._urls[path] = URL(whole)
        return url

    def _lost(self, error: Exception) -> Answer:
        """Judge a request that got no answer."""
        if isinstance(error.__cause__, RopewayError):  # which broke off by our own doing
            return _no_picture(error.__cause__.what)
        if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
            words = explain(error, self.endpoint).what
            number = getattr(getattr(error, "os_error", None), "errno", None)
            if number in (errno.EMFILE, errno.ENFILE):
                return Answer(Kind.LATER, words=words, fault="too many open files")
            return Answer(Kind.AWAY, words=words, fault="no server")
        if isinstance(error, TimeoutError):
            silence = format_seconds(self._silence_s)
            words = phrase("nothing arrived for {silence}", silence=silence)
            return Answer(Kind.FAILED, words=words, fault="silence")
        if isinstance(error, aiohttp.ClientResponseError | aiohttp.InvalidURL):
            words = phrase("what answers does not speak HTTP")
            return Answer(Kind.FAILED, words=words, fault=_NO_ANSWER)
        words = phrase("the connection broke before the answer was whole")
        return Answer(Kind.FAILED, words=words, fault="connection broke", broke=True)


def _sign(error: Exception) -> Sign:
    """Say what it means that a replica could not be asked how it is."""
    number = getattr(error, "errno", None)
    if isinstance(error, aiohttp.ClientConnectorDNSError) or number in _OUR_OWN:
        return Sign.UNKNOWN
    gone = number in _NOBODY_THERE or isinstance(error, aiohttp.ServerDisconnectedError)
    return Sign.GONE if gone else Sign.SILENT


def judge(
    path: str, status: int, headers: Mapping[str, str], data: bytes | None, sent: str
) -> Answer:
    """Say what an answer means. `data` None: longer than is taken; `sent`: our name for it."""
    request_id = _shown(headers.get("X-Request-Id", sent))
    if data is None:
        words = phrase("the answer is longer than {most}", most=format_bytes(LONGEST_ANSWER))
        return Answer(Kind.FAILED, status, request_id, words=words, fault="answer too long")
    encoding = _shown(headers.get("Content-Encoding", "identity"))
    if encoding != "identity":
        words = phrase("the answer is compressed (`{encoding}`) unasked", encoding=encoding)
        return Answer(Kind.FAILED, status, request_id, words=words, fault=_NO_ANSWER)
    if status == 200:
        return _judge_answer(path, data, request_id)
    return _judge_refusal(status, headers, data, request_id)


def result_of(row: Row, answer: Answer) -> Result:
    """Return what a row gets of an answer that ends it, its line included."""
    if answer.kind in _OUTCOMES:
        outcome = _OUTCOMES[answer.kind]
        error = b"null" if outcome.good else _error(outcome, answer.words)
        return Result(
            row.ordinal,
            outcome,
            b'{"id":"batch_req_%d","custom_id":%b,"response":{"status_code":%d,"request_id":%b,'
            b'"body":%b},"error":%b}\n'
            % (
                row.ordinal, _encode(row.name), answer.status, _encode(answer.request_id),
                answer.body, error,
            ),
            answer.prompt,
            answer.answer,
        )  # fmt: skip
    return without_answer(row, Outcome.FAILED, answer.words)


def without_answer(row: Row, outcome: Outcome, why: str) -> Result:
    """Return what a row gets to which no server gave an answer."""
    line = b'{"id":"batch_req_%d","custom_id":%b,"response":null,"error":%b}\n'
    error = _error(outcome, why)
    return Result(row.ordinal, outcome, line % (row.ordinal, _encode(row.name), error))


def _kept_alive(address: aiohttp.AddrInfoType) -> socket.socket:
    """Return a socket of which the system notices that nobody is at the other end any more.

    An answer that is not streamed may take an hour, and until then nothing else would tell of a
    laptop that slept, or of a connection that a router between has forgotten.
    """
    made = socket.socket(*address[:3])
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _ALIVE.items():
        if hasattr(socket, name):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return made


async def _whole(body: bytes) -> AsyncIterator[bytes]:
    """Give a large body in one piece, which the event loop then sends as the server takes it.

    Who refuses it for its size may close the connection before it is sent. Where the loop sends, it
    reads what came first; a failed write of ours would lose the answer.
    """
    yield body


def _no_picture(why: str) -> Answer:
    """Return that a picture cannot be read just now."""
    return Answer(Kind.UNREADY, words=why, fault="no picture")


async def _streamed(size: int, blocks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Yield a body of so many bytes, which is read from files meanwhile."""
    while size > 0:
        data = await asyncio.to_thread(_some, blocks)
        size -= len(data)
        yield data


def _some(blocks: Iterator[bytes]) -> bytes:
    """Return the next blocks: many small ones together, as a thread is asked for them."""
    data = bytearray()
    for block in blocks:
        data += block
        if len(data) >= _ENOUGH:
            break
    return bytes(data)


async def _read(response: aiohttp.ClientResponse, most: int) -> bytes | None:
    """Return all of an answer; None, and the rest unread, for one of more than `most` bytes."""
    length = response.content_length
    if length is not None and length <= most:
        return await response.read()
    data = bytearray()
    if length is None:
        async for received in response.content.iter_any():
            data += received
            if len(data) > most:
                break
        else:
            return bytes(data)
    response.close()
    return None


def _judge_answer(path: str, data: bytes, request_id: str) -> Answer:
    """Judge an answer with status 200."""
    try:
        if not data.isascii():
            data.decode()
        read = _decoded(data)
        if b"\n" in data or b"\r" in data:
            data = msgspec.json.format(data, indent=-1)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        words = phrase("the answer is not the JSON of its API: {start}", start=_start(data))
        return Answer(Kind.FAILED, 200, request_id, words=words, fault=_NO_ANSWER)
    if read.error is not None or read.object == "error":
        words = phrase("the server says: {message}", message=_words(data))
        return Answer(Kind.FAILED, 200, request_id, words=words, fault="error in a 200")
    reasons = [choice.finish_reason for choice in read.choices or ()]
    if path.endswith("/completions"):
        whole = bool(reasons)
    else:
        whole = not path.endswith("/embeddings") or bool(read.data)
    if not whole:
        words = phrase("the answer holds nothing: {start}", start=_start(data))
        return Answer(Kind.FAILED, 200, request_id, words=words, fault=_NO_ANSWER)
    if "abort" in reasons or "error" in reasons:
        words = phrase("the server aborted the request")
        return Answer(Kind.FAILED, 200, request_id, words=words, fault="aborted")
    kind = Kind.CUT if "length" in reasons else Kind.ANSWERED
    usage = read.usage if isinstance(read, _Counted) else None
    prompt, answer = (usage.prompt_tokens, usage.completion_tokens) if usage else (0, 0)
    return Answer(kind, 200, request_id, data, max(0, prompt or 0), max(0, answer or 0))


def _decoded(data: bytes) -> _Bare:
    try:
        return _COUNTED.decode(data)
    except msgspec.ValidationError:  # an answer is one also where its `usage` is strange
        return _BARE.decode(data)


def _judge_refusal(status: int, headers: Mapping[str, str], data: bytes, request_id: str) -> Answer:
    """Judge an answer with any other status."""
    said, usual = _words(data), HTTPStatus(status).phrase if status in _STATUSES else ""
    words = phrase("{status}: {message}", status=status, message=said or usual)
    pause_s = retry_after(headers, time.time())
    if status == 429 or (status == 503 and pause_s is not None):
        fault = f"status {status}"
        return Answer(Kind.LATER, status, request_id, words=words, fault=fault, pause_s=pause_s)
    if status in _NOT_OF_THE_ROW:
        body, fault = _embedded(data), f"status {status}"
        return Answer(Kind.BARRED, status, request_id, body, words=words, fault=fault)
    if 400 <= status < 500 and status not in _MAY_PASS:
        body, fault = _embedded(data), "refused"
        return Answer(Kind.REFUSED, status, request_id, body, words=words, fault=fault)
    return Answer(Kind.FAILED, status, request_id, words=words, fault=f"status {status}")


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds for which a server asks to be left alone, None if it does not ask.

    A date is compared with the server's own, since the clocks of two machines differ.
    """
    asked = headers.get("Retry-After", "").strip()
    if _SECONDS.fullmatch(asked):
        return min(float(asked), _MOST_PAUSE_S)
    try:
        due = parsedate_to_datetime(asked).timestamp()
    except (ValueError, OverflowError):
        return None
    with contextlib.suppress(ValueError, OverflowError):
        now = parsedate_to_datetime(headers.get("Date", "")).timestamp()
    return min(max(0.0, due - now), _MOST_PAUSE_S)


def _embedded(data: bytes) -> bytes:
    """Return what a server said as JSON on one line: its own where it is that, else its text."""
    if len(data) <= _LONGEST_REFUSAL:
        try:
            data.decode()
            return msgspec.json.format(data, indent=-1)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass
    return _encode(data[:_LONGEST_REFUSAL].decode(errors="replace"))


def _words(data: bytes) -> str:
    """Return a server's own words: of its JSON the message, of anything else the beginning."""
    try:
        document = parse_json(data[:_LONGEST_REFUSAL])
    except ValueError:
        return _start(data)
    return server_words(document) or _start(data)


def _shown(text: str) -> str:
    """Return what a server sent, in which bytes that are no UTF-8, and halves of characters, are
    written out: no file and no terminal takes those.
    """
    return text.encode(errors="backslashreplace").decode()


def _start(data: bytes) -> str:
    return " ".join(data[:_MOST_SHOWN].decode(errors="replace").split())


def _error(outcome: Outcome, message: str) -> bytes:
    return _encode({"code": outcome.name.lower(), "message": _shown(message)})

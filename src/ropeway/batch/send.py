"""One row to one endpoint, and what becomes of it: sent, answered, judged, written as a line."""

import asyncio
import contextlib
import errno
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from email.utils import parsedate_to_datetime
from enum import IntEnum
from http import HTTPStatus
from typing import Any, Self

import aiohttp
import msgspec
from aiohttp.abc import AbstractStreamWriter
from yarl import URL

from ropeway.batch.bodies import streamed, whole
from ropeway.batch.health import Health, Sign, kept_alive
from ropeway.batch.pace import read_metrics
from ropeway.batch.pictures import PictureRow
from ropeway.batch.rows import Outcome, Result, Row
from ropeway.endpoint.address import Endpoint
from ropeway.endpoint.client import CONNECT_S, explain, open_session, server_words
from ropeway.errors import RopewayError, reason_of
from ropeway.outside import parse_json
from ropeway.phrases import Phrase, phrase
from ropeway.spec.secret_values import data_without
from ropeway.units import format_bytes, format_seconds

# Embeddings of a full request and log probabilities of a long answer take some tens of megabytes.
LONGEST_ANSWER = 64 * 2**20
_LONGEST_REFUSAL = 2**16
_LONGEST_METRICS = 4 * 2**20
_READ_BUFFER = 2**20
# aiohttp warns of larger ones.
_LARGE_BODY = 2**20
_PROBE_S = 5.0
_MOST_PAUSE_S = 600.0
# What a server says of us (wrong key, wrong address, no credit), or of a model that it has not.
_NOT_OF_THE_ROW = {300, 301, 302, 303, 307, 308, 401, 402, 403, 404, 405, 407}
_MAYBE_OF_THE_ROW = {403, 404, 405}  # its contents, its model, its API
_MAY_PASS = {408, 409, 425, 429}
# What a system says where no process is any more, and what it says of our own machine.
_NOBODY_THERE = {errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE}
_OUR_OWN = {
    errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL, errno.ENETDOWN,
    errno.ENETUNREACH,
}  # fmt: skip
_STATUSES = {status.value for status in HTTPStatus}
_SECONDS = re.compile(r"[0-9]+(\.[0-9]+)?")
_MOST_SHOWN = 200
_NO_ANSWER = phrase("no answer of its API")
_encode = msgspec.json.Encoder().encode
# What is wrong with an answer, if anything.
Check = Callable[[bytes], Phrase | None]


class Verdict(IntEnum):
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
    Verdict.ANSWERED: Outcome.ANSWERED,
    Verdict.CUT: Outcome.CUT,
    Verdict.REFUSED: Outcome.REFUSED,
    Verdict.BARRED: Outcome.REFUSED,
}


class Answer(msgspec.Struct, frozen=True):  # made in a tenth of the time of a frozen dataclass
    """What came of sending a row once.

    body      the server's own JSON, on one line; empty where there is none
    words     what went wrong, for people
    fault     the same in a word or two, by which failures are counted
    pause_s   how long the server asks to be left alone; None where it does not say
    broke     whether the connection ended before the answer did
    """

    verdict: Verdict
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
    error: Any = None


class _Counted(_Bare):
    usage: _Usage | None = None


_COUNTED, _BARE = msgspec.json.Decoder(_Counted), msgspec.json.Decoder(_Bare)


class Sender:
    """A session with one replica: `async with Sender(endpoint, silence_s) as sender`.

    An answer that is not streamed begins when all of it is there: `silence_s` is longer than the
    longest answer takes. So long may a row be on its way, then be worked on, and then the answer be
    on its way, even where single bytes come all the time. `check` looks at each whole answer.
    """

    _session: aiohttp.ClientSession

    def __init__(
        self,
        endpoint: Endpoint,
        silence_s: float,
        check: Check | None = None,
        *,
        make_socket: aiohttp.SocketFactoryType = kept_alive,
    ) -> None:
        self.endpoint = endpoint
        self._make_socket = make_socket
        self._silence_s = silence_s
        self._check = check
        self._urls: dict[str, URL] = {}

    async def __aenter__(self) -> Self:
        self._session = open_session(
            self.endpoint,
            self._silence_s,
            read_bufsize=_READ_BUFFER,
            cookie_jar=aiohttp.DummyCookieJar(),
            connector={"socket_factory": self._make_socket},
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def send(self, row: Row, request_id: str, sent: Callable[[], None]) -> Answer:
        """Send a row once, and judge what comes. `sent` is called when all of it was sent."""
        headers = {"Content-Type": "application/json", "X-Request-Id": request_id}
        data: _Body | AsyncIterator[bytes]
        if isinstance(row, PictureRow):
            try:
                size, blocks = await asyncio.to_thread(row.payload)
            except RopewayError as error:
                words = phrase("{where}: {what}", where=error.where, what=error.what)
                return Answer(Verdict.UNSENDABLE, words=words, fault=phrase("no picture"))
            except OSError as error:
                reason = reason_of(error)
                return _no_picture(phrase("a picture cannot be read: {reason}", reason=reason))
            data, headers["Content-Length"] = streamed(size, blocks, sent), str(size)
        elif len(row.body) > _LARGE_BODY:
            data, headers["Content-Length"] = whole(row.body, sent), str(len(row.body))
        else:
            data = _Body(row.body, sent)
        url, bound = self._url(row.path), asyncio.timeout(CONNECT_S + 2 * self._silence_s)
        asking = self._session.post(url, data=data, headers=headers, allow_redirects=False)
        try:
            async with bound, asking as response:
                bound.reschedule(asyncio.get_running_loop().time() + self._silence_s)
                came = await _read(response, LONGEST_ANSWER)
                return self._judged(row, response, came, request_id)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return self._lost(error)

    def _judged(
        self, row: Row, response: aiohttp.ClientResponse, came: bytes | None, request_id: str
    ) -> Answer:
        """Judge what came; where it is no answer, without our key, which some servers repeat."""
        status, headers, key = response.status, response.headers, self.endpoint.key
        answer = judge(row.path, status, headers, came, request_id)
        if answer.verdict in (Verdict.ANSWERED, Verdict.CUT):
            return self._checked(answer)
        hidden = came and data_without(came, key)
        return answer if hidden == came else judge(row.path, status, headers, hidden, request_id)

    def _checked(self, answer: Answer) -> Answer:
        """Return an answer, or that it is none, since it is not what was asked for."""
        wrong = self._check and answer.verdict is Verdict.ANSWERED and self._check(answer.body)
        if not wrong:
            return answer
        return msgspec.structs.replace(
            answer, verdict=Verdict.UNFIT, words=wrong, fault=phrase("does not fit the schema")
        )

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
                self._session.get(url, allow_redirects=False) as response,
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
                return Answer(Verdict.LATER, words=words, fault=phrase("too many open files"))
            return Answer(Verdict.AWAY, words=words, fault=phrase("no server"))
        if isinstance(error, TimeoutError):
            silence = format_seconds(self._silence_s)
            if isinstance(error, aiohttp.ServerTimeoutError):
                words = phrase("nothing arrived for {silence}", silence=silence)
                return Answer(Verdict.FAILED, words=words, fault=phrase("silence"))
            words = phrase("bytes came, and no whole answer within {limit}", limit=silence)
            return Answer(Verdict.FAILED, words=words, fault=phrase("answer too slow"))
        if isinstance(error, aiohttp.ClientResponseError | aiohttp.InvalidURL):
            words = phrase("what answers does not speak HTTP")
            return Answer(Verdict.FAILED, words=words, fault=_NO_ANSWER)
        words = phrase("the connection broke before the answer was whole")
        return Answer(Verdict.FAILED, words=words, fault=phrase("connection broke"), broke=True)


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
        return Answer(
            Verdict.FAILED, status, request_id, words=words, fault=phrase("answer too long")
        )
    encoding = _shown(headers.get("Content-Encoding", "identity"))
    if encoding != "identity":
        words = phrase("the answer is compressed (`{encoding}`) unasked", encoding=encoding)
        return Answer(Verdict.FAILED, status, request_id, words=words, fault=_NO_ANSWER)
    if status == 200:
        return _judge_answer(path, data, request_id)
    return _judge_refusal(status, headers, data, request_id)


def result_of(row: Row, answer: Answer) -> Result:
    """Return what a row gets of an answer that ends it, its line included."""
    if answer.verdict in _OUTCOMES:
        outcome = _OUTCOMES[answer.verdict]
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


class _Body(aiohttp.BytesPayload):
    """A body that tells when it is sent: until then the row only waits for a connection."""

    def __init__(self, body: bytes, sent: Callable[[], None]) -> None:
        super().__init__(body)
        self._sent = sent

    async def write_with_length(
        self, writer: AbstractStreamWriter, content_length: int | None
    ) -> None:
        self._sent()
        await super().write_with_length(writer, content_length)


def _no_picture(why: str) -> Answer:
    """Return that a picture cannot be read just now."""
    return Answer(Verdict.UNREADY, words=why, fault=phrase("no picture"))


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
        return Answer(Verdict.FAILED, 200, request_id, words=words, fault=_NO_ANSWER)
    if read.error or read.object == "error":
        words = phrase("the server says: {message}", message=_words(data))
        return Answer(Verdict.FAILED, 200, request_id, words=words, fault=phrase("error in a 200"))
    reasons = [choice.finish_reason for choice in read.choices or ()]
    if path.endswith("/completions"):
        whole = bool(reasons)
    else:
        whole = not path.endswith("/embeddings") or bool(read.data)
    if not whole:
        words = phrase("the answer holds nothing: {start}", start=_start(data))
        return Answer(Verdict.FAILED, 200, request_id, words=words, fault=_NO_ANSWER)
    if "abort" in reasons or "error" in reasons:
        words = phrase("the server aborted the request")
        return Answer(Verdict.FAILED, 200, request_id, words=words, fault=phrase("aborted"))
    verdict = Verdict.CUT if "length" in reasons else Verdict.ANSWERED
    usage = read.usage if isinstance(read, _Counted) else None
    prompt, answer = (usage.prompt_tokens, usage.completion_tokens) if usage else (0, 0)
    return Answer(verdict, 200, request_id, data, max(0, prompt or 0), max(0, answer or 0))


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
    fault = phrase("status {status}", status=status)
    if status == 429 or (status == 503 and pause_s is not None):
        return Answer(Verdict.LATER, status, request_id, words=words, fault=fault, pause_s=pause_s)
    if status in _NOT_OF_THE_ROW:
        body = _embedded(data)
        return Answer(Verdict.BARRED, status, request_id, body, words=words, fault=fault)
    if 400 <= status < 500 and status not in _MAY_PASS:
        body, fault = _embedded(data), phrase("refused")
        return Answer(Verdict.REFUSED, status, request_id, body, words=words, fault=fault)
    return Answer(Verdict.FAILED, status, request_id, words=words, fault=fault)


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

"""One row to one endpoint: sent, and answered or not. What an answer means: see `verdict`."""

import asyncio
import errno
from collections.abc import AsyncIterator, Callable
from typing import Any, Self

import aiohttp
import msgspec
from aiohttp.abc import AbstractStreamWriter
from yarl import URL

from ropeway.batch.input.pictures import PictureRow
from ropeway.batch.rows import Row
from ropeway.batch.sending.bodies import streamed, whole
from ropeway.batch.sending.health import Health, Sign, kept_alive
from ropeway.batch.sending.verdict import (
    LONGEST_ANSWER,
    NO_ANSWER,
    Answer,
    Verdict,
    judge,
)
from ropeway.endpoint.address import Endpoint
from ropeway.endpoint.client import explain, open_session
from ropeway.endpoint.metrics import LONGEST_METRICS, read_metrics
from ropeway.endpoint.request import CONNECT_S
from ropeway.endpoint.words import LONGEST_REFUSAL
from ropeway.errors import RopewayError, reason_of
from ropeway.phrases import Phrase, phrase
from ropeway.spec.secret_values import data_without
from ropeway.units import format_seconds

_READ_BUFFER = 2**20
# A server, or what is between, may have forgotten a connection that is kept. Whether somebody is
# there only a new one can tell, and a row that was sent in vain is not to meet the next of these.
_NOT_KEPT = {"keepalive_timeout": None, "force_close": True}
# aiohttp warns of larger ones.
_LARGE_BODY = 2**20
_PROBE_S = 5.0
# What a system says where no process is any more, and what it says of our own machine.
_NOBODY_THERE = {errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE}
_OUR_OWN = {
    errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL, errno.ENETDOWN,
    errno.ENETUNREACH,
}  # fmt: skip
# What is wrong with an answer, if anything.
Check = Callable[[bytes], Phrase | None]


class Sender:
    """A session with one replica: `async with Sender(endpoint, silence_s) as sender`.

    An answer that is not streamed begins when all of it is there: `silence_s` is longer than the
    longest answer takes. `check` looks at each whole answer.

    longest_s  how long all of it may take, even where single bytes come all the time: the row on
               its way, at work, and its answer on its way
    """

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
        self.longest_s = CONNECT_S + 3 * silence_s
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
            connector={"socket_factory": self._make_socket, **connector},
        )  # fmt: skip

    async def send(
        self, row: Row, request_id: str, sent: Callable[[], None], *, again: bool = False
    ) -> Answer:
        """Send a row once, or `again`, and judge what comes.

        `sent` is called when all of it was sent.
        """
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
        session = self._fresh if again else self._session
        asking = session.post(
            self._url(row.path), data=data, headers=headers, allow_redirects=False
        )
        try:
            async with asking as response:
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
        return await self._ask("/health", LONGEST_REFUSAL)

    async def metrics(self) -> Health:
        """Ask the engine for its figures; a server without such is well if it answers at all."""
        return await self._ask("/metrics", LONGEST_METRICS)

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
                return Answer(Verdict.LATER, words=words, fault=phrase("too many open files"))
            return Answer(Verdict.AWAY, words=words, fault=phrase("no server"))
        if isinstance(error, TimeoutError):
            silence = format_seconds(self._silence_s)
            words = phrase("nothing arrived for {silence}", silence=silence)
            return Answer(Verdict.FAILED, words=words, fault=phrase("silence"))
        if isinstance(error, aiohttp.ClientResponseError | aiohttp.InvalidURL):
            words = phrase("what answers does not speak HTTP")
            return Answer(Verdict.FAILED, words=words, fault=NO_ANSWER)
        words = phrase("the connection broke before the answer was whole")
        return Answer(Verdict.FAILED, words=words, fault=phrase("connection broke"), broke=True)


def _sign(error: Exception) -> Sign:
    """Say what it means that a replica could not be asked how it is."""
    number = getattr(error, "errno", None)
    if isinstance(error, aiohttp.ClientConnectorDNSError) or number in _OUR_OWN:
        return Sign.UNKNOWN
    gone = number in _NOBODY_THERE or isinstance(error, aiohttp.ServerDisconnectedError)
    return Sign.GONE if gone else Sign.SILENT


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

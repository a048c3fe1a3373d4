"""What an answer means for its row, and the line of the output that it becomes. Pure."""

import contextlib
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from enum import IntEnum
from http import HTTPStatus
from typing import Any

import msgspec

from ropeway.batch.rows import Outcome, Result, Row, error_object, error_result
from ropeway.endpoint.words import LONGEST_REFUSAL, server_words
from ropeway.outside import parse_json
from ropeway.phrases import phrase
from ropeway.units import format_bytes

# Embeddings of a full request and log probabilities of a long answer take some tens of megabytes.
LONGEST_ANSWER = 64 * 2**20
_MOST_PAUSE_S = 600.0
# What a server says of us (wrong key, wrong address, no credit), or of a model that it has not.
_NOT_OF_THE_ROW = {300, 301, 302, 303, 307, 308, 401, 402, 403, 404, 405, 407}
_MAYBE_OF_THE_ROW = {403, 404, 405}  # its contents, its model, its API
_MAY_PASS = {408, 409, 425, 429}
_STATUSES = {status.value for status in HTTPStatus}
_SECONDS = re.compile(r"[0-9]+(\.[0-9]+)?")
_MOST_SHOWN = 200
_encode = msgspec.json.Encoder().encode
NO_ANSWER = phrase("no answer of its API")


class Verdict(IntEnum):
    """What an answer means for its row.

    ANSWERED, CUT, REFUSED  as `Outcome` has them
    FAILED  no answer; it counts as one of the row's tries, unless the replica died
    LATER   the replica has too much to do: it is left alone for `pause_s`, and no try is counted
    AWAY    no server took the row
    BARRED  a refusal that is hardly about the row: of the key, the address, the model
    UNFIT   an answer that is not what was asked for, and is paid: it counts as a try
    UNREADY  a picture of the row cannot be read now: counts as a try; the replica is considered
             healthy
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
        return Answer(Verdict.FAILED, status, request_id, words=words, fault=NO_ANSWER)
    if status == 200:
        return _judge_answer(path, data, request_id)
    return _judge_refusal(status, headers, data, request_id)


def result_of(row: Row, answer: Answer) -> Result:
    """Return what a row gets of an answer that ends it, its line included."""
    if answer.verdict in _OUTCOMES:
        outcome = _OUTCOMES[answer.verdict]
        error = b"null" if outcome.good else error_object(outcome, _shown(answer.words))
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
    return error_result(row.ordinal, row.name, outcome, _shown(why))


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
        return Answer(Verdict.FAILED, 200, request_id, words=words, fault=NO_ANSWER)
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
        return Answer(Verdict.FAILED, 200, request_id, words=words, fault=NO_ANSWER)
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
    if len(data) <= LONGEST_REFUSAL:
        try:
            data.decode()
            return msgspec.json.format(data, indent=-1)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass
    return _encode(data[:LONGEST_REFUSAL].decode(errors="replace"))


def _words(data: bytes) -> str:
    """Return a server's own words: of its JSON the message, of anything else the beginning."""
    try:
        document = parse_json(data[:LONGEST_REFUSAL])
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

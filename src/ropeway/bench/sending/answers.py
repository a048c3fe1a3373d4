"""A flight's bytes, read after they came: what the answer was, and when each piece arrived."""

from dataclasses import replace

from ropeway.bench.sending.flight import Flight
from ropeway.bench.sending.framing import Body, Malformed
from ropeway.endpoint.address import Endpoint
from ropeway.endpoint.failures import RequestFailed, broke, not_openai, nothing_within
from ropeway.endpoint.follower import Follower, check_plain, no_stream, refusal, too_long
from ropeway.endpoint.request import LONGEST_DOCUMENT
from ropeway.endpoint.stream import Failure, Stopwatch, Timing
from ropeway.endpoint.words import LONGEST_REFUSAL, LONGEST_WORDS, server_words
from ropeway.outside import parse_json
from ropeway.spec.secret_values import text_without

UNFINISHED = "unfinished"
"""The failure kind of a request that we cancelled, at Ctrl-C or the time limit."""

_SECOND = 1_000_000_000


class AnswerReader:
    """Reads one flight. `tokens` so far, by pieces; `timing` when it has ended.

    early, first_early  how much earlier than is told a piece, and the first one, may have come,
                        in nanoseconds: where they were read together with later ones

    Times are seconds from `zero`, a moment of the monotonic clock in nanoseconds.
    """

    def __init__(self, flight: Flight, endpoint: Endpoint, zero: int) -> None:
        self._flight, self._endpoint, self._zero = flight, endpoint, zero
        self._now = 0.0
        self._watch = Stopwatch(lambda: self._now)
        self._body = Body(flight.response)
        self._follower: Follower | None = None
        self._refusal, self._size = b"", 0
        self._any = False
        self.early = self.first_early = 0

    @property
    def tokens(self) -> int:
        """Tokens so far, by pieces."""
        return self._watch.tokens

    @property
    def failure(self) -> RequestFailed | None:
        """Why a flight that has ended failed, unless we cut it off."""
        flight, tokens = self._flight, self._watch.tokens
        if flight.error is not None:
            return flight.error
        if flight.broken:
            return broke(self._endpoint, tokens, flight.broken)
        return nothing_within(self._endpoint, tokens) if flight.silent else None

    def read(self) -> str:
        """Read the pieces that have come, and forget them; return the answer's text at the end."""
        flight = self._flight
        pieces, flight.pieces = flight.pieces, []
        try:
            for stamp, data, earlier in pieces if flight.error is None else ():
                if part := self._body.feed(data):
                    self._now = (stamp - self._zero) / _SECOND
                    self._take(part, earlier)
            if flight.ended and flight.whole:
                self._close()
        except RequestFailed as error:
            flight.error = flight.error or error
        except Malformed as error:
            flight.error = flight.error or not_openai(self._endpoint, error.args[0])
        return self._watch.text if flight.ended and flight.talk.more else ""

    def timing(self) -> Timing:
        """Return the record of a flight that has ended."""
        flight, watch = self._flight, self._watch
        sent = flight.sent or flight.due  # what was never sent has waited for its connection
        watch.start((sent - self._zero) / _SECOND)
        self._now = (flight.ended - self._zero) / _SECOND
        due = (flight.due - self._zero) / _SECOND
        late = max(flight.late, self.early)
        return replace(watch.timing(self._error()), due=due, late_s=late / _SECOND)

    def _error(self) -> Failure | None:
        if self._flight.cut:
            return Failure(UNFINISHED, "the run ended before the answer")
        error = self.failure
        if error is None:
            return None
        evidence = f" ({error.evidence[0]})" if error.evidence else ""
        return Failure(error.kind, text_without(error.what + evidence, self._endpoint.key))

    def _take(self, part: bytes, earlier: int) -> None:
        if self._follower is None and self._flight.response.status == 200 and self._streams():
            self._follower = Follower(self._endpoint, self._watch)
        if self._follower is None:
            self._refusal = (self._refusal + part)[:LONGEST_REFUSAL]
            self._size += len(part)
            if self._size > LONGEST_DOCUMENT:
                raise too_long(self._endpoint)
        elif not self._follower.done:
            count = 0
            for _ in self._follower.feed(part):
                count += 1
            if count > 1:
                self.early = max(self.early, earlier)
                if not self._any:
                    self.first_early = max(0, earlier)
            if count:
                self._any = True

    def _close(self) -> None:
        """Judge an answer that is whole. Raises RequestFailed."""
        if self._follower is not None:
            for _ in self._follower.close():
                pass
            return
        response = self._flight.response
        try:
            document = parse_json(self._refusal)
        except ValueError:
            document = None
        kind = response.headers.get(b"content-type", b"").decode("latin-1")
        if response.status == 200:
            raise no_stream(self._endpoint, kind, document)
        target = response.headers.get(b"location", b"").decode("latin-1")[:LONGEST_WORDS]
        message = server_words(document) or "no reason given"
        raise refusal(self._endpoint, response.status, message, target)

    def _streams(self) -> bool:
        headers = self._flight.response.headers
        encoding = headers.get(b"content-encoding", b"identity").decode("latin-1")
        check_plain(self._endpoint, encoding)
        return b"event-stream" in headers.get(b"content-type", b"")

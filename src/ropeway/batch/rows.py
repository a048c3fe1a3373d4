"""A row of a batch job, and what becomes of it.

A row is a request. Its ordinal is its place in the input, from 0, over all files in their order;
`n` samples of one line are `n` rows. It is known by its ordinal and never by its text, since the
same prompt may be meant twice.
"""

from dataclasses import dataclass
from enum import IntEnum

import msgspec

from ropeway.phrases import Phrase, phrase


class Outcome(IntEnum):
    """What became of a row; at the end each has exactly one. The numbers are kept in journals."""

    ANSWERED = 1
    CUT = 2
    REFUSED = 3
    FAILED = 4
    POISON = 5
    SKIPPED = 6

    @property
    def good(self) -> bool:
        """Whether the row is in the output; the others are in the file of errors."""
        return self in (Outcome.ANSWERED, Outcome.CUT)

    @property
    def word(self) -> Phrase:
        """What it is called, for people."""
        return _WORDS[self][0]

    @property
    def meaning(self) -> Phrase:
        """What it is."""
        return _WORDS[self][1]


_WORDS = {
    Outcome.ANSWERED: (phrase("answered"), phrase("a whole answer")),
    Outcome.CUT: (phrase("cut"), phrase("an answer that ended at its limit of tokens")),
    Outcome.REFUSED: (phrase("refused"), phrase("the server will not answer it")),
    Outcome.FAILED: (phrase("failed"), phrase("no answer within its tries")),
    Outcome.POISON: (
        phrase("poison"),
        phrase("engines died with it in flight, twice: it may be why"),
    ),
    Outcome.SKIPPED: (phrase("skipped"), phrase("a line that cannot be sent, with `--skip-bad`")),
}

RETRIED = frozenset(outcome for outcome in Outcome if not outcome.good)
"""What `--retry-errors` takes back. What was skipped may fit the model now, or have its picture."""


@dataclass(frozen=True, slots=True)
class Row:
    """A request that is to be sent.

    name    the input's own name for it (`custom_id`), or one made of its ordinal
    path    of its API, such as /v1/chat/completions
    body    JSON, byte for byte as the input has it where the input has a body
    prefix  a hash of how its prompt begins: rows that share it profit from one replica's cache
    tokens  estimate of the prompt's and the answer's tokens together
    model   that it asks for; "" where it names none
    """

    ordinal: int
    name: str
    path: str
    body: bytes
    prefix: int
    tokens: int
    model: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a row.

    line     its line of the output or of the file of errors, with LF at its end
    prompt   tokens of the prompt, as the server counted them; 0 where it did not
    answer   tokens of the answer, likewise
    """

    ordinal: int
    outcome: Outcome
    line: bytes
    prompt: int = 0
    answer: int = 0


def error_object(outcome: Outcome, message: str) -> bytes:
    """Return what a line says of a row that has no answer, as JSON."""
    return msgspec.json.encode({"code": outcome.name.lower(), "message": message})


def error_result(ordinal: int, name: str, outcome: Outcome, message: str) -> Result:
    """Return what a row gets of which no server said anything. `message` is UTF-8 text."""
    line = b'{"id":"batch_req_%d","custom_id":%b,"response":null,"error":%b}\n'
    error = error_object(outcome, message)
    return Result(ordinal, outcome, line % (ordinal, msgspec.json.encode(name), error))


@dataclass(slots=True)
class Trouble:
    """What a row has been through: `deaths` of engines, `cuts` for which it is hardly to blame.

    sent     how often it was sent
    reached  whether a server may have generated it already
    """

    tries: int = 0
    deaths: int = 0
    cuts: int = 0
    laters: int = 0
    sent: int = 0
    reached: bool = False

    @property
    def suspect(self) -> bool:
        """Whether it may be what kills engines; one cut is nothing yet."""
        return self.deaths > 0 or self.cuts > 1

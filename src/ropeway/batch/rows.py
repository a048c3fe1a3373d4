"""A row of a batch job, and what becomes of it.

A row is a request. Its ordinal is its place in the input, from 0, over all files in their order;
`n` samples of one line are `n` rows. It is known by its ordinal and never by its text, since the
same prompt may be meant twice.
"""

from collections import Counter
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol


class Outcome(IntEnum):
    """What became of a row; at the end each has exactly one. The numbers are kept in journals.

    ANSWERED  a whole answer
    CUT       an answer that ended at its limit of tokens (`finish_reason` length)
    REFUSED   the server will not answer it (a status from 400 to 499 that repeating cannot mend)
    FAILED    no answer within the tries that a row has
    POISON    engines died with it in flight, twice: it may be the cause
    SKIPPED   no request: a line that cannot be read, left out with `--skip-bad`
    """

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


class Keeper(Protocol):
    """Where results go, as into a journal.

    counts  committed rows, those of earlier runs included
    """

    counts: Counter[Outcome]

    @property
    def behind(self) -> int:
        """Bytes that were added and are not on disk yet."""

    def add(self, result: Result) -> None:
        """Take a result. Raises RopewayError when nothing more can be kept."""

    async def commit(self) -> None:
        """Return when all that was added is on disk. Raises RopewayError."""


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

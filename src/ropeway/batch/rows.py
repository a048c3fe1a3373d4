"""A row of a batch job, and what becomes of it.

A row is a request. Its ordinal is its place in the input, from 0, over all files in their order;
`n` samples of one line are `n` rows. It is known by its ordinal and never by its text, since the
same prompt may be meant twice.
"""

from dataclasses import dataclass
from enum import IntEnum


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
    """

    ordinal: int
    name: str
    path: str
    body: bytes
    prefix: int
    tokens: int


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

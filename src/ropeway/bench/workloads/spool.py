"""The user's own prompts as requests that are ready to be sent, in a file without a name."""

import os
import random
import weakref
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from ropeway.phrases import Phrase, joined, phrase
from ropeway.units import counted


class Held:
    """A file that is kept open until this is gone; `path`: by which processes of ours open it."""

    def __init__(self, file: BinaryIO) -> None:
        number = os.dup(file.fileno())
        self.path = f"/proc/{os.getpid()}/fd/{number}"
        weakref.finalize(self, os.close, number)


@dataclass(frozen=True)
class Spool:
    """Requests one after another in a file, which is gone when nobody has it open any more.

    What they are sent with is added when they are: the model, and a limit that is not their own.

    path      by which processes of ours open it, as long as this one has it open (`held`)
    begins    the byte where each request begins, and where the last one ends
    limits    the most tokens of each answer; 0: the request says so itself
    files     that they came from, `digests`: the SHA-256 of each
    input_tokens, output_tokens
              of a request, on average; those of prompts are estimated from their bytes
    left_out  conversations without a question and an answer, or too long for the model
    answers   how many requests have an answer in the file, which their own will be as long as
    counted   of how many of these the server's tokenizer has counted it; of the others it is
              estimated
    """

    path: str
    begins: "array[int]"
    limits: "array[int]"
    files: tuple[str, ...]
    digests: tuple[str, ...]
    input_tokens: int
    output_tokens: int
    left_out: int = 0
    answers: int = 0
    counted: int = 0
    held: Held | None = field(default=None, compare=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"held": None}

    def __len__(self) -> int:
        return len(self.limits)

    def request(self, handle: int, row: int, model: bytes) -> bytes:
        """Return a request. `handle`: of the file, opened; `model`: its name, as JSON."""
        begin = self.begins[row]
        rest = os.pread(handle, self.begins[row + 1] - begin, begin)[1:-1]
        limit = self.limits[row]
        more = b',"max_tokens":%d' % limit if limit else b""
        return b'{"model":%b,%b%b}' % (model, rest, more)

    def told(self, each: int | None, measurements: int) -> Phrase:
        """Return what they are, for people. `each`: requests of one measurement; None: unknown."""
        rows = len(self)
        parts = [
            phrase(
                "{rows} of {files}, in a random order",
                rows=counted(rows, "row"),
                files=joined(self.files, ", "),
            )
        ]
        if each is None:
            parts.append(phrase("begun again when all have been sent"))
            if measurements > 1:
                parts.append(
                    phrase(
                        "each measurement draws from all: the server's prefix cache may know some"
                    )
                )
        elif each * measurements > rows:
            parts.append(
                phrase(
                    "each is sent {times:.1f} times: the server's prefix cache may know it",
                    times=each * measurements / rows,
                )
            )
        if self.answers and self.counted == self.answers:
            parts.append(phrase("answers as long as in the file, by the server's tokenizer"))
        elif self.answers and not self.counted:
            parts.append(phrase("answers about as long as in the file, estimated from their bytes"))
        elif self.answers:
            parts.append(
                phrase(
                    "answers about as long as in the file: {counted:,} counted by the server's"
                    " tokenizer, the others estimated",
                    counted=self.counted,
                )
            )
        if self.left_out:
            left = counted(self.left_out, "conversation")
            parts.append(phrase("{left} left out: no answer in it, or too long", left=left))
        return joined(parts)


def drawn(rows: int, seed: int, begin: int) -> Iterator[int]:
    """Yield rows without end, from a place of their random order on.

    Each comes once before any comes again; each round has an order of its own.
    """
    turn, place = divmod(begin, rows)
    while True:
        order = array("Q", range(rows))
        random.Random(f"rows {seed} {turn}").shuffle(order)
        yield from order[place:]
        turn, place = turn + 1, 0

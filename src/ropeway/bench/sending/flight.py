"""One request on its way: what was sent when, and every piece that came, with its time.

Times are nanoseconds of the monotonic clock. A piece's time is when the kernel had it, not when we
came to read it: what this process was late by is kept apart. Of several pieces that are read at
once the kernel tells the time of the last one alone; how much earlier the first may have come is
kept too.
"""

from dataclasses import dataclass, field
from typing import Any, Protocol

from ropeway.bench.sending.framing import Response
from ropeway.endpoint.failures import RequestFailed


class Talk(Protocol):
    """A conversation to be had: of one question, or of several that follow from its answers.

    due   seconds from the start of the measurement; None: as soon as a client is free
    more  whether there is another question, when the last one has been answered
    """

    @property
    def due(self) -> float | None: ...

    @property
    def more(self) -> bool: ...

    def question(self, answer: str) -> bytes:
        """Return the next request's body; `answer`: the text of the last answer, at first none."""


@dataclass(slots=True)
class Flight:
    """A request in flight, or one that has ended.

    due     when it was to be sent: a moment of the arrivals, or when its client became free
    sent    when it was handed to the kernel, the first time; 0: not yet
    heard   when something last happened
    late    the longest that a piece had lain in the kernel before we read it
    pieces  of head and body, as far as they are not read yet: when the kernel had the last byte,
            the bytes, and how much earlier the first of them may have come
    error   why it failed; `broken`: how its connection ended too
            early; `silent`: whether nothing came for too long
    cut     whether we broke it off, since the run ended
    reader  what whoever reads it keeps until its end
    unread  whether it waits to be read
    """

    talk: Talk
    body: bytes
    due: int
    sent: int = 0
    heard: int = 0
    ended: int = 0
    late: int = 0
    pieces: list[tuple[int, bytes, int]] = field(default_factory=list)
    response: Response = field(default_factory=Response)
    error: RequestFailed | None = None
    broken: str = ""
    silent: bool = False
    cut: bool = False
    reader: Any = None
    unread: bool = False

    @property
    def whole(self) -> bool:
        """Whether the response came to its end, whatever it says."""
        return not (self.error or self.broken or self.silent or self.cut)

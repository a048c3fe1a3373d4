"""Talks with a model, in bytes that are sent as they are: of one question, or of several."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ropeway.endpoint.request import Message

Question = tuple[Any, int]
"""The content of a question, and the most tokens of its answer."""
Ask = Callable[[Sequence[Message], int], bytes]
"""Makes the request of some messages and the most tokens of the answer."""


@dataclass(slots=True)
class OneQuestion:
    """A talk of one question."""

    body: bytes
    due: float | None
    more: bool = False

    def question(self, answer: str) -> bytes:
        """Return the only question."""
        del answer
        return self.body


@dataclass(slots=True)
class Conversation:
    """A talk of `left` questions, each sent with all that was said before.

    The first is made at once, so that it need not be made when it is due.
    """

    ask: Ask
    questions: Iterator[Question]
    left: int
    due: float | None
    _messages: list[Message] = field(default_factory=list)
    _first: bytes = b""

    def __post_init__(self) -> None:
        self._first = self._next()

    @property
    def more(self) -> bool:
        """Whether a question is left to be asked."""
        return self.left > 0

    def question(self, answer: str) -> bytes:
        """Return the next question; `answer`: to the one before."""
        self.left -= 1
        if self._first:
            first, self._first = self._first, b""
            return first
        self._messages.append({"role": "assistant", "content": answer})
        return self._next()

    def _next(self) -> bytes:
        content, most = next(self.questions)
        self._messages.append({"role": "user", "content": content})
        return self.ask(self._messages, most)

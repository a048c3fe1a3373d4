"""What a command's output is turned into: a reading, which is a value or says why there is none.

A parser is pure, takes any text and never raises. It reads by structure (cells, keys), not by
column; what it does not know it keeps and says so, and it never guesses.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

T = TypeVar("T")
S = TypeVar("S")

# ok       all of it was understood
# partial  a value, and either lines that were not understood or an end that is missing
# absent   the command or the file is not there
# error    the tool answered with an error of its own
# unknown  a format that we do not know; the text is kept
State = Literal["ok", "partial", "absent", "error", "unknown"]

ErrorKind = Literal[
    "busy",  # another call of the tool is running
    "denied",  # no permission: not root, or not in the group of the driver
    "no-driver",  # the driver is not loaded or does not answer
    "device-used",  # the device is held by another container or process
    "no-device",  # an index that is not there, or a card that dropped off the bus
    "not-configured",  # `no ip was preset` and the like: nothing has been set
    "unsupported",  # this product or version has no such query
    "timeout",  # it did not answer in time
    "failed",  # anything else that the tool calls an error
]

_KEPT_LINES = 20
_KEPT_CHARACTERS = 4000
_LINE_CHARACTERS = 200


@dataclass(frozen=True)
class ToolError:
    """The tool's own complaint. `code` is the number it printed (-8005), where it printed one."""

    kind: ErrorKind
    message: str
    code: int | None = None


@dataclass(frozen=True)
class Reading(Generic[T]):
    """What one output says.

    unread  lines that were not understood; at most 20, each cut at 200 characters
    text    the output itself, cut at 4,000 characters, where there is no value
    """

    state: State
    value: T | None = None
    error: ToolError | None = None
    unread: tuple[str, ...] = ()
    text: str = ""

    @classmethod
    def of(cls, value: T, unread: tuple[str, ...] = (), *, cut: bool = False) -> "Reading[T]":
        """A value; `partial` when lines were left over or the end is missing."""
        kept = tuple(line[:_LINE_CHARACTERS] for line in unread[:_KEPT_LINES])
        return cls("partial" if unread or cut else "ok", value, unread=kept)

    @classmethod
    def failed(cls, error: ToolError, text: str = "") -> "Reading[T]":
        """The tool said no."""
        return cls("error", error=error, text=text[:_KEPT_CHARACTERS])

    @classmethod
    def unknown(cls, text: str) -> "Reading[T]":
        """Not a format that we know."""
        return cls("unknown", text=text[:_KEPT_CHARACTERS])

    @classmethod
    def absent(cls, text: str = "") -> "Reading[T]":
        """The command or the file is not there."""
        return cls("absent", text=text[:_KEPT_CHARACTERS])


@dataclass(frozen=True)
class Output(Generic[S]):
    """One kind of output that can be read.

    name       how `ropeway facts parse` calls it: `npu-smi-board`
    command    what prints it, for people; `N` stands for an NPU's number
    parse      text → reading; never raises
    recognise  how surely a text of unknown origin is this, from 0 (not) to 1; cheap, never raises
    """

    name: str
    command: str
    parse: Callable[[str], Reading[S]]
    recognise: Callable[[str], float]

"""A question to a host: one command, and the pure parser of what it prints.

A parser takes any text and never raises. It reads by structure (cells, labels), not by column. What
it does not know it keeps and reports; it never guesses.
"""

import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Generic, Literal, Never, TypeVar

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

# ok       all of it was understood
# partial  there is a value, but some lines were not understood or the end is missing
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

# Ask once for each NPU that `npu-smi info -l` lists, or for each /dev/davinciN.
Target = Literal["npu", "device"]


@dataclass(frozen=True)
class ToolError:
    """The tool's own complaint. `code` is the number it printed (-8005), where it printed one."""

    kind: ErrorKind
    message: str
    code: int | None = None


@dataclass(frozen=True)
class Parsed(Generic[T_co]):
    """What one output says.

    unparsed  lines that were not understood; at most 20, each cut at 200 characters
    text      the output itself, cut at 4,000 characters, where there is no value
    """

    state: State
    value: T_co | None = None
    error: ToolError | None = None
    unparsed: tuple[str, ...] = ()
    text: str = ""

    @staticmethod
    def of(value: T, unparsed: Iterable[str] = (), *, truncated: bool = False) -> "Parsed[T]":
        """Return a value; it is `partial` when lines were left over or the end is missing."""
        kept = tuple(line.strip()[:_LINE_CHARACTERS] for line in unparsed)[:_KEPT_LINES]
        return Parsed("partial" if kept or truncated else "ok", value, unparsed=kept)

    @staticmethod
    def failed(error: ToolError, text: str = "") -> "Parsed[Never]":
        """Return a reading for a tool that answered with an error."""
        return Parsed("error", error=error, text=text[:_KEPT_CHARACTERS])

    @staticmethod
    def unknown(text: str) -> "Parsed[Never]":
        """Return a reading for a format that we do not know."""
        return Parsed("unknown", text=text[:_KEPT_CHARACTERS])

    @staticmethod
    def absent(text: str = "") -> "Parsed[Never]":
        """Return a reading for a command or file that is not there."""
        return Parsed("absent", text=text[:_KEPT_CHARACTERS])


@dataclass(frozen=True)
class Question(Generic[T_co]):
    """One question. An answer to it has the type that `parse` returns.

    key       names it in the script, in `unread`, and in a bundle
    argv      the command, which only reads; with `each`, the argument `N` is the number
    limit     seconds after which the command is given up
    after     key of an earlier question without `each`: asked only when that one succeeded
    unless    the same, but asked only when that one did not succeed
    optional  not every host has this, or is asked for it: that it is missing is an answer, too
    """

    key: str
    argv: tuple[str, ...]
    parse: Callable[[str], Parsed[T_co]]
    each: Target | None = None
    limit: int = 20
    after: str | None = None
    unless: str | None = None
    optional: bool = False

    def about(self, *arguments: str) -> "Question[T_co]":
        """Return the same question with arguments added to its command."""
        return replace(self, argv=(*self.argv, *arguments))

    def line(self) -> str:
        """Return its line of the script that asks a host."""
        conditions = (("after", self.after), ("unless", self.unless))
        when = "".join(f"{word} {key} " for word, key in conditions if key)
        what = f"each {self.each}" if self.each else "ask"
        return f"{when}{what} {self.limit} {self.key} {shlex.join(self.argv)}"


def shell(script: str) -> tuple[str, ...]:
    """Return the command that runs a snippet in the host's `sh`."""
    return ("sh", "-c", script)


def questions_in(*modules: ModuleType) -> tuple[Question[object], ...]:
    """Return the questions that these modules define, in their order."""
    return tuple(
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, Question)
    )

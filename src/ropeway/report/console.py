"""The only code that writes to the terminal: answers to stdout, the conversation to stderr.

With `--json` stdout has exactly one JSON document and nothing else (docs/json.md). It is written
when the verb ends, so that its `ok` says what the exit code says. The conversation is silent then,
except for warnings and errors, which are also written to stderr in the form for people. Terminal
escapes are removed from text from outside (a model's answer, a log line). Phrases are shown in the
language of the screen; JSON is always English.
"""

import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from json import dumps
from typing import Any, Literal, TextIO, cast

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.text import Text

from ropeway.errors import RopewayError
from ropeway.outside import UNSEEN
from ropeway.report.chinese import COMMAND, error_in_chinese, in_language
from ropeway.report.line import fill, printable
from ropeway.report.progress import Conversation, Stages, Step
from ropeway.report.table import Printable

SCHEMA = 1
# A line of a hint with a command that is not between backticks.
_COMMAND = re.compile(rf"(?:^|: |：){COMMAND}|^\$ ")
LABELS = {
    "en": {"error": "error: ", "warning": "warning: ", "hint": "hint: ", "at": "at "},
    "zh": {"error": "错误：", "warning": "警告：", "hint": "提示：", "at": "位置："},
}
_LITERAL = re.compile(r"`[^`\n]+`")


class Screen:
    """The terminal of a verb; built once from the flags and passed down.

    json     one JSON document on stdout, no conversation
    verb     what the document calls its verb: `plan`, `model show`; None where there is none
    quiet    only warnings, errors and the answer
    verbose  1 shows the commands that are run, 2 their output too; no live line then
    color    "auto" (a terminal, and NO_COLOR not set), "always" or "never"
    width    in cells; None takes the terminal's, or 80 without one
    language        "en" or "zh", of all that is said
    error_language  of errors, where that is another one
    rehearsal       whether what the verb tells of is made up; every document says so
    """

    def __init__(
        self,
        *,
        json: bool = False,
        verb: str | None = None,
        quiet: bool = False,
        verbose: int = 0,
        color: str = "auto",
        width: int | None = None,
        language: str = "en",
        error_language: str | None = None,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.json = json
        self.quiet = quiet
        self.verbose = verbose
        self.language = language
        self.rehearsal = False
        self._error_language = error_language or language
        self._verb = verb
        self._result: Mapping[str, object] | None = None
        self._error: RopewayError | None = None
        self._warnings: list[str] = []
        self._mid_line: Console | None = None
        self._out = _console(stdout or sys.stdout, color, width)
        err = _console(_Unfailing(stderr or sys.stderr), color, width)
        terminal = err.file.isatty() and not err.is_dumb_terminal
        self._talk = Conversation(
            err,
            live=terminal and verbose == 0,
            muted=json or quiet,
            clock=clock,
            language=language,
        )

    # The answer

    def answer(self, answer: str | RenderableType) -> None:
        """Print the answer: text as it is, or a table. Nothing with `--json`."""
        if self.json:
            return
        self.end_line()
        with self._talk.apart():
            if isinstance(answer, str):
                self._plain(in_language(answer, self.language) + "\n")
            else:
                self._out.print(Printable(answer), crop=False)  # a long word stays whole

    def write(self, piece: str, *, aside: bool = False) -> None:
        """Print a piece of streamed text at once, without a line end.

        `aside`: as part of the conversation, dim, on stderr. Nothing with `--json`.
        """
        if self.json or (aside and self.quiet):
            return
        console = self._talk.console if aside else self._out
        with self._talk.apart():
            if self._mid_line not in (None, console):
                self.end_line()
            if aside:
                console.print(Text(printable(piece), style="dim"), end="", soft_wrap=True)
            else:
                self._plain(piece)
            if piece:
                self._mid_line = None if piece.endswith("\n") else console
            self._talk.paused = self._mid_line is not None

    def end_line(self) -> None:
        """Go to the beginning of a line, if streamed text has left one unfinished."""
        if self._mid_line is not None:
            self._mid_line.print()
            self._mid_line, self._talk.paused = None, False

    def result(self, data: Mapping[str, object]) -> None:
        """Keep what the JSON document says of this verb, until `close` prints it.

        Raises RuntimeError on a second result and ValueError on NaN: both are our bugs.
        """
        if not self.json:
            return
        if self._result is not None:
            raise RuntimeError("a verb prints one JSON document")
        dumps(data, allow_nan=False)  # fails here, where the verb is in the traceback
        self._result = data

    def event(self, data: Mapping[str, object]) -> None:
        """Write how far the verb is as a line of JSON to stderr; without `--json` nothing."""
        if self.json:
            self._talk.console.file.write(UNSEEN.sub(_escaped, dumps(data)) + "\n")
            self._talk.console.file.flush()

    def close(self, *, ok: bool) -> None:
        """Print the JSON document, if one is wanted. `ok`: whether the exit code is 0."""
        if not self.json:
            return
        document = {
            "schema": SCHEMA,
            "verb": self._verb,
            "ok": ok,
            "rehearsal": self.rehearsal,
            "error": self._error.as_json() if self._error else None,
            "warnings": self._warnings,
            **(self._result or {}),
        }
        unicode = (getattr(self._out.file, "encoding", None) or "utf-8").lower().startswith("utf")
        text = dumps(document, ensure_ascii=not unicode, indent=2, allow_nan=False)
        # A terminal may be what reads it; in JSON what steers one can stand as its escape.
        text = UNSEEN.sub(_escaped, text)
        self._out.file.write(text + "\n")
        self._out.file.flush()

    # The conversation

    def say(self, text: str) -> None:
        """Print a line of the conversation, wrapped between words."""
        width = self._talk.console.width
        shown = fill(in_language(text, self.language), width, 0, 0)
        self._line(with_literals(shown), soft_wrap=True)

    def detail(self, text: str) -> None:
        """Print a line only with `-v`, such as a command."""
        if self.verbose:
            self._line(Text(printable(text), style="dim"), soft_wrap=True)

    def warn(self, text: str) -> None:
        """Print a warning, with `-q` and `--json` too."""
        self._warnings.append(text)
        label = LABELS[self.language]["warning"]
        shown = in_language(text, self.language)
        shown = fill(shown, self._talk.console.width, cell_len(label), 0)
        line = Text.assemble((label, "bold yellow"), with_literals(shown))
        self._line(line, soft_wrap=True, always=True)

    def hint(self, text: str) -> None:
        """Print something to type or to check; commands stay whole, so that they can be copied."""
        shown = in_language(text, self.language)
        self._line(_hint(shown, self._prose_width, self.language), soft_wrap=True)

    def error(self, error: RopewayError) -> None:
        """Print the error in its four parts to stderr; the document has the first one."""
        self._error = self._error or error
        text = error_text(error, self._prose_width, self._error_language)
        self._line(text, soft_wrap=True, always=True)

    # Waiting

    def step(
        self, name: str, expected_seconds: float | None = None
    ) -> AbstractContextManager[Step]:
        """`with screen.step("start Ray") as step:` prints its name before, its verdict after."""
        self.end_line()
        return self._talk.step(name, expected_seconds)

    def stages(
        self, names: Sequence[str], expected_seconds: float | None = None
    ) -> AbstractContextManager[Stages]:
        """`with screen.stages([...]) as stages:`, then `with stages.stage(name):` for each."""
        return self._talk.stages(names, expected_seconds)

    @property
    def _prose_width(self) -> int | None:
        """Where prose is wrapped: at the terminal's edge, and in a file not at all."""
        console = self._talk.console
        return console.width if console.is_terminal else None

    def _line(self, text: Text, *, soft_wrap: bool = False, always: bool = False) -> None:
        if self._talk.muted and not always:
            return
        self.end_line()
        self._talk.say(text, soft_wrap=soft_wrap)

    def _plain(self, text: str) -> None:
        # Not by way of the console, which would turn tabs into spaces.
        self._out.file.write(printable(text))
        self._out.file.flush()  # what both streams say stays in order where both go to one file


def _escaped(found: re.Match[str]) -> str:
    return dumps(found[0])[1:-1]


def error_text(error: RopewayError, width: int | None = None, language: str = "en") -> Text:
    """Return what is wrong, where, the evidence indented, and a hint in a block of its own.

    In Chinese only when all of it has Chinese, else in English.
    """
    chinese = error_in_chinese(error) if language == "zh" else None
    labels = LABELS["zh" if chinese else "en"]
    error = chinese or error
    first = cell_len(labels["error"])
    what = with_literals(fill(error.what, width, first, 2))
    lines = [Text.assemble((labels["error"], "bold red"), what)]
    if error.where and error.where not in error.what:
        lines.append(Text.assemble(f"  {labels['at']}", (printable(error.where), "cyan")))
    for evidence in error.evidence:
        lines += [Text(f"  {fill(line, width, 2, 4)}") for line in printable(evidence).splitlines()]
    if error.hint:
        lines += [Text(), _hint(error.hint, width, "zh" if chinese else "en")]
    return Text("\n").join(lines)


def _hint(text: str, width: int | None, language: str) -> Text:
    label = LABELS[language]["hint"]
    indent = cell_len(label)
    given = printable(text).splitlines() or [""]
    first, *rest = (line for one in given for line in _hint_lines(one, width, indent))
    lines = [Text.assemble((label, "bold cyan"), with_literals(first))]
    lines += [Text.assemble(" " * indent, with_literals(line)) for line in rest]
    return Text("\n").join(lines)


def _hint_lines(line: str, width: int | None, indent: int) -> Iterator[str]:
    """Yield prose in lines that fit, and a command whole, on a line of its own where both do not
    fit into one: a terminal breaks what is too long anywhere."""
    command = _COMMAND.search(line)
    if command is None:
        yield fill(line, width, indent, indent)
    elif command.start() == 0 or not width or indent + cell_len(line) <= width:
        yield line.removeprefix("$ ")
    else:
        begin = command.start() + len(re.match(r"[:：]? ?", line[command.start() :])[0])  # type: ignore[index]
        yield fill(line[:begin].rstrip(), width, indent, indent)
        yield line[begin:]


def with_literals(text: str) -> Text:
    """Return outside text with what is to be typed (between backticks) in colour."""
    shown = Text(printable(text))
    shown.highlight_regex(_LITERAL, "cyan")
    return shown


class _Unfailing:
    """A stream whose reader may go away, such as a terminal that is closed.

    What cannot be written is dropped: an undo must not end for the sake of what is said about it.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):  # ValueError: closed
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()


def _console(stream: TextIO | _Unfailing, color: str, width: int | None) -> Console:
    # A locale without our dashes and arrows must not end the program: they become "?".
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure:
        reconfigure(errors="replace")
    systems: dict[str, Literal["auto", "standard"] | None] = {"always": "standard", "never": None}
    return Console(
        file=cast(TextIO, stream),
        width=width,
        force_terminal=True if color == "always" else None,
        color_system=systems.get(color, "auto"),
        no_color={"always": False, "never": True}.get(color),
        markup=False,
        emoji=False,
        highlight=False,
    )

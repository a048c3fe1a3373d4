"""The conversation on stderr: whole lines, and on a terminal one live line below them.

The cursor is never hidden, so nothing has to be restored: whatever ends the process, it leaves at
worst one half-written line. The live line is erased before anything else is written.
"""

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.text import Text

from ropeway.phrases import phrase
from ropeway.report.chinese import in_language
from ropeway.report.line import (
    about,
    fill,
    live_line,
    one_line,
    spent,
    stage_line,
    waiting_time,
    whole_seconds,
)

STYLES = {
    "ok": "green", "done": "green", "warn": "yellow", "stop": "yellow", "FAIL": "bold red"
}  # fmt: skip
# What a verdict is called where it is not said in English.
_IN_CHINESE = {"ok": "完成", "done": "完成", "warn": "警告", "stop": "中止", "FAIL": "失败"}
REDRAW_SECONDS = 0.5
_ERASE_LINE = "\r\x1b[K"
_BEFORE_NAME, _CONTINUATION = 6, 8  # cells before the text of a verdict, and of its second line


class Conversation:
    """All that is written to stderr, by any thread, one whole line at a time.

    live   redraw the running step's line in place; otherwise print a line when something changes
    muted  steps and stages print nothing
    language  of names and details that are phrases, and of what is said about them
    """

    def __init__(
        self,
        console: Console,
        *,
        live: bool,
        muted: bool,
        clock: Callable[[], float],
        language: str = "en",
    ) -> None:
        self.console = console
        self.live = live and not muted
        self.muted = muted
        self.clock = clock
        self.language = language
        self.indent = ""
        self.paused = False
        self._running: list[Step] = []
        self._drawn = False
        self._lock = threading.RLock()
        self._ended = threading.Event()
        self._ticker: threading.Thread | None = None

    def words(self, text: str) -> str:
        """Return a text in the language of the conversation, on one line."""
        return one_line(in_language(text, self.language))

    def say(self, text: RenderableType, *, soft_wrap: bool = False) -> None:
        """Print whole lines above the live one. `soft_wrap` leaves line ends to the terminal."""
        with self.apart():
            self.console.print(text, soft_wrap=soft_wrap)

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Remove the live line while the body writes to the same terminal."""
        with self._lock:
            self._erase()
            yield
            self._draw()

    @contextmanager
    def step(self, name: str, expected_seconds: float | None) -> Iterator["Step"]:
        """Show a line while the body runs, and its verdict at the end.

        An exception makes that FAIL, Ctrl-C and cancellation make it stop; both are raised on.
        """
        step = Step(self, name, expected_seconds)
        self._begin(step)
        try:
            yield step
        except BaseException as error:
            step.verdict, step.closing = _verdict_on(error), ""
            raise
        finally:
            self._end(step)

    @contextmanager
    def stages(self, names: Sequence[str], expected_seconds: float | None) -> Iterator["Stages"]:
        """Show the stages of a long verb, and one closing line at the end."""
        stages, verdict = Stages(self, names, expected_seconds), "done"
        try:
            yield stages
        except BaseException as error:
            verdict = _verdict_on(error)
            raise
        finally:
            if not self.muted:
                self.say(self.verdict("", verdict, stages.outcome(verdict)), soft_wrap=True)

    def verdict(self, indent: str, verdict: str, rest: str) -> Text:
        """Return `ok    name  12.3 s`: the word first, so that colour adds nothing."""
        word = _IN_CHINESE[verdict] if self.language == "zh" else f"{verdict:<4}"
        width = self.console.width
        if self.live and width > 2 * _CONTINUATION:
            rest = fill(rest, width, len(indent) + _BEFORE_NAME, _CONTINUATION)
        return Text.assemble(indent, (word, STYLES[verdict]), f"  {rest}")

    def _begin(self, step: "Step") -> None:
        with self._lock:
            self._running.append(step)
            if self.live:
                self._draw()
                self._start_ticker()
            elif not self.muted:
                self.console.print(Text(f"{step.indent}{step.name} …"), soft_wrap=True)

    def changed(self, step: "Step", *, whole_line: bool) -> None:
        """Show a step's new detail: in the live line, else only if `whole_line`, as a line."""
        with self._lock:
            if self.live:
                self._draw()
            elif whole_line and not self.muted:
                line = live_line(step.name, step.detail, whole_seconds(step.seconds), 10_000)
                self.console.print(Text(step.indent + line), soft_wrap=True)

    def _end(self, step: "Step") -> None:
        parts = filter(None, (step.name, spent(step.seconds), step.closing))
        verdict = self.verdict(step.indent, step.verdict, "  ".join(parts))
        with self._lock:
            self._running.remove(step)
            if self.muted:
                return
            self._erase()
            self.console.print(verdict, soft_wrap=True)
            self._draw()
            if not self._running:
                self._ended.set()

    def _draw(self) -> None:
        if not (self.live and self._running) or self.paused:
            return
        step = self._running[-1]
        width = self.console.width - 1 - len(step.indent)
        time = self.words(waiting_time(step.seconds, step.expected))
        line = live_line(step.name, step.detail, time, width)
        self._write(f"{_ERASE_LINE}{step.indent}{line}")
        self._drawn = True

    def _erase(self) -> None:
        if self._drawn:
            self._write(_ERASE_LINE)
            self._drawn = False

    def _write(self, raw: str) -> None:
        self.console.file.write(raw)
        self.console.file.flush()

    def _start_ticker(self) -> None:
        if self._ticker and self._ticker.is_alive() and not self._ended.is_set():
            return
        self._ended = threading.Event()
        self._ticker = threading.Thread(target=self._tick, args=(self._ended,), daemon=True)
        self._ticker.start()

    def _tick(self, ended: threading.Event) -> None:
        while not ended.wait(REDRAW_SECONDS):
            with self._lock:
                if ended.is_set():
                    return
                self._draw()


class Step:
    """One named piece of work, with its verdict and what is said after that."""

    def __init__(self, talk: Conversation, name: str, expected_seconds: float | None) -> None:
        self.name = talk.words(name)
        self.expected = expected_seconds
        self.detail = ""
        self.indent = talk.indent
        self._talk = talk
        self._started = talk.clock()
        self.verdict = "ok"
        self.closing = ""
        self._logged_at = 0.0

    @property
    def seconds(self) -> float:
        """Time since the step began."""
        return self._talk.clock() - self._started

    def update(self, detail: str) -> None:
        """Show what the step is doing now, `loading weights 3/9`; in a log a line of its own."""
        self.tick(detail, log_every_s=0.0)

    def tick(self, detail: str, *, log_every_s: float = math.inf) -> None:
        """Like `update`, for what changes all the time (bytes, requests).

        In a log it becomes a line at most every `log_every_s` seconds.
        """
        due = self.seconds >= self._logged_at + log_every_s
        if due:
            self._logged_at = self.seconds
        detail = self._talk.words(detail)
        if detail != self.detail:
            self.detail = detail
            self._talk.changed(self, whole_line=due)

    def ok(self, closing: str = "") -> None:
        """Add to the verdict line: `ok    check the laptop  0.2 s  2 cores, 23.4 GiB`."""
        self.verdict, self.closing = "ok", self._talk.words(closing)

    def warn(self, closing: str = "") -> None:
        """End with the verdict `warn`."""
        self.verdict, self.closing = "warn", self._talk.words(closing)

    def fail(self, closing: str = "") -> None:
        """End with the verdict FAIL without an exception: one of several may fail."""
        self.verdict, self.closing = "FAIL", self._talk.words(closing)


class Stages:
    """The plan of a long verb: a header before each stage.

    names             in the order they are shown; each once
    expected_seconds  of the whole, if known
    """

    def __init__(
        self, talk: Conversation, names: Sequence[str], expected_seconds: float | None
    ) -> None:
        self._talk = talk
        self._names = [talk.words(name) for name in names]
        self._expected = expected_seconds
        self._started = talk.clock()
        self._at = -1
        self._entered = 0

    @property
    def seconds(self) -> float:
        """Time since the first stage was announced."""
        return self._talk.clock() - self._started

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Announce the stage; steps begun inside are indented. ValueError for an unplanned name."""
        self._at = self._names.index(self._talk.words(name))
        self._entered += 1
        self._header()
        outer, self._talk.indent = self._talk.indent, self._talk.indent + "  "
        try:
            yield
        finally:
            self._talk.indent = outer

    def outcome(self, verdict: str) -> str:
        """Return how many stages there were, or in which one it ended."""
        total, time = len(self._names), spent(self.seconds)
        if verdict == "done":
            count = phrase("{n} of {total}", n=self._entered, total=total)
            return f"{self._talk.words(count)}  {time}"
        before = self._talk.words(phrase("before the first stage"))
        name = self._names[self._at] if self._at >= 0 else before
        return f"[{self._at + 1}/{total}] {name}  {time}"

    def _header(self) -> None:
        if self._talk.muted:
            return
        time: str = ""
        if self.seconds >= 1:
            so_far = phrase("{time} so far", time=whole_seconds(self.seconds))
            time = waiting_time(self.seconds, self._expected) if self._expected else so_far
        elif self._expected:
            time = phrase("{time} in all", time=about(self._expected))
        width = self._talk.console.width - 1 if self._talk.live else None
        language = self._talk.language
        line = stage_line(self._names, self._at, in_language(time, language), width, language)
        head, _, rest = line.partition(" · ")
        text = Text.assemble((head, "bold"), (f" · {rest}" if rest else "", "dim"))
        self._talk.say(text, soft_wrap=True)


def _verdict_on(error: BaseException) -> str:
    return "FAIL" if isinstance(error, Exception) else "stop"

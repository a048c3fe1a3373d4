"""`ropeway chat`, line by line: questions, answers, and the commands between them."""

import asyncio
import contextlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

from ropeway.endpoint.chat import Conversation, Settings
from ropeway.endpoint.client import Client, Endpoint, RequestFailed
from ropeway.endpoint.stream import Delta, Stopwatch, Timing
from ropeway.report.answer import AnswerView, answer_figures
from ropeway.report.console import Screen

_COMMANDS = "/clear forgets the conversation · /system TEXT sets the system prompt · /exit leaves"


@dataclass
class Talk:
    """A conversation under way: it asks, shows and remembers. `watch` is of the last answer."""

    screen: Screen
    endpoint: Endpoint
    settings: Settings
    conversation: Conversation
    watch: Stopwatch = field(default_factory=Stopwatch)

    def turn(self, text: str, images: tuple[str, ...] = ()) -> Timing:
        """Ask, and stream the answer. What was received is remembered, however it ended."""
        question = self.conversation.with_question(text, images)
        self.watch = Stopwatch()
        view = AnswerView(self.screen)
        try:
            return asyncio.run(self._ask(question, view.show))
        finally:
            view.close()
            # A question without an answer would break chat templates that want turns to alternate.
            if received := self.watch.timing().text:
                self.conversation = question.with_answer(received)

    def show_figures(self, timing: Timing) -> None:
        """Print the figures of an answer below it."""
        self.screen.write(answer_figures(timing) + "\n", aside=True)

    def converse(self, first: str | None, images: tuple[str, ...]) -> None:
        """Take questions until Ctrl-D or /exit. A failed answer does not end the conversation."""
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (gives input() its line editing and history)
        self.screen.say(f"{self.settings.model} at {self.endpoint.url} · {_COMMANDS}")
        line = first
        while True:
            if line is None:
                line = _read_line(self.screen)
            if line is None or line.strip() in ("/exit", "/quit"):
                return
            if line.strip() and not self._command(line.strip()):
                images = self._one_turn(line, images)
            line = None

    async def _ask(self, question: Conversation, show: Callable[[Delta], None]) -> Timing:
        async with Client(self.endpoint) as client:
            request = question.request(self.settings)
            return await client.ask(request, watch=self.watch, on_delta=show)

    def _one_turn(self, line: str, images: tuple[str, ...]) -> tuple[str, ...]:
        """Ask; return the images for the next question: the same if no answer came."""
        try:
            timing = self.turn(line, images)
        except KeyboardInterrupt:
            tokens = self.watch.tokens
            self.screen.say(f"stopped after {tokens:,} tokens; the conversation is kept")
        except RequestFailed as error:
            self.screen.error(error)
        else:
            self.show_figures(timing)
        return () if self.watch.tokens else images

    def _command(self, line: str) -> bool:
        """Carry out a line that begins with `/`; return False when it is a question."""
        if not line.startswith("/"):
            return False
        verb, _, rest = line.partition(" ")
        if verb == "/clear":
            self.conversation = self.conversation.without_turns()
            self.screen.say("cleared")
        elif verb == "/system":
            self.conversation = self.conversation.with_system(rest.strip())
            self.screen.say("system prompt set" if rest.strip() else "system prompt removed")
        elif "/" in verb[1:]:
            return False  # a path, not a command
        else:
            self.screen.say(f"no such command: {verb} · {_COMMANDS}")
        return True


def _read_line(screen: Screen) -> str | None:
    """Return the next question; None at the end of input."""
    # input() writes its prompt where the answers go, which is wrong when those go to a file.
    prompt = "> " if sys.stdout.isatty() else ""
    while True:
        try:
            return input(prompt)
        except EOFError:
            screen.write("\n", aside=True)
            return None
        except KeyboardInterrupt:
            screen.write("\nCtrl-D or /exit leaves\n", aside=True)
        except UnicodeDecodeError:
            screen.say("that line is not UTF-8 text; please enter it again")

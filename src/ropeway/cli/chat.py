"""`ropeway chat`: talk with a served model, for one answer or line by line."""

import asyncio
import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import click

from ropeway.cli.endpoint import endpoint_options, tell_rehearsal
from ropeway.cli.options import Finite, screen_options
from ropeway.endpoint.address import Endpoint
from ropeway.endpoint.chat import Conversation, read_image
from ropeway.endpoint.client import Client, ServedModel, listed
from ropeway.endpoint.failures import RequestFailed, ServerAway
from ropeway.endpoint.request import Request
from ropeway.endpoint.stream import Delta, Stopwatch, Timing
from ropeway.errors import Refused, reason_of
from ropeway.phrases import phrase
from ropeway.report.answer import AnswerView, answer_figures
from ropeway.report.console import Screen
from ropeway.units import format_bytes

_LONGEST_PROMPT = 64 * 2**20
_COMMANDS = "/clear forgets the conversation · /system TEXT sets the system prompt · /exit leaves"


@dataclass
class Talk:
    """A conversation under way: it asks, shows and remembers.

    request  what is sent with every question, without messages
    watch    of the last answer
    """

    screen: Screen
    endpoint: Endpoint
    request: Request
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
        self.screen.say(f"{self.request.model} at {self.endpoint.url} · {_COMMANDS}")
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
            request = replace(self.request, messages=question.messages)
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


@click.command()
@screen_options
@endpoint_options(timeout=300.0)
@click.option("-p", "--prompt", help="Ask this, print the answer, and exit.")
@click.option("--system", help="System prompt.")
@click.option(
    "--image",
    "images",
    multiple=True,
    type=click.Path(path_type=Path),
    help="An image to send with the first question; may be repeated.",
)
@click.option("--max-tokens", type=click.IntRange(min=1), help="Longest answer, in tokens.")
@click.option(
    "--temperature",
    type=Finite(0, 2),
    help="0 always takes the most likely token.  [default: the server's, often the model's own]",
)
@click.option(
    "-i",
    "--interactive",
    is_flag=True,
    help="Converse line by line even when standard input is not a terminal.",
)
def chat(
    *,
    screen: Screen,
    endpoint: Endpoint,
    model: str | None,
    prompt: str | None,
    system: str | None,
    images: tuple[Path, ...],
    max_tokens: int | None,
    temperature: float | None,
    interactive: bool,
) -> None:
    """Talk with a served model, at any OpenAI-compatible URL.

    The answer goes to standard output; the model's reasoning and the closing figures (time to first
    token, tokens per second after it) go to standard error. Piped text is added to the prompt.
    Ctrl-C stops an answer and keeps the conversation; Ctrl-D leaves.

    \b
    Example:
      ropeway chat -p "What is the capital of France?"
      cat report.txt | ropeway chat -p "Summarise this."
    """
    one_shot = None if interactive else _question(prompt)
    if screen.json and one_shot is None:
        raise Refused("`--json` answers a single prompt", hint="give it with `-p`, or pipe text in")
    data_urls = tuple(read_image(path) for path in images)
    served = asyncio.run(_models(endpoint, must=model is None))
    tell_rehearsal(served, endpoint, screen)
    name = model or _first_model(served, endpoint, screen)
    request = Request(name, (), max_tokens, temperature)
    talk = Talk(screen, endpoint, request, Conversation(system))
    if one_shot is None:
        talk.converse(prompt, data_urls)
    elif screen.json:
        _answer_json(talk, one_shot, data_urls)
    else:
        talk.show_figures(talk.turn(one_shot, data_urls))


def _question(prompt: str | None) -> str | None:
    """Return the prompt with the piped text below it; None means that the user will type."""
    if sys.stdin.isatty():
        return prompt
    data = _piped()
    try:
        piped = data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise Refused(
            phrase(
                "standard input is not UTF-8 text (byte 0x{byte:02x} at {start})",
                byte=data[error.start],
                start=error.start,
            ),
            hint="convert it first, for example with `iconv -f gbk -t utf-8`",
        ) from error
    question = "\n\n".join(part for part in (prompt, piped) if part)
    if not question:
        raise Refused("there is nothing to ask", hint='ask with `-p "…"`, or pipe text in')
    return question


def _piped() -> bytes:
    """Return what is piped in. Raises Refused for what cannot be read, or does not end."""
    try:
        data = sys.stdin.buffer.read(_LONGEST_PROMPT + 1)
    except OSError as error:
        raise Refused(
            phrase("cannot read standard input: {reason}", reason=reason_of(error)),
            hint="pipe text in, or give the question with `-p`",
        ) from error
    if len(data) > _LONGEST_PROMPT:
        size = format_bytes(_LONGEST_PROMPT)
        raise Refused(
            phrase("standard input is longer than {size}", size=size),
            hint="no model reads as much at once",
        )
    return data


def _first_model(served: Sequence[ServedModel], endpoint: Endpoint, screen: Screen) -> str:
    if not served:
        raise Refused("the server lists no model", where=endpoint.url, hint="name it: `--model`")
    names = [model.name for model in served]
    if len(names) > 1:
        screen.say(f"model {names[0]} (of {listed(names)})")
    return names[0]


async def _models(endpoint: Endpoint, *, must: bool) -> Sequence[ServedModel]:
    """Return what the server lists; nothing where it lists nothing and that does no harm."""
    async with Client(endpoint) as client:
        try:
            return await client.models()
        except RequestFailed as error:
            if must or isinstance(error, ServerAway):
                raise
            return ()


def _answer_json(talk: Talk, question: str, images: tuple[str, ...]) -> None:
    failed: RequestFailed | None = None
    try:
        timing = talk.turn(question, images)
    except RequestFailed as error:
        timing, failed = talk.watch.timing(), error
        if not timing.chunks:
            raise
    talk.screen.result(
        {
            "url": talk.endpoint.url,
            "model": talk.request.model,
            "answer": timing.text,
            "reasoning": timing.reasoning,
            "finish_reason": timing.finish_reason,
            "input_tokens": timing.input_tokens,
            "output_tokens": timing.output_tokens,
            "ttft_s": timing.ttft_s,
            "decode_tokens_per_s": timing.decode_tokens_per_s,
            "e2e_s": timing.e2e_s,
        }
    )
    if failed:
        raise failed

"""`ropeway chat`: talk with a served model."""

import asyncio
import contextlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import click

from ropeway.cli.endpoint import endpoint_options
from ropeway.cli.options import screen_options
from ropeway.endpoint.chat import Conversation, Settings, answer, decode_rate, read_image
from ropeway.endpoint.client import Client, Endpoint, RequestFailed
from ropeway.endpoint.stream import Delta, Stopwatch, Timing
from ropeway.errors import Refused
from ropeway.report.console import Screen

_COMMANDS = "/clear forgets the conversation · /system TEXT sets the system prompt · /exit leaves"


@click.command()
@screen_options
@endpoint_options(timeout=300.0)
@click.option("-p", "--prompt", help="Ask this, print the answer, and end.")
@click.option("--system", help="System prompt.")
@click.option(
    "--image",
    "images",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Show the model this image with the first question; may be repeated.",
)
@click.option("--max-tokens", type=click.IntRange(min=1), help="Longest answer, in tokens.")
@click.option(
    "--temperature",
    type=click.FloatRange(0, 2),
    help="0 always takes the likeliest token.  [default: the server's, often the model's own]",
)
@click.option(
    "-i",
    "--interactive",
    is_flag=True,
    help="Converse line by line even when standard input is no terminal.",
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
        raise Refused("`--json` answers one prompt", hint="give it with `-p`, or pipe text in")
    pictures = tuple(read_image(path) for path in images)
    name = model or _first_model(endpoint, screen)
    talk = _Talk(screen, endpoint, Settings(name, max_tokens, temperature), Conversation(system))
    if one_shot is None:
        _converse(talk, prompt, pictures)
    elif screen.json:
        _answer_json(talk, one_shot, pictures)
    else:
        talk.close(talk.turn(one_shot, pictures))


@dataclass
class _Talk:
    """A conversation on its way: asks, shows, remembers."""

    screen: Screen
    endpoint: Endpoint
    settings: Settings
    conversation: Conversation
    watch: Stopwatch = field(default_factory=Stopwatch)

    def turn(self, text: str, pictures: tuple[str, ...] = ()) -> Timing:
        """Ask and stream. Whatever was received stays in the conversation, however it ended."""
        asked = self.conversation.asked(text, pictures)
        self.watch = Stopwatch()
        shown = _Shown(self.screen)
        try:
            return asyncio.run(self._ask(asked, shown.show))
        finally:
            shown.close()
            # A question without an answer would break the templates that want them to alternate.
            if said := self.watch.timing().text:
                self.conversation = asked.answered(said)

    def close(self, timing: Timing) -> None:
        """The figures of an answer, dim, below it."""
        self.screen.write(closing_line(timing) + "\n", aside=True)

    async def _ask(self, asked: Conversation, show: Callable[[Delta], None]) -> Timing:
        async with Client(self.endpoint) as client:
            return await answer(client, asked, self.settings, watch=self.watch, on_delta=show)


class _Shown:
    """One answer as it comes: the reasoning aside, between marks; then the answer."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._thinking = False
        self._line_open = False

    def show(self, delta: Delta) -> None:
        if delta.reasoning:
            if not self._thinking:
                self._end_line()
                self._screen.write("── thinking ──\n", aside=True)
                self._thinking = True
            self._screen.write(delta.reasoning, aside=True)
        if delta.text:
            self._end_thinking()
            self._screen.write(delta.text)
            self._line_open = not delta.text.endswith("\n")

    def close(self) -> None:
        """Leave both streams at the beginning of a line."""
        self._end_thinking()
        self._end_line()

    def _end_thinking(self) -> None:
        if self._thinking:
            self._screen.write("\n── end of thinking ──\n", aside=True)
            self._thinking = False

    def _end_line(self) -> None:
        if self._line_open:
            self._screen.write("\n")
            self._line_open = False


def _question(prompt: str | None) -> str | None:
    """The prompt, with what was piped in below it; None means: converse."""
    if sys.stdin.isatty():
        return prompt
    data = sys.stdin.buffer.read()
    try:
        piped = data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise Refused(
            f"standard input is not UTF-8 text (byte 0x{data[error.start]:02x} at {error.start})",
            hint="convert it first, for example with `iconv -f gbk -t utf-8`",
        ) from error
    question = "\n\n".join(part for part in (prompt, piped) if part)
    if not question:
        raise Refused("there is nothing to ask", hint='ask with `-p "…"`, or pipe text in')
    return question


def _first_model(endpoint: Endpoint, screen: Screen) -> str:
    served = asyncio.run(_models(endpoint))
    if not served:
        raise Refused("the server lists no model", where=endpoint.url, hint="name it: `--model`")
    if len(served) > 1:
        screen.say(f"model {served[0]} (of {', '.join(served)})")
    return served[0]


async def _models(endpoint: Endpoint) -> list[str]:
    async with Client(endpoint) as client:
        return [model.name for model in await client.models()]


def _converse(talk: _Talk, first: str | None, pictures: tuple[str, ...]) -> None:
    """Question and answer until Ctrl-D or /exit. A failed answer ends the answer, not the talk."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (gives input() its line editing and history)
    talk.screen.say(f"{talk.settings.model} at {talk.endpoint.url} · {_COMMANDS}")
    line = first
    while True:
        if line is None:
            line = _read_line(talk.screen)
        if line is None or line.strip() in ("/exit", "/quit"):
            return
        if line.strip() and not _command(talk, line.strip()):
            pictures = _one_turn(talk, line, pictures)
        line = None


def _one_turn(talk: _Talk, line: str, pictures: tuple[str, ...]) -> tuple[str, ...]:
    """Ask; the pictures that still wait to be shown, because the answer never came."""
    try:
        timing = talk.turn(line, pictures)
    except KeyboardInterrupt:
        tokens = talk.watch.tokens
        talk.screen.say(f"stopped after {tokens} tokens; the conversation stays")
    except RequestFailed as error:
        talk.screen.error(error)
    else:
        talk.close(timing)
    return () if talk.watch.tokens else pictures


def _read_line(screen: Screen) -> str | None:
    """The next question; None at the end of input."""
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
            screen.say("that line is not UTF-8 text; please write it again")


def _command(talk: _Talk, line: str) -> bool:
    """Carry out a line that begins with `/`; whether it was one."""
    if not line.startswith("/"):
        return False
    verb, _, rest = line.partition(" ")
    if verb == "/clear":
        talk.conversation = talk.conversation.cleared()
        talk.screen.say("cleared")
    elif verb == "/system":
        talk.conversation = talk.conversation.told(rest.strip())
        talk.screen.say("system prompt set" if rest.strip() else "system prompt removed")
    elif "/" in verb[1:]:
        return False  # a path, not a command
    else:
        talk.screen.say(f"no such command: {verb} · {_COMMANDS}")
    return True


def _answer_json(talk: _Talk, question: str, pictures: tuple[str, ...]) -> None:
    failed: RequestFailed | None = None
    try:
        timing = talk.turn(question, pictures)
    except RequestFailed as error:
        timing, failed = talk.watch.timing(), error
        if not timing.chunks:
            raise
    talk.screen.result(
        {
            "url": talk.endpoint.url,
            "model": talk.settings.model,
            "answer": timing.text,
            "reasoning": timing.reasoning,
            "finish_reason": timing.finish_reason,
            "input_tokens": timing.input_tokens,
            "output_tokens": timing.output_tokens,
            "ttft_s": timing.ttft_s,
            "tokens_per_s": decode_rate(timing),
            "e2e_s": timing.e2e_s,
            "error": failed.as_json() if failed else None,
        }
    )
    if failed:
        raise failed


def closing_line(timing: Timing) -> str:
    """`TTFT 0.21 s · 34.5 tokens/s · 120 tokens`."""
    parts = []
    if timing.ttft_s is not None:
        parts.append(f"TTFT {timing.ttft_s:.2f} s")
    if rate := decode_rate(timing):
        parts.append(f"{rate:.1f} tokens/s")
    parts.append(f"{timing.output_tokens} tokens" + ("" if timing.counted else " (by pieces)"))
    if timing.finish_reason == "length":
        parts.append("cut at the token limit")
    return " · ".join(parts)

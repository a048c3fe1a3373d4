"""`ropeway chat`: talk with a served model."""

import asyncio
import contextlib
import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import click

from ropeway.chat import Conversation, Settings, answer, decode_rate, read_image
from ropeway.client import Client, Endpoint, RequestFailed, normalise_url
from ropeway.errors import Exit, Refused
from ropeway.stream import Delta, Stopwatch, Timing

_SCHEMA = 1
_COMMANDS = "/clear forgets the conversation · /system TEXT sets the system prompt · /exit leaves"
# What a model writes must not steer the terminal; newline and tab are welcome.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@click.command()
@click.option("--url", default="http://127.0.0.1:8000/v1", show_default=True, help="Base URL.")
@click.option("--model", help="Model name.  [default: the first that the server lists]")
@click.option(
    "--key-env",
    default="OPENAI_API_KEY",
    show_default=True,
    metavar="NAME",
    help="Environment variable that holds the API key.",
)
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
@click.option("--temperature", type=click.FloatRange(0, 2), default=0.6, show_default=True)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=300.0,
    show_default=True,
    help="Longest silence of the server, seconds.",
)
@click.option(
    "-i",
    "--interactive",
    is_flag=True,
    help="Converse line by line even when standard input is no terminal.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def chat(
    *,
    url: str,
    model: str | None,
    key_env: str,
    prompt: str | None,
    system: str | None,
    images: tuple[Path, ...],
    max_tokens: int | None,
    temperature: float,
    timeout: float,
    interactive: bool,
    as_json: bool,
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
    endpoint = Endpoint(normalise_url(url), os.environ.get(key_env) or None, key_env, timeout)
    one_shot = None if interactive else _question(prompt)
    if as_json and one_shot is None:
        raise Refused("`--json` answers one prompt", hint="give it with `-p`, or pipe text in")
    pictures = tuple(read_image(path) for path in images)
    name = model or _first_model(endpoint, quiet=as_json)
    talk = _Talk(endpoint, Settings(name, max_tokens, temperature), Conversation(system))
    if one_shot is None:
        _converse(talk, prompt, pictures)
    elif as_json:
        _answer_json(talk, one_shot, pictures)
    else:
        _closing_line(talk.turn(one_shot, pictures))


@dataclass
class _Talk:
    """A conversation on its way: asks, shows, remembers."""

    endpoint: Endpoint
    settings: Settings
    conversation: Conversation
    show: bool = True
    watch: Stopwatch = field(default_factory=Stopwatch)

    def turn(self, text: str, pictures: tuple[str, ...] = ()) -> Timing:
        """Ask and stream. Whatever was received stays in the conversation, however it ended."""
        asked = self.conversation.asked(text, pictures)
        self.watch = Stopwatch()
        screen = _Screen()
        try:
            return asyncio.run(self._ask(asked, screen))
        finally:
            if self.show:
                screen.close()
            # A question without an answer would break the templates that want them to alternate.
            if said := self.watch.timing().text:
                self.conversation = asked.answered(said)

    async def _ask(self, asked: Conversation, screen: "_Screen") -> Timing:
        show: Callable[[Delta], None] = screen.show if self.show else _ignore
        async with Client(self.endpoint) as client:
            return await answer(client, asked, self.settings, watch=self.watch, on_delta=show)


class _Screen:
    """Writes the pieces: reasoning dim to standard error, the answer to standard output."""

    def __init__(self) -> None:
        self._thinking = False
        self._line_open = False

    def show(self, delta: Delta) -> None:
        if delta.reasoning:
            if not self._thinking:
                click.secho("── thinking ──", err=True, dim=True)
                self._thinking = True
            click.secho(_safe(delta.reasoning, sys.stderr.isatty()), err=True, nl=False, dim=True)
        if delta.text:
            self._end_thinking()
            click.echo(_safe(delta.text, sys.stdout.isatty()), nl=False)
            self._line_open = not delta.text.endswith("\n")

    def close(self) -> None:
        """Leave both streams at the beginning of a line."""
        self._end_thinking()
        if self._line_open:
            click.echo()

    def _end_thinking(self) -> None:
        if self._thinking:
            click.secho("\n── end of thinking ──", err=True, dim=True)
            self._thinking = False


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


def _first_model(endpoint: Endpoint, *, quiet: bool) -> str:
    served = asyncio.run(_models(endpoint))
    if not served:
        raise Refused("the server lists no model", where=endpoint.url, hint="name it: `--model`")
    if len(served) > 1 and not quiet:
        click.echo(f"model {served[0]} (of {', '.join(served)})", err=True)
    return served[0]


async def _models(endpoint: Endpoint) -> list[str]:
    async with Client(endpoint) as client:
        return [model.name for model in await client.models()]


def _converse(talk: _Talk, first: str | None, pictures: tuple[str, ...]) -> None:
    """Question and answer until Ctrl-D or /exit. A failed answer ends the answer, not the talk."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (gives input() its line editing and history)
    click.echo(f"{talk.settings.model} at {talk.endpoint.url} · {_COMMANDS}", err=True)
    line = first
    while True:
        if line is None:
            line = _read_line()
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
        click.echo(f"stopped after {talk.watch.tokens} tokens; the conversation stays", err=True)
    except RequestFailed as error:
        click.echo(f"error: {error.what}", err=True)
        for proof in error.evidence:
            click.echo(f"  {proof}", err=True)
        if error.hint:
            click.echo(f"hint: {error.hint}", err=True)
    else:
        _closing_line(timing)
    return () if talk.watch.tokens else pictures


def _read_line() -> str | None:
    """The next question; None at the end of input."""
    # input() writes its prompt where the answers go, which is wrong when those go to a file.
    prompt = "> " if sys.stdout.isatty() else ""
    while True:
        try:
            return input(prompt)
        except EOFError:
            click.echo(err=True)
            return None
        except KeyboardInterrupt:
            click.echo("\nCtrl-D or /exit leaves", err=True)
        except UnicodeDecodeError:
            click.echo("that line is not UTF-8 text; please write it again", err=True)


def _command(talk: _Talk, line: str) -> bool:
    """Carry out a line that begins with `/`; whether it was one."""
    if not line.startswith("/"):
        return False
    verb, _, rest = line.partition(" ")
    if verb == "/clear":
        talk.conversation = talk.conversation.cleared()
        click.echo("cleared", err=True)
    elif verb == "/system":
        talk.conversation = talk.conversation.told(rest.strip())
        click.echo("system prompt set" if rest.strip() else "system prompt removed", err=True)
    elif "/" in verb[1:]:
        return False  # a path, not a command
    else:
        click.echo(f"no such command: {verb} · {_COMMANDS}", err=True)
    return True


def _answer_json(talk: _Talk, question: str, pictures: tuple[str, ...]) -> None:
    talk.show = False
    failed: RequestFailed | None = None
    try:
        timing = talk.turn(question, pictures)
    except RequestFailed as error:
        timing, failed = talk.watch.timing(), error
        if not timing.chunks:
            raise
    document = {
        "schema": _SCHEMA,
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
    click.echo(json.dumps(document, ensure_ascii=False, indent=2))
    if failed:
        click.get_current_context().exit(Exit.NO)


def _closing_line(timing: Timing) -> None:
    """`TTFT 0.21 s · 34.5 tokens/s · 120 tokens` on standard error."""
    parts = []
    if timing.ttft_s is not None:
        parts.append(f"TTFT {timing.ttft_s:.2f} s")
    if rate := decode_rate(timing):
        parts.append(f"{rate:.1f} tokens/s")
    parts.append(f"{timing.output_tokens} tokens" + ("" if timing.counted else " (by pieces)"))
    if timing.finish_reason == "length":
        parts.append("cut at the token limit")
    click.secho(" · ".join(parts), err=True, dim=True)


def _safe(text: str, terminal: bool) -> str:
    return _CONTROL.sub("", text) if terminal else text


def _ignore(_: Delta) -> None:
    """With `--json` nothing is shown until the end."""

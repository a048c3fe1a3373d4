"""`ropeway chat`: talk with a served model."""

import asyncio
import sys
from pathlib import Path

import click

from ropeway.cli.conversation import Talk
from ropeway.cli.endpoint import endpoint_options
from ropeway.cli.options import screen_options
from ropeway.endpoint.chat import Conversation, Settings, read_image
from ropeway.endpoint.client import Client, Endpoint, RequestFailed
from ropeway.errors import Refused
from ropeway.report.console import Screen


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
    type=click.FloatRange(0, 2),
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
    name = model or _first_model(endpoint, screen)
    talk = Talk(screen, endpoint, Settings(name, max_tokens, temperature), Conversation(system))
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
            "model": talk.settings.model,
            "answer": timing.text,
            "reasoning": timing.reasoning,
            "finish_reason": timing.finish_reason,
            "input_tokens": timing.input_tokens,
            "output_tokens": timing.output_tokens,
            "ttft_s": timing.ttft_s,
            "tokens_per_s": timing.decode_tokens_per_s,
            "e2e_s": timing.e2e_s,
            "error": failed.as_json() if failed else None,
        }
    )
    if failed:
        raise failed

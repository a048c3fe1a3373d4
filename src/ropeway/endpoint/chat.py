"""A conversation with a model: what was said, as plain data, and the next answer, streamed."""

import base64
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from ropeway.endpoint.client import Client, Message, Request
from ropeway.endpoint.stream import Delta, Stopwatch, Timing
from ropeway.errors import Refused

# The first bytes of each image format that vLLM's image loader (Pillow) reads.
_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
)


@dataclass(frozen=True)
class Settings:
    """What goes with every question. `max_tokens` None lets the server decide."""

    model: str
    max_tokens: int | None = None
    temperature: float | None = None


@dataclass(frozen=True)
class Conversation:
    """The history. Every method gives a new one; the old one stays as it was."""

    system: str | None = None
    turns: tuple[Message, ...] = ()

    def asked(self, text: str, images: tuple[str, ...] = ()) -> Self:
        """With a question added; `images` are data URLs."""
        content: str | list[dict[str, Any]] = text
        if images:
            pictures = [{"type": "image_url", "image_url": {"url": url}} for url in images]
            content = [*pictures, {"type": "text", "text": text}]
        return replace(self, turns=(*self.turns, {"role": "user", "content": content}))

    def answered(self, text: str) -> Self:
        """With the model's answer added. Its reasoning is left out, as chat templates expect."""
        return replace(self, turns=(*self.turns, {"role": "assistant", "content": text}))

    def cleared(self) -> Self:
        """Without its turns; the system prompt stays."""
        return replace(self, turns=())

    def told(self, system: str | None) -> Self:
        """With another system prompt, or with none."""
        return replace(self, system=system or None)

    @property
    def messages(self) -> tuple[Message, ...]:
        """As the endpoint wants them."""
        if self.system is None:
            return self.turns
        return ({"role": "system", "content": self.system}, *self.turns)


async def answer(
    client: Client,
    conversation: Conversation,
    settings: Settings,
    *,
    watch: Stopwatch,
    on_delta: Callable[[Delta], None],
) -> Timing:
    """Ask for the next answer; `on_delta` gets each piece as it comes.

    Raises RequestFailed. However it ends, `watch.timing()` holds what was received.
    """
    request = Request(
        model=settings.model,
        messages=conversation.messages,
        max_tokens=settings.max_tokens,
        temperature=settings.temperature,
    )
    return await client.ask(request, watch=watch, on_delta=on_delta)


def decode_rate(timing: Timing) -> float | None:
    """Tokens per second after the first one; None when there is no second token to time."""
    tpot = timing.tpot_s
    return 1 / tpot if tpot else None


def read_image(path: Path) -> str:
    """The image as a data URL, its type told by its first bytes. Raises Refused."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Refused(
            f"cannot read the image: {(error.strerror or str(error)).lower()}",
            where=str(path),
            hint="check the path given to `--image`",
        ) from error
    mime = image_type(data)
    if mime is None:
        raise Refused(
            "this file is no image that a model can read",
            where=str(path),
            evidence=(f"it begins with the bytes `{data[:8].hex(' ')}`",),
            hint="give a PNG, JPEG, GIF, WebP, BMP or TIFF file",
        )
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def image_type(data: bytes) -> str | None:
    """The MIME type by the first bytes, whatever the file is called."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((mime for magic, mime in _MAGIC if data.startswith(magic)), None)

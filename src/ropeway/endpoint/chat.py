"""A conversation with a model: its messages as plain data, and the next answer, streamed."""

import base64
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from ropeway.endpoint.request import Message
from ropeway.errors import Refused, reason_of
from ropeway.outside import read_bounded
from ropeway.phrases import phrase

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
_LARGEST_IMAGE = 64 * 2**20


@dataclass(frozen=True)
class Conversation:
    """The messages so far. Every method returns a new conversation; the old one stays as it was."""

    system: str | None = None
    turns: tuple[Message, ...] = ()

    def with_question(self, text: str, images: tuple[str, ...] = ()) -> Self:
        """Add a question; `images` are data URLs."""
        content: str | list[dict[str, Any]] = text
        if images:
            parts = [{"type": "image_url", "image_url": {"url": url}} for url in images]
            content = [*parts, {"type": "text", "text": text}]
        return replace(self, turns=(*self.turns, {"role": "user", "content": content}))

    def with_answer(self, text: str) -> Self:
        """Add the model's answer. Its reasoning is left out, as chat templates expect."""
        return replace(self, turns=(*self.turns, {"role": "assistant", "content": text}))

    def without_turns(self) -> Self:
        """Remove all turns; the system prompt stays."""
        return replace(self, turns=())

    def with_system(self, system: str | None) -> Self:
        """Replace the system prompt, or remove it."""
        return replace(self, system=system or None)

    @property
    def messages(self) -> tuple[Message, ...]:
        """The messages in the form of the API."""
        if self.system is None:
            return self.turns
        return ({"role": "system", "content": self.system}, *self.turns)


def read_image(path: Path) -> str:
    """Return the image as a data URL; its first bytes say of which type. Raises Refused."""
    try:
        data = read_bounded(path, _LARGEST_IMAGE)
    except (OSError, ValueError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else error.args[0]
        raise Refused(
            phrase("cannot read the image: {reason}", reason=reason),
            where=str(path),
            hint="check the path given to `--image`",
        ) from error
    mime = image_type(data)
    if mime is None:
        raise Refused(
            "this file is not an image that a model can read",
            where=str(path),
            evidence=(phrase("it begins with the bytes `{bytes}`", bytes=data[:8].hex(" ")),),
            hint="give a PNG, JPEG, GIF, WebP, BMP or TIFF file",
        )
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def image_type(data: bytes) -> str | None:
    """Return the MIME type by the first bytes, whatever the file is called."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((mime for magic, mime in _MAGIC if data.startswith(magic)), None)

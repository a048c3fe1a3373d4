"""What a request wants, as far as the router must know: read once, from its body."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ropeway.router.balance import BYTES_PER_TOKEN, Chain, chain

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


@dataclass(frozen=True)
class Ask:
    """A request.

    body           the parsed JSON, None when it is something else
    prompt_tokens  estimated from the text's length: a tokenizer would cost more than it tells
    most_tokens    the client's limit on the answer, None without
    beginning      the prompt as a chain of hashes, for the prefix caches
    """

    path: str
    body: Mapping[str, Any] | None
    prompt_tokens: int
    most_tokens: int | None
    beginning: Chain

    @property
    def marks_end(self) -> bool:
        """Whether a whole stream of it ends with `data: [DONE]`."""
        return self.path in (CHAT, TEXT)


def read(path: str, content: bytes) -> Ask:
    """Never fails: a body that cannot be read is the replica's to refuse."""
    try:
        body = json.loads(content) if content else None
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        return Ask(path, None, len(content) // BYTES_PER_TOKEN, None, ())
    prompt, tokens = _prompt(body)
    salt = f"{body.get('model')}\0{body.get('cache_salt')}".encode(errors="replace")
    return Ask(path, body, tokens, _most(body), chain(prompt, salt))


def _prompt(body: Mapping[str, Any]) -> tuple[bytes, int]:
    """The prompt as one text whose beginning is that of the tokens, and their estimated number."""
    # Tools and the system prompt of Anthropic's form stand before the messages in templates.
    head = [body[name] for name in ("tools", "system") if body.get(name)]
    rest = next((body[name] for name in ("messages", "prompt", "input") if body.get(name)), "")
    if isinstance(rest, list) and rest and isinstance(rest[0], int):
        return " ".join(map(str, rest)).encode(), len(rest)
    pieces = [*head, *rest] if isinstance(rest, list) else [*head, rest]
    text = "\0".join(map(_flat, pieces)).encode(errors="replace")
    return text, len(text) // BYTES_PER_TOKEN


def _flat(piece: Any) -> str:
    """A message, a tool or a text, as text that only grows at its end as a conversation does."""
    if isinstance(piece, str):
        return piece
    if not isinstance(piece, dict) or "content" not in piece:
        return json.dumps(piece, ensure_ascii=False)
    content = piece["content"]
    parts = content if isinstance(content, list) else [content]
    return "\0".join([str(piece.get("role")), *map(_part, parts)])


def _part(part: Any) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, dict) and isinstance(part.get("text"), str):
        return str(part["text"])
    # A picture's bytes are no measure of its tokens; that it is the same picture is all we need.
    return hashlib.blake2b(json.dumps(part).encode(), digest_size=16).hexdigest()


def _most(body: Mapping[str, Any]) -> int | None:
    for name in ("max_completion_tokens", "max_tokens", "max_output_tokens"):
        value = body.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None

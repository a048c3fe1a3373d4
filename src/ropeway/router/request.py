"""What the router has to know about a request, read once from its body."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ropeway.router.balance import BYTES_PER_TOKEN, Chain, chain

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


@dataclass(frozen=True)
class ParsedRequest:
    """A request.

    body           the parsed JSON; None when it is not a JSON object
    prompt_tokens  estimated from the text's length: a tokenizer would cost more than it is worth
    max_tokens     the client's limit on the answer; None without
    prefix         the prompt as a chain of hashes, for the prefix caches
    """

    path: str
    body: Mapping[str, Any] | None
    prompt_tokens: int
    max_tokens: int | None
    prefix: Chain

    @property
    def ends_with_done(self) -> bool:
        """Whether a complete stream of the answer ends with `data: [DONE]`."""
        return self.path in (CHAT, TEXT)


def parse_request(path: str, content: bytes) -> ParsedRequest:
    """Never raises: a body that cannot be read is for the replica to refuse."""
    try:
        body = json.loads(content) if content else None
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        return ParsedRequest(path, None, len(content) // BYTES_PER_TOKEN, None, ())
    prompt, tokens = _prompt(body)
    salt = f"{body.get('model')}\0{body.get('cache_salt')}".encode(errors="replace")
    return ParsedRequest(path, body, tokens, _most(body), chain(prompt, salt))


def _prompt(body: Mapping[str, Any]) -> tuple[bytes, int]:
    """Return the prompt as one text, in the order of its tokens, and their estimated number."""
    # Chat templates put tools and the system prompt of Anthropic's API before the messages.
    head = [body[name] for name in ("tools", "system") if body.get(name)]
    rest = next((body[name] for name in ("messages", "prompt", "input") if body.get(name)), "")
    if isinstance(rest, list) and rest and isinstance(rest[0], int):
        return " ".join(map(str, rest)).encode(), len(rest)
    pieces = [*head, *rest] if isinstance(rest, list) else [*head, rest]
    text = "\0".join(map(_flat, pieces)).encode(errors="replace")
    return text, len(text) // BYTES_PER_TOKEN


def _flat(piece: Any) -> str:
    """Return a message, a tool or a text as text that grows at its end, as a conversation does."""
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
    # The size of an image says nothing about its tokens; we only need to recognise the same image.
    return hashlib.blake2b(json.dumps(part).encode(), digest_size=16).hexdigest()


def _most(body: Mapping[str, Any]) -> int | None:
    for name in ("max_completion_tokens", "max_tokens", "max_output_tokens"):
        value = body.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None

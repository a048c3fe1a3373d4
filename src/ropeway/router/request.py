"""What the router has to know about a request, read once from its body.

The body reaches the replica as it came, so nothing has to be read: what is too large, or has too
many pieces, to be read in a moment is passed on unread, because everybody else waits meanwhile.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from ropeway.router.balance import BLOCK_BYTES, BYTES_PER_TOKEN, MAX_BLOCKS, Chain, chain

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"

# json.loads holds up all other requests: 1 to 4 ms for a megabyte of text, and up to 0.4 µs for a
# piece (keys of objects; list items take less). Measured in docs/router.md.
READ_BYTES = 8 * 2**20
READ_PIECES = 200_000
# Texts of a prompt that are looked at one by one: messages, parts of messages, tools.
_TEXTS = 10_000
# Of a list of token ids: more of them than the chain has room for.
_IDS = MAX_BLOCKS * BLOCK_BYTES // 2
# The prompt of a request that was not read: pictures and lists are fewer tokens than their bytes.
_UNREAD_TOKENS = 32 * 1024
_SLICE = 2**20


@dataclass(frozen=True)
class ParsedRequest:
    """A request.

    body           the parsed JSON; None when it is not a JSON object, or was not read
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
    def streamed(self) -> bool | None:
        """Whether a stream is asked for; None: it is not known."""
        wanted = None if self.body is None else self.body.get("stream") or False
        return wanted if isinstance(wanted, bool) else None

    @property
    def ends_with_done(self) -> bool:
        """Whether a complete stream of the answer ends with `data: [DONE]`."""
        return self.path in (CHAT, TEXT)


def parse_request(path: str, content: bytes | bytearray) -> ParsedRequest:
    """Return what the client wants.

    Never raises: a body that cannot be read is for the replica to refuse.
    """
    if content and readable(content):
        try:
            body = json.loads(content)
            if isinstance(body, dict):
                return _read(path, body, len(content))
        # Whatever is in it, such as brackets that are deeper than Python's stack.
        except (ValueError, RecursionError):
            pass
    tokens = min(len(content) // BYTES_PER_TOKEN, _UNREAD_TOKENS)
    return ParsedRequest(
        path, None, tokens, None, chain(bytes(content[: MAX_BLOCKS * BLOCK_BYTES]))
    )


def readable(content: bytes | bytearray) -> bool:
    """Return whether a body is read in a moment: by its size and its number of JSON's pieces."""
    if len(content) <= READ_PIECES:
        return True
    if len(content) > READ_BYTES:
        return False
    pieces = 0
    for at in range(0, len(content), _SLICE):
        part = content[at : at + _SLICE]
        pieces += len(part) - len(part.translate(None, b",:[{"))
        if pieces > READ_PIECES:
            return False
    return True


def _read(path: str, body: Mapping[str, Any], size: int) -> ParsedRequest:
    # Chat templates put tools and the system prompt of Anthropic's API before the messages.
    head = [body[name] for name in ("tools", "system") if body.get(name)]
    rest = next((body[name] for name in ("messages", "prompt", "input") if body.get(name)), "")
    salt = f"{body.get('model')}\0{body.get('cache_salt')}".encode(errors="replace")
    if isinstance(rest, list) and rest and isinstance(rest[0], int):
        text, tokens = json.dumps(rest[:_IDS])[:-1].encode(), len(rest)
    else:
        texts = _texts([*head, *rest] if isinstance(rest, list) else [*head, rest])
        text = "\0".join(islice(texts, _TEXTS)).encode(errors="replace")
        rest_is_read = next(texts, None) is None
        tokens = (len(text) if rest_is_read else size) // BYTES_PER_TOKEN
    return ParsedRequest(path, body, tokens, _most(body), chain(text, salt))


def _texts(pieces: Iterable[Any]) -> Iterator[str]:
    """Yield messages, tools and texts as texts, of which a conversation gets more at its end."""
    for piece in pieces:
        if isinstance(piece, str):
            yield piece
        elif not isinstance(piece, dict) or "content" not in piece:
            yield json.dumps(piece, ensure_ascii=False)
        else:
            content = piece["content"]
            yield str(piece.get("role"))
            yield from map(_part, content if isinstance(content, list) else [content])


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

"""One request of the API as plain data, and the bounds within which all of ours are sent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Message = Mapping[str, Any]

CONNECT_S = 10.0
# uvicorn, which vLLM serves with, drops idle connections after 5 s; a request sent just then would
# fail although nothing is wrong. We let go of them first.
KEEPALIVE_S = 2.0
# `/tokenize` lists the tokens of a prompt, in 8 bytes each.
LONGEST_DOCUMENT = 16 * 2**20


@dataclass(frozen=True)
class Request:
    """One chat completion. `max_tokens` and `temperature` None: the server decides."""

    model: str
    messages: Sequence[Message]
    max_tokens: int | None = None
    temperature: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """Return what is sent: the answer is to be streamed, with the server's counts."""
        body: dict[str, Any] = {
            "model": self.model,
            "stream": True,
            "stream_options": {"include_usage": True},
            "messages": list(self.messages),
        }
        if self.max_tokens is not None:
            body["max_tokens"] = self.max_tokens
        if self.temperature is not None:
            body["temperature"] = self.temperature
        return body | dict(self.extra)

"""How a broken stream continues elsewhere: what was generated becomes the end of the prompt.

For `/v1/completions` the text is appended to the prompt. For `/v1/chat/completions` it is a last
message of the assistant that vLLM leaves open: `continue_final_message` with
`add_generation_prompt` false (vLLM since 0.6.3, its pull request 8942; both set at once is refused
by `check_generation_prompt` in vllm/entrypoints/openai/chat_completion/protocol.py).

Blanks at the end of the text are left out of the prefix, and not sent again when they come back:
many chat templates strip them (transformers then strips too, `render_jinja_template`), and models
have rarely seen a prompt that ends in a blank.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ropeway.router import events
from ropeway.router.request import CHAT, TEXT, ParsedRequest
from ropeway.router.transcript import PartialAnswer, content, finish_of

# vLLM's own default of `max_tokens` (completion/protocol.py); for chats it is what the context has.
_TEXT_DEFAULT_TOKENS = 16

# Fields that mean the same for a prompt and its continuation. All others may depend on what was
# generated before (penalties count it, grammars are in the middle of it) or ask for something
# about it; an unknown field counts among them. They prevent a continuation unless they are unset.
_INDIFFERENT = frozenset((
    "model", "messages", "prompt", "stream", "stream_options", "user", "max_tokens",
    "max_completion_tokens", "min_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "stop",
    "stop_token_ids", "include_stop_str_in_output", "ignore_eos", "repetition_penalty",
    "logit_bias", "allowed_token_ids", "skip_special_tokens", "spaces_between_special_tokens",
    "add_special_tokens", "priority", "request_id", "session_id", "cache_salt", "chat_template",
    "chat_template_kwargs", "documents", "reasoning_effort", "add_generation_prompt",
    "continue_final_message", "metadata", "store", "service_tier", "parallel_tool_calls",
))  # fmt: skip
# Values of other fields with which they ask for nothing.
_NEUTRAL_VALUES: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "include_reasoning": (True,),
    "tool_choice": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "length_penalty": (1,),
    "top_logprobs": (0,),
}


class CannotResume(Exception):
    """The answer cannot be continued elsewhere; the text tells the client why."""


@dataclass(frozen=True)
class Resumption:
    """What remains to be done for a broken answer.

    body    the request for another replica; None when nothing is left to generate
    prefix  the part of the text that the new prompt ends with
    ending  without a body: the events that complete the answer
    """

    body: Mapping[str, Any] | None
    prefix: str = ""
    ending: bytes = b""


def prefix_of(answer: PartialAnswer) -> str:
    """Return the part of the text that the next replica is given."""
    return answer.text.rstrip()


def resumption(parsed: ParsedRequest, answer: PartialAnswer, tokens: int) -> Resumption:
    """Return what remains to be done; `tokens` is the length of the prefix. Raises CannotResume."""
    if parsed.body is None or not parsed.ends_with_done:
        raise CannotResume(f"answers of {parsed.path} cannot be continued")
    if answer.finish is not None:  # only the usage or `[DONE]` is missing
        return Resumption(None, ending=events.DONE)
    prefix = prefix_of(answer)
    if not prefix and answer.foreign is None:
        return Resumption(parsed.body)
    if why := hindrance(parsed.body) or answer.foreign:
        raise CannotResume(f"an answer with {why} cannot be continued")
    limits = _limits(parsed, tokens)
    if limits.get("max_tokens", 1) <= 0 or limits.get("max_completion_tokens", 1) <= 0:
        return Resumption(None, prefix, _cut_by_length(parsed, answer) + events.DONE)
    prompt = _chat(parsed.body, prefix) if parsed.path == CHAT else _text(parsed.body, prefix)
    return Resumption({**parsed.body, **limits, **prompt}, prefix)


def hindrance(body: Mapping[str, Any]) -> str | None:
    """Return the field of a request that prevents its answer from being continued, in backticks."""
    for name, value in body.items():
        if name in _INDIFFERENT or value is None or value in _NEUTRAL_VALUES.get(name, ()):
            continue
        if name in _NEUTRAL_VALUES or not (value is False or value in ("", [], {})):
            return f"`{name}`"
    return None


class Splice:
    """Makes another replica's chunks continue those of the first. One for each resumption."""

    def __init__(self, answer: PartialAnswer, prefix: str, tokens: int, replica: str) -> None:
        self._first = answer.first
        self._blanks = answer.text[len(prefix) :]
        self._tokens = tokens
        self._replica = replica
        self._announced = False

    def rewrite(self, whole_events: bytes) -> bytes:
        """Return whole events as the client gets them. Raises CannotResume."""
        return b"".join(map(self._event, events.each(whole_events)))

    def _event(self, event: bytes) -> bytes:
        chunk = events.payload(event)
        if chunk is None or "error" in chunk:
            return event
        chunk |= {key: self._first[key] for key in ("id", "created") if key in self._first}
        if isinstance(chunk.get("usage"), dict):
            chunk["usage"] = self._usage(chunk["usage"])
        choices = events.choices(chunk)
        if choices and not [choice for choice in choices if self._choice(choice)]:
            return b""
        if not self._announced:  # for people; clients ignore fields that they do not know
            chunk["ropeway"] = {"continued_on": self._replica}
            self._announced = True
        return events.encode(chunk)

    def _choice(self, choice: dict[str, Any]) -> bool:
        """Adapt a choice in place; return whether anything is left in it."""
        text, foreign = content(choice)
        if self._tokens and foreign:
            raise CannotResume(f"the other replica continued with {foreign}")
        left = self._without_blanks(text)
        if "delta" in choice:
            if isinstance(choice["delta"], dict):
                choice["delta"].pop("role", None)
                if text:
                    choice["delta"]["content"] = left
        else:
            choice["text"] = left
        return bool(left or foreign or finish_of(choice))

    def _without_blanks(self, text: str) -> str:
        """Return the text without the leading blanks that the client already has."""
        same = 0
        while same < min(len(text), len(self._blanks)) and text[same] == self._blanks[same]:
            same += 1
        self._blanks = self._blanks[same:] if same == len(text) else ""
        return text[same:]

    def _usage(self, usage: Mapping[str, Any]) -> dict[str, Any]:
        """Count the prefix as answer and not as prompt; the total is the same."""
        moved = {"prompt_tokens": -self._tokens, "completion_tokens": self._tokens}
        numbers = {
            key: usage[key] + by for key, by in moved.items() if isinstance(usage.get(key), int)
        }
        return {**usage, **numbers}


def _limits(parsed: ParsedRequest, tokens: int) -> dict[str, int]:
    """Return the limits on the answer's length, less what has been generated."""
    body = parsed.body or {}
    limits = {
        name: body[name] - tokens
        for name in ("max_tokens", "max_completion_tokens")
        if isinstance(body.get(name), int)
    }
    if parsed.path == TEXT and "max_tokens" not in limits:
        limits["max_tokens"] = _TEXT_DEFAULT_TOKENS - tokens
    if isinstance(body.get("min_tokens"), int):
        limits["min_tokens"] = max(0, body["min_tokens"] - tokens)
    return limits


def _chat(body: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    messages = list(body.get("messages") or ())
    if body.get("continue_final_message"):
        last = dict(messages.pop()) if messages else {}
        if not isinstance(last.get("content"), str):
            raise CannotResume("the message to continue is not plain text")
        messages.append({**last, "content": last["content"] + prefix})
    else:
        messages.append({"role": "assistant", "content": prefix})
    return {"messages": messages, "add_generation_prompt": False, "continue_final_message": True}


def _text(body: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise CannotResume("the answer to several prompts, or to tokens, cannot be continued")
    return {"prompt": prompt + prefix}


def _cut_by_length(parsed: ParsedRequest, answer: PartialAnswer) -> bytes:
    """Return the last chunk of an answer that had all its tokens when its replica died."""
    empty: dict[str, Any] = {"delta": {}} if parsed.path == CHAT else {"text": ""}
    choice = {"index": 0, **empty, "logprobs": None, "finish_reason": "length"}
    return events.encode({**answer.first, "choices": [choice]})

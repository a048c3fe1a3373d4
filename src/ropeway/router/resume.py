"""How a stream that broke goes on elsewhere: what was generated becomes the end of the prompt.

For `/v1/completions` the text is put behind the prompt. For `/v1/chat/completions` it is a last
message of the assistant that vLLM leaves open: `continue_final_message` with
`add_generation_prompt` false (vLLM since 0.6.3, its pull request 8942; both set at once is refused
by `check_generation_prompt` in vllm/entrypoints/openai/chat_completion/protocol.py).

Blanks at the end of the text are left out of the prefix and out of what comes back: many chat
templates strip them (transformers then strips too, `render_jinja_template`), and a prompt that ends
in a blank is one that models have rarely seen.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ropeway.router import events
from ropeway.router.ask import CHAT, TEXT, Ask
from ropeway.router.transcript import Said, content

# vLLM's own default of `max_tokens` (completion/protocol.py); for chats it is what the context has.
_TEXT_DEFAULT_TOKENS = 16

# Fields that mean the same for a prompt and its continuation. All others may depend on what was
# generated before (penalties count it, grammars are in the middle of it) or ask for something
# about it; a field that we do not know is one of them. They hinder unless they ask for nothing.
_INDIFFERENT = frozenset((
    "model", "messages", "prompt", "stream", "stream_options", "user", "max_tokens",
    "max_completion_tokens", "min_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "stop",
    "stop_token_ids", "include_stop_str_in_output", "ignore_eos", "repetition_penalty",
    "logit_bias", "allowed_token_ids", "skip_special_tokens", "spaces_between_special_tokens",
    "add_special_tokens", "priority", "request_id", "session_id", "cache_salt", "chat_template",
    "chat_template_kwargs", "documents", "reasoning_effort", "add_generation_prompt",
    "continue_final_message", "metadata", "store", "service_tier", "parallel_tool_calls",
))  # fmt: skip
_NOTHING: Mapping[str, tuple[Any, ...]] = {
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
    """The answer cannot go on elsewhere; the text says why, for the client."""


@dataclass(frozen=True)
class Resumption:
    """What is still to be done for a broken answer.

    body    the request for another replica; None when nothing is left to generate
    prefix  the part of the text that its prompt ends with
    ending  with no body: the events that complete the answer
    """

    body: Mapping[str, Any] | None
    prefix: str = ""
    ending: bytes = b""


def prefix_of(said: Said) -> str:
    """What of the text the next replica is given."""
    return said.text.rstrip()


def resumption(ask: Ask, said: Said, tokens: int) -> Resumption:
    """What is still to be done, when `tokens` is the length of the prefix.

    Raises CannotResume.
    """
    if ask.body is None or not ask.marks_end:
        raise CannotResume(f"answers of {ask.path} cannot be continued")
    if said.finish is not None:  # only the mark of the end is missing, or the usage
        return Resumption(None, ending=events.DONE)
    prefix = prefix_of(said)
    if not prefix and said.foreign is None:
        return Resumption(ask.body)
    if why := hindrance(ask.body) or said.foreign:
        raise CannotResume(f"an answer with `{why}` cannot be continued")
    limits = _limits(ask, tokens)
    if limits.get("max_tokens", 1) <= 0 or limits.get("max_completion_tokens", 1) <= 0:
        return Resumption(None, prefix, _cut_by_length(ask, said) + events.DONE)
    prompt = _chat(ask.body, prefix) if ask.path == CHAT else _text(ask.body, prefix)
    return Resumption({**ask.body, **limits, **prompt}, prefix)


def hindrance(body: Mapping[str, Any]) -> str | None:
    """The field of a request that keeps its answer from being continued."""
    for name, value in body.items():
        if name in _INDIFFERENT or value is None or value in _NOTHING.get(name, ()):
            continue
        if name in _NOTHING or not (value is False or value in ("", [], {})):
            return name
    return None


class Splice:
    """Makes the chunks of another replica go on where the first one's ended. One per resumption."""

    def __init__(self, said: Said, prefix: str, tokens: int, replica: str) -> None:
        self._first = said.first
        self._blanks = said.text[len(prefix) :]
        self._tokens = tokens
        self._replica = replica
        self._told = False

    def rewrite(self, whole_events: bytes) -> bytes:
        """Whole events as the client shall get them. Raises CannotResume."""
        return b"".join(map(self._event, events.each(whole_events)))

    def _event(self, event: bytes) -> bytes:
        chunk = events.payload(event)
        if chunk is None or "error" in chunk:
            return event
        chunk |= {key: self._first[key] for key in ("id", "created") if key in self._first}
        if isinstance(chunk.get("usage"), dict):
            chunk["usage"] = self._usage(chunk["usage"])
        choices = chunk.get("choices") or []
        if choices and not [choice for choice in choices if self._choice(choice)]:
            return b""
        if not self._told:  # for whoever looks; clients leave fields alone that they do not know
            chunk["ropeway"] = {"continued_on": self._replica}
            self._told = True
        return events.encode(chunk)

    def _choice(self, choice: dict[str, Any]) -> bool:
        """Mend a choice in place; whether there is anything in it."""
        text, foreign = content(choice)
        if self._tokens and foreign:
            raise CannotResume(f"the other replica went on with `{foreign}`")
        left = self._without_blanks(text)
        if "delta" in choice:
            delta = choice["delta"] or {}
            delta.pop("role", None)
            if text:
                delta["content"] = left
        else:
            choice["text"] = left
        return bool(left or foreign or choice.get("finish_reason"))

    def _without_blanks(self, text: str) -> str:
        """The text less the blanks that the client already has."""
        same = 0
        while same < min(len(text), len(self._blanks)) and text[same] == self._blanks[same]:
            same += 1
        self._blanks = self._blanks[same:] if same == len(text) else ""
        return text[same:]

    def _usage(self, usage: Mapping[str, Any]) -> dict[str, Any]:
        """The prefix was answer and not prompt; the total is the same."""
        moved = {"prompt_tokens": -self._tokens, "completion_tokens": self._tokens}
        numbers = {key: usage[key] + by for key, by in moved.items() if key in usage}
        return {**usage, **numbers}


def _limits(ask: Ask, tokens: int) -> dict[str, int]:
    """The limits on the answer's length, less what has been generated."""
    body = ask.body or {}
    found = {
        name: body[name] - tokens
        for name in ("max_tokens", "max_completion_tokens")
        if isinstance(body.get(name), int)
    }
    if ask.path == TEXT and "max_tokens" not in found:
        found["max_tokens"] = _TEXT_DEFAULT_TOKENS - tokens
    if isinstance(body.get("min_tokens"), int):
        found["min_tokens"] = max(0, body["min_tokens"] - tokens)
    return found


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


def _cut_by_length(ask: Ask, said: Said) -> bytes:
    """The last chunk of an answer that had all its tokens when its replica died."""
    empty: dict[str, Any] = {"delta": {}} if ask.path == CHAT else {"text": ""}
    choice = {"index": 0, **empty, "logprobs": None, "finish_reason": "length"}
    return events.encode({**said.first, "choices": [choice]})

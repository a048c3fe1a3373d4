"""Conversations as ShareGPT's data sets have them, and JSON arrays read one element at a time.

`{"conversations": [{"from": "human", "value": "…"}, {"from": "gpt", "value": "…"}, …]}`, in lines
or in an array, as the data sets are published.
"""

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from itertools import chain, pairwise
from typing import NamedTuple

import msgspec

from ropeway.batch.input.source import MOST_LINE
from ropeway.outside import whole_number
from ropeway.phrases import phrase

_ASKS, _ANSWERS = ("human", "user"), ("gpt", "assistant", "chatgpt", "bing", "bard")
_BETWEEN = re.compile(r"[\s,]*")
_SPACE = re.compile(r"\s*")
_scan = json.JSONDecoder(parse_int=whole_number).raw_decode


class _Turn(msgspec.Struct):
    by: str | None = msgspec.field(name="from", default=None)
    value: str | None = None


class _Conversation(msgspec.Struct):
    conversations: list[_Turn]


_read = msgspec.json.Decoder(_Conversation).decode


class Exchange(NamedTuple):
    """A question, and the answer that it got; both empty where a conversation has none."""

    question: str
    answer: str


def exchange_in(line: bytes) -> Exchange | None:
    """Return the first question and its answer of a conversation; None for what is no such."""
    if b'"conversations"' not in line:
        return None
    try:
        turns = _read(line).conversations
    except (msgspec.MsgspecError, RecursionError):
        return None
    for asked, told in pairwise(turns):
        if asked.by in _ASKS:
            good = told.by in _ANSWERS and asked.value and told.value
            return Exchange(asked.value or "", told.value or "") if good else Exchange("", "")
    return Exchange("", "")


def is_array(start: bytes) -> bool:
    """Say whether a file that begins so is a JSON array."""
    return start.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"[")


def elements(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the elements of a JSON array, with no more than one of them in memory.

    Raises ValueError, which says why, where it is none, or one is longer than a line may be.
    """
    decode = codecs.getincrementaldecoder("utf-8-sig")().decode
    text, begun, enough = "", False, 0
    for block in chain(blocks, [b""]):
        try:
            text += decode(block, not block)
        except UnicodeDecodeError:
            raise ValueError(phrase("the array is not UTF-8 text")) from None
        if block and len(text) < enough:
            continue
        place = 0
        if not begun:
            place = _past(_SPACE, text, 0)
            begun = text[place : place + 1] == "["
            place += 1
        while begun:
            place = _past(_BETWEEN, text, place)
            if text.startswith("]", place):
                return
            try:
                _, end = _scan(text, place)
            except (ValueError, RecursionError):
                break
            yield text[place:end].encode()
            place = end
        text = text[place:] if begun else text
        # What is not whole yet is tried again when there is twice as much.
        enough = 2 * len(text)
        if len(text) > MOST_LINE:
            break
    raise ValueError(phrase("the array is damaged, or not whole"))


def _past(pattern: re.Pattern[str], text: str, place: int) -> int:
    found = pattern.match(text, place)
    return found.end() if found else place

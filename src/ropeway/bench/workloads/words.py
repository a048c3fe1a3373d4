"""Prompts of random words, perhaps after a shared beginning, in conversations, with pictures."""

import functools
import itertools
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ropeway.bench.load_test import LoadTest
from ropeway.bench.prompts import Recipe, random_beginning, random_prompt
from ropeway.bench.workloads.pictures import picture_url
from ropeway.bench.workloads.talks import Conversation, OneQuestion, Question
from ropeway.endpoint.request import Message, Request

# Beginnings that are kept, of which each may have 100 kB.
_KEPT = 64


@dataclass(frozen=True)
class RandomPrompts:
    """Prompts of a recipe. The load's `seed` and `fresh` decide them all, `seed` when they come.

    warm_up  send those that are sent first, as fast as answers come
    """

    model: str
    load: LoadTest
    recipe: Recipe
    warm_up: bool = False

    def talks(self, index: int, count: int) -> Iterator[OneQuestion | Conversation]:
        """Yield the talks of the `index`-th of `count` processes."""
        load = self.load
        total = load.total(warm_up=self.warm_up)
        turns = 1 if self.warm_up else load.turns
        beginning = functools.lru_cache(_KEPT)(self._beginning)
        for number, due in itertools.islice(load.dues(warm_up=self.warm_up), index, None, count):
            first = number * turns
            left = turns if total is None else min(turns, total - first)
            questions = self._questions(first, left, beginning)
            if turns > 1:
                yield Conversation(self._ask, questions, left, due)
            else:
                content, most = next(questions)
                yield OneQuestion(self._ask([{"role": "user", "content": content}], most), due)

    def _ask(self, messages: Sequence[Message], most: int) -> bytes:
        return request_body(self.model, self.load, messages, most)

    def _questions(self, first: int, count: int, beginning: Any) -> Iterator[Question]:
        for turn in range(count):
            yield self._question(first + turn, turn, beginning)

    def _question(self, number: int, turn: int, beginning: Any) -> Question:
        """Return a question. A shared beginning and pictures belong to a conversation's first."""
        load = self.load
        lot = load.lot(warm_up=self.warm_up)
        shared = ""
        if load.prefixes and not turn:
            shared = beginning(random.Random(f"prefix {lot} {number}").randrange(load.prefixes))
        text = random_prompt(self.recipe, lot, number, load.input_range, shared)
        most = load.answer_tokens(f"{lot} {number}")
        if not load.images or turn:
            return text, most
        width, height = load.image_size
        urls = (picture_url(f"{lot} {number} {at}", width, height) for at in range(load.images))
        pictures = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        return [*pictures, {"type": "text", "text": text}], most

    def _beginning(self, number: int) -> str:
        lot = self.load.lot(warm_up=self.warm_up)
        return random_beginning(self.recipe, lot, number, self.load.prefix_tokens)


def request_body(model: str, load: LoadTest, messages: Sequence[Message], most: int) -> bytes:
    """Return a request for an answer of at most `most` tokens."""
    request = Request(
        model=model,
        messages=messages,
        max_tokens=most,
        temperature=load.temperature,
        extra={"ignore_eos": True} if load.ignore_eos else {},
    )
    return json.dumps(request.body()).encode()

"""What a load test sends: requests that are made where they are sent, one by one, from a seed."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass

from ropeway.bench.arrivals import arrivals
from ropeway.bench.load_test import LoadTest
from ropeway.bench.prompts import Recipe
from ropeway.endpoint.request import Request


@dataclass(slots=True)
class OneQuestion:
    """A talk of one question, in bytes that are sent as they are."""

    body: bytes
    due: float | None
    more: bool = False

    def question(self, answer: str) -> bytes:
        """Return the only question."""
        del answer
        return self.body


@dataclass(frozen=True)
class RandomPrompts:
    """Prompts of a recipe; `seed` decides them all, and their arrivals.

    warm_up  send those that are sent first, as fast as answers come
    """

    model: str
    load: LoadTest
    recipe: Recipe
    warm_up: bool = False

    def talks(self, index: int, count: int) -> Iterator[OneQuestion]:
        """Yield the talks of the `index`-th of `count` processes."""
        load = self.load
        if self.warm_up:
            prompts = load.warmup_prompts(self.recipe)
            due: Iterator[float | None] = itertools.repeat(None)
        else:
            prompts = load.counted_prompts(self.recipe)
            due = arrivals(load.rate, load.seed)
        every = zip(prompts, due, strict=False)
        for prompt, moment in itertools.islice(every, index, None, count):
            yield OneQuestion(request_body(self.model, load, prompt), moment)


def request_body(model: str, load: LoadTest, prompt: str) -> bytes:
    """Return the request of one prompt."""
    request = Request(
        model=model,
        messages=[{"role": "user", "content": prompt}],
        max_tokens=load.output_tokens,
        temperature=load.temperature,
        extra={"ignore_eos": True} if load.ignore_eos else {},
    )
    return json.dumps(request.body()).encode()

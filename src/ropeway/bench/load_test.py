"""The description of a load test, made from flags or from the spec's `workload`."""

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime

from ropeway import __version__
from ropeway.bench.arrivals import arrivals, parse_arrivals
from ropeway.bench.goals import Goals
from ropeway.bench.prompts import Recipe
from ropeway.errors import Refused
from ropeway.phrases import Phrase, joined, phrase
from ropeway.units import counted, format_seconds

NOT_STATED = "not stated"
MEASURED = "measured here"
MOST_TOKENS = 10_000_000
"""Of a prompt or an answer."""


@dataclass(frozen=True, kw_only=True)
class LoadTest:
    """What is sent to an endpoint, and how fast; the same for every layout of a comparison.

    input_tokens   of each prompt on average, chat template included; `prompts` says whether that is
                   exact. A shared beginning, earlier turns and pictures come on top
    output_tokens  the longest answer, on average
    clients        requests in flight at most
    requests       counted requests in all; 0: as many as begin within `duration_s`
    rate           requests per second; None: as fast as answers come, or as a trace says
    ignore_eos     make every answer as long as it may be (understood by vLLM and its relatives)
    warmup         requests sent first, with prompts of their own, and not counted
    time_limit_s   stop after this many seconds, warm-up not included
    prompts        what the prompts are, for people
    fresh          of several measurements with the same seed each has another number here, and so
                   other prompts: the engine's prefix cache knows those of the ones before. Rows of
                   the user's own files are taken in turn, as many for each number as one sends
    input_range, output_range
                   the least and the most tokens, of which each is as likely; None: all the same.
                   With `files`: of the answers to rows that have no limit of their own
    prefixes       shared beginnings, of which each prompt has one; 0: none is shared
    prefix_tokens  of each of them
    turns          questions of a conversation, which is sent whole with each of them; requests are
                   questions
    images         pictures in each prompt, in a conversation in the first; `image_size`: pixels
    files          of the user's own prompts, and the SHA-256 of each
    template, settings
                   how their columns become requests (`ropeway batch`)
    arrivals       how requests arrive at a rate, or `trace:FILE`
    duration_s     no request begins later than this many seconds after the start
    goals          that each request is to meet; None: there are none
    """

    input_tokens: int
    output_tokens: int
    clients: int
    requests: int
    seed: int = 0
    temperature: float = 0.0
    rate: float | None = None
    ignore_eos: bool = True
    warmup: int = 4
    time_limit_s: float | None = None
    prompts: str = "random words, no shared beginning"
    fresh: int = 0
    input_range: tuple[int, int] | None = None
    output_range: tuple[int, int] | None = None
    prefixes: int = 0
    prefix_tokens: int = 0
    turns: int = 1
    images: int = 0
    image_size: tuple[int, int] = (640, 480)
    files: tuple[str, ...] = ()
    files_sha256: tuple[str, ...] = ()
    template: str | None = None
    settings: tuple[str, ...] = ()
    arrivals: str = "poisson"
    duration_s: float | None = None
    goals: Goals | None = None

    @property
    def is_open(self) -> bool:
        """Whether requests are due at moments of their own, whatever answers come."""
        return self.rate is not None or parse_arrivals(self.arrivals).kind == "trace"

    @property
    def amount(self) -> Phrase:
        """How much is sent, for people: `8 requests`, `requests for 60.0 s`."""
        if self.duration_s is None:
            return counted(self.requests, "request")
        return phrase("requests for {duration}", duration=format_seconds(self.duration_s))

    @property
    def longest_input(self) -> int:
        """The most tokens of a prompt, without what comes on top."""
        return self.input_range[1] if self.input_range else self.input_tokens

    @property
    def is_plain(self) -> bool:
        """Whether prompts are text of which nothing was sent before, at a rate that is known."""
        follows_trace = self.is_open and self.rate is None
        return not (self.prefixes or self.images or self.turns > 1 or follows_trace)

    def with_recipe(self, recipe: Recipe, measurements: int | None = None) -> "LoadTest":
        """Return this test with the length that prompts of the recipe really have.

        measurements  that go through the files one after another, of which it says how often rows
                      are sent; by default this one and all that `fresh` counts before it
        """
        if recipe.own is not None:
            own, count = recipe.own, measurements or self.fresh + 1
            return replace(
                self,
                input_tokens=own.input_tokens,
                output_tokens=own.output_tokens,
                output_range=self.output_range or (self.output_tokens, self.output_tokens),
                files=own.files,
                files_sha256=own.digests,
                prompts=own.told(self.warmup + self.requests if self.requests else None, count),
            )
        tokens = recipe.tokens
        if self.input_range is not None:
            least, most = self.input_range
            tokens = round(_mean(least, most, recipe.overhead + 1))
        return replace(self, input_tokens=tokens, prompts=self._told(recipe))

    def lot(self, *, warm_up: bool = False) -> str:
        """Return the name by which chance makes these prompts and no others.

        No test of any seed counts a prompt of a warm-up: the engine's prefix cache would know it.
        """
        name = f"{self.seed} {self.fresh}" if self.fresh else str(self.seed)
        return f"{name} warm-up" if warm_up else name

    def total(self, *, warm_up: bool = False) -> int | None:
        """Return how many requests are sent; None: as many as begin in time."""
        if warm_up:
            return self.warmup
        return None if self.duration_s is not None else self.requests

    def dues(self, *, warm_up: bool = False) -> Iterator[tuple[int, float | None]]:
        """Yield the number of each talk and when it is due, in seconds from the start.

        Conversations come so much more rarely that their questions have the rate.
        """
        total = self.total(warm_up=warm_up)
        if warm_up:
            return zip(range(self.warmup), itertools.repeat(None), strict=False)
        rate = self.rate / self.turns if self.rate is not None else None
        due = arrivals(rate, self.lot(), self.arrivals)
        numbers = itertools.count() if total is None else range(-(-total // self.turns))
        return zip(numbers, due, strict=False)

    def answer_tokens(self, name: str) -> int:
        """Return the most tokens of the answer to the request of this name."""
        if self.output_range is None:
            return self.output_tokens
        return random.Random(f"answer {name}").randint(*self.output_range)

    def check_fits(self, model: str, context: int | None) -> None:
        """Raise Refused when a request would be longer than the context that is served.

        context  in tokens; None: the server does not say
        """
        answer = self.output_range[1] if self.output_range else self.output_tokens
        prompt = self.prefix_tokens + self.longest_input
        prompt += (self.turns - 1) * (self.longest_input + answer)
        if context is not None and not self.files and prompt + answer > context:
            raise Refused(
                phrase(
                    "{input_tokens:,} input and {output_tokens:,} output tokens make {length:,}; "
                    "`{model}` is served with a context of {context:,}",
                    input_tokens=prompt,
                    output_tokens=answer,
                    length=prompt + answer,
                    model=model,
                    context=context,
                ),
                hint="lower `--input-tokens` or `--output-tokens`, or serve with a longer context",
            )

    def _told(self, recipe: Recipe) -> Phrase:
        """Return what the prompts are, for people."""
        words = str(recipe.tokens)
        if self.input_range is not None:
            least, most = (max(recipe.overhead + 1, length) for length in self.input_range)
            words = phrase("{least} to {most}", least=least, most=most)
        exact = recipe.exact and self.turns == 1
        if self.prefixes:
            what = phrase(
                "random words, exactly {n} tokens after one of {count:,} beginnings of"
                " {tokens:,} tokens"
                if exact
                else "random words, about {n} tokens after one of {count:,} beginnings of"
                " {tokens:,} tokens",
                n=words,
                count=self.prefixes,
                tokens=self.prefix_tokens,
            )
        else:
            what = phrase(
                "random words, exactly {n} tokens, no shared beginning"
                if exact
                else "random words, about {n} tokens, no shared beginning",
                n=words,
            )
        parts = [what]
        if self.turns > 1:
            parts.append(phrase("conversations of {turns:,} questions", turns=self.turns))
        if self.images:
            width, height = self.image_size
            parts.append(
                phrase(
                    "{pictures} of {width}×{height} on top",
                    pictures=counted(self.images, "picture"),
                    width=width,
                    height=height,
                )
            )
        return joined(parts)


def going_on(load: LoadTest, before: Sequence[LoadTest]) -> LoadTest:
    """Return a load that goes on in its files where those before have ended.

    Loads that are not of these files, in the order of this seed, do not count. Where nobody knows
    how many requests a load sends, it begins with another order of all rows.
    """
    same = [one for one in before if (one.files, one.seed) == (load.files, load.seed)]
    if not load.files or not same:
        return load
    if not load.requests:
        return replace(load, fresh=max(load.fresh, *(one.fresh + 1 for one in same)))
    sent = max((one.fresh + 1) * (one.warmup + one.requests) for one in same)
    return replace(load, fresh=-(-sent // (load.warmup + load.requests)))


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """A load test, where and when it was run: without them its figures mean nothing.

    started_at  ISO 8601 with its offset
    ropeway     the version that measured
    label       how the figures came about, as the reports name it
    """

    load: LoadTest
    url: str
    model: str
    layout: str = NOT_STATED
    engine: str = NOT_STATED
    hardware: str = NOT_STATED
    started_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    ropeway: str = __version__
    label: str = MEASURED

    def as_json(self) -> Mapping[str, object]:
        """Return plain data, the load test as `load`."""
        return asdict(self, dict_factory=_plain)


def parse_range(text: str) -> tuple[int, int]:
    """Read `128` or `64-512` as the least and the most. Raises ValueError, which says why."""
    least, dash, most = text.partition("-")
    if not (least.isdecimal() and (most.isdecimal() or not dash)):
        raise ValueError(f"`{text}` is not a number of tokens like 128, or two like 64-512")
    low, high = int(least), int(most or least)
    if not 1 <= low <= high <= MOST_TOKENS:
        raise ValueError(f"`{text}` is not from 1 to {MOST_TOKENS:,} tokens, the smaller one first")
    return low, high


def _mean(least: int, most: int, shortest: int) -> float:
    """Return the mean of all lengths from the least to the most, those below `shortest` as that."""
    if most <= shortest:
        return shortest
    raised = max(0, shortest - least)
    rest = most - least + 1 - raised
    return (raised * shortest + rest * (max(least, shortest) + most) / 2) / (raised + rest)


def _plain(items: list[tuple[str, object]]) -> dict[str, object]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in items}

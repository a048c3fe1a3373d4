"""Run a load test: other processes send it, and this one keeps what they measure."""

import asyncio
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from ropeway.bench.load_test import LoadTest
from ropeway.bench.observers import Observer
from ropeway.bench.prompts import WORDS, Recipe, find_recipe
from ropeway.bench.sending.crew import Crew
from ropeway.bench.sending.worker import Look, Share, Task
from ropeway.bench.workloads.choose import workload_of
from ropeway.bench.workloads.reading import read_prompts
from ropeway.endpoint.address import Endpoint
from ropeway.endpoint.client import Client, ServedModel, served_model
from ropeway.endpoint.request import Request
from ropeway.errors import Refused, RopewayError
from ropeway.phrases import joined, phrase
from ropeway.units import format_seconds

Ended = Literal["complete", "interrupted", "time limit", "server away", "not recorded"]

_ANY = Recipe(1, 1, WORDS, WORDS, exact=False)
_HELLO = ({"role": "user", "content": "Hello"},)
# Looks that the rate of tokens is taken over: five seconds.
_RECENT = 10


@dataclass(frozen=True)
class Progress:
    """Progress of a run. `tokens_per_s` is over the last few seconds; `left_s` None: unknown.

    total  requests in all; 0: as many as begin in time
    """

    done: int
    total: int
    errors: int
    in_flight: int
    output_tokens: int
    tokens_per_s: float
    left_s: float | None

    def __str__(self) -> str:
        """`12/512 done · 1 failed · 256 in flight · 1,024 tokens/s · 40.0 s left`."""
        parts = [
            phrase("{done:,}/{total:,} done", done=self.done, total=self.total)
            if self.total
            else phrase("{n:,} done", n=self.done)
        ]
        if self.errors:
            parts.append(phrase("{n:,} failed", n=self.errors))
        parts.append(phrase("{requests:,} in flight", requests=self.in_flight))
        parts.append(phrase("{n:,.0f} tokens/s", n=self.tokens_per_s))
        if self.left_s is not None:
            parts.append(phrase("{time} left", time=format_seconds(self.left_s)))
        return joined(parts, " · ")


@dataclass(frozen=True)
class BenchResult:
    """How a run ended. What was measured is where `keep` has put it.

    errors   requests that failed
    shares   what each process says of itself
    failure  why the record could not be kept, or a process not go on, which ended the run
    """

    ended: Ended
    errors: int
    shares: tuple[Share, ...]
    failure: RopewayError | None = None


def run_bench(
    target: Endpoint,
    model: str,
    load: LoadTest,
    recipe: Recipe,
    keep: Callable[[bytes], None],
    *,
    on_progress: Callable[[Progress], None] | None = None,
    stopped: Callable[[], bool] = lambda: False,
    processes: int = 1,
    observers: Sequence[Observer] = (),
) -> BenchResult:
    """Warm up, and send every prompt.

    `keep` gets lines of the record as requests end; a RopewayError of it ends the run.
    `on_progress` is called twice a second and once at the end. `stopped` is asked four times a
    second whether to end early and keep what was measured. A failed request is a line with an
    error, and the run goes on; but when every request of the warm-up fails, the first
    RequestFailed is raised, and so is what ends a process before anything was measured. `observers`
    look at the server meanwhile.
    """
    task = Task(
        endpoint=target,
        workload=workload_of(model, load, recipe),
        warm_up=workload_of(model, load, recipe, warm_up=True),
        clients=min(load.clients, load.requests or load.clients),
        limit_s=load.time_limit_s,
        duration_s=load.duration_s,
    )
    with Crew(task, processes, observers) as crew:
        meter, keeper = _Meter(load, crew), _Keeper(keep, crew)

        def look(now: Look) -> None:
            if on_progress is not None:
                on_progress(meter.progress(now))

        try:
            shares = crew.run(keeper.keep, look, stopped)
        finally:
            for observer in observers:
                observer.end()
        errors = crew.look.errors
        if crew.began:
            look(crew.look)
    if crew.failure is not None and not keeper.any:
        raise crew.failure
    if (failure := keeper.failure or crew.failure) is not None:
        return BenchResult("not recorded", errors, shares, failure)
    early = [share.ended for share in shares if share.ended != "complete"]
    return BenchResult(early[0] if early else "complete", errors, shares)


async def prepare(
    target: Endpoint,
    model: str | None,
    load: LoadTest,
    *,
    answers: bool = False,
    recipe: Recipe | None = None,
) -> tuple[ServedModel, Recipe]:
    """Return the model, and the recipe for prompts of the load's length, or its files' prompts.

    They are counted by the target's own tokenizer if it has one, unless the `recipe` is known.
    Unless it `answers`, as is known, it is asked one question, since who cannot answer that says
    best why. Raises Refused when a request would be longer than the context that is served, or a
    file has a row that cannot be sent; RequestFailed when nothing is served.
    """
    served = await served_model(target, model)
    load.check_fits(served.name, served.context)
    async with Client(target) as client:
        own = None
        if load.files and recipe is None:  # what cannot be sent is found before anything is
            own = await read_prompts(load, served, partial(client.count_text, served.name))
        if not answers:
            await client.ask(Request(served.name, _HELLO, max_tokens=1))
        if recipe is not None:
            return served, recipe
        if own is not None:
            return served, replace(_ANY, own=own)

        async def count(text: str) -> int | None:
            return await client.count_tokens(served.name, [{"role": "user", "content": text}])

        return served, await find_recipe(load.longest_input, count)


def check_sendable(load: LoadTest, model: ServedModel) -> tuple[str, ...]:
    """Return the SHA-256 of each file of the load. Nothing needs to be served yet.

    model  as it will be served. Raises Refused as `prepare` does, and for prompts from a pipe,
           which could not be read again.
    """
    load.check_fits(model.name, model.context)
    if not load.files:
        return ()
    for name in load.files:
        if Path(name).is_fifo():
            raise Refused(
                phrase("these prompts are read more than once, and a pipe can be read only once"),
                where=name,
                hint=phrase("write them into a file: `--prompts FILE`"),
            )

    async def unknown(_text: str) -> None:
        return None

    return asyncio.run(read_prompts(load, model, unknown)).digests


@contextmanager
def stopped_by_interrupt() -> Iterator[Callable[[], bool]]:
    """Yield whether Ctrl-C was pressed during the block; a second one acts as usual."""
    pressed = False
    before = signal.getsignal(signal.SIGINT)

    def note(*_: object) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, before)

    try:
        signal.signal(signal.SIGINT, note)
    except ValueError:  # not the main thread
        yield lambda: False
        return
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)


class _Keeper:
    """Keeps lines of the record until that fails, which ends the run. `any`: whether it kept some.

    failure  why it failed
    """

    def __init__(self, keep: Callable[[bytes], None], crew: Crew) -> None:
        self._keep, self._crew = keep, crew
        self.any = False
        self.failure: RopewayError | None = None

    def keep(self, lines: bytes) -> None:
        """Keep these lines, if all before could be kept."""
        if self.failure is not None:
            return
        try:
            self._keep(lines)
            self.any = True
        except RopewayError as error:
            self.failure = error
            self._crew.halt()


class _Meter:
    """Makes progress of looks: rates over the last few seconds, and the time left."""

    def __init__(self, load: LoadTest, crew: Crew) -> None:
        self._load, self._crew = load, crew
        self._recent: deque[tuple[float, int]] = deque(maxlen=_RECENT)

    def progress(self, look: Look) -> Progress:
        """Return the state now, and remember it for the next rate."""
        now, began = time.monotonic(), self._crew.began
        self._recent.append((now, look.tokens))
        since, tokens = self._recent[0] if len(self._recent) > 1 else (began, 0)
        return Progress(
            done=look.done,
            total=self._load.requests,
            errors=look.errors,
            in_flight=look.in_flight,
            output_tokens=look.tokens,
            tokens_per_s=(look.tokens - tokens) / (now - since) if now > since else 0.0,
            left_s=self._left(look, now - began),
        )

    def _left(self, look: Look, elapsed: float) -> float | None:
        """Estimate the seconds left, from tokens: they come before the first request is done."""
        load = self._load
        limits = [limit for limit in (load.time_limit_s, load.duration_s) if limit is not None]
        until_limit = max(0.0, min(limits) - elapsed) if limits else None
        if not look.tokens or elapsed <= 0 or not load.requests:
            return until_limit
        requests = load.requests - look.errors
        expected = max(requests * load.output_tokens, look.tokens)
        left = (expected - look.tokens) * elapsed / look.tokens
        return left if until_limit is None else min(left, until_limit)

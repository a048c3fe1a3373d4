"""Run a load test: other processes send it, and this one keeps what they measure."""

import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from ropeway.bench.load_test import LoadTest
from ropeway.bench.prompts import Recipe, find_recipe
from ropeway.bench.sending.crew import Crew
from ropeway.bench.sending.worker import Look, Share, Task
from ropeway.bench.workload import RandomPrompts
from ropeway.endpoint.address import Endpoint
from ropeway.endpoint.client import Client, ServedModel, served_model
from ropeway.endpoint.request import Request
from ropeway.errors import RopewayError
from ropeway.units import format_seconds

Ended = Literal["complete", "interrupted", "time limit", "not recorded"]

_HELLO = ({"role": "user", "content": "Hello"},)
# Looks that the rate of tokens is taken over: five seconds.
_RECENT = 10


@dataclass(frozen=True)
class Progress:
    """Progress of a run. `tokens_per_s` is over the last few seconds; `left_s` None: unknown."""

    done: int
    total: int
    errors: int
    in_flight: int
    output_tokens: int
    tokens_per_s: float
    left_s: float | None

    def __str__(self) -> str:
        """`12/512 done · 1 failed · 256 in flight · 1,024 tokens/s · 40.0 s left`."""
        parts = [f"{self.done:,}/{self.total:,} done"]
        if self.errors:
            parts.append(f"{self.errors:,} failed")
        parts += [f"{self.in_flight:,} in flight", f"{self.tokens_per_s:,.0f} tokens/s"]
        if self.left_s is not None:
            parts.append(f"{format_seconds(self.left_s)} left")
        return " · ".join(parts)


@dataclass(frozen=True)
class BenchResult:
    """How a run ended. What was measured is where `keep` has put it.

    errors   requests that failed
    shares   what each process says of itself
    failure  why the record could not be kept, which ended the run
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
) -> BenchResult:
    """Warm up, and send every prompt.

    `keep` gets lines of the record as requests end; a RopewayError of it ends the run.
    `on_progress` is called twice a second and once at the end. `stopped` is asked four times a
    second whether to end early and keep what was measured. A failed request is a line with an
    error, and the run goes on; but when every request of the warm-up fails, the first
    RequestFailed is raised, and so is one without which nothing can begin.
    """
    task = Task(
        endpoint=target,
        workload=RandomPrompts(model, load, recipe),
        warm_up=RandomPrompts(model, load, recipe, warm_up=True),
        clients=min(load.clients, load.requests),
        limit_s=load.time_limit_s,
    )
    failure: RopewayError | None = None
    with Crew(task, processes) as crew:
        meter = _Meter(load, crew)

        def look(now: Look) -> None:
            if on_progress is not None:
                on_progress(meter.progress(now))

        def keep_or_end(lines: bytes) -> None:
            nonlocal failure
            if failure is None:
                try:
                    keep(lines)
                except RopewayError as error:
                    failure = error
                    crew.halt()

        shares = crew.run(keep_or_end, look, stopped)
        errors = crew.look.errors
        if crew.began:
            look(crew.look)
    if failure is not None:
        return BenchResult("not recorded", errors, shares, failure)
    early = [share.ended for share in shares if share.ended != "complete"]
    return BenchResult(early[0] if early else "complete", errors, shares)


async def prepare(
    target: Endpoint, model: str | None, load: LoadTest, *, answers: bool = False
) -> tuple[ServedModel, Recipe]:
    """Return the model, and the recipe for prompts of the load's length.

    They are counted by the target's own tokenizer if it has one. Unless it `answers`, as is known,
    it is asked one question, since who cannot answer that says best why. Raises Refused when a
    request would be longer than the context that is served, RequestFailed when nothing is.
    """
    served = await served_model(target, model)
    load.check_fits(served.name, served.context)
    async with Client(target) as client:
        if not answers:
            await client.ask(Request(served.name, _HELLO, max_tokens=1))

        async def count(text: str) -> int | None:
            return await client.count_tokens(served.name, [{"role": "user", "content": text}])

        return served, await find_recipe(load.input_tokens, count)


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
        limit = self._load.time_limit_s
        until_limit = max(0.0, limit - elapsed) if limit is not None else None
        if not look.tokens or elapsed <= 0:
            return until_limit
        requests = self._load.requests - look.errors
        expected = max(requests * self._load.output_tokens, look.tokens)
        left = (expected - look.tokens) * elapsed / look.tokens
        return left if until_limit is None else min(left, until_limit)

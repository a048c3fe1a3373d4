"""Run a load test: each client sends its next request when its last one is done."""

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ropeway.bench.arrivals import arrivals
from ropeway.bench.load_test import LoadTest
from ropeway.bench.prompts import Recipe, find_recipe
from ropeway.bench.stats import UNFINISHED, span
from ropeway.endpoint.address import Endpoint
from ropeway.endpoint.client import Client, Request, ServedModel, served_model
from ropeway.endpoint.failures import RequestFailed
from ropeway.endpoint.stream import Clock, Delta, Failure, Stopwatch, Timing
from ropeway.errors import RopewayError
from ropeway.spec.secret_values import text_without
from ropeway.units import format_seconds

Ended = Literal["complete", "interrupted", "time limit", "not recorded"]

# A request that starts this long after it was due was held up by busy clients, not by scheduling.
_LATE_S = 0.05


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
    """What was measured: timings without their texts and chunks, in the order they ended.

    late   requests of an open loop that were due and had to wait for a free client: when there are
           many, the intended rate was not reached and the latencies flatter the server
    failure  why a timing could not be kept, which ended the run
    """

    timings: tuple[Timing, ...]
    duration_s: float
    ended: Ended
    late: int
    failure: RopewayError | None = None


async def run_bench(
    target: Endpoint,
    model: str,
    load: LoadTest,
    recipe: Recipe,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    on_timing: Callable[[Timing], None] | None = None,
    stop: asyncio.Event | None = None,
    clock: Clock = time.monotonic,
) -> BenchResult:
    """Warm up, send every prompt, and return the timings.

    `on_progress` is called twice a second and once at the end; `on_timing` gets each full timing
    (texts and chunks included) as its request ends, to be written at once. Set `stop` to end
    early and keep what was measured; a RopewayError of `on_timing` ends it as well. A failed
    request is a timing with an error, and the run goes on; but when every request of the warm-up
    fails, the first RequestFailed is raised.
    """
    stop = stop or asyncio.Event()
    async with Client(target, clock) as client:
        if await _warm_up(client, model, load, recipe, stop) != "complete":
            return BenchResult((), 0.0, "interrupted", 0)
        run = _Run(client, model, load, load.counted_prompts(recipe), on_timing)
        ticker = asyncio.create_task(_tick(run, on_progress)) if on_progress else None
        failure = None
        try:
            clients = min(load.clients, load.requests)
            ended = await _until_done(run.work, clients, stop, load.time_limit_s)
        except RopewayError as error:
            ended, failure = "not recorded", error
        finally:
            if ticker is not None:
                ticker.cancel()
        if on_progress is not None:
            on_progress(run.progress())
    timings = tuple(run.timings)
    return BenchResult(timings, span(timings), ended, run.late, failure)


async def prepare(
    target: Endpoint, model: str | None, load: LoadTest
) -> tuple[ServedModel, Recipe]:
    """Return the model, and the recipe for prompts of the load's length.

    They are counted by the target's own tokenizer if it has one. Raises Refused when a request
    would be longer than the context that is served.
    """
    served = await served_model(target, model)
    load.check_fits(served.name, served.context)
    async with Client(target) as client:

        async def count(text: str) -> int | None:
            return await client.count_tokens(served.name, [{"role": "user", "content": text}])

        return served, await find_recipe(load.input_tokens, count)


@contextlib.contextmanager
def stopped_by_interrupt(*others: signal.Signals) -> Iterator[asyncio.Event]:
    """Yield an event for a run that the first Ctrl-C sets, or one of the other signals; a second
    one acts as usual."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    signals = (signal.SIGINT, *others)

    def leave() -> None:
        for number in signals:
            loop.remove_signal_handler(number)

    def halt() -> None:
        stop.set()
        leave()

    try:
        for number in signals:
            loop.add_signal_handler(number, halt)
    except (NotImplementedError, RuntimeError, ValueError):  # not the main thread, or not Unix
        yield stop
        return
    try:
        yield stop
    finally:
        leave()


@dataclass
class _Run:
    """A measurement under way: the clients draw from one queue of prompts until it is empty."""

    client: Client
    model: str
    load: LoadTest
    prompts: Iterator[str]
    on_timing: Callable[[Timing], None] | None
    timings: list[Timing] = field(default_factory=list)
    late: int = 0
    _tokens: int = 0
    _in_flight: int = 0
    _errors: int = 0

    def __post_init__(self) -> None:
        self._clock = self.client.clock
        self._start = self._clock()
        self._recent = [(self._start, 0)]
        self._due = zip(self.prompts, arrivals(self.load.rate, self.load.seed), strict=False)

    async def work(self) -> None:
        """Act as one client: take the next prompt, wait until it is due, follow its answer."""
        for prompt, due in self._due:
            wait = self._start + due - self._clock()
            if wait > 0:
                await asyncio.sleep(wait)
            elif self.load.rate is not None and -wait > _LATE_S:
                self.late += 1
            await self._send(prompt)

    def progress(self) -> Progress:
        """Return the state now, and remember it for the rate over the last few seconds."""
        now = self._clock()
        self._recent = [*self._recent[-9:], (now, self._tokens)]
        since, tokens = self._recent[0]
        return Progress(
            done=len(self.timings),
            total=self.load.requests,
            errors=self._errors,
            in_flight=self._in_flight,
            output_tokens=self._tokens,
            tokens_per_s=(self._tokens - tokens) / (now - since) if now > since else 0.0,
            left_s=self._left(now - self._start),
        )

    async def _send(self, prompt: str) -> None:
        watch = Stopwatch(self._clock)
        self._in_flight += 1
        try:
            request = _request(self.model, self.load, prompt)
            timing = await self.client.ask(request, watch=watch, on_delta=self._count)
        except RequestFailed as error:
            evidence = f" ({error.evidence[0]})" if error.evidence else ""
            words = text_without(error.what + evidence, self.client.endpoint.key)
            timing = watch.timing(Failure(error.kind, words))
            self._errors += 1
        except asyncio.CancelledError:
            if watch.started:
                self._keep(watch.timing(Failure(UNFINISHED, "the run ended before the answer")))
            raise
        finally:
            self._in_flight -= 1
        self._keep(timing)

    def _keep(self, timing: Timing) -> None:
        # Texts and chunks are 10 kB a request: they are on disk, and not needed for the figures.
        self.timings.append(replace(timing, chunks=(), text="", reasoning=""))
        if self.on_timing is not None:
            self.on_timing(timing)

    def _count(self, delta: Delta) -> None:
        self._tokens += delta.tokens

    def _left(self, elapsed: float) -> float | None:
        """Estimate the seconds left, from tokens: they come before the first request is done."""
        limit = self.load.time_limit_s
        until_limit = max(0.0, limit - elapsed) if limit is not None else None
        if not self._tokens or not elapsed:
            return until_limit
        requests = self.load.requests - self._errors
        expected = max(requests * self.load.output_tokens, self._tokens)
        left = (expected - self._tokens) * elapsed / self._tokens
        return left if until_limit is None else min(left, until_limit)


async def _warm_up(
    client: Client, model: str, load: LoadTest, recipe: Recipe, stop: asyncio.Event
) -> Ended:
    """Send the prompts, as many at once as there are clients, and forget the timings."""
    remaining = load.warmup_prompts(recipe)
    failures: list[RequestFailed] = []

    async def work() -> None:
        for prompt in remaining:
            try:
                await client.ask(_request(model, load, prompt))
            except RequestFailed as error:
                failures.append(error)

    ended = await _until_done(work, min(load.clients, load.warmup), stop, limit=None)
    if failures and len(failures) == load.warmup:
        raise failures[0]
    return ended


async def _until_done(
    work: Callable[[], Coroutine[Any, Any, None]],
    clients: int,
    stop: asyncio.Event,
    limit: float | None,
) -> Ended:
    """Let `clients` tasks work until they are done, `limit` seconds are over, or `stop` is set."""
    workers = [asyncio.create_task(work()) for _ in range(clients)]
    everyone = asyncio.gather(*workers)
    halt = asyncio.create_task(stop.wait())
    either: list[asyncio.Future[Any]] = [everyone, halt]
    try:
        await asyncio.wait(either, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        if everyone.done():
            everyone.result()
            return "complete"
        return "interrupted" if halt.done() else "time limit"
    finally:
        for task in (*workers, halt):
            task.cancel()
        await asyncio.gather(*workers, halt, return_exceptions=True)
        # Its result has been taken above, or is that it was cancelled.
        await asyncio.gather(everyone, return_exceptions=True)


async def _tick(run: _Run, on_progress: Callable[[Progress], None]) -> None:
    while True:
        await asyncio.sleep(0.5)
        on_progress(run.progress())


def _request(model: str, load: LoadTest, prompt: str) -> Request:
    return Request(
        model=model,
        messages=[{"role": "user", "content": prompt}],
        max_tokens=load.output_tokens,
        temperature=load.temperature,
        extra={"ignore_eos": True} if load.ignore_eos else {},
    )

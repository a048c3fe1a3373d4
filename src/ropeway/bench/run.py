"""Run a load test: so many clients, each sending its next request when its last one is done."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ropeway.bench.arrivals import arrivals
from ropeway.bench.prompts import Recipe, find_recipe
from ropeway.bench.stats import UNFINISHED, span
from ropeway.endpoint.client import Client, Endpoint, Request, RequestFailed
from ropeway.endpoint.stream import Clock, Delta, Failure, Stopwatch, Timing

Ended = Literal["complete", "interrupted", "time limit"]

# A request that starts this long after it was due was held up by busy clients, not by scheduling.
_LATE_S = 0.05


@dataclass(frozen=True)
class Workload:
    """What to send. There are as many requests as prompts; each is sent once.

    clients        requests in flight at most
    rate           requests per second (Poisson, from `seed`); None: as fast as answers come
    ignore_eos     make every answer `output_tokens` long (understood by vLLM and its relatives)
    warmup         prompts sent first and not counted; different ones, or the engine's prefix cache
                   would know the counted prompts already
    time_limit_s   stop by itself after so many seconds, warm-up not included
    """

    model: str
    prompts: Sequence[str]
    output_tokens: int
    clients: int = 256
    rate: float | None = None
    seed: int = 0
    temperature: float = 0.0
    ignore_eos: bool = True
    warmup: Sequence[str] = ()
    time_limit_s: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Progress:
    """How far a run is. `tokens_per_s` is over the last few seconds; `left_s` None: no idea yet."""

    done: int
    total: int
    errors: int
    in_flight: int
    output_tokens: int
    elapsed_s: float
    tokens_per_s: float
    left_s: float | None


@dataclass(frozen=True)
class BenchResult:
    """What was measured: timings without their texts and chunks, in the order they ended.

    late   requests of an open loop that were due and had to wait for a free client: when there are
           many, the rate asked for was not reached and the latencies flatter the server
    """

    timings: tuple[Timing, ...]
    duration_s: float
    ended: Ended
    late: int


async def run_bench(
    target: Endpoint,
    workload: Workload,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    on_timing: Callable[[Timing], None] | None = None,
    stop: asyncio.Event | None = None,
    clock: Clock = time.monotonic,
) -> BenchResult:
    """Warm up, send every prompt, and give the timings.

    `on_progress` is called twice a second and once at the end; `on_timing` gets each full timing
    (texts and chunks included) as its request ends, to be written down at once. Set `stop` to end
    early and keep what was measured. A failed request is a timing with an error, and the run goes
    on; but when every request of the warm-up fails, its RequestFailed is raised.
    """
    stop = stop or asyncio.Event()
    async with Client(target, clock) as client:
        if await _warm_up(client, workload, stop) != "complete":
            return BenchResult((), 0.0, "interrupted", 0)
        load = _Load(client, workload, on_timing, clock)
        ticker = asyncio.create_task(_tick(load, on_progress)) if on_progress else None
        try:
            ended = await _until_done(load.work, load.clients, stop, workload.time_limit_s)
        finally:
            if ticker is not None:
                ticker.cancel()
        if on_progress is not None:
            on_progress(load.progress())
    timings = tuple(load.timings)
    return BenchResult(timings, span(timings), ended, load.late)


async def prepare(target: Endpoint, model: str, input_tokens: int) -> Recipe:
    """The recipe for prompts of this length, from the target's own tokenizer where it has one."""
    async with Client(target) as client:

        async def count(text: str) -> int | None:
            return await client.count_tokens(model, [{"role": "user", "content": text}])

        return await find_recipe(input_tokens, count)


class _Load:
    """A measurement on its way: the clients draw from one row of prompts until it is empty."""

    def __init__(
        self,
        client: Client,
        workload: Workload,
        on_timing: Callable[[Timing], None] | None,
        clock: Clock,
    ) -> None:
        self._client = client
        self._workload = workload
        self._on_timing = on_timing
        self._clock = clock
        self._due = zip(workload.prompts, arrivals(workload.rate, workload.seed), strict=False)
        self._start = clock()
        self._recent: list[tuple[float, int]] = [(self._start, 0)]
        self._tokens = 0
        self._in_flight = 0
        self._errors = 0
        self.clients = min(workload.clients, len(workload.prompts))
        self.timings: list[Timing] = []
        self.late = 0

    async def work(self) -> None:
        """One client: take the next request, wait until it is due, see it through."""
        for prompt, due in self._due:
            wait = self._start + due - self._clock()
            if wait > 0:
                await asyncio.sleep(wait)
            elif self._workload.rate is not None and -wait > _LATE_S:
                self.late += 1
            await self._one(prompt)

    def progress(self) -> Progress:
        """A look at the state; remembers it, for the rate over the last few seconds."""
        now = self._clock()
        self._recent = [*self._recent[-9:], (now, self._tokens)]
        since, had = self._recent[0]
        return Progress(
            done=len(self.timings),
            total=len(self._workload.prompts),
            errors=self._errors,
            in_flight=self._in_flight,
            output_tokens=self._tokens,
            elapsed_s=now - self._start,
            tokens_per_s=(self._tokens - had) / (now - since) if now > since else 0.0,
            left_s=self._left(now - self._start),
        )

    async def _one(self, prompt: str) -> None:
        watch = Stopwatch(self._clock)
        self._in_flight += 1
        try:
            request = _request(self._workload, prompt)
            timing = await self._client.ask(request, watch=watch, on_delta=self._count)
        except RequestFailed as error:
            proof = f" ({error.evidence[0]})" if error.evidence else ""
            timing = watch.timing(Failure(error.kind, error.what + proof))
            self._errors += 1
        except asyncio.CancelledError:
            if watch.started:
                self._keep(watch.timing(Failure(UNFINISHED, "the run ended before the answer")))
            raise
        finally:
            self._in_flight -= 1
        self._keep(timing)

    def _keep(self, timing: Timing) -> None:
        if self._on_timing is not None:
            self._on_timing(timing)
        # Texts and chunks are 10 kB a request: they are on disk, and not needed for the figures.
        self.timings.append(replace(timing, chunks=(), text="", reasoning=""))

    def _count(self, delta: Delta) -> None:
        self._tokens += delta.tokens

    def _left(self, elapsed: float) -> float | None:
        """By tokens rather than by requests: those say something before the first one is done."""
        limit = self._workload.time_limit_s
        capped = max(0.0, limit - elapsed) if limit is not None else None
        if not self._tokens or not elapsed:
            return capped
        missing = len(self._workload.prompts) - self._errors
        expected = max(missing * self._workload.output_tokens, self._tokens)
        left = (expected - self._tokens) * elapsed / self._tokens
        return left if capped is None else min(left, capped)


async def _warm_up(client: Client, workload: Workload, stop: asyncio.Event) -> Ended:
    """Send the warm-up prompts, so many at once as there are clients, and forget the timings."""
    prompts = iter(workload.warmup)
    failures: list[RequestFailed] = []

    async def work() -> None:
        for prompt in prompts:
            try:
                await client.ask(_request(workload, prompt))
            except RequestFailed as error:
                failures.append(error)

    clients = min(workload.clients, len(workload.warmup))
    ended = await _until_done(work, clients, stop, limit=None)
    if failures and len(failures) == len(workload.warmup):
        raise failures[0]
    return ended


async def _until_done(
    work: Callable[[], Coroutine[Any, Any, None]],
    clients: int,
    stop: asyncio.Event,
    limit: float | None,
) -> Ended:
    """Let so many clients work until the prompts, the time or the user's patience is at its end."""
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


async def _tick(load: _Load, on_progress: Callable[[Progress], None]) -> None:
    while True:
        await asyncio.sleep(0.5)
        on_progress(load.progress())


def _request(workload: Workload, prompt: str) -> Request:
    extra = {"ignore_eos": True} if workload.ignore_eos else {}
    return Request(
        model=workload.model,
        messages=[{"role": "user", "content": prompt}],
        max_tokens=workload.output_tokens,
        temperature=workload.temperature,
        extra=extra | dict(workload.extra),
    )

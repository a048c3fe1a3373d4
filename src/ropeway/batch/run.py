"""A job from its rows to its journal: it is fed, watched, told of and ended here.

What becomes of each row is decided in `dispatch`; this looks at the whole, twenty times a second.
"""

import asyncio
import contextlib
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, field, replace
from typing import Literal

from ropeway.batch.journal.journal import Journal
from ropeway.batch.progress import Cost, Forecast, Meter, Price, Progress, error_of, sample_of
from ropeway.batch.rows import Outcome, Row
from ropeway.batch.sending.dispatch import Dispatch
from ropeway.batch.sending.limits import Limits
from ropeway.batch.sending.replica import State
from ropeway.batch.sending.send import Check, Sender
from ropeway.endpoint.address import Endpoint
from ropeway.endpoint.failures import ServerAway
from ropeway.errors import RopewayError
from ropeway.phrases import Phrase, joined, phrase
from ropeway.units import format_seconds

Reason = Literal["complete", "stopped", "until", "cost", "errors", "endpoints", "broken"]

_TICK_S, _TELL_S = 0.05, 0.5
# A read of the input: rows and bytes at most.
_BLOCK_ROWS, _BLOCK_BYTES = 512, 4 * 2**20
_MOST_FAULTS = 3
# After a million good rows a share of all is no brake: of the last ones, so many times as many as
# are needed for a judgement, more than this is too much.
_RECENT, _MOST_RECENT = 5, 0.5


@dataclass(frozen=True)
class Settings:
    """How a job is run.

    rows, tokens  of the whole input, as it was surveyed; tokens of prompts and answers, estimated
    max_errors    share of the rows without an answer that ends the job, of at least `errors_from`;
                  the last ones are judged too, by it or by half, whichever is more
    silence_s     the longest wait for an answer: they are not streamed
    patience_s    the longest time without any replica that takes rows
    grace_s       how long a job that is stopped waits for what is in flight
    until         time to stop at, as `time.time` has it
    max_cost      money to stop at, by `price`
    listed        models that the servers said they have
    ceiling       tokens of answers per second that the planner holds for possible
    """

    rows: int
    tokens: int
    limits: Limits = field(default_factory=Limits)
    max_errors: float = 0.5
    errors_from: int = 200
    silence_s: float = 3600.0
    patience_s: float = 1800.0
    grace_s: float = 10.0
    until: float | None = None
    price: Price | None = None
    max_cost: float | None = None
    listed: frozenset[str] = frozenset()
    ceiling: float | None = None


@dataclass(frozen=True)
class Ended:
    """How a run ended. `failure` says why it could not go on, where that is an error."""

    reason: Reason
    progress: Progress
    failure: RopewayError | None = None


class Course:
    """How a run goes as a whole: what ends it, for the first reason that there is; its forecast.

    reason, failure  why it ends, when it does, and when that was
    """

    def __init__(self, settings: Settings, clock: Callable[[], float]) -> None:
        self.settings, self._clock = settings, clock
        self.reason: Reason | None = None
        self.failure: RopewayError | None = None
        self.began, self.ended_at = clock(), 0.0
        self._forecast = Forecast(self.began)
        self._judged = (0, 0)  # rows, and those of them without an answer

    def end(self, reason: Reason, failure: RopewayError | None = None) -> None:
        """End the run, unless something has already."""
        if self.reason is None:
            self.reason, self.failure, self.ended_at = reason, failure, self._clock()

    def judge(self, settled: Counter[Outcome], faults: Counter[str], cost: float | None) -> None:
        """End a run that has had its time or its money, or of which too much fails.

        `settled`: what became of rows in this run.
        """
        settings = self.settings
        if settings.until is not None and time.time() >= settings.until:
            self.end("until")
        if settings.max_cost is not None and (cost or 0.0) >= settings.max_cost:
            self.end("cost")
        if failure := self._errors(settled, faults):
            self.end("errors", failure)

    def cost(self, tokens: float) -> float | None:
        """Return the money so far, with that for tokens; None without a price."""
        price = self.settings.price
        return None if price is None else price.of(self._clock() - self.began, 0, 0) + tokens

    def foreseen(self, progress: Progress, work: float, rest: float) -> Progress:
        """Return the progress, whose cost is that of tokens alone, with all costs, the time left
        and why it ends, after so much work with so much left.
        """
        self._forecast.look(work, self._clock())
        tokens, left = progress.cost or 0.0, self._forecast.left(rest)
        cost, in_all = self.cost(tokens), None
        if self.settings.price is not None and cost is not None and left is not None:
            price, least = self.settings.price, cost + tokens * rest / work
            in_all = Cost(*(least + price.of(span_s, 0, 0) for span_s in astuple(left)))
        return replace(
            progress,
            left=left,
            cost=cost,
            cost_in_all=in_all,
            ceiling=self.settings.ceiling,
            ending=self.reason or "",
            grace_s=self.settings.grace_s,
        )

    def _errors(self, settled: Counter[Outcome], faults: Counter[str]) -> RopewayError | None:
        """Return that too much fails, in all or of late, if it does."""
        enough, most = self.settings.errors_from, self.settings.max_errors
        n = settled.total()
        bad = sum(count for outcome, count in settled.items() if not outcome.good)
        template = "{bad:,} of {n:,} rows got no answer, more than {most:.0%}"
        if n < enough:
            return None
        if bad <= most * n and n - self._judged[0] >= _RECENT * enough:
            before, self._judged = self._judged, (n, bad)
            n, bad, most = n - before[0], bad - before[1], max(most, _MOST_RECENT)
            template = "{bad:,} of the last {n:,} rows got no answer, more than {most:.0%}"
        if bad <= most * n:
            return None
        hint = phrase("the file of errors says why; allow more with `--max-errors`")
        evidence = [
            phrase("{what} {n:,}×", what=fault, n=count)
            for fault, count in faults.most_common(_MOST_FAULTS)
        ]
        what = phrase(template, bad=bad, n=n, most=most)
        return RopewayError(what, evidence=evidence, hint=hint)


async def run_batch(
    rows: Iterator[Row],
    journal: Journal,
    endpoints: Sequence[Endpoint],
    settings: Settings,
    tell: Callable[[Progress], None],
    *,
    stop: asyncio.Event | None = None,
    check: Check | None = None,
    tasks: Callable[[], int] = lambda: 1,
) -> Ended:
    """Send every row, and put what becomes of it into the journal, which is committed at the end.

    `tell` is called twice a second and once at the end. `check` says what is wrong with an answer,
    which is then asked for again. `tasks` says how many of the job's tasks share the rows in
    flight. Set `stop` to end early: no new rows, a moment for those in flight. What is returned
    says how the job ended, errors included; what has an outcome by then is in the journal, and the
    rest is not.
    """
    async with contextlib.AsyncExitStack() as stack:
        senders = [
            await stack.enter_async_context(Sender(endpoint, settings.silence_s, check))
            for endpoint in endpoints
        ]
        dispatch = Dispatch(senders, journal, settings.limits, settings.listed)
        return await _Job(rows, dispatch, settings, tell, tasks).run(stop or asyncio.Event())


class _Job:
    def __init__(
        self,
        rows: Iterator[Row],
        dispatch: Dispatch,
        settings: Settings,
        tell: Callable[[Progress], None],
        tasks: Callable[[], int],
    ) -> None:
        self.rows, self.settings, self.tell, self.tasks = rows, settings, tell, tasks
        self.dispatch, self.window, self.journal = dispatch, dispatch.window, dispatch.journal
        self.clock = dispatch.clock
        self.course = Course(settings, self.clock)
        self.told = self.reachable = self.clock()
        self.before = self.committed = self.journal.counts.total()
        self.committed_at = 0.0
        self.meter = Meter()

    async def run(self, stop: asyncio.Event) -> Ended:
        """Run until something ends the job, and commit."""
        dispatch, course = self.dispatch, self.course
        dispatch.help(self._fill())
        for replica in dispatch.replicas:
            dispatch.help(dispatch.watch(replica))
        try:
            while course.reason is None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_TICK_S):
                        await dispatch.wake.wait()
                dispatch.wake.clear()
                self._look(stop)
            if dispatch.tasks and course.reason != "broken":
                self.tell(self._progress(self.clock()))
                await asyncio.wait(dispatch.tasks, timeout=self.settings.grace_s)
        finally:
            await dispatch.close()
        self._notice_crash()
        try:
            await self.journal.commit()
        except RopewayError as error:
            course.reason, course.failure = "broken", course.failure or error
        progress = replace(self._progress(self.clock()), in_flight=0)
        self.tell(progress)
        return Ended(course.reason, progress, course.failure)

    async def _fill(self) -> None:
        """Keep the window full. Reading may wait for a disk or a network, so a thread does it."""
        while not self.window.exhausted:
            if room := self.window.room:
                block = await asyncio.to_thread(_read_block, self.rows, min(room, _BLOCK_BYTES))
                self.window.add(block)
                if not block:
                    self.window.close()
                self.dispatch.wake.set()
            else:
                self.dispatch.low.clear()
                await self.dispatch.low.wait()

    def _look(self, stop: asyncio.Event) -> None:
        """End what is to end, send what can be sent, and tell."""
        now, dispatch = self.clock(), self.dispatch
        for replica in dispatch.replicas:
            replica.pace.share(self.tasks())
        ready = [replica for replica in dispatch.replicas if replica.ready(now)]
        if any(not replica.barred_by and not replica.overloads for replica in ready):
            self.reachable = now
        self.window.slots = max(1, sum(replica.pace.limit for replica in ready))
        self._notice_crash()
        if stop.is_set():
            self.course.end("stopped")
        cost = self.course.cost(self._tokens_cost())
        self.course.judge(dispatch.settled, dispatch.faults, cost)
        self._judge_replicas(now)
        if self.window.exhausted and not len(self.window) and not dispatch.tasks:
            dispatch.judge_held()
            if not len(self.window):
                self.course.end("complete")
        dispatch.halted = self.course.reason is not None
        dispatch.send()
        dispatch.catch_up()
        if now - self.told >= _TELL_S:
            self.told = now
            self.tell(self._progress(now))

    def _notice_crash(self) -> None:
        """End the job for an error of the journal or of the input; raise one that is a bug."""
        crash = self.dispatch.crash
        if isinstance(crash, RopewayError):
            self.course.reason, self.course.failure = "broken", crash
        elif crash is not None:
            raise crash

    def _judge_replicas(self, now: float) -> None:
        """End a job that nobody takes rows of."""
        replicas = self.dispatch.replicas
        if all(replica.state is State.BARRED for replica in replicas):
            self.course.end("endpoints", replicas[0].barred_by)
        elif now - max(self.reachable, self.dispatch.useful) > self.settings.patience_s:
            barred_by = [replica.barred_by for replica in replicas if replica.barred_by]
            patience = format_seconds(self.settings.patience_s)
            what = phrase("no endpoint has taken a row for {patience}", patience=patience)
            self.course.end(
                "endpoints",
                barred_by[0] if barred_by else ServerAway(what, evidence=self._reasons()),
            )

    def _reasons(self) -> list[Phrase]:
        """Return why each replica takes no rows."""
        return [
            phrase("{url}: {why}", url=replica.sender.endpoint.url, why=replica.why)
            for replica in self.dispatch.replicas
        ]

    def _tokens_cost(self) -> float:
        price, total = self.settings.price, self.dispatch.all
        return 0.0 if price is None else price.of(0, total.prompt, total.answer)

    def _progress(self, now: float) -> Progress:
        """Return how far the job is."""
        done, dispatch = self.journal.counts, self.dispatch
        total, finished = dispatch.all, done.total()
        if finished > self.committed:
            self.committed, self.committed_at = finished, time.time()
        waiting = any(replica.ready(now) for replica in dispatch.replicas)
        progress = Progress(
            rows=self.settings.rows,
            done=dict(done),
            in_flight=sum(len(replica.flying) for replica in dispatch.replicas),
            again=dispatch.again,
            faults=dict(dispatch.faults),
            replicas=tuple(replica.progress(now) for replica in dispatch.replicas),
            rates=self.meter.look(total, now),
            elapsed_s=now - self.course.began,
            waiting="" if waiting else joined(self._reasons()),
            committed_at=self.committed_at,
            cost=self._tokens_cost(),
            sample=sample_of(dispatch.samples.get(True, b"")),
            error=error_of(dispatch.samples.get(False, b"")),
        )
        rest = self._work_left(finished)
        return self.course.foreseen(progress, total.work, rest)

    def _work_left(self, finished: int) -> float:
        """Return the tokens of the rows that have no outcome, as far as estimates go."""
        rows = self.settings.rows
        if finished >= rows:
            return 0.0
        share = (rows - self.before) / rows
        return max(self.settings.tokens * share - self.dispatch.all.work, rows - finished)


def _read_block(rows: Iterator[Row], most: int) -> list[Row]:
    """Return the next rows, of about `most` bytes; none when there are no more."""
    block, size = [], 0
    for row in itertools.islice(rows, _BLOCK_ROWS):
        block.append(row)
        size += len(row.body)
        if size >= most:
            break
    return block

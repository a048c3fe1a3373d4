"""Rows to replicas and outcomes to the journal: what is tried again, what is charged to whom.

The hot path is `_work`: a task for each row in flight, which goes on to the next row by itself.
"""

import asyncio
import random
import secrets
from collections import Counter
from collections.abc import Collection, Coroutine, Sequence
from typing import Any

import msgspec

from ropeway.batch.journal.journal import Journal
from ropeway.batch.progress import LONGEST_SAMPLED, Tally
from ropeway.batch.rows import Outcome, Result, Row, Trouble
from ropeway.batch.sending.health import Health, Sign
from ropeway.batch.sending.limits import Limits
from ropeway.batch.sending.pace import Pace
from ropeway.batch.sending.queue import Window
from ropeway.batch.sending.replica import Flight, Replica, State, back_off, outlasted, refusal
from ropeway.batch.sending.send import Sender
from ropeway.batch.sending.verdict import Answer, Verdict, result_of, without_answer
from ropeway.phrases import phrase
from ropeway.units import format_seconds

_POLL_S = 1.0
# What may wait for the disk, in bytes, before no more is asked for; and what may be on its way to
# us, as far as answers of late tell. Those of embeddings have megabytes.
_MOST_BEHIND = 32 * 2**20
_MOST_COMING = 256 * 2**20
# An answer that is larger than those after it is remembered for some hundred of them.
_FORGETS = 0.99
# So many answers in a row that are hardly about their rows are about us.
_MOST_HELD = 10
# Failures that come together are asked about together.
_GATHER_S = 0.1
# So many connections that break together, and half of all, are no fault of their rows. An engine
# that is back so soon has died, or the network between was away.
_FEWEST_BROKEN = 4
# So often a row is cut off so at no charge: what breaks them may be the row itself.
_CUTS = 3
# A replica that comes back is noticed within this.
_LONGEST_AWAY_S = 5.0
# Questions in a row that may be only slow to be answered.
_SILENCES = 3
# An engine that has had nothing to do in so many looks has forgotten what is in flight there. Not
# sooner: large pictures may take as long on a slow way to it.
_IDLE_LOOKS = 60
# A replica that served and then refused us is asked again after this.
_BARRED_S = 30.0
# So many refusals for now count as a failed try: some servers say so of a row that is too large.
_LATERS = 10
# Of what a replica takes at once, the share that may be rows with which engines died.
_SUSPECTS = 16
_DEATHS = 2


class Dispatch:
    """All replicas of a job, its window and its journal.

    halted   whether no row is begun any more
    crash    an error that was not expected, or that the journal raised
    wake     set when something has changed that the job may have to look at
    low      set when the window has room
    useful   when a row last got its outcome
    settled  outcomes of this run; `faults`: tries that failed, by what was wrong
    """

    def __init__(
        self,
        senders: Sequence[Sender],
        journal: Journal,
        limits: Limits,
        listed: Collection[str] = (),
    ) -> None:
        """Begin with nothing sent. `listed`: the models that the servers said they have."""
        self.journal, self.limits = journal, limits
        self._listed = listed
        self._answered: set[tuple[str, str]] = set()  # API and model
        self.replicas = [
            Replica(index, sender, Pace(limits.start, limits.most))
            for index, sender in enumerate(senders)
        ]
        self.window = Window(limits.window_rows, limits.most_bytes, dedupe=limits.dedupe)
        self.halted = False
        self.crash: BaseException | None = None
        self.wake, self.low = asyncio.Event(), asyncio.Event()
        self.tasks: set[asyncio.Task[None]] = set()
        self._helpers: set[asyncio.Task[None]] = set()
        self._catching_up = False
        self.clock = asyncio.get_running_loop().time
        self.useful = self.clock()
        self._large = 0.0  # bytes of a large answer, of late
        self.settled: Counter[Outcome] = Counter()
        self.faults: Counter[str] = Counter()
        self.all = Tally()
        self.again = 0
        self.samples: dict[bool, bytes] = {}  # lines of late, with an answer and without
        self._sendings = 0
        self._troubles: dict[int, Trouble] = {}
        # Another run may still be generated under the same number, and vLLM makes its own names of
        # ours (vllm/entrypoints/serve/engine/serving.py, 0.32.0).
        self._name = secrets.token_hex(4)

    def send(self) -> None:
        """Begin with all rows that replicas have room for, in turns."""
        sent = True
        while sent:
            sent = False
            for replica in self.replicas:
                if (row := self._next(replica)) is not None:
                    task = self._begin(self._work(replica, row), self.tasks)
                    self._fly(replica, row, task)
                    sent = True

    def help(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Begin a task beside the rows, whose failure ends the job likewise."""
        return self._begin(work, self._helpers)

    async def close(self) -> None:
        """End everything that still runs."""
        running = [*self.tasks, *self._helpers]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def catch_up(self) -> None:
        """Wait for the disk when much waits for it: an error of it shows only then."""
        if self.journal.behind > _MOST_BEHIND and not self._catching_up:
            self._catching_up = True
            self.help(self._commit())

    def judge_held(self) -> None:
        """Decide about rows that are held when nothing else is left to learn it from."""
        # Of a model that was there: rows that are answered so for ever may be all that is left.
        late = outlasted(self.useful, self.clock())
        for replica in self.replicas:
            if replica.served and all(
                answer.may_be_of_the_row and (late or not self._lost(row, answer))
                for row, answer, _ in replica.held
            ):
                self._refuse_held(replica, self._sendings + 1, late=late)
            elif replica.held:
                self._bar(replica)

    async def _commit(self) -> None:
        await self.journal.commit()
        self._catching_up = False

    def _begin(
        self, work: Coroutine[Any, Any, Any], among: set[asyncio.Task[Any]]
    ) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        among.add(task)
        task.add_done_callback(self._note)
        return task

    def _note(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        self._helpers.discard(task)
        error = None if task.cancelled() else task.exception()
        self.crash = self.crash or error
        self.wake.set()

    async def _work(self, replica: Replica, first: Row) -> None:
        """Send one row after the other, while there is one and the replica has room for it."""
        task = asyncio.current_task()
        assert task is not None
        row: Row | None = first
        while row is not None:
            flight = self._fly(replica, row, task)
            name, again = self._request_id(row), row.ordinal in self._troubles
            answer = await replica.sender.send(row, name, flight.sent, again=again)
            await self._judge(replica, row, answer)
            row = self._next(replica)

    def _fly(self, replica: Replica, row: Row, task: asyncio.Task[None]) -> Flight:
        self._sendings += 1
        flight = replica.flying[row.ordinal] = Flight(row, task, self._sendings, self.clock())
        return flight

    async def _judge(self, replica: Replica, row: Row, answer: Answer) -> None:
        """Decide what an answer means for its row."""
        if answer.verdict is Verdict.FAILED:
            await self._failed(replica, row, answer)
            return
        flight = replica.flying.pop(row.ordinal)
        if answer.verdict <= Verdict.REFUSED or answer.verdict is Verdict.UNFIT:
            self._served(replica, flight, answer)
        if answer.verdict <= Verdict.REFUSED:
            self._settle(row, answer, replica)
        elif answer.verdict <= Verdict.BARRED:
            self._turned_away(replica, row, answer)
        else:
            self.faults[answer.fault] += 1
            if answer.verdict is Verdict.UNSENDABLE:
                self._give_up(row, Outcome.FAILED, answer.words)
            else:
                self._charge(row, answer.words)

    def _next(self, replica: Replica) -> Row | None:
        """Return the replica's next row, if it may have one."""
        now, window = self.clock(), self.window
        if self.halted or not replica.has_room(now) or self._is_full():
            return None
        suspects = window.suspected and self._may_suspect(replica)
        row = window.take(replica.index, now, suspects=suspects)
        if window.room and not window.exhausted:
            self.low.set()
        return row

    def _is_full(self) -> bool:
        """Whether what waits for the disk, or is on its way to us, fills the memory."""
        if self.journal.behind > _MOST_BEHIND:
            return True
        return self._large * len(self.tasks) > _MOST_COMING

    def _may_suspect(self, replica: Replica) -> bool:
        """Whether one more row that may have killed an engine may be sent there.

        Sent with many others, it would make them all suspects when it kills the next one.
        """
        troubles = map(self._troubles.get, replica.flying)
        suspects = sum(1 for trouble in troubles if trouble is not None and trouble.suspect)
        return suspects < max(1, replica.pace.limit // _SUSPECTS)

    def _request_id(self, row: Row) -> str:
        trouble = self._troubles.get(row.ordinal) if self._troubles else None
        if trouble is None:
            return f"{self._name}-{row.ordinal}"
        trouble.sent += 1
        if trouble.reached:
            self.again += 1
        return f"{self._name}-{row.ordinal}-{trouble.sent}"

    def _settle(self, row: Row, answer: Answer, replica: Replica) -> None:
        """Give a row the outcome that its answer is, and the same to those that asked the same."""
        result = result_of(row, answer)
        self._keep(row, result)
        for tally in (self.all, replica.tally):
            tally.rows += 1
        if followers := self.window.settle(row):
            unpaid = msgspec.structs.replace(answer, prompt=0, answer=0)
            for follower in followers:
                self._keep(follower, result_of(follower, unpaid))

    def _served(self, replica: Replica, flight: Flight, answer: Answer) -> None:
        """Note that a replica serves us: what it refused before that was sent is what it meant.

        The answer's tokens count, whether it is of use or not.
        """
        self._answered.add((flight.row.path, flight.row.model))
        for tally in (self.all, replica.tally):
            tally.prompt += answer.prompt
            tally.answer += answer.answer
        replica.pace.answered(answer.prompt + answer.answer)
        replica.served, replica.overloads, replica.barred_by = True, 0, None
        replica.failed.clear()
        if replica.held and replica.held[0][2] < flight.number:
            self._refuse_held(replica, flight.number)

    def _give_up(self, row: Row, outcome: Outcome, why: str) -> None:
        """Give a row an outcome without an answer, and the same to those that asked the same."""
        for one in (row, *self.window.settle(row)):
            self._keep(one, without_answer(one, outcome, why))

    def _keep(self, row: Row, result: Result) -> None:
        self.journal.add(result)
        self.settled[result.outcome] += 1
        self.all.work += row.tokens
        self._large = max(len(result.line), self._large * _FORGETS)
        if len(result.line) <= LONGEST_SAMPLED:
            self.samples[result.outcome.good] = result.line
        self.useful = self.clock()
        if self._troubles:
            self._troubles.pop(row.ordinal, None)

    def _turned_away(self, replica: Replica, row: Row, answer: Answer) -> None:
        """Decide about a row that no engine has worked on."""
        barred, missing = answer.verdict is Verdict.BARRED, answer.of_api and answer.status == 404
        if barred and missing and replica.served and not self._lost(row, answer):
            self._settle(row, answer, replica)  # it serves other models, and not this one
            return
        self.faults[answer.fault] += 1
        if barred and replica.state is State.WORKING:
            replica.held.append((row, answer, self._sendings))
            if len(replica.held) >= _MOST_HELD:
                self._bar(replica)
            return
        if answer.verdict is Verdict.AWAY:
            self._away(replica, answer.words)
        elif answer.verdict is Verdict.LATER:
            replica.pause(answer, self.clock())
        if answer.status == 429:
            self._put_off(row, answer)
        else:
            self.window.give_back(row)

    def _lost(self, row: Row, answer: Answer) -> bool:
        """Whether a server says that it has no such model, of one that there is.

        It loads the model again, or another server has taken its place: the row is well.
        """
        if answer.status != 404:
            return False
        known = row.model in self._listed and row.model in answer.words
        return known or (row.path, row.model) in self._answered

    def _put_off(self, row: Row, answer: Answer) -> None:
        """Send a row again later and later: the next ones may be smaller, or another replica's."""
        trouble = self._trouble(row)
        trouble.laters += 1
        if trouble.laters % _LATERS:
            self.window.later(row, self.clock() + back_off(trouble.laters - 1))
        else:
            self._charge(row, answer.words)

    async def _failed(self, replica: Replica, row: Row, answer: Answer) -> None:
        """Charge a row for a try that failed, unless its replica has died or fails them all."""
        self.faults[answer.fault] += 1
        flight, trouble = replica.flying[row.ordinal], self._trouble(row)
        flight.reached &= answer.status != 503
        trouble.reached |= flight.reached
        replica.broken += answer.broke
        if replica.asking is None:
            replica.asking = self.help(self._ask_after(replica))
        # When it has died, this task is cancelled here.
        at_once = await asyncio.shield(replica.asking)
        del replica.flying[row.ordinal]
        now = self.clock()
        if answer.broke and at_once and trouble.cuts < _CUTS:
            self._cut_off(row, answer.words)
        elif replica.fails(row, now):
            replica.pause(answer, now)
            self.window.later(row, now + back_off(replica.overloads))
        else:
            self._charge(row, answer.words)

    def _charge(self, row: Row, why: str) -> None:
        """Count a try that failed; send the row again some time later, or never."""
        trouble = self._trouble(row)
        trouble.tries += 1
        if trouble.tries >= self.limits.tries:
            self._give_up(row, Outcome.FAILED, why)
        else:
            self.window.later(row, self.clock() + back_off(trouble.tries))

    def _trouble(self, row: Row) -> Trouble:
        return self._troubles.setdefault(row.ordinal, Trouble())

    def _outlived(self, flight: Flight, health: Health) -> None:
        """Take back a row whose replica is lost: uncharged, but not twice where engines died."""
        row = flight.row
        if not flight.reached:
            self.window.give_back(row)
            return
        trouble = self._trouble(row)
        trouble.reached = True
        if health.sign is Sign.SILENT:  # the network too may have been away, and the engine well
            self._cut_off(row, health.fault)
            return
        trouble.deaths += 1
        if trouble.deaths >= _DEATHS:
            words = phrase(
                "engines died with it in flight, twice; the last: {why}", why=health.fault
            )
            self._give_up(row, Outcome.POISON, words)
        else:
            self.window.suspect(row)

    def _cut_off(self, row: Row, why: str) -> None:
        """Take back a row that was lost together with others: uncharged, a few times."""
        trouble = self._trouble(row)
        trouble.cuts += 1
        if trouble.cuts > _CUTS:
            self._charge(row, why)
        elif trouble.suspect:
            self.window.suspect(row)
        else:
            self.window.give_back(row)

    async def watch(self, replica: Replica) -> None:
        """Read the figures of a replica that works, and call one that is away, until cancelled."""
        silences = calls = idle = sent = 0
        while replica.state is not State.BARRED:
            if replica.state is State.AWAY:
                wait_s = replica.away_until - self.clock()
                await asyncio.sleep(max(_GATHER_S, wait_s, back_off(calls, _LONGEST_AWAY_S)))
                health = await replica.sender.healthy()
                replica.why, calls = health.fault or replica.why, calls + 1
                if health.sign is Sign.GONE or (health.bad and calls >= _SILENCES):
                    self._died(replica, health)
                if health.sign is Sign.WELL:
                    replica.state, silences, calls = State.WORKING, 0, 0
                    replica.failed.clear()
                    self.wake.set()
                continue
            await asyncio.sleep(_POLL_S * random.uniform(0.8, 1.2))
            self._too_slow(replica)
            health = await replica.sender.metrics()
            if health.bad:
                health = await replica.sender.healthy()
            silences = silences + 1 if health.bad else 0
            if health.sign is Sign.GONE or silences >= _SILENCES:
                self._died(replica, health)
            elif health.reading is not None:
                replica.pace.read(health.reading, len(replica.flying))
                if health.reading.running or health.reading.waiting:
                    idle = 0
                elif idle < _IDLE_LOOKS:
                    idle, sent = idle + 1, sent if idle else self._sendings
                else:
                    self._forgotten(replica, sent)
                    idle = 0
            else:
                replica.pace.tick(self.clock(), len(replica.flying))

    def _forgotten(self, replica: Replica, number: int) -> None:
        """Take back what is in flight at a replica that does nothing, up to one sending."""
        words = phrase("the engine has forgotten it: there nothing runs or waits")
        for flight in replica.abandon(lambda one: one.reached and one.number <= number):
            self.faults[phrase("forgotten")] += 1
            self._trouble(flight.row).reached = True
            self._cut_off(flight.row, words)

    def _too_slow(self, replica: Replica) -> None:
        """Charge rows whose answers come, or whose requests go, byte by byte."""
        limit, now = replica.sender.longest_s, self.clock()
        words = phrase("no whole answer within {limit}", limit=format_seconds(limit))
        for flight in replica.abandon(lambda one: now - one.begun > limit):
            self.faults[phrase("answer too slow")] += 1
            self._trouble(flight.row).reached |= flight.reached
            self._charge(flight.row, words)

    async def _ask_after(self, replica: Replica) -> bool:
        """Find out whether a replica has died, once for all failures that come together.

        Returns whether so many connections broke at once that no row of them is to blame.
        """
        await asyncio.sleep(_GATHER_S)
        broken, replica.broken, replica.asking = replica.broken, 0, None
        at_once = broken >= max(_FEWEST_BROKEN, len(replica.flying) / 2)
        health = await replica.sender.healthy()
        if health.bad:
            self._died(replica, health)
        return at_once

    def _died(self, replica: Replica, health: Health) -> None:
        """Take back all that is in flight at a replica that is lost."""
        self._away(replica, health.fault)
        for flight in replica.abandon(lambda _: True):
            self._outlived(flight, health)

    def _away(self, replica: Replica, why: str) -> None:
        if replica.state is State.WORKING:
            replica.state, replica.why = State.AWAY, why
            self.window.forget(replica.index)
            self._release(replica)

    def _bar(self, replica: Replica) -> None:
        """Leave a replica that refuses us: for good if it has never served us."""
        row, answer, _ = replica.held[-1]
        if self._lost(row, answer):
            replica.pause(answer, self.clock())
            self._release(replica)
            return
        replica.barred_by = refusal(replica.sender.endpoint, answer)
        self._away(replica, replica.barred_by.what)
        if replica.served:
            replica.away_until = self.clock() + _BARRED_S
        else:
            replica.state = State.BARRED

    def _release(self, replica: Replica) -> None:
        """Give back the rows that a replica refused, as it seems not for their own sake."""
        for row, _, _ in replica.held:
            self.window.give_back(row)
        replica.held.clear()

    def _refuse_held(self, replica: Replica, number: int, *, late: bool = False) -> None:
        """Refuse the rows that were held before a sending that was answered."""
        held, replica.held = replica.held, []
        for one in held:
            row, answer, before = one
            if before >= number:
                replica.held.append(one)
            elif self._lost(row, answer) and not late:
                self._put_off(row, answer)
            elif answer.may_be_of_the_row:
                self._settle(row, answer, replica)
            else:
                self._charge(row, answer.words)

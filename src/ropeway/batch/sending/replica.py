"""One replica of a job: what is in flight there, and whether it may be sent more."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from ropeway.batch.progress import Meter, ReplicaProgress, Tally
from ropeway.batch.rows import Row
from ropeway.batch.sending.pace import Pace
from ropeway.batch.sending.send import Sender
from ropeway.batch.sending.verdict import Answer
from ropeway.endpoint.address import Endpoint
from ropeway.endpoint.failures import BadRequest, NotOpenAI, RequestFailed, key_refused
from ropeway.errors import RopewayError
from ropeway.phrases import phrase

# Full jitter: a random time up to a limit that doubles, so that those who failed together do not
# come back together.
_FIRST_S, _LONGEST_S = 0.5, 30.0
# A server that asks for no pause at all is left alone for this: it would be asked without end.
_LEAST_S = 0.5
# So many different rows that fail in a row are not what is wrong, for so long: rows that always
# fail are all that is left at the end of a job.
_MANY_FAILED = 16
_OUTAGE_S = 600.0


class State(StrEnum):
    """Whether a replica takes rows. BARRED: it refuses us, not our rows, and is not asked again."""

    WORKING = "working"
    AWAY = "away"
    BARRED = "barred"


@dataclass(slots=True)
class Flight:
    """A row that was sent to a replica, and the task that waits for it.

    number   which of the job's sendings it is, and `begun`: when it began
    reached  whether an engine may be at work on it: all of it was sent. One that was turned away
             with 503 only waits to learn why
    """

    row: Row
    task: asyncio.Task[None]
    number: int
    begun: float
    reached: bool = False

    def sent(self) -> None:
        """Note that all of it was sent."""
        self.reached = True


@dataclass(slots=True)
class Replica:
    """What is known of one replica while the job runs.

    flying    what was sent there and has no answer, by ordinal
    held      rows with an answer that is hardly about them, until it is known whom it is about, and
              the job's last sending when that came
    served    whether it has answered any row
    overloads how often in a row it asked to be left alone, without an answer between
    barred_by why it refuses us, until it serves us again
    asking    the question whether it has died, while it is being asked
    broken    connections that broke since the last such question
    failed    rows that failed since its last answer, as many as matter, and when that began
    """

    index: int
    sender: Sender
    pace: Pace
    state: State = State.WORKING
    why: str = ""
    served: bool = False
    flying: dict[int, Flight] = field(default_factory=dict)
    held: list[tuple[Row, Answer, int]] = field(default_factory=list)
    asking: asyncio.Task[bool] | None = None
    broken: int = 0
    failed: set[int] = field(default_factory=set)
    failing_since: float = 0.0
    paused_until: float = 0.0
    overloads: int = 0
    away_until: float = 0.0
    barred_by: RopewayError | None = None
    tally: Tally = field(default_factory=Tally)
    meter: Meter = field(default_factory=Meter)

    def ready(self, now: float) -> bool:
        """Whether it may be sent rows at all."""
        return self.state is State.WORKING and self.paused_until <= now

    def abandon(self, chosen: Callable[[Flight], bool]) -> list[Flight]:
        """Wait no more for the flights that are chosen, and return them."""
        given_up = [flight for flight in self.flying.values() if chosen(flight)]
        for flight in given_up:
            del self.flying[flight.row.ordinal]
            flight.task.cancel()
        return given_up

    def has_room(self, now: float) -> bool:
        """Whether it may be sent one row more."""
        return len(self.flying) < self.pace.limit and self.ready(now)

    def fails(self, row: Row, now: float) -> bool:
        """Note a row that failed; return whether it is rather the replica that fails."""
        if not self.failed:
            self.failing_since = now
        if len(self.failed) < _MANY_FAILED:
            self.failed.add(row.ordinal)
        return len(self.failed) >= _MANY_FAILED and not outlasted(self.failing_since, now)

    def pause(self, answer: Answer, now: float) -> None:
        """Leave it alone for as long as it asks, or for longer each time; send less after that."""
        if self.paused_until <= now:  # else this one was sent before the last
            self.overloads += 1
            self.pace.halve(len(self.flying))
        pause_s = answer.pause_s
        if pause_s is None:
            pause_s = back_off(self.overloads)
        else:
            pause_s = max(_LEAST_S, pause_s) * random.uniform(1.0, 1.1)
        self.paused_until = max(self.paused_until, now + pause_s)
        self.why = answer.words

    def progress(self, now: float) -> ReplicaProgress:
        """Return how it is."""
        ready = self.ready(now)
        return ReplicaProgress(
            url=self.sender.endpoint.url,
            state="paused" if self.state is State.WORKING and not ready else self.state.value,
            why="" if ready else self.why,
            in_flight=len(self.flying),
            limit=self.pace.limit,
            rows=self.tally.rows,
            rates=self.meter.look(self.tally, now),
        )


def outlasted(since: float, now: float) -> bool:
    """Whether what began so long ago lasts longer than an outage does."""
    return now - since >= _OUTAGE_S


def back_off(tries: int, longest_s: float = _LONGEST_S) -> float:
    """Return the seconds until the next try, after so many."""
    return random.uniform(0.0, min(longest_s, _FIRST_S * 2.0 ** min(tries, 16)))


def refusal(endpoint: Endpoint, answer: Answer) -> RequestFailed:
    """Return why an endpoint refuses whatever it is sent."""
    if answer.status in (401, 403):
        return key_refused(endpoint, answer.status, answer.words)
    what = phrase("the server refuses every row: {words}", words=answer.words)
    if answer.of_api:
        hint = phrase(
            "compare the rows' `model` with what {url} lists", url=endpoint.url + "/models"
        )
        return BadRequest(what, where=endpoint.url, hint=hint)
    hint = phrase("check host and port; the base URL usually ends in `/v1`")
    return NotOpenAI(what, where=endpoint.url, hint=hint)

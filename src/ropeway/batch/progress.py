"""How far a job is: plain data for a terminal and for `--json`, made from what was counted."""

import itertools
import json
import math
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Generic, Self, TypeVar

import msgspec

from ropeway.batch.rows import Outcome
from ropeway.outside import UNSEEN
from ropeway.phrases import Phrase, phrase

# Rates are those of the last seconds, at two looks a second.
_LOOKS = 31
_MOST_POINTS = 64
# A rate that was measured so short is hardly one; and no rate is known better than this.
_FEW_POINTS, _UNSURE, _SURE = 4, 0.5, 0.05
_MILLION = 1e6
LONGEST_SAMPLED = 2**16
"""Bytes of a line of which a sample is made: longer ones are mostly numbers, or what was asked."""
_SAMPLE = 160

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Price:
    """What a job costs: per hour of all machines, per million tokens of prompts and of answers."""

    hour: float = 0.0
    prompt: float = 0.0
    answer: float = 0.0

    def of(self, seconds: float, prompt: float, answer: float) -> float:
        """Return the cost of so many seconds and tokens."""
        tokens = prompt * self.prompt + answer * self.answer
        return seconds / 3600 * self.hour + tokens / _MILLION


@dataclass(slots=True)
class Tally:
    """What was answered, counted as it comes.

    work  tokens of all rows with an outcome, as they were estimated before
    """

    rows: int = 0
    prompt: int = 0
    answer: int = 0
    work: int = 0


@dataclass(frozen=True, slots=True)
class Rates:
    """Rows and tokens per second over the last seconds."""

    rows: float = 0.0
    prompt: float = 0.0
    answer: float = 0.0


@dataclass(frozen=True, slots=True)
class ReplicaProgress:
    """One replica. `state`: working, paused (as it asked), away, or barred (it refuses us)."""

    url: str
    state: str
    why: str
    in_flight: int
    limit: int
    rows: int
    rates: Rates


@dataclass(frozen=True, slots=True)
class Left:
    """Seconds until the end: the likely value, and the interval around it."""

    low_s: float
    likely_s: float
    high_s: float


@dataclass(frozen=True, slots=True)
class Cost:
    """Money that a run takes in all: the likely value, and the interval around it."""

    low: float
    likely: float
    high: float


@dataclass(frozen=True, slots=True)
class Progress:
    """A job at one moment.

    rows      of the whole input; `done` of them have an outcome, those of earlier runs included
    again     rows that were sent again although they may have been generated before
    faults    tries that failed, by what was wrong
    waiting   what the job waits for when no replica takes rows; else empty
    committed_at  when rows were last committed, by `time.time`; 0 before the first of this run
    cost, cost_in_all  money so far in this run, and expected at its end; None without a price
    sample    how an answer that came lately begins; empty where it has no text
    error     why a row that ended lately in this run has no answer; empty where all have one
    ending    why the run ends, once it does (`run.Reason`): what is in flight has so long
    ceiling   tokens of answers per second that the planner holds for possible; None without a spec
    """

    rows: int
    done: Mapping[Outcome, int]
    in_flight: int
    again: int
    faults: Mapping[str, int]
    replicas: tuple[ReplicaProgress, ...]
    rates: Rates
    elapsed_s: float
    left: Left | None = None
    waiting: str = ""
    committed_at: float = 0.0
    cost: float | None = None
    cost_in_all: Cost | None = None
    sample: str = ""
    ceiling: float | None = None
    error: str = ""
    ending: str = ""
    grace_s: float = 0.0

    @property
    def finished(self) -> int:
        """Rows with an outcome."""
        return sum(self.done.values())

    @property
    def cut_share(self) -> float:
        """The share of the answers that were cut at their limit of tokens."""
        good = sum(count for outcome, count in self.done.items() if outcome.good)
        return self.done.get(Outcome.CUT, 0) / good if good else 0.0

    @property
    def ceiling_share(self) -> float | None:
        """The share of the ceiling that answers come at."""
        return self.rates.answer / self.ceiling if self.ceiling else None

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Self:
        """Return the progress that `as_json` made plain. Raises ValueError where it is none."""
        try:
            fields = {name: said[name] for name in cls.__slots__}
            counts = {Outcome[name.upper()]: count for name, count in said["done"].items()}
            fields["done"] = {outcome: count for outcome, count in counts.items() if count}
            fields["rates"] = Rates(**said["rates"])
            fields["left"] = Left(**said["left"]) if said["left"] else None
            in_all = said["cost_in_all"]
            fields["cost_in_all"] = Cost(**in_all) if in_all else None
            fields["replicas"] = tuple(
                ReplicaProgress(**{**one, "rates": Rates(**one["rates"])})
                for one in said["replicas"]
            )
            fields["faults"] = {_fault(what): count for what, count in said["faults"].items()}
            return cls(**fields)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(str(error)) from None

    def as_json(self) -> dict[str, object]:
        """The progress as plain data, for `--json`."""
        return {
            **asdict(self),
            "done": {outcome.name.lower(): self.done.get(outcome, 0) for outcome in Outcome},
            "finished": self.finished,
            "cut_share": self.cut_share,
            "ceiling_share": self.ceiling_share,
        }


def _fault(what: str) -> Phrase:
    """Return what was wrong with tries, which was made plain, as it was."""
    number = what.removeprefix("status ")
    return Phrase(what) if number == what else phrase("status {status}", status=number)


class _Message(msgspec.Struct):
    message: str


class _ErrorLine(msgspec.Struct):
    custom_id: str
    error: _Message


def sample_of(line: bytes) -> str:
    """Return how an answer begins, `row-7: The capital …`; empty where it has no text."""
    try:
        record = json.loads(line)
        choice = record["response"]["body"]["choices"][0]
        text = choice.get("text") or choice["message"]["content"]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return ""
    if not isinstance(text, str):
        return ""
    return _beginning(f"{record.get('custom_id')}: {text}")


def error_of(line: bytes) -> str:
    """Return why a row has no answer, `row-7: 400: too long`; empty for no line."""
    if not line:
        return ""
    # Not what else is in it: a server's own words may hold numbers that Python refuses.
    record = msgspec.json.decode(line, type=_ErrorLine)
    return _beginning(f"{record.custom_id}: {record.error.message}")


def _beginning(text: str) -> str:
    shown = " ".join(UNSEEN.sub("", text).split())
    return shown if len(shown) <= _SAMPLE else shown[: _SAMPLE - 1].rstrip() + "…"


@dataclass(slots=True)
class Meter:
    """The rates of one tally, over the last looks at it."""

    looks: deque[tuple[float, int, int, int]] = field(default_factory=lambda: deque(maxlen=_LOOKS))

    def look(self, tally: Tally, now: float) -> Rates:
        """Note the tally, and return the rates since the oldest look that is remembered."""
        self.looks.append((now, tally.rows, tally.prompt, tally.answer))
        then, *before = self.looks[0]
        if now <= then:
            return Rates()
        counts = (tally.rows, tally.prompt, tally.answer)
        return Rates(*((b - a) / (now - then) for a, b in zip(before, counts, strict=True)))


class Series(Generic[T]):
    """Values at moments that lie further apart the longer it lasts: when there are `most`, every
    second one is dropped.
    """

    def __init__(self, most: int) -> None:
        self.points: list[tuple[float, T]] = []
        self._most, self._apart = most, 0.5

    def add(self, now: float, value: T) -> None:
        """Note a value, unless one was noted just before."""
        if self.points and now - self.points[-1][0] < self._apart:
            return
        self.points.append((now, value))
        if len(self.points) > self._most:
            del self.points[1::2]
            self._apart *= 2


class Forecast:
    """The time left, from the pace of the tokens so far."""

    def __init__(self, now: float) -> None:
        self._series = Series[float](_MOST_POINTS)
        self.look(0.0, now)

    def look(self, work: float, now: float) -> None:
        """Note how many tokens are done."""
        self._series.add(now, work)

    def left(self, rest: float) -> Left | None:
        """Return the time for so many tokens more; None when nothing is known yet."""
        # The first third is that of a start, and not what the rest will be like.
        points = self._series.points[len(self._series.points) // 3 :]
        seconds, tokens = points[-1][0] - points[0][0], points[-1][1] - points[0][1]
        if seconds <= 0 or tokens <= 0:
            return None
        rate = tokens / seconds
        unsure = _UNSURE
        if len(points) > _FEW_POINTS:
            each = [
                (after[1] - before[1]) / (after[0] - before[0])
                for before, after in itertools.pairwise(points)
            ]
            spread = math.sqrt(sum((one - rate) ** 2 for one in each) / (len(each) - 1))
            unsure = min(_UNSURE, max(_SURE, 2 * spread / math.sqrt(len(each)) / rate))
        likely = rest / rate
        return Left(likely / (1 + unsure), likely, likely / (1 - unsure))

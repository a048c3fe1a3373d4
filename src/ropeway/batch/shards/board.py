"""How far the shards of a job are, put together: counts add up, replicas are listed once."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ropeway.batch.journal.totals import Totals
from ropeway.batch.progress import Progress, Rates, ReplicaProgress
from ropeway.batch.rows import Outcome
from ropeway.batch.shards.one_shard import Done
from ropeway.phrases import joined


@dataclass
class Board:
    """What is told of the shards.

    rows    of the whole input
    before  what the journals had at the start, for shards of which nothing is told yet
    """

    rows: int
    before: Sequence[Totals]
    told: dict[int, Progress] = field(default_factory=dict)
    ended: dict[int, Done] = field(default_factory=dict)
    lost: list[Progress] = field(default_factory=list)
    """What tasks had told that died, and were begun anew: what they cost and sent counts."""

    def take(self, told: Mapping[int, Progress]) -> None:
        """Take what tasks tell of their shards."""
        for number, progress in told.items():
            before = self.told.get(number)
            if before is not None and progress.elapsed_s < before.elapsed_s:
                self.lost.append(before)
            self.told[number] = progress

    def counts(self) -> Counter[Outcome]:
        """Return how many rows have which outcome by now."""
        counts: Counter[Outcome] = Counter()
        for number, before in enumerate(self.before):
            done, progress = self.ended.get(number), self.told.get(number)
            if done is not None and done.kept is not None:
                counts.update(done.kept.counts)
            else:
                counts.update(before.counts if progress is None else dict(progress.done))
        return counts

    def kept(self) -> Totals:
        """Return what the journals of all shards have now, as those who wrote them say."""
        ended = (self.ended.get(number) for number in range(len(self.before)))
        pairs = zip(ended, self.before, strict=True)
        return sum((done.kept if done and done.kept else old for done, old in pairs), Totals())

    def progress(self, elapsed_s: float) -> Progress:
        """Return how far the job is."""
        parts = [
            _at_rest(progress) if number in self.ended else progress
            for number, progress in self.told.items()
        ]
        spent = [*parts, *self.lost]
        faults: Counter[str] = Counter()
        for part in spent:
            faults.update(part.faults)
        costs = [part.cost for part in spent if part.cost is not None]
        waiting = [part.waiting for part in parts if part.waiting]
        running = [number for number in self.told if number not in self.ended]
        return Progress(
            rows=self.rows,
            done=self.counts(),
            in_flight=sum(part.in_flight for part in parts),
            again=sum(part.again for part in spent),
            faults=faults,
            replicas=_of_each([one for part in parts for one in part.replicas]),
            rates=_sum([part.rates for part in parts]),
            elapsed_s=elapsed_s,
            waiting=joined(dict.fromkeys(waiting)) if len(waiting) == len(running) > 0 else "",
            committed_at=max((part.committed_at for part in parts), default=0.0),
            cost=sum(costs) if costs else None,
            sample=max(parts, key=lambda part: part.committed_at).sample if parts else "",
            error=next((part.error for part in parts if part.error), ""),
        )


def _at_rest(progress: Progress) -> Progress:
    """Return the progress of a shard that is over."""
    replicas = tuple(replace(one, in_flight=0, limit=0, rates=Rates()) for one in progress.replicas)
    return replace(progress, in_flight=0, rates=Rates(), replicas=replicas, waiting="")


def _sum(rates: Sequence[Rates]) -> Rates:
    return Rates(
        sum(one.rows for one in rates),
        sum(one.prompt for one in rates),
        sum(one.answer for one in rates),
    )


def _of_each(parts: Sequence[ReplicaProgress]) -> tuple[ReplicaProgress, ...]:
    """Return one line for each replica, which several shards use."""
    by_url: dict[str, list[ReplicaProgress]] = {}
    for part in parts:
        by_url.setdefault(part.url, []).append(part)
    return tuple(
        replace(
            # What works for one of them works.
            min(of_one, key=lambda one: (one.state != "working", not one.limit)),
            in_flight=sum(one.in_flight for one in of_one),
            limit=sum(one.limit for one in of_one),
            rows=sum(one.rows for one in of_one),
            rates=_sum([one.rates for one in of_one]),
        )
        for of_one in by_url.values()
    )

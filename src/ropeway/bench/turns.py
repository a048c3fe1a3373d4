"""Endpoints measured in turns: a round of each, then a round of each in the opposite order."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ropeway.bench.load_test import Conditions
from ropeway.bench.measure import Means, measure
from ropeway.bench.prompts import Recipe
from ropeway.bench.rounds import Round, round_of
from ropeway.bench.screen import Screen
from ropeway.bench.sides import Ended
from ropeway.endpoint.address import Endpoint
from ropeway.errors import RopewayError
from ropeway.phrases import phrase


@dataclass(frozen=True)
class Contender:
    """An endpoint that is measured. `folder` gets a folder for each round."""

    name: str
    endpoint: Endpoint
    conditions: Conditions
    folder: Path


@dataclass
class Turns:
    """Rounds of several endpoints. What was measured stays when one fails, or at Ctrl-C.

    recipe   of the prompts, the same for all
    fresh    the number of the first prompts: those of later rounds follow it
    rounds   those that all endpoints have, one for each of them
    ended    how it did
    failure  why it did not go on
    """

    contenders: Sequence[Contender]
    recipe: Recipe
    fresh: int
    screen: Screen
    means: Means | None = None
    rounds: list[tuple[Round, ...]] = field(default_factory=list)
    ended: Ended = "complete"
    failure: RopewayError | None = None

    def run(self, count: int, stopped: Callable[[], bool]) -> None:
        """Take so many rounds of each. `stopped` is asked whether to end early."""
        for number in range(count):
            taken: dict[int, Round] = {}
            for at in order(number, len(self.contenders)):
                title = phrase(
                    "round {number} of {count}: {name}",
                    number=number + 1,
                    count=count,
                    name=self.contenders[at].name,
                )
                try:
                    one = self._round(number, at, title, stopped)
                except RopewayError as error:
                    self.ended, self.failure = "failed", error
                    return
                if one is None:
                    self.ended = "interrupted"
                    return
                taken[at] = one
            self.rounds.append(tuple(taken[at] for at in sorted(taken)))

    def _round(self, number: int, at: int, title: str, stopped: Callable[[], bool]) -> Round | None:
        """Take one round of one endpoint; None when it was interrupted. Raises RopewayError."""
        contender = self.contenders[at]
        folder = contender.folder / f"round-{number + 1}"
        urls = [one.endpoint.url for one in self.contenders]
        fresh = self.fresh + (number * len(urls) + at if _is_one(urls) else number)
        load = replace(contender.conditions.load, fresh=fresh)
        with self.screen.step(title) as step:
            measured = measure(
                contender.endpoint,
                replace(contender.conditions, load=load),
                self.recipe,
                folder,
                self.means,
                on_progress=lambda progress: step.tick(str(progress)),
                stopped=stopped,
            )
            if measured.failure:
                raise measured.failure
            summary = measured.figures.summary
            step.ok(f"{summary.output_tokens_per_s:.1f} output tokens/s")
        if measured.ended == "interrupted" or stopped():
            return None
        return round_of(measured.figures, str(folder))


def lots_of(rounds: int, urls: Sequence[str]) -> int:
    """Return how many lots of prompts so many rounds take: one each, or one for each endpoint."""
    return rounds * (len(urls) if _is_one(urls) else 1)


def order(number: int, count: int) -> Iterator[int]:
    """Return the order of a round: every other one is reversed, so that no place is a gain."""
    return iter(range(count) if number % 2 == 0 else reversed(range(count)))


def _is_one(urls: Sequence[str]) -> bool:
    """Say whether some of the endpoints are one, which would answer what it has just read."""
    return len(set(urls)) < len(urls)

"""Endpoints, and recorded runs of endpoints, compared: the data of `compare --url`."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Literal

from ropeway.bench.load_test import NOT_STATED, Conditions, LoadTest
from ropeway.bench.rounds import (
    CLOSED,
    OPEN,
    Difference,
    Round,
    Series,
    differences,
    fastest_of,
    how_judged,
)
from ropeway.bench.versus import LEVEL
from ropeway.errors import Refused
from ropeway.phrases import Phrase, joined, phrase

Ended = Literal["complete", "interrupted", "failed"]

# What may differ between two loads whose figures can be compared. Everything else that a load test
# has, now or later, must be the same.
_MAY_DIFFER = frozenset(
    ("requests", "seed", "fresh", "warmup", "time_limit_s", "duration_s", "prompts", "goals")
)
_TOLD = ("model", "layout", "engine", "hardware", "ropeway", "label")
# Answers whose lengths differ by more are other work.
_SAME_LENGTH = 0.02


@dataclass(frozen=True)
class Side:
    """One of what is compared.

    recorded  it was measured before, by `bench`
    folder    of its raw timings
    """

    name: str
    conditions: Conditions
    rounds: tuple[Round, ...]
    folder: str
    recorded: bool = False


@dataclass(frozen=True, kw_only=True)
class SideComparison:
    """All that was compared under one load.

    load    of each round; where not in turns, of each run that was cut into rounds, the last of
            them where its number of requests or the like differs
    rounds  of each side, as was decided before the first; where not in turns, those that the
            longest run was cut into
    turns   the n-th rounds of all were measured one right after the other
    ended   early, if so: `failed` when an endpoint did
    """

    load: LoadTest
    rounds: int
    turns: bool
    sides: tuple[Side, ...]
    ended: Ended = "complete"
    command: str | None = None

    @property
    def figures(self) -> tuple[str, ...]:
        """The fields of `Round` that are judged, the headline first."""
        return OPEN if self.load.is_open else CLOSED

    @property
    def differences(self) -> tuple[Difference, ...]:
        """How each two sides compare in each figure."""
        series = [Series(side.name, side.rounds) for side in self.sides]
        return differences(series, self.figures, turns=self.turns)

    @property
    def headline(self) -> tuple[Difference, ...]:
        """How each two sides compare in the first figure."""
        return tuple(one for one in self.differences if one.figure == self.figures[0])

    @property
    def fastest(self) -> str | None:
        """The side that is faster than each of the others; None where no such is known."""
        return fastest_of([side.name for side in self.sides], self.headline)

    @property
    def failed(self) -> int:
        """Requests that failed in the rounds."""
        return sum(one.failed for side in self.sides for one in side.rounds)

    @property
    def notes(self) -> tuple[Phrase, ...]:
        """What one must know to judge the figures."""
        return (*self._how(), *_doubted(self.sides), *_unlike_lengths(self.sides), *self._told())

    def as_json(self) -> dict[str, object]:
        """Return plain data for a JSON file or `--json`."""
        return {
            "load": asdict(self.load),
            "rounds": self.rounds,
            "turns": self.turns,
            "ended": self.ended,
            "sides": [_side_as_json(side) for side in self.sides],
            "differences": [asdict(one) for one in self.differences],
            "fastest": self.fastest,
            "level": LEVEL,
            "command": self.command,
            "notes": list(map(str, self.notes)),
        }

    def _how(self) -> Iterator[Phrase]:
        if self.turns:
            yield how_judged(self.rounds, turns=True)
            if len({side.conditions.url for side in self.sides}) == len(self.sides):
                yield (
                    phrase("All got the same prompts in a round.")
                    if self.load.files
                    else phrase("All got the same new prompts in a round.")
                )
        else:
            yield how_judged(most_rounds(self.sides), turns=False)
            yield phrase("Rounds are pieces of the steady part of one run each.")
        if self.ended != "complete":
            yield phrase(
                "It ended early. Whoever stops because of what the figures show may be shown noise."
            )

    def _told(self) -> Iterator[Phrase]:
        first, *others = self.sides
        for other in others:
            for name in _TOLD:
                ours, theirs = (getattr(one.conditions, name) for one in (first, other))
                if ours != theirs and NOT_STATED not in (ours, theirs):
                    yield phrase(
                        "{name} differs: {ours} ({first}), {theirs} ({second})",
                        name=name,
                        ours=ours,
                        theirs=theirs,
                        first=first.name,
                        second=other.name,
                    )


def most_rounds(sides: Sequence[Side]) -> int:
    """Return how many rounds the side with most has."""
    return max((len(side.rounds) for side in sides), default=0)


def lots_at(url: str, load: LoadTest, recorded: Sequence[Side]) -> int:
    """Return how many lots of the rows in a load's files a server gets: of this load, and before.

    What recorded runs sent to other servers is in no cache of this one.
    """
    return load.fresh + 1 if any(side.conditions.url == url for side in recorded) else 1


def side_names(urls: Sequence[str], names: Sequence[str], runs: Sequence[str]) -> list[str]:
    """Return the names of endpoints: `names` in their order, without any their URLs.

    runs  names of what else is compared. Raises Refused where there is nothing to compare with,
    where there are not as many names as URLs, or where two have one name.
    """
    if len(urls) + len(runs) < 2:
        raise Refused(
            phrase("there is nothing to compare it with"),
            hint=phrase("give `--url` again, or `--against` the folder of a run"),
        )
    if names and len(names) != len(urls):
        raise Refused(
            phrase(
                "`--name` and `--url` do not match: {names:,} and {urls:,}",
                names=len(names),
                urls=len(urls),
            ),
            hint=phrase("name every URL, in their order, or none"),
        )
    named = list(names) or [
        f"{url} ({urls[: at + 1].count(url)})" if urls.count(url) > 1 else url
        for at, url in enumerate(urls)
    ]
    every = [*named, *runs]
    if twice := next((name for name in every if every.count(name) > 1), None):
        raise Refused(
            phrase("`{name}` stands for two of what is compared", name=twice),
            hint=phrase("give each another name with `--name`, and each folder once"),
        )
    return named


def check_alike(first: str, load: LoadTest, second: str, other: LoadTest) -> None:
    """Raise Refused where figures under two loads cannot be compared. `first`, `second`: whose."""
    ours, theirs = _must_agree(load), _must_agree(other)
    unlike = [
        phrase(
            "`{name}` is {ours} in {first} and {theirs} in {second}",
            name=name,
            ours=_plain(value),
            theirs=_plain(theirs[name]),
            first=first,
            second=second,
        )
        for name, value in ours.items()
        if value != theirs[name]
    ]
    if _kind(load) != _kind(other):
        unlike.append(
            phrase(
                "the prompts are {ours} in {first} and {theirs} in {second}",
                ours=load.prompts,
                theirs=other.prompts,
                first=first,
                second=second,
            )
        )
    if unlike:
        raise Refused(
            phrase("the loads differ, so the figures cannot be compared"),
            evidence=unlike,
            hint=phrase("leave the flags of the load out: they are those of the recorded run"),
        )


def _must_agree(load: LoadTest) -> dict[str, object]:
    """Return what of a load must be the same in another; lengths as the flags say them.

    The mean of those depends on the server too: on its chat template, and on how its tokenizer
    counts the answers in a file.
    """
    values = {
        field.name: getattr(load, field.name)
        for field in fields(LoadTest)
        if field.name not in _MAY_DIFFER
    }
    for tokens, spread in (("input_tokens", "input_range"), ("output_tokens", "output_range")):
        ends = values.pop(spread) or (values[tokens],)
        values[tokens] = "-".join(map(str, dict.fromkeys(ends)))
    return values


def _plain(value: object) -> object:
    """Return a value of a flag as people say it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple) and value:
        return joined(map(str, value), ", ")
    return phrase("not set") if value in (None, ()) else value


def _kind(load: LoadTest) -> str:
    """Return what prompts are, whether or not their length was confirmed, however often sent."""
    if load.files:
        return load.prompts.partition("; ")[0]
    return load.prompts.replace("exactly", "about")


def _doubted(sides: Sequence[Side]) -> Iterator[Phrase]:
    for side in sides:
        doubted = [one for one in side.rounds if one.doubts]
        if doubted:
            yield phrase(
                "{count} of {rounds} rounds of {name} are in doubt; in the first of them {why}",
                count=len(doubted),
                rounds=len(side.rounds),
                name=side.name,
                why=doubted[0].doubts[0],
            )


def _unlike_lengths(sides: Sequence[Side]) -> Iterator[Phrase]:
    """Yield that prompts or answers were not equally long, where the servers counted them."""
    for field, what in (
        ("input_tokens", "The prompts differ in length, so the work was not the same; tokens on"
         " average: {said}"),
        ("output_tokens", "The answers differ in length, so the work was not the same; tokens on"
         " average: {said}"),
    ):  # fmt: skip
        lengths = {
            side.name: sum(getattr(one, field) for one in side.rounds) / len(side.rounds)
            for side in sides
            if side.rounds
        }
        known = [length for length in lengths.values() if length]
        if known and max(known) > (1 + _SAME_LENGTH) * min(known):
            shown = joined((f"{name} {length:,.1f}" for name, length in lengths.items()), ", ")
            yield phrase(what, said=shown)


def _side_as_json(side: Side) -> dict[str, object]:
    conditions = side.conditions
    return {
        "name": side.name,
        "url": conditions.url,
        "model": conditions.model,
        "layout": conditions.layout,
        "engine": conditions.engine,
        "hardware": conditions.hardware,
        "started_at": conditions.started_at,
        "ropeway": conditions.ropeway,
        "label": conditions.label,
        "recorded": side.recorded,
        "folder": side.folder,
        "rounds": [asdict(one) for one in side.rounds],
    }

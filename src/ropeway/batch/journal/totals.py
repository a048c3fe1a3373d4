"""What is counted of the rows that are done, by a journal or by several together."""

from collections import Counter
from dataclasses import dataclass, field

from ropeway.batch.rows import Outcome
from ropeway.phrases import Phrase


@dataclass(kw_only=True)
class Totals:
    """Figures of rows that are done.

    counts  how many have which outcome
    again   results of rows that had one: generated more than once, and committed once
    prompt  tokens, as are those of `answer`
    damage  what is no longer on the disk as it was written, a sentence for each place
    """

    counts: Counter[Outcome] = field(default_factory=Counter)
    again: int = 0
    prompt: int = 0
    answer: int = 0
    damage: list[Phrase] = field(default_factory=list)

    def __add__(self, other: "Totals") -> "Totals":
        return Totals(
            counts=self.counts + other.counts,
            again=self.again + other.again,
            prompt=self.prompt + other.prompt,
            answer=self.answer + other.answer,
            damage=self.damage + other.damage,
        )

    def totals(self) -> "Totals":
        """Return the figures alone, as they are now."""
        return Totals() + self

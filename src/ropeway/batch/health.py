"""How a replica is, as far as it can be known from here."""

from dataclasses import dataclass
from enum import Enum

from ropeway.batch.pace import Reading


class Sign(Enum):
    """How a replica seems to be, when it is asked.

    WELL    it answers
    UNWELL  it says that it is not, which may be so for a moment
    SILENT  no answer: of it, or of the network to it
    GONE    nothing is there that could answer
    UNKNOWN it could not be asked, for a reason of our own
    """

    WELL = "well"
    UNWELL = "unwell"
    SILENT = "silent"
    GONE = "gone"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Health:
    """How a replica is, why it is not well, and what its engine says of itself."""

    sign: Sign = Sign.WELL
    fault: str = ""
    reading: Reading | None = None

    @property
    def bad(self) -> bool:
        """Whether it may be lost, and what is in flight there with it."""
        return self.sign in (Sign.UNWELL, Sign.SILENT, Sign.GONE)

"""What is left of a journal when every row was answered and the output is written.

The answers are in the output then, and nothing is left to do again, so the segments are removed
rather than kept as a second copy. Of a job with rows in its file of errors they stay, since
`--retry-errors` makes the output anew from them.
"""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ropeway.batch.journal.totals import Totals
from ropeway.batch.rows import Outcome
from ropeway.durable import PRIVATE, write_whole
from ropeway.errors import RopewayError, reason_of
from ropeway.outside import parse_json, read_bounded
from ropeway.phrases import phrase

NAME = "finished.json"
_MOST = 1 << 20


@dataclass(kw_only=True)
class Finished(Totals):
    """The figures of a job whose rows were all answered.

    size     bytes of the output
    ordered  whether it is in the order of the input
    """

    rows: int
    size: int
    ordered: bool


def write_finished(folder: Path, finished: Finished) -> None:
    """Say that the job is finished. Raises OSError."""
    counts = {outcome.name: number for outcome, number in finished.counts.items()}
    document = {**vars(finished), "counts": counts}
    write_whole(folder / NAME, json.dumps(document, indent=2).encode() + b"\n", mode=PRIVATE)


def read_finished(folder: Path) -> Finished | None:
    """Return what is left of a finished job; None for any other."""
    path = folder / NAME
    try:
        document = parse_json(read_bounded(path, _MOST))
        counts = document.pop("counts")
        figures = [document[key] for key in ("rows", "again", "prompt", "answer", "size")]
        if not all(type(number) is int for number in (*counts.values(), *figures)):
            raise TypeError
        named = Counter({Outcome[name]: number for name, number in counts.items()})
        return Finished(counts=named, **document)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = reason_of(error) if isinstance(error, OSError) else phrase("it is none of ours")
        raise RopewayError(
            phrase("the journal cannot be read: {reason}", reason=reason), where=str(path)
        ) from None

"""A run that `bench` recorded, read again, to be compared with others."""

from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import Any

import msgspec

from ropeway.bench.load_test import Conditions
from ropeway.bench.record import SCHEMA, TIMINGS, read_timings
from ropeway.bench.rounds import blocks, blocks_need
from ropeway.bench.rungs import WHOLE
from ropeway.bench.sides import Side
from ropeway.bench.stats import summarise
from ropeway.bench.sweep import RESULT
from ropeway.bench.versus import FEWEST_ROUNDS
from ropeway.errors import Refused, reason_of
from ropeway.outside import is_there, parse_json, read_bounded
from ropeway.phrases import phrase

_CONDITIONS = "conditions.json"
_LONGEST = 2**20
_BROKEN_OFF = {
    "interrupted": phrase("interrupted"),
    "server away": phrase("server away"),
    "not recorded": phrase("not recorded"),
}


def read_conditions(folder: Path) -> Conditions:
    """Return the conditions of a run. Raises Refused for a folder that is none of a run."""
    path = folder / _CONDITIONS
    if not is_there(path):
        _refuse_several(folder)
    try:
        document: Any = parse_json(read_bounded(path, _LONGEST))
        if document["schema"] != SCHEMA:
            raise ValueError(phrase("its schema is {schema}", schema=document["schema"]))
        return msgspec.convert(document, Conditions)
    except OSError as error:
        why = reason_of(error)
    except (KeyError, TypeError):
        why = phrase("it has no schema")
    except (ValueError, msgspec.ValidationError) as error:
        why = error.args[0]
    raise Refused(
        phrase("this is no run of `ropeway bench`: {why}", why=why),
        where=str(path),
        hint=phrase("name a folder with conditions.json and timings.jsonl in it"),
    )


def _refuse_several(folder: Path) -> None:
    """Raise Refused, with the first of them, for a folder that has runs in its folders."""
    of_sweep = is_there(folder / RESULT)
    try:
        runs = [one.parent for at in ("*", "*/*") for one in folder.glob(f"{at}/{_CONDITIONS}")]
    except OSError:
        return
    if not runs:
        return
    # Shorter names first: a load of 8 comes before one of 16.
    first = min(runs, key=lambda run: (len(run.parts), len(run.name), run.name))
    raise Refused(
        phrase("this is a sweep") if of_sweep else phrase("this folder holds several runs"),
        where=str(folder),
        hint=phrase("name one of its loads: {run}", run=quote(str(first)))
        if of_sweep
        else phrase("name one of them: {run}", run=quote(str(first))),
    )


def side_of_run(name: str, folder: Path, rounds: int, *, recorded: bool) -> Side:
    """Return a run as a side, its steady part cut into at most so many rounds.

    Raises Refused where it cannot be read, and where one that was `recorded` before is too short
    for three rounds.
    """
    conditions = read_conditions(folder)
    clients = conditions.load.clients
    path = folder / TIMINGS
    try:
        steady = summarise(read_timings(path), conditions.load).steady
        cut = blocks(read_timings(path), steady, clients, rounds) if steady else []
    except OSError as error:
        raise Refused(
            phrase("the timings cannot be read: {reason}", reason=reason_of(error)), where=str(path)
        ) from None
    except (ValueError, msgspec.DecodeError) as error:
        raise Refused(
            phrase("these are no timings of `ropeway bench`: {reason}", reason=error.args[0]),
            where=str(path),
        ) from None
    if recorded and len(cut) < FEWEST_ROUNDS:
        raise Refused(
            phrase(
                "the steady part of the run is too short to be cut into {count} rounds",
                count=FEWEST_ROUNDS,
            ),
            where=str(folder),
            hint=phrase(
                "measure it again with `--requests {requests}` or more",
                requests=blocks_need(clients),
            ),
        )
    doubts = _doubts(folder / "summary.json")
    rounds_of = tuple(replace(one, doubts=doubts) for one in cut)
    return Side(name, conditions, rounds_of, str(folder), recorded)


def _doubts(path: Path) -> tuple[str, ...]:
    """Return why a run is not to be trusted, as it said itself, or that it did not get so far."""
    try:
        document: Any = parse_json(read_bounded(path, _LONGEST))
        ended: str = msgspec.convert(document["ended"], str)
        doubts = msgspec.convert(document["doubts"], tuple[str, ...])
    except (OSError, ValueError, KeyError, TypeError, msgspec.ValidationError):
        return (phrase("its own verdict is missing, as that of a run that was killed"),)
    if ended in WHOLE:
        return doubts
    return (phrase("it ended early: {ended}", ended=_BROKEN_OFF.get(ended, ended)), *doubts)

"""Is what became of each row what the endpoints said of it? Knows nothing of Ropeway.

`batch_endpoint.py` notes what it takes and what it says. A row has one outcome, which must be what
was said to one of its sendings, named in its line of the output; nothing of it may be sent after
that, and what was said before must have been lost for a reason that is known: a kill, an engine
that died, a file that was cut. The clock is that of the whole machine.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

# An answer so long before an end, of the job's process or of an engine's, is on the disk by then,
# but for the time that the disk itself takes.
PEACE_S = 1.0
# So long an endpoint may go on to answer a process that is gone, until it notices.
_UNHEARD_S = 0.5
# A row that failed so long before its engine was found dead may be what it died of.
_NEAR_S = 10.0
# Rows that may be sent into an outage: what is in flight, and half of it after each pause.
_MOST_INTO_OUTAGE = 500
_LAST_WORDS = {"answered", "cut", "refused"}
_NO_WORDS = "nothing"
_SHOWN = 5


@dataclass
class Sending:
    """One sending of a row: `life` of the job's process, `number` of the row's sendings in it.

    said   what it got, and when; "nothing" while it has got nothing
    """

    server: int
    life: str
    ordinal: int
    number: int
    taken: float
    at: float
    said: str = _NO_WORDS


@dataclass
class Told:
    """What the endpoints say. `deaths`: of their processes; `lives` in their order."""

    sendings: dict[str, Sending] = field(default_factory=dict)
    deaths: dict[int, float] = field(default_factory=dict)
    lives: list[str] = field(default_factory=list)

    def order(self, sending: Sending) -> tuple[int, int]:
        """Return when a row was sent, among its sendings."""
        return self.lives.index(sending.life), sending.number


@dataclass(frozen=True)
class Row:
    """What became of a row. `sending`: which one got the answer, empty without one."""

    outcome: str
    sending: str = ""


@dataclass
class Losses:
    """When answers may have been lost: at each end of the job's process what had come lately, and
    all that came before a file of its journal was cut.

    ends       of the process: when it was killed, and when it was gone
    slowest_s  the longest that the disk took to sync
    """

    ends: list[tuple[float, float]] = field(default_factory=list)
    before: float = 0.0
    slowest_s: float = 0.0


def read_said(path: Path) -> Told:
    """Return what the endpoints' record says."""
    told = Told()
    for line in path.read_text().splitlines():
        server, name, at, said = line.split()
        if name == "-":
            told.deaths[int(server)] = float(at)
            continue
        if said == "taken":
            life, ordinal, number = (*name.split("-"), "0")[:3]
            if life not in told.lives:
                told.lives.append(life)
            told.sendings[name] = Sending(
                int(server), life, int(ordinal), int(number), float(at), float(at)
            )
        else:
            told.sendings[name].said, told.sendings[name].at = said, float(at)
    return told


def read_rows(output: Path, errors: Path) -> dict[int, Row]:
    """Return what became of each row, by its ordinal."""
    rows = {}
    for path in (output, errors):
        for line in path.read_bytes().splitlines():
            document = json.loads(line)
            response, error = document["response"] or {}, document["error"]
            outcome = error["code"] if error else "answered"
            if not error and response["body"]["choices"][0]["finish_reason"] == "length":
                outcome = "cut"
            row = Row(outcome, response.get("request_id", ""))
            rows[int(document["custom_id"].removeprefix("r"))] = row
    return rows


def disagreements(told: Told, rows: dict[int, Row], losses: Losses) -> list[str]:
    """Return where rows and endpoints disagree."""
    sent = defaultdict(list)
    for name, sending in told.sendings.items():
        sent[sending.ordinal].append((name, sending))
    found: list[str] = []
    for kind in (
        (fault for ordinal, row in rows.items() for fault in _of_row(told, ordinal, row)),
        _sent_again(told, rows, sent),
        _lost(told, rows, losses),
        _poisoned(told, rows, sent),
        _two_at_once(told),
        _into_outage(told),
    ):
        faults = list(kind)
        found += faults[:_SHOWN]
        if len(faults) > _SHOWN:
            found.append(f"… and {len(faults) - _SHOWN} more of these")
    return found


def _of_row(told: Told, ordinal: int, row: Row) -> Iterator[str]:
    """An answer is what was said to just this sending, of just this row."""
    if row.outcome not in _LAST_WORDS:
        return
    sending = told.sendings.get(row.sending)
    if sending is None or sending.ordinal != ordinal:
        yield f"r{ordinal} is {row.outcome} by {row.sending}, which is no sending of it"
    elif sending.said != row.outcome:
        yield f"r{ordinal} is {row.outcome}, and {row.sending} was told: {sending.said}"


_Sent = dict[int, list[tuple[str, Sending]]]


def _sent_again(told: Told, rows: dict[int, Row], sent: _Sent) -> Iterator[str]:
    """Nothing of a row is sent after its answer."""
    for ordinal, row in rows.items():
        if kept := told.sendings.get(row.sending):
            for name, sending in sent[ordinal]:
                if told.order(sending) > told.order(kept):
                    yield f"r{ordinal} has the answer to {row.sending}, and was sent again: {name}"


def _lost(told: Told, rows: dict[int, Row], losses: Losses) -> Iterator[str]:
    """An answer that nothing disturbed is the one that is kept."""
    peace_s = PEACE_S + losses.slowest_s
    for name, sending in told.sendings.items():
        if sending.said not in _LAST_WORDS or sending.at < losses.before:
            continue
        died = told.deaths.get(sending.server, 0.0)
        ends = [*losses.ends, (died, died)]
        if any(killed - peace_s <= sending.at <= gone + _UNHEARD_S for killed, gone in ends):
            continue
        row = rows.get(sending.ordinal)
        if row is None or row.sending != name:
            kept = row.sending or row.outcome if row else "nothing"
            yield f"{name} was told: {sending.said}, and r{sending.ordinal} has {kept}"


def _poisoned(told: Told, rows: dict[int, Row], sent: _Sent) -> Iterator[str]:
    """In one life two engines died soon after they had failed such a row."""
    for ordinal, row in rows.items():
        if row.outcome == "poison":
            with_it = {
                (sending.life, sending.server)
                for _, sending in sent[ordinal]
                if sending.said not in _LAST_WORDS and _died_after(told, sending)
            }
            deaths = Counter(life for life, _ in with_it)
            if max(deaths.values(), default=0) < 2:
                yield f"r{ordinal} is poison, and engines died with it: {dict(deaths)}"


def _died_after(told: Told, sending: Sending) -> bool:
    died = told.deaths.get(sending.server)
    return died is not None and died - sending.at < _NEAR_S


def _two_at_once(told: Told) -> Iterator[str]:
    """Of two processes on one job only one sends."""
    taken: dict[str, list[float]] = {}
    for sending in told.sendings.values():
        taken.setdefault(sending.life, []).append(sending.taken)
    for one, other in pairwise(told.lives):
        if min(taken[other]) < max(taken[one]):
            yield f"{one} and {other} sent rows at the same time"


def _into_outage(told: Told) -> Iterator[str]:
    """What is sent into an outage ends soon."""
    count = Counter(one.server for one in told.sendings.values() if one.said == "outage")
    for server, number in count.items():
        if number > _MOST_INTO_OUTAGE:
            yield f"{number} rows were sent into the outage of process {server}"

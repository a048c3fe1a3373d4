"""Several measurements of one endpoint, one after another, each with another load: the data.

What they say together is computed here and drawn in `ropeway.report`; `bench.sweep` measures them.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

from ropeway.bench.figures import Figures, Goodput, Quantiles
from ropeway.bench.load_test import LoadTest
from ropeway.phrases import Phrase, phrase

By = Literal["clients", "rate"]
Ended = Literal["complete", "interrupted", "not recorded", "failed"]

WHOLE = ("complete", "time limit")
"""How a measurement ended that was not broken off."""

# From the knee on, tokens/s rise by less than this, and latency by more.
_RISE = 1.05


@dataclass(frozen=True)
class Rung:
    """One measurement.

    name    also of its folder, below that of all
    ended   how its run ended
    """

    name: str
    load: LoadTest
    figures: Figures
    ended: str

    @property
    def tokens_per_s(self) -> float:
        """Output tokens per second of the steady part; of the whole run where there is none."""
        summary = self.figures.summary
        return (summary.steady or summary).output_tokens_per_s

    @property
    def requests_per_s(self) -> float:
        """Requests that were answered per second, likewise."""
        summary = self.figures.summary
        return (summary.steady or summary).requests_per_s

    @property
    def concurrency(self) -> float:
        """Requests in flight on average, likewise."""
        summary = self.figures.summary
        return (summary.steady or summary).concurrency

    @property
    def ttft_s(self) -> Quantiles | None:
        """Time to first token: from when requests were due; in a closed loop likewise."""
        summary = self.figures.summary
        return summary.due_ttft_s or (summary.steady or summary).ttft_s

    @property
    def tpot_s(self) -> Quantiles | None:
        """Time per output token, likewise."""
        summary = self.figures.summary
        return (summary.steady or summary).tpot_s

    @property
    def e2e_s(self) -> Quantiles | None:
        """From begin to end: from when requests were due; in a closed loop likewise."""
        summary = self.figures.summary
        return summary.due_e2e_s or (summary.steady or summary).e2e_s

    @property
    def goodput(self) -> Goodput | None:
        """Requests that met every goal, likewise; None: there are no goals."""
        summary = self.figures.summary
        return (summary.steady or summary).goodput

    def asked(self, by: By) -> float:
        """Return the value that was asked for: clients, or requests per second."""
        return self.load.rate or 0.0 if by == "rate" else float(self.load.clients)

    def as_json(self) -> dict[str, object]:
        """Return plain data."""
        load = asdict(self.load)
        return {"name": self.name, "load": load, **self.figures.as_json(), "ended": self.ended}


@dataclass(frozen=True)
class Knee:
    """From which load on more of it brings no more.

    gain      tokens/s at the largest load, as a share of those at the knee
    slower    end-to-end latency there, likewise
    """

    by: By
    at: float
    largest: float
    gain: float
    slower: float

    def __str__(self) -> str:
        return self.sentence

    @property
    def sentence(self) -> Phrase:
        """Say it: `the knee is at 64 clients: 256 give 1.01 times the tokens/s …`."""
        values = {"at": self.at, "largest": self.largest, "gain": self.gain, "slower": self.slower}
        if self.by == "rate":
            return phrase(
                "the knee is at {at:g} requests/s: {largest:g} give {gain:.2f} times the tokens/s,"
                " and an answer takes {slower:.2g} times as long",
                **values,
            )
        return phrase(
            "the knee is at {at:,.0f} clients: {largest:,.0f} give {gain:.2f} times the tokens/s,"
            " and an answer takes {slower:.2g} times as long",
            **values,
        )


def knee(rungs: Sequence[Rung], by: By) -> Knee | None:
    """Return the least load beyond which no rung has 5 % more tokens/s, and all take longer.

    None where every step up still brings something, or nothing was measured beyond.
    """
    whole = [rung for rung in rungs if rung.ended in WHOLE and rung.e2e_s]
    whole.sort(key=lambda rung: rung.asked(by))
    for place, rung in enumerate(whole[:-1]):
        beyond = whole[place + 1 :]
        took = rung.e2e_s.p50 if rung.e2e_s else 0.0
        slower = [other.e2e_s.p50 / took for other in beyond if other.e2e_s and took]
        gains = [other.tokens_per_s / rung.tokens_per_s for other in beyond if rung.tokens_per_s]
        if gains and slower and max(gains) < _RISE < min(slower):
            largest = beyond[-1].asked(by)
            return Knee(by, rung.asked(by), largest, gains[-1], slower[-1])
    return None


@dataclass(frozen=True)
class Found:
    """What `--find-max` has found.

    rate        requests per second; None: even the lowest that was tried did not hold
    confirmed   whether a run of its own, twice as long, held it
    fails_at    the lowest rate that did not hold; None: each did
    share       of requests that were to meet the goals; without goals: that were to be answered
    verdicts    by the name of each probe, `holds`, or why it did not, of that probe alone
    doubts      why it is not to be trusted; none: it is
    """

    rate: float | None
    confirmed: bool
    fails_at: float | None
    share: float
    sentence: Phrase
    verdicts: dict[str, Phrase] = field(default_factory=dict)
    doubts: tuple[Phrase, ...] = ()

    def as_json(self) -> dict[str, object]:
        """Return plain data."""
        return {
            "rate": self.rate,
            "confirmed": self.confirmed,
            "fails_at": self.fails_at,
            "share": self.share,
            "sentence": str(self.sentence),
            "verdicts": {name: str(verdict) for name, verdict in self.verdicts.items()},
            "doubts": [str(doubt) for doubt in self.doubts],
        }


@dataclass(frozen=True)
class Sweep:
    """Several measurements: what each of them was, and what they say together.

    by     what differs between them
    ended  `failed`: the server did not answer a later one at all
    knee   None: there is none, or a highest rate was looked for
    found  None: no highest rate was looked for
    """

    by: By
    rungs: tuple[Rung, ...]
    ended: Ended
    knee: Knee | None = None
    found: Found | None = None

    @property
    def succeeded(self) -> bool:
        """Whether it was measured to the end: a highest rate confirmed, or no request failed."""
        if self.ended != "complete":
            return False
        if self.found is not None:
            return self.found.confirmed
        summaries = [rung.figures.summary for rung in self.rungs]
        return all(one.completed and not one.failed for one in summaries)

    def as_json(self) -> dict[str, object]:
        """Return plain data."""
        knee = asdict(self.knee) | {"sentence": str(self.knee)} if self.knee else None
        return {
            "by": self.by,
            "rungs": [rung.as_json() for rung in self.rungs],
            "knee": knee,
            "found": self.found.as_json() if self.found else None,
            "ended": self.ended,
        }

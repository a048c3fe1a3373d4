"""What was seen of the server while a load was sent: lines of two files in the run's folder.

`server.jsonl` has what its engines said of themselves, `npus.jsonl` what its hosts said of their
NPUs. Times are seconds from the start of the measurement.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import msgspec

from ropeway.endpoint.metrics import Histogram, Reading

SERVER, NPUS = "server.jsonl", "npus.jsonl"

# A Phrase is written as the text that it is.
_ENCODER = msgspec.json.Encoder(enc_hook=str)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What the engines said at one moment; see `endpoint.metrics.Reading`.

    at      of the answer; 0 or less: of the server before anything was sent
    took_s  until the answer was there
    missed  why there was none; all that follows is None then
    """

    at: float
    took_s: float = 0.0
    missed: str | None = None
    engines: int | None = None
    running: float | None = None
    waiting: float | None = None
    kv_use: float | None = None
    kv_fullest: float | None = None
    preemptions: float | None = None
    prompt_tokens: float | None = None
    generation_tokens: float | None = None
    prefix_queries: float | None = None
    prefix_hits: float | None = None
    ttft: Histogram | None = None

    @staticmethod
    def of(reading: Reading, at: float, took_s: float) -> "Sample":
        """Return a reading with its time, both to the microsecond."""
        values = {field.name: getattr(reading, field.name) for field in fields(reading)}
        return Sample(at=round(at, 6), took_s=round(took_s, 6), **values)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostNpus:
    """What one host said of its NPUs, in the order of its table; None where it does not say it.

    aicore   percent of the time in which the AI cores worked
    hbm_use  share of the memory that is in use
    missed   why it said nothing
    """

    host: str
    aicore: tuple[int | None, ...] = ()
    hbm_use: tuple[float | None, ...] = ()
    missed: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NpuSample:
    """What all hosts said at one moment."""

    at: float
    hosts: tuple[HostNpus, ...]


@dataclass(frozen=True)
class Seen:
    """What was seen.

    not_told   why the engines told nothing
    unwritten  files that do not have all of it
    """

    samples: Sequence[Sample] = ()
    npus: Sequence[NpuSample] = ()
    not_told: str | None = None
    unwritten: tuple[str, ...] = ()


def line_of(sample: Sample | NpuSample) -> bytes:
    """Return a line of its file."""
    return _ENCODER.encode(sample) + b"\n"

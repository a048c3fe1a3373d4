"""What the engines behind a server say of themselves: vLLM's `/metrics`, Prometheus' text format.

Names and labels are those of vllm/v1/metrics/loggers.py (0.32.0), and of earlier releases where
they differ: a release that renames a series may serve it under both names for a while.
"""

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LONGEST_METRICS = 4 * 2**20

_TTFT = "time_to_first_token_seconds"
# What a figure is called, the newest name first.
_NAMES: Mapping[str, tuple[str, ...]] = {
    "running": ("num_requests_running",),
    "waiting": ("num_requests_waiting",),
    "kv_use": ("kv_cache_usage_perc", "gpu_cache_usage_perc"),
    "preemptions": ("num_preemptions_total",),
    "prompt_tokens": ("prompt_tokens_total",),
    "generation_tokens": ("generation_tokens_total",),
    "prefix_queries": ("prefix_cache_queries_total", "gpu_prefix_cache_queries_total"),
    "prefix_hits": ("prefix_cache_hits_total", "gpu_prefix_cache_hits_total"),
    "ttft_count": (f"{_TTFT}_count",),
    "ttft_sum": (f"{_TTFT}_sum",),
    "ttft_bucket": (f"{_TTFT}_bucket",),
}
# A label's value may have braces in it.
_SERIES = re.compile(
    rf"^vllm:({'|'.join(name for names in _NAMES.values() for name in names)})"
    r"(?:\{([^\n]*)\})?[ \t]+(\S+)".encode(),
    re.MULTILINE,
)
_BOUND = re.compile(rb'(?:^|,)le="([^"]+)"')


@dataclass(frozen=True, slots=True)
class Histogram:
    """Durations since the engines started.

    total_s  their sum
    buckets  bounds in seconds, each with how many durations were within it
    """

    count: float
    total_s: float
    buckets: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """What a server's engines say of themselves; None where they do not.

    running, waiting  requests of all engines, as those that follow are of all
    preemptions       and what follows: since the engines started
    prefix_queries    tokens of prompts that were looked up in the prefix cache
    prefix_hits       of these, tokens that were there
    engines           one, or one for each DP rank
    kv_use            share of the KV cache that is in use, the mean of the engines
    kv_fullest        the same of the engine that has most of it in use
    """

    running: float
    waiting: float
    preemptions: float | None = None
    prompt_tokens: float | None = None
    generation_tokens: float | None = None
    prefix_queries: float | None = None
    prefix_hits: float | None = None
    engines: int = 1
    kv_use: float | None = None
    kv_fullest: float | None = None
    ttft: Histogram | None = None


def read_metrics(text: bytes) -> Reading | None:
    """Return what `/metrics` says; None where it says nothing of vLLM's."""
    found: dict[str, list[tuple[bytes, float]]] = defaultdict(list)
    for name, labels, value in _SERIES.findall(text):
        found[name.decode()].append((labels, _number(value)))

    def values(figure: str) -> list[float]:
        name = next((name for name in _NAMES[figure] if name in found), "")
        return [value for _, value in found[name]]

    running, waiting = _sum(values("running")), _sum(values("waiting"))
    if running is None or waiting is None:
        return None
    cache = values("kv_use")
    known = bool(cache) and all(0 <= value <= 1 for value in cache)
    return Reading(
        running,
        waiting,
        preemptions=_sum(values("preemptions")),
        prompt_tokens=_sum(values("prompt_tokens")),
        generation_tokens=_sum(values("generation_tokens")),
        prefix_queries=_sum(values("prefix_queries")),
        prefix_hits=_sum(values("prefix_hits")),
        engines=len(values("running")),
        kv_use=sum(cache) / len(cache) if known else None,
        kv_fullest=max(cache) if known else None,
        ttft=_histogram(
            _sum(values("ttft_count")), _sum(values("ttft_sum")), found[f"{_TTFT}_bucket"]
        ),
    )


def together(readings: Sequence[Reading]) -> Reading:
    """Return what several servers say, as if they were one."""
    if len(readings) == 1:
        return readings[0]

    def added(figure: str) -> float | None:
        values = [getattr(reading, figure) for reading in readings]
        return None if None in values else sum(values)

    engines = sum(reading.engines for reading in readings)
    cache = [(one.kv_use, one.kv_fullest, one.engines) for one in readings]
    known = [(use, most, n) for use, most, n in cache if use is not None and most is not None]
    all_known = len(known) == len(readings)
    return Reading(
        sum(reading.running for reading in readings),
        sum(reading.waiting for reading in readings),
        preemptions=added("preemptions"),
        prompt_tokens=added("prompt_tokens"),
        generation_tokens=added("generation_tokens"),
        prefix_queries=added("prefix_queries"),
        prefix_hits=added("prefix_hits"),
        engines=engines,
        kv_use=sum(use * n for use, _, n in known) / engines if all_known else None,
        kv_fullest=max(most for _, most, _ in known) if all_known else None,
        ttft=_joined([reading.ttft for reading in readings]),
    )


def _number(text: bytes) -> float:
    """Return a value, NaN for what is none that a count or a share can have."""
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if value >= 0 else math.nan


def _sum(values: Sequence[float]) -> float | None:
    """Return the sum over all engines; None where one of them has no number."""
    total = sum(values)
    return total if values and math.isfinite(total) else None


def _histogram(
    count: float | None, total: float | None, buckets: Sequence[tuple[bytes, float]]
) -> Histogram | None:
    """Return the histogram of all engines, its buckets by bound without the last, infinite one."""
    if count is None or total is None:
        return None
    within: dict[float, float] = defaultdict(float)
    for labels, number in buckets:
        bound = _BOUND.search(labels)
        if bound is None or math.isnan(number):
            return Histogram(count, total, ())
        within[_number(bound[1])] += number
    finite = (bound for bound in within if math.isfinite(bound))
    return Histogram(count, total, tuple((bound, within[bound]) for bound in sorted(finite)))


def _joined(histograms: Sequence[Histogram | None]) -> Histogram | None:
    known = [one for one in histograms if one is not None]
    if len(known) < len(histograms):
        return None
    within: dict[float, float] = defaultdict(float)
    for bound, number in (pair for one in known for pair in one.buckets):
        within[bound] += number
    alike = len({tuple(bound for bound, _ in one.buckets) for one in known}) == 1
    return Histogram(
        sum(one.count for one in known),
        sum(one.total_s for one in known),
        tuple(sorted(within.items())) if alike else (),
    )

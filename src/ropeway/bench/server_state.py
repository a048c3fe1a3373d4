"""From what was seen of the server during a run to figures. Pure."""

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from statistics import fmean, median

from ropeway.bench.causes import causes
from ropeway.bench.figures import Bounds, EngineTtft, Level, NpuUse, ServerState, Summary
from ropeway.bench.samples import HostNpus, NpuSample, Sample, Seen
from ropeway.endpoint.metrics import Histogram
from ropeway.phrases import Phrase, phrase

# Of the engines' requests and ours so many may differ before they are not the same.
_SAME = 0.01
_COUNTERS: tuple[Callable[[Sample], float | None], ...] = (
    lambda one: one.preemptions,
    lambda one: one.prompt_tokens,
    lambda one: one.generation_tokens,
    lambda one: one.prefix_queries,
    lambda one: one.prefix_hits,
)


def server_state(seen: Seen, summary: Summary) -> ServerState:
    """Return what the server said of itself during a run that has these figures."""
    answered = [sample for sample in seen.samples if sample.missed is None]
    inside = [sample for sample in answered if summary.begins_s < sample.at <= summary.ends_s]
    state = ServerState(
        asked=len(seen.samples),
        samples=len(answered),
        not_told=seen.not_told,
        engines=max((sample.engines or 0 for sample in answered), default=None),
        running=_level(sample.running for sample in inside),
        waiting=_level(sample.waiting for sample in inside),
        kv_use=_level(sample.kv_use for sample in inside),
        npus=_npu_use(seen.npus, summary),
        notes=(*_notes(seen.samples, answered, summary), *map(_unwritten, seen.unwritten)),
    )
    if not _restarted(answered) and _covers(answered, summary):
        state = _with_counts(state, answered[0], answered[-1], summary)
    return replace(state, causes=causes(seen.samples, state, summary))


def _with_counts(state: ServerState, first: Sample, last: Sample, summary: Summary) -> ServerState:
    """Return the state with what was counted between two samples."""
    generated = _between(first.generation_tokens, last.generation_tokens)
    queries = _between(first.prefix_queries, last.prefix_queries)
    hits = _between(first.prefix_hits, last.prefix_hits)
    known = generated is not None and summary.duration_s > 0
    return replace(
        state,
        preemptions=_between(first.preemptions, last.preemptions),
        prompt_tokens=_between(first.prompt_tokens, last.prompt_tokens),
        generation_tokens=generated,
        generation_tokens_per_s=(generated or 0) / summary.duration_s if known else None,
        prefix_hits=hits / queries if queries and hits is not None else None,
        ttft=_ttft(first.ttft, last.ttft, summary),
    )


def _ttft(first: Histogram | None, last: Histogram | None, summary: Summary) -> EngineTtft | None:
    """Return the engines' own time to first token between two samples."""
    if first is None or last is None or last.count <= first.count:
        return None
    requests = round(last.count - first.count)
    mean = (last.total_s - first.total_s) / requests
    ours, same = summary.ttft_s, abs(requests - summary.completed) <= _SAME * summary.completed
    before = dict(first.buckets)
    alike = before.keys() == dict(last.buckets).keys()
    within = [(bound, number - before[bound]) for bound, number in last.buckets] if alike else []
    return EngineTtft(
        requests=requests,
        mean_s=mean,
        p50_s=_bounds(within, requests, 0.5),
        p99_s=_bounds(within, requests, 0.99),
        between_s=ours.mean - mean if ours and same else None,
    )


def _bounds(within: Sequence[tuple[float, float]], requests: int, share: float) -> Bounds | None:
    """Return the bounds between which a quantile lies, by how many durations each bound holds."""
    if not within:
        return None
    least = 0.0
    for bound, number in within:
        if number >= share * requests:
            return Bounds(least, bound)
        least = bound
    return Bounds(least, None)


def _npu_use(samples: Sequence[NpuSample], summary: Summary) -> tuple[NpuUse, ...]:
    """Return the use of the NPUs by host, in the hosts' order."""
    by_host: dict[str, list[HostNpus]] = defaultdict(list)
    for sample in samples:
        if summary.begins_s < sample.at <= summary.ends_s:
            for host in sample.hosts:
                by_host[host.host].append(host)
    return tuple(_of_host(name, told) for name, told in by_host.items())


def _of_host(name: str, told: Sequence[HostNpus]) -> NpuUse:
    answered = [host for host in told if host.missed is None]
    npus = max((len(host.aicore) for host in answered), default=0)
    whole = [host for host in answered if len(host.aicore) == npus]
    working = [at for at in range(npus) if any(host.aicore[at] for host in whole)]
    means, most = [], []
    for host in whole:
        known = [value for at in working if (value := host.aicore[at]) is not None]
        if known:
            means.append(fmean(known) / 100)
            most.append(max(known) / 100)
    memory = [use for host in answered for use in host.hbm_use if use is not None]
    missed = [host.missed for host in told if host.missed is not None]
    return NpuUse(
        host=name,
        npus=npus,
        working=len(working),
        aicore=Level(median(means), max(most)) if means else None,
        hbm_use=max(memory, default=None),
        samples=len(answered),
        asked=len(told),
        missed=missed[-1] if missed else None,
    )


def _notes(
    samples: Sequence[Sample], answered: Sequence[Sample], summary: Summary
) -> tuple[Phrase, ...]:
    """Return what is missing of the engines' figures, and why."""
    if not answered:
        return ()
    notes = []
    if missed := [sample.missed for sample in samples if sample.missed is not None]:
        notes.append(
            phrase(
                "{missed:,} of {asked:,} times the engine's figures were not there: {why}",
                missed=len(missed),
                asked=len(samples),
                why=missed[-1],
            )
        )
    if _restarted(answered):
        notes.append(phrase("an engine was started again during the run: its counts are not told"))
    elif not _covers(answered, summary):
        notes.append(
            phrase("the engine did not answer right before and after the run: no counts of it")
        )
    return tuple(notes)


def _unwritten(name: str) -> Phrase:
    return phrase("`{name}` could not be written whole", name=name)


def _restarted(answered: Sequence[Sample]) -> bool:
    """Return whether a count fell: that is one of an engine that began anew."""
    for counter in _COUNTERS:
        known = [value for sample in answered if (value := counter(sample)) is not None]
        if any(after < before for before, after in itertools.pairwise(known)):
            return True
    return False


def _covers(answered: Sequence[Sample], summary: Summary) -> bool:
    """Return whether the first sample is from before the run and the last from after it."""
    if not answered:
        return False
    return answered[0].at <= summary.begins_s and answered[-1].at >= summary.ends_s


def _level(values: Iterable[float | None]) -> Level | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return Level(median(known), max(known)) if known else None


def _between(first: float | None, last: float | None) -> int | None:
    return None if first is None or last is None else round(last - first)

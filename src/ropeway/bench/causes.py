"""Why figures are what they are, as far as what the server said of itself shows it. Pure.

Each sentence has the figures that it follows from. Where they leave several explanations there is
none, or only what was seen.
"""

from collections.abc import Sequence
from statistics import fmean, median

from ropeway.bench.figures import ServerState, Summary
from ropeway.bench.samples import Sample
from ropeway.phrases import Phrase, phrase
from ropeway.units import format_seconds

# Fewer samples show nothing.
_FEWEST = 3
# Requests that wait between two steps of an engine are no queue: in so many samples, and so many of
# those that run, on average, are.
_OFTEN, _QUEUE = 0.5, 0.05
# The engine admits nobody whose prompt does not fit, so a cache that holds up others is not quite
# full.
_FULL = 0.9
# At the most that ever ran, or nearly, in most of the samples with others waiting: a limit.
_AT_MOST, _MOSTLY = 0.98, 0.8
_IDLE = 0.1
# What is in flight and not in the engine, or in it and not ours: so many requests, and so large a
# share, are no matter of when samples were taken.
_ELSEWHERE, _ELSEWHERE_SHARE = 2.0, 0.2
_OTHERS = 1.05
_CACHED = 0.1
_SLOW_S, _SLOWER = 0.1, 5.0

_WAITED_FULL = (
    "on average {waiting:,.0f} requests waited in the engine: its KV cache was full ({kv:.0%})"
)
_WAITED_ONE_FULL = (
    "on average {waiting:,.0f} requests waited in the engines: the KV cache of the fullest of"
    " {engines} was full ({kv:.0%})"
)
_WAITED_LIMITED = (
    "on average {waiting:,.0f} requests waited in the engine: it runs at most {most:,.0f} at once"
    " (`--max-num-seqs`, in a spec `serve.max_sequences`), for no more ran while others waited,"
    " with the KV cache {kv:.0%} full"
)
_WAITED_LIMITED_FULL = (
    "on average {waiting:,.0f} requests waited in the engine: no more than {most:,.0f} ran, with"
    " the KV cache {kv:.0%} full; either may be the limit"
)
_WAITED = (
    "on average {waiting:,.0f} requests waited in the engine while {running:,.0f} ran: neither a"
    " full KV cache ({kv:.0%}) nor a fixed number of requests held them back"
)
_WAITED_LIMITED_CACHE_NOT_TOLD = (
    "on average {waiting:,.0f} requests waited in the engine, and no more than {most:,.0f} ran; how"
    " full its KV cache was is not told"
)
_WAITED_CACHE_NOT_TOLD = (
    "on average {waiting:,.0f} requests waited in the engine while {running:,.0f} ran; how full its"
    " KV cache was is not told"
)


def causes(samples: Sequence[Sample], state: ServerState, summary: Summary) -> tuple[Phrase, ...]:
    """Return why; nothing where too little is known."""
    whole = [
        sample
        for sample in samples
        if sample.missed is None and summary.begins_s < sample.at <= summary.ends_s
    ]
    steady, found = summary.steady, []
    if len(whole) >= _FEWEST:
        inside = [one for one in whole if steady and steady.begins_s <= one.at <= steady.ends_s]
        if len(inside) < _FEWEST:
            inside, steady = whole, None
        ours = steady.concurrency if steady else summary.concurrency
        found += [
            _waiting(inside),
            _elsewhere(inside, ours),
            _idle(inside, ours),
            _room(inside, ours, summary),
            _front_end(samples, inside),
        ]
    found += [_preempted(state), _others(state, summary), _cached(state)]
    return tuple(cause for cause in found if cause is not None)


def _waiting(inside: Sequence[Sample]) -> Phrase | None:
    """Say what requests waited for in the engine."""
    held = [sample for sample in inside if _waits(sample) >= 1]
    waiting, running = fmean(map(_waits, inside)), fmean(map(_runs, inside))
    if len(held) < _OFTEN * len(inside) or waiting < max(1.0, _QUEUE * running):
        return None
    cache = [use for sample in held if (use := sample.kv_fullest) is not None]
    kv = fmean(cache) if len(cache) == len(held) else None
    most = max(map(_runs, held))
    limited = sum(_runs(sample) >= _AT_MOST * most for sample in held) >= _MOSTLY * len(held)
    engines = held[-1].engines or 1
    values = {"waiting": waiting, "running": running, "most": most, "kv": kv, "engines": engines}
    if kv is None:
        if limited:
            return phrase(_WAITED_LIMITED_CACHE_NOT_TOLD, **values)
        return phrase(_WAITED_CACHE_NOT_TOLD, **values)
    if kv < _FULL:
        return phrase(_WAITED_LIMITED, **values) if limited else phrase(_WAITED, **values)
    if limited:
        return phrase(_WAITED_LIMITED_FULL, **values)
    return phrase(_WAITED_FULL if engines == 1 else _WAITED_ONE_FULL, **values)


def _elsewhere(inside: Sequence[Sample], ours: float) -> Phrase | None:
    """Say that requests were in flight and not in the engine."""
    there = _in_engine(inside)
    if ours - there < max(_ELSEWHERE, _ELSEWHERE_SHARE * ours):
        return None
    return phrase(
        "of {ours:,.0f} requests in flight {there:,.0f} were in the engine on average: the others"
        " were before or behind it, in the server's HTTP, in the network, or with us",
        ours=ours,
        there=there,
    )


def _idle(inside: Sequence[Sample], ours: float) -> Phrase | None:
    """Say that the engine had nothing to do, and whose fault that is."""
    idle = sum(_runs(one) + _waits(one) == 0 for one in inside)
    if idle < max(2, _IDLE * len(inside)):
        return None
    share = idle / len(inside)
    if _elsewhere(inside, ours):
        return phrase("the engine was idle in {share:.0%} of the samples", share=share)
    return phrase(
        "the engine was idle in {share:.0%} of the samples: the load was too small for it"
        " ({ours:.2g} requests in flight on average)",
        share=share,
        ours=ours,
    )


def _room(inside: Sequence[Sample], ours: float, summary: Summary) -> Phrase | None:
    """Say that the engine had room for more, where clients alone set the pace."""
    waited = sum(_waits(one) >= 1 for one in inside)
    cache = [use for sample in inside if (use := sample.kv_fullest) is not None]
    full = len(cache) < len(inside) or max(cache) >= _FULL
    if summary.due_per_s is not None or waited or full or _elsewhere(inside, ours):
        return None
    return phrase(
        "no request waited in the engine, which ran {running:,.0f} on average with its KV cache at"
        " most {kv:.0%} full: more clients may get more tokens/s from it",
        running=fmean(map(_runs, inside)),
        kv=max(cache),
    )


def _front_end(samples: Sequence[Sample], inside: Sequence[Sample]) -> Phrase | None:
    """Say that the process that speaks HTTP was slow to answer what costs it nothing."""
    if samples[0].missed is not None or samples[0].at > 0:
        return None
    before, under = samples[0].took_s, median(one.took_s for one in inside)
    if under < max(_SLOW_S, _SLOWER * before):
        return None
    return phrase(
        "`/metrics` took {under} to answer under the load, and {before} before it: what speaks HTTP"
        " for the engine was busy, or the network was",
        under=format_seconds(under),
        before=format_seconds(before),
    )


def _preempted(state: ServerState) -> Phrase | None:
    if not state.preemptions:
        return None
    return phrase(
        "the engine preempted {n:,} times: it let in more than its KV cache can hold, and computes"
        " again what it threw out",
        n=state.preemptions,
    )


def _others(state: ServerState, summary: Summary) -> Phrase | None:
    """Say that the engine worked for others too."""
    generated, ours = state.generation_tokens, summary.output_tokens
    lost = summary.failed or summary.unfinished or not summary.counted
    if generated is None or lost or generated < _OTHERS * ours:
        return None
    return phrase(
        "the engine generated {generated:,} tokens, of which {ours:,} were for us: others used it"
        " at the same time",
        generated=generated,
        ours=ours,
    )


def _cached(state: ServerState) -> Phrase | None:
    if state.prefix_hits is None or state.prefix_hits < _CACHED:
        return None
    return phrase(
        "{share:.0%} of the tokens of prompts were in the prefix cache, and were not computed",
        share=state.prefix_hits,
    )


def _in_engine(inside: Sequence[Sample]) -> float:
    return fmean(_runs(one) + _waits(one) for one in inside)


def _runs(sample: Sample) -> float:
    return _of(sample.running)


def _waits(sample: Sample) -> float:
    return _of(sample.waiting)


def _of(value: float | None) -> float:
    """Return a figure that every sample with an answer has."""
    return value or 0.0

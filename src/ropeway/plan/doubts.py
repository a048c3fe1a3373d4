"""What speaks against the layout that is chosen, in words: what nobody has measured, what is near a
limit, what was not said."""

from collections.abc import Iterator, Sequence

from ropeway.engines import ascend_serve
from ropeway.engines.ascend_releases import rules_of
from ropeway.phrases import phrase
from ropeway.plan.candidate import Candidate, PlanRequest
from ropeway.plan.fit import Search
from ropeway.plan.reports import beyond_measured, measured
from ropeway.plan.values import memory_doubts

# What one router passes on each second (docs/router.md).
_ROUTER_REQUESTS, _ROUTER_TOKENS = 1_700, 10_000
# The usual limit of open files, less those that a program has anyway.
_CONNECTIONS = 1_000


def doubts(search: Search, ranked: Sequence[Candidate]) -> Iterator[str]:
    """Yield what speaks against the first, and what else there is."""
    yield from search.request.traits.doubts
    if not ranked:
        return
    yield from search.request.flag_notes
    yield from _serve_notes(search.request)
    yield from ranked[0].notes
    yield from memory_doubts(search, ranked[0])
    if search.request.layout is None:
        yield from _measured_words(search, ranked)
    yield from _load_words(search, ranked[0])
    yield from _router_words(ranked[0])
    yield from _length_words(search.request)


def _serve_notes(request: PlanRequest) -> Iterator[str]:
    """Yield what the release makes of the spec's flags, as `up` says it."""
    if request.chip is not None:
        release = rules_of(request.traits.version)
        yield from ascend_serve.notes(request.serve, release, request.chip.family)


def most_measured(search: Search, chosen: Candidate) -> int | None:
    """Return the most sequences at once that others have measured, where these are far more."""
    chip = search.request.chip
    return beyond_measured(chosen.forecast.running, chip.family) if chip else None


def _length_words(request: PlanRequest) -> Iterator[str]:
    """Yield a note where a job is priced for lengths that nobody named: all depends on them."""
    named = {"workload.input_tokens", "workload.output_tokens"} & set(request.sources)
    if request.job_prompts and len(named) < 2:
        yield phrase(
            "nobody named the lengths of the job's prompts and answers; time and cost are for the "
            "default, {inputs:,} tokens in, {outputs:,} out: `--input-tokens`, `--output-tokens`",
            inputs=request.load.input_tokens,
            outputs=request.load.output_tokens,
        )


def _load_words(search: Search, chosen: Candidate) -> Iterator[str]:
    """Yield notes on more sequences or clients than others have measured or programs may open."""
    chip, clients = search.request.chip, chosen.clients or 0
    if chip and (most := most_measured(search, chosen)):
        yield phrase(
            "nobody has published a measurement with more than {n:,} sequences at once in a DP "
            "rank on {chips}, and these are {running:,.0f}",
            n=most,
            chips=chip.family,
            running=chosen.forecast.running,
        )
    if clients > _CONNECTIONS:
        yield phrase(
            "each of {n:,} clients keeps a connection open: the program that sends the requests "
            "needs as many open files, and 1,024 are usual (`ulimit -n`)",
            n=clients,
        )


def _measured_words(search: Search, ranked: Sequence[Candidate]) -> Iterator[str]:
    """Yield the best that others have measured, where that is not the first."""
    chip, experts = search.request.chip, bool(search.request.shape.experts)
    if chip is None or search.request.reads_only:
        return
    for item in ranked:
        hosts = search.hosts(item.layout)
        if len(item.faults) > len(ranked[0].faults):
            return
        if measured(item.layout, hosts, experts=experts, family=chip.family):
            if item is not ranked[0]:
                yield phrase(
                    "the best of those that others have measured: {name}, {speed}",
                    name=item.name,
                    speed=search.request.speed(item.forecast),
                )
            return


def _router_words(chosen: Candidate) -> Iterator[str]:
    """Yield a note where the router would have more to do than its one core can."""
    forecast = chosen.forecast
    if chosen.replicas == 1:
        return
    if forecast.requests_per_s > _ROUTER_REQUESTS:
        yield phrase(
            "one router passes on about {limit:,} requests/s, and these replicas answer {n:,.0f}: "
            "spread the load over several services",
            limit=_ROUTER_REQUESTS,
            n=forecast.requests_per_s,
        )
    if forecast.output_tokens_per_s > _ROUTER_TOKENS:
        yield phrase(
            "one router passes on about {limit:,} streamed tokens/s one by one; beyond that it "
            "sends several at a time",
            limit=_ROUTER_TOKENS,
        )

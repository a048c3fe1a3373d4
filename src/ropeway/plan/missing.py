"""What to say when nothing fits: how much is missing, and what would fit."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import ceil

from ropeway.errors import ModelError
from ropeway.models.known import published_name, without_formats
from ropeway.models.quantisation import precision_named
from ropeway.phrases import Phrase, count, phrase
from ropeway.plan.candidate import PlanRequest, Rejected
from ropeway.plan.fit import Fit, Search, fit_layout, search_of
from ropeway.plan.layout import working
from ropeway.spec.cluster import Cluster, RemoteHost
from ropeway.spec.model import Layout
from ropeway.units import counted

_GIB = 2**30
# Larger clusters to try: these multiples of the number of hosts, up to a number of NPUs in all.
_TIMES = (2, 4, 8, 16, 32)
_MOST_NPUS = 4_096
_SCHEMES = ("w8a8", "w4a8")


def missing(search: Search, rejected: Sequence[Rejected]) -> tuple[str, ...]:
    """Return what is missing and what would help, each line with its numbers."""
    slow = [item for item in rejected if item.kind == "bound"]
    if slow:
        nearest = min(slow, key=lambda item: item.shortfall)
        layouts = count(len(slow), "{n:,} layout", "{n:,} layouts")
        return (
            phrase(
                "{layouts} would fit, but none is fast enough; the nearest is {layout}: {reason}",
                layouts=layouts,
                layout=nearest.layout,
                reason=nearest.reason,
            ),
        )
    full = [item for item in rejected if item.kind == "memory"]
    if not full:
        # "shape" with a number of replicas that has no room.
        kinds = ("engine", "shape") if search.request.replicas else ("engine",)
        found = [item for item in rejected if item.kind in kinds]
        if not found:
            return ()
        first = found[0]
        if first.kind == "engine" and len({item.reason for item in found}) == 1:
            return (first.reason,)
        return (phrase("{layout}: {reason}", layout=first.layout, reason=first.reason),)
    nearest = min(full, key=lambda item: (item.shortfall, item.layout.npus))
    return (
        phrase(
            "the nearest is {layout}: {reason}; {gib:,.1f} GiB are missing on each NPU",
            layout=nearest.layout,
            reason=nearest.reason,
            gib=nearest.shortfall / _GIB,
        ),
        *_shorter(search, full),
        *_quantised(search),
        *_more_hosts(search),
    )


def _shorter(search: Search, full: Sequence[Rejected]) -> Iterator[str]:
    """Yield the longest context for which there is cache, where the weights fit at all.

    In place of a blank one also that of the load, for which old releases need smaller buffers.
    """
    request = search.request
    best: tuple[int, Layout] | None = None
    for item in full:
        tokens = _longest(search, item.layout, best[0] if best else request.load.tokens - 1)
        if tokens is not None:
            best = tokens, item.layout
    if best is None and request.leaves_context:
        loads = search_of(replace(request, blank_context=None))
        smallest = _smallest(loads)
        best = (loads.context, smallest[0]) if smallest else None
    if best is None:
        return
    if request.leaves_context:
        yield phrase(
            "`serve.context` is blank, so the engine takes {context:,} tokens; with a "
            "`serve.context` of {tokens:,} {layout} would fit",
            context=search.context,
            tokens=best[0],
            layout=best[1],
        )
    else:
        yield phrase(
            "with a context of {tokens:,} tokens {layout} would fit",
            tokens=best[0],
            layout=best[1],
        )


def _longest(search: Search, layout: Layout, beyond: int) -> int | None:
    """Return the longest context that fits, in whole blocks, if it is longer than `beyond`."""
    block = search.engine.block_size
    low, high = beyond // block + 1, ceil(search.context / block)
    if low >= high or not _fits(search, layout, low * block):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _fits(search, layout, middle * block) else (low, middle)
    return low * block


def _fits(search: Search, layout: Layout, context: int) -> bool:
    shorter = search_of(replace(search.request, context=context))
    return fit_layout(shorter, layout).memory.fits


def _quantised(search: Search) -> Iterator[str]:
    request = search.request
    now = request.shape.precision
    for scheme in _SCHEMES:
        precision = precision_named(scheme, request.shape)
        bits = [(getattr(precision, name), getattr(now, name)) for name in ("dense", "routed")]
        if all(new >= old for new, old in bits):
            continue
        narrower = replace(request.shape, precision=precision)
        if fit := _smallest(search_of(replace(request, shape=narrower))):
            yield phrase(
                "with {weights} {layout} would fit on this cluster, with {sequences} of that "
                "context in each DP rank",
                weights=_weights(request, scheme),
                layout=fit[0],
                sequences=_sequences(fit[1]),
            )
            return


def _weights(request: PlanRequest, scheme: str) -> Phrase:
    """Return weights of a scheme, with how to plan them where the model is a published one."""
    try:
        name = published_name(request.model_name).rpartition("/")[2]
    except ModelError:
        return phrase("{scheme} weights", scheme=scheme)
    model = f"{without_formats(name)}-{scheme.upper()}"
    return phrase("{scheme} weights (`--model {model}`)", scheme=scheme, model=model)


def _more_hosts(search: Search) -> Iterator[str]:
    request = search.request
    cluster, size = request.cluster, request.cluster.npus_per_host
    if cluster.local or request.layout is not None:
        return
    for times in _TIMES:
        number = cluster.host_count * times
        if number * size > _MOST_NPUS:
            return
        hosts = tuple(RemoteHost(address=f"host{at}", npus=size) for at in range(number))
        larger = Cluster(hosts=hosts)
        wider = search_of(replace(request, cluster=larger))
        if fit := _smallest(wider):
            yield phrase(
                "on {hosts} of {npus} {layout} would fit, with {sequences} of that context in each "
                "DP rank",
                hosts=counted(wider.hosts(fit[0]), "host"),
                npus=counted(size, "NPU"),
                layout=fit[0],
                sequences=_sequences(fit[1]),
            )
            return


def _sequences(fit: Fit) -> Phrase:
    return count(fit.memory.sequences, "{n:,} sequence", "{n:,} sequences")


def _smallest(search: Search) -> tuple[Layout, Fit] | None:
    """Return the layout with the fewest NPUs that fits and that the release can run."""
    request = search.request
    layouts = (
        (request.layout,)
        if request.layout
        else working(request.shape, request.cluster, request.contexts)
    )
    for layout in layouts:
        if layout.data > 1 and not layout.expert:
            continue
        if search.refusals(layout, request.traits.version):
            continue
        fit = fit_layout(search, layout)
        if fit.memory.fits:
            return layout, fit
    return None

"""Nothing fits: how much is missing, and what would fit."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ropeway.engines.ascend_layouts import Case, limits
from ropeway.models import precision_named
from ropeway.plan.candidate import Rejected, Wanted
from ropeway.plan.fit import Fit, Setting, fitting, hosts_needed
from ropeway.plan.layout import working
from ropeway.spec.cluster import Cluster, RemoteHost
from ropeway.spec.model import Layout

_GIB = 2**30
# More of the same hosts, up to so many times as many and so many NPUs in all.
_TIMES = (2, 4, 8, 16, 32)
_MOST_NPUS = 4_096
_SCHEMES = ("w8a8", "w4a8")


def missing(wanted: Wanted, given: Setting, rejected: Sequence[Rejected]) -> tuple[str, ...]:
    """What a person can do, each line with its numbers."""
    slow = [item for item in rejected if item.kind == "bound"]
    if slow:
        nearest = min(slow, key=lambda item: item.shortfall)
        many = f"{len(slow):,} layout{'s' * (len(slow) != 1)} would fit"
        return (f"{many}, none does what is asked; nearest is {nearest.layout}: {nearest.reason}",)
    full = [item for item in rejected if item.kind == "memory"]
    if not full:
        barred = [item for item in rejected if item.kind == "engine"]
        return (f"{barred[0].layout}: {barred[0].reason}",) if barred else ()
    nearest = min(full, key=lambda item: (item.shortfall, item.layout.npus))
    return (
        f"nearest is {nearest.layout}: {nearest.reason}; {nearest.shortfall / _GIB:,.1f} GiB are "
        f"missing on each NPU",
        *_shorter(wanted, given, full),
        *_quantised(wanted, given),
        *_more_hosts(wanted, given),
    )


def _shorter(wanted: Wanted, given: Setting, full: Sequence[Rejected]) -> Iterator[str]:
    """The longest context for which there is cache, where the weights fit at all."""
    best: tuple[int, Layout] | None = None
    for item in full:
        found = fitting(wanted, given, item.layout).memory
        if found.spare >= 0 and (best is None or found.kv_tokens > best[0]):
            best = found.kv_tokens, item.layout
    if best is not None and given.per_request <= best[0] < given.context:
        yield f"a context of {best[0]:,} tokens would fit, in {best[1]}"


def _quantised(wanted: Wanted, given: Setting) -> Iterator[str]:
    now = wanted.precision or wanted.shape.precision
    for scheme in _SCHEMES:
        precision = precision_named(scheme, wanted.shape)
        bits = [(getattr(precision, name), getattr(now, name)) for name in ("dense", "routed")]
        if all(new >= old for new, old in bits):
            continue
        if fit := _smallest(replace(wanted, precision=precision), given):
            yield f"with {scheme} weights {fit[0]} would fit on this cluster{_each(fit[1])}"
            return


def _more_hosts(wanted: Wanted, given: Setting) -> Iterator[str]:
    cluster = wanted.cluster
    if cluster.local or wanted.layout is not None:
        return
    size = cluster.npus_per_host
    for times in _TIMES:
        count = cluster.host_count * times
        if count * size > _MOST_NPUS:
            return
        hosts = tuple(RemoteHost(address=f"host{at}", npus=size) for at in range(count))
        if fit := _smallest(replace(wanted, cluster=Cluster(hosts=hosts)), given):
            needed = hosts_needed(fit[0], Cluster(hosts=hosts))
            yield f"on {needed:,} hosts of {size} NPUs {fit[0]} would fit{_each(fit[1])}"
            return


def _smallest(wanted: Wanted, given: Setting) -> tuple[Layout, Fit] | None:
    """The layout with the fewest NPUs that fits and that the release can run."""
    layouts = (wanted.layout,) if wanted.layout else working(wanted.shape, wanted.cluster)
    for layout in layouts:
        if layout.data > 1 and not layout.expert:
            continue
        hosts = hosts_needed(layout, wanted.cluster)
        if wanted.chip:
            case = Case(layout, wanted.shape, wanted.chip.family, hosts, wanted.traits.graph)
            if limits(case, wanted.traits.version):
                continue
        fit = fitting(wanted, given, layout)
        if fit.memory.fits:
            return layout, fit
    return None


def _each(fit: Fit) -> str:
    return f", with {fit.memory.sequences:,} sequences of that context in each replica"

"""Which hosts a layout takes, and how many NPUs of each: one rule, for plans and for starts.

The ranks of one engine (data 1) run on any hosts that have room for them together: Ray packs them,
and only warns where it tears tensor ranks apart (initialize_ray_cluster and _verify_bundles in
vllm/v1/executor/ray_utils.py). vLLM's own multi-host mode wants as many on each host
(ParallelConfig.local_world_size), so shares are equal where as few hosts allow that.

A data-parallel rank lives on one host or, when that has no room for all, on hosts of its own with
equal shares: `strict`, `fill` and `span` of CoreEngineActorManager.create_dp_placement_groups
(vllm/v1/engine/utils.py). ParallelConfig.nnodes_within_dp has the same rule without Ray.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from math import ceil

from ropeway.spec.model import Layout

# NPUs of a host, and how many hosts have that many; the largest first. A thousand equal hosts are
# one pair, so that a search over thousands of layouts need not look at each.
HostSizes = Sequence[tuple[int, int]]


def host_sizes(npus: Iterable[int]) -> HostSizes:
    """Return the sizes of hosts that have so many NPUs each."""
    return sorted(Counter(npus).items(), reverse=True)


def data_ranks_that_fit(world_size: int, sizes: HostSizes) -> int:
    """Return how many data-parallel ranks of `world_size` NPUs there is room for."""
    on_one_host = sum(size // world_size * number for size, number in sizes)
    return max([on_one_host, *(hosts // parts for parts, hosts in _cuts(world_size, sizes))])


def hosts_needed(layout: Layout, sizes: HostSizes) -> int | None:
    """Return the fewest hosts that hold the ranks of a layout; None when all together do not."""
    world_size = layout.world_size
    if layout.data == 1:
        return _fewest(world_size, sizes)
    if whole := _fewest(layout.data, [(size // world_size, number) for size, number in sizes]):
        return whole
    fitting = (parts for parts, hosts in _cuts(world_size, sizes) if hosts >= layout.data * parts)
    return layout.data * parts if (parts := next(fitting, 0)) else None


def replicas_that_fit(layout: Layout, sizes: HostSizes) -> int:
    """Return how many replicas of a layout there is room for, each on as few hosts as the first.

    Never more than there are when one after the other gets its `shares` of what is still free.
    """
    hosts = hosts_needed(layout, sizes)
    if hosts is None:
        return 0
    if hosts == 1:
        return sum(size // layout.npus * number for size, number in sizes)
    return max(1, sizes[0][1] // hosts)


def hosts_of_replicas(layout: Layout, replicas: int, sizes: HostSizes) -> int:
    """Return on how many hosts so many replicas lie; there must be room for them."""
    hosts = hosts_needed(layout, sizes) or 0
    if hosts != 1:
        return replicas * hosts
    return _fewest(replicas, [(size // layout.npus, number) for size, number in sizes]) or 0


def shares(layout: Layout, npus: Sequence[int]) -> list[tuple[int, int]] | None:
    """Return the hosts to use, by their place in `npus`, with how many NPUs to take of each.

    They are the first with room for equal shares; else the largest, one after the other filled
    with whole data-parallel ranks or, if that suffices, whole tensor groups. None without room.
    """
    hosts = hosts_needed(layout, host_sizes(npus))
    if hosts is None:
        return None
    world_size, (each, rest) = layout.world_size, divmod(layout.npus, hosts)
    roomy = [place for place, count in enumerate(npus) if count >= each]
    if not rest and len(roomy) >= hosts and (not each % world_size or not world_size % each):
        return [(place, each) for place in roomy[:hosts]]
    largest = sorted(sorted(range(len(npus)), key=lambda place: -npus[place])[:hosts])
    unit = layout.tensor if layout.data == 1 else world_size
    if sum(npus[place] // unit for place in largest) * unit < layout.npus:
        unit = 1
    left, taken = layout.npus, []
    for place in largest:
        taken.append((place, min(left, npus[place] // unit * unit)))
        left -= taken[-1][1]
    return taken


def _fewest(needed: int, rooms: HostSizes) -> int | None:
    """Return how many hosts, the roomiest first, have room for `needed` together."""
    hosts = 0
    for room, number in rooms:
        if room and needed <= room * number:
            return hosts + ceil(needed / room)
        needed, hosts = needed - room * number, hosts + number
    return None


def _cuts(world_size: int, sizes: HostSizes) -> Iterator[tuple[int, int]]:
    """Yield in how many equal parts a rank may be cut, and the hosts that have room for a part."""
    for each in range(min(world_size, sizes[0][0]), 0, -1):
        if world_size % each == 0:
            yield world_size // each, sum(number for size, number in sizes if size >= each)

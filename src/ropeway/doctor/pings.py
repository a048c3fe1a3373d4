"""Which NPU pings which, and the fewest hosts or NPUs that explain the pings that fail.

Up to nine hosts, every NPU pings every NPU of every other host. As that grows with the square of
the hosts, beyond nine every NPU pings every NPU of eight other hosts, at distances from the
neighbour to half the cluster away, so that neighbours, racks and pods are all crossed. The number
of pings per host stays the same (8 × 8 × 8 on hosts with eight NPUs), and every NPU is also pinged
from eight other hosts: a port, host or rail that is broken fails in sixteen directions. A fault
between just two hosts that do not ping each other may be missed.
"""

import heapq
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

PARTNERS = 8
# A suspect must fail this share of its pings. With 30% loss and three packets a ping, chance lets
# a third of the pings of a lossy link through whole.
_SHARE = 0.6
_SHARE_OF_ALL = 0.95  # of the suspect `all`


def distances(hosts: int, partners: int = PARTNERS) -> tuple[int, ...]:
    """Return how far away in the list of hosts a host's partners are: distinct, from 1 up."""
    if hosts - 1 <= partners:
        return tuple(range(1, hosts))
    farthest = hosts // 2
    result: list[int] = []
    for step in range(partners):
        spread = round(farthest ** (step / max(1, partners - 1)))
        result.append(max(spread, result[-1] + 1 if result else 1))
    return tuple(result)


def partners_of(host: int, hosts: int, partners: int = PARTNERS) -> tuple[int, ...]:
    """Return the hosts that `host` pings, by their place in the list."""
    return tuple((host + distance) % hosts for distance in distances(hosts, partners))


Port = tuple[int, int]  # a host's place in the list, and its NPU's device number


@dataclass
class PingMatrix:
    """The outcomes of all pings, as counts where they suffice: there may be half a million.

    tested, failed  pings by (source host, target host)
    worst           the highest percentage of packets lost in a ping, by the same
    sent            pings that a port takes part in
    failures        source, target and percentage of packets lost
    unknown         source and target of pings whose outcome could not be read
    """

    tested: Counter[tuple[int, int]] = field(default_factory=Counter)
    failed: Counter[tuple[int, int]] = field(default_factory=Counter)
    worst: dict[tuple[int, int], float] = field(default_factory=dict)
    sent: Counter[Port] = field(default_factory=Counter)
    failures: list[tuple[Port, Port, float]] = field(default_factory=list)
    unknown: list[tuple[Port, Port]] = field(default_factory=list)

    def add(self, source: Port, target: Port, loss: float | None) -> None:
        """Count one ping. `loss` in percent; None when its outcome could not be read."""
        pair = source[0], target[0]
        if loss is None:
            self.unknown.append((source, target))
            return
        self.tested[pair] += 1
        self.sent[source] += 1
        self.sent[target] += 1
        if loss > 0:
            self.failed[pair] += 1
            self.worst[pair] = max(loss, self.worst.get(pair, 0.0))
            self.failures.append((source, target, loss))

    @property
    def total(self) -> int:
        return self.tested.total()


SuspectKind = Literal["pings", "hosts apart", "npu", "rail", "host", "all"]
# Of two that explain the same pings the narrower is named: two hosts that do not reach each other
# rather than one of them.
_WIDTH: Mapping[SuspectKind, int] = {
    "pings": 0, "npu": 1, "hosts apart": 2, "rail": 3, "host": 4, "all": 5,
}  # fmt: skip


@dataclass(frozen=True)
class Suspect:
    """Something that would explain failed pings.

    kind       `npu` one port · `host` all ports of a host · `hosts apart` everything between two
               hosts · `rail` the same port of every host · `all` every ping of the cluster ·
               `pings` one port to another
    hosts      their places in the list, sorted; none for a rail and for all
    device     of an NPU or a rail; `other_device` is the target's, for `pings`
    explained  failed pings that no earlier suspect explains
    tested     pings that it takes part in
    """

    kind: SuspectKind
    hosts: tuple[int, ...]
    device: int | None
    explained: int
    tested: int
    loss: float
    other_device: int | None = None


def rail_only(matrix: PingMatrix) -> bool:
    """Whether NPUs reach exactly their own number on other hosts.

    So it is with direct cables, or with a switch for each rail.
    """
    crossing = sum(source[1] != target[1] for source, target, _ in matrix.failures)
    same = len(matrix.failures) - crossing
    devices = {device for _, device in matrix.sent}
    if same or len(devices) < 2:
        return False
    could_cross = matrix.total * (len(devices) - 1) // len(devices)
    return crossing == could_cross


def suspects(matrix: PingMatrix) -> tuple[Suspect, ...]:
    """Return the fewest suspects that explain every failed ping, the one that explains most first.

    Greedy set cover: a suspect explains pings that it takes part in, and is considered only when
    most of its own pings fail. Pings that no suspect explains are named one by one.
    """
    members = _members(matrix.failures)
    tested = _tested(matrix)
    heap = [
        (-len(failures), tested[name], _WIDTH[name[0]], name)
        for name, failures in members.items()
        if len(failures) > 1
        and len(failures) >= (_SHARE_OF_ALL if name[0] == "all" else _SHARE) * tested[name]
    ]
    heapq.heapify(heap)
    explained = bytearray(len(matrix.failures))
    result: list[Suspect] = []
    while heap:
        count, size, width, name = heapq.heappop(heap)
        fresh = [number for number in members[name] if not explained[number]]
        if len(fresh) < -count:
            if len(fresh) > 1:
                heapq.heappush(heap, (-len(fresh), size, width, name))
            continue
        for number in fresh:
            explained[number] = 1
        worst = max(matrix.failures[number][2] for number in fresh)
        result.append(Suspect(name[0], name[1], name[2], len(fresh), size, worst))
    for (source, target, loss), known in zip(matrix.failures, explained, strict=True):
        if not known:
            hosts = (source[0], target[0])
            result.append(Suspect("pings", hosts, source[1], 1, 1, loss, target[1]))
    return tuple(result)


_Name = tuple[SuspectKind, tuple[int, ...], int | None]


def _names(source: Port, target: Port) -> Iterable[_Name]:
    """Yield every suspect that a ping takes part in."""
    yield "all", (), None
    yield "host", (source[0],), None
    yield "host", (target[0],), None
    yield "hosts apart", tuple(sorted((source[0], target[0]))), None
    yield "npu", (source[0],), source[1]
    yield "npu", (target[0],), target[1]
    yield "rail", (), source[1]
    if source[1] != target[1]:
        yield "rail", (), target[1]


def _members(failures: Sequence[tuple[Port, Port, float]]) -> dict[_Name, "array[int]"]:
    members: dict[_Name, array[int]] = {}
    for number, (source, target, _) in enumerate(failures):
        for name in _names(source, target):
            members.setdefault(name, array("I")).append(number)
    return members


def _tested(matrix: PingMatrix) -> Counter[_Name]:
    """Return how many pings each suspect takes part in."""
    tested: Counter[_Name] = Counter({("all", (), None): matrix.total})
    for (source, target), count in matrix.tested.items():
        tested["host", (source,), None] += count
        tested["host", (target,), None] += count
        tested["hosts apart", tuple(sorted((source, target))), None] += count
    for (host, device), count in matrix.sent.items():
        tested["npu", (host,), device] += count
        tested["rail", (), device] += count
    # A ping between equal numbers was counted at both ends of its rail. With as many ports on every
    # host, one ping in `devices` is of that kind.
    devices = len({device for _, device in matrix.sent}) or 1
    for name in tested:
        if name[0] == "rail":
            tested[name] -= tested[name] // (2 * devices)
    return tested

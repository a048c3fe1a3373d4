"""What the checks look at: the facts of every host, what was wanted, and the pings between them."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ropeway.doctor.finding import Finding, Place
from ropeway.doctor.pings import PingMatrix
from ropeway.errors import RopewayError
from ropeway.facts.host import HostFacts, Npu


@dataclass(frozen=True)
class Wanted:
    """What the spec asks of the hosts.

    npus        host → NPUs that are to be used there
    image       the container image, where the spec names one
    model_path  on the hosts; None when nothing is said
    ports       TCP port → what it is for
    runtime     the command of the container engine
    """

    npus: Mapping[str, int] = field(default_factory=dict)
    image: str | None = None
    model_path: str | None = None
    ports: Mapping[int, str] = field(default_factory=dict)
    runtime: str = "docker"


@dataclass(frozen=True)
class Cluster:
    """Everything the checks may use.

    hosts      those that answered
    failures   those that did not → why
    roce       NPU to NPU; ethernet: host to host; None when nothing was pinged
    """

    wanted: Wanted
    hosts: tuple[HostFacts, ...]
    failures: Mapping[str, RopewayError] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    roce: PingMatrix | None = None
    ethernet: PingMatrix | None = None

    def npus(self) -> Iterable[tuple[Place, Npu]]:
        """Every NPU of every host."""
        for host in self.hosts:
            for npu in host.npus:
                yield Place(host.name, npu.device), npu


Rule = Callable[[Cluster], Iterable[Finding]]


def grouped(
    found: Iterable[tuple[Place, Hashable]], make: Callable[[tuple[Place, ...], Any], Finding]
) -> list[Finding]:
    """One finding for each distinct thing seen, with all the places where it was seen."""
    groups: dict[Hashable, list[Place]] = {}
    for place, seen in found:
        groups.setdefault(seen, []).append(place)
    return [make(tuple(places), seen) for seen, places in groups.items()]


@dataclass(frozen=True)
class Odd:
    """A value that most places share, and those that have another."""

    usual: Hashable
    count: int
    others: Mapping[Hashable, tuple[Place, ...]]

    @property
    def places(self) -> tuple[Place, ...]:
        """Everywhere that the value is not the usual one."""
        return tuple(place for places in self.others.values() for place in places)

    def told(self) -> str:
        """`25.5.1 on 62, 24.1.0 on host7, host9`."""
        from_most = [f"`{self.usual}` on {self.count}"]
        return ", ".join(
            [*from_most, *(f"`{value}` on {len(places)}" for value, places in self.others.items())]
        )


def odd(values: Iterable[tuple[Place, Hashable]]) -> Odd | None:
    """Where places differ; None when all known values are equal. Unknown (None) is left out."""
    known = [(place, value) for place, value in values if value is not None]
    counts = Counter(value for _, value in known)
    if len(counts) < 2:
        return None
    usual, count = counts.most_common(1)[0]
    others: dict[Hashable, list[Place]] = {}
    for place, value in known:
        if value != usual:
            others.setdefault(value, []).append(place)
    return Odd(usual, count, {value: tuple(places) for value, places in others.items()})


def each_host(
    cluster: Cluster, value: Callable[[HostFacts], Hashable]
) -> list[tuple[Place, Hashable]]:
    """A fact of every host, with its place."""
    return [(Place(host.name), value(host)) for host in cluster.hosts]

"""The same to several hosts at once, where one that fails is a failure of the whole."""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol, TypeVar

from ropeway.hosts.base import Host
from ropeway.hosts.fleet import over


class OnHost(Protocol):
    """What belongs to one host, which it names."""

    @property
    def host(self) -> str: ...


T = TypeVar("T")
P = TypeVar("P", bound=OnHost)

Hosts = Mapping[str, Host]
Tell = Callable[[str], None]


def everywhere(hosts: Hosts, ask: Callable[[Host], T]) -> dict[str, T]:
    """What each host answered, by its name.

    Raises the first host's error; the others that failed stand in its evidence.
    """
    outcomes = over(tuple(hosts.values()), ask)
    failed = [one for one in outcomes if one.error is not None]
    if failed:
        first = failed[0].error
        assert first is not None
        others = tuple(f"{one.host.name}: {one.error}" for one in failed[1:])
        first.evidence = (*first.evidence, *others)
        raise first
    return {one.host.name: one.result for one in outcomes if one.result is not None}


def by_host(parts: Iterable[P]) -> dict[str, list[P]]:
    """The parts of each host, in their order; a host without any is left out."""
    found: dict[str, list[P]] = {}
    for one in parts:
        found.setdefault(one.host, []).append(one)
    return found


def those(hosts: Hosts, names: Mapping[str, object]) -> Hosts:
    """Only the hosts of these names."""
    return {name: host for name, host in hosts.items() if name in names}

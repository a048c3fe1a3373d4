"""What a check found: how bad, where, what was seen, what is wanted, and what to type."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

Level = Literal["fail", "warn", "skip", "ok"]


@dataclass(frozen=True, order=True)
class Place:
    """A host, or one NPU of it by its device number."""

    host: str
    device: int | None = None

    def __str__(self) -> str:
        return self.host if self.device is None else f"{self.host} NPU {self.device}"


@dataclass(frozen=True)
class Finding:
    """One thing that a check says. Equal things at many places are one finding.

    check    the check's name: `roce-link`
    what     one line, lower case, no full stop
    places   where; empty when it is about the cluster as a whole
    of       how many hosts, or NPUs, were looked at
    seen     the evidence; wanted: what it should be
    fix      something to type or to check
    source   where that is known from
    follows  the check whose finding explains this one; its fix comes first
    """

    check: str
    level: Level
    what: str
    places: tuple[Place, ...] = ()
    of: int = 0
    seen: str = ""
    wanted: str = ""
    fix: str = ""
    source: str = ""
    follows: str | None = None

    def as_json(self) -> dict[str, object]:
        """Plain data, for `--json`."""
        return asdict(self)


@dataclass(frozen=True)
class Examination:
    """What doctor has to say: findings, causes before what follows from them; and what was asked.

    hosts     asked; answered: those that could be reached
    pings     between NPUs of different hosts
    passed    groups of checks in which nothing was found
    """

    findings: tuple[Finding, ...]
    hosts: int
    answered: int
    npus: int
    pings: int
    passed: tuple[str, ...]

    @property
    def sound(self) -> bool:
        """Nothing is at level `fail`."""
        return all(finding.level != "fail" for finding in self.findings)

    def causes(self, level: Level) -> tuple[Finding, ...]:
        """Findings of a level that no other finding explains."""
        return tuple(one for one in self.findings if one.level == level and not one.follows)


def hosts_in(places: Sequence[Place], *, shown: int = 4) -> str:
    """`host1, host2`, or `host1, host2, host3, host4 and 60 more`; NPUs are gathered by host."""
    devices: dict[str, list[int]] = {}
    for place in sorted(places, key=lambda one: (_natural(one.host), one.device or 0)):
        of_host = devices.setdefault(place.host, [])
        if place.device is not None:
            of_host.append(place.device)
    names = [f"{host} NPU {numbers(found)}" if found else host for host, found in devices.items()]
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that puts host2 before host10."""
    return [
        (int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)
    ]


def numbers(found: Sequence[int]) -> str:
    """`0-3,7`."""
    parts: list[list[int]] = []
    for number in sorted(set(found)):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in parts)

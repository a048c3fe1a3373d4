"""What a check finds: how bad it is, where, the evidence, what to expect instead, and the fix."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from ropeway.phrases import joined, phrase

Level = Literal["fail", "warn"]


@dataclass(frozen=True, order=True)
class Location:
    """A host, or one NPU of it by its device number."""

    host: str
    device: int | None = None

    def __str__(self) -> str:
        return self.host if self.device is None else f"{self.host} NPU {self.device}"


@dataclass(frozen=True)
class Finding:
    """A fault that a check found. The same fault at many locations is one finding.

    check      the check's id: `roce-link`
    title      one line, lower case, no full stop
    locations  empty when it concerns the cluster as a whole
    total      how many hosts, or NPUs, were examined
    fix        a command to type, or what to look at
    source     where that is known from
    cause      id of the check whose finding explains this one; that one is to be fixed first
    """

    check: str
    level: Level
    title: str
    locations: tuple[Location, ...] = ()
    total: int = 0
    evidence: str = ""
    expected: str = ""
    fix: str = ""
    source: str = ""
    cause: str | None = None


@dataclass(frozen=True)
class Unchecked:
    """A subject of which not everything was seen.

    partly  whether some of it was
    why     the reasons, each with its hosts
    """

    subject: str
    partly: bool
    why: tuple[str, ...]


@dataclass(frozen=True)
class Examination:
    """The result of the checks.

    hosts        how many were asked; answered: how many of them could be reached
    pings        how many were sent between NPUs of different hosts
    findings     causes before their consequences
    passed       subjects without a finding of which everything was seen
    not_checked  subjects of which something was not seen, with findings or without
    """

    hosts: int
    answered: int
    npus: int
    pings: int
    findings: tuple[Finding, ...]
    passed: tuple[str, ...]
    not_checked: tuple[Unchecked, ...] = ()

    @property
    def sound(self) -> bool:
        """Whether nothing is at level `fail`."""
        return all(finding.level != "fail" for finding in self.findings)

    def causes(self, level: Level) -> tuple[Finding, ...]:
        """Return the findings of a level that no other finding explains."""
        return tuple(
            finding for finding in self.findings if finding.level == level and not finding.cause
        )


def format_locations(locations: Iterable[Location], *, limit: int = 4) -> str:
    """Return `host1 NPU 0-3,7, host2`, and after `limit` hosts `… and 60 more`."""
    devices: dict[str, list[int]] = {}
    for location in sorted(locations, key=lambda place: (_natural(place.host), place.device or 0)):
        on_host = devices.setdefault(location.host, [])
        if location.device is not None:
            on_host.append(location.device)
    names = [
        f"{host} NPU {format_ranges(on_host)}" if on_host else host
        for host, on_host in devices.items()
    ]
    shown = joined(names[:limit], ", ")
    if len(names) <= limit:
        return shown
    return phrase("{places} and {n:,} more", places=shown, n=len(names) - limit)


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a sort key that puts host2 before host10."""
    return [
        (int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)
    ]


def format_ranges(numbers: Sequence[int]) -> str:
    """Return numbers as `0-3,7`."""
    ranges: list[list[int]] = []
    for number in sorted(set(numbers)):
        if ranges and number == ranges[-1][-1] + 1:
            ranges[-1].append(number)
        else:
            ranges.append([number])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in ranges)

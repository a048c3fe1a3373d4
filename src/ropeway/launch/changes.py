"""What differs between what runs and what the spec asks for, and what to replace. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ropeway.launch.labels import ServiceContainer
from ropeway.launch.rollout import ROUTER, Rollout
from ropeway.spec.model import Spec


@dataclass(frozen=True)
class Difference:
    """One key of the spec: `serve.context`, before and after; None where it is not set."""

    key: str
    before: object
    after: object

    def __str__(self) -> str:
        return f"{self.key}: {_shown(self.before)} → {_shown(self.after)}"


@dataclass(frozen=True)
class Changes:
    """Containers by name. A replica is the smallest thing that is replaced: its ranks cannot go on
    without each other.

    keep     run already as the spec wants them
    start    are missing, or run otherwise
    remove   run, and have to go: those that are started again among them
    """

    keep: frozenset[str]
    start: frozenset[str]
    remove: frozenset[str]


def differences(before: Spec, after: Spec) -> tuple[Difference, ...]:
    """Compare two specs key by key, in the order of the spec."""
    old, new = dict(_flat("", before.as_json())), dict(_flat("", after.as_json()))
    keys = dict.fromkeys((*new, *old))
    return tuple(
        Difference(key, old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)
    )


def changes(rollout: Rollout, running: Iterable[ServiceContainer]) -> Changes:
    """Decide what to keep, to start and to remove."""
    current = {container.name: container for container in running}
    same = {
        name
        for name, content in rollout.hashes.items()
        if name in current and current[name].hash == content and current[name].state == "running"
    }
    units: dict[object, set[str]] = {}
    for one in rollout.containers:
        units.setdefault(ROUTER if one.role == ROUTER else one.replica, set()).add(one.name)
    keep = {name for names in units.values() if names <= same for name in names}
    return Changes(frozenset(keep), frozenset(rollout.hashes) - keep, frozenset(current) - keep)


def _flat(prefix: str, value: object) -> Iterable[tuple[str, object]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(f"{prefix}.{key}" if prefix else str(key), item)
    else:
        yield prefix, value


def _shown(value: object) -> str:
    return "not set" if value is None else str(value)

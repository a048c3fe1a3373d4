"""All checks, in the order in which they are told; and what explains what."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ropeway.doctor import containers, npus, roce, storage, system, versions
from ropeway.doctor.cluster import Cluster, Rule
from ropeway.doctor.finding import Examination, Finding, Level, Place

RULES: dict[str, tuple[Rule, ...]] = {
    "hosts": (
        system.reach, system.same_system, system.clock, system.memory, system.limits,
        system.names, system.ports, system.ray,
    ),
    "NPUs": (
        npus.driver, npus.count, npus.same_kind, npus.health, npus.free_memory,
        npus.held_by_containers, npus.same_firmware,
    ),
    "versions": (
        versions.same, versions.firmware_fits, versions.driver_fits, versions.image_fits,
        versions.model_fits, versions.transformers_fits, versions.model_type,
    ),
    "containers": (containers.engine, containers.image),
    "model": (storage.there, storage.whole, storage.same, storage.quantisation),
    "network": (
        roce.tool, roce.addresses, roce.links, roce.vnic, roce.health, roce.tls, roce.configured,
        roce.pings, roce.ethernet,
    ),
}  # fmt: skip

# A check → the checks whose finding at the same place explains it, the likeliest first.
CAUSES: dict[str, tuple[str, ...]] = {
    "npu-count": ("npu-driver", "npu-dropped"),
    "npu-health": ("npu-ecc",),
    "npu-container": ("npu-busy",),
    "driver-image": ("driver-same",),
    "firmware-driver": ("firmware-same", "driver-same"),
    "image-same": ("image-there",),
    "roce-link": ("roce-optical",),
    "roce-health": ("roce-optical", "roce-link", "roce-address", "roce-gateway", "roce-subnet"),
    "roce-lldp": ("roce-link",),
    "roce-flapping": ("roce-optical", "roce-errors"),
    "roce-conf-stale": ("roce-address-unique",),
    "roce-ping": (
        "roce-optical", "roce-link", "roce-address", "roce-address-unique", "roce-netmask",
        "roce-gateway", "roce-subnet", "roce-errors", "roce-flapping",
    ),
    "eth-ping": ("eth-address",),
    "eth-mtu": (),
    "model-config": ("model-there",),
    "model-same": ("model-short", "model-shards"),
    "model-hash": ("model-short", "model-same"),
}  # fmt: skip
_ORDER: tuple[Level, ...] = ("fail", "warn", "skip", "ok")


def examine(cluster: Cluster) -> Examination:
    """Apply every rule."""
    found = {
        group: [finding for rule in rules for finding in rule(cluster)]
        for group, rules in RULES.items()
    }
    return Examination(
        findings=ordered([finding for group in found.values() for finding in group]),
        hosts=len(cluster.names),
        answered=len(cluster.hosts),
        npus=sum(1 for _ in cluster.npus()),
        pings=cluster.roce.total if cluster.roce else 0,
        passed=tuple(group for group, findings in found.items() if not findings),
    )


def ordered(found: Sequence[Finding]) -> tuple[Finding, ...]:
    """Causes first, the worst first, each followed by what follows from it."""
    explained = [part for finding in found for part in _explained(finding, found)]
    causes = [finding for finding in explained if finding.follows is None]
    causes.sort(
        key=lambda one: (
            one.check != "host-reach",  # nothing else is known of those hosts
            _ORDER.index(one.level),
            -_reach(one, explained),
        )
    )
    result: list[Finding] = []
    for cause in causes:
        result.append(cause)
        result += [
            finding
            for finding in explained
            if finding.follows == cause.check
            and finding not in result
            and _covered(finding.places, cause.places)
        ]
    return (*result, *(finding for finding in explained if finding not in result))


def _explained(finding: Finding, found: Sequence[Finding]) -> Iterable[Finding]:
    """The finding, in two when only some of its places are explained by another."""
    for check in CAUSES.get(finding.check, ()):
        causes = [place for one in found if one.check == check for place in one.places]
        if not causes:
            continue
        here = tuple(place for place in finding.places if _covered((place,), causes))
        if finding.check == "roce-ping" and here:
            # A ping has two ends; one of them explains it.
            return (replace(finding, follows=check),)
        if here and len(here) == len(finding.places):
            return (replace(finding, follows=check),)
        if here:
            rest = tuple(place for place in finding.places if place not in here)
            return (
                replace(finding, places=here, follows=check),
                *_explained(replace(finding, places=rest), found),
            )
    return (finding,)


def _covered(places: Sequence[Place], causes: Sequence[Place]) -> bool:
    """Whether each place is among the causes, or its whole host is."""
    known = set(causes)
    return any(place in known or Place(place.host) in known for place in places)


def _reach(cause: Finding, found: Sequence[Finding]) -> int:
    """How much follows from it."""
    return sum(1 for one in found if one.follows == cause.check) * 1000 + len(cause.places)

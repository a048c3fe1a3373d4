"""All checks, what explains what, and the order in which findings are reported.

`examine(cluster, checks)` applies some of them, and `survey` asks what these read.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from ropeway.doctor import containers, model, npus, reachability, roce, system, versions
from ropeway.doctor.cluster import Cluster
from ropeway.doctor.coverage import unchecked
from ropeway.doctor.finding import Examination, Finding, Location
from ropeway.doctor.rule import Check
from ropeway.phrases import Phrase, phrase

GROUPS: dict[Phrase, tuple[Check, ...]] = {
    phrase("hosts"): system.CHECKS,
    phrase("NPUs"): npus.CHECKS,
    phrase("versions"): versions.CHECKS,
    phrase("containers"): containers.CHECKS,
    phrase("model"): (*model.CHECKS, *versions.OF_MODELS),
    phrase("ports"): (*roce.CHECKS, *reachability.OF_INTERFACES),
    phrase("network"): reachability.OF_PINGS,
}
CHECKS = tuple(check for group in GROUPS.values() for check in group)

# A check → the checks whose finding at the same location explains it, the likeliest first.
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
    "model-config": ("model-there",),
    "model-same": ("model-short", "model-shards"),
    "model-hash": ("model-short", "model-same"),
}  # fmt: skip


def examine(cluster: Cluster, checks: Collection[Check] = CHECKS) -> Examination:
    """Apply these checks to what `survey` saw. Pure."""
    findings: list[Finding] = []
    passed, gaps = [], []
    for subject, of_subject in GROUPS.items():
        chosen = [
            check
            for check in of_subject
            if check in checks and len(cluster.names) >= check.min_hosts
        ]
        found = [finding for check in chosen for finding in check.findings(cluster)]
        gap = unchecked(subject, chosen, cluster, found)
        findings += found
        gaps += [gap] if gap else []
        passed += [subject] if chosen and not found and not gap else []
    return Examination(
        findings=ordered(findings),
        hosts=len(cluster.names),
        answered=len(cluster.hosts),
        npus=len(cluster.npus),
        pings=cluster.roce.total if cluster.roce else 0,
        passed=tuple(passed),
        not_checked=tuple(gaps),
    )


def ordered(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Return causes first, the worst at the top, each followed by its consequences."""
    explained = [part for finding in findings for part in _explained(finding, findings)]
    causes = [finding for finding in explained if finding.cause is None]
    causes.sort(
        key=lambda cause: (
            cause.check != "host-reach",  # nothing else is known of those hosts
            cause.level != "fail",
            -sum(finding.cause == cause.check for finding in explained),
            -len(cause.locations),
        )
    )
    result: list[Finding] = []
    for cause in causes:
        result.append(cause)
        result += [
            finding
            for finding in explained
            if finding.cause == cause.check
            and finding not in result
            and _any_covered(finding.locations, cause.locations)
        ]
    return (*result, *(finding for finding in explained if finding not in result))


def _explained(finding: Finding, findings: Sequence[Finding]) -> Iterable[Finding]:
    """Return the finding with its cause; as two when a cause explains only some locations."""
    for check in CAUSES.get(finding.check, ()):
        causes = {place for cause in findings if cause.check == check for place in cause.locations}
        here = tuple(place for place in finding.locations if _any_covered((place,), causes))
        if not here:
            continue
        # A ping has two ends; one of them explains it.
        if len(here) == len(finding.locations) or finding.check == "roce-ping":
            return (replace(finding, cause=check),)
        elsewhere = tuple(place for place in finding.locations if place not in here)
        return (
            replace(finding, locations=here, cause=check),
            *_explained(replace(finding, locations=elsewhere), findings),
        )
    return (finding,)


def _any_covered(locations: Iterable[Location], causes: Iterable[Location]) -> bool:
    """Whether a location is among the causes, itself or as part of a whole host."""
    known = set(causes)
    return any(place in known or Location(place.host) in known for place in locations)

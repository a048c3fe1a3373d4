"""A check: a rule over the facts of a cluster, and the texts for what the rule finds."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from ropeway.doctor.cluster import Cluster
from ropeway.doctor.finding import Finding, Level, Location
from ropeway.facts.host import HostFacts, ModelFiles, Npu, Roce
from ropeway.facts.question import Question
from ropeway.phrases import Phrase, joined, phrase
from ropeway.units import counted

T = TypeVar("T")

_EVIDENCE_SHOWN = 3


@dataclass(frozen=True)
class Gap:
    """Something that a check needs and nobody saw. Without `hosts`, it was seen nowhere."""

    why: str
    hosts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Hit:
    """Something that a rule found.

    locations  where; empty when it concerns the cluster as a whole
    values     for the placeholders in the check's texts
    level      in place of the check's own
    """

    locations: tuple[Location, ...]
    evidence: str
    values: Mapping[str, object] = field(default_factory=dict)
    level: Level | None = None


Rule = Callable[[Cluster], Iterable[Hit]]
# What a predicate returns: the evidence of what is wrong, or None.
Evidence = str | None
# A question, or several of which one answer is enough.
Need = Question[object] | tuple[Question[object], ...]


def _nothing(cluster: Cluster) -> Iterable[Gap]:  # noqa: ARG001
    return ()


@dataclass(frozen=True)
class Check:
    """A rule and what doctor says of its hits. Those that differ in evidence alone are one finding.

    id         the kind of fault; checks that find the same in two ways share it
    reads      the questions whose answers the rule looks at; the first without an answer is the
               reason why a host was not checked
    min_hosts  the check is left out on fewer
    between_hosts
               it is about how hosts reach each other: those that never speak to each other, as the
               hosts of two engines, are judged apart
    lacking    what it lacks besides: a name that nobody gave, pings that nobody sent

    `title`, `expected`, `fix` and `source` may have placeholders: the values of a hit; {runtime};
    the first location's {host}, its {nic} and {device}; of that NPU, or of the host's first, {npu}
    and {chip} as npu-smi numbers them, and the {address}, {netmask} and {gateway} of its port.

    A line of `fix` that begins with `$ ` is to be typed as it is.
    """

    id: str
    level: Level
    title: str
    rule: Rule
    expected: str
    fix: str
    source: str = ""
    reads: tuple[Need, ...] = ()
    min_hosts: int = 1
    between_hosts: bool = False
    lacking: Callable[[Cluster], Iterable[Gap]] = _nothing

    def findings(self, cluster: Cluster) -> Iterator[Finding]:
        """Apply the rule."""
        groups: dict[Hashable, list[Hit]] = {}
        for hit in self.rule(cluster):
            groups.setdefault((hit.level, *hit.values.items()), []).append(hit)
        for hits in groups.values():
            yield self._finding(cluster, hits)

    def _finding(self, cluster: Cluster, hits: Sequence[Hit]) -> Finding:
        locations = tuple(dict.fromkeys(place for hit in hits for place in hit.locations))
        values = {**_placeholders(cluster, locations), **hits[0].values}
        return Finding(
            check=self.id,
            level=hits[0].level or self.level,
            title=phrase(self.title, **values),
            locations=locations,
            total=_examined(cluster, locations),
            evidence=_merged_evidence(hits),
            expected=phrase(self.expected, **values),
            fix=self._fix(locations, values),
            source=phrase(self.source, **values),
        )

    def _fix(self, locations: Sequence[Location], values: Mapping[str, object]) -> Phrase:
        """Return the fix; where it is written for the first of several locations, say so."""
        fix = phrase(self.fix, **values)
        if len(locations) < 2 or "{host}" not in self.fix:
            return fix
        more = _things(locations[0], len(locations) - 1)
        return phrase("{fix}\nlikewise for the other: {things}", fix=fix, things=more)


def _placeholders(cluster: Cluster, locations: Sequence[Location]) -> dict[str, object]:
    values: dict[str, object] = {"runtime": cluster.requirements.runtime}
    if locations:
        first = locations[0]
        nics = (host.nic for host in cluster.hosts if host.name == first.host)
        values["nic"] = next((nic.name for nic in nics if nic), "NIC")
        of_host = (pair for pair in cluster.npus if pair[0].host == first.host)
        npu = next((npu for place, npu in of_host if first.device in (None, place.device)), None)
        values |= {"host": first.host, "device": first.device}
        if npu is not None:
            values |= {
                "device": npu.device,
                "npu": npu.device if npu.npu is None else npu.npu,
                "chip": npu.chip or 0,
                "address": npu.roce.address or "ADDRESS",
                "netmask": npu.roce.netmask or "MASK",
                "gateway": npu.roce.gateway or "GATEWAY",
            }
    return values


def _things(example: Location, number: int) -> Phrase:
    """Return `2 hosts` or `2 NPUs`."""
    return counted(number, "host") if example.device is None else counted(number, "NPU")


def _examined(cluster: Cluster, locations: Sequence[Location]) -> int:
    """Return how many hosts, or NPUs, were examined; a host that did not answer counts if hit."""
    if any(location.device is not None for location in locations):
        examined = {location for location, _ in cluster.npus}
    else:
        examined = {Location(host.name) for host in cluster.hosts}
    return len(examined.union(locations))


def _merged_evidence(hits: Sequence[Hit]) -> str:
    """Return the evidence when it is the same everywhere, else some of it, each with its place."""
    first_at: dict[str, Location | None] = {}
    for hit in hits:
        first_at.setdefault(hit.evidence, next(iter(hit.locations), None))
    if len(first_at) == 1:
        return hits[0].evidence
    parts = [
        phrase("{text} on {place}", text=text, place=str(place)) if place else text
        for text, place in first_at.items()
    ]
    more = len(parts) - _EVIDENCE_SHOWN
    return joined(parts[:_EVIDENCE_SHOWN] + [phrase("and {n:,} more", n=more)] * (more > 0))


def on_hosts(predicate: Callable[[HostFacts], Evidence]) -> Rule:
    """Return a rule that looks at each host."""
    return lambda cluster: _hits(predicate, ((Location(host.name), host) for host in cluster.hosts))


def on_npus(predicate: Callable[[Npu], Evidence]) -> Rule:
    """Return a rule that looks at each NPU."""
    return lambda cluster: _hits(predicate, cluster.npus)


def on_ports(predicate: Callable[[Roce], Evidence]) -> Rule:
    """Return a rule that looks at the RoCE port of each NPU."""
    return on_npus(lambda npu: predicate(npu.roce))


def on_models(predicate: Callable[[ModelFiles], Evidence]) -> Rule:
    """Return a rule that looks at the model's directory on each host."""
    return lambda cluster: _hits(predicate, cluster.models())


def unnamed_model(cluster: Cluster) -> Iterator[Gap]:
    """Yield what checks of the model lack when nobody said where it is."""
    if not any(cluster.models()) and cluster.requirements.model_path is None:
        yield Gap(phrase("no directory of the model is named: `--model DIR`"))


def _hits(
    predicate: Callable[[T], Evidence], subjects: Iterable[tuple[Location, T]]
) -> Iterator[Hit]:
    for location, subject in subjects:
        if (evidence := predicate(subject)) is not None:
            yield Hit((location,), evidence)


def same_on_hosts(value: Callable[[HostFacts], Hashable]) -> Rule:
    """Return a rule that finds the hosts whose value differs from that of most."""
    return lambda cluster: outlier_hits(
        (Location(host.name), value(host)) for host in cluster.hosts
    )


def outlier_hits(values: Iterable[tuple[Location, Hashable]], **texts: str) -> Iterator[Hit]:
    """Yield one hit for all locations whose value differs from that of most.

    Its evidence is `25.5.1 (62 hosts), 24.1.0 (1 host)`. Unknown values (None) are left out.
    `texts` are for the placeholders of the check, {usual} is what most have.
    """
    known = [(location, value) for location, value in values if value is not None]
    counts = Counter(value for _, value in known).most_common()
    if len(counts) > 1:
        outliers = tuple(location for location, value in known if value != counts[0][0])
        parts = [
            phrase("{value} ({things})", value=value, things=_things(outliers[0], number))
            for value, number in counts
        ]
        yield Hit(outliers, joined(parts, ", "), {"usual": counts[0][0], **texts})

"""A check: a rule over the facts of a cluster, and the texts for what the rule finds."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from ropeway.doctor.cluster import Cluster
from ropeway.doctor.finding import Finding, Level, Location
from ropeway.facts.host import HostFacts, ModelFiles, Npu, Roce
from ropeway.facts.question import Question
from ropeway.phrases import phrase
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
    values: Mapping[str, str] = field(default_factory=dict)
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
    lacking    what it lacks besides: a name that nobody gave, pings that nobody sent

    `title`, `expected`, `fix` and `source` may have placeholders: the values of a hit; the first
    location's {host}, {device} and, as npu-smi numbers them, {npu} and {chip}; and {runtime}.
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
            title=self.title.format(**values),
            locations=locations,
            total=_examined(cluster, locations),
            evidence=_merged_evidence(hits),
            expected=self.expected.format(**values),
            fix=self.fix.format(**values),
            source=self.source.format(**values),
        )


def _placeholders(cluster: Cluster, locations: Sequence[Location]) -> dict[str, object]:
    values: dict[str, object] = {"runtime": cluster.requirements.runtime}
    if locations:
        first = locations[0]
        npu = next((npu for location, npu in cluster.npus if location == first), None)
        values |= {"host": first.host, "device": first.device}
        if npu is not None:
            values["npu"] = first.device if npu.npu is None else npu.npu
            values["chip"] = npu.chip or 0
    return values


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
    parts = [f"{text} on {place}" if place else text for text, place in first_at.items()]
    more = len(parts) - _EVIDENCE_SHOWN
    return "; ".join(parts[:_EVIDENCE_SHOWN]) + (f"; and {more} more" if more > 0 else "")


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
    `texts` are for the placeholders of the check.
    """
    known = [(location, value) for location, value in values if value is not None]
    counts = Counter(value for _, value in known).most_common()
    if len(counts) > 1:
        outliers = tuple(location for location, value in known if value != counts[0][0])
        unit = "host" if outliers[0].device is None else "NPU"
        evidence = ", ".join(f"{value} ({counted(count, unit)})" for value, count in counts)
        yield Hit(outliers, evidence, texts)

"""Ask every host everything, in two rounds: its facts, then its clock and pings to other hosts."""

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ropeway.doctor.checks import CHECKS
from ropeway.doctor.cluster import Cluster, Requirements
from ropeway.doctor.pings import PARTNERS, PingMatrix, Port, partners_of
from ropeway.doctor.rule import Check
from ropeway.facts.ascend import hccn
from ropeway.facts.ascend.npu_cards import MAPPING
from ropeway.facts.ascend.npu_smi import TABLE
from ropeway.facts.gather import ask, clock_of, gather
from ropeway.facts.host import HostFacts
from ropeway.facts.linux.ping import parse_ping as parse_ethernet_ping
from ropeway.facts.question import Question
from ropeway.facts.questions import pings, questions
from ropeway.facts.script import Answer, Pings
from ropeway.hosts.base import Host
from ropeway.hosts.fleet import run_on_all


@dataclass(frozen=True)
class Effort:
    """How much to ask.

    deep      hash every file of the model
    partners  how many other hosts each host pings, at most
    seconds   for each of the two rounds, of all hosts together
    """

    deep: bool = False
    partners: int = PARTNERS
    seconds: float = 300.0


def survey(
    hosts: Sequence[Host],
    requirements: Requirements,
    effort: Effort,
    on_host: Callable[[str], None],
    checks: Collection[Check] = CHECKS,
) -> Cluster:
    """Return the facts of all hosts and the pings between them: what these checks read.

    `on_host("facts")` and `on_host("pings")` are called after each host that is done.
    """
    read = questions_of(checks)
    asks = tuple(
        question
        for question in questions(
            model_path=requirements.model_path, deep=effort.deep, runtime=requirements.runtime
        )
        if question.key in read
    )
    outcomes = run_on_all(
        hosts,
        lambda host: gather(host, asks, timeout=effort.seconds),
        timeout=effort.seconds,
        on_done=lambda _: on_host("facts"),
    )
    cluster = Cluster(
        requirements,
        tuple(outcome.result for outcome in outcomes if outcome.result is not None),
        {outcome.host.name: outcome.error for outcome in outcomes if outcome.error is not None},
        names=tuple(host.name for host in hosts),
    )
    plan = plan_pings(cluster.names, cluster.hosts, effort.partners).reading(read)
    if len(hosts) < 2 or not any(plan.questions.values()):
        return cluster
    return _with_pings(cluster, hosts, plan, effort.seconds, on_host)


def questions_of(checks: Iterable[Check]) -> frozenset[str]:
    """Return the keys of the questions whose answers the checks read, and of those before them."""
    keys = {
        question.key
        for check in checks
        for need in check.reads
        for question in (need if isinstance(need, tuple) else (need,))
    }
    # Which /dev/davinciN an NPU is.
    return frozenset(keys | {MAPPING.key}) if TABLE.key in keys else frozenset(keys)


def _with_pings(
    cluster: Cluster,
    hosts: Sequence[Host],
    plan: "PingPlan",
    seconds: float,
    on_host: Callable[[str], None],
) -> Cluster:
    """Return the cluster after the second round. A host that fails now has no pings of its own."""
    outcomes = run_on_all(
        [host for host in hosts if host.name in plan.questions],
        lambda host: ping_from(host, plan.questions[host.name], seconds),
        timeout=seconds,
        on_done=lambda _: on_host("pings"),
    )
    results = {one.host.name: one.result for one in outcomes if one.result is not None}
    failures = {one.host.name: one.error for one in outcomes if one.error is not None}
    clocks = {name: clock for name, (clock, _) in results.items()}
    roce, ethernet = plan.count({name: sent for name, (_, sent) in results.items()})
    return replace(
        cluster,
        hosts=tuple(replace(host, clock_s=clocks.get(host.name)) for host in cluster.hosts),
        failures={**cluster.failures, **failures},
        roce=roce,
        ethernet=ethernet,
    )


@dataclass(frozen=True)
class Ping:
    """The outcome of a host's pings to one address, from an NPU (None: over Ethernet).

    loss  percent of packets lost; None when the outcome could not be read
    """

    device: int | None
    address: str
    loss: float | None


@dataclass(frozen=True)
class PingPlan:
    """Who pings whom.

    numbers    host → its place in the list of hosts
    questions  host that answered → what to ask it in the second round
    ports      RoCE address → its NPU; ethernet: address → its host, as NPU 0
    """

    numbers: Mapping[str, int]
    questions: Mapping[str, tuple[Question[object] | Pings, ...]]
    ports: Mapping[str, Port]
    ethernet: Mapping[str, Port]

    def reading(self, keys: frozenset[str]) -> "PingPlan":
        """Return the plan with those questions alone that have one of these keys."""
        asked = {
            host: tuple(
                one
                for one in ones
                if (hccn.PING.key if isinstance(one, Pings) else one.key.partition(":")[0]) in keys
            )
            for host, ones in self.questions.items()
        }
        return replace(self, questions=asked)

    def count(self, outcomes: Mapping[str, Iterable[Ping]]) -> tuple[PingMatrix, PingMatrix]:
        """Return the matrices of RoCE and of Ethernet, from the pings that each host sent."""
        roce, ethernet = PingMatrix(), PingMatrix()
        for host, sent in outcomes.items():
            number = self.numbers[host]
            for ping in sent:
                if ping.device is None and ping.address in self.ethernet:
                    ethernet.add((number, 0), self.ethernet[ping.address], ping.loss)
                elif ping.device is not None and ping.address in self.ports:
                    roce.add((number, ping.device), self.ports[ping.address], ping.loss)
        return roce, ethernet


def ping_from(
    host: Host, asks: Iterable[Question[object] | Pings], seconds: float
) -> tuple[float | None, list[Ping]]:
    """Return how far a host's clock is ahead, and the pings that it sent. Raises HostError."""
    started = time.time()
    answers = ask(host, asks, timeout=seconds)
    return clock_of(answers, started), [_read(answer) for answer in answers if answer.address]


def plan_pings(names: Sequence[str], facts: Sequence[HostFacts], partners: int) -> PingPlan:
    """Plan the pings between the hosts that answered; `names` are those of all hosts."""
    numbers = {name: number for number, name in enumerate(names)}
    answered = {numbers[host.name]: host for host in facts}
    asks = {}
    for number, host in answered.items():
        nearby = partners_of(number, len(names), partners)
        others = [answered[other] for other in nearby if other in answered]
        targets = [address for other in others for address, _ in _ports(other)]
        sources = [(device, targets) for _, device in _ports(host)]
        wires = [other.ethernet_address for other in others if other.ethernet_address]
        asks[host.name] = pings(sources, wires)
    ports = {
        address: (number, device)
        for number, host in answered.items()
        for address, device in _ports(host)
    }
    ethernet = {
        host.ethernet_address: (number, 0)
        for number, host in answered.items()
        if host.ethernet_address
    }
    return PingPlan(numbers, asks, ports, ethernet)


def _ports(host: HostFacts) -> list[tuple[str, int]]:
    """Return the RoCE address and the device of each NPU that has an address."""
    return [(npu.roce.address, npu.device) for npu in host.npus if npu.roce.address]


def _read(answer: Answer) -> Ping:
    assert answer.address is not None
    parse = parse_ethernet_ping if answer.number is None else hccn.parse_ping
    return Ping(answer.number, answer.address, parse(answer.text).value)

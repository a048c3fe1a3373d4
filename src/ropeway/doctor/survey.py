"""Ask every host everything, in two rounds: its facts, then pings between hosts."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from ropeway.doctor.cluster import Cluster, Wanted
from ropeway.doctor.pings import PARTNERS, PingMatrix, partners_of
from ropeway.facts.gather import ask, clock_of, gather
from ropeway.facts.hccn_ping import parse_ping
from ropeway.facts.host import HostFacts
from ropeway.facts.ping import parse_ping as parse_ethernet_ping
from ropeway.facts.questions import pings, questions
from ropeway.facts.script import Answer
from ropeway.hosts.base import Host
from ropeway.hosts.fleet import run_on_all

_COUNTS = re.compile(r"(\d{1,6}) packets transmitted, (\d{1,6}) received")


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


@dataclass(frozen=True)
class _Ping:
    """One ping of a host: from its device (None: over Ethernet) to an address."""

    device: int | None
    address: str
    loss: float | None


def survey(
    hosts: Sequence[Host],
    wanted: Wanted,
    effort: Effort,
    on_host: Callable[[str], None],
) -> Cluster:
    """Facts of all hosts and pings between them. `on_host("facts")` and `on_host("pings")` are
    called after each host that is done."""
    asked = questions(model_path=wanted.model_path, deep=effort.deep, runtime=wanted.runtime)
    found = run_on_all(
        hosts,
        lambda host: gather(host, asked, timeout=effort.seconds),
        timeout=effort.seconds,
        on_done=lambda _: on_host("facts"),
    )
    facts = {one.host.name: one.result for one in found if one.result is not None}
    failures = {one.host.name: one.error for one in found if one.error is not None}
    cluster = Cluster(
        wanted,
        tuple(facts.values()),
        failures,
        names=tuple(host.name for host in hosts),
    )
    if len(hosts) < 2:
        return cluster
    return _with_pings(cluster, hosts, facts, effort, on_host)


def _with_pings(
    cluster: Cluster,
    hosts: Sequence[Host],
    facts: Mapping[str, HostFacts],
    effort: Effort,
    on_host: Callable[[str], None],
) -> Cluster:
    """The second round. A host that fails now is left out of it."""
    at = {name: number for number, name in enumerate(cluster.names)}
    ports = {
        npu.roce.address: (at[one.name], npu.device)
        for one in cluster.hosts
        for npu in one.npus
        if npu.roce.address
    }
    wires = {one.ethernet_address: at[one.name] for one in cluster.hosts if one.ethernet_address}
    clocks: dict[str, float | None] = {}

    def ping(host: Host) -> list[_Ping]:
        others = [
            facts[cluster.names[number]]
            for number in partners_of(at[host.name], len(hosts), effort.partners)
            if cluster.names[number] in facts
        ]
        addresses = [npu.roce.address for one in others for npu in one.npus if npu.roce.address]
        targets = [(npu.device, addresses) for npu in facts[host.name].npus if npu.roce.address]
        lines = pings(targets, [one.ethernet_address for one in others if one.ethernet_address])
        started = time.time()
        answers = ask(host, lines, timeout=effort.seconds)
        clocks[host.name] = clock_of(answers, started)
        return [_read(answer) for answer in answers if answer.address]

    answering = [host for host in hosts if host.name in facts]
    outcomes = run_on_all(
        answering, ping, timeout=effort.seconds, on_done=lambda _: on_host("pings")
    )
    roce, ethernet = PingMatrix(), PingMatrix()
    failures = dict(cluster.failures)
    for outcome in outcomes:
        source = at[outcome.host.name]
        if outcome.error is not None:
            failures[outcome.host.name] = outcome.error
        for one in outcome.result or ():
            if one.device is None and one.address in wires:
                ethernet.add((source, 0), (wires[one.address], 0), one.loss)
            elif one.device is not None and one.address in ports:
                roce.add((source, one.device), ports[one.address], one.loss)
    timed = tuple(replace(one, clock_s=clocks.get(one.name)) for one in cluster.hosts)
    return replace(cluster, hosts=timed, failures=failures, roce=roce, ethernet=ethernet)


def _read(answer: Answer) -> _Ping:
    assert answer.address is not None
    if answer.number is None:
        value = parse_ethernet_ping(answer.text).value
        loss = value.loss_percent if value else None
    else:
        loss = _loss(answer.text)
    return _Ping(answer.number, answer.address, loss)


def _loss(text: str) -> float | None:
    """Percent of packets lost. The counts alone where they are plain: half a million are read."""
    counts = _COUNTS.findall(text)
    if len(counts) == 1 and int(counts[0][0]) > 0:
        sent, received = map(int, counts[0])
        return (sent - received) * 100 / sent
    value = parse_ping(text).value
    return value[0].loss_percent if value else None

"""Checks between hosts: pings from NPU to NPU over RoCE, and the Ethernet that Ray uses."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ropeway.doctor.cluster import Cluster
from ropeway.doctor.finding import Location, format_ranges
from ropeway.doctor.pings import PingMatrix, Suspect, rail_only, suspects
from ropeway.doctor.roce import RAY_PAGE
from ropeway.doctor.rule import Check, Evidence, Gap, Hit, on_hosts, same_on_hosts
from ropeway.facts.ascend import hccn
from ropeway.facts.ascend.npu_smi import TABLE
from ropeway.facts.host import HostFacts
from ropeway.facts.linux.network import DEFAULT_NIC, NICS
from ropeway.facts.linux.ping import PING
from ropeway.phrases import phrase

_FIXES = {
    "all": "check the RoCE switches, or the VLAN of all ports",
    "rail": "check the switch that joins these ports",
    "hosts apart": "check the switches between them: VLAN, MTU, PFC; the leaf's uplinks",
}
_FIX = "check its link, address, netmask and gateway; then the switch port"


def _failing_pings(cluster: Cluster) -> Iterator[Hit]:
    matrix = cluster.roce
    if matrix is None or rail_only(matrix):
        return
    devices = sorted({device for _, device in matrix.sent})
    for suspect in suspects(matrix):
        title, locations = _describe(suspect, [cluster.names[n] for n in suspect.hosts], devices)
        evidence = f"{suspect.explained} of {suspect.tested} pings fail"
        yield Hit(locations, evidence, {"title": title, "fix": _FIXES.get(suspect.kind, _FIX)})


def _describe(
    suspect: Suspect, hosts: Sequence[str], devices: Sequence[int]
) -> tuple[str, tuple[Location, ...]]:
    """Return the title of a finding, and its locations."""
    fail = "fail" if suspect.loss >= 100 else f"lose up to {suspect.loss:.0f}% of their packets"
    match suspect.kind:
        case "all":
            return "no NPU reaches another host", ()
        case "rail":
            return f"pings to and from NPU {suspect.device} of every host {fail}", ()
        case "hosts apart":
            title = f"pings between {hosts[0]} and {hosts[1]} {fail}"
            return title, tuple(Location(host) for host in hosts)
        case "host":
            title = f"pings to and from {hosts[0]} {fail}"
            return title, tuple(Location(hosts[0], device) for device in devices)
        case "npu":
            location = Location(hosts[0], suspect.device)
            return f"pings to and from {location} {fail}", (location,)
        case "pings":
            source = Location(hosts[0], suspect.device)
            target = Location(hosts[1], suspect.other_device)
            title = f"the ping from {source} to {target} loses {suspect.loss:.0f}%"
            return title, (source, target)


def _rails(cluster: Cluster) -> Iterator[Hit]:
    if cluster.roce is not None and rail_only(cluster.roce):
        yield Hit((), "all pings between different numbers fail, all others arrive")


def _failing_ethernet(cluster: Cluster) -> Iterator[Hit]:
    for suspect in suspects(cluster.ethernet) if cluster.ethernet else ():
        locations = tuple(Location(cluster.names[number]) for number in suspect.hosts)
        hosts = " and ".join(location.host for location in locations) or "all hosts"
        evidence = f"{suspect.explained} of {suspect.tested} pings, {suspect.loss:.0f}% loss"
        yield Hit(locations, evidence, {"hosts": hosts})


def _without_pings(cluster: Cluster) -> Iterator[Gap]:
    """Yield the pings between NPUs that were not sent, or whose outcome is not known."""
    matrix = cluster.roce
    able = sum(any(npu.roce.address for npu in host.npus) for host in cluster.hosts)
    yield from _unsent(cluster, matrix, able)
    if matrix is None or not matrix.total:
        return
    numbers = {name: number for number, name in enumerate(cluster.names)}
    for host in cluster.hosts:
        number = numbers[host.name]
        silent = [npu.device for npu in host.npus if not matrix.sent[number, npu.device]]
        if silent:
            yield Gap(phrase("no ping of NPU {npus}", npus=format_ranges(silent)), (host.name,))


def _without_ethernet_pings(cluster: Cluster) -> Iterator[Gap]:
    able = sum(host.ethernet_address is not None for host in cluster.hosts)
    yield from _unsent(cluster, cluster.ethernet, able)


def _unsent(cluster: Cluster, matrix: PingMatrix | None, able: int) -> Iterator[Gap]:
    """Yield why there are no pings, or which are missing. `able`: hosts with an address to ping."""
    if matrix is None or not matrix.total + matrix.unknown.total():
        answered, hosts = len(cluster.hosts), len(cluster.names)
        if answered < 2:
            yield Gap(phrase("no pings: {n} of {hosts} hosts answered", n=answered, hosts=hosts))
        elif able < 2:
            text = "no pings: {n} of {hosts} hosts have an address to ping"
            yield Gap(phrase(text, n=able, hosts=hosts))
        else:
            yield Gap(phrase("no pings were sent"))
        return
    if not matrix.total:
        yield Gap(phrase("no answer to a ping could be read"))
        return
    for number, name in enumerate(cluster.names):
        unread = sum(count for (source, _), count in matrix.unknown.items() if source == number)
        if unread:
            yield Gap(phrase("{n:,} answers to pings could not be read", n=unread), (name,))
        elif name in cluster.failures:
            yield Gap(phrase("no answer"), (name,))


def _without_interface(host: HostFacts) -> Evidence:
    if host.nic is not None or not host.nics:
        return None
    return "neither the spec's address nor a default route"


_OF_PINGS = (
    Check("roce-rails", "warn", "NPUs reach only their own number on other hosts", _rails,
          reads=(TABLE, hccn.IP, hccn.PING),
          lacking=_without_pings,
          expected="every NPU reaches every NPU",
          fix="cables without a switch, or a switch for each rail: keep tensor and expert parallel "
          "inside a host",
          source="vllm-ascend ray.md asks for all pairs"),
    Check("roce-ping", "fail", "{title}", _failing_pings,
          reads=(TABLE, hccn.IP, hccn.PING),
          lacking=_without_pings,
          expected="0% loss in both directions",
          fix="{fix}",
          source=f"{RAY_PAGE}; EI0006 `Getting socket times out` (vllm-ascend #5461)"),
    Check("eth-ping", "fail", "Ethernet pings of {hosts} fail", _failing_ethernet,
          reads=(NICS, DEFAULT_NIC, PING),
          lacking=_without_ethernet_pings,
          expected="every host reaches every host",
          fix="check routes and firewall; `ping` between them by hand",
          source=RAY_PAGE),
)  # fmt: skip

OF_INTERFACES = (
    Check("eth-nic", "warn", "the interface with the host's address differs in name",
          same_on_hosts(lambda host: host.nic.name if host.nic else None),
          reads=(NICS, DEFAULT_NIC),
          expected="any names, if each host is told its own",
          fix="set HCCL_SOCKET_IFNAME, GLOO_SOCKET_IFNAME and TP_SOCKET_IFNAME per host "
          "(`ropeway up` does)",
          source="HCCL environment reference, HCCL_SOCKET_IFNAME"),
    Check("eth-mtu", "warn", "interfaces differ in MTU",
          same_on_hosts(lambda host: host.nic.mtu if host.nic else None),
          reads=(NICS, DEFAULT_NIC),
          expected="one MTU",
          fix="`ip link set dev NIC mtu …`"),
    Check("eth-address", "fail", "no interface has the host's address",
          on_hosts(_without_interface),
          reads=(NICS, DEFAULT_NIC),
          expected="the address that other hosts reach",
          fix="`ip addr`; then correct the address in the spec"),
)  # fmt: skip

OF_PINGS = tuple(replace(check, min_hosts=2) for check in _OF_PINGS)

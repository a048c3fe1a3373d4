"""Checks between hosts: pings from NPU to NPU over RoCE, and the Ethernet that Ray uses."""

from collections import Counter
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
from ropeway.phrases import joined, phrase

_FIXES = {
    "all": phrase("check the RoCE switches, and the VLAN of all ports"),
    "rail": phrase("check the switch that joins these ports"),
    "hosts apart": phrase("check the switches between them: VLAN, MTU, PFC, uplinks of the leaf"),
}
_FIX = phrase("check its link, address, netmask and gateway, then the switch port")


def _failing_pings(cluster: Cluster) -> Iterator[Hit]:
    matrix = cluster.roce
    if matrix is None or rail_only(matrix):
        return
    devices = sorted({device for _, device in matrix.sent})
    for suspect in suspects(matrix):
        title, locations = _describe(suspect, [cluster.names[n] for n in suspect.hosts], devices)
        text = "{n:,} of {total:,} pings fail"
        if suspect.loss < 100:
            text = "{n:,} of {total:,} pairs lose packets"
        evidence = phrase(text, n=suspect.explained, total=suspect.tested)
        yield Hit(locations, evidence, {"title": title, "fix": _FIXES.get(suspect.kind, _FIX)})


def _describe(
    suspect: Suspect, hosts: Sequence[str], devices: Sequence[int]
) -> tuple[str, tuple[Location, ...]]:
    """Return the title of a finding, and its locations."""
    fail = phrase("fail")
    if suspect.loss < 100:
        fail = phrase("lose up to {percent:.0f}% of their packets", percent=suspect.loss)
    around = "pings to and from {place} {fail}"
    match suspect.kind:
        case "all":
            return phrase("no NPU reaches another host"), ()
        case "rail":
            place = phrase("NPU {npu} of every host", npu=suspect.device)
            return phrase(around, place=place, fail=fail), ()
        case "hosts apart":
            text = "pings between {host} and {other} {fail}"
            title = phrase(text, host=hosts[0], other=hosts[1], fail=fail)
            return title, tuple(Location(host) for host in hosts)
        case "host":
            title = phrase(around, place=hosts[0], fail=fail)
            return title, tuple(Location(hosts[0], device) for device in devices)
        case "npu":
            location = Location(hosts[0], suspect.device)
            return phrase(around, place=str(location), fail=fail), (location,)
        case "pings":
            source = Location(hosts[0], suspect.device)
            target = Location(hosts[1], suspect.other_device)
            text = "pings from {source} to {target} {fail}"
            title = phrase(text, source=str(source), target=str(target), fail=fail)
            return title, (source, target)


def _rails(cluster: Cluster) -> Iterator[Hit]:
    if cluster.roce is not None and rail_only(cluster.roce):
        text = "all pings between different numbers fail, all others arrive"
        yield Hit((), phrase(text))


def _failing_ethernet(cluster: Cluster) -> Iterator[Hit]:
    for suspect in suspects(cluster.ethernet) if cluster.ethernet else ():
        locations = tuple(Location(cluster.names[number]) for number in suspect.hosts)
        hosts = joined((place.host for place in locations), ", ") or phrase("all hosts")
        text = "{n:,} of {total:,} pings, {percent:.0f}% loss"
        evidence = phrase(text, n=suspect.explained, total=suspect.tested, percent=suspect.loss)
        from_, to = _ends(cluster, locations)
        yield Hit(locations, evidence, {"hosts": hosts, "host": from_, "address": to})


def _ends(cluster: Cluster, locations: Sequence[Location]) -> tuple[str, str]:
    """Return a host to ping from and the address of another, first of all those at fault."""
    names = dict.fromkeys([*(place.host for place in locations), *cluster.names])
    known = [host for name in names for host in cluster.hosts if host.name == name]
    return known[0].name, known[1].ethernet_address or "ADDRESS"


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
    if matrix is None or not matrix.total + len(matrix.unknown):
        answered, hosts = len(cluster.hosts), len(cluster.names)
        if not answered:
            yield Gap(phrase("no pings: none of {hosts} hosts answered", hosts=hosts))
        elif answered < 2:
            yield Gap(phrase("no pings: {n} of {hosts} hosts answered", n=answered, hosts=hosts))
        elif not able:
            yield Gap(phrase("no pings: none of {hosts} hosts has an address to ping", hosts=hosts))
        elif able < 2:
            text = "no pings: {n} of {hosts} hosts have an address to ping"
            yield Gap(phrase(text, n=able, hosts=hosts))
        else:
            yield Gap(phrase("no pings were sent"))
        return
    if not matrix.total:
        yield Gap(phrase("no answer to a ping could be read"))
        return
    unread = Counter(source for (source, _), _ in matrix.unknown)
    for number, name in enumerate(cluster.names):
        if unread[number]:
            text = "{n:,} answers to pings could not be read"
            yield Gap(phrase(text, n=unread[number]), (name,))
        elif name in cluster.failures:
            yield Gap(phrase("no answer"), (name,))


def _without_interface(host: HostFacts) -> Evidence:
    if host.nic is not None or not host.nics:
        return None
    return phrase("neither the spec's address nor a default route")


_OF_PINGS = (
    Check("roce-rails", "warn", "NPUs reach only their own number on other hosts", _rails,
          reads=(TABLE, hccn.IP, hccn.PING),
          lacking=_without_pings,
          expected="every NPU reaches every NPU",
          fix="this is right for cables without a switch, or with a switch for each "
          "rail: keep tensor and expert parallel inside a host",
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
          fix="check routes and firewall on {host}:\n"
          "$ ping -c 3 {address}",
          source=RAY_PAGE),
)  # fmt: skip

_OF_INTERFACES = (
    Check("eth-nic", "warn", "hosts use Ethernet interfaces of different names",
          same_on_hosts(lambda host: host.nic.name if host.nic else None),
          reads=(NICS, DEFAULT_NIC),
          expected="any names, as long as each host is told its own",
          fix="`ropeway up` sets HCCL_SOCKET_IFNAME, GLOO_SOCKET_IFNAME and "
          "TP_SOCKET_IFNAME for each host; by hand, set them so",
          source="HCCL environment reference, HCCL_SOCKET_IFNAME"),
    Check("eth-mtu", "warn", "Ethernet interfaces differ in MTU",
          same_on_hosts(lambda host: host.nic.mtu if host.nic else None),
          reads=(NICS, DEFAULT_NIC),
          expected="one MTU",
          fix="set the same on all hosts, on {host}:\n"
          "$ ip link set dev {nic} mtu {usual}"),
    Check("eth-address", "fail", "no interface has the host's address",
          on_hosts(_without_interface),
          reads=(NICS, DEFAULT_NIC),
          expected="the address that other hosts reach",
          fix="see which addresses there are on {host}, then correct the one in the spec:\n"
          "$ ip addr"),
)  # fmt: skip

OF_PINGS = tuple(replace(check, min_hosts=2, between_hosts=True) for check in _OF_PINGS)
OF_INTERFACES = tuple(replace(check, between_hosts=True) for check in _OF_INTERFACES)

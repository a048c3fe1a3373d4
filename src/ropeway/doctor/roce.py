"""Checks of the RoCE network between NPUs, which HCCL uses, and of the Ethernet between hosts."""

import ipaddress
from collections import Counter
from collections.abc import Hashable, Iterable

from ropeway.doctor.cluster import Cluster, each_host, grouped, odd
from ropeway.doctor.finding import Finding, Place
from ropeway.doctor.pings import PingMatrix, Suspect, rail_only, suspects
from ropeway.facts.host import Npu
from ropeway.facts.npu_smi import chip_family

_RAY_PAGE = "vllm-ascend docs/source/tutorials/features/ray.md"
_LOW_MARGIN = 1.5  # of the module's own alarm threshold
_FLAPS = 3


def tool(cluster: Cluster) -> Iterable[Finding]:
    """hccn_tool is there and answers."""
    if len(cluster.names) < 2:
        return
    absent = [
        Place(host.name) for host in cluster.hosts if host.has_hccn_tool is False and host.npus
    ]
    if absent:
        yield Finding(
            "roce-tool", "fail", "there is no hccn_tool, so RoCE cannot be checked", tuple(absent),
            len(cluster.hosts), "`hccn_tool`: not found",
            "/usr/local/Ascend/driver/tools/hccn_tool",
            "install the whole driver package; inside a container mount the tool", _RAY_PAGE,
        )  # fmt: skip
    broken = [
        (place, (npu.roce.problem.kind, npu.roce.problem.message))
        for place, npu in cluster.npus()
        if npu.roce.problem is not None and npu.roce.problem.kind != "not-configured"
    ]
    yield from grouped(
        broken,
        lambda places, seen: Finding(
            "roce-tool", "warn", "hccn_tool does not answer", places, len(list(cluster.npus())),
            str(seen[1]), "an answer",
            "run it as root, and not beside another" if seen[0] in ("denied", "busy")
            else "`dmesg | grep -i ascend`",
            "hccn_tool reference",
        ),
    )  # fmt: skip


def addresses(cluster: Cluster) -> Iterable[Finding]:
    """Every port has an address, no two have the same, and they can reach each other."""
    ports = list(cluster.npus())
    if len(cluster.names) < 2 or not any(npu.roce.address for _, npu in ports):
        if len(cluster.names) > 1 and any(host.has_hccn_tool for host in cluster.hosts) and ports:
            yield _no_address(tuple(place for place, _ in ports), len(ports))
        return
    if without := [place for place, npu in ports if npu.roce.address is None]:
        yield _no_address(tuple(without), len(ports))
    owners: dict[str, list[Place]] = {}
    for place, npu in ports:
        if npu.roce.address is not None:
            owners.setdefault(npu.roce.address, []).append(place)
    for address, places in owners.items():
        if len(places) > 1:
            yield Finding(
                "roce-address-unique", "fail", f"{len(places)} NPUs have the address {address}",
                tuple(places), len(ports), address, "an address of its own for each",
                f"`hccn_tool -i {places[-1].device} -ip -s address A netmask M` on "
                f"{places[-1].host}; and in /etc/hccn.conf",
                "MindSpore error analysis, EI0006: two ranks with one address",
            )  # fmt: skip
    yield from _subnets(ports)


def _no_address(places: tuple[Place, ...], total: int) -> Finding:
    return Finding(
        "roce-address", "fail", "NPUs have no RoCE address", places, total, "no ip was preset",
        "an address, in /etc/hccn.conf too",
        "`hccn_tool -i N -ip -s address A netmask M`; ask whoever planned the network",
        _RAY_PAGE,
    )  # fmt: skip


def _subnets(ports: list[tuple[Place, Npu]]) -> Iterable[Finding]:
    known = [(place, npu.roce, network) for place, npu in ports if (network := _network(npu))]
    if not known:
        return
    away = [
        place
        for place, port, network in known
        if port.gateway and ipaddress.ip_address(port.gateway) not in network
    ]
    if away:
        yield Finding(
            "roce-gateway", "fail", "the RoCE gateway lies outside of the port's own network",
            tuple(away), len(ports), "unreachable gateway", "a gateway in the same network",
            "`hccn_tool -i N -gateway -s gateway G`", "hccn_tool reference; EI0006",
        )  # fmt: skip
    networks = Counter(network for _, _, network in known)
    usual, count = networks.most_common(1)[0]
    masked = [
        (place, port.netmask)
        for place, port, network in known
        if network != usual and ipaddress.ip_address(str(port.address)) in usual
    ]
    if masked:
        yield Finding(
            "roce-netmask", "fail", "RoCE netmasks differ", tuple(place for place, _ in masked),
            len(ports), f"{masked[0][1]} on {masked[0][0]}, {usual.netmask} on {count}",
            "one netmask everywhere", "`hccn_tool -i N -ip -s address A netmask M`",
            "MindSpore error analysis, EI0006",
        )  # fmt: skip
    outside = [
        place
        for place, port, network in known
        if port.gateway is None and ipaddress.ip_address(str(port.address)) not in usual
    ]
    if outside:
        yield Finding(
            "roce-subnet", "fail", "RoCE ports are in another network and have no gateway",
            tuple(outside), len(ports), f"{len(networks)} networks, most ports in {usual}",
            "one network, or a gateway on every port",
            "`hccn_tool -i N -gateway -s gateway G`, or an address of the same network",
            f"{_RAY_PAGE}; vllm-ascend #5461",
        )  # fmt: skip


def _network(npu: Npu) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    if not npu.roce.address or not npu.roce.netmask:
        return None
    try:
        return ipaddress.ip_network(f"{npu.roce.address}/{npu.roce.netmask}", strict=False)
    except ValueError:
        return None


def links(cluster: Cluster) -> Iterable[Finding]:
    """Cables, optics, switches."""
    if len(cluster.names) < 2:
        return
    ports = list(cluster.npus())
    total = len(ports)
    down = [place for place, npu in ports if npu.roce.link not in (None, "UP")]
    if down:
        yield Finding(
            "roce-link", "fail", "RoCE links are down", tuple(down), total, "link status: DOWN",
            "UP", "cable, optical module, or the switch's port: `hccn_tool -i N -optical -g`",
            _RAY_PAGE,
        )  # fmt: skip
    absent = [
        place for place, npu in ports
        if npu.roce.optical_present is False and npu.roce.link != "UP"
    ]  # fmt: skip
    if absent:
        yield Finding(
            "roce-optical", "fail", "the optical module is not there", tuple(absent), total,
            "present: not present", "present", "seat the module again, or replace it",
            "hccn_tool reference, -optical",
        )  # fmt: skip
    dark = [
        (place, npu.roce)
        for place, npu in ports
        if npu.roce.optical_present is not False and (npu.roce.light_lost or _weak(npu))
    ]
    if dark:
        place, port = dark[0]
        yield Finding(
            "roce-optical", "fail" if port.light_lost else "warn",
            "optical modules receive little light", tuple(place for place, _ in dark), total,
            f"{port.rx_power_mw or 0:g} mW on {place}, alarm below {port.rx_low_mw or 0:g} mW",
            "well above the module's own threshold",
            "clean or replace the fibre; then the module", "hccn_tool reference, -optical",
        )  # fmt: skip
    flapping = [
        (place, npu.roce.link_downs) for place, npu in ports if (npu.roce.link_downs or 0) >= _FLAPS
    ]
    if flapping:
        yield Finding(
            "roce-flapping", "warn", "RoCE links went down several times",
            tuple(place for place, _ in flapping), total,
            f"{flapping[0][1]} times on {flapping[0][0]}", "once, at the start",
            "cable and optics; `hccn_tool -i N -link_stat -g` has the times",
            "hccn_tool reference, -link_stat",
        )  # fmt: skip
    noisy = [(place, npu.roce.errors) for place, npu in ports if npu.roce.errors]
    if noisy:
        place, errors = noisy[0]
        told = ", ".join(f"{name} {count:,}" for name, count in list(errors.items())[:3])
        yield Finding(
            "roce-errors", "warn", "RoCE ports count errors",
            tuple(place for place, _ in noisy), total, f"{told} on {place}", "no errors",
            "ask again in a minute: what still grows is a bad cable, or PFC set unlike the switch",
            "hccn_tool reference, -stat",
        )  # fmt: skip


def vnic(cluster: Cluster) -> Iterable[Finding]:
    """On an A3 the chips of a host talk over virtual interfaces."""
    ports = [
        (place, npu) for place, npu in cluster.npus() if chip_family(npu.name or "").name == "A3"
    ]
    bad = [
        (place, npu.roce.vnic_link)
        for place, npu in ports
        if npu.roce.vnic_link is not None
        and (npu.roce.vnic_link != "UP" or npu.roce.vnic_address is None)
    ]
    if bad:
        yield Finding(
            "roce-vnic", "fail", "virtual interfaces between chips are down",
            tuple(place for place, _ in bad), len(ports), f"vnic link status: {bad[0][1]}",
            "UP, with an address", "`hccn_tool -i N -vnic -g`; then `dmesg | grep -i ascend`",
            "msprechecker 0.4, VnicChecker; hccn_tool reference for A3, -vnic",
        )  # fmt: skip


def _weak(npu: Npu) -> bool:
    port = npu.roce
    return (
        port.rx_power_mw is not None
        and port.rx_low_mw is not None
        and port.rx_power_mw < port.rx_low_mw * _LOW_MARGIN
    )


def health(cluster: Cluster) -> Iterable[Finding]:
    """The driver's own check of the network, and what it pings."""
    if len(cluster.names) < 2:
        return
    ports = list(cluster.npus())
    undetected = [place for place, npu in ports if npu.roce.health == "Init" and not _detects(npu)]
    if undetected:
        yield Finding(
            "roce-detect", "warn", "the network's health is not checked: it has nothing to ping",
            tuple(undetected), len(ports), "net health Init, netdetect 0.0.0.0",
            "the gateway, or the NPU at the other end of the cable",
            "`hccn_tool -i N -netdetect -s address <gateway>`", "hccn_tool reference, -netdetect",
        )  # fmt: skip
    sick = [
        (place, npu.roce.health)
        for place, npu in ports
        if npu.roce.health not in (None, "Success") and place not in undetected
    ]
    yield from grouped(
        sick,
        lambda places, seen: Finding(
            "roce-health", "fail", f"the network's health is {seen}", places, len(ports),
            f"net health status: {seen}", "Success",
            "the port's netdetect address does not answer: link, gateway, VLAN of the switch",
            _RAY_PAGE,
        ),
    )  # fmt: skip
    lost = [
        place for place, npu in ports
        if npu.roce.link == "UP" and npu.roce.switch_port is None and _some_lldp(cluster)
    ]  # fmt: skip
    if lost:
        yield Finding(
            "roce-lldp", "warn", "the switch does not say which port it is", tuple(lost),
            len(ports), "no LLDP neighbour", "a switch port's name, as the others have",
            "LLDP is off on that switch port, or the cable goes elsewhere", _RAY_PAGE,
        )  # fmt: skip


def _detects(npu: Npu) -> bool:
    return npu.roce.detect not in (None, "", "0.0.0.0")


def _some_lldp(cluster: Cluster) -> bool:
    return any(npu.roce.switch_port for _, npu in cluster.npus())


def tls(cluster: Cluster) -> Iterable[Finding]:
    """HCCL refuses a connection when the TLS switch differs between its ends."""
    if found := odd((place, npu.roce.tls) for place, npu in cluster.npus()):
        shown: dict[Hashable, str] = {0: "off", 1: "on"}
        others = ", ".join(
            f"{shown.get(value, value)} on {len(places)}" for value, places in found.others.items()
        )
        yield Finding(
            "roce-tls", "fail", "the TLS switch differs between NPUs", found.places,
            len(list(cluster.npus())),
            f"{shown.get(found.usual, found.usual)} on {found.count}, {others}",
            "the same everywhere; off is usual",
            "`for i in $(seq 0 7); do hccn_tool -i $i -tls -s enable 0; done` on every host",
            "vllm-ascend #10224; HCCL documentation, EI0016",
        )  # fmt: skip


def configured(cluster: Cluster) -> Iterable[Finding]:
    """/etc/hccn.conf: what the driver sets after a reboot."""
    if len(cluster.names) < 2:
        return
    hosts = [host for host in cluster.hosts if host.npus]
    absent = [Place(host.name) for host in hosts if host.hccn_conf is None]
    if absent:
        yield Finding(
            "roce-conf", "warn", "there is no /etc/hccn.conf", tuple(absent), len(hosts),
            "no such file", "the addresses of all NPUs",
            "set the addresses with `hccn_tool -i N -ip -s …`, which writes it; mount it into "
            "containers",
            "vllm-ascend #7711; gpustack/runtime #28",
        )  # fmt: skip
    stale = [
        Place(host.name, npu.device)
        for host in hosts
        if host.hccn_conf is not None
        for npu in host.npus
        if npu.roce.address and host.hccn_conf.get(npu.device, npu.roce.address) != npu.roce.address
    ]
    if stale:
        yield Finding(
            "roce-conf-stale", "warn", "/etc/hccn.conf says other addresses than the NPUs have",
            tuple(stale), len(list(cluster.npus())), "address_N differs from `hccn_tool -ip -g`",
            "the same", "`hccn_tool -i N -ip -s …` again: after a reboot the file counts",
            "hccn_tool reference, -cfg recovery",
        )  # fmt: skip


def pings(cluster: Cluster) -> Iterable[Finding]:
    """Every NPU pings NPUs of other hosts; the smallest explanation of what fails."""
    matrix = cluster.roce
    if matrix is None or not matrix.failures:
        return
    if rail_only(matrix):
        yield Finding(
            "roce-rails", "warn", "NPUs reach only their own number on other hosts", (),
            matrix.total, "all pings between different numbers fail, all others arrive",
            "every NPU reaches every NPU",
            "cables without a switch, or a switch for each rail: keep tensor and expert parallel "
            "inside a host",
            "vllm-ascend ray.md asks for all pairs",
        )  # fmt: skip
        return
    for suspect in suspects(matrix):
        yield _ping_finding(cluster, matrix, suspect)


def _ping_finding(cluster: Cluster, matrix: PingMatrix, suspect: Suspect) -> Finding:
    hosts = [cluster.names[number] for number in suspect.hosts]
    whole = suspect.loss >= 100
    verb = "do not arrive" if whole else f"lose up to {suspect.loss:.0f} % of their packets"
    devices = sorted({device for _, device in matrix.sent})
    what, places = {
        "all": ("no NPU reaches another host", ()),
        "host": (f"pings to and from {hosts[0] if hosts else ''} {verb}",
                 tuple(Place(hosts[0], device) for device in devices) if hosts else ()),
        "hosts apart": (f"pings between {' and '.join(hosts)} {verb}",
                        tuple(Place(host) for host in hosts)),
        "npu": (f"pings to and from {hosts[0] if hosts else ''} NPU {suspect.device} {verb}",
                (Place(hosts[0], suspect.device),) if hosts else ()),
        "rail": (f"pings to and from NPU {suspect.device} of every host {verb}", ()),
        "pings": (f"the ping from {hosts[0] if hosts else ''} NPU {suspect.device} to "
                  f"{hosts[-1] if hosts else ''} NPU {suspect.other_device} loses "
                  f"{suspect.loss:.0f} %",
                  (Place(hosts[0], suspect.device), Place(hosts[-1], suspect.other_device))
                  if hosts else ()),
    }[suspect.kind]  # fmt: skip
    return Finding(
        "roce-ping", "fail", what, places, matrix.total,
        f"{suspect.explained} of {suspect.tested} pings fail", "0 % loss, both ways",
        {
            "all": "the RoCE switches, or the VLAN of all ports",
            "rail": "the switch that joins these ports",
            "hosts apart": "the switches between them: VLAN, MTU, PFC; the leaf's uplinks",
        }.get(suspect.kind, "its link, address, netmask, gateway; then the switch's port"),
        f"{_RAY_PAGE}; EI0006 `Getting socket times out` (vllm-ascend #5461)",
    )  # fmt: skip


def ethernet(cluster: Cluster) -> Iterable[Finding]:
    """Hosts reach each other where Ray and HCCL's start-up talk."""
    matrix = cluster.ethernet
    if matrix is not None:
        for suspect in suspects(matrix):
            hosts = tuple(Place(cluster.names[number]) for number in suspect.hosts)
            said = " and ".join(str(place) for place in hosts) or "any host"
            yield Finding(
                "eth-ping", "fail", f"Ethernet pings of {said} fail", hosts, matrix.total,
                f"{suspect.explained} of {suspect.tested} pings, {suspect.loss:.0f} % loss",
                "every host reaches every host",
                "routes and firewall; `ping` between them by hand", _RAY_PAGE,
            )  # fmt: skip
    named = each_host(cluster, lambda host: host.nic.name if host.nic else None)
    if found := odd(named):
        yield Finding(
            "eth-nic", "warn", "the interface with the host's address has different names",
            found.places, len(cluster.hosts), found.told(), "any, if each host gets its own name",
            "set HCCL_SOCKET_IFNAME, GLOO_SOCKET_IFNAME and TP_SOCKET_IFNAME per host "
            "(`ropeway up` does)",
            "HCCL environment reference, HCCL_SOCKET_IFNAME",
        )  # fmt: skip
    if found := odd(each_host(cluster, lambda host: host.nic.mtu if host.nic else None)):
        yield Finding(
            "eth-mtu", "warn", "interfaces differ in MTU", found.places, len(cluster.hosts),
            found.told(), "one MTU", "`ip link set dev NIC mtu …`",
        )  # fmt: skip
    orphans = [Place(host.name) for host in cluster.hosts if host.nics and host.nic is None]
    if orphans:
        yield Finding(
            "eth-address", "fail", "no interface has the host's address", tuple(orphans),
            len(cluster.hosts), "neither the spec's address nor a default route",
            "the address that other hosts reach", "`ip addr`; correct the address in the spec",
        )  # fmt: skip

"""Checks of each NPU's RoCE port, which HCCL uses between hosts: address, link, settings."""

import ipaddress
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from ropeway.doctor.cluster import Cluster
from ropeway.doctor.finding import Location
from ropeway.doctor.rule import Check, Evidence, Hit, on_hosts, on_npus, on_ports, outlier_hits
from ropeway.facts.ascend import hccn
from ropeway.facts.ascend.npu_smi import TABLE, chip_family
from ropeway.facts.host import Npu, Roce
from ropeway.phrases import joined, phrase

RAY_PAGE = "vllm-ascend docs/source/tutorials/features/ray.md"
_LOW_MARGIN = 1.5  # of the module's own alarm threshold
_FLAPS = 3
_OPTICAL = "hccn_tool reference, -optical"


def _failing_tool(cluster: Cluster) -> Iterator[Hit]:
    for location, npu in cluster.npus:
        problem = npu.roce.problem
        if problem is not None and problem.kind != "not-configured":
            fix = phrase("run it as root, and one call at a time")
            if problem.kind not in ("denied", "busy"):
                fix = phrase("read what the kernel says:\n$ dmesg | grep -i ascend")
            yield Hit((location,), problem.message, {"fix": fix})


def _without_address(cluster: Cluster) -> Iterator[Hit]:
    for host in cluster.hosts:
        for npu in host.npus if host.has_hccn_tool else ():
            if npu.roce.address is None:
                yield Hit((Location(host.name, npu.device),), phrase("no IP address is set"))


def _shared_addresses(cluster: Cluster) -> Iterator[Hit]:
    owners: dict[str, list[Location]] = {}
    for location, npu in cluster.npus:
        if npu.roce.address is not None:
            owners.setdefault(npu.roce.address, []).append(location)
    for address, locations in owners.items():
        if len(locations) > 1:
            # The fix names the first location; the NPU that came last is more likely wrong.
            values = {"count": str(len(locations)), "address": address}
            yield Hit(tuple(reversed(locations)), address, values)


_Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _interfaces(cluster: Cluster) -> Iterator[tuple[Location, _Interface, _Address | None]]:
    """Yield the location, the address with its network, and the gateway of each RoCE port."""
    for location, npu in cluster.npus:
        port = npu.roce
        if port.address and port.netmask:
            try:
                interface = ipaddress.ip_interface(f"{port.address}/{port.netmask}")
                gateway = ipaddress.ip_address(port.gateway) if port.gateway else None
            except ValueError:  # digits may be masked
                continue
            yield location, interface, gateway


def _outside_gateways(cluster: Cluster) -> Iterator[Hit]:
    for location, interface, gateway in _interfaces(cluster):
        if gateway and gateway not in interface.network:
            text = "gateway {gateway}, network {network}"
            yield Hit((location,), phrase(text, gateway=gateway, network=interface.network))


def _wrong_netmasks(cluster: Cluster) -> Iterator[Hit]:
    networks = Counter(interface.network for _, interface, _ in _interfaces(cluster))
    for usual, count in networks.most_common(1):
        for location, interface, _ in _interfaces(cluster):
            if interface.network != usual and interface.ip in usual:
                text = "{netmask}, while {n:,} have {usual}"
                values = {"usual": usual.netmask}
                evidence = phrase(text, netmask=interface.netmask, n=count, **values)
                yield Hit((location,), evidence, values)


def _outside_ports(cluster: Cluster) -> Iterator[Hit]:
    networks = Counter(interface.network for _, interface, _ in _interfaces(cluster))
    for usual, _ in networks.most_common(1):
        for location, interface, gateway in _interfaces(cluster):
            if gateway is None and interface.ip not in usual:
                text = "{n:,} networks, most ports in {usual}"
                yield Hit((location,), phrase(text, n=len(networks), usual=usual))


def _without_module(port: Roce) -> Evidence:
    absent = port.optical.present is False and port.link != "UP"
    return "present: not present" if absent else None


def _dark_modules(cluster: Cluster) -> Iterator[Hit]:
    for location, npu in cluster.npus:
        module = npu.roce.optical
        power, threshold = module.rx_power_mw, module.rx_low_mw
        weak = power is not None and threshold is not None and power < threshold * _LOW_MARGIN
        if module.present is not False and (module.light_lost or weak):
            text = "{power:g} mW, alarm below {threshold:g} mW"
            evidence = phrase(text, power=power or 0, threshold=threshold or 0)
            yield Hit((location,), evidence, level="fail" if module.light_lost else "warn")


def _errors(port: Roce) -> Evidence:
    counters = list(port.errors.items())[:3]
    return joined((f"{name} {count:,}" for name, count in counters), ", ") or None


def _vnic_down(npu: Npu) -> Evidence:
    vnic = npu.roce.vnic
    if vnic.link is None or chip_family(npu.name or "") != "A3":
        return None
    if vnic.link == "UP" and vnic.address is not None:
        return None
    return f"vnic link status: {vnic.link}, address: {vnic.address or 'none'}"


def _undetected(port: Roce) -> bool:
    """Whether the driver's health check has no address to ping."""
    return port.health == "Init" and port.detect in (None, "", "0.0.0.0")


def _unhealthy(cluster: Cluster) -> Iterator[Hit]:
    for location, npu in cluster.npus:
        health = npu.roce.health
        if health not in (None, "Success") and not _undetected(npu.roce):
            yield Hit((location,), f"net health status: {health}", {"health": str(health)})


def _without_neighbour(cluster: Cluster) -> Iterator[Hit]:
    if any(npu.roce.switch_port for _, npu in cluster.npus):
        for location, npu in cluster.npus:
            if npu.roce.link == "UP" and npu.roce.switch_port is None:
                yield Hit((location,), phrase("no LLDP neighbour"))


def _different_tls(cluster: Cluster) -> Iterator[Hit]:
    words = {0: phrase("off"), 1: phrase("on")}
    switches = [(place, npu.roce.tls) for place, npu in cluster.npus if npu.roce.tls in words]
    usual = Counter(switch for _, switch in switches).most_common(1)
    named = ((place, words[switch]) for place, switch in switches if switch is not None)
    return outlier_hits(named, switch=str(usual[0][0] if usual else 0))


def _stale_conf(cluster: Cluster) -> Iterator[Hit]:
    for host in cluster.hosts:
        for npu in host.npus if host.hccn_conf else ():
            address = npu.roce.address
            configured = (host.hccn_conf or {}).get(npu.device)
            if address and configured and configured != address:
                text = "address_{device}={configured}, but the NPU has {address}"
                evidence = phrase(text, device=npu.device, configured=configured, address=address)
                yield Hit((Location(host.name, npu.device),), evidence)


_BETWEEN_HOSTS = (
    Check("roce-tool", "fail", "hccn_tool is missing, so RoCE cannot be checked",
          on_hosts(lambda host: phrase("`hccn_tool`: not found")
                   if host.npus and host.has_hccn_tool is False else None),
          reads=(TABLE, hccn.IP),
          expected="/usr/local/Ascend/driver/tools/hccn_tool",
          fix="install the whole driver package; in a container, mount the tool",
          source=RAY_PAGE),
    Check("roce-tool", "warn", "hccn_tool does not answer", _failing_tool,
          reads=(TABLE, hccn.IP),
          expected="an answer",
          fix="{fix}",
          source="hccn_tool reference"),
    Check("roce-address", "fail", "NPUs have no RoCE address", _without_address,
          reads=(TABLE, hccn.IP),
          expected="an address, also in /etc/hccn.conf",
          fix="ask who planned the network for the address, and set it on {host}:\n"
          "$ hccn_tool -i {device} -ip -s address ADDRESS netmask MASK",
          source=RAY_PAGE),
    Check("roce-address-unique", "fail", "{count} NPUs share the address {address}",
          _shared_addresses,
          reads=(TABLE, hccn.IP),
          expected="an address of its own for each NPU",
          fix="set another one on {host}, and in its /etc/hccn.conf:\n"
          "$ hccn_tool -i {device} -ip -s address ADDRESS netmask MASK",
          source="MindSpore error analysis, EI0006: two ranks with one address"),
    Check("roce-gateway", "fail", "the RoCE gateway is outside the port's own network",
          _outside_gateways,
          reads=(TABLE, hccn.IP, hccn.GATEWAY),
          expected="a gateway in the same network",
          fix="set it on {host}:\n"
          "$ hccn_tool -i {device} -gateway -s gateway GATEWAY",
          source="hccn_tool reference; EI0006"),
    Check("roce-netmask", "fail", "RoCE netmasks differ", _wrong_netmasks,
          reads=(TABLE, hccn.IP),
          expected="one netmask everywhere",
          fix="set it on {host}:\n"
          "$ hccn_tool -i {device} -ip -s address {address} netmask {usual}",
          source="MindSpore error analysis, EI0006"),
    Check("roce-subnet", "fail", "RoCE ports are in another network and have no gateway",
          _outside_ports,
          reads=(TABLE, hccn.IP, hccn.GATEWAY),
          expected="one network, or a gateway on every port",
          fix="on {host}, set a gateway, or an address of the same network:\n"
          "$ hccn_tool -i {device} -gateway -s gateway GATEWAY",
          source=f"{RAY_PAGE}; vllm-ascend #5461"),
    Check("roce-link", "fail", "RoCE links are down",
          on_ports(lambda port: f"link status: {port.link}"
                   if port.link not in (None, "UP") else None),
          reads=(TABLE, hccn.LINK),
          expected="link status: UP",
          fix="check the cable, the optical module and the switch port; on {host}:\n"
          "$ hccn_tool -i {device} -optical -g",
          source=RAY_PAGE),
    Check("roce-optical", "fail", "the optical module is missing", on_ports(_without_module),
          reads=(TABLE, hccn.OPTICAL, hccn.LINK),
          expected="present: present",
          fix="reseat the module, or replace it",
          source=_OPTICAL),
    Check("roce-optical", "fail", "optical modules receive too little light", _dark_modules,
          reads=(TABLE, hccn.OPTICAL),
          expected="well above the module's own alarm threshold",
          fix="clean or replace the fibre, then the module",
          source=_OPTICAL),
    Check("roce-flapping", "warn", "RoCE links went down several times",
          on_ports(lambda port: phrase("{n:,} times", n=port.link_downs)
                   if (port.link_downs or 0) >= _FLAPS else None),
          reads=(TABLE, hccn.LINK_STAT),
          expected="once at most, when the host started",
          fix="check the cable and the module; when it went down, on {host}:\n"
          "$ hccn_tool -i {device} -link_stat -g",
          source="hccn_tool reference, -link_stat"),
    Check("roce-errors", "warn", "RoCE ports have counted errors", on_ports(_errors),
          reads=(TABLE, hccn.STAT),
          expected="no errors",
          fix="look again in a minute, on {host}: if the counter still grows, the cable "
          "is bad, or the PFC settings differ from those of the switch\n"
          "$ hccn_tool -i {device} -stat -g",
          source="hccn_tool reference, -stat"),
    Check("roce-detect", "warn", "the driver does not check the network's "
          "health: it has no address to ping",
          on_ports(lambda port: "netdetect address 0.0.0.0" if _undetected(port) else None),
          reads=(TABLE, hccn.NET_HEALTH, hccn.NETDETECT, hccn.GATEWAY),
          expected="the gateway, or the NPU at the other end of the cable",
          fix="set the address on {host}:\n"
          "$ hccn_tool -i {device} -netdetect -s address {gateway}",
          source="hccn_tool reference, -netdetect"),
    Check("roce-health", "fail", "the driver reports network health `{health}`", _unhealthy,
          reads=(TABLE, hccn.NET_HEALTH, hccn.NETDETECT),
          expected="net health status: Success",
          fix="the address that the driver pings does not answer: check the link, the "
          "gateway and the VLAN",
          source=RAY_PAGE),
    Check("roce-lldp", "warn", "the switch does not report its port", _without_neighbour,
          reads=(TABLE, hccn.LLDP, hccn.LINK),
          expected="the name of a switch port, as the other NPUs have",
          fix="turn LLDP on at that switch port, or find where the cable goes",
          source=RAY_PAGE),
    Check("roce-conf", "warn", "/etc/hccn.conf is missing",
          on_hosts(lambda host: phrase("no such file")
                   if host.npus and host.hccn_conf is None else None),
          reads=(TABLE, hccn.CONF, hccn.IP),
          expected="a file with the addresses of all NPUs, which the driver sets after a reboot",
          fix="set the address of each NPU again, which writes the file; on {host}:\n"
          "$ hccn_tool -i {device} -ip -s address {address} netmask {netmask}\n"
          "mount the file into containers",
          source="vllm-ascend #7711; gpustack/runtime #28"),
    Check("roce-conf-stale", "warn", "/etc/hccn.conf differs from the addresses "
          "of the NPUs",
          _stale_conf,
          reads=(TABLE, hccn.CONF, hccn.IP),
          expected="the same addresses, since those of the file are set after a reboot",
          fix="if the NPU's address is right, set it again on {host}, which writes the file:\n"
          "$ hccn_tool -i {device} -ip -s address {address} netmask {netmask}",
          source="hccn_tool reference, -cfg recovery"),
)  # fmt: skip

CHECKS = (
    *(replace(check, min_hosts=2, between_hosts=True) for check in _BETWEEN_HOSTS),
    # On an A3 the chips of a host talk over virtual interfaces.
    Check("roce-vnic", "fail", "virtual interfaces between chips are down", on_npus(_vnic_down),
          reads=(TABLE, hccn.VNIC),
          expected="UP, with an address",
          fix="on {host}:\n"
          "$ hccn_tool -i {device} -vnic -g\n"
          "$ dmesg | grep -i ascend",
          source="msprechecker 0.4, VnicChecker; hccn_tool reference for A3, -vnic"),
    # HCCL refuses a connection when its ends differ in this.
    Check("roce-tls", "fail", "NPUs differ in their TLS switch", _different_tls,
          reads=(TABLE, hccn.TLS),
          expected="the same everywhere, usually off",
          fix="set it on {host}:\n"
          "$ hccn_tool -i {device} -tls -s enable {switch}",
          between_hosts=True,
          source="vllm-ascend #10224; HCCL documentation, EI0016"),
)  # fmt: skip

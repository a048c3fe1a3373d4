"""Checks of the hosts themselves: reachable, alike, large enough; clocks, limits, ports."""

import ipaddress
from collections.abc import Callable, Iterator

from ropeway.doctor.cluster import Cluster
from ropeway.doctor.finding import Location
from ropeway.doctor.rule import Check, Evidence, Gap, Hit, on_hosts, same_on_hosts
from ropeway.engines.ascend_releases import order
from ropeway.facts import containers
from ropeway.facts.host import HostFacts
from ropeway.facts.linux import limits, network, ping, system
from ropeway.phrases import phrase
from ropeway.units import format_bytes

GIB = 2**30
CLOCK_SECONDS = 5.0
SHM_BYTES = 16 * GIB
DISK_BYTES = 40 * GIB
NOFILE = 65_536
_MEMORY_STEP_GIB = 16  # firmware and kernel keep a few GiB, not the same on every host
_KERNEL = "5.10"
_HCCL_PORTS = frozenset(range(60000, 60016))
_MSPRECHECKER = "msprechecker 0.4, environment rules"


def _unreachable(cluster: Cluster) -> Iterator[Hit]:
    hints: dict[str, str] = {}  # of the first of those that fail alike
    for name, error in cluster.failures.items():
        by_hand = phrase("try it by hand:\n$ ssh {name} true", name=name)
        hint = hints.setdefault(error.what, error.hint or by_hand)
        yield Hit((Location(name),), error.what, {"error": error.what, "hint": hint})


def _memory(host: HostFacts) -> str | None:
    if host.memory_bytes is None:
        return None
    return f"{round(host.memory_bytes / GIB / _MEMORY_STEP_GIB) * _MEMORY_STEP_GIB} GiB"


def _wrong_clocks(cluster: Cluster) -> Iterator[Hit]:
    offsets = {host.name: host.clock_s for host in cluster.hosts if host.clock_s is not None}
    if not offsets:
        return
    median = sorted(offsets.values())[len(offsets) // 2]
    for name, offset in offsets.items():
        if abs(offset - median) > CLOCK_SECONDS:
            yield Hit((Location(name),), phrase("{s:+.0f} s from the others", s=offset - median))


def _without_clock(cluster: Cluster) -> Iterator[Gap]:
    if hosts := tuple(host.name for host in cluster.hosts if host.clock_s is None):
        yield Gap(phrase("the clock was not read"), hosts)


def _too_small(
    size: int | None, least: int, written: Callable[[int], str] = format_bytes
) -> Evidence:
    return written(size) if size is not None and size < least else None


def _loopback_name(host: HostFacts) -> Evidence:
    try:
        loopback = ipaddress.ip_address(host.own_address or "").is_loopback
    except ValueError:
        return None
    return host.own_address if loopback else None


def _taken_ports(cluster: Cluster) -> Iterator[Hit]:
    for host in cluster.hosts:
        for port, use in cluster.requirements.ports.items():
            if port in host.ports:
                program = host.ports[port] or phrase("a program that only root can name")
                values = {"port": str(port), "use": use}
                evidence = phrase("in use by {program}", program=program)
                yield Hit((Location(host.name),), evidence, values)


def _lent_ports(host: HostFacts) -> Evidence:
    if host.port_range is None or host.reserved_ports >= _HCCL_PORTS:
        return None
    first, last = host.port_range
    lent = first <= max(_HCCL_PORTS) and min(_HCCL_PORTS) <= last
    text = "60000-60015 lie in ip_local_port_range {first}-{last}"
    return phrase(text, first=first, last=last) if lent else None


CHECKS = (
    Check("host-reach", "fail", "hosts cannot be reached over SSH", _unreachable,
          expected="an SSH connection",
          fix="{hint}"),
    Check("host-architecture", "fail", "hosts differ in processor architecture",
          same_on_hosts(lambda host: host.architecture),
          reads=(system.KERNEL,),
          expected="one architecture, since an image is built for one",
          fix="leave the others out, or start a service on each kind"),
    Check("host-system", "warn", "hosts run different operating systems",
          same_on_hosts(lambda host: host.os),
          reads=(system.OS_RELEASE,),
          expected="the same release everywhere",
          fix="install the same release on all hosts",
          source=_MSPRECHECKER),
    Check("host-kernel", "warn", "hosts run different kernels",
          same_on_hosts(lambda host: host.kernel),
          reads=(system.KERNEL,),
          expected="the same kernel, since the NPU driver is built for it",
          fix="install the same kernel, then reinstall the NPU driver",
          source=_MSPRECHECKER),
    Check("host-clock", "fail", "clocks differ by more than 5 s", _wrong_clocks,
          reads=(ping.CLOCK,),
          expected="within 5 s of each other",
          fix="synchronise all hosts with the same time server:\n"
          "$ chronyc makestep",
          min_hosts=2,
          between_hosts=True,
          lacking=_without_clock,
          source="ranks' logs are compared by time; vllm-ascend #1443"),
    Check("host-shm", "fail", "/dev/shm is too small for Ray's object store",
          on_hosts(lambda host: _too_small(host.shm_bytes, SHM_BYTES)),
          reads=(limits.SHM,),
          expected=f"at least {format_bytes(SHM_BYTES)}",
          fix="make it larger; for a container use `--shm-size 64g`\n"
          "$ mount -o remount,size=64G /dev/shm",
          source="gpustack #5014: a TP8/PP2 start needed 10 GB"),
    Check("host-disk", "warn", "little disk space is left for images",
          on_hosts(lambda host: _too_small(host.disk_free_bytes, DISK_BYTES)),
          reads=(containers.ENGINE, containers.DISK),
          expected=f"{format_bytes(DISK_BYTES)}: an image takes about 18 GB, twice that to unpack",
          fix="see what takes the space:\n"
          "$ {runtime} system df"),
    Check("host-memory", "warn", "hosts differ in the size of their memory", same_on_hosts(_memory),
          reads=(system.MEMORY,),
          expected="the same everywhere, since every host gets ranks of equal size",
          fix="look for a memory module that is not detected:\n"
          "$ dmidecode -t memory"),
    Check("host-root", "warn", "the user is not root, which hccn_tool and "
          "dmidecode require",
          on_hosts(lambda host: phrase("not root") if host.root is False else None),
          reads=(system.USER_ID,),
          expected="uid 0",
          fix="set `user: root` in the spec",
          source=_MSPRECHECKER),
    Check("host-nofile", "warn", "the limit of open files is low",
          on_hosts(lambda host: _too_small(host.nofile, NOFILE, "{:,}".format)),
          reads=(limits.LIMITS,),
          expected=f"at least {NOFILE:,}",
          fix="add a line to /etc/security/limits.conf, then log in again:\n"
          "$ * - nofile 1048576",
          source=_MSPRECHECKER),
    Check("host-memlock", "warn", "the size of locked memory is limited",
          on_hosts(lambda host: format_bytes(host.memlock_bytes) if host.memlock_bytes is not None
                   else None),
          reads=(limits.LIMITS,),
          expected="unlimited, since RDMA pins its buffers",
          fix="add a line to /etc/security/limits.conf, then log in again:\n"
          "$ * - memlock unlimited",
          source=_MSPRECHECKER),
    Check("host-numa-balancing", "warn", "automatic NUMA balancing is on",
          on_hosts(lambda host: "kernel.numa_balancing = 1" if host.numa_balancing else None),
          reads=(limits.SYSCTL,),
          expected="0",
          fix="turn it off:\n"
          "$ sysctl -w kernel.numa_balancing=0",
          source=_MSPRECHECKER),
    Check("host-governor", "warn", "CPUs do not run at full speed",
          on_hosts(lambda host: host.governor if host.governor != "performance" else None),
          reads=(system.GOVERNOR,),
          expected="performance",
          fix="set the governor:\n"
          "$ cpupower frequency-set -g performance",
          source=_MSPRECHECKER),
    Check("host-hugepages", "warn", "transparent huge pages are not set to `always`",
          on_hosts(lambda host: host.hugepages if host.hugepages != "always" else None),
          reads=(system.HUGEPAGES,),
          expected="always",
          fix="set them:\n"
          "$ echo always > /sys/kernel/mm/transparent_hugepage/enabled",
          source=_MSPRECHECKER),
    Check("host-virtual", "warn", "the host is a virtual machine",
          on_hosts(lambda host: host.hypervisor or None),
          reads=(system.HYPERVISOR,),
          expected="a physical host",
          fix="nothing, if that is intended: virtualisation costs cores and memory bandwidth",
          source=_MSPRECHECKER),
    Check("host-kernel-old", "warn", "the kernel is older than 5.10",
          on_hosts(lambda host: host.kernel if host.kernel and order(host.kernel) < order(_KERNEL)
                   else None),
          reads=(system.KERNEL,),
          expected="5.10 or newer, which sends work to the NPUs faster",
          fix="update the kernel, then reinstall the NPU driver",
          source=_MSPRECHECKER),
    Check("host-name", "warn", "the host's own name resolves to a loopback address",
          on_hosts(_loopback_name),
          reads=(network.OWN_NAME,),
          expected="an address that other hosts can reach",
          fix="add `<address> <hostname>` to /etc/hosts, or set GLOO_SOCKET_IFNAME on "
          "every host",
          source="gpustack #2125: `Unable to resolve hostname … Using the loopback`"),
    Check("host-ports", "fail", "port {port} is taken, which {use} needs", _taken_ports,
          reads=((network.SS, network.PROC_NET_TCP),),
          expected="a free port",
          fix="see which program it is, on {host}:\n"
          "$ ss -ltnp sport = :{port}",
          source="vllm-ascend #405, #1253 (HCCL), #16237"),
    Check("host-hccl-ports", "warn", "the kernel may give HCCL's ports to other programs",
          on_hosts(_lent_ports),
          reads=(limits.SYSCTL,),
          expected="60000-60015 reserved",
          fix="reserve them:\n"
          "$ sysctl -w net.ipv4.ip_local_reserved_ports=60000-60015",
          source="HCCL environment reference, HCCL_IF_BASE_PORT; vllm-ascend #405"),
    Check("ray-running", "warn", "Ray is already running",
          on_hosts(lambda host: phrase("raylet, pid {pid}", pid=host.raylets[0])
                   if host.raylets else None),
          reads=(system.PROCESSES,),
          expected="no Ray, or the service's own",
          fix="`ray status` shows whether it knows the NPUs; to stop it, in its container:\n"
          "$ ray stop",
          source="vllm-ascend #3114: a Ray started with --num-gpus hides them"),
)  # fmt: skip

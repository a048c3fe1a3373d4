"""Checks of the hosts themselves: reachable, alike, large enough, clocks and limits."""

from collections.abc import Iterable

from ropeway.doctor.cluster import Cluster, each_host, grouped, odd
from ropeway.doctor.finding import Finding, Place
from ropeway.engines.ascend_releases import order
from ropeway.units import format_bytes

GIB = 2**30
CLOCK_SECONDS = 5.0
SHM_BYTES = 16 * GIB
DISK_BYTES = 40 * GIB
NOFILE = 65_536
_KERNEL = "5.10"
_MSPRECHECKER = "msprechecker 0.4, environment rules"


def reach(cluster: Cluster) -> Iterable[Finding]:
    """Hosts that did not answer."""
    yield from grouped(
        [(Place(name), (error.what, error.hint)) for name, error in cluster.failures.items()],
        lambda places, seen: Finding(
            "host-reach", "fail", "hosts cannot be reached over SSH", places,
            len(cluster.names), seen=str(seen[0]), wanted="an SSH connection",
            fix=seen[1] or f"try it by hand: `ssh {places[0].host} true`",
        ),
    )  # fmt: skip


def same_system(cluster: Cluster) -> Iterable[Finding]:
    """Operating system and processor architecture."""
    total = len(cluster.hosts)
    if found := odd(each_host(cluster, lambda host: host.architecture)):
        yield Finding(
            "host-architecture", "fail", "hosts differ in processor architecture", found.places,
            total, found.told(), "one architecture: an image is built for one",
            "leave the others out, or start a cluster of each kind",
        )  # fmt: skip
    if found := odd(each_host(cluster, lambda host: host.os)):
        yield Finding(
            "host-system", "warn", "hosts differ in operating system", found.places, total,
            found.told(), "the same release everywhere", "bring the others to the same release",
            _MSPRECHECKER,
        )  # fmt: skip
    if found := odd(each_host(cluster, lambda host: host.kernel)):
        yield Finding(
            "host-kernel", "warn", "hosts differ in kernel", found.places, total, found.told(),
            "the same kernel: the NPU driver is built for it",
            "update the others, then reinstall the driver", _MSPRECHECKER,
        )  # fmt: skip


def clock(cluster: Cluster) -> Iterable[Finding]:
    """Clocks within five seconds: or logs of ranks cannot be put in order."""
    known = [(host.name, host.clock_s) for host in cluster.hosts if host.clock_s is not None]
    if not known:
        return
    middle = sorted(offset for _, offset in known)[len(known) // 2]
    far = [
        (name, offset - middle) for name, offset in known if abs(offset - middle) > CLOCK_SECONDS
    ]
    if far:
        worst = max(far, key=lambda one: abs(one[1]))
        yield Finding(
            "host-clock", "fail", "clocks differ by more than 5 s",
            tuple(Place(name) for name, _ in far), len(known),
            f"{worst[0]} is {worst[1]:+.0f} s from the others", "within 5 s",
            "`chronyc makestep`, or `ntpdate` the same server everywhere",
            "logs of ranks are compared by time; vllm-ascend #1443",
        )  # fmt: skip


def memory(cluster: Cluster) -> Iterable[Finding]:
    """Shared memory and disk."""
    total = len(cluster.hosts)
    small = [
        (Place(host.name), format_bytes(host.shm_bytes))
        for host in cluster.hosts
        if host.shm_bytes is not None and host.shm_bytes < SHM_BYTES
    ]
    if small:
        yield Finding(
            "host-shm", "fail", "/dev/shm is too small for Ray's object store",
            tuple(place for place, _ in small), total, f"{small[0][1]} on {small[0][0]}",
            f"at least {format_bytes(SHM_BYTES)}",
            "`mount -o remount,size=64G /dev/shm`; in a container `--shm-size 64g`",
            "gpustack #5014: a TP8/PP2 start needed 10 GB",
        )  # fmt: skip
    full = [
        (Place(host.name), format_bytes(host.disk_free_bytes))
        for host in cluster.hosts
        if host.disk_free_bytes is not None and host.disk_free_bytes < DISK_BYTES
    ]
    if full:
        yield Finding(
            "host-disk", "warn", "little disk is free where images are kept",
            tuple(place for place, _ in full), total, f"{full[0][1]} on {full[0][0]}",
            f"{format_bytes(DISK_BYTES)}: an image takes about 18 GB and twice that to unpack",
            "`docker system df` shows what takes the room",
        )  # fmt: skip
    if found := odd(
        (Place(host.name), round(host.memory_bytes / GIB / 16) if host.memory_bytes else None)
        for host in cluster.hosts
    ):
        places = found.places
        by_name = {host.name: host for host in cluster.hosts}
        seen = ", ".join(
            f"{place.host} {format_bytes(by_name[place.host].memory_bytes or 0)}"
            for place in places[:3]
        )
        yield Finding(
            "host-memory", "warn", "hosts differ in memory", places, total, seen,
            "the same memory everywhere: ranks of equal size are placed on all",
            "look for a module that is not seen: `dmidecode -t memory`",
        )  # fmt: skip


def limits(cluster: Cluster) -> Iterable[Finding]:
    """Limits and kernel settings that slow a run or stop it."""
    rows: list[tuple[str, str, str, str, str, list[tuple[Place, object]]]] = [
        ("host-root", "hccn_tool and dmidecode need root, and the user is not root",
         "not root", "uid 0", "set `user: root`, or give the user password-less sudo for a shell",
         [(Place(h.name), "not root") for h in cluster.hosts if h.root is False]),
        ("host-nofile", "few files may be open", "", f"at least {NOFILE:,}",
         "`* - nofile 1048576` in /etc/security/limits.conf",
         [(Place(h.name), f"{h.nofile:,}") for h in cluster.hosts
          if h.nofile is not None and h.nofile < NOFILE]),
        ("host-memlock", "locked memory is limited", "", "unlimited: RDMA pins its buffers",
         "`* - memlock unlimited` in /etc/security/limits.conf",
         [(Place(h.name), format_bytes(h.memlock_bytes)) for h in cluster.hosts
          if h.memlock_bytes is not None]),
        ("host-numa-balancing", "automatic NUMA balancing is on", "", "0",
         "`sysctl kernel.numa_balancing=0`",
         [(Place(h.name), "kernel.numa_balancing = 1") for h in cluster.hosts
          if h.numa_balancing]),
        ("host-governor", "processors do not run at full speed", "", "performance",
         "`cpupower frequency-set -g performance`",
         [(Place(h.name), h.governor) for h in cluster.hosts
          if h.governor not in (None, "performance")]),
        ("host-hugepages", "transparent huge pages are not always used", "", "always",
         "`echo always > /sys/kernel/mm/transparent_hugepage/enabled`",
         [(Place(h.name), h.hugepages) for h in cluster.hosts
          if h.hugepages not in (None, "always")]),
        ("host-virtual", "the host is a virtual machine", "", "a physical host",
         "nothing, if it is meant so: fewer cores and slower memory are what it costs",
         [(Place(h.name), h.hypervisor) for h in cluster.hosts if h.hypervisor]),
        ("host-kernel-old", "the kernel is old", "",
         "5.10 or newer: work reaches the NPUs faster",
         "update the kernel, then reinstall the NPU driver",
         [(Place(h.name), h.kernel) for h in cluster.hosts
          if h.kernel and order(h.kernel) < order(_KERNEL)]),
    ]  # fmt: skip
    for check, what, seen, wanted, fix, places in rows:
        if places:
            yield Finding(
                check, "warn", what, tuple(place for place, _ in places), len(cluster.hosts),
                seen or str(places[0][1]), wanted, fix, _MSPRECHECKER,
            )  # fmt: skip


def names(cluster: Cluster) -> Iterable[Finding]:
    """The host's own name must lead to a real interface: gloo asks for it."""
    lost = [
        (Place(host.name), host.own_address)
        for host in cluster.hosts
        if host.own_address is not None and host.own_address.startswith(("127.", "::1"))
    ]
    if lost:
        yield Finding(
            "host-name", "warn", "the host's own name leads to loopback",
            tuple(place for place, _ in lost), len(cluster.hosts), str(lost[0][1]),
            "an address that other hosts reach",
            "put `<address> <hostname>` in /etc/hosts; or set GLOO_SOCKET_IFNAME on every host",
            "gpustack #2125: `Unable to resolve hostname … Using the loopback`",
        )  # fmt: skip


def ports(cluster: Cluster) -> Iterable[Finding]:
    """Ports that are to be used and are not free, or that the kernel may give to others."""
    taken = [
        (Place(host.name), (port, use, host.ports[port]))
        for host in cluster.hosts
        for port, use in cluster.wanted.ports.items()
        if port in host.ports
    ]
    yield from grouped(
        taken,
        lambda places, seen: Finding(
            "host-ports", "fail", f"port {seen[0]} is taken, which {seen[1]} needs",
            places, len(cluster.hosts),
            f"listening: {seen[2] or 'a program that only root can name'}",
            "nobody listens", f"`ss -ltnp sport = :{seen[0]}` names the program",
            "vllm-ascend #405, #1253 (HCCL), #16237",
        ),
    )  # fmt: skip
    open_range = [
        Place(host.name)
        for host in cluster.hosts
        if host.port_range is not None
        and host.port_range[1] >= 60000 >= host.port_range[0]
        and not {60000, 60015} <= host.reserved_ports
    ]
    if open_range:
        yield Finding(
            "host-hccl-ports", "warn", "the kernel may lend HCCL's ports to other programs",
            tuple(open_range), len(cluster.hosts), "60000-60015 lie in ip_local_port_range",
            "60000-60015 reserved",
            "`sysctl net.ipv4.ip_local_reserved_ports=60000-60015`",
            "HCCL environment reference, HCCL_IF_BASE_PORT; vllm-ascend #405",
        )  # fmt: skip


def ray(cluster: Cluster) -> Iterable[Finding]:
    """A Ray that runs already: a start would join it, or not find its ports."""
    running = [host for host in cluster.hosts if host.raylets]
    if running:
        yield Finding(
            "ray-running", "warn", "a Ray is running already",
            tuple(Place(host.name) for host in running), len(cluster.hosts),
            f"raylet, pid {running[0].raylets[0]} on {running[0].name}", "none, or ours",
            "`ray stop` in its container; `ray status` says whether it knows of NPUs",
            "vllm-ascend #3114: a Ray started with --num-gpus hides them",
        )  # fmt: skip

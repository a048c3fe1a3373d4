"""Checks of the NPUs: there, healthy, free, and alike."""

from collections.abc import Iterable

from ropeway.doctor.cluster import Cluster, each_host, grouped, odd
from ropeway.doctor.finding import Finding, Place
from ropeway.facts.host import Npu

# An idle card holds about 2,850 MB of 32 GB or 3,400 MB of 64 GB (recorded, tests/recordings):
# what is used above that is somebody's.
BASELINE_SHARE = 0.05
BASELINE_MB = 2800
HOT_C = 85
_NPU_SMI = "npu-smi reference; vllm-ascend #14628: `Free memory on device … is less than desired`"


def driver(cluster: Cluster) -> Iterable[Finding]:
    """npu-smi is there and answers."""
    absent = [Place(host.name) for host in cluster.hosts if host.has_npu_smi is False]
    if absent:
        yield Finding(
            "npu-driver", "fail", "there is no npu-smi, so no NPU driver", tuple(absent),
            len(cluster.hosts), "`npu-smi`: not found", "the driver of the product",
            "install driver and firmware (HDK), reboot; or leave these hosts out",
            "Ascend installation guide",
        )  # fmt: skip
    broken = [
        (Place(host.name), (host.npu_problem.kind, host.npu_problem.message))
        for host in cluster.hosts
        if host.npu_problem is not None
    ]
    fixes = {
        "device-used": "stop the container that holds the NPUs: `docker ps`",
        "denied": "run it as root",
    }
    yield from grouped(
        broken,
        lambda places, seen: Finding(
            "npu-driver", "fail", "npu-smi does not answer", places, len(cluster.hosts),
            str(seen[1]), "a table of NPUs",
            fixes.get(seen[0], "`dmesg | grep -i ascend`; load the driver again or reboot"),
            "vllm-ascend #2698 (-8005), #632 (-8020)",
        ),
    )  # fmt: skip


def count(cluster: Cluster) -> Iterable[Finding]:
    """As many NPUs as the spec says, and as many as the bus lists."""
    dropped = [
        (Place(host.name), (host.pci_devices, len({npu.npu for npu in host.npus})))
        for host in cluster.hosts
        if host.pci_devices and host.npus and host.pci_devices != len({n.npu for n in host.npus})
    ]
    known = {host.name: len(host.npus) for host in cluster.hosts if host.npus}
    usual = max(known.values(), default=0)
    lost = [(Place(name), (usual, found)) for name, found in known.items() if found < usual]
    if dropped or lost:
        rows = dropped or lost
        yield Finding(
            "npu-dropped", "fail", "NPUs are missing that should be there",
            tuple(dict.fromkeys(place for place, _ in [*dropped, *lost])), len(known),
            f"{rows[0][1][1]} of {rows[0][1][0]} on {rows[0][0]}",
            "every NPU answers",
            "the card fell off the bus: `dmesg | grep -i -e pcie -e ascend`, then a cold reboot",
            "Ascend mind-cluster, fault diagnosis: card drop",
        )  # fmt: skip
    short = [
        (Place(host.name), (cluster.wanted.npus[host.name], len(host.npus)))
        for host in cluster.hosts
        if len(host.npus) < cluster.wanted.npus.get(host.name, 0)
    ]
    if short:
        yield Finding(
            "npu-count", "fail", "hosts have fewer NPUs than the spec asks for",
            tuple(place for place, _ in short), len(cluster.hosts),
            f"{short[0][1][1]} on {short[0][0]}", f"{short[0][1][0]}",
            "correct `npus` in the spec, or leave the host out",
        )  # fmt: skip


def same_kind(cluster: Cluster) -> Iterable[Finding]:
    """One product everywhere."""
    kinds = [
        (
            Place(host.name),
            " and ".join(sorted({n.name for n in host.npus if n.name})) or None,
        )
        for host in cluster.hosts
    ]
    if found := odd(kinds):
        yield Finding(
            "npu-kind", "fail", "hosts have different NPUs", found.places, len(cluster.hosts),
            found.told(), "one kind: ranks of one model wait for the slowest, and images differ",
            "leave the others out", "vllm-ascend installation page: an image per product",
        )  # fmt: skip


def health(cluster: Cluster) -> Iterable[Finding]:
    """What the driver itself says of each NPU."""
    total = len(list(cluster.npus()))
    sick = [
        (place, (npu.health, " ".join(npu.errors)))
        for place, npu in cluster.npus()
        if npu.health is not None and npu.health.upper() != "OK"
    ]
    yield from grouped(
        sick,
        lambda places, seen: Finding(
            "npu-health", "warn" if seen[0] == "Warning" else "fail",
            f"the driver reports {seen[0]}", places, total,
            f"{seen[0]} {seen[1]}".strip(), "OK",
            f"`npu-smi info -t health -i {places[0].device}` says why; then "
            "`npu-smi set -t reset`, or the vendor",
            "npu-smi reference, Health",
        ),
    )  # fmt: skip
    broken = [(place, npu.ecc_double) for place, npu in cluster.npus() if npu.ecc_double]
    if broken:
        yield Finding(
            "npu-ecc", "fail", "HBM has errors that cannot be corrected",
            tuple(place for place, _ in broken), total,
            f"{broken[0][1]} double-bit errors on {broken[0][0]}", "0",
            "leave the NPU out and have the card replaced", "npu-smi reference, -t ecc",
        )  # fmt: skip
    hot = [
        (place, npu.temperature_c)
        for place, npu in cluster.npus()
        if npu.temperature_c is not None and npu.temperature_c >= HOT_C
    ]
    if hot:
        yield Finding(
            "npu-temperature", "warn", "NPUs are hot before they work",
            tuple(place for place, _ in hot), total, f"{hot[0][1]:g} °C on {hot[0][0]}",
            f"below {HOT_C} °C idle", "fans and airflow: a hot chip lowers its clock",
        )  # fmt: skip


def free_memory(cluster: Cluster) -> Iterable[Finding]:
    """HBM that somebody holds: living processes, or dead ones."""
    total = len(list(cluster.npus()))
    living: list[tuple[Place, Npu]] = []
    dead: list[tuple[Place, Npu]] = []
    for place, npu in cluster.npus():
        if npu.hbm_mb is None or npu.hbm_used_mb is None:
            continue
        if npu.hbm_used_mb <= max(BASELINE_MB * 1.3, npu.hbm_mb * 0.06) + npu.hbm_mb * (
            BASELINE_SHARE
        ):
            continue
        alive = [one for one in npu.processes if one.alive]
        (living if alive else dead).append((place, npu))
    if dead:
        place, npu = dead[0]
        names = ", ".join(f"{one.name} (pid {one.pid})" for one in npu.processes)
        yield Finding(
            "npu-dead-process", "fail", "HBM is held and no living process holds it",
            tuple(place for place, _ in dead), total,
            f"{npu.hbm_used_mb:,} of {npu.hbm_mb:,} MB on {place}"
            + (f", by {names}, which is gone" if names else ", by nobody that npu-smi knows"),
            "an idle NPU",
            "stop what runs in containers (`docker ps`), then "
            f"`npu-smi set -t reset -i {npu.npu} -c {npu.chip}`",
            _NPU_SMI,
        )  # fmt: skip
    if living:
        place, npu = living[0]
        one = next(one for one in npu.processes if one.alive)
        yield Finding(
            "npu-busy", "fail", "NPUs are in use", tuple(place for place, _ in living), total,
            f"{npu.hbm_used_mb:,} of {npu.hbm_mb:,} MB on {place}, by {one.name} (pid {one.pid})",
            "an idle NPU", "wait for it, stop it, or leave these NPUs out", _NPU_SMI,
        )  # fmt: skip


def held_by_containers(cluster: Cluster) -> Iterable[Finding]:
    """Containers that have NPUs: a second one cannot open them."""
    held = [
        (Place(host.name, device), container.name)
        for host in cluster.hosts
        if host.docker
        for container in host.docker.containers
        for device in container.devices
    ]
    yield from grouped(
        held,
        lambda places, name: Finding(
            "npu-container", "warn", f"the container `{name}` holds NPUs", places,
            len(cluster.hosts), f"/dev/davinci{places[0].device} …", "no container holds them",
            f"`docker stop {name}`, if it is yours", "vllm-ascend #632, #2698",
        ),
    )  # fmt: skip


def same_firmware(cluster: Cluster) -> Iterable[Finding]:
    """Firmware, on every NPU."""
    values = [(place, npu.firmware) for place, npu in cluster.npus()]
    if found := odd(values or each_host(cluster, lambda host: host.firmware)):
        yield Finding(
            "firmware-same", "warn", "NPUs differ in firmware", found.places, len(values),
            found.told(), "one firmware everywhere", "upgrade the others, then reboot",
            "vllm-ascend #15411: firmware 25.2.2 → 26.1.1 mended a fault",
        )  # fmt: skip

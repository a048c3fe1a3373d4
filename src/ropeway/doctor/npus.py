"""Checks of the NPUs: there, healthy, free, and alike."""

import re
from collections.abc import Iterator

from ropeway.doctor.cluster import Cluster
from ropeway.doctor.finding import Level, Location, format_ranges
from ropeway.doctor.rule import (
    Check,
    Evidence,
    Hit,
    on_hosts,
    on_npus,
    outlier_hits,
    same_on_hosts,
)
from ropeway.facts.ascend.driver import DEVICES, PCI
from ropeway.facts.ascend.npu_cards import ECC, FIRMWARE, HEALTH
from ropeway.facts.ascend.npu_smi import TABLE
from ropeway.facts.containers import CONTAINERS, ENGINE
from ropeway.facts.host import HostFacts, Npu
from ropeway.facts.linux.system import PROCESSES
from ropeway.phrases import joined, phrase

# An idle card holds about 2,850 MB of 32 GB or 3,400 MB of 64 GB (recorded, tests/recordings).
_IDLE_MB = 2800 * 1.3
_IDLE_SHARE = 0.06
_MARGIN_SHARE = 0.05
HOT_C = 85
_NPU_SMI = "npu-smi reference; vllm-ascend #14628: `Free memory on device … is less than desired`"
_RELOAD = "read what the kernel says, then reload the driver, or reboot:\n$ dmesg | grep -i ascend"
_ADVICE = {
    "device-used": "stop the container that holds the NPUs:\n$ {runtime} ps",
    "denied": "run it as root",
}


def _failing_npu_smi(cluster: Cluster) -> Iterator[Hit]:
    for host in cluster.hosts:
        if host.npu_problem is not None:
            advice = _ADVICE.get(host.npu_problem.kind, _RELOAD)
            values = {"advice": phrase(advice, runtime=cluster.requirements.runtime)}
            yield Hit((Location(host.name),), host.npu_problem.message, values)


def _dropped_cards(cluster: Cluster) -> Iterator[Hit]:
    """Fewer NPUs than the PCI bus lists, or than the other hosts have."""
    usual = max((len(host.npus) for host in cluster.hosts), default=0)
    for host in cluster.hosts:
        cards = len({npu.npu for npu in host.npus})
        if cards and host.pci_devices and cards != host.pci_devices:
            yield Hit(
                (Location(host.name),),
                phrase("{n} of {total} cards", n=cards, total=host.pci_devices),
            )
        elif 0 < len(host.npus) < usual:
            evidence = phrase("{n} of {total} NPUs", n=len(host.npus), total=usual)
            yield Hit((Location(host.name),), evidence)


def _too_few_npus(cluster: Cluster) -> Iterator[Hit]:
    for host in cluster.hosts:
        required = cluster.requirements.npus.get(host.name, 0)
        if len(host.npus) < required:
            evidence = phrase("{n} of {total} NPUs", n=len(host.npus), total=required)
            yield Hit((Location(host.name),), evidence)


def _products(host: HostFacts) -> str | None:
    return " and ".join(sorted({npu.name for npu in host.npus if npu.name})) or None


def _unhealthy(cluster: Cluster) -> Iterator[Hit]:
    for location, npu in cluster.npus:
        if npu.health is not None and npu.health.upper() != "OK":
            evidence = " ".join((npu.health, *npu.errors))
            level: Level = "warn" if npu.health == "Warning" else "fail"
            yield Hit((location,), evidence, {"health": npu.health}, level)


def _hot(npu: Npu) -> Evidence:
    hot = npu.temperature_c is not None and npu.temperature_c >= HOT_C
    return f"{npu.temperature_c:g} °C" if hot else None


def _in_use(npu: Npu) -> bool:
    """Whether more HBM is in use than on an idle NPU."""
    if npu.hbm_mb is None or npu.hbm_used_mb is None:
        return False
    return npu.hbm_used_mb > max(_IDLE_MB, npu.hbm_mb * _IDLE_SHARE) + npu.hbm_mb * _MARGIN_SHARE


def _dead_holder(npu: Npu) -> Evidence:
    if not _in_use(npu) or any(process.alive for process in npu.processes):
        return None
    names = joined((f"{process.name} (pid {process.pid})" for process in npu.processes), ", ")
    gone = phrase("{names}, which no longer runs", names=names)
    return _held(npu, gone if names else phrase("no process that npu-smi knows"))


def _held(npu: Npu, holder: str) -> str:
    text = "{used:,} of {total:,} MB, by {holder}"
    return phrase(text, used=npu.hbm_used_mb, total=npu.hbm_mb, holder=holder)


def _living_holder(npu: Npu) -> Evidence:
    process = next((process for process in npu.processes if process.alive), None)
    if process is None or not _in_use(npu):
        return None
    return _held(npu, f"{process.name} (pid {process.pid})")


def _held_by_containers(cluster: Cluster) -> Iterator[Hit]:
    for host in cluster.hosts:
        for container in host.docker.containers if host.docker else ():
            every = tuple(npu.device for npu in host.npus) or host.devices
            devices = every if container.privileged else container.devices
            if devices:
                locations = tuple(Location(host.name, device) for device in devices)
                evidence = f"/dev/davinci{format_ranges(devices)}"
                service = re.fullmatch(r"ropeway-(.+)-(?:router|\d+-\d+)", container.name)
                runtime = cluster.requirements.runtime
                stop = f"{runtime} stop {container.name}"
                if service:
                    stop = f"ropeway down --name {service[1]}"
                yield Hit(locations, evidence, {"container": container.name, "stop": stop})


def _firmware_outliers(cluster: Cluster) -> Iterator[Hit]:
    of_npus = [(location, npu.firmware) for location, npu in cluster.npus]
    return outlier_hits(of_npus or ((Location(host.name), host.firmware) for host in cluster.hosts))


CHECKS = (
    Check("npu-driver", "fail", "npu-smi is missing, so there is no NPU driver",
          on_hosts(lambda host: phrase("`npu-smi`: not found") if host.has_npu_smi is False
                   else None),
          reads=(TABLE,),
          expected="the driver of the product",
          fix="install driver and firmware (HDK) and reboot, or leave these hosts out",
          source="Ascend installation guide"),
    Check("npu-driver", "fail", "npu-smi does not answer", _failing_npu_smi,
          reads=(TABLE,),
          expected="a table of NPUs",
          fix="{advice}",
          source="vllm-ascend #2698 (-8005), #632 (-8020)"),
    Check("npu-dropped", "fail", "NPUs are missing that should be there", _dropped_cards,
          reads=(TABLE, PCI),
          expected="every NPU answers",
          fix="an NPU fell off the bus: read what the kernel says of it, then do a cold "
          "reboot\n"
          "$ dmesg | grep -i -e pcie -e ascend",
          source="Ascend mind-cluster, fault diagnosis: card drop"),
    Check("npu-count", "fail", "hosts have fewer NPUs than the spec asks for", _too_few_npus,
          reads=(TABLE,),
          expected="as many as the spec asks for",
          fix="correct `npus` in the spec, or leave the host out"),
    Check("npu-kind", "fail", "hosts have different NPUs", same_on_hosts(_products),
          reads=(TABLE,),
          expected="one product, since ranks wait for the slowest and images differ",
          fix="leave the others out",
          source="vllm-ascend installation page: an image per product"),
    Check("npu-health", "fail", "the driver reports {health}", _unhealthy,
          reads=(TABLE, HEALTH),
          expected="OK",
          fix="read the reason on {host}, then reset the NPU or ask the vendor:\n"
          "$ npu-smi info -t health -i {npu}\n"
          "$ npu-smi set -t reset -i {npu} -c {chip}",
          source="npu-smi reference, Health"),
    Check("npu-ecc", "fail", "HBM has uncorrectable errors",
          on_npus(lambda npu: phrase("{n:,} double-bit errors", n=npu.ecc_double)
                  if npu.ecc_double else None),
          reads=(TABLE, ECC),
          expected="0",
          fix="leave the NPU out and have it replaced",
          source="npu-smi reference, -t ecc"),
    Check("npu-temperature", "warn", "NPUs are hot while idle", on_npus(_hot),
          reads=(TABLE,),
          expected=f"below {HOT_C} °C",
          fix="check fans and airflow: a hot chip lowers its clock"),
    Check("npu-dead-process", "fail", "HBM is held by no living process", on_npus(_dead_holder),
          reads=(TABLE, PROCESSES),
          expected="an idle NPU",
          fix="on {host}, stop the containers that have the NPU, then reset it:\n"
          "$ {runtime} ps\n"
          "$ npu-smi set -t reset -i {npu} -c {chip}",
          source=_NPU_SMI),
    Check("npu-busy", "fail", "NPUs are in use", on_npus(_living_holder),
          reads=(TABLE, PROCESSES),
          expected="an idle NPU",
          fix="wait for the process to end, stop it, or leave these NPUs out",
          source=_NPU_SMI),
    Check("npu-container", "warn", "the container `{container}` holds NPUs", _held_by_containers,
          reads=(DEVICES, TABLE, ENGINE, CONTAINERS),
          expected="NPUs that no container holds",
          fix="if it is yours, stop it:\n"
          "$ {stop}",
          source="vllm-ascend #632, #2698"),
    Check("firmware-same", "warn", "NPUs differ in firmware", _firmware_outliers,
          reads=(TABLE, FIRMWARE),
          expected="one firmware everywhere",
          fix="install the same firmware on all, then reboot",
          source="vllm-ascend #15411: firmware 25.2.2 → 26.1.1 fixed a fault"),
)  # fmt: skip

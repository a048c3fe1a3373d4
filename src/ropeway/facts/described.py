"""What a spec says of a cluster, from what its hosts say. Pure."""

from collections.abc import Mapping

from ropeway.errors import CheckFailed, Refused
from ropeway.facts.ascend.npu_smi import chip_family
from ropeway.facts.host import HostFacts
from ropeway.hardware import CHIPS, Chip, chip_named
from ropeway.phrases import phrase
from ropeway.spec.cluster import Cluster, RemoteHost

_LEFT_BY_DRIVER = 0.9  # of a chip's memory at least is shown by npu-smi


def cluster_of(hosts: Mapping[str, RemoteHost], facts: Mapping[str, HostFacts]) -> Cluster:
    """Return the cluster of these hosts, as they are reached, with NPUs, interfaces and the chip.

    Raises CheckFailed for a host without NPUs and for chips that differ, Refused for a host without
    an interface that others reach.
    """
    nics = {name: facts[name].reached_by()[0] for name in hosts}
    common = next(iter(nics.values())) if len(set(nics.values())) == 1 else None
    chips = {name: _chip(facts[name]) for name in hosts}
    chip, *others = chips.values()
    if any(other != chip for other in others):
        raise CheckFailed(
            phrase("the hosts have different chips"),
            evidence=tuple(f"{name}: {one.name}" for name, one in chips.items()),
            hint=phrase("name hosts of one kind: an engine runs on equal NPUs"),
        )
    return Cluster(
        hosts=tuple(
            host.model_copy(
                update={"npus": _count(facts[name]), "nic": None if common else nics[name]}
            )
            for name, host in hosts.items()
        ),
        nic=common,
        chip=chip.name,
        hbm=_unusual_memory(facts, chip),
    )


def _count(facts: HostFacts) -> int:
    return len(facts.devices) or len(facts.npus)


def _chip(facts: HostFacts) -> Chip:
    """Return the chip of a host's NPUs. Of an A3 npu-smi prints the series only: then the usual."""
    names = sorted({npu.name for npu in facts.npus if npu.name})
    if not names or not _count(facts):
        problem = facts.npu_problem
        raise CheckFailed(
            phrase("no NPU is known on {host}", host=facts.name),
            where=facts.name,
            evidence=(str(problem),) if problem else (),
            hint=phrase("this says why: {command}", command=f"`ropeway doctor {facts.address}`"),
        )
    try:
        return chip_named(names[0])
    except Refused:
        family = chip_family(names[0])
        usual = next((chip for chip in CHIPS if chip.family == family == "A3"), None)
        if usual is None:
            raise
        return usual


def _unusual_memory(facts: Mapping[str, HostFacts], chip: Chip) -> int | None:
    """Return the least memory of an NPU, if it is not what the chip usually has."""
    sizes = [npu.hbm_mb * 2**20 for host in facts.values() for npu in host.npus if npu.hbm_mb]
    least = min(sizes, default=chip.hbm_bytes)
    return None if _LEFT_BY_DRIVER <= least / chip.hbm_bytes <= 1 / _LEFT_BY_DRIVER else least

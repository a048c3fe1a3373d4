"""What can be wrong with a cluster, one fault at a time, and the check that is meant to find it.

link-down            on the first host that the fault makes sense on, its NPU 3
link-down:host2:5    there

FAULTS are for `doctor`, which finds them by looking. LAUNCH_FAULTS show only when a service starts.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from ropeway.engines.ascend_releases import TAG_SUFFIXES
from ropeway.errors import Refused
from ropeway.facts.host import Container, Image
from ropeway.phrases import joined, phrase
from ropeway.sim.machine import (
    GIB,
    Chip,
    Fleet,
    LaunchFaults,
    Machine,
    Process,
    parse_fleet,
    sound_fleet,
)
from ropeway.suggest import did_you_mean

Change = Callable[[Fleet, int, int], Fleet]
_SHOWN = 4  # hosts that a hint names
Part = TypeVar("Part", Machine, Chip)


@dataclass(frozen=True)
class Fault:
    """One fault. `check` is the finding that must name it first, empty for a fault of a start;
    apply(fleet, host, device); `host` is the number of the host where nobody says which;
    `harmless` says why a start does not notice it, and so cannot play it."""

    title: str
    check: str
    apply: Change
    host: int = 1
    harmless: str = ""


def known_hosts(names: Sequence[str]) -> str:
    """Return which hosts there are, as a hint; of many the first."""
    first = joined(names[:_SHOWN], ", ")
    if names[_SHOWN:]:
        return phrase("hosts are {names} …", names=first)
    return phrase("hosts are {names}", names=first)


def faulty_fleet(size: str, faults: Iterable[str], *, launch: bool = False) -> Fleet:
    """Return the cluster `2x8-910B4` with these faults. Raises Refused, as `inject` does."""
    return with_faults(sound_fleet(*parse_fleet(size)), faults, launch=launch)


def with_faults(fleet: Fleet, faults: Iterable[str], *, launch: bool = False) -> Fleet:
    """Return the cluster with these faults. Raises Refused, as `inject` does."""
    for fault in faults:
        fleet, _ = inject(fleet, fault, launch=launch)
    return fleet


def inject(fleet: Fleet, text: str, *, launch: bool = False) -> tuple[Fleet, Fault]:
    """Apply `NAME[:HOST[:NPU]]`; with `launch` also a fault of a start.

    Raises Refused for a name, host or NPU that is not there.
    """
    name, host_name, number = _parts(text, fleet)
    known = FAULTS | LAUNCH_FAULTS if launch else FAULTS
    if name not in known:
        if name in LAUNCH_FAULTS:
            raise Refused(
                phrase("`{name}` is a fault of a start", name=name),
                hint=f"ropeway up --rehearse --fault {text}",
            )
        names_them = phrase("`ropeway doctor --list-faults` names them")
        more = phrase("of a start: {names}", names=joined(LAUNCH_FAULTS, ", "))
        checks = {fault.check: key for key, fault in known.items()}
        meant = checks.get(name, name)
        raise Refused(
            phrase("no such fault: `{name}`", name=name),
            hint=did_you_mean(meant, known)
            or (joined((names_them, more), "\n") if launch else names_them),
        )
    names = [machine.name for machine in fleet.machines]
    if host_name and host_name not in names:
        raise Refused(
            phrase("`{text}`: no host `{name}`", text=text, name=host_name),
            hint=known_hosts(names),
        )
    fault = known[name]
    if launch and fault.harmless:
        raise Refused(
            phrase("`up` does not play `{name}`: {why}", name=name, why=phrase(fault.harmless)),
            hint=f"ropeway doctor --rehearse --fault {text}",
        )
    host = names.index(host_name) if host_name else min(fault.host, len(names) - 1)
    devices = [str(chip.device) for chip in fleet.machines[host].chips]
    if number and number not in devices:
        raise Refused(
            phrase("`{text}`: no NPU `{number}`", text=text, number=number),
            hint=phrase("NPUs are 0 to {last}", last=devices[-1]),
        )
    device = int(number or devices[min(3, len(devices) - 1)])
    return fault.apply(fleet, host, device), fault


def _parts(text: str, fleet: Fleet) -> tuple[str, str, str]:
    """Return name, host and NPU. A host's name may have a colon, before its port."""
    name, _, place = text.partition(":")
    if any(place == machine.name for machine in fleet.machines):
        return name, place, ""
    host, _, number = place.rpartition(":")
    return (name, host, number) if host else (name, place, "")


def _changed(part: Part, changes: Mapping[str, Any]) -> Part:
    """Return a machine or chip with other fields; a function is asked for the value."""
    values: dict[str, Any] = {
        name: new(part) if callable(new) else new for name, new in changes.items()
    }
    return replace(part, **values)


def _machine(**changes: Any) -> Change:
    """A fault of a host."""
    return lambda fleet, host, _: fleet.with_machine(host, _changed(fleet.machines[host], changes))


def _everywhere(**changes: Any) -> Change:
    """A fault that all hosts have."""
    return lambda fleet, *_: replace(
        fleet, machines=tuple(_changed(machine, changes) for machine in fleet.machines)
    )


def _chip(**changes: Any) -> Change:
    """A fault of one NPU."""

    def apply(fleet: Fleet, host: int, device: int) -> Fleet:
        chips = tuple(
            _changed(chip, changes) if chip.device == device else chip
            for chip in fleet.machines[host].chips
        )
        return _machine(chips=chips)(fleet, host, device)

    return apply


def _losing(percent: float) -> Change:
    """Packets lost between the host and the one before it, both ways."""

    def apply(fleet: Fleet, host: int, device: int) -> Fleet:  # noqa: ARG001
        here, there = fleet.machines[host], fleet.machines[host - 1]
        pairs = [
            pair
            for chip in here.chips
            for other in there.chips
            if chip.address and other.address
            for pair in ((chip.address, other.address), (other.address, chip.address))
        ]
        return replace(fleet, losses={**fleet.losses, **dict.fromkeys(pairs, percent)})

    return apply


def _blocked(fleet: Fleet, host: int, device: int) -> Fleet:
    away = frozenset({fleet.machines[host - 1].address})
    return _machine(unreachable=away)(fleet, host, device)


def _same_address(fleet: Fleet, host: int, device: int) -> Fleet:
    return _chip(address=fleet.machines[host - 1].chips[0].address)(fleet, host, device)


def _port_taken(fleet: Fleet, host: int, device: int) -> Fleet:
    return _machine(ports={fleet.port: "nginx"})(fleet, host, device)


def _held(alive: bool) -> Change:
    """A process, or one that is no more, holds nine tenths of an NPU's memory."""

    def processes(chip: Chip) -> tuple[Process, ...]:
        return (Process(207795, "VLLMEngineCor", chip.hbm_mb * 9 // 10, alive),)

    return _chip(hbm_used_mb=lambda chip: chip.hbm_mb * 9 // 10, processes=processes)


def _config(**keys: object) -> Callable[[Machine], str]:
    """Return what makes another config.json of a machine's."""
    return lambda machine: json.dumps({**json.loads(machine.config), **keys}, indent=2)


def _last_shard(machine: Machine) -> str:
    return max(name for name in machine.model if name.endswith(".safetensors"))


def _tagged(tag: str) -> Callable[[Machine], tuple[Image, ...]]:
    """Return what makes the only image of a machine: of this tag, for its chip where none is."""

    def images(machine: Machine) -> tuple[Image, ...]:
        suffix = "" if "-" in tag else TAG_SUFFIXES[machine.kind.family]
        return (Image(f"quay.io/ascend/vllm-ascend:{tag}{suffix}", "sha256:" + "7c" * 32),)

    return images


FAULTS: dict[str, Fault] = {
    "host-down": Fault("a host cannot be reached", "host-reach", _machine(
        failure="ssh: connect to host: No route to host")),
    "clock-off": Fault("a host's clock is a minute ahead", "host-clock", _machine(clock_s=61.0)),
    "shm-small": Fault("/dev/shm has 64 MiB", "host-shm", _machine(
        shm_bytes=64 * 2**20), harmless="containers have a /dev/shm of their own"),
    "disk-full": Fault("3 GiB of disk are free", "host-disk", _machine(disk_free_bytes=3 * GIB)),
    "port-taken": Fault("somebody listens on the server's port", "host-ports", _port_taken, host=0),
    "ray-running": Fault("Ray is already running", "ray-running", _machine(raylet=True)),
    "few-files": Fault("1,024 files may be open", "host-nofile", _machine(nofile=1024)),
    "name-loopback": Fault("the host's name resolves to loopback", "host-name", _machine(
        own_name="127.0.1.1")),
    "old-kernel": Fault("every kernel is 4.19", "host-kernel-old", _everywhere(
        kernel="4.19.90-2107.6.0.0192.8.oe1.bclinux.aarch64")),
    "virtual": Fault("a host is a virtual machine", "host-virtual", _machine(hypervisor="KVM")),
    "no-driver": Fault("the driver is not loaded", "npu-driver", _machine(
        missing=frozenset({"driver"}))),
    "no-npu-smi": Fault("there is no npu-smi", "npu-driver", _machine(
        missing=frozenset({"npu-smi", "hccn_tool"}))),
    "card-dropped": Fault("an NPU fell off the bus", "npu-dropped", _chip(dropped=True)),
    "card-alarm": Fault("the driver raises an alarm", "npu-health", _chip(
        health="Alarm", error_codes="A4025021")),
    "ecc": Fault("HBM has uncorrectable errors", "npu-ecc", _chip(ecc_double=3, health="Warning")),
    "hot": Fault("an NPU is at 92 °C", "npu-temperature", _chip(temperature_c=92)),
    "npu-busy": Fault("another service holds an NPU", "npu-busy", _held(True)),
    "dead-process": Fault("a dead process holds HBM", "npu-dead-process", _held(False)),
    "container-holds": Fault("a container holds NPUs", "npu-container", _machine(
        containers=(Container("old-vllm", "vllm-ascend:old", (0, 1)),))),
    "container-privileged": Fault("a container holds all NPUs", "npu-container", _machine(
        containers=(Container("old-vllm", "vllm-ascend:old", (), privileged=True),))),
    "driver-differs": Fault("one host has an older driver", "driver-same", _machine(
        driver="25.0.rc1.1")),
    "driver-old": Fault("every driver is too old for the image", "driver-image", _everywhere(
        driver="24.1.0.3")),
    "firmware-wrong": Fault("firmware does not fit the driver", "firmware-driver", _everywhere(
        firmware="6.4.12.1.241")),
    "image-chip": Fault("the image is for another product", "image-chip", _everywhere(
        images=_tagged("v0.23.0-310p"))),
    "image-differs": Fault("one name, two images", "image-same", _machine(
        images=lambda host: tuple(replace(image, id="sha256:" + "9b" * 32) for image in host.images)
    )),
    "image-missing": Fault("a host lacks the image", "image-there", _machine(images=())),
    "docker-down": Fault("Docker does not answer", "docker", _machine(docker_answers=False)),
    "shard-missing": Fault("a shard of the model is missing", "model-shards", _machine(
        model=lambda host: {
            name: size for name, size in host.model.items() if name != _last_shard(host)})),
    "shard-short": Fault("a truncated shard", "model-short", _machine(
        model=lambda host: {**host.model, _last_shard(host): 1_908_257_664})),
    "model-differs": Fault("a file of the model differs", "model-same", _machine(
        model=lambda host: {**host.model, "tokenizer.json": 7_031_645})),
    "model-missing": Fault("a host has no model", "model-there", _machine(model={})),
    "model-awq": Fault("the model is quantised for CUDA", "model-quantisation", _everywhere(
        config=_config(quantization_config={"quant_method": "awq"}))),
    "model-new": Fault("the image is too old for the model", "model-release", _everywhere(
        config=_config(model_type="qwen3_vl_moe"), images=_tagged("v0.10.0rc1"))),
    "model-written": Fault("config.json is from a newer transformers", "model-transformers",
        _everywhere(config=_config(transformers_version="4.57.0"), images=_tagged("v0.11.0rc0"))),
    "mindie-config": Fault("config.json was changed for MindIE", "model-type", _everywhere(
        config=_config(model_type="deepseekv2"))),
    "no-address": Fault("an NPU has no RoCE address", "roce-address", _chip(address=None)),
    "same-address": Fault("two NPUs have one address", "roce-address-unique", _same_address),
    "other-subnet": Fault("a port is in another network", "roce-subnet", _chip(
        address="172.31.7.9", netmask="255.255.255.0", gateway=None)),
    "link-down": Fault("a RoCE link is down", "roce-link", _chip(link="DOWN", net_health="Fault")),
    "no-light": Fault("an optical module receives nothing", "roce-optical", _chip(
        rx_power_mw=0.0001, link="DOWN", net_health="Fault")),
    "flapping": Fault("a link went down six times", "roce-flapping", _chip(link_downs=6)),
    "bad-cable": Fault("a port counts broken packets", "roce-errors", _chip(broken_packets=18213)),
    "net-health": Fault("the gateway does not answer", "roce-health", _chip(
        net_health="Receive timeout")),
    "no-detect": Fault("health checks have no target", "roce-detect", _machine(
        chips=lambda host: tuple(
            replace(chip, netdetect=None, net_health="Init") for chip in host.chips))),
    "tls-on": Fault("TLS is on for one NPU", "roce-tls", _chip(tls=1)),
    "no-hccn-conf": Fault("there is no /etc/hccn.conf", "roce-conf", _machine(hccn_conf=False)),
    "lossy": Fault("30% of packets are lost between two hosts", "roce-ping", _losing(30)),
    "hosts-apart": Fault("two hosts do not reach each other", "roce-ping", _losing(100)),
    "eth-apart": Fault("Ethernet between two hosts is blocked", "eth-ping", _blocked),
}  # fmt: skip


def _start(title: str, **changes: Any) -> Fault:
    return Fault(title, "", _machine(faults=LaunchFaults(**changes)))


# Lines as vLLM-Ascend wrote them; diagnosis/tables/ says what each means and where it was recorded.
_OUT_OF_MEMORY = (
    "ERROR 11-28 03:00:00 [multiproc_executor.py:597] WorkerProc failed to start.",
    "Traceback (most recent call last):",
    "RuntimeError: NPU out of memory. Tried to allocate 260.00 MiB "
    "(NPU 0; 28.50 GiB total capacity)",
    "RuntimeError: Engine core initialization failed. See root cause above.",
)
_NO_REGISTRY = _machine(images=(), faults=LaunchFaults(pull_fails=True))
# A start takes 8 commands on a worker's host, more where it polls; the container runs after 6.
_MIDWAY = 6

LAUNCH_FAULTS: dict[str, Fault] = {
    "ssh-drops": _start("the connection breaks for good", drops_after=_MIDWAY),
    "ssh-blinks": _start("the connection breaks for a moment", drops_after=_MIDWAY, drops_for=1),
    "disk-fills": _start("nothing more can be written to the disk", disk_fills=True),
    "pull-fails": Fault("the image is missing, and no registry answers", "", _NO_REGISTRY),
    "never-joins": _start("a host never finds the head", joins=False),
    "engine-fails": _start("the engine runs out of memory", fails=_OUT_OF_MEMORY),
}

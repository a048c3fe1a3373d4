"""One host's answers to all questions, read and joined into `HostFacts`."""

import functools
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from ropeway.facts.base import Reading, ToolError
from ropeway.facts.catalogue import OUTPUTS
from ropeway.facts.driver_paths import paths_in
from ropeway.facts.filesystems import Filesystem
from ropeway.facts.host import (
    Container,
    Docker,
    HostFacts,
    Image,
    ModelFiles,
    Nic,
    Npu,
    NpuProcess,
    Roce,
    Unread,
)
from ropeway.facts.limits import soft_limit
from ropeway.facts.network import default_route
from ropeway.facts.printed import whole
from ropeway.facts.questions import DOCKER_ROOT
from ropeway.facts.script import TIMED_OUT, Answer, Ask, Pings, answers, script
from ropeway.hosts.base import Host

_PARSERS: Mapping[str, Callable[[str], Reading[Any]]] = {one.name: one.parse for one in OUTPUTS}
# Counters of `-stat -g` that say that something goes wrong; the rest count traffic.
_ERROR_COUNTERS = ("err", "bad", "fcs", "crc", "drop", "discard", "out_of_order", "rty")
# What `cat` says of a path that is not there; the script speaks English everywhere.
_NO_FILE = re.compile(r"[\w.-]+: .{1,4000}: No such file or directory")


@functools.lru_cache(maxsize=4096)
def _read(key: str, text: str) -> Reading[Any]:
    """Most NPUs of most hosts say the same; it is read once."""
    return _PARSERS[key](text)


class Answers:
    """What a host answered, by key and number, read when it is asked for."""

    def __init__(self, found: Iterable[Answer]) -> None:
        self._found = {(one.key, one.number): one for one in found}
        self.unread: list[Unread] = []

    def numbers(self, key: str) -> tuple[int, ...]:
        """The NPUs or devices that answered this question, sorted."""
        return tuple(
            sorted(number for name, number in self._found if name == key and number is not None)
        )

    def asked(self, key: str) -> bool:
        """Whether this question was put at all."""
        return (key, None) in self._found

    def text(self, key: str) -> str:
        """An answer as it came; nothing when there is none."""
        answer = self._found.get((key, None))
        return answer.text if answer and answer.exit_code == 0 else ""

    def reading(self, key: str, number: int | None = None) -> Reading[Any]:
        """An answer as its parser reads it; what gave no whole value is noted in `unread`."""
        answer = self._found.get((key, number))
        if answer is None:
            return Reading.absent()
        if answer.exit_code == TIMED_OUT:
            return Reading.failed(ToolError("timeout", "it did not answer in time"), answer.text)
        if not answer.text.strip() or _NO_FILE.fullmatch(answer.text.strip()):
            return Reading.absent(answer.text)
        reading = _read(key, answer.text)
        if reading.state in ("partial", "unknown"):
            why = reading.unread[0] if reading.unread else reading.text.strip()[:80]
            name = key if number is None else f"{key} {number}"
            self.unread.append(Unread(name, reading.state, f"not understood: `{why}`"))
        return reading

    def value(self, key: str, number: int | None = None) -> Any:
        """The value alone; of a list of records about one device, the first."""
        value = self.reading(key, number).value
        if number is not None and isinstance(value, tuple):
            return value[0] if value else None
        return value


def ask(host: Host, lines: Iterable[Ask | Pings], *, timeout: float) -> tuple[Answer, ...]:
    """Put the questions to a host, in one round trip. Raises HostError."""
    frame = f"R{secrets.token_hex(8)}"
    text = script(lines, frame).encode()
    result = host.run(("sh", "-s"), stdin=text, timeout=timeout)
    return tuple(answers(result.stdout, frame))


def gather(host: Host, lines: Iterable[Ask | Pings], *, timeout: float = 300.0) -> HostFacts:
    """Everything about a host but its clock. Raises HostError when it cannot be asked."""
    return facts_from(host.name, host.address, Answers(ask(host, lines, timeout=timeout)))


def clock_of(found: Iterable[Answer], started: float) -> float | None:
    """Seconds that a host's clock is ahead; `started`: our time when the question was sent."""
    value = Answers(found).value("date")
    return value.epoch_s - started if value else None


def facts_from(name: str, address: str, found: Answers) -> HostFacts:
    """Join the readings of one host. Pure."""
    facts = HostFacts(name=name, address=address)
    for part in (_system, _limits, _network, _docker, _ascend, _versions, _model):
        facts = replace(facts, **part(found))
    return replace(facts, npus=_npus(found), unread=tuple(found.unread))


def _system(found: Answers) -> dict[str, Any]:
    os = found.value("os-release")
    kernel = found.value("uname")
    cores = found.value("nproc")
    processors = found.value("lscpu")
    memory = found.value("meminfo")
    identity = found.value("id")
    disks = _disks(found)
    return {
        "os": os.pretty_name or os.name if os else None,
        "kernel": kernel.release if kernel else None,
        "architecture": kernel.machine if kernel else None,
        "cores": cores.cpus if cores else None,
        "hypervisor": processors.hypervisor if processors else None,
        "memory_bytes": memory.total_bytes if memory else None,
        "shm_bytes": disks["/dev/shm"].size_bytes if "/dev/shm" in disks else None,
        "disk_free_bytes": _docker_disk(disks, found),
        "home": found.text("home").strip() or None,
        "root": identity.uid == 0 if identity and identity.uid is not None else None,
    }


def _disks(found: Answers) -> Mapping[str, Filesystem]:
    value = found.value("df")
    return {one.mount: one for one in value.filesystems} if value else {}


def _docker_disk(disks: Mapping[str, Filesystem], found: Answers) -> int | None:
    """Free bytes where images lie: the longest mount point that leads there."""
    info = found.value("docker-info")
    root = (info.root_dir if info else None) or DOCKER_ROOT
    leading = [mount for mount in disks if root.startswith(mount.rstrip("/") or "/")]
    best = max(leading, key=len, default=None)
    return disks[best].available_bytes if best else None


def _limits(found: Answers) -> dict[str, Any]:
    limits = found.value("proc-limits")
    nofile = soft_limit(limits, "nofile") if limits else None
    memlock = soft_limit(limits, "memlock") if limits else None
    sysctl = found.value("sysctl")
    governors = found.value("cpu-governor")
    pages = found.value("transparent-hugepages")
    local = sysctl.local_ports if sysctl else None
    reserved = (sysctl.reserved_ports if sysctl else None) or ()
    return {
        "nofile": nofile if isinstance(nofile, int) else None,
        "memlock_bytes": memlock if isinstance(memlock, int) else None,
        "numa_balancing": sysctl.numa_balancing if sysctl else None,
        "port_range": (local.first, local.last) if local else None,
        "reserved_ports": frozenset(
            port for one in reserved for port in range(one.first, one.last + 1)
        ),
        "governor": governors.governors[0].governor if governors and governors.governors else None,
        "hugepages": pages.mode if pages else None,
    }


def _network(found: Answers) -> dict[str, Any]:
    interfaces = found.value("ip-addr")
    routes = found.value("ip-route")
    route = default_route(routes) if routes else None
    name = found.value("own-name")
    listeners = found.value("ss") or found.value("proc-net-tcp")
    ports: dict[int, str | None] = {}
    for one in listeners.listeners if listeners else ():
        ports[one.port] = one.programs[0].name if one.programs else ports.get(one.port)
    return {
        "nics": tuple(
            Nic(one.name, tuple(each.address for each in one.addresses), one.mtu, one.up)
            for one in (interfaces.interfaces if interfaces else ())
        ),
        "default_nic": route.interface if route else None,
        "raylets": tuple(pid for pid, program in _processes(found) if program == "raylet"),
        "own_address": name.addresses[0] if name and name.addresses else None,
        "ports": ports,
    }


def _docker(found: Answers) -> dict[str, Any]:
    version = found.reading("docker-version")
    images = found.value("docker-images")
    inspected = found.value("docker-inspect")
    problem = version.error.message if version.error else None
    if version.state == "absent":
        problem = "it is not installed"
    elif version.value and version.value.server_version is None:
        problem = problem or "the daemon does not answer"
    return {
        "docker": Docker(
            version.value.server_version if version.value else None,
            problem,
            tuple(
                Image(f"{repository}:{one.tag}", one.id)
                for one in (images.images if images else ())
                for repository in _names(one.repository or "")
            ),
            tuple(
                Container(one.name, one.image or "", one.npus, privileged=bool(one.privileged))
                for one in (inspected.containers if inspected else ())
            ),
            version.value.engine if version.value else None,
        )
    }


def _names(repository: str) -> tuple[str, ...]:
    """What podman calls localhost/NAME answers to NAME, too."""
    return tuple(dict.fromkeys(filter(None, (repository, repository.removeprefix("localhost/")))))


def _ascend(found: Answers) -> dict[str, Any]:
    table = found.reading("npu-smi-info")
    devices = [line for line in found.text("devices").split() if line.startswith("davinci")]
    asked = found.numbers("hccn-ip")
    roce = [found.reading("hccn-ip", number) for number in asked]
    pci = found.value("lspci")
    return {
        "has_npu_smi": table.state != "absent",
        "npu_problem": table.error,
        "has_hccn_tool": any(one.state != "absent" for one in roce) if roce else None,
        "devices": len(devices) or None,
        "paths": paths_in(found.text("driver-paths")),
        "pci_devices": len(pci) if pci else None,
        "hccn_conf": _conf(found),
    }


def _conf(found: Answers) -> dict[int, str] | None:
    records = found.value("hccn-conf")
    if records is None:
        return None
    return {one.device: one.address for one in records if one.address}


def _versions(found: Answers) -> dict[str, Any]:
    driver = found.value("driver-version-info")
    firmware = found.value("firmware-version-info")
    cann = found.value("cann-install-info")
    table = found.value("npu-smi-info")
    return {
        "driver": _package(driver) or (table.driver_version if table else None),
        "firmware": firmware.version if firmware else None,
        "firmware_range": next(
            (group for group in (driver.compatible_firmware if driver else ()) if len(group) == 2),
            None,
        ),
        "cann": cann.version if cann else None,
    }


def _package(driver: Any) -> str | None:
    return (driver.package_version or driver.version) if driver else None


def _processes(found: Answers) -> tuple[tuple[int, str], ...]:
    """Pid and name of every process, from `ps -eo pid=,comm=`."""
    rows = (line.split(None, 1) for line in found.text("processes").splitlines())
    return tuple(
        (pid, row[1]) for row in rows if len(row) == 2 and (pid := whole(row[0])) is not None
    )


def _npus(found: Answers) -> tuple[Npu, ...]:
    table = found.value("npu-smi-info")
    alive = {pid for pid, _ in _processes(found)}
    physical = {
        (one.npu, one.chip): one.phy_id if one.phy_id is not None else one.logic_id
        for one in found.value("npu-smi-m") or ()
    }
    chips = table.chips if table else ()
    npus = []
    for number, chip in enumerate(chips):
        device = next(
            (
                each
                for each in (chip.phy_id, chip.device, physical.get((chip.npu, chip.chip)))
                if each is not None
            ),
            number,
        )
        npus.append(_npu(found, table, chip, device, alive))
    return tuple(npus)


def _npu(found: Answers, table: Any, chip: Any, device: int, alive: set[int]) -> Npu:
    board = found.value("npu-smi-board", chip.npu)
    health = found.reading("npu-smi-health", chip.npu).value or ()
    ecc = found.reading("npu-smi-ecc", chip.npu).value or ()
    die = chip.chip or 0
    said = health[die] if len(health) > die else None
    counted = ecc[die] if len(ecc) > die else None
    return Npu(
        device=device,
        npu=chip.npu,
        chip=chip.chip,
        name=chip.name,
        health=chip.health or (said.health if said else None),
        errors=said.error_codes if said else (),
        hbm_mb=chip.hbm_total_mb or chip.memory_total_mb,
        hbm_used_mb=chip.hbm_used_mb if chip.hbm_total_mb else chip.memory_used_mb,
        temperature_c=chip.temperature_c,
        ecc_double=counted.hbm_double_bit_total if counted else None,
        firmware=board.firmware_version if board else None,
        processes=tuple(
            NpuProcess(
                one.pid,
                one.name,
                round(one.memory_mb) if one.memory_mb is not None else None,
                one.pid in alive if alive else None,
            )
            for one in table.processes or ()
            if one.npu == chip.npu and one.chip in (None, chip.chip)
        ),
        roce=_roce(found, device),
    )


def _roce(found: Answers, device: int) -> Roce:
    address = found.reading("hccn-ip", device)
    own = address.value[0] if address.value else None
    link = found.value("hccn-link", device)
    health = found.value("hccn-net-health", device)
    detect = found.value("hccn-netdetect", device)
    gateway = found.value("hccn-gateway", device)
    lldp = found.value("hccn-lldp", device)
    tls = found.value("hccn-tls", device)
    optical = found.value("hccn-optical", device)
    stat = found.value("hccn-stat", device)
    changes = found.value("hccn-link-stat", device)
    vnic = found.value("hccn-vnic", device)
    powers = [each for each in (optical.rx_power_mw if optical else ()) if each is not None]
    return Roce(
        address=own.address if own else None,
        netmask=own.netmask if own else None,
        gateway=gateway.gateway if gateway else None,
        detect=detect.address if detect else None,
        link=link.status if link else None,
        health=health.status if health else None,
        tls=int(tls.enabled) if tls and tls.enabled is not None else None,
        switch_port=lldp.port_id if lldp else None,
        optical_present=optical.present if optical else None,
        rx_power_mw=min(powers, default=None),
        rx_low_mw=optical.rx_power_low_mw if optical else None,
        light_lost=bool(optical.rx_los) if optical and optical.rx_los is not None else None,
        link_downs=_downs(changes),
        errors=_errors(stat.counters) if stat else {},
        vnic_link=vnic.link if vnic else None,
        vnic_address=vnic.address if vnic else None,
        problem=address.error or (own.error if own else None),
    )


def _downs(changes: Any) -> int | None:
    if changes is None:
        return None
    if changes.link_down_count is not None:
        return int(changes.link_down_count)
    if changes.link_up_count is not None:
        return max(0, int(changes.link_up_count) - 1)
    return len([one for one in changes.changes if "DOWN" in one.state])


def _errors(counters: Mapping[str, int]) -> dict[str, int]:
    return {
        name: count
        for name, count in counters.items()
        if count and any(word in name for word in _ERROR_COUNTERS)
    }


def _model(found: Answers) -> dict[str, Any]:
    reading = found.reading("model-directory")
    directory = reading.value
    if directory is None:
        problem = reading.error.message if reading.error else reading.text.strip() or None
        if not found.asked("model-directory"):
            return {}
        return {"model": ModelFiles("", there=False, problem=problem)}
    hashes = found.value("sha256sum")
    config = directory.config or {}
    kind, written = config.get("model_type"), config.get("transformers_version")
    return {
        "model": ModelFiles(
            path=directory.path,
            there=True,
            sizes={one.name: one.size_bytes for one in directory.files},
            missing=directory.missing,
            short={one.name: (one.size_bytes, one.expected_bytes or 0) for one in directory.short},
            has_index=bool(directory.indexes),
            model_type=kind if isinstance(kind, str) else None,
            transformers=written if isinstance(written, str) else None,
            scheme=directory.quantisation.scheme,
            scheme_evidence="; ".join(directory.quantisation.evidence) or None,
            hashes={one.name: one.sha256 for one in hashes.hashes} if hashes else {},
        )
    }

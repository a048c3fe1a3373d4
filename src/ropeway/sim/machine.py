"""Machines that do not exist, as data: what their commands will say follows from this alone.

    Fleet ─ Machine … ─ Chip …      a cluster of hosts with NPUs
          └ losses                  RoCE packets that do not arrive, in percent

Figures such as idle HBM, power and optics are those of recorded machines of the same chip
(tests/recordings/INDEX.tsv).
"""

import hashlib
import ipaddress
import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from ropeway.engines.ascend_releases import TAG_SUFFIXES
from ropeway.errors import Refused
from ropeway.facts.host import Container, Image
from ropeway.hardware import Family, chip_named
from ropeway.phrases import joined, phrase
from ropeway.sim.brief import Brief
from ropeway.sim.model_folder import ModelFolder, published

GIB = 2**30
# Question of facts/ → what its command prints, to be formatted with `machine` or `chip`.
OUTPUTS: Mapping[str, str] = tomllib.loads(
    Path(__file__).with_name("outputs.toml").read_text(encoding="utf-8")
)


@dataclass(frozen=True)
class Kind:
    """A product: what its cards are called and hold.

    name    as npu-smi prints it
    dies    NPUs on one card, which npu-smi calls one; each is a /dev/davinciN with a RoCE port
    hbm_mb  of one chip; idle_mb of that the driver takes
    family  for which images are built
    """

    name: str
    dies: int
    hbm_mb: int
    idle_mb: int
    family: Family = "A2"


KINDS = {
    "910B1": Kind("910B1", 1, 65536, 3390),
    "910B2": Kind("910B2", 1, 65536, 3334),
    "910B2C": Kind("910B2C", 1, 65536, 3398),
    "910B3": Kind("910B3", 1, 65536, 3382),
    "910B4": Kind("910B4", 1, 32768, 2857),
    "910B4-1": Kind("910B4-1", 1, 65536, 3390),
    "910C": Kind("Ascend910", 2, 65536, 3200, "A3"),
    "910C-9372": Kind("Ascend910", 2, 65536, 3200, "A3"),
    "910C-560T": Kind("Ascend910", 2, 65536, 3200, "A3"),
}


@dataclass(frozen=True)
class Process:
    """A process that holds HBM. `alive` says whether the host still has it."""

    pid: int
    name: str
    memory_mb: int
    alive: bool = True


@dataclass(frozen=True)
class Chip:
    """One /dev/davinciN: a chip with its memory, and its RoCE port.

    aicore          percent of the time in which it works
    dropped         it fell off the bus: the tools no longer know it
    rx_power_mw     of the optical module
    link_downs      how often its link went down since the driver was loaded
    broken_packets  that it has received
    """

    device: int
    npu: int
    die: int
    hbm_mb: int
    hbm_used_mb: int
    address: str | None
    aicore: int = 0
    netmask: str = "255.255.0.0"
    gateway: str | None = None
    netdetect: str | None = None
    health: str = "OK"
    error_codes: str = "NA"
    temperature_c: int = 38
    processes: tuple[Process, ...] = ()
    dropped: bool = False
    link: str = "UP"
    net_health: str = "Success"
    tls: int = 0
    switch_port: str | None = None
    rx_power_mw: float = 1.02
    link_downs: int = 0
    broken_packets: int = 0
    ecc_double: int = 0


@dataclass(frozen=True)
class LaunchFaults:
    """What goes wrong on a host while a service starts there, and facts do not show.

    drops_after  so many commands are carried out, then the connection breaks
    drops_for    so many commands fail then, before the host can be reached again
    disk_fills   nothing can be written
    pull_fails   no registry answers
    joins        whether its containers find their head
    fails        what an engine writes before it ends, halfway through its start
    says         what an engine writes besides
    """

    drops_after: float = math.inf
    drops_for: float = math.inf
    disk_fills: bool = False
    pull_fails: bool = False
    joins: bool = True
    fails: tuple[str, ...] = ()
    says: tuple[str, ...] = ()


@dataclass(frozen=True)
class Machine:
    """One host.

    failure      ssh's own complaint, where it cannot be reached
    by_hand      ssh as a person would call it, where a spec says how
    nic          its interface on the cluster's network
    clock_s      how far its clock is ahead of ours
    model        file name → bytes, of the model's directory
    config       its config.json
    folders      others that it has
    ports        TCP ports that somebody listens on → program
    missing      programs that are not installed
    unreachable  addresses of other hosts that its Ethernet does not reach
    """

    name: str
    address: str
    kind: Kind
    chips: tuple[Chip, ...]
    nic: str = "enp189s0f0"
    driver: str = "26.0.rc1"
    firmware: str = "7.8.0.6.201"
    kernel: str = "5.10.0-216.0.0.115.oe2203sp4.aarch64"
    hypervisor: str | None = None
    shm_bytes: int = 768 * GIB
    disk_free_bytes: int = 2600 * GIB
    clock_s: float = 0.0
    nofile: int = 1048576
    own_name: str | None = None
    docker_answers: bool = True
    images: tuple[Image, ...] = ()
    containers: tuple[Container, ...] = ()
    model: Mapping[str, int] = field(default_factory=dict)
    config: str = "{}"
    folders: tuple[str, ...] = ()
    hccn_conf: bool = True
    ports: Mapping[int, str] = field(default_factory=dict)
    raylet: bool = False
    missing: frozenset[str] = frozenset()
    unreachable: frozenset[str] = frozenset()
    failure: str | None = None
    by_hand: str = ""
    faults: LaunchFaults = LaunchFaults()

    @property
    def network(self) -> ipaddress.IPv4Network:
        return ipaddress.IPv4Interface(f"{self.address}/16").network


@dataclass(frozen=True)
class Fleet:
    """All machines, and the image and the model as each of them should have them.

    port    on which the first of them serves
    losses  (address that pings, address pinged) → percent of packets lost
    """

    machines: tuple[Machine, ...]
    image: str
    model: ModelFolder
    port: int = 8000
    losses: Mapping[tuple[str, str], float] = field(default_factory=dict)

    @property
    def brief(self) -> "Brief":
        """What it is, in a few values."""
        return Brief(
            hosts=len(self.machines),
            npus="/".join(map(str, sorted({len(one.chips) for one in self.machines}))),
            chip=next(name for name, kind in KINDS.items() if kind == self.machines[0].kind),
            model=self.model.published,
            scheme=self.model.scheme,
        )

    @property
    def title(self) -> str:
        """What it is, in words."""
        return self.brief.title

    @cached_property
    def up(self) -> Mapping[str, Machine]:
        """The machines that can be reached, by their address."""
        return {machine.address: machine for machine in self.machines if machine.failure is None}

    def with_machine(self, index: int, machine: Machine) -> "Fleet":
        """Return this fleet with one machine changed."""
        machines = (*self.machines[:index], machine, *self.machines[index + 1 :])
        return replace(self, machines=machines)


_SIZE = re.compile(r"(\d{1,4})\s*[x×]\s*(\d{1,2})\s*-\s*([0-9A-Za-z-]+)")
_HAS_SIZE = re.compile(r"\d+\s*[x×-]")


def has_size(text: str) -> bool:
    """Whether a FLEET says how many hosts there are; else it can only name their chip."""
    return _HAS_SIZE.match(text.strip()) is not None


def made_up_model() -> ModelFolder:
    """Return the model of a cluster that is made up."""
    return published("Qwen3-30B-A3B", "/data/model")


def kind_named(chip: str) -> Kind:
    """Return the product of a chip in any usual spelling. Raises Refused."""
    name = chip_named(chip).name
    if name not in KINDS:
        known = joined(KINDS, ", ")
        raise Refused(
            phrase(
                "`{chip}` cannot be rehearsed: virtual NPUs have HBM and a RoCE port each",
                chip=name,
            ),
            hint=phrase(
                "`ropeway up --dry-run` without `--rehearse` shows the commands for it, whether or "
                "not the hosts answer; chips that can be rehearsed: {chips}; `--rehearse 910B4` "
                "takes the spec's hosts with that chip",
                chips=known,
            ),
        )
    return KINDS[name]


def parse_fleet(text: str) -> tuple[int, int, Kind]:
    """Read `2x8-910B4`: hosts, NPUs on each, chip. Raises Refused when it is not that."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise Refused(
            phrase("`{fleet}` names no cluster to rehearse", fleet=text),
            hint=phrase(
                "write hosts x NPUs - chip, like `2x8-910B4`; chips are {chips}",
                chips=joined(KINDS, ", "),
            ),
        )
    hosts, npus, kind = int(match[1]), int(match[2]), kind_named(match[3])
    if not (1 <= hosts <= 4096 and 1 <= npus <= 16):
        raise Refused(
            phrase("`{fleet}`: 1 to 4096 hosts with 1 to 16 NPUs each can be rehearsed", fleet=text)
        )
    if npus % kind.dies:
        raise Refused(
            phrase(
                "`{fleet}`: a card is {dies} NPUs, and {npus} are no whole cards",
                fleet=text,
                dies=kind.dies,
                npus=npus,
            ),
            hint=phrase("as in `plan`, each /dev/davinciN counts: a host of 8 cards has 16"),
        )
    return hosts, npus, kind


def sound_fleet(hosts: int, npus: int, kind: Kind) -> Fleet:
    """A cluster in which nothing is wrong: RoCE in one subnet, one image, one model."""
    image = f"quay.io/ascend/vllm-ascend:v0.23.0{TAG_SUFFIXES[kind.family]}"
    machines = (
        machine(number, f"host{number + 1}", made_up_address(number), npus, kind)
        for number in range(hosts)
    )
    return equipped(machines, made_up_model(), image)


def equipped(machines: Iterable[Machine], model: ModelFolder, image: str) -> Fleet:
    """Return the fleet of these machines, each with the image and all of the model."""
    there = (Image(image, f"sha256:{hashlib.sha256(image.encode()).hexdigest()}"),)
    return Fleet(
        tuple(
            replace(one, images=there, model=model.files, config=model.config) for one in machines
        ),
        image,
        model,
    )


def made_up_address(number: int) -> str:
    """Return the address of the n-th host that has none of its own."""
    return f"192.168.{number // 250}.{number % 250 + 1}"


def machine(number: int, name: str, address: str, npus: int, kind: Kind) -> Machine:
    """Return the n-th machine, sound, without an image or a model."""
    chips = tuple(_chip(number, device, kind) for device in range(npus))
    return Machine(name, address, kind, chips)


def _chip(number: int, device: int, kind: Kind) -> Chip:
    return Chip(
        device=device,
        npu=device // kind.dies,
        die=device % kind.dies,
        hbm_mb=kind.hbm_mb,
        hbm_used_mb=kind.idle_mb + device,
        address=f"10.{20 + number // 4000}.{number % 4000 // 16}.{number % 16 * 16 + device % 16}",
        netmask="255.0.0.0",
        gateway="10.255.255.254",
        netdetect="10.255.255.254",
        switch_port=f"400GE{number // 16 + 1}/{device + 1}/{number % 16 + 1}",
        temperature_c=34 + device % 5,
    )

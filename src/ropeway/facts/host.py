"""What is known of one host: the answers of all its commands, joined into one value.

None always means "not known": the command is absent, failed, or printed what we cannot read. Why it
is not known is in `unread`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ropeway.errors import Refused
from ropeway.facts.question import State, ToolError
from ropeway.phrases import phrase


@dataclass(frozen=True)
class NpuProcess:
    """A process that holds HBM. `alive`: whether the host has a process of that number."""

    pid: int
    name: str
    alive: bool | None


@dataclass(frozen=True)
class Optical:
    """The optical module of a port; powers are in mW.

    present      whether a module is in the cage
    rx_power_mw  of the lane that receives least
    light_lost   the module's own flag, a bit for each lane: it receives nothing
    """

    present: bool | None = None
    rx_power_mw: float | None = None
    rx_low_mw: float | None = None
    light_lost: bool | None = None


@dataclass(frozen=True)
class Vnic:
    """The virtual interface between the chips of an A3 host or super node."""

    link: str | None = None
    address: str | None = None


@dataclass(frozen=True)
class Roce:
    """One NPU's RoCE port. `errors` are the counters that are not zero.

    tls         the switch of hccn_tool: 1 on, 0 off; it must be the same everywhere
    detect      the address that its health check pings
    link_downs  how often the link went down, as far as the tool remembers
    """

    address: str | None = None
    netmask: str | None = None
    gateway: str | None = None
    detect: str | None = None
    link: str | None = None
    health: str | None = None
    tls: int | None = None
    switch_port: str | None = None
    optical: Optical = Optical()
    link_downs: int | None = None
    errors: Mapping[str, int] = field(default_factory=dict)
    vnic: Vnic = Vnic()
    problem: ToolError | None = None


@dataclass(frozen=True)
class Npu:
    """One /dev/davinciN: a chip, which vLLM uses as one rank.

    npu, chip  what npu-smi calls it: the card, and the die on it
    """

    device: int
    npu: int | None = None
    chip: int | None = None
    name: str | None = None
    health: str | None = None
    errors: tuple[str, ...] = ()
    hbm_mb: int | None = None
    hbm_used_mb: int | None = None
    temperature_c: float | None = None
    ecc_double: int | None = None
    firmware: str | None = None
    processes: tuple[NpuProcess, ...] = ()
    roce: Roce = Roce()


@dataclass(frozen=True)
class Nic:
    """A network interface of the host; addresses are IPv4 and IPv6 without their prefix."""

    name: str
    addresses: tuple[str, ...]
    mtu: int | None
    up: bool | None


@dataclass(frozen=True)
class Image:
    """A container image that the host has."""

    name: str
    id: str


@dataclass(frozen=True)
class Container:
    """A running container; `devices` are the /dev/davinciN that it was given by name. A privileged
    one could use all of the host."""

    name: str
    image: str
    devices: tuple[int, ...]
    privileged: bool = False


@dataclass(frozen=True)
class Docker:
    """The container engine. `version` is the server's; None when it does not answer.

    engine  what answered: docker, podman or nerdctl; podman also answers to `docker`
    """

    version: str | None
    problem: str | None
    images: tuple[Image, ...] = ()
    containers: tuple[Container, ...] = ()
    engine: str | None = None


WEIGHTS = (".safetensors", ".bin", ".gguf")  # how files end that an engine loads as weights


@dataclass(frozen=True)
class ModelFiles:
    """The model's directory. Sizes in bytes; `hashes` are sha256, with `--deep` only.

    config        config.json; None where it is missing or not JSON
    missing       shards that the index names and that are not there
    short         shard → (bytes there, bytes that its own header asks for)
    transformers  the version that wrote config.json
    scheme        the quantisation: "none", "ascend", "compressed-tensors", or a CUDA format
    kinds         how often each type stands in quant_model_description.json, if there is one
    pools         it is a folder of sentence-transformers that pools (models.task.sees_pooling)
    """

    path: str
    there: bool
    sizes: Mapping[str, int] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    short: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    config: Mapping[str, object] | None = None
    model_type: str | None = None
    transformers: str | None = None
    scheme: str | None = None
    scheme_evidence: str | None = None
    kinds: Mapping[str, int] = field(default_factory=dict)
    pools: bool = False
    hashes: Mapping[str, str] = field(default_factory=dict)
    problem: str | None = None

    @property
    def fault(self) -> str | None:
        """Return why this is not a whole checkpoint, as a predicate; None when it is one."""
        if not self.there:
            return "is not there"
        if self.missing:
            others = len(self.missing) - 1
            return f"lacks {self.missing[0]}" + (f" and {others} more" if others else "")
        if self.short:
            name, (size, expected) = next(iter(self.short.items()))
            return f"has {size:,} of the {expected:,} bytes of {name}"
        if not any(name.endswith(WEIGHTS) for name in self.sizes):
            return "has no weights"
        return None if "config.json" in self.sizes else "has no config.json"


@dataclass(frozen=True)
class Unread:
    """An answer that gave no value, or not all of one: kept, not guessed. `number` is that of the
    NPU or device."""

    key: str
    state: State
    why: str
    number: int | None = None

    @property
    def name(self) -> str:
        """Return `hccn-ip 3`."""
        return self.key if self.number is None else f"{self.key} {self.number}"


@dataclass(frozen=True)
class HostFacts:
    """One host. Sizes in bytes, times in seconds.

    clock_s          how far its clock is ahead of ours, give or take half the round trip
    disk_free_bytes  where the container engine keeps its images
    devices          N of each /dev/davinciN there is, sorted
    pci_devices      accelerators that the PCI bus lists
    firmware_range   lowest and highest firmware that the driver says it works with
    npu_problem      npu-smi's own complaint; `has_npu_smi` says whether the program is there
    ports            listening TCP ports → program, where it is known
    raylets          pids of Ray's process on this host
    own_address      what the host's own name resolves to
    home             of the user that we log in as
    paths            of the driver's paths that a container needs, those that are there
    asked            keys of the questions that were put to it
    unread           answers without a value, or with a part of one
    """

    name: str
    address: str
    os: str | None = None
    kernel: str | None = None
    architecture: str | None = None
    hypervisor: str | None = None
    memory_bytes: int | None = None
    shm_bytes: int | None = None
    disk_free_bytes: int | None = None
    clock_s: float | None = None
    root: bool | None = None
    nofile: int | None = None
    memlock_bytes: int | None = None
    numa_balancing: int | None = None
    hugepages: str | None = None
    governor: str | None = None
    port_range: tuple[int, int] | None = None
    reserved_ports: frozenset[int] = frozenset()
    nics: tuple[Nic, ...] = ()
    default_nic: str | None = None
    own_address: str | None = None
    ports: Mapping[int, str | None] = field(default_factory=dict)
    docker: Docker | None = None
    npus: tuple[Npu, ...] = ()
    devices: tuple[int, ...] = ()
    pci_devices: int | None = None
    has_npu_smi: bool | None = None
    has_hccn_tool: bool | None = None
    npu_problem: ToolError | None = None
    driver: str | None = None
    firmware: str | None = None
    firmware_range: tuple[str, ...] | None = None
    cann: str | None = None
    hccn_conf: Mapping[int, str] | None = None
    model: ModelFiles | None = None
    raylets: tuple[int, ...] = ()
    home: str | None = None
    paths: frozenset[str] = frozenset()
    asked: frozenset[str] = frozenset()
    unread: tuple[Unread, ...] = ()

    @property
    def nic(self) -> Nic | None:
        """The interface that has the host's address, or the default route's."""
        for nic in self.nics:
            if self.address in nic.addresses:
                return nic
        return next((nic for nic in self.nics if nic.name == self.default_nic), None)

    @property
    def ethernet_address(self) -> str | None:
        """The address by which other hosts reach it: the spec's when it is one of its own, else the
        first of the default route's interface (the spec may name it by an alias, or from outside).
        """
        return self._address_on(self.nic)

    def reached_by(self, name: str | None = None) -> tuple[str, str]:
        """Return the name of the interface and the address by which other hosts reach this one: of
        the interface `name`, else of `nic`.

        Raises Refused, with the interfaces that have an address, when there is none.
        """
        nic = next((nic for nic in self.nics if nic.name == name), None) if name else self.nic
        if nic is not None and (address := self._address_on(nic)):
            return nic.name, address
        what = "no interface has the host's address, and there is no default route"
        if name is not None:
            state = (
                "`{nic}` does not exist on {host}"
                if nic is None
                else "`{nic}` has no address on {host}"
            )
            what = phrase(state, nic=name, host=self.name)
        raise Refused(
            what,
            where=self.name,
            evidence=tuple(
                f"{nic.name}: {', '.join(nic.addresses)}" for nic in self.nics if nic.addresses
            ),
            hint="name one of these: `nic: …` below `cluster`, or of the host",
        )

    def _address_on(self, nic: Nic | None) -> str | None:
        if nic is None or not nic.addresses:
            return None
        return self.address if self.address in nic.addresses else nic.addresses[0]

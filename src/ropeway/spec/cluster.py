"""The machines of a spec: virtual hosts on this machine, or real ones and their containers."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator

from ropeway.errors import Refused
from ropeway.hardware import chip_named
from ropeway.phrases import phrase
from ropeway.spec.errors import Fault, broken
from ropeway.spec.types import Address, Port, Size, SpecModel, matching, none_or_tuple, to_tuple

# A path as Docker's `-v` takes it: absolute, and without the colon that ends it there.
_PATH = r"/[^\x00-\x1f\x7f:]*"
# [registry[:port]/]path[:tag][@digest], as the reference grammar of OCI distribution has it.
_REGISTRY = r"[a-z0-9][a-z0-9._-]*(:\d+)?(/[a-z0-9][a-z0-9._-]*)*"
_IMAGE = rf"{_REGISTRY}(:[A-Za-z0-9_][A-Za-z0-9._-]{{0,127}})?(@sha256:[0-9a-f]{{64}})?"
# 15 bytes is Linux's limit (IFNAMSIZ)
_Nic = Annotated[str, matching(r"[^\s/:-][^\s/:]{0,14}", "a network interface's name")]
_User = Annotated[str, matching(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}", "a user's name")]


class Local(SpecModel):
    """Virtual hosts on this machine (127.0.0.2, 127.0.0.3 …), each with virtual NPUs."""

    hosts: Annotated[int, Field(ge=1, le=64)] = 2
    npus: Annotated[int, Field(ge=1, le=64)] = 2


_Device = Annotated[int, Field(ge=0, le=1023)]


class RemoteHost(SpecModel):
    """One host that is reached over SSH; `user` and `port` default to what ~/.ssh/config says.

    `npus` of its NPUs are used: those whose /dev/davinciN `devices` lists, else the first ones.
    `nic` is its interface on the cluster's network, where that is not `cluster.nic`.
    """

    address: Address
    npus: Annotated[int, Field(ge=1, le=1024)]
    devices: Annotated[tuple[_Device, ...] | None, BeforeValidator(to_tuple)] = Field(
        default=None, validate_default=True
    )
    nic: _Nic | None = None
    user: _User | None = None
    port: Port | None = None

    @field_validator("devices")
    @classmethod
    def _check_devices(
        cls, devices: tuple[int, ...] | None, info: ValidationInfo
    ) -> tuple[int, ...] | None:
        if devices is None or "npus" not in info.data:
            return devices
        if len(set(devices)) < len(devices):
            raise broken(Fault(("devices",), "lists an NPU twice"))
        if len(devices) != info.data["npus"]:
            text = phrase(
                "lists {devices} NPUs, and `npus` is {npus}",
                devices=len(devices),
                npus=info.data["npus"],
            )
            raise broken(Fault(("devices",), text, "make the two agree"))
        return devices


def _known_chip(text: str) -> str:
    """Return the name that `hardware` has for the chip, however it is spelt."""
    try:
        return chip_named(text).name
    except Refused as error:
        raise broken(
            Fault(("chip",), phrase("does not name a chip: {what}", what=error.what), error.hint)
        ) from None


class Cluster(SpecModel):
    """Where to run: `local` (virtual) or `hosts` (real), exactly one of them.

    `nic` is the hosts' interface on the network between them; by default the one that has the
    host's address. `chip` is the product of their NPUs, `hbm` its memory in bytes where that is not
    the usual, and `price_per_host_hour` what a host costs in `currency`; `plan` needs these.
    """

    local: Local | None = None
    hosts: Annotated[tuple[RemoteHost, ...] | None, BeforeValidator(to_tuple)] = Field(
        default=None, validate_default=True
    )
    nic: _Nic | None = None
    chip: Annotated[str, AfterValidator(_known_chip)] | None = None
    hbm: Size = None
    price_per_host_hour: Annotated[float, Field(gt=0, le=1e9)] | None = None
    currency: (
        Annotated[str, matching(r"[A-Z]{3}", "a currency of three letters, like CNY")] | None
    ) = None

    @field_validator("hosts")
    @classmethod
    def _check_hosts(
        cls, hosts: tuple[RemoteHost, ...] | None, info: ValidationInfo
    ) -> tuple[RemoteHost, ...] | None:
        if "local" not in info.data:
            return hosts
        local = info.data["local"]
        if local is None and hosts is None:
            hint = "to use this machine alone, write `local: {hosts: 2, npus: 2}`"
            raise broken(Fault((), "needs `local` or `hosts`", hint))
        if local is not None and hosts is not None:
            raise broken(
                Fault(("hosts",), "cannot be combined with `local`", "keep one of the two")
            )
        if hosts is not None and (faults := _host_faults(hosts)):
            raise broken(*faults)
        return hosts

    @field_validator("nic", "chip", "hbm")
    @classmethod
    def _check_real(cls, value: object, info: ValidationInfo) -> object:
        if value is not None and info.data.get("local") is not None:
            at = (info.field_name or "",)
            raise broken(Fault(at, "applies to real hosts, and `cluster.local` has virtual ones"))
        return value

    @property
    def is_local(self) -> bool:
        return self.local is not None

    @property
    def host_names(self) -> tuple[str, ...]:
        """Each host's address, and its port too where two have the same address."""
        hosts = self.hosts or ()
        addresses = [host.address.lower() for host in hosts]
        return tuple(
            host.address if addresses.count(address) == 1 else f"{host.address}:{host.port or 22}"
            for host, address in zip(hosts, addresses, strict=True)
        )

    @property
    def host_count(self) -> int:
        return self.local.hosts if self.local else len(self.hosts or ())

    @property
    def npus_per_host(self) -> int:
        """Return how many NPUs every host has: of unequal hosts, the smallest number."""
        return self.local.npus if self.local else min(host.npus for host in self.hosts or ())

    @property
    def total_npus(self) -> int:
        if self.local:
            return self.local.hosts * self.local.npus
        return sum(host.npus for host in self.hosts or ())


def _host_faults(hosts: tuple[RemoteHost, ...]) -> list[Fault]:
    if not hosts:
        return [Fault(("hosts",), "must list at least one host")]
    names = [(host.address.lower(), host.port) for host in hosts]
    return [
        Fault(
            ("hosts", index, "address"),
            phrase("is the same as `cluster.hosts[{index}]`", index=names.index(name)),
        )
        for index, name in enumerate(names)
        if name in names[:index]
    ]


_Path = Annotated[str, matching(_PATH, "an absolute path without a colon")]
_Mount = Annotated[str, matching(rf"{_PATH}(:{_PATH})?(:r[ow])?", "like /data or /data:/models:ro")]
# A name, extras, and a version (PEP 508), without options, files or URLs of other origin.
_Requirement = Annotated[
    str,
    matching(
        r"[A-Za-z0-9][A-Za-z0-9._-]*(\[[A-Za-z0-9._,-]+\])?"
        r"(\s*(===?|~=|!=|<=?|>=?)\s*[A-Za-z0-9.*+!_-]+(\s*,\s*(===?|~=|!=|<=?|>=?)\s*[A-Za-z0-9.*+!_-]+)*)?",
        "a package with its version, like transformers==4.57.0",
    ),
]


class Runtime(SpecModel):
    """How containers run on real hosts. A None follows from the hosts and the release.

    `command` is the container engine; `image` a full name in place of the release's own, `os` its
    variant, `mirror` a registry in place of its own, `archive` a tar on each host to load it from.
    `pip` lists packages for a derived image, from `index` or from `wheels`, a folder on each host.
    `mounts` are paths that containers see (`/data`, `/data:/models`, `/data:ro`), `cache` is the
    folder that becomes their /root/.cache, `shm` the bytes of /dev/shm.
    """

    command: Literal["docker", "podman", "nerdctl"] = "docker"
    image: Annotated[str, matching(_IMAGE, "an image's name")] | None = None
    os: Literal["ubuntu", "openeuler"] = "ubuntu"
    mirror: Annotated[str, matching(_REGISTRY, "a registry, like quay.example.org")] | None = None
    archive: _Path | None = None
    pull: Literal["missing", "never"] = "missing"
    pip: Annotated[tuple[_Requirement, ...], BeforeValidator(none_or_tuple)] = ()
    index: Annotated[str, matching(r"https?://[^\s'\"@]+", "a URL without a password")] | None = (
        None
    )
    wheels: _Path | None = None
    mounts: Annotated[tuple[_Mount, ...], BeforeValidator(none_or_tuple)] = ()
    cache: _Path | None = None
    shm: Size = None
    privileged: bool = False

    @field_validator("mirror")
    @classmethod
    def _check_digest(cls, mirror: str | None, info: ValidationInfo) -> str | None:
        if mirror is not None and "@" in (info.data.get("image") or ""):
            text = "cannot give an image a name with a digest"  # `docker tag` refuses one
            raise broken(Fault(("mirror",), text, "write the mirror's own name in `image`"))
        return mirror

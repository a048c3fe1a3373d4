"""What the checks look at: the facts of every host, what the spec requires, and the pings."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from ropeway.doctor.finding import Location
from ropeway.doctor.pings import PingMatrix
from ropeway.errors import RopewayError
from ropeway.facts.host import HostFacts, ModelFiles, Npu, Unread


@dataclass(frozen=True)
class Requirements:
    """What the spec requires of the hosts.

    npus          host → number of NPUs that are to be used there
    image         the container image, where the spec names one
    release_like  the release whose rules hold for the image, where the user says so
    model_path    on the hosts; None when the spec names none
    ports         TCP port → what needs it
    runtime       the command of the container engine
    service       name of the spec's service, which may be up; None without a spec
    """

    npus: Mapping[str, int] = field(default_factory=dict)
    image: str | None = None
    release_like: str | None = None
    model_path: str | None = None
    ports: Mapping[int, str] = field(default_factory=dict)
    runtime: str = "docker"
    service: str | None = None


@dataclass(frozen=True)
class Cluster:
    """Everything that the checks may use.

    hosts     facts of the hosts that answered
    failures  name of a host that did not answer → its error
    names     all hosts; a ping matrix counts them by their place in it
    roce      pings from NPU to NPU; ethernet: from host to host; None when none were sent
    """

    requirements: Requirements
    hosts: tuple[HostFacts, ...]
    failures: Mapping[str, RopewayError] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    roce: PingMatrix | None = None
    ethernet: PingMatrix | None = None

    @cached_property
    def npus(self) -> tuple[tuple[Location, Npu], ...]:
        """Every NPU of every host."""
        return tuple(
            (Location(host.name, npu.device), npu) for host in self.hosts for npu in host.npus
        )

    @cached_property
    def unread(self) -> Mapping[str, Mapping[str, Unread]]:
        """Host → key of a question → the first answer to it that was not whole."""
        return {host.name: {one.key: one for one in reversed(host.unread)} for host in self.hosts}

    def models(self) -> Iterator[tuple[Location, ModelFiles]]:
        """Yield the model's directory of every host that was asked for it."""
        for host in self.hosts:
            if host.model is not None:
                yield Location(host.name), host.model

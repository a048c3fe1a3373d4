"""A service on real hosts, complete: a spec without blanks, and where each part of it goes."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from ropeway.engines.base import Node
from ropeway.engines.vllm_ascend import AscendReplica
from ropeway.spec.model import Spec
from ropeway.spec.types import api_url


@dataclass(frozen=True)
class Site:
    """One host as the launch needs it.

    node     its NPUs, and its address and interface on the cluster's network
    folder   where Ropeway keeps scripts, secrets and the audit log; each service has a folder in it
    cache    what containers see as /root/.cache
    driver   the paths of the driver that exist there, as containers see them
    """

    node: Node
    folder: str
    cache: str
    driver: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.node.name


@dataclass(frozen=True)
class Router:
    """Where the one endpoint over several replicas runs, and where it listens."""

    host: str
    address: str
    port: int


@dataclass(frozen=True)
class Service:
    """Everything that `up` is going to do, as data.

    image     the image that every container runs: with `runtime.pip` the derived one
    sites     in the order of the spec; hosts that take no part are left out
    assumed   what nobody has verified, for a service that was completed without asking the hosts
    notes     what speaks against it without forbidding it
    """

    spec: Spec
    image: str
    sites: tuple[Site, ...]
    replicas: tuple[AscendReplica, ...]
    router: Router | None = None
    assumed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def url(self) -> str:
        """The base URL for clients: of the router, else of the only replica."""
        endpoint = self.router or self.replicas[0]
        everywhere = endpoint.address in ("0.0.0.0", "::")
        return api_url(self.head.node.address if everywhere else endpoint.address, endpoint.port)

    @property
    def head(self) -> Site:
        """The host that has the endpoint."""
        return self.site(self.router.host if self.router else self.replicas[0].nodes[0].name)

    def site(self, host: str) -> Site:
        """Return the site of a host. Raises KeyError for a host that takes no part."""
        return self._sites[host]

    def folder_on(self, host: str) -> str:
        """Return the service's own folder on a host, which `down` removes."""
        return f"{self.site(host).folder}/{self.name}"

    @cached_property
    def _sites(self) -> Mapping[str, Site]:
        return {site.name: site for site in self.sites}

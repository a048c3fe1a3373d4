"""A service on real hosts, complete: a spec without blanks, and where each part of it goes."""

from dataclasses import dataclass

from ropeway.engines.base import Node
from ropeway.engines.vllm_ascend import AscendReplica
from ropeway.spec.model import Spec


@dataclass(frozen=True)
class Site:
    """One host as the launch needs it.

    node     its NPUs, and its address and interface on the cluster's network
    folder   where scripts, secrets and the audit lie: the service's own folder is below it
    cache    what containers see as /root/.cache
    driver   the paths of the driver that are there, as containers see them
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
    """Everything `up` is going to do, as data.

    image     the image that every container runs: with `runtime.pip` the derived one
    sites     by host name, in the spec's order; hosts without a part in it are left out
    assumed   what nobody has verified, for a plan that was made without asking the hosts
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
        """Where clients find it: of the router, else of the only replica."""
        address, port = (
            (self.router.address, self.router.port)
            if self.router
            else (self.replicas[0].address, self.replicas[0].port)
        )
        host = self.head.node.address if address in ("0.0.0.0", "::") else address
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"

    @property
    def head(self) -> Site:
        """The host that has the endpoint."""
        name = self.router.host if self.router else self.replicas[0].nodes[0].name
        return self.site(name)

    def site(self, name: str) -> Site:
        """The site of a host. Raises StopIteration for one that has no part in it."""
        return next(site for site in self.sites if site.name == name)

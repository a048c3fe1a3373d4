"""A service on real hosts, complete: a spec without blanks, and what it puts on each host.

    Service ─ a spec without blanks, and where each part of it goes
    Rollout ─ its containers, the files beside them, their hashes

Pure.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

from ropeway.engines.base import Node, Replica
from ropeway.engines.named_paths import NamedPath, covered
from ropeway.engines.vllm import KEY_VARIABLE
from ropeway.engines.vllm_ascend import AscendReplica
from ropeway.facts.ascend.driver import FILES, MANAGERS
from ropeway.hosts.fleet import group_by_host
from ropeway.launch.docker import Container, Mount
from ropeway.launch.programs import NAMES, program
from ropeway.launch.scripts import FOLDER, container_script, meeting_port, router_script
from ropeway.models.task import Task
from ropeway.router.archive import archive
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
    task      what the model does, with the spec's flags
    """

    spec: Spec
    image: str
    sites: tuple[Site, ...]
    replicas: tuple[AscendReplica, ...]
    router: Router | None = None
    assumed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    task: Task = "generate"

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


HEAD, WORKER, FOLLOWER, ROUTER = "head", "worker", "follower", "router"

# Ray's object store and vLLM's messages between ranks live there: 16 GiB was too little for a large
# model (gpustack #5014), and a configuration that worked had 64 GB (vllm-ascend #5949). It is a
# limit, not a reservation.
_SHM = 64 * 2**30


@dataclass(frozen=True)
class File:
    """A file of ours on a host, and its permissions."""

    host: str
    path: str
    content: bytes
    mode: int = 0o644

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


@dataclass(frozen=True)
class Port:
    """A TCP port that the service opens on a host, and what uses it."""

    host: str
    number: int
    purpose: str


@dataclass(frozen=True)
class Rollout:
    """The containers and files of a service, computed once: a thousand hosts take seconds."""

    service: Service

    @cached_property
    def containers(self) -> tuple[Container, ...]:
        """All containers: heads before those who look for them, the router last."""
        engines = (
            self._engine(replica, number, node_rank)
            for number, replica in enumerate(self.service.replicas)
            for node_rank in range(len(replica.nodes))
        )
        router = self.service.router
        return (*engines, *((self._router(router),) if router else ()))

    @cached_property
    def containers_by_host(self) -> Mapping[str, Sequence[Container]]:
        return group_by_host(self.containers)

    @cached_property
    def files(self) -> tuple[File, ...]:
        """The scripts and programs that the containers run; their secrets are not among them."""
        programs = [(f"{name}.py", program(name).encode()) for name in NAMES]
        shared = (
            File(site.name, f"{self.service.folder_on(site.name)}/{name}", content)
            for site in self.service.sites
            for name, content in programs
        )
        return (*shared, *(file for one in self.containers for file in self._files_of(one)))

    @cached_property
    def files_by_host(self) -> Mapping[str, Sequence[File]]:
        return group_by_host(self.files)

    @cached_property
    def hashes(self) -> Mapping[str, str]:
        """Container → hash of all that it is and runs: one with the same hash can be kept."""
        return {one.name: self._hash(one) for one in self.containers}

    @cached_property
    def ports(self) -> tuple[Port, ...]:
        """The ports that the service opens, and that others must leave to it."""
        router = self.service.router
        ports = [Port(router.host, router.port, "the endpoint")] if router else []
        for replica in self.service.replicas:
            head = replica.head.name
            ports.append(Port(head, replica.port, "the engine"))
            if replica.uses_ray:
                ports.append(Port(head, replica.ports.ray, "Ray"))
            elif len(replica.nodes) > 1:
                ports.append(Port(head, meeting_port(replica), "vLLM"))
        return tuple(ports)

    def named_paths(self, replica: AscendReplica, node: Node) -> tuple[NamedPath, ...]:
        """Return what flags point into on this node's host, and no other mount brings."""
        runtime = self.service.spec.runtime
        mounted = (replica.model, "/root/.cache", *(mount_of(one).target for one in runtime.mounts))
        return tuple(
            one
            for one in replica.named_paths
            if not (one.in_image or covered(one.path, mounted))
            and (node == replica.head or not one.on_head)
        )

    def _engine(self, replica: AscendReplica, number: int, node_rank: int) -> Container:
        node = replica.nodes[node_rank]
        site = self.service.site(node.name)
        runtime = self.service.spec.runtime
        name = container_name(self.service.name, number, node_rank)
        folder = self.service.folder_on(node.name)
        other = WORKER if replica.uses_ray else FOLLOWER
        return Container(
            host=node.name,
            name=name,
            role=other if node_rank else HEAD,
            replica=number,
            node_rank=node_rank,
            image=self.service.image,
            argv=("bash", f"{FOLDER}/{name}.sh"),
            env=replica.environment(node),
            devices=(
                *(f"/dev/davinci{device}" for device in node.devices),
                *(path for path in MANAGERS if path in site.driver),
            ),
            mounts=(
                *(Mount(path, FILES[path], True) for path in FILES if path in site.driver),
                Mount(site.cache, "/root/.cache"),
                Mount(replica.model, replica.model, True),
                Mount(folder, FOLDER, True),
                *map(mount_of, runtime.mounts),
                *(Mount(one.path, one.path, True) for one in self.named_paths(replica, node)),
            ),
            shm=runtime.shm or _SHM,
            secrets=_secret_sources(self.service, replica),
            privileged=runtime.privileged,
        )

    def _router(self, router: Router) -> Container:
        """Return the router's container: it has no NPU, and sees none of the engines' files."""
        folder = self.service.folder_on(router.host)
        name = container_name(self.service.name, None)
        secrets = _secret_sources(self.service, None)
        files = [f"{name}.{ending}" for ending in ("json", "pyz", "sh")]
        files += ["watch.py", *([f"{name}.secrets"] if secrets else [])]
        return Container(
            host=router.host,
            name=name,
            role=ROUTER,
            replica=0,
            node_rank=0,
            image=self.service.image,
            argv=("bash", f"{FOLDER}/{name}.sh"),
            mounts=tuple(Mount(f"{folder}/{file}", f"{FOLDER}/{file}", True) for file in files),
            secrets=secrets,
        )

    def _files_of(self, container: Container) -> Iterator[File]:
        """Yield the files that are a container's own."""
        secrets = f"{container.name}.secrets" if container.secrets else None
        if container.role == ROUTER:
            config = json.dumps(self._router_config(), indent=2)
            contents = {
                "json": config.encode(),
                "pyz": archive(),
                "sh": router_script(container.name, secrets=secrets).encode(),
            }
        else:
            replica = self.service.replicas[container.replica]
            contents = {
                "sh": container_script(replica, container.node_rank, secrets=secrets).encode()
            }
        folder = self.service.folder_on(container.host)
        for ending, content in contents.items():
            yield File(container.host, f"{folder}/{container.name}.{ending}", content)

    def _router_config(self) -> dict[str, object]:
        service, router = self.service, self.service.router
        assert router is not None
        config: dict[str, object] = {
            "listen": {"host": router.address, "port": router.port},
            "model": service.replicas[0].served_name,
            "backends": [
                {"name": f"replica-{number}", "url": api_url(replica.address, replica.port)}
                for number, replica in enumerate(service.replicas)
            ],
        }
        if _secret_sources(service, None):
            config["key_env"] = KEY_VARIABLE
        return config

    @cached_property
    def _digests(self) -> Mapping[tuple[str, str], str]:
        """Host and file name → hash of the content."""
        return {
            (file.host, file.name): hashlib.sha256(file.content).hexdigest() for file in self.files
        }

    def _hash(self, container: Container) -> str:
        """Return the hash of a container, its own files, and those that all of the host share."""
        files = {
            file.name: self._digests[file.host, file.name]
            for file in self.files_by_host[container.host]
            if file.name.startswith(f"{container.name}.") or not file.name.startswith("ropeway-")
        }
        text = json.dumps([asdict(container), files], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _secret_sources(service: Service, replica: Replica | None) -> Mapping[str, str | None]:
    """Return the secrets of a replica's containers, or (None) of the router's."""
    serve = service.spec.serve
    sources: dict[str, str | None] = {}
    if serve.api_key_env:
        sources[KEY_VARIABLE] = serve.api_key_env
    if replica is not None:
        sources |= {name: name for name in serve.secret_env}
        if replica.environment(replica.head).get("RAY_AUTH_MODE") == "token":
            sources["RAY_AUTH_TOKEN"] = None
    return sources


def container_name(service: str, replica: int | None, node_rank: int = 0) -> str:
    """Return the name of the container of one host of a replica, or (None) of the router."""
    return f"ropeway-{service}-" + ("router" if replica is None else f"{replica}-{node_rank}")


def mount_of(text: str) -> Mount:
    """Read a mount of the spec: `/data`, `/data:/models`, `/data:ro`, `/data:/models:ro`."""
    parts = text.split(":")
    read_only = parts[-1] == "ro"
    paths = parts[:-1] if parts[-1] in ("ro", "rw") else parts
    return Mount(paths[0], paths[-1], read_only)


def is_container_of(service: str, name: str) -> bool:
    """Return whether `container_name` gives a container of this service this name."""
    return re.fullmatch(rf"ropeway-{re.escape(service)}-(?:router|\d+-\d+)", name) is not None

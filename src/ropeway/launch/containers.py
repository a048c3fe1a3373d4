"""From a complete service to its containers and the files beside them, host by host. Pure."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from ropeway.engines.base import Replica
from ropeway.engines.vllm import KEY_VARIABLE
from ropeway.facts.ascend.driver import FILES, MANAGERS
from ropeway.launch.docker import Container, Mount
from ropeway.launch.programs import NAMES, program
from ropeway.launch.scripts import FOLDER, meeting_port, router_script, script_of, url_of
from ropeway.launch.service import Router, Service, Site
from ropeway.router.archive import archive

HEAD, WORKER, FOLLOWER, ROUTER = "head", "worker", "follower", "router"

# Ray's object store and vLLM's messages between ranks live there: 16 GiB was too little for a large
# model (gpustack #5014), and a configuration that worked had 64 GB (vllm-ascend #5949). It is a
# limit, not a reservation.
_SHM = 64 * 2**30


@dataclass(frozen=True)
class File:
    """A file of ours on a host; it holds no secret."""

    host: str
    path: str
    content: bytes


def containers(service: Service) -> tuple[Container, ...]:
    """All of them, heads before those who look for them, the router last."""
    engines = (
        _engine(service, replica, number, rank)
        for number, replica in enumerate(service.replicas)
        for rank in range(len(replica.nodes))
    )
    return (*engines, *((_router(service),) if service.router else ()))


def files(service: Service) -> tuple[File, ...]:
    """The scripts and programs that the containers run, by host."""
    found = []
    for site in service.sites:
        folder = own_folder(service, site)
        found += [File(site.name, f"{folder}/{name}.py", program(name).encode()) for name in NAMES]
    for number, replica in enumerate(service.replicas):
        for rank, node in enumerate(replica.nodes):
            folder = own_folder(service, service.site(node.name))
            name = _name(service, number, rank)
            secrets = f"{name}.secrets" if secret_names(service, replica) else None
            text = script_of(replica, rank, secrets=secrets)
            found.append(File(node.name, f"{folder}/{name}.sh", text.encode()))
    if service.router:
        found += _router_files(service, service.router)
    return tuple(found)


def ports(service: Service) -> tuple[tuple[str, int, str], ...]:
    """Host, port, and what for: those that the service opens and others must leave to it."""
    found = []
    if service.router:
        found.append((service.router.host, service.router.port, "the endpoint"))
    for replica in service.replicas:
        head = replica.nodes[0].name
        found.append((head, replica.port, "the engine"))
        if replica.uses_ray:
            found.append((head, replica.ports.ray, "Ray"))
        elif len(replica.nodes) > 1:
            found.append((head, meeting_port(replica), "vLLM"))
    return tuple(found)


def own_folder(service: Service, site: Site) -> str:
    """The service's folder on a host. `down` removes it."""
    return f"{site.folder}/{service.name}"


def secret_names(service: Service, replica: Replica | None) -> Mapping[str, str]:
    """Variable of a container → the variable of ours whose value it gets, or "" for a word that
    nobody needs to know, and that is made up for each start.

    None stands for the router.
    """
    serve = service.spec.serve
    names: dict[str, str] = {}
    if serve.api_key_env:
        names[KEY_VARIABLE] = serve.api_key_env
    if replica is not None:
        names |= {name: name for name in serve.secret_env}
        if replica.environment(replica.head).get("RAY_AUTH_MODE") == "token":
            names["RAY_AUTH_TOKEN"] = ""
    return names


def hashes(service: Service) -> dict[str, str]:
    """Container → hash of all that it is and runs: equal ones need not be replaced."""
    by_host: dict[str, dict[str, str]] = {}
    for file in files(service):
        name = file.path.rpartition("/")[2]
        by_host.setdefault(file.host, {})[name] = hashlib.sha256(file.content).hexdigest()
    found = {}
    for one in containers(service):
        # Its own script; of the other files those that all containers of the host share.
        own = {
            name: content
            for name, content in by_host[one.host].items()
            if name.startswith(f"{one.name}.") or not name.startswith("ropeway-")
        }
        text = json.dumps([asdict(one), own], sort_keys=True)
        found[one.name] = hashlib.sha256(text.encode()).hexdigest()[:16]
    return found


def role_of(replica: Replica, rank: int) -> str:
    if rank == 0:
        return HEAD
    return WORKER if replica.uses_ray else FOLLOWER


def _name(service: Service, replica: int, rank: int) -> str:
    return f"ropeway-{service.name}-{replica}-{rank}"


def _engine(service: Service, replica: Replica, number: int, rank: int) -> Container:
    node = replica.nodes[rank]
    site = service.site(node.name)
    runtime = service.spec.runtime
    name = _name(service, number, rank)
    folder = own_folder(service, site)
    return Container(
        host=node.name,
        name=name,
        role=role_of(replica, rank),
        replica=number,
        rank=rank,
        image=service.image,
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
        ),
        shm=runtime.shm or _SHM,
        secrets=f"{folder}/{name}.secrets" if secret_names(service, replica) else None,
        privileged=runtime.privileged,
    )


def _router(service: Service) -> Container:
    """The router has no NPU, sees nothing but its own files, and may do nothing."""
    assert service.router is not None
    site = service.site(service.router.host)
    folder = own_folder(service, site)
    name = _router_name(service)
    return Container(
        host=site.name,
        name=name,
        role=ROUTER,
        replica=0,
        rank=0,
        image=service.image,
        argv=("bash", f"{FOLDER}/{name}.sh"),
        mounts=(Mount(folder, FOLDER, True),),
        secrets=f"{folder}/{name}.secrets" if secret_names(service, None) else None,
    )


def _router_files(service: Service, router: Router) -> list[File]:
    folder = own_folder(service, service.site(router.host))
    name = _router_name(service)
    secrets = f"{name}.secrets" if secret_names(service, None) else None
    config: dict[str, object] = {
        "listen": {"host": router.address, "port": router.port},
        "model": service.replicas[0].served_name,
        "backends": [
            {"name": f"replica-{number}", "url": url_of(replica)}
            for number, replica in enumerate(service.replicas)
        ],
    }
    if secrets:
        config["key_env"] = KEY_VARIABLE
    contents = {
        f"{name}.json": json.dumps(config, indent=2).encode(),
        f"{name}.pyz": archive(),
        f"{name}.sh": router_script(name, secrets=secrets).encode(),
    }
    return [File(router.host, f"{folder}/{key}", text) for key, text in contents.items()]


def _router_name(service: Service) -> str:
    return f"ropeway-{service.name}-router"


def mount_of(text: str) -> Mount:
    """`/data`, `/data:/models`, `/data:ro`, `/data:/models:ro`."""
    parts = text.split(":")
    read_only = parts[-1] == "ro"
    paths = parts[:-1] if parts[-1] in ("ro", "rw") else parts
    return Mount(paths[0], paths[-1], read_only)

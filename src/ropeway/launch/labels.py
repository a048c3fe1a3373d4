"""The only record of what runs: the labels of its containers, written and read back.

Whoever comes later, from another machine or as another user, reads them from any host and knows the
whole service. They hold no secret; anybody who may use the container engine can read them.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Generic, TypeVar

from ropeway import __version__
from ropeway.errors import HostError, Refused, RopewayError
from ropeway.facts.text import parse_int
from ropeway.hosts.base import Host
from ropeway.hosts.fleet import Hosts, run_on_all, told
from ropeway.launch.docker import Container, Runtime, in_utc
from ropeway.launch.lock import Author
from ropeway.launch.rollout import ROUTER, Rollout
from ropeway.phrases import phrase
from ropeway.spec.model import Spec
from ropeway.spec.types import api_url
from ropeway.units import counted

T = TypeVar("T")

SERVICE = "ropeway.service"
RUN = "ropeway.run"
HOST, ROLE, _REPLICA, _RANK = (f"ropeway.{key}" for key in ("host", "role", "replica", "rank"))
_HASH, _SPEC, _URL, _MODEL = (f"ropeway.{key}" for key in ("hash", "spec", "url", "model"))
_RELEASE, _DEVICES, FOLDER = (f"ropeway.{key}" for key in ("release", "devices", "folder"))
_PORTS, _ENDPOINT = "ropeway.ports", "ropeway.endpoint"
BY, SINCE, VERSION = (f"ropeway.{key}" for key in ("by", "since", "version"))


@dataclass(frozen=True)
class _Label(Generic[T]):
    """An attribute of a ServiceContainer: the label with this key, read; "" where it has none."""

    key: str
    read: Callable[[str], T]

    def __get__(self, container: "ServiceContainer", _owner: type) -> T:
        return self.read(container.labels.get(self.key, ""))


def _number(text: str) -> int:
    return parse_int(text) or 0


def _numbers(text: str) -> tuple[int, ...]:
    """Return the numbers between commas; anything else is passed over."""
    return tuple(number for word in text.split(",") if (number := parse_int(word)) is not None)


@dataclass(frozen=True)
class ServiceContainer:
    """A container of ours, as the container engine of its host describes it.

    host       the name of the host
    state      created, running, restarting, exited, dead, paused
    exit_code  of its last end
    restarts   how often the container engine has started it again
    started    RFC 3339, UTC
    endpoint   the API's base URL, of this container or of its head, as used inside the container
    folder     the service's folder on that host
    named      the host's name at the time of `up`
    devices    the NPUs that it holds: N of /dev/davinciN
    ports      those that the service has on that host
    """

    host: str
    id: str
    name: str
    state: str
    exit_code: int
    restarts: int
    started: str
    image: str
    labels: Mapping[str, str]

    service = _Label(SERVICE, str)
    run = _Label(RUN, str)
    named = _Label(HOST, str)
    role = _Label(ROLE, str)
    replica = _Label(_REPLICA, _number)
    node_rank = _Label(_RANK, _number)
    hash = _Label(_HASH, str)
    url = _Label(_URL, str)
    endpoint = _Label(_ENDPOINT, str)
    model = _Label(_MODEL, str)
    release = _Label(_RELEASE, str)
    folder = _Label(FOLDER, str)
    devices = _Label(_DEVICES, _numbers)
    ports = _Label(_PORTS, _numbers)

    @property
    def author(self) -> Author:
        return Author(self.labels.get(BY, ""), self.run, self.labels.get(SINCE, ""))

    @cached_property
    def spec(self) -> Spec:
        """The spec that it was started from. Raises HostError when the label cannot be read."""
        try:
            return Spec.model_validate_json(self.labels.get(_SPEC, ""), strict=False)
        except ValueError as error:
            raise HostError(
                phrase("the labels of `{name}` cannot be read", name=self.name),
                where=self.host,
                evidence=(str(error).splitlines()[0],),
                hint=phrase(
                    "was it started by a newer Ropeway ({version})?",
                    version=self.labels.get(VERSION, "?"),
                ),
            ) from error

    @property
    def unit(self) -> int | None:
        """What restarts as a whole: a replica, by its number, or the router (None)."""
        return None if self.role == ROUTER else self.replica

    @property
    def source(self) -> str:
        """`192.168.0.11 head`, with the replica's number where there are several."""
        number = f" {self.replica}" if self.replica else ""
        return f"{self.host} {self.role}{number}"

    def summary(self) -> dict[str, object]:
        """Return what tables and JSON show of it."""
        shown = (
            "host", "name", "role", "replica", "node_rank", "devices", "state", "exit_code",
            "restarts", "started", "image",
        )  # fmt: skip
        return {**{name: getattr(self, name) for name in shown}, "replica": self.unit}


def labels_of(rollout: Rollout, container: Container, author: Author) -> dict[str, str]:
    """Return all labels of a container that the author starts."""
    service = rollout.service
    replica = service.replicas[container.replica]
    router = service.router if container.role == ROUTER else None
    endpoint = router or replica
    devices = replica.nodes[container.node_rank].devices if container.devices else ()
    ports = [port.number for port in rollout.ports if port.host == container.host]
    return {
        SERVICE: service.name,
        RUN: author.run,
        HOST: container.host,
        ROLE: container.role,
        _REPLICA: str(container.replica),
        _RANK: str(container.node_rank),
        _HASH: rollout.hashes[container.name],
        _URL: service.url,
        _ENDPOINT: api_url(endpoint.address, endpoint.port),
        _MODEL: replica.served_name,
        _RELEASE: replica.release.name,
        _DEVICES: ",".join(map(str, devices)),
        FOLDER: service.folder_on(container.host),
        _PORTS: ",".join(map(str, ports)),
        BY: author.who,
        SINCE: author.since,
        VERSION: __version__,
        # Without spaces: Linux lets an argument be 128 KiB long, which many hosts come near to.
        _SPEC: json.dumps(service.spec.as_json(), ensure_ascii=False, separators=(",", ":")),
    }


def list_argv(
    runtime: Runtime, service: str | None = None, *, key: str = SERVICE
) -> tuple[str, ...]:
    """Print all containers of a service, or of all services, as a JSON list; ended ones too.

    key  the label that has the service's name
    """
    label = key if service is None else f"{key}={service}"
    inspect = f"{runtime} inspect --type container"
    script = f'ids=$("$@") || exit; [ -z "$ids" ] || {inspect} $ids'
    find = (runtime, "ps", "--all", "--quiet", "--no-trunc", "--filter", f"label={label}")
    return ("sh", "-c", script, "sh", *find)


def containers_on(
    host: Host, runtime: Runtime, service: str | None = None, *, key: str = SERVICE
) -> tuple[ServiceContainer, ...]:
    """Return our containers on a host, as `list_argv` has them.

    Raises HostError when it cannot be asked.
    """
    result = host.run(list_argv(runtime, service, key=key), timeout=60.0)
    result.check(phrase("`{command}` does not answer", command=runtime), where=host.name)
    return read_containers(result.stdout, host.name)


@dataclass(frozen=True)
class Reached:
    """Hosts, and what runs there of one service, or of all.

    name        the service; None for all, and when no service runs
    containers  by service, replica, node rank and host
    failures    hosts that did not answer
    """

    hosts: Hosts
    runtime: Runtime
    name: str | None
    containers: tuple[ServiceContainer, ...]
    failures: Mapping[str, RopewayError]

    @property
    def every(self) -> tuple[Host, ...]:
        return tuple(self.hosts.values())

    @property
    def answering(self) -> tuple[Host, ...]:
        return tuple(host for host in self.every if host.name not in self.failures)

    def nothing_runs(self, hint: str = "`ropeway status` shows what is") -> RopewayError:
        """Return the error of a verb for which no container is there, as far as is known."""
        if self.failures:
            subject = (
                phrase("whether `{name}` is running is not known", name=self.name)
                if self.name
                else phrase("whether anything is running is not known")
            )
            return HostError(
                phrase(
                    "{subject}: {n} of {hosts} did not answer", subject=subject,
                    n=len(self.failures), hosts=counted(len(self.hosts), "host"),
                ),
                evidence=told(self.failures),
                hint=next(iter(self.failures.values())).hint,
            )  # fmt: skip
        if self.name:
            return Refused(phrase("`{name}` is not running", name=self.name), hint=hint)
        return Refused(phrase("nothing is running"), hint=hint)

    def refreshed(self) -> "Reached":
        """Ask those again that answered: others may have changed what runs in the meantime."""
        again = look(self.answering, self.runtime, self.name)
        return replace(again, hosts=self.hosts, failures={**self.failures, **again.failures})


def newest(containers: Sequence[ServiceContainer]) -> ServiceContainer:
    """Return one that the last `up` started: what it kept has the labels of an earlier one."""
    return max(containers, key=lambda one: one.author.since)


def look(hosts: Sequence[Host], runtime: Runtime, service: str | None = None) -> Reached:
    """Ask all hosts what runs. A host that does not answer is among the failures."""
    outcomes = run_on_all(hosts, lambda host: containers_on(host, runtime, service))
    containers = [one for outcome in outcomes for one in outcome.result or ()]
    order = {host.name: number for number, host in enumerate(hosts)}
    containers.sort(
        key=lambda one: (one.service, one.replica, one.node_rank, order[one.host], one.name)
    )
    return Reached(
        {host.name: host for host in hosts},
        runtime,
        service,
        tuple(containers),
        {outcome.host.name: outcome.error for outcome in outcomes if outcome.error is not None},
    )


def read_containers(text: str, host: str) -> tuple[ServiceContainer, ...]:
    """Read what `list_argv` printed. Raises HostError when it cannot be read."""
    if not text.strip():
        return ()
    try:
        return tuple(_container(item, host) for item in json.loads(text))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise HostError(
            phrase("the container engine's answer cannot be read"),
            where=host,
            evidence=(f"{type(error).__name__}: {error}", text[:200]),
        ) from error


def _container(item: Mapping[str, object], host: str) -> ServiceContainer:
    state, config = _mapping(item["State"]), _mapping(item["Config"])
    return ServiceContainer(
        host=host,
        id=str(item["Id"]),
        name=str(item["Name"]).lstrip("/"),
        state=str(state["Status"]),
        exit_code=int(str(state.get("ExitCode") or 0)),
        restarts=int(str(item.get("RestartCount") or 0)),
        started=in_utc(str(state.get("StartedAt") or "")),
        image=str(config.get("Image") or item.get("Image") or ""),
        labels={str(key): str(value) for key, value in _mapping(config["Labels"]).items()},
    )


def _mapping(value: object) -> Mapping[str, object]:
    assert isinstance(value, Mapping)
    return value

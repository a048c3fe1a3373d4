"""The containers of a host: which run, which NPUs they hold, how they were started."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ropeway.facts.base import Output, Reading
from ropeway.facts.docker import ENGINES, engine_refusal
from ropeway.facts.images import environment_of, plain_id
from ropeway.facts.printed import (
    at,
    documents,
    flag_at,
    items_at,
    labels_at,
    printed,
    read_table,
    seen,
    text_at,
    texts_at,
    whole_at,
)

COMMANDS: Mapping[str, tuple[str, ...]] = {
    "docker-ps": ("docker", "ps", "-a", "--no-trunc", "--format", "{{json .}}"),
    # Of those that run; without any, nothing is printed.
    "docker-inspect": (
        "sh",
        "-c",
        "c=$(docker ps -q) || exit; [ -z \"$c\" ] || docker inspect --format '{{json .}}' $c",
    ),
}


@dataclass(frozen=True)
class Container:
    """One row of `docker ps`.

    state   `running`, `exited`, `created`, `paused`, `restarting`, `dead`; from `status` where
            the output has no column for it
    status  as printed: `Up 3 hours`, `Exited (137) 2 days ago`
    labels  None where the output does not show them
    mounts  the host's paths, or names of volumes; docker cuts them unless asked not to
    """

    id: str
    name: str
    image: str
    state: str | None
    status: str | None
    command: str | None = None
    created: str | None = None
    labels: Mapping[str, str] | None = None
    mounts: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    ports: str | None = None


@dataclass(frozen=True)
class Containers:
    """In the order of the output; there may be none."""

    containers: tuple[Container, ...]


@dataclass(frozen=True)
class Mount:
    """A part of the host that the container sees; `writable` for the container."""

    source: str
    destination: str
    writable: bool | None


@dataclass(frozen=True)
class Device:
    """A device of the host in the container: `/dev/davinci3`."""

    host_path: str
    container_path: str


@dataclass(frozen=True)
class Ulimit:
    """A limit that was set for the container; -1 is none."""

    name: str
    soft: int
    hard: int


@dataclass(frozen=True)
class ContainerDetails:
    """What `docker inspect` says of one container.

    npus            numbers N of the /dev/davinciN of the host that were given to it; empty for a
                    privileged container, which has them all
    shm_bytes       size of its /dev/shm; with ipc_mode `host` it is the host's
    environment     variables about versions, devices and networks
    error           why it could not start; "" where it could
    """

    id: str
    name: str
    image: str | None
    image_id: str | None
    state: str | None
    pid: int | None
    exit_code: int | None
    error: str | None
    out_of_memory: bool | None
    started_at: str | None
    restart_policy: str | None
    network_mode: str | None
    ipc_mode: str | None
    pid_mode: str | None
    privileged: bool | None
    runtime: str | None
    shm_bytes: int | None
    memory_limit_bytes: int | None
    npus: tuple[int, ...]
    devices: tuple[Device, ...]
    mounts: tuple[Mount, ...]
    ulimits: tuple[Ulimit, ...]
    added_capabilities: tuple[str, ...]
    labels: Mapping[str, str]
    environment: Mapping[str, str]
    command: tuple[str, ...]


@dataclass(frozen=True)
class Inspection:
    """Every container that was asked for and is there; none when none runs."""

    containers: tuple[ContainerDetails, ...]


def parse_ps(text: str) -> Reading[Containers]:
    """Read `docker ps`: JSON lines or the table; also podman and nerdctl.

    No output: no container.
    """
    if not text.strip():
        return Reading.of(Containers(()))
    found = documents(text, *ENGINES)
    objects = [
        item for value in found.values for item in (value if isinstance(value, list) else [value])
    ]
    containers = [container for item in objects if (container := _json_container(item))]
    if containers or (found.values and not objects):
        return Reading.of(Containers(tuple(containers)), found.unread, cut=found.cut)
    out = printed(text, *ENGINES)
    table, unread = read_table(out.lines, ("CONTAINER ID",))
    if table is None:
        return engine_refusal(text)
    rows = [row for row in table if _ID.fullmatch(row.get("CONTAINER ID", ""))]
    return Reading.of(Containers(tuple(map(_table_container, rows))), unread, cut=out.cut)


def parse_inspect(text: str) -> Reading[Inspection]:
    """Read `docker inspect` of containers, one JSON value or one a line. No output: none runs."""
    if not text.strip():
        return Reading.of(Inspection(()))
    found = documents(text, *ENGINES)
    containers = [
        details
        for value in found.values
        for item in (value if isinstance(value, list) else [value])
        if (details := _details(item))
    ]
    if not containers:
        return engine_refusal(text)
    return Reading.of(Inspection(tuple(containers)), found.unread, cut=found.cut)


def _json_container(item: object) -> Container | None:
    """docker and nerdctl print texts; podman lists and objects."""
    identity = text_at(item, "ID") or text_at(item, "Id")
    image = text_at(item, "Image")
    if not identity or image is None:
        return None
    names = texts_at(item, "Names")
    status = text_at(item, "Status")
    command = text_at(item, "Command") or " ".join(texts_at(item, "Command"))
    labels = at(item, "Labels")
    return Container(
        id=identity,
        name=names[0] if names else text_at(item, "Names") or "",
        image=image,
        state=text_at(item, "State") or _state(status),
        status=status,
        command=command.strip('"') or None,
        created=text_at(item, "CreatedAt"),
        labels=_labels(labels) if isinstance(labels, str) else labels_at(item, "Labels"),
        mounts=texts_at(item, "Mounts") or _listed(text_at(item, "Mounts")),
        networks=texts_at(item, "Networks") or _listed(text_at(item, "Networks")),
        ports=text_at(item, "Ports"),
    )


def _table_container(row: Mapping[str, str]) -> Container:
    status = row.get("STATUS")
    return Container(
        id=row["CONTAINER ID"],
        name=row.get("NAMES", ""),
        image=row.get("IMAGE", ""),
        state=_state(status),
        status=status,
        command=row.get("COMMAND", "").strip('"“”') or None,
        created=row.get("CREATED"),
        ports=row.get("PORTS"),
    )


def _details(item: object) -> ContainerDetails | None:
    identity, host = text_at(item, "Id"), at(item, "HostConfig")
    if not identity or not isinstance(host, Mapping):
        return None
    devices = _devices(item)
    image_id = text_at(item, "Image")
    started = text_at(item, "State", "StartedAt") or ""
    return ContainerDetails(
        id=identity,
        name=(text_at(item, "Name") or "").removeprefix("/"),
        image=text_at(item, "ImageName") or text_at(item, "Config", "Image"),
        image_id=plain_id(image_id) if image_id else None,
        state=text_at(item, "State", "Status"),
        pid=whole_at(item, "State", "Pid") or None,
        exit_code=whole_at(item, "State", "ExitCode"),
        error=text_at(item, "State", "Error"),
        out_of_memory=flag_at(item, "State", "OOMKilled"),
        started_at=None if started.startswith("0001-") else started or None,
        restart_policy=text_at(host, "RestartPolicy", "Name"),
        network_mode=text_at(host, "NetworkMode"),
        ipc_mode=text_at(host, "IpcMode"),
        pid_mode=text_at(host, "PidMode"),
        privileged=flag_at(host, "Privileged"),
        runtime=text_at(host, "Runtime") or text_at(item, "OCIRuntime"),
        shm_bytes=whole_at(host, "ShmSize"),
        memory_limit_bytes=whole_at(host, "Memory") or None,
        npus=tuple(sorted({number for device in devices for number in _npus(device)})),
        devices=devices,
        mounts=_mounts(item),
        ulimits=tuple(limit for entry in items_at(host, "Ulimits") if (limit := _ulimit(entry))),
        added_capabilities=texts_at(host, "CapAdd"),
        labels=labels_at(item, "Config", "Labels"),
        environment=environment_of(texts_at(item, "Config", "Env")),
        command=texts_at(item, "Config", "Cmd"),
    )


def _devices(item: object) -> tuple[Device, ...]:
    return tuple(
        Device(host_path, text_at(entry, "PathInContainer") or host_path)
        for entry in items_at(item, "HostConfig", "Devices")
        if (host_path := text_at(entry, "PathOnHost"))
    )


def _npus(device: Device) -> list[int]:
    """The number in the host's path; a rehearsal gives another device under that name."""
    found = _DAVINCI.fullmatch(device.host_path) or _DAVINCI.fullmatch(device.container_path)
    return [int(found[1])] if found else []


def _mounts(item: object) -> tuple[Mount, ...]:
    return tuple(
        Mount(
            text_at(entry, "Source") or text_at(entry, "Name") or "",
            destination,
            flag_at(entry, "RW"),
        )
        for entry in items_at(item, "Mounts")
        if (destination := text_at(entry, "Destination"))
    )


def _ulimit(entry: object) -> Ulimit | None:
    name, soft, hard = text_at(entry, "Name"), whole_at(entry, "Soft"), whole_at(entry, "Hard")
    if name is None or soft is None or hard is None:
        return None
    return Ulimit(name.removeprefix("RLIMIT_").lower(), soft, hard)


def _labels(text: str) -> dict[str, str]:
    """`a=1,b=2` as docker joins them: a piece without `=` belongs to the value before it."""
    found: dict[str, str] = {}
    last = ""
    for piece in text.split(","):
        name, equals, value = piece.partition("=")
        if equals:
            last = name
            found[name] = value
        elif last:
            found[last] += f",{piece}"
    return found


def _listed(text: str | None) -> tuple[str, ...]:
    return tuple(part for part in text.split(",") if part) if text else ()


def _state(status: str | None) -> str | None:
    """`Up 2 hours (Paused)` → paused; `Exited (0) 3 days ago` → exited."""
    if not status:
        return None
    first = status.split()[0].lower()
    if first == "up":
        return "paused" if "(paused)" in status.lower() else "running"
    return first if first in _STATES else None


_STATES = frozenset(("created", "exited", "restarting", "dead", "removing", "paused", "stopped"))
_DAVINCI = re.compile(r"/dev/davinci([0-9]{1,4})")
_ID = re.compile(r"[0-9a-f]{12,64}")

_TABLE_LINE = re.compile(r"^[> \t]*CONTAINER ID +IMAGE +COMMAND", re.MULTILINE)
_JSON_LINE = re.compile(r"\"(?:RunningFor|LocalVolumes|PodName|AutoRemove)\" ?:")
_JSON_MORE = re.compile(r"\"(?:Command|Names)\" ?:")
_INSPECT_LINE = re.compile(r"\"(?:ResolvConfPath|HostnamePath|HostConfig)\" ?:")

OUTPUTS: tuple[Output[Any], ...] = (
    Output(
        "docker-ps",
        "docker ps -a --no-trunc --format '{{json .}}'",
        parse_ps,
        lambda text: (
            seen(text, 0.95, _TABLE_LINE)
            or (
                0.0
                if _INSPECT_LINE.search(text[:20_000])
                else seen(text, 0.9, _JSON_LINE, _JSON_MORE)
            )
        ),
    ),
    Output(
        "docker-inspect",
        "docker inspect CONTAINER",
        parse_inspect,
        lambda text: seen(text, 0.95, _INSPECT_LINE),
    ),
)

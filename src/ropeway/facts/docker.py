"""The container engine of a host: Docker, or podman or nerdctl in its place."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ropeway.facts.base import ErrorKind, Output, Reading, ToolError
from ropeway.facts.printed import (
    Documents,
    at,
    documents,
    items_at,
    line_at,
    printed,
    refusal,
    seen,
    text_at,
    texts_at,
    whole,
    whole_at,
)
from ropeway.units import parse_bytes

COMMANDS: Mapping[str, tuple[str, ...]] = {
    "docker-version": ("docker", "version", "--format", "{{json .}}"),
    "docker-info": ("docker", "info", "--format", "{{json .}}"),
}

ENGINES = ("docker", "podman", "nerdctl")

# Docker, its client from 29 on, podman and nerdctl; the daemon is away, or not for us.
_DAEMON: tuple[tuple[ErrorKind, re.Pattern[str]], ...] = (
    (
        "denied",
        re.compile(
            r"permission denied while trying to connect|dial unix \S{1,200}: connect: permission"
            r" denied",
            re.IGNORECASE,
        ),
    ),
    (
        "failed",
        re.compile(
            r"cannot connect to (?:the docker daemon|podman)|is the docker daemon running"
            r"|failed to connect to the docker api|error during connect"
            r"|rootless containerd not running|cannot access containerd socket"
            r"|failed to dial \S{1,200}containerd|unable to connect to podman",
            re.IGNORECASE,
        ),
    ),
    (
        "failed",
        re.compile(r"client version \S{1,20} is too (?:new|old)|error response from daemon", re.I),
    ),
)


@dataclass(frozen=True)
class Part:
    """A program that the engine uses: `containerd`, `runc`, …"""

    name: str
    version: str


@dataclass(frozen=True)
class EngineVersion:
    """Versions of the engine.

    engine          docker, podman or nerdctl
    server_version  None where the daemon did not answer; podman has no daemon and gives its own
    platform        `linux/arm64`
    """

    engine: str
    client_version: str | None
    server_version: str | None
    api_version: str | None = None
    min_api_version: str | None = None
    platform: str | None = None
    edition: str | None = None
    kernel: str | None = None
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True)
class Runtime:
    """An OCI runtime; Ascend's is called `ascend` and lies at …/ascend-docker-runtime."""

    name: str
    path: str | None = None


@dataclass(frozen=True)
class EngineInfo:
    """What `docker info` says of the daemon and its host.

    root_dir      where images and containers lie; its file system must have room for them
    memory_bytes  rounded where it comes from the text form
    """

    server_version: str | None
    storage_driver: str | None
    root_dir: str | None
    cgroup_driver: str | None
    cgroup_version: str | None
    default_runtime: str | None
    runtimes: tuple[Runtime, ...]
    containers: int | None = None
    running: int | None = None
    images: int | None = None
    cpus: int | None = None
    memory_bytes: int | None = None
    architecture: str | None = None
    operating_system: str | None = None
    kernel: str | None = None
    hostname: str | None = None
    registry_mirrors: tuple[str, ...] = ()
    insecure_registries: tuple[str, ...] = ()
    security_options: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def for_engine(argv: tuple[str, ...], engine: str) -> tuple[str, ...]:
    """The same question to another engine of ENGINES."""
    return (engine, *argv[1:])


def daemon_error(text: str) -> ToolError | None:
    """What the client says when the daemon does not answer it; None where it says no such thing."""
    for kind, pattern in _DAEMON:
        found = pattern.search(text)
        if found:
            return ToolError(kind, line_at(text, found.start()))
    return None


def engine_refusal(text: str) -> Reading[Any]:
    """A reading of a text that has no value: no daemon, no such object, no such program."""
    if _NO_OBJECT.search(text[:20_000]):
        return Reading.absent(text)
    error = daemon_error(text[:20_000])
    return Reading.failed(error, text) if error else refusal(text)


def parse_version(text: str) -> Reading[EngineVersion]:
    """Read `docker version`, as text or JSON.

    When the daemon does not answer, the reading is its error, with the client's version as value.
    """
    found: Documents = documents(text, *ENGINES)
    for document in found.values:
        value = _json_version(document)
        if value:
            return _judged(text, value, found.unread, found.cut)
    out = printed(text, *ENGINES)
    sections, unread = _outline(out.lines)
    value = _text_version(sections)
    return _judged(text, value, tuple(unread), out.cut) if value else engine_refusal(text)


def parse_info(text: str) -> Reading[EngineInfo]:
    """Read `docker info`, as text or JSON."""
    found = documents(text, *ENGINES)
    errors = [said for document in found.values for said in texts_at(document, "ServerErrors")]
    error = daemon_error("\n".join(errors) or text[:20_000])
    if error:
        return Reading.failed(error, text)
    for document in found.values:
        value = _json_info(document) or _podman_info(document)
        if value:
            return Reading.of(value, found.unread, cut=found.cut)
    out = printed(text, *ENGINES)
    sections, unread = _outline(out.lines)
    value = _text_info(sections) or _podman_text(sections)
    if not value:
        return engine_refusal(text)
    warnings = tuple(line.strip() for line in unread if line.lstrip().startswith("WARNING"))
    rest = tuple(line for line in unread if line.strip() not in warnings)
    cut = out.cut or value.server_version is None
    return Reading.of(replace(value, warnings=warnings), rest, cut=cut)


def _judged(
    text: str, value: EngineVersion, unread: tuple[str, ...], cut: bool
) -> Reading[EngineVersion]:
    error = daemon_error(text[:20_000])
    if error and value.server_version is None:
        return Reading("error", value, error, text=text[:4_000])
    return Reading.of(value, unread, cut=cut or value.server_version is None)


def _json_version(document: object) -> EngineVersion | None:
    client, server = at(document, "Client"), at(document, "Server")
    if not isinstance(client, Mapping):
        return None
    podman = "OsArch" in client
    parts = [
        Part(name, version)
        for item in items_at(server, "Components") or items_at(client, "Components")
        if (name := text_at(item, "Name")) and (version := text_at(item, "Version"))
        if name != "Engine"
    ]
    # nerdctl names containerd alone as its server.
    server_version = text_at(server, "Version") or next(
        (text_at(item, "Version") for item in items_at(server, "Components")), None
    )
    known = server if isinstance(server, Mapping) else client
    system, architecture = (
        text_at(server, part) or text_at(client, part) for part in ("Os", "Arch")
    )
    return EngineVersion(
        engine="podman" if podman else "docker" if "ApiVersion" in client else "nerdctl",
        client_version=text_at(client, "Version"),
        server_version=server_version or (text_at(client, "Version") if podman else None),
        api_version=text_at(server, "ApiVersion") or text_at(client, "ApiVersion"),
        min_api_version=text_at(server, "MinAPIVersion"),
        platform=text_at(known, "OsArch")
        or (f"{system}/{architecture}" if system and architecture else None),
        edition=text_at(server, "Platform", "Name"),
        kernel=text_at(server, "KernelVersion"),
        parts=tuple(parts),
    )


def _text_version(sections: Mapping[str, str]) -> EngineVersion | None:
    """From `Client` and `Server` with indented keys; podman's client stands alone, unindented."""
    client = sections.get("client/version")
    podman = "podman" in sections.get("client", "").lower()
    if podman and client is None:
        client = sections.get("version")
    server = (
        sections.get("server/engine/version")
        or sections.get("server/version")  # before 18.09
        or sections.get("server/containerd/version" if "server/containerd" in sections else "-")
    )
    if client is None and server is None:
        return None
    api = (
        sections.get("server/engine/api version")
        or sections.get("client/api version")
        or sections.get("api version")
        or ""
    )
    minimum = _MINIMUM.search(api)
    parts = [
        Part(key.split("/")[1], version)
        for key, version in sections.items()
        if key.startswith("server/") and key.endswith("/version") and key.count("/") == 2
        if key != "server/engine/version"
    ]
    nerdctl = "server/containerd/version" in sections and "server/engine/version" not in sections
    return EngineVersion(
        engine="podman" if podman else "nerdctl" if nerdctl else "docker",
        client_version=client,
        server_version=client if podman else server,
        api_version=api.split()[0] if api.split() else None,
        min_api_version=minimum[1] if minimum else None,
        platform=sections.get("server/engine/os/arch")
        or sections.get("client/os/arch")
        or sections.get("os/arch"),
        edition=sections.get("server") or sections.get("client") or None,
        parts=tuple(parts),
    )


def _json_info(document: object) -> EngineInfo | None:
    if not text_at(document, "ServerVersion"):
        return None
    runtimes = at(document, "Runtimes")
    named = runtimes if isinstance(runtimes, Mapping) else {}
    return EngineInfo(
        server_version=text_at(document, "ServerVersion"),
        storage_driver=text_at(document, "Driver"),
        root_dir=text_at(document, "DockerRootDir"),
        cgroup_driver=text_at(document, "CgroupDriver"),
        cgroup_version=text_at(document, "CgroupVersion"),
        default_runtime=text_at(document, "DefaultRuntime"),
        runtimes=tuple(Runtime(str(name), text_at(named[name], "path")) for name in sorted(named)),
        containers=whole_at(document, "Containers"),
        running=whole_at(document, "ContainersRunning"),
        images=whole_at(document, "Images"),
        cpus=whole_at(document, "NCPU"),
        memory_bytes=whole_at(document, "MemTotal"),
        architecture=text_at(document, "Architecture"),
        operating_system=text_at(document, "OperatingSystem"),
        kernel=text_at(document, "KernelVersion"),
        hostname=text_at(document, "Name"),
        registry_mirrors=texts_at(document, "RegistryConfig", "Mirrors"),
        insecure_registries=texts_at(document, "RegistryConfig", "InsecureRegistryCIDRs"),
        security_options=tuple(
            option.removeprefix("name=").partition(",")[0]
            for option in texts_at(document, "SecurityOptions")
        ),
        warnings=texts_at(document, "Warnings"),
    )


def _podman_info(document: object) -> EngineInfo | None:
    host, store = at(document, "host"), at(document, "store")
    if not isinstance(host, Mapping) or not isinstance(store, Mapping):
        return None
    runtime = text_at(host, "ociRuntime", "name")
    return EngineInfo(
        server_version=text_at(document, "version", "Version"),
        storage_driver=text_at(store, "graphDriverName"),
        root_dir=text_at(store, "graphRoot"),
        cgroup_driver=text_at(host, "cgroupManager"),
        cgroup_version=(text_at(host, "cgroupVersion") or "").removeprefix("v") or None,
        default_runtime=runtime,
        runtimes=(Runtime(runtime, text_at(host, "ociRuntime", "path")),) if runtime else (),
        containers=whole_at(store, "containerStore", "number"),
        running=whole_at(store, "containerStore", "running"),
        images=whole_at(store, "imageStore", "number"),
        cpus=whole_at(host, "cpus"),
        memory_bytes=whole_at(host, "memTotal"),
        architecture=text_at(host, "arch"),
        operating_system=text_at(host, "distribution", "distribution"),
        kernel=text_at(host, "kernel"),
        hostname=text_at(host, "hostname"),
    )


def _text_info(sections: Mapping[str, str]) -> EngineInfo | None:
    # Since 19.03 all of it stands under `Server:`; before that, under nothing.
    found = {key.removeprefix("server/"): value for key, value in sections.items()}
    if not found.keys() & {"server version", "storage driver", "default runtime"}:
        return None
    runtimes = found.get("runtimes", "").split()
    return EngineInfo(
        server_version=found.get("server version"),
        storage_driver=found.get("storage driver"),
        root_dir=found.get("docker root dir"),
        cgroup_driver=found.get("cgroup driver"),
        cgroup_version=found.get("cgroup version"),
        default_runtime=found.get("default runtime"),
        runtimes=tuple(Runtime(name) for name in sorted(runtimes)),
        containers=whole(found.get("containers", "")),
        running=whole(found.get("containers/running", "")),
        images=whole(found.get("images", "")),
        cpus=whole(found.get("cpus", "")),
        memory_bytes=_bytes(found.get("total memory", "")),
        architecture=found.get("architecture"),
        operating_system=found.get("operating system"),
        kernel=found.get("kernel version"),
        hostname=found.get("name"),
        registry_mirrors=tuple(found.get("registry mirrors/", "").split()),
        insecure_registries=tuple(found.get("insecure registries/", "").split()),
        security_options=tuple(found.get("security options/", "").split()),
    )


def _podman_text(found: Mapping[str, str]) -> EngineInfo | None:
    """`podman info` prints YAML; the keys are those of its JSON."""
    if "store/graphroot" not in found:
        return None
    runtime = found.get("host/ociruntime/name")
    return EngineInfo(
        server_version=found.get("version/version"),
        storage_driver=found.get("store/graphdrivername"),
        root_dir=found.get("store/graphroot"),
        cgroup_driver=found.get("host/cgroupmanager"),
        cgroup_version=found.get("host/cgroupversion", "").removeprefix("v") or None,
        default_runtime=runtime,
        runtimes=(Runtime(runtime, found.get("host/ociruntime/path")),) if runtime else (),
        containers=whole(found.get("store/containerstore/number", "")),
        running=whole(found.get("store/containerstore/running", "")),
        images=whole(found.get("store/imagestore/number", "")),
        cpus=whole(found.get("host/cpus", "")),
        memory_bytes=whole(found.get("host/memtotal", "")),
        architecture=found.get("host/arch"),
        operating_system=found.get("host/distribution/distribution"),
        kernel=found.get("host/kernel"),
        hostname=found.get("host/hostname"),
    )


def _outline(lines: tuple[str, ...]) -> tuple[dict[str, str], list[str]]:
    """`Key: value` lines as `outer/inner` in lower case → value, nested by their indentation.

    Indented lines without a colon are items of the key above: collected under its path with a `/`
    behind it. Returns also the lines that are neither.
    """
    found: dict[str, str] = {}
    unread: list[str] = []
    path: list[tuple[int, str]] = []
    for line in lines:
        depth = len(line) - len(line.lstrip())
        key, colon, value = line.strip().partition(":")
        named = colon and (not value or value[0] in " \t") and len(key) <= 60
        if line.lstrip().startswith(("WARNING", "ERROR", "errors ", "Error")):
            unread.append(line)
            continue
        while path and path[-1][0] >= depth:
            path.pop()
        if named and len(path) < _DEEPEST:
            path.append((depth, key.strip().lower()))
            found.setdefault("/".join(name for _, name in path), value.strip())
        elif path:
            place = "/".join(name for _, name in path) + "/"
            found[place] = f"{found.get(place, '')} {line.strip()}".strip()[:4_000]
        else:
            unread.append(line)
    return found, unread


def _bytes(text: str) -> int | None:
    try:
        return parse_bytes(text[:40]) if text else None
    except ValueError:
        return None


_DEEPEST = 6
_MINIMUM = re.compile(r"minimum version ([0-9.]{1,12})")
_NO_OBJECT = re.compile(
    r"no such (?:image|object|container)|image not known|reference does not exist",
    re.IGNORECASE,
)

_VERSION_TEXT = re.compile(r"^[> \t]*Client:", re.MULTILINE)
_VERSION_MORE = re.compile(
    r"^[> \t]*(?:API version|API Version|Go version|OS/Arch): ", re.MULTILINE
)
_VERSION_JSON = re.compile(r"\{\s*\"Client\" ?: ?\{")
_INFO_TEXT = re.compile(
    r"^[> \t]*(?:Server Version|Default Runtime): \S|^[> \t]*graphDriverName: ", re.MULTILINE
)
_INFO_JSON = re.compile(r"\"(?:ContainersRunning|graphDriverName|ServerErrors)\" ?:")

OUTPUTS: tuple[Output[Any], ...] = (
    Output(
        "docker-version",
        "docker version --format '{{json .}}'",
        parse_version,
        lambda text: (
            seen(text, 0.95, _VERSION_TEXT, _VERSION_MORE) or seen(text, 0.95, _VERSION_JSON)
        ),
    ),
    Output(
        "docker-info",
        "docker info --format '{{json .}}'",
        parse_info,
        lambda text: (
            seen(text, 0.95, _INFO_TEXT)
            or seen(text, 0.95, _INFO_JSON)
            or (0.4 if daemon_error(text[:20_000]) else 0.0)
        ),
    ),
)

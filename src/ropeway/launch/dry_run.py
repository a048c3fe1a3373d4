"""A service as shell commands, host by host: to read, and to paste where `up` cannot reach."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ropeway.hosts.base import Command, shell_block, shell_file, shell_line
from ropeway.launch import docker
from ropeway.launch.containers import (
    HEAD,
    File,
    containers,
    files,
    hashes,
    own_folder,
    secret_names,
)
from ropeway.launch.docker import Container
from ropeway.launch.image import derive_argvs, mirrored
from ropeway.launch.labels import Author, labels_of
from ropeway.launch.programs import NAMES, program
from ropeway.launch.service import Service, Site

EVERY_HOST = "# ---- on every host: the programs that containers call"
_PROGRAMS = frozenset(f"{name}.py" for name in NAMES)


@dataclass(frozen=True)
class _Parts:
    """What goes onto all hosts, made once: with each host anew, a thousand hosts take minutes."""

    containers: Sequence[Container]
    files: Sequence[File]
    hashes: Mapping[str, str]


def dry_run(service: Service, base: str, author: Author) -> str:
    """All commands. `base` is the image that `service.image` is derived from, or that itself."""
    replica = service.replicas[0]
    many = f"{len(service.replicas)} replicas of " if len(service.replicas) > 1 else ""
    hosts = "1 host" if len(service.sites) == 1 else f"{len(service.sites)} hosts"
    lines = [
        "#!/bin/bash",
        f"# {many}{replica.layout} of {replica.served_name} on {hosts},"
        f" with vLLM-Ascend {replica.release.version}",
        *(f"# assumed: {text}" for text in service.assumed),
        *(f"# note: {text}" for text in service.notes),
    ]
    lines += ["# first of all, on every host: what stands at the end"]
    parts = _Parts(containers(service), files(service), hashes(service))
    for site in service.sites:
        lines += _on_host(service, site, base, parts, author)
    lines += _afterwards(service)
    for folder in dict.fromkeys(own_folder(service, site) for site in service.sites):
        lines += ["", EVERY_HOST]
        lines.append(_line("mkdir", "-p", "-m", "700", "--", folder))
        lines += [shell_file(f"{folder}/{name}.py", program(name)) for name in NAMES]
    return "\n".join(lines)


def _afterwards(service: Service) -> list[str]:
    every = containers(service)
    lines = ["", "# it is up when the head's log says `ropeway: the first token is there`:"]
    for one in every:
        if one.role == HEAD:
            follow = docker.logs_argv(_command(service), one.name, follow=True)
            lines.append(f"#   {_line(*follow)}   # on {one.host}")
    if service.spec.serve.restart and docker.restarts_later(_command(service)):
        lines.append("# from then on the container engine is to restart it:")
        for site in service.sites:
            names = [one.name for one in every if one.host == site.name]
            let = docker.restart_argv(_command(service), names, "unless-stopped")
            lines.append(f"#   {_line(*let)}   # on {site.name}")
    return lines


def _line(*argv: str) -> str:
    return shell_line(Command(argv))


def _command(service: Service) -> docker.Runtime:
    return service.spec.runtime.command


def _on_host(service: Service, site: Site, base: str, parts: _Parts, author: Author) -> list[str]:
    folder = own_folder(service, site)
    lines = [
        "",
        f"# ---- on {site.name}" + f" ({site.node.address})" * (site.node.address != site.name),
        *_image(service, base),
        _line("mkdir", "-p", "-m", "700", "--", folder, site.cache),
    ]
    for file in parts.files:
        if file.host == site.name and file.path.rpartition("/")[2] not in _PROGRAMS:
            lines.append(_file(file.path, file.content))
    for one in parts.containers:
        if one.host == site.name:
            lines += _secrets(service, one)
            labels = labels_of(service, one, author, parts.hashes[one.name], folder)
            restart = service.spec.serve.restart
            run = docker.run_argv(_command(service), one, labels, restart=restart)
            lines += ["", f"# the {one.role}", shell_block(Command(run))]
    return lines


def _image(service: Service, base: str) -> list[str]:
    spec = service.spec.runtime
    command = spec.command
    source = mirrored(base, spec.mirror)
    if spec.archive:
        argvs = [docker.load_argv(command, spec.archive)]
    elif source == base:
        argvs = [docker.pull_argv(command, base)]
    else:
        argvs = [docker.pull_argv(command, source), docker.tag_argv(command, source, base)]
    has = _line(*docker.image_argv(command, base))
    lines = [f"{has} >/dev/null 2>&1 || {' && '.join(_line(*argv) for argv in argvs)}"]
    if service.image != base:
        made = derive_argvs(command, base, service.image, spec)
        lines += [_line(*argv) for argv in made]
    return lines


def _file(path: str, content: bytes) -> str:
    try:
        return shell_file(path, content.decode())
    except UnicodeDecodeError:
        text = base64.encodebytes(content).decode()
        return f"{shell_file(f'{path}.b64', text)}\n" + _line(
            "sh", "-c", 'base64 -d "$1.b64" >"$1" && rm "$1.b64"', "sh", path
        )


def _secrets(service: Service, one: Container) -> list[str]:
    """The values come from variables of whoever pastes it."""
    if one.secrets is None:
        return []
    replica = None if one.role == "router" else service.replicas[one.replica]
    lines = []
    for name, source in secret_names(service, replica).items():
        value = f'"${{{source}:?}}"' if source else '"${ROPEWAY_WORD:?a word of your own}"'
        lines.append(f"  printf 'export {name}=%q\\n' {value}")
    file = _line(one.secrets)
    return ["(umask 077; {\n" + "\n".join(lines) + f"\n}} >{file})"]

"""A service as shell commands, host by host: to read, and to paste where `up` cannot reach."""

import base64
import shlex
from collections.abc import Iterable, Iterator

from ropeway.hosts.base import shell_block, shell_file
from ropeway.launch import docker
from ropeway.launch.container_start import restart_policies, run_argv
from ropeway.launch.docker import Container
from ropeway.launch.images import derive_argvs, fetch_argvs
from ropeway.launch.lock import Author
from ropeway.launch.programs import NAMES, program
from ropeway.launch.rollout import HEAD, Rollout, Service, Site
from ropeway.units import counted

EVERY_HOST, ON_HOST = "---- first, on every host: the programs that containers call", "---- on "
_PROGRAMS = frozenset(f"{name}.py" for name in NAMES)


def shell_script(header: Iterable[str], blocks: Iterable[tuple[str, Iterable[str]]]) -> str:
    """Return a script that people read: comments, then blocks of commands below their titles."""
    lines = [f"# {line}" for line in header]
    for title, commands in blocks:
        lines += ["", f"# {title}", *commands]
    return "\n".join(lines)


def dry_run(rollout: Rollout, base: str, author: Author) -> str:
    """Return all commands. `base` is the service's image, or the one that it is derived from."""
    service = rollout.service
    replica = service.replicas[0]
    count = f"{len(service.replicas)} replicas of " if len(service.replicas) > 1 else ""
    header = [
        f"{count}{replica.layout} of {replica.served_name} on"
        f" {counted(len(service.sites), 'host')}, with vLLM-Ascend {replica.release.version}",
        *(f"assumed: {text}" for text in service.assumed),
        *(f"note: {text}" for text in service.notes),
    ]
    return f"#!/bin/bash\n{shell_script(header, _blocks(rollout, base, author))}"


def _blocks(rollout: Rollout, base: str, author: Author) -> Iterator[tuple[str, Iterable[str]]]:
    service = rollout.service
    for folder in dict.fromkeys(service.folder_on(site.name) for site in service.sites):
        programs = (shell_file(f"{folder}/{name}.py", program(name)) for name in NAMES)
        yield EVERY_HOST, (shlex.join(("mkdir", "-p", "-m", "700", "--", folder)), *programs)
    for site in service.sites:
        address = f" ({site.node.address})" if site.node.address != site.name else ""
        yield f"{ON_HOST}{site.name}{address}", _on_host(rollout, site, base, author)
    command = service.spec.runtime.command
    yield (
        "it is up when the head's log says `ropeway: the first token is there`:",
        (
            f"#   {shlex.join(argv)}   # on {head.host}"
            for head in rollout.containers
            if head.role == HEAD
            for argv in [docker.logs_argv(command, head.name, follow=True)]
        ),
    )
    if policies := restart_policies(service.spec, rollout.containers):
        lines = (f"#   {shlex.join(argv)}   # on {host}" for host, argv in policies.items())
        yield "from then on the container engine is to restart it:", lines


def _on_host(rollout: Rollout, site: Site, base: str, author: Author) -> list[str]:
    service = rollout.service
    lines = [
        *_image(service, base),
        shlex.join(("mkdir", "-p", "-m", "700", "--", service.folder_on(site.name), site.cache)),
    ]
    for file in rollout.files_by_host[site.name]:
        if file.name not in _PROGRAMS:
            lines.append(_file(file.path, file.content))
    for container in rollout.containers_by_host[site.name]:
        if container.secrets:
            lines.append(_secrets(service.folder_on(site.name), container))
        argv = run_argv(rollout, container, author)
        lines += ["", f"# the {container.role}", shell_block(argv)]
    return lines


def _image(service: Service, base: str) -> list[str]:
    """Return commands that bring the image where it is missing, and that derive one from it."""
    spec = service.spec.runtime
    command = spec.command
    present = shlex.join(docker.image_argv(command, base))
    fetch = " && ".join(map(shlex.join, fetch_argvs(base, spec)))
    lines = [f"{present} >/dev/null 2>&1 || {{ {fetch}; }}"]
    if service.image != base:
        lines += [shlex.join(argv) for argv in derive_argvs(command, base, service.image, spec)]
    return lines


def _file(path: str, content: bytes) -> str:
    try:
        return shell_file(path, content.decode())
    except UnicodeDecodeError:
        text = base64.encodebytes(content).decode()
        return f"{shell_file(f'{path}.b64', text)}\n" + shlex.join(
            ("sh", "-c", 'base64 -d "$1.b64" >"$1" && rm "$1.b64"', "sh", path)
        )


def _secrets(folder: str, container: Container) -> str:
    """Return the command that writes secrets, from variables of whoever pastes it."""
    lines = []
    for name, source in container.secrets.items():
        value = f'"${{{source}:?}}"' if source else '"${ROPEWAY_WORD:?a word of your own}"'
        lines.append(f"  printf 'export {name}=%q\\n' {value}")
    file = shlex.quote(f"{folder}/{container.name}.secrets")
    return "(umask 077; {\n" + "\n".join(lines) + f"\n}} >{file})"

"""A service as shell commands, host by host: to read, and to paste where `up` cannot reach."""

import base64

from ropeway.hosts.base import Command, shell_block, shell_file, shell_line
from ropeway.launch import docker
from ropeway.launch.author import Author
from ropeway.launch.docker import Container
from ropeway.launch.image import derive_argvs, mirrored
from ropeway.launch.labels import labels_of
from ropeway.launch.programs import NAMES, program
from ropeway.launch.rollout import HEAD, Rollout
from ropeway.launch.service import Service, Site

EVERY_HOST = "# ---- first, on every host: the programs that containers call"
ON_HOST = "\n# ---- on "
_PROGRAMS = frozenset(f"{name}.py" for name in NAMES)


def dry_run(rollout: Rollout, base: str, author: Author) -> str:
    """Return all commands. `base` is the service's image, or the one that it is derived from."""
    service = rollout.service
    replica = service.replicas[0]
    hosts = "1 host" if len(service.sites) == 1 else f"{len(service.sites)} hosts"
    count = f"{len(service.replicas)} replicas of " if len(service.replicas) > 1 else ""
    lines = [
        "#!/bin/bash",
        f"# {count}{replica.layout} of {replica.served_name} on {hosts},"
        f" with vLLM-Ascend {replica.release.version}",
        *(f"# assumed: {text}" for text in service.assumed),
        *(f"# note: {text}" for text in service.notes),
    ]
    for folder in dict.fromkeys(service.folder_on(site.name) for site in service.sites):
        lines += ["", EVERY_HOST, _line("mkdir", "-p", "-m", "700", "--", folder)]
        lines += [shell_file(f"{folder}/{name}.py", program(name)) for name in NAMES]
    for site in service.sites:
        lines += _on_host(rollout, site, base, author)
    return "\n".join([*lines, *_afterwards(rollout)])


def _afterwards(rollout: Rollout) -> list[str]:
    service = rollout.service
    command = service.spec.runtime.command
    lines = ["", "# it is up when the head's log says `ropeway: the first token is there`:"]
    for container in rollout.containers:
        if container.role == HEAD:
            follow = docker.logs_argv(command, container.name, follow=True)
            lines.append(f"#   {_line(*follow)}   # on {container.host}")
    if service.spec.serve.restart and docker.restarts_later(command):
        lines.append("# from then on the container engine is to restart it:")
        for site in service.sites:
            names = [container.name for container in rollout.containers_by_host[site.name]]
            argv = docker.set_restart_policy_argv(command, names, "unless-stopped")
            lines.append(f"#   {_line(*argv)}   # on {site.name}")
    return lines


def _line(*argv: str) -> str:
    return shell_line(Command(argv))


def _on_host(rollout: Rollout, site: Site, base: str, author: Author) -> list[str]:
    service = rollout.service
    address = f" ({site.node.address})" if site.node.address != site.name else ""
    lines = [
        f"{ON_HOST}{site.name}{address}",
        *_image(service, base),
        _line("mkdir", "-p", "-m", "700", "--", service.folder_on(site.name), site.cache),
    ]
    for file in rollout.files_by_host[site.name]:
        if file.name not in _PROGRAMS:
            lines.append(_file(file.path, file.content))
    for container in rollout.containers_by_host[site.name]:
        lines += _secrets(rollout, container)
        labels = labels_of(rollout, container, author)
        restart = service.spec.serve.restart
        argv = docker.run_argv(service.spec.runtime.command, container, labels, restart=restart)
        lines += ["", f"# the {container.role}", shell_block(Command(argv))]
    return lines


def _image(service: Service, base: str) -> list[str]:
    """Return commands that bring the image where it is missing, and that derive one from it."""
    spec = service.spec.runtime
    command = spec.command
    source = mirrored(base, spec.mirror)
    if spec.archive:
        argvs = [docker.load_argv(command, spec.archive)]
    elif source == base:
        argvs = [docker.pull_argv(command, base)]
    else:
        argvs = [docker.pull_argv(command, source), docker.tag_argv(command, source, base)]
    present = _line(*docker.image_argv(command, base))
    lines = [f"{present} >/dev/null 2>&1 || {' && '.join(_line(*argv) for argv in argvs)}"]
    if service.image != base:
        lines += [_line(*argv) for argv in derive_argvs(command, base, service.image, spec)]
    return lines


def _file(path: str, content: bytes) -> str:
    try:
        return shell_file(path, content.decode())
    except UnicodeDecodeError:
        text = base64.encodebytes(content).decode()
        return f"{shell_file(f'{path}.b64', text)}\n" + _line(
            "sh", "-c", 'base64 -d "$1.b64" >"$1" && rm "$1.b64"', "sh", path
        )


def _secrets(rollout: Rollout, container: Container) -> list[str]:
    """Return commands that write a container's secrets, from variables of whoever pastes them."""
    if container.secrets is None:
        return []
    lines = []
    for name, source in rollout.secret_sources(container).items():
        value = f'"${{{source}:?}}"' if source else '"${ROPEWAY_WORD:?a word of your own}"'
        lines.append(f"  printf 'export {name}=%q\\n' {value}")
    file = _line(container.secrets)
    return ["(umask 077; {\n" + "\n".join(lines) + f"\n}} >{file})"]

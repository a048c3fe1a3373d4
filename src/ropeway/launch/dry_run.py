"""A service as one shell script with a part for each host: to read, and to run where `up` cannot
reach."""

import base64
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence

from ropeway.hosts.base import shell_block, shell_file
from ropeway.launch import docker
from ropeway.launch.container_start import restart_policies, run_argv
from ropeway.launch.docker import Container
from ropeway.launch.images import derive_argvs, fetch_argvs
from ropeway.launch.lock import Author
from ropeway.launch.programs import NAMES, program
from ropeway.launch.rollout import HEAD, Rollout, Service, Site
from ropeway.models.task import came_words
from ropeway.units import counted

_PROGRAMS = frozenset(f"{name}.py" for name in NAMES)


def shell_script(header: Iterable[str], blocks: Iterable[tuple[str, Iterable[str]]]) -> str:
    """Return a script that people read: comments, then blocks of commands below their titles."""
    lines = [f"# {line}" for line in header]
    for title, commands in blocks:
        lines += ["", f"# {title}", *commands]
    return "\n".join(lines) + "\n"


def dry_run(rollout: Rollout, base: str, author: Author) -> str:
    """Return a script that starts the part of the host whose name it is given, and nothing without.

    `base` is the service's image, or the one that it is derived from.
    """
    service = rollout.service
    replica = service.replicas[0]
    header = [
        f"{replica.layout.times(len(service.replicas))} of {replica.served_name} on"
        f" {counted(len(service.sites), 'host')}, with vLLM-Ascend {replica.release.name}",
        "On each host: `bash commands.sh HOST`. Without a host it says how, and runs nothing.",
        *(f"assumed: {text}" for text in service.assumed),
        *(f"note: {text}" for text in service.notes),
    ]
    return f"#!/bin/bash\n{shell_script(header, _blocks(rollout, base, author))}"


def _blocks(rollout: Rollout, base: str, author: Author) -> Iterator[tuple[str, Iterable[str]]]:
    sites = rollout.service.sites
    functions = _function_names([site.name for site in sites])
    programs = (shell_file(f"{name}.py", program(name)) for name in NAMES)
    make_folder = 'mkdir -p -m 700 -- "$1"\ncd -- "$1"'
    yield "a command that fails ends it", ["set -e"]
    yield (
        "the programs that containers call, into the folder $1",
        ["programs() (", make_folder, *programs, ")"],
    )
    for site, function in zip(sites, functions, strict=True):
        address = f" ({site.node.address})" if site.node.address != site.name else ""
        commands = _on_host(rollout, site, base, author)
        yield f"on {site.name}{address}", [f"{function}() {{", *commands, "}"]
    cases = (
        f"  {shlex.quote(site.name)}) {function};;"
        for site, function in zip(sites, functions, strict=True)
    )
    usage = [f"cat >&2 <<'END'\n{_usage(rollout)}\nEND", "exit 2;;"]
    yield "which part to run", ['case "${1-}" in', *cases, "  *)", *usage, "esac"]


def _function_names(hosts: Sequence[str]) -> list[str]:
    """Return a name for each host's function: `on_host1`, `on_192_168_0_147`."""
    names: list[str] = []
    for host in hosts:
        name = f"on_{re.sub('[^A-Za-z0-9]', '_', host)}"
        while name in names:
            name += "_"
        names.append(name)
    return names


def _usage(rollout: Rollout) -> str:
    """Return how the script is called, and what is to be done once it has run on all hosts."""
    service = rollout.service
    command = service.spec.runtime.command
    secrets = (_variable(one) for part in rollout.containers for one in part.secrets.values())
    variables = ", ".join(dict.fromkeys(secrets))
    lines = [
        "this script has a part for each host; copy it there, and run its part:",
        *(f"  bash commands.sh {shlex.quote(site.name)}" for site in service.sites),
        *([f"export first, with the same value on every host: {variables}"] if variables else ()),
        f"the service is up when the head's log says `ropeway: {came_words(service.task)}`:",
        *(
            f"  {shlex.join(docker.logs_argv(command, head.name, follow=True))}   # on {head.host}"
            for head in rollout.containers
            if head.role == HEAD
        ),
    ]
    if policies := restart_policies(service.spec, rollout.containers):
        lines.append("have the container engine restart it from then on:")
        lines += [f"  {shlex.join(argv)}   # on {host}" for host, argv in policies.items()]
    return "\n".join(lines)


def _on_host(rollout: Rollout, site: Site, base: str, author: Author) -> list[str]:
    service = rollout.service
    folder = service.folder_on(site.name)
    lines = [
        *_image(service, base),
        shlex.join(("mkdir", "-p", "-m", "700", "--", folder, site.cache)),
        shlex.join(("programs", folder)),
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
    fetch = "; ".join(map(shlex.join, fetch_argvs(base, spec)))  # not `&&`: it hides from `set -e`
    lines = [f"{present} >/dev/null 2>&1 || {{ {fetch}; }}"]
    if service.image != base:
        for argv in derive_argvs(command, base, service.image, spec):
            may_fail = argv[1:3] == ("rm", "--force")  # there may be nothing to remove
            lines.append(shlex.join(argv) + (" || true" if may_fail else ""))
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
    """Return the command that writes secrets, from variables of whoever runs it."""
    lines = []
    for name, source in container.secrets.items():
        lines.append(f"  printf 'export {name}=%q\\n' \"${{{_variable(source)}:?}}\"")
    file = shlex.quote(f"{folder}/{container.name}.secrets")
    return "(umask 077; {\n" + "\n".join(lines) + f"\n}} >{file})"


def _variable(source: str | None) -> str:
    """Return whose value a secret gets. A token that `up` generates is a word of the reader's."""
    return source or "ROPEWAY_WORD"

"""What every host has of the model, and whether it can take part. Nothing is changed."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ropeway.errors import HostError, Refused
from ropeway.facts.gather import Answers, ask, facts_from
from ropeway.facts.host import HostFacts, ModelFiles
from ropeway.facts.linux.network import DEFAULT_NIC, NICS
from ropeway.facts.model_directory import MODEL
from ropeway.facts.text import whole
from ropeway.hosts.base import Host
from ropeway.hosts.ssh import SshHost
from ropeway.weights.files import File, weights
from ropeway.weights.scripts import SURVEY, TOOLS

_SECONDS = 120.0  # a folder on shared storage that is just being woken up
_SSH_PORT = 22
_INSTALL = {
    "rsync": "rsync",
    "ssh": "openssh-client, openssh-clients on openEuler",
    "ssh-keygen": "openssh-client, openssh on openEuler",
    "flock": "util-linux",
    "find": "findutils",
    "xargs": "findutils",
    "stat": "coreutils",
}


@dataclass(frozen=True)
class Site:
    """One host and its copy of the model.

    root      the model's folder there
    address   what other hosts reach it by; `port` is that of its sshd, as the host itself sees it
    openssh   its version
    tools     name → path; "" where there is none
    files     name → bytes, of what lies in the folder; `staged` of what an earlier push has left
    free      bytes
    fault     why the folder cannot be passed on as a whole model; None when it can
    """

    host: Host
    root: str
    address: str
    port: int
    user: str
    openssh: tuple[int, int]
    tools: Mapping[str, str]
    free: int
    writable: bool
    files: Mapping[str, int] = field(default_factory=dict)
    staged: Mapping[str, int] = field(default_factory=dict)
    fault: str | None = None

    @property
    def name(self) -> str:
        return self.host.name

    @property
    def manifest(self) -> tuple[File, ...]:
        return tuple(File(name, size) for name, size in sorted(self.files.items()))

    @property
    def weights(self) -> int:
        """Bytes of weights."""
        return sum(self.files[name] for name in weights(self.files))


def look(host: Host, root: str, nic: str | None = None) -> Site:
    """Ask one host. `nic` is its interface on the cluster's network, by default the one that has
    its address. Raises HostError; Refused when it has no interface of that name."""
    result = host.run(
        ("env", "LC_ALL=C", "sh", "-c", SURVEY.strip(), "sh", root, *TOOLS), timeout=_SECONDS
    ).check("cannot look at the model's folder", where=host.name)
    found = Answers(
        ask(
            host,
            (NICS, DEFAULT_NIC, replace(MODEL.about(root), limit=int(_SECONDS))),
            timeout=2 * _SECONDS,
        )
    )
    facts = facts_from(host.name, host.address, found)
    return read_site(host, root, result.stdout, facts, nic)


def read_site(host: Host, root: str, text: str, facts: HostFacts, nic: str | None) -> Site:
    """Join the answers of one host. Pure.

    Raises HostError for a name that cannot be written, Refused when there is no interface `nic`.
    """
    answers: dict[str, str] = {}
    files: dict[str, int] = {}
    staged: dict[str, int] = {}
    for record in text.split("\0"):
        key, _, value = record.partition(" ")
        if key in ("file", "staged"):
            size, _, name = value.partition(" ")
            (files if key == "file" else staged)[name] = int(size)
        else:
            answers[key] = value
    if broken := next((name for name in files if "\ufffd" in name), None):
        raise HostError("a file's name is not UTF-8", where=f"{host.name}:{root}/{broken}")
    blocks, _, block_size = answers.get("free", "").partition(" ")
    version = re.search(r"OpenSSH_(\d+)\.(\d+)", answers.get("ssh", ""))
    port = answers.get("port", "")
    said = host.port if isinstance(host, SshHost) else None
    return Site(
        host=host,
        root=root,
        address=facts.reached_by(nic)[1] if nic else facts.ethernet_address or facts.address,
        port=whole(port) or said or _SSH_PORT,
        user=answers.get("user", ""),
        openssh=(int(version[1]), int(version[2])) if version else (0, 0),
        tools={
            key.removeprefix("tool-"): value
            for key, value in answers.items()
            if key.startswith("tool-")
        },
        free=(whole(blocks) or 0) * (whole(block_size) or 0),
        writable=answers.get("writable") == "yes",
        files=files,
        staged=staged,
        fault=why_not_whole(facts.model, files),
    )


def why_not_whole(model: ModelFiles | None, files: Mapping[str, int]) -> str | None:
    """Why this folder is no model to pass on; None when it is one."""
    if not files:
        return "is not there" if model is None or not model.there else "has no files"
    if model and model.missing:
        return f"lacks {model.missing[0]}" + (
            f" and {len(model.missing) - 1} more" if len(model.missing) > 1 else ""
        )
    if model and model.short:
        name, (there, wanted) = next(iter(model.short.items()))
        return f"has {there:,} of the {wanted:,} bytes of {name}"
    if not weights(files):
        return "has no weights"
    return None if "config.json" in files else "has no config.json"


def choose_source(sites: Sequence[Site]) -> Site | None:
    """The first that has it whole."""
    return next((site for site in sites if site.fault is None), None)


def check_tools(sites: Sequence[Site]) -> None:
    """Raises Refused, once, with every host that lacks a program, and what to install."""
    lacking = {
        site.name: names
        for site in sites
        if (names := [tool for tool in TOOLS if not site.tools.get(tool)])
    }
    if not lacking:
        return
    wanted = sorted({tool for names in lacking.values() for tool in names})
    count = f"{len(lacking)} hosts lack" if len(lacking) > 1 else "a host lacks"
    packages = [f"{tool}: the package {_INSTALL[tool]}" for tool in wanted]
    raise Refused(
        f"{count} {' and '.join(f'`{tool}`' for tool in wanted)}",
        where=next(iter(lacking)) if len(lacking) == 1 else None,
        evidence=[f"{name}: no {', '.join(names)}" for name, names in lacking.items()],
        hint="\n".join((*packages, "`apt install` or `dnf install` it on the hosts, then again")),
    )

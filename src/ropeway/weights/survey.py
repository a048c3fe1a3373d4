"""What every host has of the model, and whether it can take part. Nothing is changed."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ropeway.errors import HostError, Refused, RopewayError
from ropeway.facts.gather import Answers, ask, facts_from
from ropeway.facts.host import HostFacts
from ropeway.facts.linux.network import DEFAULT_NIC, NICS
from ropeway.facts.model_directory import MODEL
from ropeway.facts.text import parse_int
from ropeway.hosts.base import Host
from ropeway.hosts.fleet import run_on_all
from ropeway.hosts.ssh import SshHost
from ropeway.spec.cluster import Cluster
from ropeway.weights.scripts import SURVEY, TOOLS

_SECONDS = 120.0  # a folder on shared storage may have to be woken up
_SSH_PORT = 22
_PACKAGES = {
    "rsync": "rsync",
    "ssh": "openssh-client, openssh-clients on openEuler",
    "ssh-keygen": "openssh-client, openssh on openEuler",
    "flock": "util-linux",
    "find": "findutils",
    "xargs": "findutils",
    "stat": "coreutils",
}


@dataclass(frozen=True)
class Peer:
    """One host and its copy of the model.

    root      the model's folder there
    address   how other hosts reach it; `port` is that of its sshd, as the host itself sees it
    openssh   the version of OpenSSH
    tools     name → path; "" for a missing one
    free      bytes
    files     name → bytes, of the files in the folder
    staged    name → bytes, of what an earlier push has left in the staging folder
    fault     why the folder does not hold a whole model that can be passed on; None when it does
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


def survey_hosts(
    hosts: Sequence[Host], cluster: Cluster, root: str
) -> tuple[tuple[Peer, ...], tuple[RopewayError, ...]]:
    """Ask the cluster's hosts; return those that answer, and the errors of the others.

    Raises the first error when none answers.
    """
    nics = {
        host.name: remote.nic or cluster.nic
        for host, remote in zip(hosts, cluster.hosts or (), strict=False)
    }
    outcomes = run_on_all(hosts, lambda host: survey_host(host, root, nics.get(host.name)))
    peers = tuple(outcome.result for outcome in outcomes if outcome.result is not None)
    errors = tuple(outcome.error for outcome in outcomes if outcome.error is not None)
    if not peers:
        raise errors[0]
    return peers, errors


def survey_host(host: Host, root: str, nic: str | None = None) -> Peer:
    """Ask one host.

    nic  its interface on the cluster's network; None for the one that has its address

    Raises HostError; Refused when the host has no interface `nic`.
    """
    result = host.run(
        ("env", "LC_ALL=C", "sh", "-c", SURVEY.strip(), "sh", root, *TOOLS), timeout=_SECONDS
    ).check("cannot read the model's directory", where=host.name)
    answers = Answers(
        ask(
            host,
            (NICS, DEFAULT_NIC, replace(MODEL.about(root), limit=int(_SECONDS))),
            timeout=2 * _SECONDS,
        )
    )
    facts = facts_from(host.name, host.address, answers)
    return parse_peer(host, root, result.stdout, facts, nic)


def parse_peer(host: Host, root: str, text: str, facts: HostFacts, nic: str | None) -> Peer:
    """Parse the output of SURVEY and join it with the host's facts. Pure.

    Raises HostError for a file name that is not UTF-8, Refused when there is no interface `nic`.
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
    spec_port = host.port if isinstance(host, SshHost) else None
    return Peer(
        host=host,
        root=root,
        address=facts.reached_by(nic)[1] if nic else facts.ethernet_address or facts.address,
        port=parse_int(answers.get("port", "")) or spec_port or _SSH_PORT,
        user=answers.get("user", ""),
        openssh=(int(version[1]), int(version[2])) if version else (0, 0),
        tools={
            key.removeprefix("tool-"): value
            for key, value in answers.items()
            if key.startswith("tool-")
        },
        free=(parse_int(blocks) or 0) * (parse_int(block_size) or 0),
        writable=answers.get("writable") == "yes",
        files=files,
        staged=staged,
        fault=facts.model.fault if facts.model else "is not there",
    )


def check_tools(peers: Sequence[Peer]) -> None:
    """Raise Refused with every host that lacks a program, and with what to install."""
    lacking = {
        peer.name: names
        for peer in peers
        if (names := [tool for tool in TOOLS if not peer.tools.get(tool)])
    }
    if not lacking:
        return
    missing = sorted({tool for names in lacking.values() for tool in names})
    count = f"{len(lacking)} hosts lack" if len(lacking) > 1 else "a host lacks"
    packages = [f"{tool}: the package {_PACKAGES[tool]}" for tool in missing]
    raise Refused(
        f"{count} {' and '.join(f'`{tool}`' for tool in missing)}",
        where=next(iter(lacking)) if len(lacking) == 1 else None,
        evidence=[f"{name}: no {', '.join(names)}" for name, names in lacking.items()],
        hint="\n".join((*packages, "install it on the hosts with `apt` or `dnf`, then retry")),
    )

"""Whether engines generate tokens now: the question that `up`, `restart` and `status` ask."""

from collections.abc import Iterable
from dataclasses import dataclass

from ropeway.hosts.base import Host
from ropeway.hosts.fleet import Hosts, group_by_host, run_on_all
from ropeway.launch import docker
from ropeway.launch.complete import parts_of
from ropeway.launch.labels import Reached, newest
from ropeway.launch.rollout import HEAD, ROUTER
from ropeway.launch.scripts import FOLDER
from ropeway.phrases import phrase

# Within a container: read the secrets, if there are any, and run the program with the words after.
_INSIDE = f'[ ! -r "$1" ] || . "$1"; shift; exec python3 {FOLDER}/watch.py "$@"'


@dataclass(frozen=True)
class Endpoint:
    """The API of an engine or a router, as used inside its own container."""

    host: str
    container: str
    url: str
    model: str


def ask_for_tokens(
    hosts: Hosts, runtime: docker.Runtime, endpoints: Iterable[Endpoint], seconds: float = 20.0
) -> dict[str, str]:
    """Ask all endpoints at once: container → why no token came, empty when one did.

    A host that cannot be asked, and an answer that takes longer than `seconds`, are reasons too.
    """
    by_host = group_by_host(endpoints)

    def ask(host: Host) -> dict[str, str]:
        return {one.container: _ask(host, runtime, one, seconds) for one in by_host[host.name]}

    answers: dict[str, str] = {}
    for outcome in run_on_all([hosts[name] for name in by_host], ask):
        if outcome.error is not None:
            reason = outcome.error.what
            answers |= {one.container: reason for one in by_host[outcome.host.name]}
        answers |= outcome.result or {}
    return answers


def unready(reached: Reached) -> dict[str, str]:
    """Ask the heads and the router, as `ask_for_tokens` does. A container that is not there, or has
    ended, is a reason too."""
    there = {one.name: one for one in reached.containers}
    expected = [one.name for one in parts_of(newest(reached.containers).spec)] if there else []
    gone = phrase("on no host that answers") if reached.failures else phrase("gone")
    reasons: dict[str, str] = {
        name: phrase("its container is {state}", state=there[name].state if name in there else gone)
        for name in (*expected, *there)
        if name not in there or there[name].state != "running"
    }
    endpoints = [
        Endpoint(one.host, one.name, one.endpoint, one.model)
        for one in reached.containers
        if one.role in (HEAD, ROUTER) and one.name not in reasons
    ]
    return reasons | ask_for_tokens(reached.hosts, reached.runtime, endpoints)


def _ask(host: Host, runtime: docker.Runtime, endpoint: Endpoint, seconds: float) -> str:
    secrets = f"{FOLDER}/{endpoint.container}.secrets"
    words = probe_args(endpoint.url, endpoint.model, seconds)
    inside = ("bash", "-c", _INSIDE, "bash", secrets, *words)
    argv = docker.exec_argv(runtime, endpoint.container, inside)
    result = host.run(argv, timeout=seconds + 30)
    return (
        "" if result.ok else (result.stderr.strip() or result.stdout.strip() or phrase("no answer"))
    )


def probe_args(url: str, model: str, seconds: float) -> tuple[str, ...]:
    """Return the arguments of programs/watch.py that ask once."""
    return ("once", url, model, f"{seconds:g}")

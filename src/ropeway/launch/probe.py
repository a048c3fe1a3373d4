"""Whether engines generate tokens now: the question that `up`, `restart` and `status` ask."""

from collections.abc import Iterable

from ropeway.hosts.base import Host
from ropeway.hosts.fleet import Hosts, group_by_host, run_on_all
from ropeway.launch import docker
from ropeway.launch.containers import HEAD, ROUTER
from ropeway.launch.labels import Found
from ropeway.launch.scripts import FOLDER


def serving(
    hosts: Hosts, runtime: docker.Runtime, found: Iterable[Found], seconds: float = 20.0
) -> dict[str, str]:
    """Head or router → why it generates no token now; nothing when it does. Asked all at once.

    A host that cannot be asked, and an answer that takes longer than `seconds`, are reasons too.
    """
    asked = group_by_host(one for one in found if one.role in (HEAD, ROUTER))

    def ask(host: Host) -> dict[str, str]:
        return {one.name: _why_not(host, runtime, one, seconds) for one in asked[host.name]}

    answers: dict[str, str] = {}
    for outcome in run_on_all([hosts[name] for name in asked], ask):
        away = {one.name: str(outcome.error) for one in asked[outcome.host.name]}
        answers |= away if outcome.result is None else outcome.result
    return answers


def _why_not(host: Host, runtime: docker.Runtime, one: Found, seconds: float) -> str:
    if one.state != "running":
        return f"its container is {one.state}"
    script = f'[ ! -r "$1" ] || . "$1"; exec python3 {FOLDER}/watch.py once "$2" "$3" "$4"'
    secrets = f"{FOLDER}/{one.name}.secrets"
    inside = ("bash", "-c", script, "bash", secrets, one.endpoint, one.model, f"{seconds:g}")
    result = host.run(docker.exec_argv(runtime, one.name, inside), timeout=seconds + 30)
    return "" if result.ok else (result.stderr.strip() or result.stdout.strip() or "no answer")

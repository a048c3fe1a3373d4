"""Carries out steps, waits until the engine generates a token, and undoes it all when it fails."""

import contextlib
import json
import time
from collections.abc import Callable, Mapping

from ropeway.engines.vllm_cpu import Deployment
from ropeway.errors import HostError, LaunchError, Refused
from ropeway.hosts.base import Host, run_command
from ropeway.hosts.interrupts import uninterrupted
from ropeway.launch.failure import engine_failure, root_cause
from ropeway.launch.local import ray
from ropeway.launch.local.status import running
from ropeway.launch.local.steps import Step, probe_of, steps
from ropeway.launch.local.takedown import note_shared_memory, take_down

Hosts = Mapping[str, Host]
Tell = Callable[[str], None]

_POLL_SECONDS = 0.5
_LOG_TAIL_BYTES = 400_000
_LOG_NAME = "engine.log"


def start(deployment: Deployment, hosts: Hosts, tell: Tell) -> None:
    """Bring the deployment up, to its first generated token; `tell` hears what is being done.

    Raises Refused when the service already runs, LaunchError when the engine fails or is not ready
    in time. Then, and when interrupted, everything that was started is gone again.
    """
    refuse_second(deployment.service)
    todo = steps(deployment)
    taken = False
    try:
        with uninterrupted():  # else we would not know whose the folder is
            _take_name(todo[0], hosts, deployment)
            taken = True
        for step in todo[1:]:
            tell(step.name)
            _carry_out(step, hosts)
        if deployment.uses_ray:
            _check_ray(deployment, hosts)
        _wait_until_ready(deployment, hosts, tell)
    except BaseException as error:
        if not taken:
            raise
        with uninterrupted():
            tell("undoing what was started")
            cause = _why(error, deployment, hosts)
            take_down(deployment.service, deployment.scratch)
        if cause is not None:
            raise cause from error
        raise


def refuse_second(service: str) -> None:
    """Raises Refused when this service runs already."""
    if found := running(service):
        raise Refused(
            f"`{service}` is already running",
            evidence=tuple(f"pid {process.pid}: {process.title[:60]}" for process in found[:3]),
            hint=f"ropeway status --name {service}\nropeway down --name {service}",
        )


def read_log(host: Host, path: str) -> str:
    """The end of a log on a host; empty while there is none."""
    found = host.run(("tail", "-c", str(_LOG_TAIL_BYTES), path))
    return found.stdout if found.ok else ""


def _take_name(step: Step, hosts: Hosts, deployment: Deployment) -> None:
    result = run_command(hosts[step.host], step.command)
    if result.ok:
        return
    raise Refused(
        f"`{deployment.service}` is being started by somebody else, or was not taken down",
        where=deployment.scratch,
        evidence=(result.stderr.strip(),),
        hint=f"ropeway down --name {deployment.service}",
    )


def _carry_out(step: Step, hosts: Hosts) -> None:
    result = run_command(hosts[step.host], step.command, timeout=step.timeout)
    result.check(f"{step.name} failed", where=step.host)


def _check_ray(deployment: Deployment, hosts: Hosts) -> None:
    """Every host must be in Ray with its NPUs before vLLM asks for them."""
    head = hosts[deployment.head.name]
    found = run_command(head, ray.nodes(deployment), timeout=60.0)
    found.check("Ray does not answer", where=deployment.head.name)
    alive = {row["address"]: row["npus"] for row in json.loads(found.stdout) if row["alive"]}
    absent = [node for node in deployment.nodes if alive.get(node.address, 0) < node.npus]
    if absent:
        names = ", ".join(f"{node.name} ({node.address})" for node in absent)
        raise HostError(
            f"{len(absent)} of {len(deployment.nodes)} hosts did not join Ray: {names}",
            where=ray.address(deployment),
            evidence=[f"{address}: {npus:g} NPUs" for address, npus in alive.items()],
            hint="look at Ray's own logs with `ropeway up -vv`",
        )


def _wait_until_ready(deployment: Deployment, hosts: Hosts, tell: Tell) -> None:
    head = hosts[deployment.head.name]
    deadline = time.monotonic() + deployment.serve.start_timeout
    probe = probe_of(deployment).command(deployment.python)
    before = ""
    while time.monotonic() < deadline:
        log = read_log(head, deployment.engine_log)
        tell(activity := deployment.activity(log))
        if activity != before:  # an engine makes its shared memory while it starts
            note_shared_memory(deployment.service, deployment.scratch)
            before = activity
        if not any(process.role == "engine" for process in running(deployment.service)):
            raise LaunchError("the engine ended while it was starting", where=deployment.engine_log)
        if deployment.listening(log):
            answer = run_command(head, probe, timeout=90.0)
            if answer.ok:
                return
            if root_cause({_LOG_NAME: log}):
                answer.check("the engine answers, but generates nothing", where=deployment.url)
        time.sleep(_POLL_SECONDS)
    raise LaunchError(
        f"the engine was not ready within {deployment.serve.start_timeout} s",
        where=deployment.engine_log,
        hint="raise `serve.start_timeout`, or look into the log",
    )


def _why(error: BaseException, deployment: Deployment, hosts: Hosts) -> LaunchError | None:
    """The failure with the engine's own root cause; None for what is no failure of a start."""
    if not isinstance(error, HostError | LaunchError):
        return None
    with contextlib.suppress(HostError):
        log = read_log(hosts[deployment.head.name], deployment.engine_log)
        if cause := root_cause({_LOG_NAME: log}):
            return engine_failure(error, cause, deployment.engine_log)
        if not error.evidence and log:
            tail = tuple(log.strip().splitlines()[-6:])
            return LaunchError(error.what, where=error.where, evidence=tail, hint=error.hint)
    return LaunchError(error.what, where=error.where, evidence=error.evidence, hint=error.hint)

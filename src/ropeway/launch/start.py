"""Starts a service's containers, waits for its first token, and undoes it all when it fails."""

import functools
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ropeway.engines import vllm
from ropeway.errors import ConnectionLost, HostError, LaunchError, RopewayError
from ropeway.hosts.base import Command, Host, shell_line
from ropeway.hosts.child import sleep_cancellable
from ropeway.hosts.fleet import (
    Hosts,
    OnProgress,
    group_by_host,
    run_on_all,
    run_on_all_or_raise,
    select,
)
from ropeway.hosts.interrupts import uninterrupted
from ropeway.launch import docker
from ropeway.launch.containers import (
    HEAD,
    ROUTER,
    containers,
    files,
    hashes,
    own_folder,
    secret_names,
)
from ropeway.launch.docker import Container
from ropeway.launch.failure import engine_failure, root_cause
from ropeway.launch.labels import RUN, SERVICE, Author, Found, containers_on, labels_of
from ropeway.launch.lock import BASE, Lock, holder
from ropeway.launch.probe import serving
from ropeway.launch.service import Service

_POLL_SECONDS = 1.5
_TOKEN_SECONDS = 60.0
_LOG_LINES = 4000
_GONE_AGAIN = "is the host still up? what was started is gone again"
_FIRST_TOKEN = "ropeway: the first token is there"
_RAY_HOSTS = re.compile(r"ropeway: Ray has \d+ of \d+ hosts: (\{.*?\})")

# Removes what this run made, and looks again: a `run` that was cut off may still be carried out by
# the daemon. $1 the container engine, $2 the label, $3 the folder, $4 the label of the service.
# $5 is us as the lock's holder: once somebody has it after us, the folder may be theirs.
UNDO = f"""
{BASE}
for turn in 1 2 3; do
  ids=$("$1" ps --all --quiet --filter "label=$2") || exit
  [ -z "$ids" ] || "$1" rm --force $ids >/dev/null || exit
  sleep 0.4
done
[ -n "$("$1" ps --all --quiet --filter "label=$4")" ] ||
  [ "$(cat "$base/holder")" != "$5" ] || rm -rf -- "$3"
"""


@dataclass(frozen=True)
class Job:
    """What is to be started: some or all containers of a service.

    secrets   variable of ours → its value; `` → what we made up
    save      keeps a log, given its name and text, before it is removed, and says where
    """

    service: Service
    hosts: Hosts
    lock: Lock
    secrets: Mapping[str, str]
    save: Callable[[str, str], str]
    only: frozenset[str] | None = None

    @property
    def author(self) -> Author:
        return self.lock.author

    @property
    def runtime(self) -> docker.Runtime:
        return self.service.spec.runtime.command

    @functools.cached_property
    def todo(self) -> tuple[Container, ...]:
        """The containers to start."""
        every = containers(self.service)
        return tuple(one for one in every if self.only is None or one.name in self.only)

    @functools.cached_property
    def awaited(self) -> tuple[Container, ...]:
        """Those that must answer before it is ready: the containers to start, and the router before
        them, which may have been kept and needs a moment to find new engines."""
        every = containers(self.service)
        return tuple(one for one in every if one in self.todo or one.role == ROUTER)


def start(job: Job, tell: OnProgress) -> None:
    """Start the containers, wait until each replica has generated a token, and let the container
    engine restart them from then on.

    Raises HostError or LaunchError; then, and when interrupted, everything that this run started is
    gone again, or the error says how to finish that.
    """
    try:
        tell("writing scripts")
        _put_files(job)
        tell(f"starting {len(job.todo)} containers")
        _run_containers(job)
        _wait_until_ready(job, tell)
        job.lock.check()
        if job.service.spec.serve.restart and docker.restarts_later(job.runtime):
            _let_restart(job)
    except BaseException as error:
        with uninterrupted():
            tell("undoing what was started")
            cause = _why(error, job)
            undone = undo(job)
        if undone is not None:
            undone.evidence = (str(cause or error) or "interrupted", *undone.evidence)
            raise undone from error
        if cause is not None:
            raise cause from error
        raise


def undo(job: Job) -> LaunchError | None:
    """Remove what this run started. What could not be removed is in the error, as commands."""
    service = job.service
    label = f"{RUN}={job.author.run}"

    def remove(host: Host) -> None:
        folder = own_folder(service, service.site(host.name))
        given = (job.runtime, label, folder, f"{SERVICE}={service.name}", holder(job.author))
        argv = ("sh", "-c", UNDO, "sh", *given)
        host.run(argv, timeout=180.0).check("cannot undo the start", where=host.name)

    outcomes = run_on_all([job.hosts[site.name] for site in service.sites], remove)
    failed = [one for one in outcomes if one.error is not None]
    if not failed:
        return None
    commands = [_by_hand(job, one.host) for one in failed]
    return LaunchError(
        f"the start failed, and {len(failed)} of {len(outcomes)} hosts could not be cleaned up",
        where=", ".join(one.host.name for one in failed),
        evidence=tuple(f"{one.host.name}: {one.error}" for one in failed),
        hint="this finishes it:\n" + "\n".join(commands),
    )


def _by_hand(job: Job, host: Host) -> str:
    """The command that undoes a start on one host; the folder, which has the secrets, goes too
    unless the service has more there than was started."""
    service = job.service
    names = [one.name for one in job.todo if one.host == host.name]
    whole = all(one.name in names for one in containers(service) if one.host == host.name)
    folder = own_folder(service, service.site(host.name))
    argvs = [docker.remove_argv(job.runtime, names)] if names else []
    argvs += [("rm", "-rf", "--", folder)] if whole else []
    there = "; ".join(shell_line(Command(argv)) for argv in argvs)
    remote = next(
        each
        for each in service.spec.cluster.hosts or ()
        if host.name in (each.address, f"{each.address}:{each.port or 22}")
    )
    port = ("-p", str(remote.port)) if remote.port else ()
    login = f"{remote.user}@{remote.address}" if remote.user else remote.address
    return shell_line(Command(("ssh", *port, login, there)))


def survey(
    hosts: Hosts, runtime: docker.Runtime, service: str | None
) -> dict[str, tuple[Found, ...]]:
    """Our containers on each host. Raises HostError when one cannot be asked."""
    return run_on_all_or_raise(hosts, lambda host: containers_on(host, runtime, service))


def read_logs(
    hosts: Hosts, runtime: docker.Runtime, which: Sequence[Container | Found]
) -> dict[str, str]:
    """The end of each container's log, by `host/name`; of hosts that do not answer, nothing."""

    mine = group_by_host(which)

    def read(host: Host) -> dict[str, str]:
        texts = {}
        for one in mine[host.name]:
            argv = docker.logs_argv(runtime, one.name, lines=_LOG_LINES)
            result = host.run(("sh", "-c", '"$@" 2>&1', "sh", *argv), timeout=60.0)
            texts[_key(one)] = result.stdout if result.ok else ""
        return texts

    outcomes = run_on_all(tuple(select(hosts, mine).values()), read)
    return {key: text for one in outcomes for key, text in (one.result or {}).items()}


def _key(one: Container | Found) -> str:
    return f"{one.host}/{one.name}"


def _put_files(job: Job) -> None:
    service = job.service
    ours, todo = group_by_host(files(service)), group_by_host(job.todo)

    def put(host: Host) -> None:
        site = service.site(host.name)
        folder = own_folder(service, site)
        made = host.run(("mkdir", "-p", "-m", "700", "--", folder, site.cache))
        made.check("cannot make the service's folder", where=host.name)
        for file in ours[host.name]:
            host.put(file.content, file.path, mode=0o644)
        for one in todo[host.name]:
            if one.secrets:
                host.put(_secrets(job, one).encode(), one.secrets, mode=0o600)

    run_on_all_or_raise(select(job.hosts, todo), put)


def _secrets(job: Job, one: Container) -> str:
    """The file that the container's script reads: nobody else does."""
    replica = job.service.replicas[one.replica] if one.role != ROUTER else None
    names = secret_names(job.service, replica)
    values = {name: job.secrets[source or name] for name, source in names.items()}
    lines = (shell_line(Command(("export", f"{name}={value}"))) for name, value in values.items())
    return "".join(f"{line}\n" for line in lines)


def _run_containers(job: Job) -> None:
    service = job.service
    content = hashes(service)
    todo = group_by_host(job.todo)

    def run(host: Host) -> None:
        folder = own_folder(service, service.site(host.name))
        for one in todo[host.name]:
            labels = labels_of(service, one, job.author, content[one.name], folder)
            argv = docker.run_argv(job.runtime, one, labels, restart=service.spec.serve.restart)
            result = host.run(argv, timeout=300.0)
            result.check(f"cannot start `{one.name}`", where=host.name)

    run_on_all_or_raise(select(job.hosts, todo), run)


def _wait_until_ready(job: Job, tell: OnProgress) -> None:
    serve = job.service.spec.serve
    deadline = time.monotonic() + serve.start_timeout
    mine = select(job.hosts, group_by_host(job.awaited))
    while True:
        alive = _alive(job, mine)
        heads = [one for one in alive if one.role == HEAD]
        logs = read_logs(mine, job.runtime, heads)
        waiting = [one for one in heads if _FIRST_TOKEN not in logs.get(_key(one), "")]
        asked = [one for one in alive if one.role in (HEAD, ROUTER)]
        answers = {} if waiting else serving(mine, job.runtime, asked, _TOKEN_SECONDS)
        if not waiting and not any(answers.values()):
            return
        told = logs.get(_key(waiting[0]), "") if waiting else ""
        tell(_activity(told, len(heads) - len(waiting), len(heads)))
        if time.monotonic() > deadline:
            raise LaunchError(
                f"the engine was not ready within {serve.start_timeout} s",
                where=(waiting or asked)[0].host,
                evidence=(
                    *_absent(told, job.service),
                    *(f"{name}: {why}" for name, why in answers.items() if why),
                ),
                hint="raise `serve.start_timeout`, or look into the logs",
            )
        sleep_cancellable(_POLL_SECONDS)


def _alive(job: Job, mine: Hosts) -> list[Found]:
    """The containers that are awaited. Raises LaunchError when one of this start has ended,
    HostError when somebody else has the lock and has removed one."""
    found = {
        one.name: one
        for several in survey(mine, job.runtime, job.service.name).values()
        for one in several
    }
    for one in job.todo:
        if how := _ended(found.get(one.name)):
            if one.name not in found:
                job.lock.check()  # who has it now has removed it
            raise LaunchError(
                f"the {one.role} on {one.host} ended while the engine was starting",
                where=one.host,
                evidence=(f"{one.name}: {how}",),
            )
    return [found[one.name] for one in job.awaited if one.name in found]


def _ended(one: Found | None) -> str:
    """How a container ended, nothing when it did not. One that runs a second time did too: podman
    restarts it even now (docker.restarts_later)."""
    if one is None:
        return "gone"
    if one.restarts:
        return "started again by the container engine"
    return "" if one.state in ("running", "created") else f"{one.state}, exit code {one.exit_code}"


def _let_restart(job: Job) -> None:
    todo = group_by_host(job.todo)

    def update(host: Host) -> None:
        names = [one.name for one in todo[host.name]]
        argv = docker.restart_argv(job.runtime, names, "unless-stopped")
        host.run(argv).check("cannot set the restart policy", where=host.name)

    run_on_all_or_raise(select(job.hosts, todo), update)


def _activity(log: str, ready: int, replicas: int) -> str:
    """What the first engine that is not ready yet is doing; `log` is its own."""
    if ready == replicas:
        return "asking for a token"
    said = [line for line in log.splitlines() if "ropeway: Ray has" in line]
    known = vllm.activity(log)
    words = known
    if known == "importing vLLM" and said:
        words = said[-1].partition("ropeway: ")[2].partition(":")[0]
    return words if replicas == 1 else f"{ready} of {replicas} replicas ready; {words}"


def _absent(log: str, service: Service) -> tuple[str, ...]:
    """The hosts that Ray does not have, from the head's last word about it."""
    said = _RAY_HOSTS.findall(log)
    if not said or "ropeway: Ray has all hosts" in log:
        return ()
    try:
        there = json.loads(said[-1])
    except ValueError:
        return ()
    nodes = {node.name: node for one in service.replicas for node in one.nodes}
    return tuple(
        f"{name} ({node.address}) has not joined Ray"
        for name, node in nodes.items()
        if there.get(node.address, 0) < node.npus
    )


def _why(error: BaseException, job: Job) -> RopewayError | None:
    """The failure with the engine's own root cause, all ranks heard; None for what is no failure of
    a start. The logs are saved: what is undone has none."""
    logs = read_logs(job.hosts, job.runtime, job.todo)
    kept = {name: job.save(name, text) for name, text in logs.items() if text}
    if not isinstance(error, HostError | LaunchError):
        return None
    if cause := root_cause({name: text for name, text in logs.items() if text}):
        return engine_failure(error, cause, kept.get(cause.line.log, "") if cause.line else "")
    evidence, hint = error.evidence, error.hint
    if isinstance(error, LaunchError):
        absent = _absent("\n".join(logs.values()), job.service)
        evidence = (*evidence, *(line for line in absent if line not in evidence))
        # Those of the host where it failed come first.
        names = sorted(kept, key=lambda name: not name.startswith(f"{error.where}/"))
        if len(evidence) < 2 and names:
            evidence = (*evidence, *logs[names[0]].strip().splitlines()[-6:])
            hint = hint or f"the whole log: less {kept[names[0]]}"
    if isinstance(error, ConnectionLost):
        hint = _GONE_AGAIN
    return type(error)(error.what, where=error.where, evidence=evidence, hint=hint)

"""Starts a service's containers; attempt.py says in which order."""

import re
import shlex
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from ropeway.engines import vllm
from ropeway.errors import ConnectionLost, HostError, LaunchError, RopewayError
from ropeway.hosts.base import Host, cannot_write
from ropeway.hosts.fleet import Hosts, OnProgress, group_by_host, run_on_all, run_on_parts, told
from ropeway.launch import docker
from ropeway.launch.attempt import (
    Absence,
    Attempt,
    absence,
    engine_failure,
    joining_advice,
    root_cause,
    whole_logs,
)
from ropeway.launch.docker import Container
from ropeway.launch.labels import RUN, SERVICE, labels_of
from ropeway.launch.lock import BASE, Author, Lock
from ropeway.launch.logs import LogReader, Status, log_name, poll, read_logs
from ropeway.launch.probe import Endpoint, ask_for_tokens
from ropeway.launch.rollout import HEAD, ROUTER, File, Rollout, Service
from ropeway.launch.scripts import meeting_port
from ropeway.phrases import joined, phrase
from ropeway.spec.model import Spec
from ropeway.spec.types import api_url
from ropeway.units import counted

_TOKEN_SECONDS = 60.0
_LOG_LINES = 4000
_RAY_COUNT = re.compile(r"ropeway: Ray has (?:all|(\d+) of (\d+)) hosts")
# By programs/watch.py; an answer is what a model gives that generates nothing.
_READY = re.compile(r"ropeway: the first (?:token|answer) is there")

# On stdin, for each container its name and its command, as words of a shell: with the spec in its
# labels, and many hosts in that, a command is longer than Linux lets an argument be (128 KiB).
# The one that cannot be started is printed last.
RUN_EACH = """
eval "set -- $(cat)"
while [ $# -gt 0 ]; do
  printf "%s\\n" "$1"
  eval "$2" </dev/null >/dev/null || exit
  shift 2
done
"""
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


# $1 the folder that the files lie in, $2 another one to make, $3 the bytes of all files together,
# which come one after the other on stdin; then for each file its name, mode and size. Drafts are
# complete before the first one takes its place: a full disk or a lost connection changes nothing.
WRITE = """
LC_ALL=C; export LC_ALL
folder=$1
mkdir -p -m 700 -- "$1" "$2" && draft=$(mktemp -d "$1/.draft.XXXXXX") || exit
trap 'rm -rf "$draft"' EXIT
trap 'exit 1' TERM HUP INT
cat >"$draft/all" && [ "$(wc -c <"$draft/all")" -eq "$3" ] || exit
shift 3
draw() {
  begin=1
  while [ $# -gt 0 ]; do
    tail -c +$begin "$draft/all" | head -c "$3" >"$draft/$1" &&
      [ "$(wc -c <"$draft/$1")" -eq "$3" ] && chmod "$2" "$draft/$1" || return
    begin=$((begin + $3)); shift 3
  done
}
place() {
  while [ $# -gt 0 ]; do mv -f "$draft/$1" "$folder/$1" || return; shift 3; done
}
draw "$@" && place "$@"
"""


@dataclass
class ContainerStart(Attempt):
    """The start of some or all containers of a service.

    hosts     those that take part
    secrets   their values, keyed by our variable, or by the container's if generated
    save_log  keeps a log, given its name and text, and returns where, or "" where it cannot be
              kept: what is undone has none
    only      names of the containers to start
    _waiting  heads that had no token at the last look
    _answers  why endpoints gave none, at the last look
    """

    rollout: Rollout
    hosts: Hosts
    lock: Lock
    secrets: Mapping[str, str]
    save_log: Callable[[str, str], str]
    only: frozenset[str]
    _logs: dict[str, LogReader] = field(default_factory=lambda: defaultdict(LogReader))
    _waiting: tuple[Container, ...] = ()
    _answers: Mapping[str, str] = field(default_factory=dict)

    @property
    def service(self) -> Service:
        return self.rollout.service

    @property
    def runtime(self) -> docker.Runtime:
        return self.service.spec.runtime.command

    @property
    def timeout(self) -> float:
        return self.service.spec.serve.start_timeout

    @cached_property
    def to_start(self) -> tuple[Container, ...]:
        return tuple(one for one in self.rollout.containers if one.name in self.only)

    @cached_property
    def must_be_ready(self) -> tuple[Container, ...]:
        """The containers to start, and the router before them, which may have been kept: it needs a
        moment to find new engines."""
        every = self.rollout.containers
        return tuple(one for one in every if one in self.to_start or one.role == ROUTER)

    def begin(self, on_progress: OnProgress) -> None:
        """See Attempt.begin."""
        on_progress(phrase("writing scripts"))
        self._write_files()
        containers = counted(len(self.to_start), "container")
        on_progress(phrase("starting {containers}", containers=containers))
        self._run_containers()

    def is_ready(self, on_progress: OnProgress) -> bool:
        """See Attempt.is_ready. Raises HostError when somebody else has taken the lock."""
        self._check_alive(self._poll())
        heads = [one for one in self.must_be_ready if one.role == HEAD]
        waiting = tuple(one for one in heads if not _READY.search(self._logs[one.name].text))
        self._waiting, self._answers = waiting, {}
        if waiting:
            activity = self._activity(waiting[0])
            if len(heads) > 1:
                activity = phrase(
                    "{ready} of {replicas} replicas ready; {activity}",
                    ready=len(heads) - len(waiting), replicas=len(heads), activity=activity,
                )  # fmt: skip
            on_progress(activity)
            return False
        on_progress(phrase("asking for a token"))
        self._answers = self._ask_for_tokens()
        return not any(self._answers.values())

    def timeout_error(self) -> LaunchError:
        """See Attempt.timeout_error."""
        first = (self._waiting or self.must_be_ready)[0]
        replica = self.service.replicas[first.replica]
        joining: tuple[str, ...] = ()
        if len(replica.nodes) > 1 and not replica.uses_ray:  # of Ray it is known who is missing
            joining = joining_advice(replica.nodes[1], replica.head, meeting_port(replica))
        longer = phrase("if it was still loading: a higher `serve.start_timeout`")
        return LaunchError(
            phrase("the engine was not ready within {seconds:g} s", seconds=self.timeout),
            where=first.host,
            evidence=tuple(
                phrase("{name}: {reason}", name=name, reason=reason)
                for name, reason in self._answers.items()
                if reason
            ),
            hint=joined((*joining, longer), "\n"),
        )

    def finish(self) -> None:
        """See Attempt.finish. Raises HostError when somebody else has taken the lock."""
        policies = restart_policies(self.service.spec, self.to_start)
        self.lock.ensure_held(policies, phrase("cannot set the restart policy"))

    def diagnose(self, error: BaseException) -> RopewayError | None:
        """See Attempt.diagnose. The logs of all containers are read and saved."""
        outcomes = read_logs(self.hosts, self.runtime, self.to_start, _LOG_LINES)
        texts = (item for outcome in outcomes for item in (outcome.result or {}).items())
        logs = {name: text for name, text in texts if text}
        saved = {name: self.save_log(name, text) for name, text in logs.items()}
        if not isinstance(error, HostError | LaunchError):
            return None
        absent = self._absence(logs)
        missing = {node.name for node in absent.nodes} if absent else set()
        # Of hosts that did not join first, then of the host where it failed.
        names = sorted(
            saved,
            key=lambda name: (
                name.partition("/")[0] not in missing,
                not name.startswith(f"{error.where}/"),
            ),
        )
        if cause := root_cause(logs):
            of_missing = [name for name in names if name.partition("/")[0] in missing]
            first = cause.line.log if cause.line else ""
            paths = [saved.get(name, "") for name in dict.fromkeys((first, *of_missing))]
            return engine_failure(error, cause, paths, absent)
        evidence, hint = error.evidence, error.hint
        if isinstance(error, LaunchError):
            evidence = (*evidence, *(absent.evidence if absent else ()))
            if len(evidence) < 2 and names:
                evidence = (*evidence, *logs[names[0]].strip().splitlines()[-6:])
            advice = (*(absent.advice if absent else ()), *((hint,) if hint else ()))
            hint = joined(advice, "\n")
        if isinstance(error, ConnectionLost):
            hint = phrase(
                "is the host still up? try: {ssh} true\nwhat was started has been removed",
                ssh=self.hosts[error.where or ""].by_hand,
            )
        hints = (*((hint,) if hint else ()), *whole_logs(saved[name] for name in names[:2]))
        hint = joined(hints, "\n") or None
        return type(error)(error.what, where=error.where, evidence=evidence, hint=hint)

    def undo(self) -> LaunchError | None:
        """See Attempt.undo. The error has the commands that finish it."""
        label = f"{RUN}={self.lock.author.run}"

        def remove(host: Host) -> None:
            folder, service = self.service.folder_on(host.name), f"{SERVICE}={self.service.name}"
            args = (self.runtime, label, folder, service, self.lock.author.as_holder())
            result = host.run(("sh", "-c", UNDO, "sh", *args), timeout=180.0)
            result.check(phrase("cannot undo the start"), where=host.name)

        outcomes = run_on_all([self.hosts[site.name] for site in self.service.sites], remove)
        failed = [outcome for outcome in outcomes if outcome.error is not None]
        if not failed:
            return None
        commands = [self._manual_undo(outcome.host) for outcome in failed]
        return LaunchError(
            phrase(
                "the start failed, and {n} of {hosts} could not be cleaned up",
                n=len(failed), hosts=counted(len(outcomes), "host"),
            ),
            where=joined((outcome.host.name for outcome in failed), ", "),
            evidence=told({one.host.name: one.error for one in failed if one.error}),
            hint=joined((phrase("this finishes it:"), *commands), "\n"),
        )  # fmt: skip

    def _manual_undo(self, host: Host) -> str:
        """Return the command that undoes a start on one host.

        The folder, which has the secrets, goes too, unless the service has more there than was
        started.
        """
        names = [one.name for one in self.to_start if one.host == host.name]
        everything = len(names) == len(self.rollout.containers_by_host.get(host.name, ()))
        argvs = [docker.remove_argv(self.runtime, names)] if names else []
        argvs += [("rm", "-rf", "--", self.service.folder_on(host.name))] if everything else []
        commands = "; ".join(map(shlex.join, argvs))
        return f"{host.by_hand} {shlex.quote(commands)}"

    def _write_files(self) -> None:
        """Write programs, scripts and secrets of all hosts, in one command each."""

        def write(host: Host, containers: Sequence[Container]) -> None:
            folder = self.service.folder_on(host.name)
            secrets = [
                File(host.name, f"{folder}/{one.name}.secrets", self._secrets_of(one), 0o600)
                for one in containers
                if one.secrets
            ]
            files = (*self.rollout.files_by_host[host.name], *secrets)
            write_files(host, folder, files, also_make=self.service.site(host.name).cache)

        run_on_parts(self.hosts, self.to_start, write)

    def _secrets_of(self, container: Container) -> bytes:
        """Return the file that the container's script, and nobody else, reads."""
        lines = (
            shlex.join(("export", f"{name}={self.secrets[source or name]}"))
            for name, source in container.secrets.items()
        )
        return "".join(f"{line}\n" for line in lines).encode()

    def _run_containers(self) -> None:
        """Start the containers of all hosts, in one command each."""

        def run(host: Host, containers: Sequence[Container]) -> None:
            argvs = {one.name: run_argv(self.rollout, one, self.lock.author) for one in containers}
            words = (word for name, argv in argvs.items() for word in (name, shlex.join(argv)))
            script, timeout = ("sh", "-c", RUN_EACH), 300.0 * len(argvs)
            result = host.run(script, stdin=shlex.join(words).encode(), timeout=timeout)
            last = next(reversed(result.stdout.split()), "")
            shown = replace(result, argv=argvs.get(last, result.argv))
            shown.check(phrase("cannot start `{container}`", container=last), where=host.name)

        run_on_parts(self.hosts, self.to_start, run)

    def _poll(self) -> dict[str, Status]:
        """Look at the containers that must be ready, and read on in the logs of the heads."""
        label = f"{SERVICE}={self.service.name}"

        def look(host: Host, containers: Sequence[Container]) -> dict[str, Status]:
            logs = {
                one.name: self._logs[one.name]
                for one in containers
                if one.role == HEAD and not _READY.search(self._logs[one.name].text)
            }
            return poll(host, self.runtime, label, logs)

        tables = run_on_parts(self.hosts, self.must_be_ready, look)
        return {name: status for table in tables.values() for name, status in table.items()}

    def _check_alive(self, statuses: Mapping[str, Status]) -> None:
        """Raise LaunchError when a container of this start has ended; HostError when somebody else
        has taken the lock, and has removed one."""
        for container in self.to_start:
            status = statuses.get(container.name)
            if reason := _end_of(status):
                if status is None:
                    self.lock.ensure_held()
                raise LaunchError(
                    phrase(
                        "the {role} on {host} ended while the engine was starting",
                        role=phrase(container.role),
                        host=container.host,
                    ),
                    where=container.host,
                    evidence=(phrase("{name}: {reason}", name=container.name, reason=reason),),
                )

    def _ask_for_tokens(self) -> dict[str, str]:
        replicas, router = self.service.replicas, self.service.router
        endpoints = []
        for container in self.must_be_ready:
            listener = router if container.role == ROUTER else replicas[container.replica]
            if container.role in (HEAD, ROUTER) and listener is not None:
                url = api_url(listener.address, listener.port)
                model = replicas[container.replica].served_name
                endpoints.append(Endpoint(container.host, container.name, url, model))
        return ask_for_tokens(self.hosts, self.runtime, endpoints, _TOKEN_SECONDS)

    def _absence(self, logs: Mapping[str, str]) -> Absence | None:
        """Return the hosts that the first engine lacks of which the head's log says so."""
        for one in self.to_start:
            if one.role == HEAD:
                log = logs.get(log_name(one), "")
                if absent := absence(log, self.service.replicas[one.replica]):
                    return absent
        return None

    def _activity(self, head: Container) -> str:
        """Return what an engine is doing: before it says so itself, which hosts Ray has."""
        log = self._logs[head.name].text
        activity = vllm.activity(log)
        counts = _RAY_COUNT.findall(log)
        if activity != vllm.IMPORTING or not counts:
            return activity
        there, every = counts[-1]
        if not every:
            return phrase("Ray has all hosts")
        return phrase("Ray has {n} of {total} hosts", n=there, total=every)


def write_files(host: Host, folder: str, files: Sequence[File], *, also_make: str) -> None:
    """Write files into a folder of a host, which is made if it is not there, as is `also_make`.

    The contents go over the connection's input, so that a secret stands in no list of processes.
    Raises HostError; then no file has changed.
    """
    content = b"".join(file.content for file in files)
    table = (
        word for file in files for word in (file.name, f"{file.mode:o}", str(len(file.content)))
    )
    argv = ("sh", "-c", WRITE, "sh", folder, also_make, str(len(content)), *table)
    result = host.run(argv, stdin=content, timeout=600.0)
    if not result.ok:
        last = next(reversed(result.stderr.strip().splitlines()), "")
        reason = last.rpartition(": ")[2].lower() or "it does not say why"
        raise cannot_write(f"{folder}/", reason, host.name)


def run_argv(rollout: Rollout, container: Container, author: Author) -> tuple[str, ...]:
    """Return the command that starts a container for this author.

    Raises Refused for labels that are too long.
    """
    spec = rollout.service.spec
    labels = labels_of(rollout, container, author)
    docker.check_labels(spec.runtime.command, labels)
    return docker.run_argv(spec.runtime.command, container, labels, restart=spec.serve.restart)


def restart_policies(spec: Spec, containers: Iterable[Container]) -> dict[str, tuple[str, ...]]:
    """Return host → the command that has the container engine restart these from now on."""
    command = spec.runtime.command
    if not spec.serve.restart or not docker.restarts_later(command):
        return {}
    return {
        host: docker.restart_later_argv(command, [one.name for one in own])
        for host, own in group_by_host(containers).items()
    }


def _end_of(status: Status | None) -> str:
    """Return how a container ended, nothing when it has not.

    One that runs a second time has ended too: podman restarts it even now (docker.restarts_later).
    """
    if status is None:
        return phrase("gone")
    if status.restarts:
        return phrase("started again by the container engine")
    if status.state in ("running", "created"):
        return ""
    return phrase("{state}, exit code {code}", state=status.state, code=status.exit_code)

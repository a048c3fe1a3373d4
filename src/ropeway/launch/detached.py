"""A batch job in a container on the head of its service: whoever began it may leave.

    SERVICE.batch/JOB/    beside the service's own folder, which `down` removes; this one stays
        job.sh            what the container runs
        job.secrets       the key, for the script alone
        ropeway.zip       our own code, for the Python of the engine's image
        inputs/           what was sent
        JOB.jsonl, JOB.errors.jsonl, JOB.jsonl.journal/
        result.json       what `ropeway batch --json` printed at its end
        begun             its container was started before: it waits for the service first
        ended             its exit code: the job is over
        result.before, ended.before    as they were when the job was started again

The container engine starts it again whatever ended it, a reboot or a kill, and the job goes on with
its journal. When the job is over, the container waits until somebody fetches the results.
"""

import re
import shlex
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from ropeway import __version__
from ropeway.engines.vllm import KEY_VARIABLE
from ropeway.errors import HostError, Refused
from ropeway.hosts.base import Host, shell_block
from ropeway.hosts.fleet import run_on_all, run_on_all_or_raise
from ropeway.launch import docker, labels
from ropeway.launch.clock import SYSTEM_CLOCK
from ropeway.launch.container_start import write_files
from ropeway.launch.docker import Container, Mount
from ropeway.launch.labels import Reached, ServiceContainer, containers_on, newest
from ropeway.launch.lock import BASE, Author
from ropeway.launch.logs import LogReader, poll
from ropeway.launch.own_code import own_code
from ropeway.launch.probe import probe_args
from ropeway.launch.programs import program
from ropeway.launch.rollout import HEAD, ROUTER, File
from ropeway.launch.scripts import FOLDER
from ropeway.phrases import phrase
from ropeway.spec.model import Spec

JOBS_OF, JOB = "ropeway.batch", "ropeway.job"  # labels: the service's name; SERVICE.JOB
ROLE = "batch"
NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,29}[a-z0-9])?")
HEAD_FILES = "/head"  # where the job sees what the host has at /
_STOP_SECONDS = 60  # rows in flight are waited for (10 s), then committed
_POLL_SECONDS = 2.0
_LOG_MB = 50

# `set -m`, or the job would ignore Ctrl-C's signal, as all do that a script runs with `&`. What
# ends the container ends no job: without the file `ended` it goes on when it is started again.
_SCRIPT = """\
#!/bin/bash
cd {folder} || exit
[ ! -r job.secrets ] || . ./job.secrets
export PYTHONPATH=/tmp/ropeway${{PYTHONPATH:+:$PYTHONPATH}}
stopped= job=
trap 'stopped=1; [ -z "$job" ] || kill -INT -- "-$job"' TERM INT
start() {{
  set -m; "$@" & job=$!; set +m
  [ -z "$stopped" ] || kill -INT -- "-$job"
}}
pause() {{
  start sleep "$1"
  wait $job
  job=
}}
run() {{
  python3 -m zipfile -e ropeway.zip /tmp/ropeway && exec {run} "$@"
}}
on_disk() {{  # not every image has `sync`
  python3 -c 'import os, sys; [os.fsync(os.open(name, os.O_RDONLY)) for name in sys.argv[1:]]' "$@"
}}
if [ ! -s ended ]; then
  if [ ! -e begun ]; then
    set -- {once}
  else
    echo "ropeway: the job goes on as soon as the service answers"
    until {{ {ask}; }} >/dev/null 2>&1; do
      [ -z "$stopped" ] || exit 130
      pause 5
    done
  fi
  [ -z "$stopped" ] || exit 130
  : >begun
  start run "$@" >result.part
  wait $job
  code=$?
  while kill -0 $job 2>/dev/null; do wait $job; code=$?; done
  job=
  [ -z "$stopped" ] || exit 130
  [ $code -lt 128 ] || exit $code
  echo $code >ended.part && on_disk result.part ended.part || exit
  mv -f result.part result.json && mv -f ended.part ended || exit
fi
echo "ropeway: the job has ended: $(cat ended)"
while [ -z "$stopped" ]; do pause 3600; done
exit 0
"""
# $1 the container engine, $2 the label of the job, $3 its folder; then the command that starts its
# container, and one that has it restarted from now on, or nothing.
_START = """
ids=$("$1" ps --all --quiet --filter "label=$2") || exit
[ -z "$ids" ] || "$1" rm --force $ids >/dev/null || exit
cd -- "$3" && rm -f begun ended.before result.before || exit
[ ! -e ended ] || { mv ended ended.before && mv result.json result.before; } || exit
eval "$4" >/dev/null && eval "$5" >/dev/null
"""
# $1 the folder of a job whose container waits, since it has ended.
_PUT_BACK = """
cd -- "$1" || exit
[ -e ended.before ] || exit 0
mv -f result.before result.json
mv -f ended.before ended && echo 1
"""
# $1 the container engine; then for each job its folder and its container. A line for each: the exit
# code, if it has ended, a space, and how far it was the last time that it said so.
_STATES = """
engine=$1; shift
while [ $# -gt 0 ]; do
  code=$(cat "$1/ended" 2>/dev/null)
  said=$("$engine" logs --tail 400 "$2" 2>&1 | grep '^{"event": "progress"' | tail -n 1)
  printf "%s %s\\n" "$code" "$said"
  shift 2
done
"""
# $1 the container engine, $2 the label of the job, $3 and $4 the names of service and job; then
# folders that it may have too. Prints how many things were there.
_REMOVE = f"""
{BASE}
engine=$1 label=$2 service=$3 job=$4 count=0; shift 4
set -- "$base/$service.batch/$job" "$@"
ids=$("$engine" ps --all --quiet --filter "label=$label") || exit
if [ -n "$ids" ]; then "$engine" rm --force $ids >/dev/null || exit; count=1; fi
for folder; do
  [ -d "$folder" ] || continue
  rm -rf -- "$folder" || exit
  rmdir -- "${{folder%/*}}" 2>/dev/null
  count=1
done
echo $count
"""


@dataclass(frozen=True)
class Place:
    """Where the jobs of a service run, and what they ask.

    host    the name of the host that has the endpoint
    folder  on it, of all its jobs
    urls    of the replicas, as they are used on that host
    spec    that the service was started from
    """

    service: str
    host: str
    folder: str
    runtime: docker.Runtime
    image: str
    urls: tuple[str, ...]
    model: str
    spec: Spec


@dataclass(frozen=True)
class DetachedJob:
    """A job that is to be started.

    argv    the words after `ropeway`, as the container has its files
    once    more of them for its first start: when it is started again it has done what they say
    seen    folders of the host that it reads, at `HEAD_FILES`
    key     of the service; None where it has none
    files   more files for the folder: name → content
    """

    place: Place
    name: str
    argv: tuple[str, ...] = ()
    once: tuple[str, ...] = ()
    seen: tuple[str, ...] = ()
    key: str | None = field(default=None, repr=False)
    files: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """The folder of the job on its host."""
        return f"{self.place.folder}/{self.name}"

    @property
    def script(self) -> str:
        """The script that its container runs."""
        place = self.place
        asks = (
            shlex.join(("python3", f"{FOLDER}/watch.py", *probe_args(url, place.model, 30.0)))
            for url in place.urls
        )
        return _SCRIPT.format(
            folder=FOLDER,
            ask=" || ".join(asks),
            run=shell_block(("python3", "-m", "ropeway", *self.argv, "--json")),
            once=shlex.join(self.once),
        )

    @property
    def container(self) -> Container:
        """Its container: it has no NPU, and sees its own folder and what it reads."""
        return Container(
            host=self.place.host,
            name=f"ropeway-{self.place.service}.{self.name}",  # a service's name has no dot
            role=ROLE,
            replica=0,
            node_rank=0,
            image=self.place.image,
            argv=("bash", f"{FOLDER}/job.sh"),
            mounts=(
                Mount(self.folder, FOLDER),
                *(Mount(path, f"{HEAD_FILES}{path}", read_only=True) for path in self.seen),
            ),
        )

    def written(self) -> tuple[File, ...]:
        """Return the files of its folder, but for the inputs."""
        contents = {
            **self.files,
            "job.sh": self.script.encode(),
            "watch.py": program("watch").encode(),
            "ropeway.zip": own_code(),
        }
        files = [
            File(self.place.host, f"{self.folder}/{name}", content)
            for name, content in contents.items()
        ]
        if self.key is not None:
            secret = f"{shlex.join(('export', f'{KEY_VARIABLE}={self.key}'))}\n".encode()
            files.append(File(self.place.host, f"{self.folder}/job.secrets", secret, 0o600))
        return tuple(files)

    def labels(self, author: Author) -> dict[str, str]:
        """Return the labels of its container: none that the verbs of services look for."""
        return {
            JOBS_OF: self.place.service,
            JOB: f"{self.place.service}.{self.name}",
            labels.RUN: author.run,
            labels.HOST: self.place.host,
            labels.ROLE: ROLE,
            labels.FOLDER: self.folder,
            labels.BY: author.who,
            labels.SINCE: author.since,
            labels.VERSION: __version__,
        }


@dataclass(frozen=True)
class FoundJob:
    """A job whose container is there.

    exit_code  of the job, when it has ended; None while it goes on
    said       how far it was, as a line of JSON; "" where it has not said so yet
    """

    container: ServiceContainer
    exit_code: int | None = None
    said: str = ""

    @property
    def name(self) -> str:
        return self.container.labels[JOB].partition(".")[2]

    @property
    def service(self) -> str:
        return self.container.labels[JOBS_OF]

    @property
    def folder(self) -> str:
        return self.container.folder

    @property
    def state(self) -> str:
        """`ended`, else the state of its container: running, restarting, exited …"""
        return self.container.state if self.exit_code is None else "ended"


def place_of(reached: Reached) -> Place:
    """Return where the jobs of a service run. Raises Refused, or HostError, unless it runs."""
    containers = reached.containers
    heads = [one for one in containers if one.role == HEAD]
    if not heads:
        raise reached.nothing_runs("a job needs its service: `ropeway up`")
    front = next((one for one in containers if one.role == ROUTER), heads[0])
    return Place(
        service=front.service,
        host=front.host,
        folder=f"{front.folder}.batch",
        runtime=reached.runtime,
        image=front.image,
        urls=tuple(one.endpoint for one in heads),
        model=heads[0].model,
        spec=newest(containers).spec,
    )


def mounted_folder(path: str) -> str:
    """Return the folder of the host that a job must see for `path`, which may be a glob.

    Raises Refused for a path that begins nowhere.
    """
    if not path.startswith("/") or ".." in PurePosixPath(path).parts:
        raise Refused(
            phrase("`{path}` is not an absolute path", path=path),
            hint=phrase("name a file of the head like `head:/data/prompts.jsonl`"),
        )
    parts = PurePosixPath(path).parts[:-1]
    plain = next((n for n, part in enumerate(parts) if re.search(r"[*?\[]", part)), len(parts))
    return str(PurePosixPath(*parts[:plain]))


def find_jobs(reached: Reached) -> tuple[FoundJob, ...]:
    """Return the jobs of a service, or of all, on the hosts that answer; those that were stopped
    have no container. Raises HostError when a host cannot be asked."""

    def find(host: Host) -> list[FoundJob]:
        found = containers_on(host, reached.runtime, reached.name, key=JOBS_OF)
        if not found:
            return []
        words = [word for one in found for word in (one.folder, one.name)]
        result = host.run(("sh", "-c", _STATES, "sh", reached.runtime, *words), timeout=60.0)
        result.check(phrase("cannot look at batch jobs"), where=host.name)
        lines = result.stdout.split("\n")
        return [_found(one, line) for one, line in zip(found, lines, strict=False)]

    outcomes = run_on_all(reached.answering, find)
    for outcome in outcomes:
        if outcome.error is not None:
            raise outcome.error
    return tuple(job for outcome in outcomes for job in outcome.result or ())


def _found(container: ServiceContainer, line: str) -> FoundJob:
    code, _, said = line.partition(" ")
    return FoundJob(container, int(code) if code.isdigit() else None, said)


def start_job(host: Host, job: DetachedJob, author: Author) -> None:
    """Write a job's files and start its container, in place of one that has ended.

    Raises HostError, or Refused for labels that are too long.
    """
    runtime, container = job.place.runtime, job.container
    marks = job.labels(author)
    docker.check_labels(runtime, marks)
    write_files(host, job.folder, job.written(), also_make=f"{job.folder}/inputs")
    run = shlex.join(docker.run_argv(runtime, container, marks, restart=True, log_mb=_LOG_MB))
    later = docker.restart_later_argv(runtime, [container.name])
    again = shlex.join(later) if docker.restarts_later(runtime) else ""
    label = f"{JOB}={marks[JOB]}"
    argv = ("sh", "-c", _START, "sh", runtime, label, job.folder, run, again)
    result = host.run(argv, timeout=300.0)
    result.check(phrase("cannot start the batch job"), where=host.name)


def follow_job(
    host: Host,
    runtime: docker.Runtime,
    job: FoundJob,
    on_line: Callable[[str], bool],
) -> int | None:
    """Hand on what a job says, every two seconds; return its exit code once it has ended.

    on_line  is given each line; when it returns True, that is enough, and None is returned
    Raises HostError when the host cannot be asked, or the job is there no more.
    """
    name, label = job.container.name, f"{JOB}={job.container.labels[JOB]}"
    log, last, ends = LogReader(), deque[str](maxlen=3), 0
    while True:
        code = _exit_code(host, job)  # first, so that nothing comes after the log that is read
        status = poll(host, runtime, label, {name: log}).get(name)
        for line in log.take():
            last.append(line)
            if on_line(line.partition(" ")[2]):
                return None
        if code is not None:
            return code
        # podman shows one that it is about to start again as exited.
        ends = ends + 1 if status and status.state in ("exited", "dead") else 0
        if status is None or ends > 1:
            raise HostError(
                phrase("the batch job `{name}` was stopped", name=job.name),
                where=host.name,
                evidence=tuple(last),
                hint=phrase("the command that began it goes on, with what was committed"),
            )
        SYSTEM_CLOCK.sleep(_POLL_SECONDS)


def _exit_code(host: Host, job: FoundJob) -> int | None:
    """Return the exit code of a job; None while it goes on. Raises HostError."""
    script = 'cat -- "$1" 2>/dev/null; :'
    code = host.run(("sh", "-c", script, "sh", f"{job.folder}/ended")).stdout.strip()
    return int(code) if code.isdigit() else None


def put_back(host: Host, job: FoundJob) -> bool:
    """Undo the start of a job that refused: return whether one had ended there, which has ended
    again as it had. Its results are to be fetched still. Raises HostError."""
    result = host.run(("sh", "-c", _PUT_BACK, "sh", job.folder))
    result.check(phrase("cannot look at batch jobs"), where=host.name)
    return result.stdout.strip() == "1"


def stop_job(host: Host, runtime: docker.Runtime, job: FoundJob) -> None:
    """Have a job commit what it has, and remove its container; its folder stays.

    Raises HostError.
    """
    stop = (runtime, "stop", "--time", str(_STOP_SECONDS), job.container.name)
    for argv in (stop, docker.remove_argv(runtime, [job.container.name])):
        result = host.run(argv, timeout=_STOP_SECONDS + 120.0)
        result.check(phrase("cannot stop the batch job"), where=host.name)


def remove_job(reached: Reached, service: str, name: str, folders: Sequence[str] = ()) -> bool:
    """Remove all of a job from the hosts, running or not; return whether there was anything.

    folders  where its container has it; without one it is looked for where jobs usually are
    Raises HostError.
    """

    own = [one for one in folders if one.endswith(f"/{service}.batch/{name}")]  # what we make

    def remove(host: Host) -> bool:
        words = (reached.runtime, f"{JOB}={service}.{name}", service, name, *own)
        result = host.run(("sh", "-c", _REMOVE, "sh", *words), timeout=600.0)
        result.check(phrase("cannot remove the batch job"), where=host.name)
        return result.stdout.strip() == "1"

    hosts = {host.name: host for host in reached.answering}
    return any(run_on_all_or_raise(hosts, remove).values())

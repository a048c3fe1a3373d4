"""What containers write: read, merged by time, followed; and a look at those that start."""

import heapq
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from operator import itemgetter

from ropeway.errors import HostError
from ropeway.hosts.base import Host
from ropeway.hosts.fleet import (
    Hosts,
    Outcome,
    WorkerPool,
    check_parallel,
    group_by_host,
    run_on_all,
)
from ropeway.hosts.interrupts import uninterrupted
from ropeway.launch import docker
from ropeway.launch.docker import Container
from ropeway.launch.labels import Reached, ServiceContainer
from ropeway.phrases import phrase

# How long a line waits for earlier ones of other hosts, when logs are followed.
_REORDER_SECONDS = 0.7
MERGED = '"$@" 2>&1'  # run a command with its errors in its output


@dataclass(frozen=True, order=True)
class Line:
    """A line of a log: its time (RFC 3339, UTC), who wrote it, what."""

    time: str
    source: str
    text: str


def read_logs(
    hosts: Hosts,
    runtime: docker.Runtime,
    containers: Sequence[Container | ServiceContainer],
    lines: int,
) -> tuple[Outcome[dict[str, str]], ...]:
    """Read the last lines of each container's log.

    Return, for each host, `host/container` → lines, each with its time; empty where there is no
    log.
    """
    by_host = group_by_host(containers)

    def read(host: Host) -> dict[str, str]:
        texts = {}
        for container in by_host[host.name]:
            argv = docker.logs_argv(runtime, container.name, lines=lines)
            result = host.run(("sh", "-c", MERGED, "sh", *argv), timeout=60.0)
            texts[log_name(container)] = result.stdout if result.ok else ""
        return texts

    return run_on_all([hosts[name] for name in by_host], read)


def log_name(container: Container | ServiceContainer) -> str:
    """Return the name of a container's log: `host/container`."""
    return f"{container.host}/{container.name}"


def recent_lines(
    reached: Reached, containers: Sequence[ServiceContainer], lines: int
) -> tuple[Line, ...]:
    """Return the last lines of each container, by time. Raises the first host's error."""
    texts: dict[str, str] = {}
    for outcome in read_logs(reached.hosts, reached.runtime, containers, lines):
        if outcome.error is not None:
            raise outcome.error
        texts |= outcome.result or {}
    return in_order(lines_of(one.source, texts[log_name(one)]) for one in containers)


def in_order(logs: Iterable[Iterable[Line]]) -> tuple[Line, ...]:
    """Return the lines of several logs by time; one without a time stays behind its predecessor.

    Not even one log is in order: the container engine copies standard output and standard error
    each by itself.
    """

    def timed(log: Iterable[Line]) -> Iterator[tuple[str, Line]]:
        last = ""
        for line in log:
            last = line.time or last
            yield last, line

    pairs = chain.from_iterable(map(timed, logs))
    return tuple(line for _, line in sorted(pairs, key=itemgetter(0)))


def follow(reached: Reached, read: Sequence[Line], on_line: Callable[[Line], None]) -> None:
    """Hand on what all containers write after the lines that were read, nearly in time order, until
    all have ended.

    Each container takes a session of its own over the connection; Ctrl-C ends them all.
    """
    check_parallel(len(reached.containers), phrase("to follow so many logs"))
    pool = WorkerPool(len(reached.containers))
    held: list[tuple[Line, float]] = []  # each for a moment: an earlier one may come
    running = len(reached.containers)

    def hold_back(line: Line) -> None:
        heapq.heappush(held, (line, time.monotonic()))

    def listen(container: ServiceContainer, host: Host) -> None:
        since = max((line.time for line in read if line.source == container.source), default="")
        # What has this time comes again: `--since` includes it.
        before = {line for line in read if (line.source, line.time) == (container.source, since)}

        def on_text(text: str) -> None:
            if (line := line_of(container.source, text)) not in before:
                pool.post(partial(hold_back, line))

        argv = docker.logs_argv(reached.runtime, container.name, since=since, follow=True)
        run = ("sh", "-c", f"exec {MERGED}", "sh", *argv)
        host.run(run, timeout=30 * 86_400.0, on_line=on_text)

    def on_end(container: ServiceContainer, outcome: Outcome[None]) -> None:
        nonlocal running
        running -= 1
        if outcome.error is not None:
            hold_back(Line("", container.source, f"ropeway: {outcome.error}"))

    try:
        with uninterrupted():
            for one in reached.containers:
                pool.submit(reached.hosts[one.host], partial(listen, one), partial(on_end, one))
        while running or held:
            pool.handle_next(0.1)
            while held and (not running or time.monotonic() - held[0][1] > _REORDER_SECONDS):
                on_line(heapq.heappop(held)[0])
    finally:
        with uninterrupted():
            pool.shutdown("the log is no longer followed")


def lines_of(source: str, text: str) -> list[Line]:
    """Split what a container engine printed into lines.

    Not where `splitlines` does: what a progress bar has behind its "\\r" has no time of its own.
    """
    return [line_of(source, line) for line in text.split("\n") if line]


def line_of(source: str, text: str) -> Line:
    """Split a line of a container engine into its time and the text after it."""
    stamp, _, rest = text.partition(" ")
    if not stamp[:4].isdigit():
        return Line("", source, text)
    return Line(docker.in_utc(stamp), source, rest)


MOST_LINES, MOST_BYTES = 4000, 4_000_000  # of one log at a time; the first line may be cut
LOG = "== "  # before a container's name; each line of a log begins with its time
STATUS_FORMAT = "{{.Name}} {{.State.Status}} {{.State.ExitCode}} {{.RestartCount}}"

# $1 the container engine, $2 the service's label; then, for each log that is to be read, the
# container's name and the time from which on, or nothing.
POLL = f"""
engine=$1 label=$2; shift 2
ids=$("$engine" ps --all --quiet --no-trunc --filter "label=$label") || exit
[ -z "$ids" ] || "$engine" inspect --type container --format '{STATUS_FORMAT}' $ids || exit
while [ $# -gt 0 ]; do
  echo "{LOG}$1"
  "$engine" logs --timestamps --tail {MOST_LINES} ${{2:+--since "$2"}} "$1" 2>&1 |
    tail -c {MOST_BYTES}
  shift 2
done
true
"""


@dataclass(frozen=True)
class Status:
    """How a container is: its state as the engine calls it, its last exit code, its restarts."""

    state: str
    exit_code: int
    restarts: int


class LogReader:
    """The log of one container, read piece by piece."""

    def __init__(self) -> None:
        self.text = ""
        self._lines: list[str] = []
        self.since = ""

    def add(self, lines: list[str]) -> None:
        """Append new lines. The last one read before may be among them: `--since` includes it."""
        fresh = [line for line in lines if not self.since or line not in self._lines]
        if not fresh:
            return
        stamp = fresh[-1].partition(" ")[0]
        if stamp[:4].isdigit():
            self.since, self._lines = stamp, [line for line in fresh if line.startswith(stamp)]
        self.text += "".join(f"{line}\n" for line in fresh)

    def take(self) -> list[str]:
        """Return the lines that were read since the last call, and forget them."""
        lines, self.text = self.text.split("\n")[:-1], ""
        return lines


def poll(
    host: Host, runtime: docker.Runtime, label: str, logs: Mapping[str, LogReader]
) -> dict[str, Status]:
    """Return the containers of a host that have this label; new lines go into `logs`, by name.

    Raises HostError when the host cannot be asked.
    """
    args = (word for name, log in logs.items() for word in (name, log.since))
    result = host.run(("sh", "-c", POLL, "sh", runtime, label, *args), timeout=60.0)
    result.check(phrase("`{command}` does not answer", command=runtime), where=host.name)
    table, *pieces = f"\n{result.stdout}".split(f"\n{LOG}")
    for piece in pieces:
        name, *lines = piece.removesuffix("\n").split("\n")  # a progress bar has "\r" in a line
        logs[name].add(lines)
    try:
        return dict(_status(line) for line in table.split("\n") if line)
    except ValueError as error:
        raise HostError(
            phrase("the container engine's answer cannot be read"),
            where=host.name,
            evidence=(table[:200],),
        ) from error


def _status(line: str) -> tuple[str, Status]:
    name, state, code, restarts = line.split()
    return name.lstrip("/"), Status(state, int(code), int(restarts))

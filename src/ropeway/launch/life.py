"""What runs on the hosts, and what can be done to it: known by labels alone."""

import heapq
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ropeway.errors import HostError, RopewayError
from ropeway.hosts.base import Host, Result
from ropeway.hosts.child import CancelToken, cancellable
from ropeway.hosts.fleet import Hosts, group_by_host, run_on_all, run_on_all_or_raise, select
from ropeway.launch import docker
from ropeway.launch.labels import SERVICE, Found, containers_on
from ropeway.launch.lock import BASE

_PATIENCE = 10  # seconds that a container has to end by itself
# How long a line waits for earlier ones of other hosts, when logs are followed.
_REORDER = 0.7

# Ends, removes, and looks again; $1 the container engine, $2 the label, $3 seconds, $4 the service,
# and then its folders as the labels have them.
DOWN = f"""
{BASE}
runtime=$1 label=$2 patience=$3; shift 3
name=$1; shift; set -- "$base/$name" "$@"
count=0
for turn in 1 2 3; do
  ids=$("$runtime" ps --all --quiet --filter "label=$label") || exit
  [ -n "$ids" ] || break
  set -f; for id in $ids; do count=$((count + 1)); done
  [ $turn -gt 1 ] || "$runtime" stop --time "$patience" $ids >/dev/null 2>&1
  "$runtime" rm --force $ids >/dev/null || exit
done
for folder; do rm -rf -- "$folder" || exit; done
echo "$count"
"""


@dataclass(frozen=True)
class State:
    """What runs of one service, or of all.

    found     containers, by host and rank
    failures  hosts that did not answer
    """

    found: tuple[Found, ...]
    failures: Mapping[str, RopewayError]

    @property
    def services(self) -> tuple[str, ...]:
        return tuple(sorted({one.service for one in self.found}))

    def of(self, service: str) -> "State":
        """Only what belongs to this service."""
        mine = tuple(one for one in self.found if one.service == service)
        return State(mine, self.failures)


def look(hosts: Hosts, runtime: docker.Runtime, service: str | None = None) -> State:
    """Ask all hosts. One that does not answer is told of, and no error."""
    outcomes = run_on_all(tuple(hosts.values()), lambda host: containers_on(host, runtime, service))
    found = [one for outcome in outcomes for one in outcome.result or ()]
    order = {name: number for number, name in enumerate(hosts)}
    found.sort(key=lambda one: (one.service, one.replica, one.rank, order[one.host], one.name))
    return State(
        tuple(found),
        {one.host.name: one.error for one in outcomes if one.error is not None},
    )


def take_down(hosts: Hosts, runtime: docker.Runtime, service: str, state: State) -> int:
    """Remove the service's containers and folders; returns how many containers there were.

    Raises HostError when a host could not be cleaned up; the others are.
    """
    folders: dict[str, set[str]] = {name: set() for name in hosts}
    for one in state.found:
        if one.folder.endswith(f"/{service}"):  # it is removed: nothing but what we make
            folders[one.host].add(one.folder)

    def down(host: Host) -> int:
        label = f"{SERVICE}={service}"
        given = (runtime, label, str(_PATIENCE), service, *sorted(folders[host.name]))
        result = host.run(("sh", "-c", DOWN, "sh", *given), timeout=180.0)
        return int(result.check("cannot take it down", where=host.name).stdout or 0)

    outcomes = run_on_all(tuple(hosts.values()), down)
    failed = [one for one in outcomes if one.error is not None]
    if failed:
        raise HostError(
            f"`{service}` could not be taken down on {len(failed)} of {len(outcomes)} hosts",
            where=", ".join(one.host.name for one in failed),
            evidence=tuple(f"{one.host.name}: {one.error}" for one in failed),
            hint="`ropeway down` again, once they can be reached",
        )
    return sum(one.result or 0 for one in outcomes)


def restart(hosts: Hosts, runtime: docker.Runtime, which: Sequence[Found]) -> None:
    """Restart containers, all at once: the ranks of a replica cannot go on without each other."""
    mine = group_by_host(which)

    def again(host: Host) -> None:
        names = [one.name for one in mine[host.name]]
        argv = docker.again_argv(runtime, names, _PATIENCE)
        host.run(argv, timeout=180.0).check("cannot restart it", where=host.name)

    run_on_all_or_raise(select(hosts, mine), again)


def run_in(hosts: Hosts, runtime: docker.Runtime, one: Found, argv: Sequence[str]) -> Result:
    """Run a command in a container, with its environment. Raises HostError."""
    return hosts[one.host].run(docker.exec_argv(runtime, one.name, argv), timeout=86_400.0)


@dataclass(frozen=True, order=True)
class Line:
    """A line of a log: its time (RFC 3339, UTC), who wrote it, what."""

    time: str
    source: str
    text: str


def past(
    hosts: Hosts, runtime: docker.Runtime, which: Sequence[Found], lines: int
) -> tuple[Line, ...]:
    """The last lines of all containers together, by time."""
    mine = group_by_host(which)

    def read(host: Host) -> list[list[Line]]:
        found = []
        for one in mine[host.name]:
            argv = docker.logs_argv(runtime, one.name, lines=lines)
            result = host.run(("sh", "-c", '"$@" 2>&1', "sh", *argv), timeout=60.0)
            found.append([line_of(source_of(one), text) for text in result.stdout.splitlines()])
        return found

    outcomes = run_on_all_or_raise(select(hosts, mine), read)
    merged = heapq.merge(*(rows for several in outcomes.values() for rows in several))
    return tuple(merged)[-lines:] if lines else ()


def follow(
    hosts: Hosts, runtime: docker.Runtime, which: Sequence[Found], say: Callable[[Line], None]
) -> None:
    """Hand on new lines of all containers, nearly in the order of their times, until they all end.

    Each container is a connection's session of its own; Ctrl-C ends them all.
    """
    heard: queue.Queue[Line | None] = queue.Queue()
    stop = CancelToken()

    def hear(one: Found) -> None:
        argv = docker.logs_argv(runtime, one.name, lines=0, follow=True)
        source = source_of(one)
        try:
            with cancellable(stop):
                hosts[one.host].run(
                    ("sh", "-c", 'exec "$@" 2>&1', "sh", *argv),
                    timeout=30 * 86_400.0,
                    on_line=lambda text: heard.put(line_of(source, text)),
                )
        except RopewayError as error:
            heard.put(Line("", source, f"ropeway: {error}"))
        finally:
            heard.put(None)

    threads = [threading.Thread(target=hear, args=(one,), daemon=True) for one in which]
    try:
        for thread in threads:
            thread.start()
        for line in _in_order(heard, len(threads)):
            say(line)
    finally:
        stop.cancel("the log is no longer followed")
        for thread in threads:
            thread.join(5.0)


def _in_order(heard: "queue.Queue[Line | None]", sources: int) -> Iterator[Line]:
    """Lines as they come, each held back a moment for earlier ones of other hosts."""
    held: list[tuple[Line, float]] = []
    while sources or held:
        try:
            line = heard.get(timeout=0.1)
            if line is None:
                sources -= 1
            else:
                heapq.heappush(held, (line, time.monotonic()))
        except queue.Empty:
            pass
        while held and (not sources or time.monotonic() - held[0][1] > _REORDER):
            yield heapq.heappop(held)[0]


def source_of(one: Found) -> str:
    """`192.168.0.11 head`, with the replica's number where there are several."""
    return f"{one.host} {one.role}" + (f" {one.replica}" if one.replica else "")


def line_of(source: str, text: str) -> Line:
    """Take the time off that the container engine puts before each line."""
    stamp, _, rest = text.partition(" ")
    if not stamp[:4].isdigit():
        return Line("", source, text)
    return Line(docker.in_utc(stamp), source, rest)

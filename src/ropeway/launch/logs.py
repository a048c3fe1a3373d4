"""What containers write: read, merged by time, followed."""

import heapq
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ropeway.errors import RopewayError
from ropeway.hosts.base import Host
from ropeway.hosts.child import CancelToken, cancellable
from ropeway.hosts.fleet import Hosts, group_by_host, run_on_all, select
from ropeway.launch import docker
from ropeway.launch.docker import Container
from ropeway.launch.labels import ServiceContainer

# How long a line waits for earlier ones of other hosts, when logs are followed.
_REORDER_SECONDS = 0.7
MERGED = '"$@" 2>&1'  # run a command with its errors in its output


@dataclass(frozen=True, order=True)
class Line:
    """A line of a log: its time (RFC 3339, UTC), who wrote it, what."""

    time: str
    source: str
    text: str


@dataclass(frozen=True)
class Logs:
    """The ends of several logs.

    texts     `host/container` → lines, each with its time; empty where there is no log
    failures  hosts that did not answer
    """

    texts: Mapping[str, str]
    failures: Mapping[str, RopewayError]


def read_logs(
    hosts: Hosts,
    runtime: docker.Runtime,
    containers: Sequence[Container | ServiceContainer],
    lines: int,
) -> Logs:
    """Read the last lines of each container's log."""
    by_host = group_by_host(containers)

    def read(host: Host) -> dict[str, str]:
        texts = {}
        for container in by_host[host.name]:
            argv = docker.logs_argv(runtime, container.name, lines=lines)
            result = host.run(("sh", "-c", MERGED, "sh", *argv), timeout=60.0)
            texts[log_name(container)] = result.stdout if result.ok else ""
        return texts

    outcomes = run_on_all(tuple(select(hosts, by_host).values()), read)
    return Logs(
        {name: text for outcome in outcomes for name, text in (outcome.result or {}).items()},
        {outcome.host.name: outcome.error for outcome in outcomes if outcome.error is not None},
    )


def log_name(container: Container | ServiceContainer) -> str:
    """Return the name of a container's log: `host/container`."""
    return f"{container.host}/{container.name}"


def recent_lines(
    hosts: Hosts, runtime: docker.Runtime, containers: Sequence[ServiceContainer], lines: int
) -> tuple[Line, ...]:
    """Return the last lines of all containers together, by time. Raises the first host's error."""
    logs = read_logs(hosts, runtime, containers, lines)
    for error in logs.failures.values():
        raise error
    merged = heapq.merge(
        *(
            [line_of(source_of(one), text) for text in logs.texts[log_name(one)].splitlines()]
            for one in containers
        )
    )
    return tuple(merged)[-lines:] if lines else ()


def follow(
    hosts: Hosts,
    runtime: docker.Runtime,
    containers: Sequence[ServiceContainer],
    on_line: Callable[[Line], None],
) -> None:
    """Hand on new lines of all containers, nearly in the order of their times, until all end.

    Each container takes a session of its own over the connection; Ctrl-C ends them all.
    """
    incoming: queue.Queue[Line | None] = queue.Queue()
    stop = CancelToken()

    def listen(container: ServiceContainer) -> None:
        argv = docker.logs_argv(runtime, container.name, lines=0, follow=True)
        source = source_of(container)
        try:
            with cancellable(stop):
                hosts[container.host].run(
                    ("sh", "-c", f"exec {MERGED}", "sh", *argv),
                    timeout=30 * 86_400.0,
                    on_line=lambda text: incoming.put(line_of(source, text)),
                )
        except RopewayError as error:
            incoming.put(Line("", source, f"ropeway: {error}"))
        finally:
            incoming.put(None)

    threads = [
        threading.Thread(target=listen, args=(container,), daemon=True) for container in containers
    ]
    try:
        for thread in threads:
            thread.start()
        for line in _in_order(incoming, len(threads)):
            on_line(line)
    finally:
        stop.cancel("the log is no longer followed")
        for thread in threads:
            thread.join(5.0)


def _in_order(incoming: "queue.Queue[Line | None]", sources: int) -> Iterator[Line]:
    """Yield lines as they come, each held back a moment for earlier ones of other hosts."""
    held: list[tuple[Line, float]] = []
    while sources or held:
        try:
            line = incoming.get(timeout=0.1)
            if line is None:
                sources -= 1
            else:
                heapq.heappush(held, (line, time.monotonic()))
        except queue.Empty:
            pass
        while held and (not sources or time.monotonic() - held[0][1] > _REORDER_SECONDS):
            yield heapq.heappop(held)[0]


def source_of(container: ServiceContainer) -> str:
    """Return `192.168.0.11 head`, with the replica's number where there are several."""
    number = f" {container.replica}" if container.replica else ""
    return f"{container.host} {container.role}{number}"


def line_of(source: str, text: str) -> Line:
    """Split a line of a container engine into its time and the text behind it."""
    stamp, _, rest = text.partition(" ")
    if not stamp[:4].isdigit():
        return Line("", source, text)
    return Line(docker.in_utc(stamp), source, rest)

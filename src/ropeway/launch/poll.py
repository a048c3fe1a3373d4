"""A look at starting containers: few bytes, however much the engine writes."""

from collections.abc import Mapping
from dataclasses import dataclass

from ropeway.errors import HostError
from ropeway.hosts.base import Host
from ropeway.launch import docker

MOST_LINES = 4000  # of one log at a time
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
  "$engine" logs --timestamps --tail {MOST_LINES} ${{2:+--since "$2"}} "$1" 2>&1
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
        """Append new lines. The last one of before may be among them: `--since` includes it."""
        fresh = [line for line in lines if not self.since or line not in self._lines]
        if not fresh:
            return
        stamp = fresh[-1].partition(" ")[0]
        if stamp[:4].isdigit():
            self.since, self._lines = stamp, [line for line in fresh if line.startswith(stamp)]
        self.text += "".join(f"{line}\n" for line in fresh)


def poll(
    host: Host, runtime: docker.Runtime, label: str, logs: Mapping[str, LogReader]
) -> dict[str, Status]:
    """Return the containers of a host that have this label; new lines go into `logs`, by name.

    Raises HostError when the host cannot be asked.
    """
    args = (word for name, log in logs.items() for word in (name, log.since))
    result = host.run(("sh", "-c", POLL, "sh", runtime, label, *args), timeout=60.0)
    result.check(f"`{runtime}` does not answer", where=host.name)
    table, *pieces = f"\n{result.stdout}".split(f"\n{LOG}")
    for piece in pieces:
        name, *lines = piece.removesuffix("\n").split("\n")  # a progress bar has "\r" in a line
        logs[name].add(lines)
    try:
        return dict(_status(line) for line in table.split("\n") if line)
    except ValueError as error:
        raise HostError(
            "the container engine's answer cannot be read",
            where=host.name,
            evidence=(table[:200],),
        ) from error


def _status(line: str) -> tuple[str, Status]:
    name, state, code, restarts = line.split()
    return name.lstrip("/"), Status(state, int(code), int(restarts))

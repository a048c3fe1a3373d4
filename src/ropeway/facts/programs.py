"""Which programs of Ray, and of engines, run on a host."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ropeway.facts.base import Output, Reading
from ropeway.facts.printed import printed, refusal, seen, whole

# The brackets keep a pattern from finding the very command that carries it.
_PROGRAMS = """\
ps -eo pid,ppid,user,args |
  grep -E '[g]cs_server|[r]aylet|[r]ay::|[v]llm|[V]LLM::|[m]indie' | cut -c1-500
true"""
COMMANDS: Mapping[str, tuple[str, ...]] = {"ps": ("sh", "-c", _PROGRAMS)}


@dataclass(frozen=True)
class HostProcess:
    """A program that runs on the host; secrets are taken out of `command`."""

    pid: int
    parent: int | None
    user: str
    kind: Literal["ray-head", "ray-node", "ray-worker", "engine", "other"]
    command: str


@dataclass(frozen=True)
class HostProcesses:
    """In the order of the output; there may be none."""

    processes: tuple[HostProcess, ...]


def parse_processes(text: str) -> Reading[HostProcesses]:
    """Read `ps -eo pid,ppid,user,args`, `ps -ef` or `ps aux`. No output: no such process."""
    if not text.strip():
        return Reading.of(HostProcesses(()))
    out = printed(text, "ps")
    found = []
    unread = []
    for line in out.lines:
        process = _process(line)
        if process:
            found.append(process)
        elif not _PS_HEADER.match(line):
            unread.append(line)
    if not found:
        return refusal(text)
    return Reading.of(HostProcesses(tuple(found)), tuple(unread), cut=out.cut)


def _process(line: str) -> HostProcess | None:
    for pattern in _PS_ROWS:
        found = pattern.match(line)
        if found:
            command = _SECRET.sub(r"\1…", found["command"])
            parent = found.groupdict().get("parent")
            return HostProcess(
                pid=int(found["pid"]),
                parent=whole(parent) if parent else None,
                user=found["user"],
                kind=next((kind for kind, mark in _KINDS if mark.search(command)), "other"),
                command=command,
            )
    return None


_PS_HEADER = re.compile(r"\s*(?:UID|USER|PID)\s+(?:PID|PPID|USER)\b")
_PS_ROWS = (
    re.compile(r"\s*(?P<pid>[0-9]{1,10})\s+(?P<parent>[0-9]{1,10})\s+(?P<user>\S+)\s+(?P<command>\S.*)"),
    re.compile(
        r"(?P<user>\S+)\s+(?P<pid>[0-9]{1,10})\s+(?P<parent>[0-9]{1,10})\s+[0-9]{1,4}\s+\S+\s+\S+"
        r"\s+[0-9:-]{5,20}\s+(?P<command>\S.*)"
    ),
    re.compile(
        r"(?P<user>\S+)\s+(?P<pid>[0-9]{1,10})\s+[0-9.]{1,8}\s+[0-9.]{1,8}\s+[0-9]{1,15}\s+[0-9]{1,15}"
        r"\s+\S+\s+[A-Z]\S*\s+\S+\s+[0-9:-]{4,20}\s+(?P<command>\S.*)"
    ),
)  # fmt: skip
_SECRET = re.compile(
    r"((?:--(?:api-key|hf-token|token|redis-password)|redis_password|RAY_REDIS_PASSWORD)[= ])\S+"
)
_KINDS: tuple[tuple[Literal["ray-head", "ray-node", "ray-worker", "engine"], re.Pattern[str]], ...]
_KINDS = (
    ("ray-head", re.compile(r"\bgcs_server\b")),
    ("ray-node", re.compile(r"raylet/raylet\b|(?:^|/)raylet(?:\s|$)")),
    ("ray-worker", re.compile(r"^ray::")),
    ("engine", re.compile(r"\bvllm serve\b|vllm\.entrypoints|VLLM::|\bmindie", re.IGNORECASE)),
)

_PROCESS_LINE = re.compile(
    r"^[> \t]*(?:UID +PID +PPID|USER +PID +%CPU|PID +PPID +USER)\b|\bgcs_server\b.{0,400}--session"
    r"|/raylet/raylet --",
    re.MULTILINE,
)

OUTPUTS: tuple[Output[Any], ...] = (
    Output(
        "ps",
        "ps -eo pid,ppid,user,args",
        parse_processes,
        lambda text: seen(text, 0.8, _PROCESS_LINE),
    ),
)

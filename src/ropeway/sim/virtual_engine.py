"""What the container of a virtual engine writes, and when: it follows from its script and peers.

Nothing runs. A container's script is read for what it would do, and its log up to now is computed
when somebody looks. Lines are those of Ropeway's own programs and of vLLM 0.23 under vLLM-Ascend,
those that engines/vllm.py knows; times are made up.
"""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ropeway.sim.machine import LaunchFaults

Line = tuple[float, str]


@dataclass(frozen=True)
class Pace:
    """How long things take, in seconds.

    latency  of a command, there and back
    pull     of an image
    begin    until a container's script does something
    join     until a worker that has begun is known to the head
    start    from there, when all are known, to the first token
    sleeps   by how much a `sleep` in a script is longer than it says
    """

    latency: float = 0.0
    pull: float = 0.0
    begin: float = 0.0
    join: float = 0.0
    start: float = 0.0
    sleeps: float = 1.0


@dataclass(frozen=True)
class Part:
    """What a container's script has it do.

    meeting   ADDRESS:PORT where the parts of a replica meet; None for one that is alone
    brings    how much of what the head `needs` this part is
    patience  seconds that the head of a Ray waits for the others
    model     what it serves, and on which port
    """

    role: Literal["head", "worker", "router"]
    meeting: str | None = None
    ray: bool = False
    address: str = ""
    brings: int = 1
    needs: int = 1
    patience: float = 0.0
    model: str = ""
    port: str = ""


@dataclass(frozen=True)
class Incarnation:
    """A container since it was last started; `npus` is how many it holds."""

    part: Part
    began: float
    npus: int
    faults: LaunchFaults


@dataclass(frozen=True)
class LogScript:
    """A container's lines with their times, future ones too; when it ends by itself, and how.

    met    when all parts have met
    token  when it generates its first token
    """

    lines: tuple[Line, ...]
    ends: float | None = None
    code: int = 0
    met: float | None = None
    token: float | None = None

    def until(self, now: float) -> tuple[Line, ...]:
        """Return the lines that are written by now."""
        return tuple(line for line in self.lines if line[0] <= now)


# Lines of a script that say which part its container has.
_READ = ("ray start ", "python3 ", "vllm serve ", "exec python3 ")


def part_of(script: str) -> Part:
    """Read the script of a container, as launch/scripts.py writes it."""
    ray: dict[str, str] = {}
    nodes: list[str] = []
    model = port = ""
    for line in script.replace("\\\n", " ").splitlines():
        line = line.removeprefix("{ ")  # a group of commands: its first one
        if not line.startswith(_READ):
            continue
        words = shlex.split(line)
        if words[:2] == ["ray", "start"]:
            ray = _flags(words)
        elif words[:1] == ["python3"] and words[1].endswith("/nodes.py"):
            nodes = words[2:]
        elif words[:2] == ["vllm", "serve"]:
            model, port = words[2], _flags(words).get("--port", "")
            if not ray:
                return replace(_vllm(_flags(words)), model=model, port=port)
        elif words[:2] == ["exec", "python3"]:
            return Part("router")
    address = ray.get("--node-ip-address", "")
    if "--head" in ray:
        meeting = f"{address}:{ray['--port']}"
        needs, patience = int(nodes[0]), float(nodes[2])
        part = Part("head", meeting, True, address, needs=needs, patience=patience)
        return replace(part, model=model, port=port)
    return Part("worker", ray.get("--address"), True, address)


def _vllm(flags: dict[str, str]) -> Part:
    """Read the flags of a part of vLLM's own multi-host modes, or of one that is alone."""
    role: Literal["head", "worker"] = "worker" if "--headless" in flags else "head"
    if "--nnodes" in flags:
        meeting = f"{flags['--master-addr']}:{flags['--master-port']}"
        return Part(role, meeting, needs=int(flags["--nnodes"]))
    if "--data-parallel-address" in flags:
        meeting = f"{flags['--data-parallel-address']}:{flags['--data-parallel-rpc-port']}"
        share, whole = flags["--data-parallel-size-local"], flags["--data-parallel-size"]
        return Part(role, meeting, brings=int(share), needs=int(whole))
    return Part("head")


def log_script_of(me: Incarnation, others: Sequence[Incarnation], pace: Pace) -> LogScript:
    """Return what `me` writes. `others` are the containers that meet where this one does."""
    if me.part.role == "router":
        listens = me.began + pace.begin
        return LogScript(((listens, "ropeway: the router listens"),), token=listens)
    if me.part.role == "head":
        return _head(me, others, pace)
    head = next((one for one in others if one.part.role == "head"), None)
    if head is None or not me.faults.joins:
        return LogScript(tuple(_spoken(me, me.began + pace.begin)))
    peers = [one for one in (*others, me) if one is not head]
    return _worker(me, head, _head(head, peers, pace), pace)


def _head(me: Incarnation, others: Sequence[Incarnation], pace: Pace) -> LogScript:
    began = me.began + pace.begin
    coming = [one for one in others if one.faults.joins and me.faults.joins]
    coming.sort(key=lambda one: (one.began, one.part.address))
    lines = _spoken(me, began)
    joined, brought, met = {me.part.address: float(me.npus)}, me.part.brings, began
    last = _ray_has(joined, me.part)
    for one in coming:
        lines += [(met, last)] if me.part.ray else []
        joined[one.part.address] = float(one.npus)
        brought += one.part.brings
        met = max(one.began + pace.begin, began) + pace.join
        last = _ray_has(joined, me.part)
    if brought < me.part.needs:
        if not me.part.ray:
            return LogScript(tuple(lines))
        ends = began + me.part.patience
        complaint = f"{last}, after {me.part.patience:g} s"
        return LogScript((*lines, (met, last), (ends, complaint)), ends, 1)
    if me.part.ray:
        lines.append((met, f"ropeway: Ray has all hosts: {json.dumps(joined)}"))
    lines += [(met + share * pace.start, line.format(part=me.part)) for share, line in _STARTING]
    if me.faults.fails:
        return _failed(me, lines, met, pace)
    token = met + pace.start
    lines.append((token, "ropeway: the first token is there"))
    return LogScript(tuple(lines), met=met, token=token)


def _worker(me: Incarnation, head: Incarnation, head_script: LogScript, pace: Pace) -> LogScript:
    began = me.began + pace.begin
    lines = _spoken(me, began)
    joined = max(began, head.began + pace.begin) + pace.join
    lines.append((joined, "Ray runtime started." if me.part.ray else "joined the head"))
    if me.faults.fails and head_script.met is not None:
        return _failed(me, lines, head_script.met, pace)
    if head_script.ends is None:
        return LogScript(tuple(lines), met=head_script.met)
    gone = head_script.ends + _MISSES
    last = (gone, f"ropeway: {me.part.meeting} is closed: the head is gone")
    return LogScript((*lines, last), gone, 1, met=head_script.met)


def _spoken(me: Incarnation, began: float) -> list[Line]:
    """Return what an engine writes before it meets others, and what its fault has it write besides,
    a microsecond apart: no two lines have one time."""
    ray = f"Local node IP: {me.part.address}"
    first = ray if me.part.ray else "INFO [__init__.py:38] - ascend -> vllm_ascend:register"
    lines = enumerate((first, *me.faults.says), -1)
    return [(began + number * 1e-6, line) for number, line in lines]


def _failed(me: Incarnation, lines: Sequence[Line], met: float, pace: Pace) -> LogScript:
    """Return a log that ends halfway, with the words of its fault."""
    ends = met + pace.start / 2
    before = [line for line in lines if line[0] <= ends]
    return LogScript((*before, *((ends, line) for line in me.faults.fails)), ends, 1, met=met)


def _ray_has(joined: dict[str, float], part: Part) -> str:
    return f"ropeway: Ray has {len(joined)} of {part.needs} hosts: {json.dumps(joined)}"


def _flags(words: Sequence[str]) -> dict[str, str]:
    """Return `--name` → value; for one without a value the next flag, which nobody asks for."""
    after = [*words[1:], ""]
    return {word: after[number] for number, word in enumerate(words) if word.startswith("--")}


# Seconds that launch/programs/peer.py takes to be sure that a port is closed.
_MISSES = 6.0
# How far a start has come, and what vLLM writes there.
_STARTING: tuple[Line, ...] = (
    (0.02, "INFO [utils.py:233] non-default args: {{'model_tag': '{part.model}'}}"),
    (0.08, "INFO [core.py:105] Initializing a V1 LLM engine (v0.23.0) with config: …"),
    (0.12, "INFO [parallel_state.py:1217] rank 0 in world size 16 is assigned as DP rank 0"),
    (0.2, "INFO [model_runner_v1.py:2250] Starting to load model {part.model}..."),
    (0.3, "Loading safetensors checkpoint shards:  25% Completed | 4/16"),
    (0.5, "Loading safetensors checkpoint shards:  75% Completed | 12/16"),
    (0.6, "INFO [default_loader.py:314] Loading weights took 41.72 seconds"),
    (0.7, "INFO [kv_cache_utils.py:1229] GPU KV cache size: 417,280 tokens"),
    (0.9, "INFO [core.py:272] init engine (profile, create kv cache, warmup model) took 31.2 s"),
    (0.93, "INFO [api_server.py:1099] Starting vLLM server on http://127.0.0.1:{part.port}"),
    (0.95, "INFO:     Application startup complete."),
)

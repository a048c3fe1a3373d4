"""What a virtual host keeps, and what the scripts of launch/ do to it.

Each script is known by the constant that launch/ gives it, and is carried out here in Python, step
by step: a script that changes there is not answered here by accident.
"""

import shlex
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

from ropeway.facts.script import NOT_FOUND
from ropeway.launch import docker
from ropeway.launch.files import WRITE
from ropeway.launch.labels import list_argv
from ropeway.launch.life import DOWN
from ropeway.launch.lock import APPEND, CHECK, FREE, TAIL
from ropeway.launch.logs import LOG, MOST_LINES, POLL, STATUS_FORMAT
from ropeway.launch.start import RUN_EACH, UNDO
from ropeway.sim.containers import Answer, ContainerEngine, Say
from ropeway.sim.machine import Machine

LISTS = frozenset(list_argv(runtime)[2] for runtime in get_args(docker.Runtime))
FULL = "No space left on device"


@dataclass
class HostState:
    """A machine, and what is kept on it. `late`: commands that are carried out by themselves."""

    machine: Machine
    engine: ContainerEngine
    files: dict[str, bytes]
    modes: dict[str, int] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)
    late: list[tuple[float, Sequence[str]]] = field(default_factory=list)
    base = "/var/lib/ropeway"  # where root keeps what is ours, as lock.BASE has it

    @property
    def full(self) -> bool:
        return self.machine.disk_free_bytes == 0

    def settle(self) -> None:
        """Carry out what is due."""
        while self.late and self.late[0][0] <= self.engine.clock.now():
            _, argv = self.late.pop(0)
            self.engine.answer(argv, ignore)

    def remove(self, folder: str) -> None:
        """Do what `rm -rf` does."""
        for path in [path for path in self.files if path.startswith(f"{folder}/")]:
            self.files.pop(path, None)
        self.folders -= {path for path in self.folders if f"{path}/".startswith(f"{folder}/")}


@dataclass(frozen=True)
class ScriptRun:
    """A script that is carried out on a host; `say` gets each line of its output."""

    state: HostState
    args: tuple[str, ...]
    stdin: bytes
    say: Say


def _write(run: ScriptRun) -> Answer:
    """files.WRITE."""
    folder, other, size, *table = run.args
    assert len(run.stdin) == int(size)
    if run.state.full or run.state.machine.trouble.disk_fills:
        return 1, f"cat: write error: {FULL}"
    run.state.folders |= {one for one in (folder, other) if one.startswith(run.state.base)}
    begin = 0
    for name, mode, length in zip(table[::3], table[1::3], table[2::3], strict=True):
        path, end = f"{folder}/{name}", begin + int(length)
        run.state.files[path], run.state.modes[path] = run.stdin[begin:end], int(mode, 8)
        begin = end
    return 0, ""


def _run_each(run: ScriptRun) -> Answer:
    """start.RUN_EACH."""
    for name, line in zip(run.args[::2], run.args[1::2], strict=True):
        run.say(name)
        code, error = run_program(run.state, tuple(shlex.split(line)), ignore)
        if code:
            return code, error
    return 0, ""


def _poll(run: ScriptRun) -> Answer:
    """poll.POLL."""
    runtime, label, *logs = run.args
    ids = _labelled(run.state, runtime, label)
    argv = (runtime, "inspect", "--type", "container", "--format", STATUS_FORMAT, *ids)
    code, error = run_program(run.state, argv, run.say)
    if code:
        return code, error
    for name, since in zip(logs[::2], logs[1::2], strict=True):
        run.say(f"{LOG}{name}")
        begin = ("--since", since) if since else ()
        tail = ("--timestamps", "--tail", str(MOST_LINES), *begin)
        run_program(run.state, (runtime, "logs", *tail, name), run.say)
    return 0, ""


def _check_lock(run: ScriptRun) -> Answer:
    """lock.CHECK."""
    author, *command = run.args
    if not run.state.lock.locked():
        run.say(FREE)
    holder = run.state.files.get(f"{run.state.base}/holder", b"").decode()
    run.say(holder)
    return (
        run_program(run.state, tuple(command), run.say) if command and holder == author else (0, "")
    )


def _append_audit(run: ScriptRun) -> Answer:
    """audit.APPEND."""
    if run.state.full:
        return 1, f"sh: printf: write error: {FULL}"
    path = f"{run.state.base}/audit.log"
    run.state.files[path] = run.state.files.get(path, b"") + f"{run.args[0]}\n".encode()
    return 0, ""


def _tail_audit(run: ScriptRun) -> Answer:
    """audit.TAIL."""
    text = run.state.files.get(f"{run.state.base}/audit.log", b"").decode()
    for line in text.splitlines()[-200:]:
        run.say(line)
    return 0, ""


def _undo(run: ScriptRun) -> Answer:
    """start.UNDO: containers, again until none comes any more, then our folder."""
    runtime, label, folder, service, holder = run.args
    for _ in range(3):
        run.state.settle()
        if ids := _labelled(run.state, runtime, label):
            code, error = run_program(run.state, (runtime, "rm", "--force", *ids), ignore)
            if code:
                return code, error
        run.state.engine.clock.sleep(0.4 * run.state.engine.pace.sleeps)
    ours = run.state.files.get(f"{run.state.base}/holder", b"").decode() == holder
    if ours and not _labelled(run.state, runtime, service):
        run.state.remove(folder)
    return 0, ""


def _down(run: ScriptRun) -> Answer:
    """life.DOWN: end, remove, and look again."""
    runtime, label, patience, service, *folders = run.args
    count = 0
    for turn in range(3):
        ids = _labelled(run.state, runtime, label)
        if not ids:
            break
        count += len(ids)
        if turn == 0:
            run_program(run.state, (runtime, "stop", "--time", patience, *ids), ignore)
        run_program(run.state, (runtime, "rm", "--force", *ids), ignore)
    for folder in (f"{run.state.base}/{service}", *folders):
        run.state.remove(folder)
    run.say(str(count))
    return 0, ""


def run_program(state: HostState, argv: Sequence[str], say: Say) -> Answer:
    """Run one program of a machine: exit code and errors."""
    match argv[0]:
        case "docker" if state.machine.docker is not None:
            return state.engine.answer(argv[1:], say)
        case "rm":
            state.remove(argv[-1])
            return 0, ""
        case program:
            return NOT_FOUND, f"sh: {program}: not found"


def list_containers(state: HostState, find: Sequence[str], say: Say) -> Answer:
    """labels.list_argv: find containers, and print all about each."""
    ids: list[str] = []
    code, error = run_program(state, find, ids.append)
    if code or not ids:
        return code, error
    return run_program(state, (find[0], "inspect", "--type", "container", *ids), say)


def _labelled(state: HostState, runtime: str, label: str) -> list[str]:
    ids: list[str] = []
    argv = (runtime, "ps", "--all", "--quiet", "--filter", f"label={label}")
    run_program(state, argv, ids.append)
    return ids


def ignore(line: str) -> None:
    """Take a line that nobody reads."""


SCRIPTS: Mapping[str, Callable[[ScriptRun], Answer]] = {
    WRITE: _write,
    RUN_EACH: _run_each,
    POLL: _poll,
    CHECK: _check_lock,
    APPEND: _append_audit,
    TAIL: _tail_audit,
    UNDO: _undo,
    DOWN: _down,
}

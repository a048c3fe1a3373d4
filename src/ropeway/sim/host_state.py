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
from ropeway.launch.container_start import RUN_EACH, UNDO, WRITE
from ropeway.launch.labels import list_argv
from ropeway.launch.lock import APPEND, CHECK, FREE, ROOTS_FOLDER, TAIL
from ropeway.launch.logs import LOG, MOST_LINES, POLL, STATUS_FORMAT
from ropeway.launch.running import DOWN
from ropeway.sim.containers import Answer, ContainerEngine, Say
from ropeway.sim.machine import Machine

LISTS = frozenset(list_argv(runtime)[2] for runtime in get_args(docker.Runtime))
Args = tuple[str, ...]
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
    base = ROOTS_FOLDER

    @property
    def full(self) -> bool:
        return self.machine.disk_free_bytes == 0

    @property
    def holder(self) -> str:
        """Who had the lock last, as the lock writes it."""
        return self.files.get(f"{self.base}/holder", b"").decode()

    def labelled(self, label: str) -> list[str]:
        """Return the ids of the containers with this label."""
        return [container.id for container in self.engine.labelled(label)]

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


def _write(state: HostState, args: Args, stdin: bytes, _: Say) -> Answer:
    """container_start.WRITE."""
    folder, other, size, *table = args
    assert len(stdin) == int(size)
    if state.full or state.machine.faults.disk_fills:
        return 1, f"cat: write error: {FULL}"
    state.folders |= {one for one in (folder, other) if one.startswith(state.base)}
    begin = 0
    for name, mode, length in zip(table[::3], table[1::3], table[2::3], strict=True):
        path, end = f"{folder}/{name}", begin + int(length)
        state.files[path], state.modes[path] = stdin[begin:end], int(mode, 8)
        begin = end
    return 0, ""


def _run_each(state: HostState, _: Args, stdin: bytes, say: Say) -> Answer:
    """container_start.RUN_EACH."""
    words = shlex.split(stdin.decode())
    for name, line in zip(words[::2], words[1::2], strict=True):
        say(name)
        code, error = run_program(state, tuple(shlex.split(line)), ignore)
        if code:
            return code, error
    return 0, ""


def _poll(state: HostState, args: Args, _: bytes, say: Say) -> Answer:
    """logs.POLL."""
    runtime, label, *logs = args
    ids = state.labelled(label)
    argv = (runtime, "inspect", "--type", "container", "--format", STATUS_FORMAT, *ids)
    code, error = run_program(state, argv, say)
    if code:
        return code, error
    for name, since in zip(logs[::2], logs[1::2], strict=True):
        say(f"{LOG}{name}")
        begin = ("--since", since) if since else ()
        tail = ("--timestamps", "--tail", str(MOST_LINES), *begin)
        run_program(state, (runtime, "logs", *tail, name), say)
    return 0, ""


def _check_lock(state: HostState, args: Args, _: bytes, say: Say) -> Answer:
    """lock.CHECK."""
    author, *command = args
    if not state.lock.locked():
        say(FREE)
    say(state.holder)
    if command and state.holder == author:
        return run_program(state, command, say)
    return 0, ""


def _append_audit(state: HostState, args: Args, *_: object) -> Answer:
    """lock.APPEND."""
    if state.full:
        return 1, f"sh: printf: write error: {FULL}"
    path = f"{state.base}/audit.log"
    state.files[path] = state.files.get(path, b"") + f"{args[0]}\n".encode()
    return 0, ""


def _tail_audit(state: HostState, _: Args, _stdin: bytes, say: Say) -> Answer:
    """lock.TAIL."""
    text = state.files.get(f"{state.base}/audit.log", b"").decode()
    for line in text.splitlines()[-200:]:
        say(line)
    return 0, ""


def _undo(state: HostState, args: Args, *_unread: object) -> Answer:
    """container_start.UNDO: containers, again until none comes any more, then our folder."""
    runtime, label, folder, service, holder = args
    for _ in range(3):
        state.settle()
        run_program(state, (runtime, "rm", "--force", *state.labelled(label)), ignore)
        state.engine.clock.sleep(0.4 * state.engine.pace.sleeps)
    if state.holder == holder and not state.labelled(service):
        state.remove(folder)
    return 0, ""


def _down(state: HostState, args: Args, _stdin: bytes, say: Say) -> Answer:
    """running.DOWN: containers, then our folders."""
    runtime, label, _, service, *folders = args
    ids = state.labelled(label)
    run_program(state, (runtime, "rm", "--force", *ids), ignore)
    for folder in (f"{state.base}/{service}", *folders):
        state.remove(folder)
    say(str(len(ids)))
    return 0, ""


def run_program(state: HostState, argv: Sequence[str], say: Say) -> Answer:
    """Run one program of a machine: exit code and errors."""
    match argv[0]:
        case "docker":
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


def ignore(line: str) -> None:
    """Take a line that nobody reads."""


SCRIPTS: Mapping[str, Callable[[HostState, Args, bytes, Say], Answer]] = {
    WRITE: _write,
    RUN_EACH: _run_each,
    POLL: _poll,
    CHECK: _check_lock,
    APPEND: _append_audit,
    TAIL: _tail_audit,
    UNDO: _undo,
    DOWN: _down,
}

"""Virtual hosts on which `up` can really be carried out, in this process.

    Rehearsal ─ Site …   what a machine keeps: files, containers, its lock, who changed what
              └ connected  connections to them, as hosts/connect.py makes real ones

A command is known by the constant that launch/ gives it, and a script of launch/ is done here in
Python, step by step: a script that changes there is not answered here by accident. A connection can
break, as Trouble says; each connection is a LaunchHost of its own, and the machines go on.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import get_args

from ropeway.errors import ConnectionLost, HostError, NoRoute, Refused
from ropeway.facts.script import NOT_FOUND
from ropeway.hosts.base import Result, cannot_write
from ropeway.hosts.child import sleep_cancellable
from ropeway.launch import docker
from ropeway.launch.labels import ask_argv
from ropeway.launch.life import DOWN
from ropeway.launch.lock import ASK, AUDIT, AUDITED, FREE, HELD, LOCK
from ropeway.launch.start import UNDO
from ropeway.sim.containers import Answer, ContainerEngine, Say, Stories
from ropeway.sim.hccn_tool import HccnTool
from ropeway.sim.hosts import VirtualHost
from ropeway.sim.machine import Fleet, Machine
from ropeway.sim.virtual_engine import Life, Pace
from ropeway.spec.cluster import Cluster, RemoteHost, Runtime
from ropeway.spec.model import Layout, Model, Serve, Spec

_ASKS = frozenset(ask_argv(runtime)[2] for runtime in get_args(docker.Runtime))
_MERGED = frozenset({'"$@" 2>&1', 'exec "$@" 2>&1'})  # a command with its errors in its output
_FULL, _NO_FILE = "No space left on device", "no such file or directory"
# A daemon carries out what it was asked for, though the client is gone meanwhile.
_LATE_SECONDS = 0.3
_AT_ONCE = Pace()
_BROKEN = "the connection broke off while a command ran"


@dataclass(frozen=True)
class Seen:
    """A command that reached a host: `put PATH MODE` and `get PATH` for files."""

    host: str
    argv: tuple[str, ...]


@dataclass
class Site:
    """A machine, and what is kept on it. `late`: commands that are carried out by themselves."""

    machine: Machine
    engine: ContainerEngine
    files: dict[str, bytes]
    modes: dict[str, int] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)
    late: list[tuple[float, Sequence[str]]] = field(default_factory=list)

    @property
    def base(self) -> str:
        """Where Ropeway keeps things, as lock.BASE finds it."""
        return "/var/lib/ropeway" if self.machine.uid == 0 else "/home/ops/.ropeway"

    @property
    def full(self) -> bool:
        return self.machine.disk_free_bytes == 0

    def settle(self) -> None:
        """Carry out what is due."""
        while self.late and self.late[0][0] <= time.monotonic():
            _, argv = self.late.pop(0)
            self.engine.answer(argv, lambda _: None)

    def remove(self, folder: str) -> None:
        """`rm -rf`."""
        for path in [one for one in self.files if one.startswith(f"{folder}/")]:
            self.files.pop(path, None)
        self.folders -= {one for one in self.folders if f"{one}/".startswith(f"{folder}/")}


class Rehearsal:
    """All machines of a fleet, while this process lives.

    on_command  hears of each command before it is carried out, in the thread that gave it
    seen        all commands so far
    """

    def __init__(
        self,
        fleet: Fleet,
        pace: Pace = _AT_ONCE,
        on_command: Callable[[Seen], None] = lambda _: None,
    ) -> None:
        self.fleet, self.pace, self.on_command = fleet, pace, on_command
        self.seen: list[Seen] = []
        self._hccn = HccnTool(fleet)
        self._stories = Stories()
        self._sites = {one.name: self._site(one) for one in fleet.machines}

    @contextmanager
    def connected(
        self,
        cluster: Cluster,
        *,
        ssh_config: str | None = None,  # noqa: ARG002
    ) -> Iterator[tuple["LaunchHost", ...]]:
        """Connections to the cluster's hosts, known by name or address. Raises Refused."""
        yield tuple(self.connect(host.address) for host in cluster.hosts or ())

    def connect(self, address: str) -> "LaunchHost":
        """A connection of its own to one machine."""
        for site in self._sites.values():
            if address in (site.machine.name, site.machine.address):
                return LaunchHost(address, address, self, site)
        raise Refused(
            f"the rehearsal has no host `{address}`",
            hint=f"its hosts are {', '.join(list(self._sites)[:4])} …",
        )

    def left(self) -> tuple[str, ...]:
        """What a service has left on any machine: containers, folders, files, held locks."""
        found = []
        for name, site in self._sites.items():
            site.settle()
            own = (f"{site.base}/holder", f"{site.base}/audit.log")
            found += [f"{name}: {len(site.late)} commands"] if site.late else []
            found += [f"{name}: container {one}" for one in site.engine.made]
            found += [f"{name}: folder {one}" for one in site.folders]
            found += [f"{name}: {one}" for one in site.files
                      if one.startswith(f"{site.base}/") and one not in own]  # fmt: skip
            found += [f"{name}: locked"] if site.lock.locked() else []
        return tuple(found)

    def site(self, name: str) -> Site:
        """What a machine keeps."""
        return self._sites[name]

    def look(self, site: Site) -> VirtualHost:
        """The machine as questions about it find it now."""
        machine = site.machine
        containers = (*machine.containers, *site.engine.running)
        ports = dict(machine.ports)
        for one in site.engine.every:
            opened = one.labels.get("ropeway.ports", "").split(",")
            ports |= {int(port): "vllm" for port in opened if port and one.stopped is None}
        images = tuple(site.engine.images.values())
        now = replace(machine, containers=containers, ports=ports, images=images)
        return VirtualHost(now, self.fleet, self._hccn)

    def _site(self, machine: Machine) -> Site:
        path = self.fleet.model_path
        files = {f"{path}/{name}": b"" for name in machine.model}
        if "config.json" in machine.model:
            files[f"{path}/config.json"] = machine.config.encode()

        def inside(argv: Sequence[str]) -> tuple[int, str]:
            return self.look(self._sites[machine.name]).answer(argv)

        engine = ContainerEngine(
            machine, files, self.pace, self._lives, inside, stories=self._stories
        )
        return Site(machine, engine, files)

    def _lives(self, meeting: str) -> Sequence[Life]:
        every = [(site, one) for site in self._sites.values() for one in site.engine.every]
        there = [
            site.engine.life(one)
            for site, one in every
            if one.part is not None and one.part.meeting == meeting
        ]
        return [life for life in there if life is not None]


@dataclass(eq=False)
class LaunchHost:
    """One connection to a virtual machine, as hosts/ssh.py is one to a real host.

    done    how many commands were given
    breaks  how often it broke: what ran on it has ended each time
    """

    name: str
    address: str
    rehearsal: Rehearsal
    site: Site
    done: int = 0
    breaks: int = 0

    def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,  # noqa: ARG002
        stdin: bytes = b"",
        timeout: float = 60.0,  # noqa: ARG002
        on_line: Callable[[str], None] | None = None,
    ) -> Result:
        """See Host.run."""
        began = time.monotonic()
        out: list[str] = []

        def say(line: str) -> None:
            out.append(line)
            if on_line is not None:
                on_line(line)

        with self._command(tuple(argv)):
            if tuple(argv) == ("sh", "-s"):
                result = self.rehearsal.look(self.site).run(argv, stdin=stdin)
                return replace(result, seconds=time.monotonic() - began)
            code, err = self._answer(tuple(argv), say)
        text = "".join(f"{line}\n" for line in out)
        return Result(tuple(argv), code, text, err and f"{err}\n", time.monotonic() - began)

    def put(self, content: bytes, path: str, *, mode: int = 0o644) -> None:
        """See Host.put."""
        with self._command(("put", path, f"{mode:o}")):
            if self.site.full or self.site.machine.trouble.disk_fills:
                raise cannot_write(path, _FULL.lower(), self.name)
            if path.rpartition("/")[0] not in self.site.folders:
                raise cannot_write(path, "no such file or directory", self.name)
            self.site.files[path], self.site.modes[path] = content, mode

    def get(self, path: str) -> bytes:
        """See Host.get."""
        with self._command(("get", path)):
            if path not in self.site.files:
                raise HostError(f"cannot read `{path}`: {_NO_FILE}", where=self.name)
            return self.site.files[path]

    @contextmanager
    def _command(self, argv: tuple[str, ...]) -> Iterator[None]:
        """There, and back again: each takes half of the latency, and the connection may break.

        Cut off on the way there, a container may start all the same, a moment later.
        """
        seen = Seen(self.name, argv)
        self.rehearsal.seen.append(seen)
        self.rehearsal.on_command(seen)
        half = self.rehearsal.pace.latency / 2
        try:
            sleep_cancellable(half)
        except HostError:
            if argv[1:3] == ("run", "--detach"):
                due = time.monotonic() + _LATE_SECONDS * self.rehearsal.pace.sleeps
                self.site.late.append((due, argv[1:]))
            raise
        self._reach()
        self.site.settle()
        yield
        sleep_cancellable(half)

    def _reach(self) -> None:
        """Raises HostError where the host cannot be reached, or no longer."""
        if self.site.machine.failure is not None:
            raise NoRoute(self.site.machine.failure, where=self.name)
        trouble = self.site.machine.trouble
        self.done += 1
        if trouble.drops_after is not None and self.done > trouble.drops_after:
            late = self.done - trouble.drops_after
            if trouble.drops_for is None or late <= trouble.drops_for:
                self.breaks += 1
                raise ConnectionLost(_BROKEN, where=self.name)

    def _answer(self, argv: tuple[str, ...], say: Say) -> Answer:
        if argv[:2] != ("sh", "-c"):
            return self._program(argv, say)
        script, given = argv[2], argv[4:]
        if script in _MERGED:
            code, err = self._program(given, say)
            for line in err.splitlines():
                say(line)
            return code, ""
        if script in _ASKS:
            return self._ask(given, say)
        known = _SCRIPTS[script]
        return known(self, given, say)

    def _program(self, argv: tuple[str, ...], say: Say) -> Answer:
        match argv[0]:
            case "docker" if self.site.machine.docker is not None:
                return self.site.engine.answer(argv[1:], say)
            case "mkdir":
                if self.site.full:
                    return 1, f"mkdir: cannot create directory: {_FULL}"
                folders = argv[argv.index("--") + 1 :]
                self.site.folders |= {one for one in folders if one.startswith(self.site.base)}
                return 0, ""
            case "rm":
                self.site.remove(argv[-1])
                return 0, ""
            case program:
                return NOT_FOUND, f"sh: {program}: not found"

    def _ask(self, find: tuple[str, ...], say: Say) -> Answer:
        """labels.ask_argv: find containers, and tell all of each."""
        ids: list[str] = []
        code, err = self._program(find, ids.append)
        if code or not ids:
            return code, err
        return self._program((find[0], "inspect", "--type", "container", *ids), say)

    def _lock(self, given: tuple[str, ...], say: Say) -> Answer:
        """lock.LOCK: held as long as the connection is."""
        holder = f"{self.site.base}/holder"
        if not self.site.lock.acquire(blocking=False):
            say(self.site.files.get(holder, b"").decode())
            return 4, ""
        try:
            if self.site.full:
                return 3, f"sh: printf: write error: {_FULL}"
            self.site.files[holder] = given[0].encode()
            say(HELD)
            before = self.breaks
            while self.breaks == before:
                sleep_cancellable(0.05)
        finally:
            self.site.lock.release()
        raise ConnectionLost(_BROKEN, where=self.name)

    def _ask_lock(self, given: tuple[str, ...], say: Say) -> Answer:  # noqa: ARG002
        if not self.site.lock.locked():
            say(FREE)
        say(self.site.files.get(f"{self.site.base}/holder", b"").decode())
        return 0, ""

    def _audit(self, given: tuple[str, ...], say: Say) -> Answer:  # noqa: ARG002
        if self.site.full:
            return 1, f"sh: printf: write error: {_FULL}"
        path = f"{self.site.base}/audit.log"
        self.site.files[path] = self.site.files.get(path, b"") + f"{given[0]}\n".encode()
        return 0, ""

    def _audited(self, given: tuple[str, ...], say: Say) -> Answer:  # noqa: ARG002
        text = self.site.files.get(f"{self.site.base}/audit.log", b"").decode()
        for line in text.splitlines()[-200:]:
            say(line)
        return 0, ""

    def _undo(self, given: tuple[str, ...], say: Say) -> Answer:  # noqa: ARG002
        """start.UNDO: containers, again until none comes any more, then our folder."""
        runtime, label, folder, service, holder = given
        for _ in range(3):
            self.site.settle()
            ids = self._labelled(runtime, label)
            code, err = self._program((runtime, "rm", "--force", *ids), _deaf) if ids else (0, "")
            if code:
                return code, err
            sleep_cancellable(0.4 * self.rehearsal.pace.sleeps)
        ours = self.site.files.get(f"{self.site.base}/holder", b"").decode() == holder
        if ours and not self._labelled(runtime, service):
            self.site.remove(folder)
        return 0, ""

    def _down(self, given: tuple[str, ...], say: Say) -> Answer:
        """life.DOWN: end, remove, and look again."""
        runtime, label, patience, service, *folders = given
        count = 0
        for turn in range(3):
            ids = self._labelled(runtime, label)
            if not ids:
                break
            count += len(ids)
            if turn == 0:
                self._program((runtime, "stop", "--time", patience, *ids), _deaf)
            self._program((runtime, "rm", "--force", *ids), _deaf)
        for folder in (f"{self.site.base}/{service}", *folders):
            self.site.remove(folder)
        say(str(count))
        return 0, ""

    def _labelled(self, runtime: str, label: str) -> list[str]:
        ids: list[str] = []
        self._program((runtime, "ps", "--all", "--quiet", "--filter", f"label={label}"), ids.append)
        return ids


_SCRIPTS: Mapping[str, Callable[[LaunchHost, tuple[str, ...], Say], Answer]] = {
    LOCK: LaunchHost._lock,
    ASK: LaunchHost._ask_lock,
    AUDIT: LaunchHost._audit,
    AUDITED: LaunchHost._audited,
    UNDO: LaunchHost._undo,
    DOWN: LaunchHost._down,
}


def _deaf(line: str) -> None:
    """Hears nothing."""


def rehearsal_spec(fleet: Fleet) -> Spec:
    """A service over all hosts of a fleet: tensor parallel on each, data parallel over them."""
    machines = fleet.machines
    return Spec(
        name="rehearsal",
        cluster=Cluster(
            hosts=tuple(RemoteHost(address=one.name, npus=len(one.chips)) for one in machines)
        ),
        model=Model(path=fleet.model_path),
        runtime=Runtime(image=next(one.images[0].name for one in machines if one.images)),
        serve=Serve(
            layout=Layout(tensor=len(machines[0].chips), data=len(machines), expert=True),
            backend="ray",
            start_timeout=30,
        ),
    )

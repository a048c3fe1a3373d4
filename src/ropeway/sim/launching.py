"""Virtual hosts on which `up` can really be carried out, in this process.

    Rehearsal ─ HostState …   what a machine keeps: files, containers, its lock, its audit log
              └ connected     connections to them, as hosts/connect.py makes real ones

A connection can break, as LaunchFaults says; each connection is a LaunchHost of its own, and the
machines go on.
"""

import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from ropeway.errors import ConnectionLost, HostError, Refused
from ropeway.hosts.base import Result
from ropeway.hosts.child import sleep_cancellable
from ropeway.hosts.connect import ssh_hosts
from ropeway.hosts.ssh import SshHost
from ropeway.hosts.ssh_errors import connection_failure
from ropeway.launch.clock import SYSTEM_CLOCK, Clock
from ropeway.launch.container_start import RUN_EACH
from ropeway.launch.lock import HELD, LOCK
from ropeway.launch.logs import MERGED
from ropeway.phrases import phrase
from ropeway.sim.containers import Answer, ContainerEngine, LogScripts, Say
from ropeway.sim.faults import known_hosts
from ropeway.sim.hccn_tool import HccnTool
from ropeway.sim.host_state import (
    FULL,
    LISTS,
    SCRIPTS,
    HostState,
    list_containers,
    run_program,
)
from ropeway.sim.hosts import VirtualHost
from ropeway.sim.machine import Fleet, Machine
from ropeway.sim.virtual_engine import Incarnation, Pace
from ropeway.sim.without_files import WithoutFiles
from ropeway.spec.cluster import Cluster, RemoteHost, Runtime
from ropeway.spec.model import Layout, Model, Serve, Spec

# A daemon carries out what it was asked for, though the client is gone meanwhile.
_LATE_SECONDS = 0.3
_HOLD_SECONDS = 0.02  # of real time, between two looks at a lock's connection
_BROKEN = phrase("the connection was lost while a command ran")


@dataclass(frozen=True)
class IssuedCommand:
    """A command that reached a host."""

    host: str
    argv: tuple[str, ...]

    @property
    def script(self) -> str:
        """The constant of launch/ that `sh -c` runs, or nothing."""
        return self.argv[2] if self.argv[:2] == ("sh", "-c") else ""

    @property
    def starts_containers(self) -> bool:
        """Whether it starts containers of a service."""
        return self.script == RUN_EACH


class Rehearsal:
    """All machines of a fleet, as long as this process lives.

    clock       by which containers live and commands take their time
    on_command  gets each command before it is carried out, in the thread that gave it
    commands    all commands so far
    """

    def __init__(self, fleet: Fleet, pace: Pace, clock: Clock = SYSTEM_CLOCK) -> None:
        self.fleet, self.pace, self.clock = fleet, pace, clock
        self.on_command: Callable[[IssuedCommand], None] = lambda _: None
        self.commands: list[IssuedCommand] = []
        self._hccn = HccnTool(fleet)
        self._scripts = LogScripts()
        self._epoch = time.time() - clock.now()
        self._hosts = {machine.name: self._host(machine) for machine in fleet.machines}

    @contextmanager
    def connected(
        self, cluster: Cluster, *, ssh_config: str | None = None
    ) -> Iterator[tuple["LaunchHost", ...]]:
        """Connect to the cluster's hosts, known by name or address. Raises Refused."""
        real = ssh_hosts(cluster, "", ssh_config)
        yield tuple(self.connect(host.name, host) for host in real)

    def connect(self, name: str, real: SshHost | None = None) -> "LaunchHost":
        """Return a connection of its own to one machine, by its name or its address.

        real  the host that it stands for
        """
        for state in self._hosts.values():
            if name in (state.machine.name, state.machine.address):
                address = state.machine.address
                real = real or SshHost(name, address, "")
                return LaunchHost(name, address, real.by_hand, real.as_flags, self, state)
        raise Refused(
            phrase("the rehearsal has no host `{name}`", name=name),
            hint=known_hosts(list(self._hosts)),
        )

    def state(self, name: str) -> HostState:
        """Return what a machine keeps."""
        return self._hosts[name]

    @property
    def containers(self) -> int:
        """How many containers of services there are, on all machines."""
        return sum(len(state.engine.every) for state in self._hosts.values())

    @property
    def serves(self) -> bool:
        """Whether an engine has generated its first token, and has not ended."""
        return any(state.engine.serves for state in self._hosts.values())

    def look(self, state: HostState) -> VirtualHost:
        """Return the machine as questions about it find it now."""
        machine, engine = state.machine, state.engine
        ports = dict(machine.ports)
        for container in engine.every:
            opened = container.labels.get("ropeway.ports", "").split(",")
            ports |= {int(port): "vllm" for port in opened if port and container.stopped is None}
        now = replace(
            machine,
            containers=(*machine.containers, *engine.running),
            ports=ports,
            images=tuple(engine.images.values()),
        )
        return _MachineWithContainers(now, self.fleet, self._hccn, state)

    def _host(self, machine: Machine) -> HostState:
        path = self.fleet.model.path
        files = {f"{path}/{name}": b"" for name in machine.model}
        files |= {f"{folder}/.": b"" for folder in machine.folders}
        if "config.json" in machine.model:
            files[f"{path}/config.json"] = machine.config.encode()

        def inside(argv: Sequence[str]) -> tuple[int, str]:
            return self.look(self._hosts[machine.name]).answer(argv)

        engine = ContainerEngine(
            machine, files, self.pace, self._peers, inside, self._scripts, self.clock, self._epoch
        )
        return HostState(machine, engine, files)

    def _peers(self, meeting: str) -> Sequence[Incarnation]:
        incarnations = [
            state.engine.incarnation(container)
            for state in self._hosts.values()
            for container in state.engine.every
            if container.part is not None and container.part.meeting == meeting
        ]
        return [one for one in incarnations if one is not None]


@dataclass(frozen=True)
class _MachineWithContainers(VirtualHost):
    """A virtual host that knows the containers of services too."""

    state: HostState

    def answer(self, argv: Sequence[str]) -> tuple[int, str]:
        """See VirtualHost.answer."""
        if argv[:2] != ("sh", "-c") or argv[2] not in LISTS:
            return super().answer(argv)
        lines: list[str] = []
        code, error = list_containers(self.state, argv[4:], lines.append)
        return code, "\n".join([*lines, error])


@dataclass(eq=False)
class LaunchHost(WithoutFiles):
    """One connection to a virtual machine, as hosts/ssh.py is one to a real host.

    done    how many commands were given
    breaks  how often it broke: what ran on it has ended each time
    holds   whether it holds the lock
    """

    name: str
    address: str
    by_hand: str
    as_flags: str
    rehearsal: Rehearsal
    state: HostState
    done: int = 0
    breaks: int = 0
    holds: bool = False

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        on_line: Callable[[str], None] | None = None,
        **_: object,
    ) -> Result:
        """See Host.run."""
        began = time.monotonic()
        out: list[str] = []

        def say(line: str) -> None:
            out.append(line)
            if on_line is not None:
                on_line(line)

        with self._command(tuple(argv), stdin):
            if tuple(argv) == ("sh", "-s"):
                result = self.rehearsal.look(self.state).run(argv, stdin=stdin)
                return replace(result, seconds=time.monotonic() - began)
            code, error = self._answer(tuple(argv), say, stdin)
        text = "".join(f"{line}\n" for line in out)
        return Result(tuple(argv), code, text, error and f"{error}\n", time.monotonic() - began)

    @contextmanager
    def _command(self, argv: tuple[str, ...], stdin: bytes) -> Iterator[None]:
        """Carry a command to the host and its answer back, each for half of the latency.

        The connection may break. When it does on the way there, a container may start all the
        same, a moment later.
        """
        command = IssuedCommand(self.name, argv)
        clock, pace = self.rehearsal.clock, self.rehearsal.pace
        self.rehearsal.commands.append(command)
        try:
            self.rehearsal.on_command(command)
            clock.sleep(pace.latency / 2)
        except HostError:
            if command.starts_containers:
                due = clock.now() + _LATE_SECONDS * pace.sleeps
                first = shlex.split(stdin.decode())[1]
                self.state.late.append((due, shlex.split(first)[1:]))
            raise
        self._reach()
        self.state.settle()
        yield
        clock.sleep(pace.latency / 2)

    def _reach(self) -> None:
        """Raise HostError where the host cannot be reached, or no longer."""
        if self.state.machine.failure is not None:
            raise connection_failure(self.state.machine.failure, self.name, self.by_hand)
        faults = self.state.machine.faults
        self.done += 1
        if 0 < self.done - faults.drops_after <= faults.drops_for:
            self.breaks += 1
            while self.holds:
                sleep_cancellable(_HOLD_SECONDS / 4)
            raise ConnectionLost(_BROKEN, where=self.name)

    def _answer(self, argv: tuple[str, ...], say: Say, stdin: bytes) -> Answer:
        if argv[:2] != ("sh", "-c"):
            return run_program(self.state, argv, say)
        script, args = argv[2], argv[4:]
        if script in (MERGED, f"exec {MERGED}"):  # a command with its errors in its output
            code, error = run_program(self.state, args, say)
            for line in error.splitlines():
                say(line)
            return code, ""
        if script in LISTS:
            return list_containers(self.state, args, say)
        if script == LOCK:
            return self._lock(args, say)
        return SCRIPTS[script](self.state, args, stdin, say)

    def _lock(self, args: tuple[str, ...], say: Say) -> Answer:
        """lock.LOCK: held as long as the connection is."""
        if not self.state.lock.acquire(blocking=False):
            say(self.state.holder)
            return 4, ""
        try:
            if len(args) > 1 and self.state.holder != args[0]:
                say(self.state.holder)
                return 5, ""
            if self.state.full:
                return 3, f"sh: printf: write error: {FULL}"
            self.state.files[f"{self.state.base}/holder"] = args[0].encode()
            before, self.holds = self.breaks, True
            say(HELD)
            while self.breaks == before:
                sleep_cancellable(_HOLD_SECONDS)
        finally:
            self.state.lock.release()
            self.holds = False
        raise ConnectionLost(_BROKEN, where=self.name)


def rehearsal_spec(fleet: Fleet) -> Spec:
    """Return a service over a whole fleet: tensor parallel on each host, data parallel over all."""
    machines = fleet.machines
    hosts = tuple(RemoteHost(address=one.name, npus=len(one.chips)) for one in machines)
    return Spec(
        name="rehearsal",
        cluster=Cluster(hosts=hosts),
        model=Model(path=fleet.model.path),
        runtime=Runtime(image=fleet.image),
        serve=Serve(
            layout=Layout(tensor=len(machines[0].chips), data=len(machines), expert=True),
            start_timeout=30,
        ),
    )

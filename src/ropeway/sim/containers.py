"""`docker` on a virtual host: its images and containers are kept in memory.

It answers the commands that launch/docker.py, launch/images.py and launch/labels.py make, in
Docker's own words where one fails. virtual_engine.py decides what a container writes.
"""

import csv
import hashlib
import itertools
import json
import re
import shlex
import threading
from argparse import REMAINDER, ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from ropeway.engines.ascend_releases import image_tag, release_of
from ropeway.facts.ascend.driver import MANAGERS, USUAL
from ropeway.facts.host import Container, Image
from ropeway.facts.script import NOT_FOUND
from ropeway.launch.clock import Clock
from ropeway.launch.scripts import FOLDER
from ropeway.sim.machine import Machine
from ropeway.sim.virtual_engine import Incarnation, LogScript, Pace, Part, log_script_of, part_of

Say = Callable[[str], None]
Answer = tuple[int, str]  # exit code, stderr

# The options of these commands that are read or take a value after a space.
_OPTIONS = ArgumentParser(add_help=False, allow_abbrev=False)
for _name in ("rm", "detach", "follow"):
    _OPTIONS.add_argument(f"--{_name}", action="store_true")
for _name in ("device", "mount", "label"):
    _OPTIONS.add_argument(f"--{_name}", action="append", default=[])
for _name in (
    "name", "security-opt", "shm-size", "ulimit", "env", "change", "entrypoint", "filter",
    "format", "type", "tail", "since", "time", "restart", "input",
):  # fmt: skip
    _OPTIONS.add_argument(f"--{_name}")
_OPTIONS.add_argument("rest", nargs=REMAINDER)
_NUMBERS = itertools.count()  # of containers, so that each has an id of its own
_DAEMON = "Error response from daemon: "
_FULL = "no space left on device"
_LAYERS = 4
_DAVINCI = re.compile(r"/dev/davinci(\d+)")


@dataclass
class ContainerState:
    """A container: what it was made with, and what has become of it. Times are the clock's.

    began    when it was started the last time
    past     what it wrote before that
    stopped  when somebody ended it
    """

    id: str
    name: str
    image: str
    labels: Mapping[str, str]
    devices: tuple[int, ...]
    part: Part | None
    began: float
    past: list[tuple[float, str]] = field(default_factory=list)
    stopped: float | None = None


class LogScripts:
    """What containers write, kept as long as no container of any host changes."""

    def __init__(self) -> None:
        self.by_id: dict[str, LogScript] = {}

    def clear(self) -> None:
        """Start a new table: a thread that is still computing a script writes into the old one."""
        self.by_id = {}


@dataclass
class ContainerEngine:
    """The engine of one host.

    files    the host's files: path → content
    peers    the incarnations of all containers, on all hosts, that meet at an ADDRESS:PORT
    inside   runs a command inside a container: exit code and output
    scripts  what the containers of all hosts write
    epoch    seconds from 1970 to the clock's zero
    """

    machine: Machine
    files: Mapping[str, bytes]
    pace: Pace
    peers: Callable[[str], Sequence[Incarnation]]
    inside: Callable[[Sequence[str]], tuple[int, str]]
    scripts: LogScripts
    clock: Clock
    epoch: float
    by_name: dict[str, ContainerState] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        self.images = {image.name: image for image in self.machine.images}

    def answer(self, argv: Sequence[str], say: Say) -> Answer:
        """Carry out `docker ARGV…`; `say` hears what it prints, as far as somebody reads it."""
        if not self.machine.docker_answers:
            return 1, "Cannot connect to the Docker daemon at unix:///var/run/docker.sock."
        options, _ = _OPTIONS.parse_known_args(argv[1:])
        answer: Answer = getattr(self, f"_do_{argv[0]}")(options, say)
        return answer

    @property
    def running(self) -> tuple[Container, ...]:
        """The containers that run, as facts show them."""
        return tuple(
            Container(container.name, container.image, container.devices)
            for container in self.every
            if self._state(container)[0] == "running"
        )

    @property
    def every(self) -> tuple[ContainerState, ...]:
        with self._lock:
            return tuple(self.by_name.values())

    def incarnation(self, container: ContainerState) -> Incarnation | None:
        """Return how it lives now; None for one that is not part of an engine, or was ended."""
        if container.part is None or container.stopped is not None:
            return None
        npus = len(container.devices)
        return Incarnation(container.part, container.began, npus, self.machine.faults)

    def _log_script(self, container: ContainerState) -> LogScript:
        """Return what it writes from its start on."""
        by_id = self.scripts.by_id
        if container.id in by_id:
            return by_id[container.id]
        me = self.incarnation(container)
        if me is None:
            return LogScript(())
        others = self.peers(me.part.meeting) if me.part.meeting else ()
        script = log_script_of(me, [peer for peer in others if peer != me], self.pace)
        by_id[container.id] = script
        return script

    def _state(self, container: ContainerState) -> tuple[str, int]:
        """Return its state as Docker calls it, and its exit code."""
        if container.stopped is not None:
            return "exited", 143
        script = self._log_script(container)
        if script.ends is not None and script.ends <= self.clock.now():
            return "exited", script.code
        return ("running", 0) if container.part else ("exited", 0)

    def _has_token(self, container: ContainerState) -> bool:
        token = self._log_script(container).token
        return token is not None and token <= self.clock.now()

    @property
    def serves(self) -> bool:
        """Whether a container that runs here answers requests."""
        return any(self._state(one)[0] == "running" and self._has_token(one) for one in self.every)

    def log(self, container: ContainerState) -> list[tuple[float, str]]:
        """Return all that it has written by now."""
        if container.stopped is not None:
            return container.past
        return [*container.past, *self._log_script(container).until(self.clock.now())]

    def _do_run(self, options: Namespace, say: Say) -> Answer:
        image, *argv = options.rest
        if image not in self.images:
            return 125, f"Unable to find image '{image}' locally"
        if options.rm:
            say(json.dumps(_versions(image)))
            return 0, ""
        fields = [*map(_fields, options.mount)]
        mounts = {mount["target"]: mount["source"] for mount in fields}
        # What the engine's flags name is mounted read-only, as it is; `linux.answer` has it all.
        wanted = [
            mount["source"]
            for mount in fields
            if "readonly" not in mount
            or mount["source"] != mount["target"]
            or mount["source"] in (*self.machine.missing, *USUAL)
        ]
        with self._lock:
            if obstacle := self._obstacle(options.name, options.device, wanted):
                return 125, f"docker: {_DAEMON}{obstacle}"
            part = None
            if options.detach:  # it runs a script in the folder of the host that it mounts
                path = mounts.get(argv[-1]) or argv[-1].replace(FOLDER, mounts[FOLDER], 1)
                part = part_of(self.files[path].decode())
            container = ContainerState(
                id=hashlib.sha256(f"{options.name} {next(_NUMBERS)}".encode()).hexdigest(),
                name=options.name,
                image=image,
                labels=dict(label.split("=", 1) for label in options.label),
                devices=tuple(map(int, _DAVINCI.findall(" ".join(options.device)))),
                part=part,
                began=self.clock.now(),
            )
            self.by_name[options.name] = container
            self.scripts.clear()
        if not options.detach:
            self.clock.sleep(self.pace.pull)  # `pip install`, for a derived image
        return 0, ""

    def _obstacle(self, name: str, paths: Sequence[str], sources: Iterable[str]) -> str:
        """Return why a container cannot be started; nothing when it can."""
        if name in self.by_name:
            return f'Conflict. The container name "/{name}" is already in use.'
        if self.machine.faults.disk_fills:
            return f"mkdir /var/lib/docker/overlay2/{name}: {_FULL}."
        devices = {f"/dev/davinci{chip.device}" for chip in self.machine.chips if not chip.dropped}
        for path in paths:
            if path not in devices | {*MANAGERS[:3]}:
                return f'error gathering device information while adding "{path}": no such file.'
        for source in sources:
            if not self._exists(source):
                return f"invalid mount config: bind source path does not exist: {source}."
        return ""

    def _exists(self, path: str) -> bool:
        """Return whether the host has this path: a file, a folder with files, or the driver's."""
        folder = f"{path.rstrip('/')}/"
        known = (*self.files, *USUAL, "/root/.cache/")
        return any(file == path or file.startswith(folder) for file in known)

    def _do_ps(self, options: Namespace, say: Say) -> Answer:
        for container in self.labelled(options.filter.removeprefix("label=")):
            say(container.id)
        return 0, ""

    def labelled(self, label: str) -> list[ContainerState]:
        """Return the containers with a label: `NAME` or `NAME=VALUE`."""
        name, equals, value = label.partition("=")
        return [
            container
            for container in self.every
            if name in container.labels and (not equals or container.labels[name] == value)
        ]

    def _do_inspect(self, options: Namespace, say: Say) -> Answer:
        containers = self._each(options)
        if options.format:  # launch/logs.py has the only one
            for container in containers:
                state, code = self._state(container)
                say(f"/{container.name} {state} {code} 0")
        else:
            say(json.dumps([self._inspected(container) for container in containers]))
        whole = len(containers) == len(options.rest)
        return (0, "") if whole else (1, "Error: No such container")

    def _inspected(self, container: ContainerState) -> dict[str, object]:
        state, code = self._state(container)
        started = self._stamp(container.began)
        return {
            "Id": container.id,
            "Name": f"/{container.name}",
            "RestartCount": 0,
            "State": {"Status": state, "ExitCode": code, "StartedAt": started},
            "Config": {"Image": container.image, "Labels": dict(container.labels)},
        }

    def _do_rm(self, options: Namespace, _: Say) -> Answer:
        with self._lock:
            for container in self._each(options):
                self.by_name.pop(container.name, None)
            self.scripts.clear()
        return 0, ""

    def _do_stop(self, options: Namespace, _: Say) -> Answer:
        for container in self._each(options):
            container.past, container.stopped = self.log(container), self.clock.now()
            self.scripts.clear()
        return 0, ""

    def _do_restart(self, options: Namespace, say: Say) -> Answer:
        self._do_stop(options, say)
        for container in self._each(options):
            container.began, container.stopped = self.clock.now(), None
            self.scripts.clear()
        return 0, ""

    def _do_update(self, *_: object) -> Answer:
        return 0, ""  # of a restart policy: nothing here is started again

    def _do_logs(self, options: Namespace, say: Say) -> Answer:
        container = self._find(options.rest[0])
        if container is None:
            return 1, f"{_DAEMON}No such container: {options.rest[0]}"
        lines = self.log(container)
        begin = max(0, len(lines) - int(options.tail or len(lines)))
        ended = not options.follow
        while True:
            for moment, text in lines[begin:]:
                if (stamp := self._stamp(moment)) >= (options.since or ""):
                    say(f"{stamp} {text}")
            if ended:
                return 0, ""
            self.clock.sleep(0.05)
            begin = len(lines)
            ended = self._find(container.name) is not container or (
                self._state(container)[0] == "exited"
            )
            lines = self.log(container)

    def _do_exec(self, options: Namespace, say: Say) -> Answer:
        name, *argv = options.rest
        container = self._find(name)
        if container is None or self._state(container)[0] != "running":
            return 1, f"{_DAEMON}container {name} is not running"
        if "watch.py" in " ".join(argv):  # launch/probe.py asks for a token
            if self._has_token(container):
                return 0, ""
            return 1, "URLError: <urlopen error [Errno 111] Connection refused>"
        code, text = self.inside(argv)
        for line in text.splitlines():
            say(line)
        if code == NOT_FOUND and not text:
            return code, (
                f"a virtual host does not know `{shlex.join(argv)}`:"
                " it answers what doctor asks, such as `npu-smi info`"
            )
        return code, ""

    def _do_image(self, options: Namespace, say: Say) -> Answer:
        name = options.rest[-1]
        if name not in self.images:
            return 1, f"{_DAEMON}No such image: {name}"
        say(self.images[name].id)
        return 0, ""

    def _do_pull(self, options: Namespace, say: Say) -> Answer:
        name = options.rest[0]
        if self.machine.faults.pull_fails:
            return 1, f"{_DAEMON}Get the manifest of {name}: dial tcp: i/o timeout"
        layers = [hashlib.sha256(f"{name} {n}".encode()).hexdigest()[:12] for n in range(_LAYERS)]
        for layer in layers:
            say(f"{layer}: Pulling fs layer")
        for layer in layers:
            self.clock.sleep(self.pace.pull / _LAYERS)
            if self.machine.faults.disk_fills:
                return 1, f"failed to register layer: write /usr/local/lib/libcann.so: {_FULL}"
            say(f"{layer}: Pull complete")
        self.images[name] = Image(name, _digest(name))
        return 0, ""

    def _do_load(self, options: Namespace, _: Say) -> Answer:
        path = options.input
        if path not in self.files:
            return 1, f"open {path}: no such file or directory"
        self.clock.sleep(self.pace.pull)
        for name in self.files[path].decode().split():  # a virtual archive is a list of names
            self.images[name] = Image(name, _digest(name))
        return 0, ""

    def _do_tag(self, options: Namespace, _: Say) -> Answer:
        source, name = options.rest
        self.images[name] = Image(name, self.images[source].id)
        return 0, ""

    def _do_commit(self, options: Namespace, _: Say) -> Answer:
        container, name = options.rest
        base = self.images[self.by_name[container].image]
        self.images[name] = Image(name, _digest(f"{base.id} {name}"))
        return 0, ""

    def _stamp(self, moment: float) -> str:
        """Return a time of the clock as Docker prints it."""
        return f"{datetime.fromtimestamp(self.epoch + moment, UTC):%Y-%m-%dT%H:%M:%S.%f}000Z"

    def _find(self, text: str) -> ContainerState | None:
        """Return the container of this name or id."""
        matching = (one for one in self.every if text in (one.name, one.id))
        return next(matching, None)

    def _each(self, options: Namespace) -> list[ContainerState]:
        return [container for text in options.rest if (container := self._find(text))]


def _versions(image: str) -> dict[str, str]:
    """Return what `importlib.metadata` knows in an image of a release."""
    tagged = image_tag(image)
    release = release_of(tagged.version) if tagged else None
    if release is None:
        return {"ray": "2.48.0"}
    return {
        "vllm_ascend": release.version,
        "vllm": f"{release.vllm}+empty",
        "ray": "2.48.0",
        "torch_npu": release.torch_npu,
    }


def _fields(text: str) -> dict[str, str]:
    """Read the value of `--mount`, a line of CSV."""
    words = next(csv.reader([text]))
    return {key: value for key, _, value in (word.partition("=") for word in words)}


def _digest(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"

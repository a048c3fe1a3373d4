"""`docker` on a virtual host: its images and containers are kept in memory.

It answers the commands that launch/docker.py, launch/images.py and launch/labels.py make, in
Docker's own words where one fails. virtual_engine.py decides what a container writes.
"""

import csv
import hashlib
import itertools
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from ropeway.engines.ascend_releases import image_tag, release_of
from ropeway.facts.ascend.driver import MANAGERS, USUAL
from ropeway.facts.host import Container, Image
from ropeway.launch.clock import Clock
from ropeway.launch.scripts import FOLDER
from ropeway.sim.machine import Machine
from ropeway.sim.virtual_engine import Incarnation, LogScript, Pace, Part, log_script_of, part_of

Say = Callable[[str], None]
Answer = tuple[int, str]  # exit code, stderr

# The options of these commands that take a value behind a space.
_VALUED = frozenset(
    f"--{name}"
    for name in (
        "name", "security-opt", "device", "shm-size", "ulimit", "mount", "env", "label", "change",
        "entrypoint", "filter", "format", "type", "tail", "since", "time", "restart", "input",
        "tag",
    )
)  # fmt: skip
_NUMBERS = itertools.count()  # of containers, so that each has an id of its own
_DAEMON = "Error response from daemon: "
_FULL = "no space left on device"
_LAYERS = 4


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
    policy: str = "no"
    past: list[tuple[float, str]] = field(default_factory=list)
    stopped: float | None = None


@dataclass(frozen=True)
class Options:
    """A command line taken apart: `--name value`, `--name=value`, and what follows."""

    named: Mapping[str, Sequence[str]]
    rest: tuple[str, ...]

    @classmethod
    def of(cls, argv: Sequence[str]) -> "Options":
        named: dict[str, list[str]] = {}
        words = list(argv)
        while words and words[0].startswith("-"):
            word, equals, value = words.pop(0).partition("=")
            if word in _VALUED and not equals:
                value = words.pop(0)
            named.setdefault(word, []).append(value)
        return cls(named, tuple(words))

    def one(self, name: str) -> str:
        return self.named[name][-1]

    def pairs(self, name: str) -> dict[str, str]:
        """The values of `--name KEY=VALUE`."""
        return dict(value.split("=", 1) for value in self.named.get(name, ()))


class LogScripts:
    """What containers write, kept as long as no container of any host changes."""

    def __init__(self) -> None:
        self.by_id: dict[str, LogScript] = {}

    def clear(self) -> None:
        """Forget them. Whoever is still computing one writes into what is forgotten."""
        self.by_id = {}


class ContainerEngine:
    """The engine of one host.

    files    the host's files: path → content
    peers    the incarnations of all containers, on all hosts, that meet at an ADDRESS:PORT
    inside   runs a command inside a container: exit code and output
    scripts  what the containers of all hosts write
    epoch    seconds from 1970 to the clock's zero
    """

    def __init__(
        self,
        machine: Machine,
        files: Mapping[str, bytes],
        pace: Pace,
        peers: Callable[[str], Sequence[Incarnation]],
        inside: Callable[[Sequence[str]], tuple[int, str]],
        *,
        scripts: LogScripts,
        clock: Clock,
        epoch: float,
    ) -> None:
        self.machine, self.pace, self.clock = machine, pace, clock
        self.images = {image.name: image for image in machine.images}
        self.by_name: dict[str, ContainerState] = {}
        self._files, self._peers, self._inside = files, peers, inside
        self._scripts, self._epoch = scripts, epoch
        self._lock = threading.RLock()

    def answer(self, argv: Sequence[str], say: Say) -> Answer:
        """Carry out `docker ARGV…`; `say` hears what it prints."""
        if not self.machine.docker_answers:
            return 1, "Cannot connect to the Docker daemon at unix:///var/run/docker.sock."
        verb = argv[0]
        if verb == "image":
            return self._image(argv[-1], say)
        known = getattr(self, f"_do_{verb}", None)
        if known is None:
            return 1, f"docker: '{verb}' is not a docker command."
        answer: Answer = known(Options.of(argv[1:]), say)
        return answer

    @property
    def running(self) -> tuple[Container, ...]:
        """The containers that run, as facts show them."""
        with self._lock:
            now = self.clock.now()
            return tuple(
                Container(one.name, one.image, one.devices)
                for one in self.by_name.values()
                if self.state(one, now)[0] == "running"
            )

    @property
    def every(self) -> tuple[ContainerState, ...]:
        with self._lock:
            return tuple(self.by_name.values())

    def incarnation(self, one: ContainerState) -> Incarnation | None:
        """Return how it lives now; None for one that is not part of an engine, or was ended."""
        if one.part is None or one.stopped is not None:
            return None
        return Incarnation(one.part, one.began, len(one.devices), self.machine.trouble)

    def script(self, one: ContainerState) -> LogScript:
        """Return what it writes from its start on."""
        by_id = self._scripts.by_id
        if one.id in by_id:
            return by_id[one.id]
        me = self.incarnation(one)
        if me is None:
            return LogScript(())
        others = self._peers(me.part.meeting) if me.part.meeting else ()
        script = log_script_of(me, [peer for peer in others if peer != me], self.pace)
        by_id[one.id] = script
        return script

    def state(self, one: ContainerState, now: float) -> tuple[str, int]:
        """Return its state as Docker calls it, and its exit code."""
        if one.stopped is not None:
            return "exited", 143
        script = self.script(one)
        if script.ends is not None and script.ends <= now:
            return "exited", script.code
        return ("running", 0) if one.part else ("exited", 0)

    def log(self, one: ContainerState) -> list[tuple[float, str]]:
        """Return all that it has written by now."""
        now = self.clock.now()
        return [*one.past, *(self.script(one).until(now) if one.stopped is None else ())]

    def _do_run(self, options: Options, say: Say) -> Answer:
        image, *argv = options.rest
        if image not in self.images:
            return 125, f"Unable to find image '{image}' locally"
        if "--rm" in options.named:
            say(json.dumps(_versions(image)))
            return 0, ""
        with self._lock:
            name = options.one("--name")
            if obstacle := self._obstacle(name, options):
                return 125, f"docker: {_DAEMON}{obstacle}"
            script = self._script(options, argv) if "--detach" in options.named else None
            one = ContainerState(
                id=hashlib.sha256(f"{name} {next(_NUMBERS)}".encode()).hexdigest(),
                name=name,
                image=image,
                labels=options.pairs("--label"),
                devices=tuple(map(int, _numbers(options.named.get("--device", ())))),
                part=part_of(script) if script is not None else None,
                began=self.clock.now(),
            )
            self.by_name[name] = one
            self._scripts.clear()
        if script is None:
            self.clock.sleep(self.pace.pull)  # `pip install`, for a derived image
        else:
            say(one.id)
        return 0, ""

    def _obstacle(self, name: str, options: Options) -> str:
        """Return why a container cannot be started; nothing when it can."""
        if name in self.by_name:
            return f'Conflict. The container name "/{name}" is already in use.'
        if self.machine.trouble.disk_fills:
            return f"mkdir /var/lib/docker/overlay2/{name}: {_FULL}."
        devices = {f"/dev/davinci{one.device}" for one in self.machine.chips if not one.dropped}
        for path in options.named.get("--device", ()):
            if path not in devices | {*MANAGERS[:3]}:
                return f'error gathering device information while adding "{path}": no such file.'
        for text in options.named.get("--mount", ()):
            source = _fields(text)["source"]
            if not self._exists(source):
                return f"invalid mount config: bind source path does not exist: {source}."
        return ""

    def _exists(self, path: str) -> bool:
        """Return whether the host has this path: a file, a folder with files, or the driver's."""
        known = (*self._files, *USUAL, "/root/.cache/")
        return any(one == path or one.startswith(f"{path.rstrip('/')}/") for one in known)

    def _script(self, options: Options, argv: Sequence[str]) -> str:
        """Return the script that a container runs, from the folder of the host that it mounts."""
        folders = [_fields(text) for text in options.named.get("--mount", ())]
        source = next(one["source"] for one in folders if one["target"] == FOLDER)
        path = argv[-1].replace(FOLDER, source, 1)
        return self._files[path].decode()

    def _do_ps(self, options: Options, say: Say) -> Answer:
        for one in self.labelled(options.one("--filter").removeprefix("label=")):
            say(one.id)
        return 0, ""

    def labelled(self, label: str) -> list[ContainerState]:
        """Return the containers with a label: `NAME` or `NAME=VALUE`."""
        name, equals, value = label.partition("=")
        with self._lock:
            return [
                one
                for one in self.by_name.values()
                if name in one.labels and (not equals or one.labels[name] == value)
            ]

    def _do_inspect(self, options: Options, say: Say) -> Answer:
        now = self.clock.now()
        containers = list(self._each(options))
        if "--format" in options.named:  # launch/logs.py has the only one
            for one in containers:
                state, code = self.state(one, now)
                say(f"/{one.name} {state} {code} 0")
        else:
            documents = [self._inspected(one, now) for one in containers]
            for line in json.dumps(documents, indent=1).splitlines():
                say(line)
        whole = len(containers) == len(options.rest)
        return (0, "") if whole else (1, "Error: No such container")

    def _inspected(self, one: ContainerState, now: float) -> dict[str, object]:
        state, code = self.state(one, now)
        return {
            "Id": one.id,
            "Name": f"/{one.name}",
            "RestartCount": 0,
            "State": {"Status": state, "ExitCode": code, "StartedAt": self._stamp(one.began)},
            "HostConfig": {"RestartPolicy": {"Name": one.policy}},
            "Config": {"Image": one.image, "Labels": dict(one.labels)},
        }

    def _do_rm(self, options: Options, say: Say) -> Answer:
        with self._lock:
            gone = list(self._each(options))
            for one in gone:
                self.by_name.pop(one.name, None)
                say(one.name)
            self._scripts.clear()
        return 0, "" if len(gone) == len(options.rest) else "Error: No such container"

    def _do_stop(self, options: Options, say: Say) -> Answer:
        for one in self._each(options):
            one.past, one.stopped = self.log(one), self.clock.now()
            self._scripts.clear()
            say(one.name)
        return 0, ""

    def _do_restart(self, options: Options, say: Say) -> Answer:
        for one in self._each(options):
            one.past, one.began, one.stopped = self.log(one), self.clock.now(), None
            self._scripts.clear()
            say(one.name)
        return 0, ""

    def _do_update(self, options: Options, say: Say) -> Answer:
        for one in self._each(options):
            one.policy = options.one("--restart")
            say(one.name)
        return 0, ""

    def _do_logs(self, options: Options, say: Say) -> Answer:
        one = self._find(options.rest[0])
        if one is None:
            return 1, f"{_DAEMON}No such container: {options.rest[0]}"
        lines = [f"{self._stamp(moment)} {text}" for moment, text in self.log(one)]
        count = int(options.one("--tail")) if "--tail" in options.named else len(lines)
        since = options.one("--since") if "--since" in options.named else ""
        for line in lines[len(lines) - min(count, len(lines)) :]:
            if line.partition(" ")[0] >= since:
                say(line)
        printed = len(lines)
        while "--follow" in options.named:
            now = self.clock.now()
            ended = self._find(one.name) is not one or self.state(one, now)[0] == "exited"
            for moment, text in self.log(one)[printed:]:
                say(f"{self._stamp(moment)} {text}")
                printed += 1
            if ended:
                break
            self.clock.sleep(0.05)
        return 0, ""

    def _do_exec(self, options: Options, say: Say) -> Answer:
        name, *argv = options.rest
        one = self._find(name)
        if one is None or self.state(one, self.clock.now())[0] != "running":
            return 1, f"{_DAEMON}container {name} is not running"
        if "watch.py" in " ".join(argv):  # launch/probe.py asks for a token
            token = self.script(one).token
            if token is not None and token <= self.clock.now():
                return 0, ""
            return 1, "URLError: <urlopen error [Errno 111] Connection refused>"
        code, text = self._inside(argv)
        for line in text.splitlines():
            say(line)
        return code, ""

    def _image(self, name: str, say: Say) -> Answer:
        if name not in self.images:
            return 1, f"{_DAEMON}No such image: {name}"
        say(self.images[name].id)
        return 0, ""

    def _do_pull(self, options: Options, say: Say) -> Answer:
        name = options.rest[0]
        if self.machine.trouble.pull_fails:
            return 1, f"{_DAEMON}Get the manifest of {name}: dial tcp: i/o timeout"
        layers = [hashlib.sha256(f"{name} {n}".encode()).hexdigest()[:12] for n in range(_LAYERS)]
        for layer in layers:
            say(f"{layer}: Pulling fs layer")
        for layer in layers:
            self.clock.sleep(self.pace.pull / _LAYERS)
            if self.machine.trouble.disk_fills:
                return 1, f"failed to register layer: write /usr/local/lib/libcann.so: {_FULL}"
            say(f"{layer}: Pull complete")
        self.images[name] = Image(name, _digest(name))
        say(f"Status: Downloaded newer image for {name}")
        return 0, ""

    def _do_load(self, options: Options, say: Say) -> Answer:
        path = options.one("--input")
        if path not in self._files:
            return 1, f"open {path}: no such file or directory"
        self.clock.sleep(self.pace.pull)
        for name in self._files[path].decode().split():  # a virtual archive is a list of names
            self.images[name] = Image(name, _digest(name))
            say(f"Loaded image: {name}")
        return 0, ""

    def _do_tag(self, options: Options, say: Say) -> Answer:  # noqa: ARG002
        source, name = options.rest
        self.images[name] = Image(name, self.images[source].id)
        return 0, ""

    def _do_commit(self, options: Options, say: Say) -> Answer:
        container, name = options.rest
        base = self.images[self.by_name[container].image]
        self.images[name] = Image(name, _digest(f"{base.id} {name}"))
        say(self.images[name].id)
        return 0, ""

    def _stamp(self, moment: float) -> str:
        """Return a time of the clock as Docker prints it."""
        return f"{datetime.fromtimestamp(self._epoch + moment, UTC):%Y-%m-%dT%H:%M:%S.%f}000Z"

    def _find(self, text: str) -> ContainerState | None:
        """Return the container of this name or id."""
        with self._lock:
            matching = (one for one in self.by_name.values() if text in (one.name, one.id))
            return next(matching, None)

    def _each(self, options: Options) -> Iterator[ContainerState]:
        return (one for one in map(self._find, options.rest) if one is not None)


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


def _numbers(paths: Sequence[str]) -> Iterator[str]:
    for path in paths:
        number = path.removeprefix("/dev/davinci")
        if number.isdecimal():
            yield number


def _fields(text: str) -> dict[str, str]:
    """Read the value of `--mount`, a line of CSV."""
    words = next(csv.reader([text]))
    return {key: value for key, _, value in (word.partition("=") for word in words)}


def _digest(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"

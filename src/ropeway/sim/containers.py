"""`docker` on a virtual host: its images and containers are kept in memory.

It answers the commands that launch/docker.py, launch/image.py and launch/labels.py make, in
Docker's own words where one fails. What a container writes is virtual_engine.py's.
"""

import csv
import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from ropeway.engines.ascend_releases import image_tag, release_of
from ropeway.facts.ascend.driver import MANAGERS, USUAL
from ropeway.hosts.child import sleep_cancellable
from ropeway.launch.scripts import FOLDER
from ropeway.sim.machine import Container, Image, Machine
from ropeway.sim.virtual_engine import Life, Pace, Part, Story, part_of, story_of

Say = Callable[[str], None]
Answer = tuple[int, str]  # exit code, stderr

# The options of these commands that take a value behind a space.
_VALUED = frozenset(
    f"--{name}"
    for name in (
        "name", "security-opt", "device", "shm-size", "ulimit", "mount", "env", "label", "change",
        "entrypoint", "filter", "format", "type", "tail", "time", "restart", "input", "tag",
    )
)  # fmt: skip
_DAEMON = "Error response from daemon: "
_FULL = "no space left on device"
_LAYERS = 4


@dataclass
class Made:
    """A container: what it was made with, and what has become of it.

    began    when it was started the last time, in seconds since 1970
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


class Stories:
    """What containers write, kept while no container of any host changes."""

    def __init__(self) -> None:
        self.known: dict[str, Story] = {}

    def clear(self) -> None:
        """Forget them. Who is still at work writes into what is forgotten."""
        self.known = {}


class ContainerEngine:
    """The engine of one host.

    files   the host's files: path → content
    lives   the lives of all containers, on all hosts, that meet at an ADDRESS:PORT
    inside  runs a command that is not the engine's own business: exit code and output
    stories of all hosts
    """

    def __init__(
        self,
        machine: Machine,
        files: Mapping[str, bytes],
        pace: Pace,
        lives: Callable[[str], Sequence[Life]],
        inside: Callable[[Sequence[str]], tuple[int, str]],
        *,
        stories: Stories,
    ) -> None:
        self.machine, self.pace = machine, pace
        self.images = {image.name: image for image in machine.images}
        self.made: dict[str, Made] = {}
        self._files, self._lives, self._inside = files, lives, inside
        self._stories = stories
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
        """What a look at the host finds."""
        with self._lock:
            now = time.time()
            return tuple(
                Container(one.name, one.image, one.devices)
                for one in self.made.values()
                if self.state(one, now)[0] == "running"
            )

    @property
    def every(self) -> tuple[Made, ...]:
        with self._lock:
            return tuple(self.made.values())

    def life(self, one: Made) -> Life | None:
        """None for one that is no part of an engine, or was ended."""
        if one.part is None or one.stopped is not None:
            return None
        return Life(one.part, one.began, len(one.devices), self.machine.trouble)

    def story(self, one: Made) -> Story:
        """What it writes from its start on."""
        known = self._stories.known
        if one.id in known:
            return known[one.id]
        me = self.life(one)
        if me is None:
            return Story(())
        others = self._lives(me.part.meeting) if me.part.meeting else ()
        found = story_of(me, [life for life in others if life != me], self.pace)
        known[one.id] = found
        return found

    def state(self, one: Made, now: float) -> tuple[str, int]:
        """As Docker calls it, and the exit code."""
        if one.stopped is not None:
            return "exited", 143
        story = self.story(one)
        if story.ends is not None and story.ends <= now:
            return "exited", story.code
        return ("running", 0) if one.part else ("exited", 0)

    def log(self, one: Made) -> list[tuple[float, str]]:
        """All that it has written by now."""
        now = time.time()
        return [*one.past, *(self.story(one).until(now) if one.stopped is None else ())]

    def _do_run(self, options: Options, say: Say) -> Answer:
        image, *argv = options.rest
        if image not in self.images:
            return 125, f"Unable to find image '{image}' locally"
        if "--rm" in options.named:
            say(json.dumps(_versions(image)))
            return 0, ""
        with self._lock:
            name = options.one("--name")
            if wrong := self._in_the_way(name, options):
                return 125, f"docker: {_DAEMON}{wrong}"
            script = self._script(options, argv) if "--detach" in options.named else None
            one = Made(
                id=hashlib.sha256(f"{name} {time.time_ns()}".encode()).hexdigest(),
                name=name,
                image=image,
                labels=options.pairs("--label"),
                devices=tuple(map(int, _numbers(options.named.get("--device", ())))),
                part=part_of(script) if script is not None else None,
                began=time.time(),
            )
            self.made[name] = one
            self._stories.clear()
        if script is None:
            sleep_cancellable(
                self.pace.pull
            )  # `pip install`, for an image that is derived from this one
        else:
            say(one.id)
        return 0, ""

    def _in_the_way(self, name: str, options: Options) -> str:
        """Why a container cannot be started; nothing when it can."""
        if name in self.made:
            return f'Conflict. The container name "/{name}" is already in use.'
        if self.machine.trouble.disk_fills:
            return f"mkdir /var/lib/docker/overlay2/{name}: {_FULL}."
        devices = {f"/dev/davinci{one.device}" for one in self.machine.chips if not one.dropped}
        for path in options.named.get("--device", ()):
            if path not in devices | {*MANAGERS[:3]}:
                return f'error gathering device information while adding "{path}": no such file.'
        for text in options.named.get("--mount", ()):
            source = _fields(text)["source"]
            if not self._there(source):
                return f"invalid mount config: bind source path does not exist: {source}."
        return ""

    def _there(self, path: str) -> bool:
        """Whether the host has this path: a file, a folder with files, or the driver's."""
        known = (*self._files, *USUAL, "/root/.cache/", "/home/ops/.cache/")
        return any(one == path or one.startswith(f"{path.rstrip('/')}/") for one in known)

    def _script(self, options: Options, argv: Sequence[str]) -> str:
        """The script that a container runs, from the folder of the host that it sees."""
        folders = [_fields(text) for text in options.named.get("--mount", ())]
        source = next(one["source"] for one in folders if one["target"] == FOLDER)
        path = argv[-1].replace(FOLDER, source, 1)
        return self._files[path].decode()

    def _do_ps(self, options: Options, say: Say) -> Answer:
        for one in self.labelled(options.one("--filter").removeprefix("label=")):
            say(one.id)
        return 0, ""

    def labelled(self, label: str) -> list[Made]:
        """Containers with a label: `NAME` or `NAME=VALUE`."""
        name, equals, value = label.partition("=")
        with self._lock:
            return [
                one
                for one in self.made.values()
                if name in one.labels and (not equals or one.labels[name] == value)
            ]

    def _do_inspect(self, options: Options, say: Say) -> Answer:
        now = time.time()
        found = [one for one in map(self._find, options.rest) if one is not None]
        for line in json.dumps([self._inspected(one, now) for one in found], indent=1).splitlines():
            say(line)
        return (0, "") if len(found) == len(options.rest) else (1, "Error: No such container")

    def _inspected(self, one: Made, now: float) -> dict[str, object]:
        state, code = self.state(one, now)
        return {
            "Id": one.id,
            "Name": f"/{one.name}",
            "RestartCount": 0,
            "State": {"Status": state, "ExitCode": code, "StartedAt": _stamp(one.began)},
            "HostConfig": {"RestartPolicy": {"Name": one.policy}},
            "Config": {"Image": one.image, "Labels": dict(one.labels)},
        }

    def _do_rm(self, options: Options, say: Say) -> Answer:
        with self._lock:
            gone = [one for one in map(self._find, options.rest) if one is not None]
            for one in gone:
                self.made.pop(one.name, None)
                say(one.name)
            self._stories.clear()
        return 0, "" if len(gone) == len(options.rest) else "Error: No such container"

    def _do_stop(self, options: Options, say: Say) -> Answer:
        for one in self._each(options):
            one.past, one.stopped = self.log(one), time.time()
            self._stories.clear()
            say(one.name)
        return 0, ""

    def _do_restart(self, options: Options, say: Say) -> Answer:
        for one in self._each(options):
            one.past, one.began, one.stopped = self.log(one), time.time(), None
            self._stories.clear()
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
        lines = self.log(one)
        count = int(options.one("--tail")) if "--tail" in options.named else len(lines)
        for line in lines[len(lines) - min(count, len(lines)) :]:
            say(_stamped(line))
        told = len(lines)
        while "--follow" in options.named:
            ended = self._find(one.name) is not one or self.state(one, time.time())[0] == "exited"
            lines = self.log(one)
            for line in lines[told:]:
                say(_stamped(line))
            told = len(lines)
            if ended:
                break
            sleep_cancellable(0.05)
        return 0, ""

    def _do_exec(self, options: Options, say: Say) -> Answer:
        name, *argv = options.rest
        one = self._find(name)
        if one is None or self.state(one, time.time())[0] != "running":
            return 1, f"{_DAEMON}container {name} is not running"
        if "watch.py once" in " ".join(argv):
            token = self.story(one).token
            if token is not None and token <= time.time():
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
            sleep_cancellable(self.pace.pull / _LAYERS)
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
        sleep_cancellable(self.pace.pull)
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
        base = self.images[self.made[container].image]
        self.images[name] = Image(name, _digest(f"{base.id} {name}"), env=base.env)
        say(self.images[name].id)
        return 0, ""

    def _find(self, text: str) -> Made | None:
        """By name or id."""
        with self._lock:
            found = (one for one in self.made.values() if text in (one.name, one.id))
            return next(found, None)

    def _each(self, options: Options) -> Iterator[Made]:
        return (one for one in map(self._find, options.rest) if one is not None)


def _versions(image: str) -> dict[str, str]:
    """What `import importlib.metadata` finds in an image of a release."""
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
    """The value of `--mount`, a line of CSV."""
    words = next(csv.reader([text]))
    return {key: value for key, _, value in (word.partition("=") for word in words)}


def _digest(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _stamp(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%dT%H:%M:%S.%f}000Z"


def _stamped(line: tuple[float, str]) -> str:
    return f"{_stamp(line[0])} {line[1]}"

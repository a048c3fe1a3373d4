"""The container engine of a host, its images, and the containers that run: Docker, podman, nerdctl.

Only what is read is asked for: the environment of a container and the proxies of a daemon hold
secrets, and answers go into bundles.
"""

import re
from dataclasses import dataclass, replace

from ropeway.facts.complaints import to_parsed
from ropeway.facts.host import Container, Image
from ropeway.facts.linux.limits import parse_disks
from ropeway.facts.question import Parsed, Question, shell
from ropeway.facts.text import at, items_at, json_values, text_at
from ropeway.phrases import phrase

# A daemon that is away or hangs takes the whole limit, and is asked nothing else.
_LIMIT = 30


@dataclass(frozen=True)
class Engine:
    """What answers. `version` is the server's; None where the daemon does not answer. podman also
    answers to `docker`."""

    name: str
    version: str | None


def parse_engine(text: str) -> Parsed[Engine]:
    """Read `docker version` as JSON.

    When the daemon does not answer, that is returned as an error, along with the client's engine.
    """
    values, leftovers = json_values(text)
    engine = next((engine for value in values if (engine := _engine(value))), None)
    parsed = to_parsed(text, engine, leftovers)
    if engine is None or engine.version is not None:
        return parsed
    return replace(parsed, state="error" if parsed.error else "partial")


def _engine(value: object) -> Engine | None:
    if not isinstance(at(value, "Client"), dict):
        return None
    client = text_at(value, "Client", "Version")
    if at(value, "Client", "OsArch"):  # podman has no daemon
        return Engine("podman", client)
    # nerdctl names containerd alone as its server.
    components = (text_at(item, "Version") for item in items_at(at(value, "Server"), "Components"))
    version = text_at(value, "Server", "Version") or next(components, None)
    return Engine("docker" if at(value, "Client", "ApiVersion") else "nerdctl", version)


ENGINE = Question(
    "docker-version",
    ("docker", "version", "--format", "{{json .}}"),
    parse_engine,
    limit=_LIMIT,
)


def fix_of_engine(command: str) -> str:
    """Return what to do about an engine that does not answer."""
    if command == "docker":
        return phrase(
            "install Docker, add the user to the group `docker`, or start it:\n"
            "$ systemctl start docker"
        )
    return phrase("install {program}", program=command)


# The disk where images and containers lie. Each engine names its root by a field of its own, and
# nerdctl by none.
DISK = Question(
    "docker-disk",
    shell(
        "r=$(docker info --format '{{.DockerRootDir}}' 2>/dev/null) ||"
        " r=$(docker info --format '{{.Store.GraphRoot}}' 2>/dev/null);"
        ' df -Pk "${r:-/var/lib}"'
    ),
    parse_disks,
    limit=_LIMIT,
    after=ENGINE.key,
)


def parse_images(text: str) -> Parsed[tuple[Image, ...]]:
    """Return every name of every image: of docker and nerdctl a line each, of podman a list with
    all names of an image at once."""
    values, leftovers = json_values(text)
    items = [item for value in values for item in (value if isinstance(value, list) else [value])]
    images = [Image(name, identity) for item in items for name, identity in _names(item)]
    known = any(text_at(item, "ID") or text_at(item, "Id") for item in items) or values == [[]]
    return to_parsed(text, tuple(images) if known else None, leftovers)


def _names(item: object) -> list[tuple[str, str]]:
    """Name and id of an image. What podman calls localhost/NAME answers to NAME, too."""
    identity = text_at(item, "ID") or text_at(item, "Id")
    repository, tag = text_at(item, "Repository"), text_at(item, "Tag")
    names = [f"{repository}:{tag}"] if repository else items_at(item, "Names")
    if not identity:
        return []
    plain = [name for name in names if isinstance(name, str) and "<none>" not in name]
    local = [name.removeprefix("localhost/") for name in plain if name.startswith("localhost/")]
    return [(name, identity.removeprefix("sha256:")) for name in (*plain, *local)]


IMAGES = Question(
    "docker-images",
    ("docker", "image", "ls", "--digests", "--no-trunc", "--format", "{{json .}}"),
    parse_images,
    limit=_LIMIT,
    after=ENGINE.key,
    optional=True,  # nothing is printed where there are no images
)


def parse_containers(text: str) -> Parsed[tuple[Container, ...]]:
    """Return the containers that run, with the NPUs they were given by name."""
    values, leftovers = json_values(text)
    containers = tuple(container for value in values if (container := _container(value)))
    return to_parsed(text, containers or None, leftovers)


def _container(value: object) -> Container | None:
    name = text_at(value, "name")
    if name is None:
        return None
    numbers = {
        int(match[1])
        for device in items_at(value, "devices")
        # A rehearsal gives another device under that name.
        for path in (text_at(device, "PathOnHost"), text_at(device, "PathInContainer"))
        if path and (match := _DAVINCI.fullmatch(path))
    }
    return Container(
        name.removeprefix("/"),
        text_at(value, "image") or "",
        tuple(sorted(numbers)),
        privileged=at(value, "privileged") is True,
    )


_DAVINCI = re.compile(r"/dev/davinci([0-9]{1,4})")
_FIELDS = (
    '{"name":{{json .Name}},"image":{{json .Config.Image}},'
    '"privileged":{{json .HostConfig.Privileged}},"devices":{{json .HostConfig.Devices}}}'
)
CONTAINERS = Question(
    "docker-inspect",
    shell(f"c=$(docker ps -q) || exit; [ -z \"$c\" ] || docker inspect --format '{_FIELDS}' $c"),
    parse_containers,
    limit=_LIMIT,
    after=ENGINE.key,
    optional=True,  # nothing is printed where no container runs
)


def with_engine(question: Question[object], command: str) -> Question[object]:
    """Put the question to another container engine."""
    argv = tuple(re.sub(r"\bdocker\b", command, word) for word in question.argv)
    return replace(question, argv=argv)

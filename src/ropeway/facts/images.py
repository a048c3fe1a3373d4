"""The container images of a host: names, digests, and what is set inside them."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ropeway.facts.base import Output, Reading
from ropeway.facts.docker import ENGINES, engine_refusal
from ropeway.facts.printed import (
    documents,
    labels_at,
    printed,
    read_table,
    seen,
    text_at,
    texts_at,
    whole_at,
)
from ropeway.units import parse_bytes

COMMANDS: Mapping[str, tuple[str, ...]] = {
    "docker-images": (
        "docker", "image", "ls", "--digests", "--no-trunc", "--format", "{{json .}}",
    ),
}  # fmt: skip

# Which variables say something about versions, devices and networks; the rest may be private.
_VARIABLES = re.compile(
    r"(?:ASCEND|ATB|CANN|CPU_AFFINITY|GLOO|HCCL|HCCN|HF_HOME|LCCL|LD_LIBRARY_PATH|LD_PRELOAD"
    r"|MASTER_|MINDIE|NNAL|NPU|OMP_|PATH$|PYTHONPATH|PYTORCH|RAY_|ROPEWAY|SOC_VERSION|TASK_QUEUE"
    r"|TOOLCHAIN|TORCH|TP_SOCKET|VLLM)"
)
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASS|CREDENTIAL|AUTH", re.IGNORECASE)


@dataclass(frozen=True)
class Image:
    """One name of an image.

    id          hexadecimal, without `sha256:`; 12 digits of it where the output was shortened
    digest      `sha256:…` of its manifest, the same on every host that pulled it; None for an
                image that was built or loaded here
    created     as printed: a date, or `2 weeks ago`
    size_bytes  rounded to three digits where docker prints it so
    """

    repository: str | None
    tag: str | None
    id: str
    digest: str | None
    created: str | None
    size_bytes: int | None


@dataclass(frozen=True)
class Images:
    """In the order of the output; an image with several names comes several times."""

    images: tuple[Image, ...]


@dataclass(frozen=True)
class ImageDetails:
    """What `docker image inspect` says of one image.

    digests       `REPOSITORY@sha256:…`
    environment   variables about versions, devices and networks
    cann_version  from a path in the environment (`…/cann-8.5.1`); None where it says `latest`
    """

    id: str
    names: tuple[str, ...]
    digests: tuple[str, ...]
    created: str | None
    architecture: str | None
    os: str | None
    size_bytes: int | None
    environment: Mapping[str, str]
    labels: Mapping[str, str]
    cann_version: str | None


@dataclass(frozen=True)
class ImageInspection:
    """Every image that was asked for and is there."""

    images: tuple[ImageDetails, ...]


def image_command(*names: str) -> tuple[str, ...]:
    """All about these images; read with `parse_image_inspect`."""
    return ("docker", "image", "inspect", *names)


def parse_images(text: str) -> Reading[Images]:
    """Read `docker images`: JSON lines, or the table of any version; also podman and nerdctl.

    No output: no image.
    """
    if not text.strip():
        return Reading.of(Images(()))
    found = documents(text, *ENGINES)
    objects = [item for value in found.values for item in _each(value)]
    images = [image for item in objects for image in _json_images(item)]
    if images or (found.values and not objects):
        return Reading.of(Images(tuple(images)), found.unread, cut=found.cut)
    out = printed(text, *ENGINES)
    lines = [line for line in out.lines if not _LEGEND.search(line)]
    table, unread = read_table(lines, ("IMAGE ID", "ID"))
    if table is None:
        return engine_refusal(text)
    images = [image for row in table if (image := _table_image(row))]
    return Reading.of(Images(tuple(images)), unread, cut=out.cut)


def parse_image_inspect(text: str) -> Reading[ImageInspection]:
    """Read `docker image inspect NAME…`; `[]` and "no such image" are an absent image."""
    found = documents(text, *ENGINES)
    images = [
        details
        for value in found.values
        for item in _each(value)
        if (details := _image_details(item))
    ]
    if not images:
        return engine_refusal(text)
    return Reading.of(ImageInspection(tuple(images)), found.unread, cut=found.cut)


def environment_of(entries: Iterable[str]) -> dict[str, str]:
    """`NAME=value` entries, those that tell of versions, devices and networks, none a secret."""
    found = {}
    for entry in entries:
        name, equals, value = entry.partition("=")
        if equals and _VARIABLES.match(name) and not _SECRET.search(name):
            found[name] = value
    return found


def plain_id(text: str) -> str:
    """An image's id without `sha256:`, which podman leaves out."""
    return text.removeprefix("sha256:")


def _each(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _json_images(item: object) -> list[Image]:
    """docker and nerdctl: one name a line; podman: all names of an image at once."""
    identity = text_at(item, "ID") or text_at(item, "Id")
    if not identity:
        return []
    repository, tag = text_at(item, "Repository"), text_at(item, "Tag")
    if repository:
        named = [(_or_none(repository), _or_none(tag))]
    else:
        names = texts_at(item, "Names") or texts_at(item, "RepoTags") or ("<none>",)
        named = [_split_name(name)[:2] for name in names]
    size = whole_at(item, "Size")
    return [
        Image(
            repository=repository,
            tag=tag,
            id=plain_id(identity),
            digest=_or_none(text_at(item, "Digest")),
            created=text_at(item, "CreatedAt") or text_at(item, "CreatedSince"),
            size_bytes=size if size is not None else _size(text_at(item, "Size") or ""),
        )
        for repository, tag in named
    ]


def _table_image(row: Mapping[str, str]) -> Image | None:
    identity = row.get("IMAGE ID") or row.get("ID") or ""
    if not _ID.fullmatch(identity):
        return None
    if "IMAGE" in row:  # Docker 29
        repository, tag, digest = _split_name(row["IMAGE"])
    else:
        repository, tag = _or_none(row.get("REPOSITORY")), _or_none(row.get("TAG"))
        digest = _or_none(row.get("DIGEST"))
    return Image(
        repository=repository,
        tag=tag,
        id=plain_id(identity),
        digest=digest,
        created=row.get("CREATED"),
        size_bytes=_size(row.get("SIZE") or row.get("DISK USAGE") or ""),
    )


def _image_details(item: object) -> ImageDetails | None:
    identity = text_at(item, "Id")
    if not identity or not isinstance(item, Mapping) or "RepoTags" not in item:
        return None
    entries = texts_at(item, "Config", "Env")
    environment = environment_of(entries)
    return ImageDetails(
        id=plain_id(identity),
        names=texts_at(item, "RepoTags"),
        digests=texts_at(item, "RepoDigests"),
        created=text_at(item, "Created"),
        architecture=text_at(item, "Architecture"),
        os=text_at(item, "Os"),
        size_bytes=whole_at(item, "Size"),
        environment=environment,
        labels=labels_at(item, "Config", "Labels"),
        cann_version=_cann_version(environment),
    )


def _cann_version(environment: Mapping[str, str]) -> str | None:
    if "CANN_VERSION" in environment:
        return environment["CANN_VERSION"]
    for name in ("ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH", "LD_LIBRARY_PATH"):
        found = _CANN_PATH.search(environment.get(name, ""))
        if found:
            return found[1]
    return None


def _split_name(name: str) -> tuple[str | None, str | None, str | None]:
    """`registry:5000/a/b:v1` → repository and tag; `a@sha256:…` → repository and digest."""
    if name.startswith("<"):
        return None, None, None
    base, at_sign, digest = name.partition("@")
    head, slash, last = base.rpartition("/")
    last, _, tag = last.partition(":")
    return f"{head}{slash}{last}", _or_none(tag), digest if at_sign else None


def _or_none(text: str | None) -> str | None:
    return text if text and text not in ("<none>", "-", "N/A", "<untagged>") else None


def _size(text: str) -> int | None:
    try:
        return parse_bytes(text[:40]) if text else None
    except ValueError:
        return None


_ID = re.compile(r"(?:sha256:)?[0-9a-f]{12,64}")
_LEGEND = re.compile(r"\bi Info →|^[ \t]*[├└│]")
_CANN_PATH = re.compile(r"/(?:cann-|ascend-toolkit/)([0-9][\w.]{0,30})")

_TABLE_LINE = re.compile(
    r"^[> \t]*(?:REPOSITORY +TAG +(?:DIGEST +)?IMAGE ID|IMAGE +ID +DISK USAGE)", re.MULTILINE
)
_JSON_LINE = re.compile(r"\"Repository\" ?: ?\"[^\n]{0,400}\"Tag\" ?: ?\"")
_PODMAN_LINE = re.compile(r"\"ParentId\" ?:")
_INSPECT_LINE = re.compile(r"\"RepoTags\" ?:")
_NO_IMAGE = re.compile(r"no such image|image not known", re.IGNORECASE)
_INSPECT_MORE = re.compile(r"\"(?:RootFS|GraphDriver|Parent|Comment)\" ?:")

OUTPUTS: tuple[Output[Any], ...] = (
    Output(
        "docker-images",
        "docker images --digests --no-trunc --format '{{json .}}'",
        parse_images,
        lambda text: (
            seen(text, 0.95, _TABLE_LINE)
            or seen(text, 0.95, _JSON_LINE)
            or seen(text, 0.9, _PODMAN_LINE)
        ),
    ),
    Output(
        "docker-image-inspect",
        "docker image inspect IMAGE",
        parse_image_inspect,
        lambda text: seen(text, 0.9, _INSPECT_LINE, _INSPECT_MORE) or seen(text, 0.5, _NO_IMAGE),
    ),
)

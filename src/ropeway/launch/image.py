"""Which image a host runs, and the image derived from it when the spec wants further packages."""

import hashlib
import json
from collections.abc import Sequence

from ropeway.engines.ascend_releases import IMAGE, Release
from ropeway.launch.docker import Mount, Runtime, mount_option
from ropeway.spec.cluster import Runtime as RuntimeSpec

# What a tag ends in, for each family of chips (vllm-ascend docs/source/installation.md).
_SUFFIX = {"A2": "", "A3": "-a3", "310P": "-310p", "950": "-a5"}
_DERIVED = "ropeway/vllm-ascend"
_WHEELS = "/wheels"


def image_name(release: Release, family: str, spec: RuntimeSpec) -> str:
    """Return the image of the spec, else that of the release for this family of chips."""
    if spec.image:
        tagged = ":" in spec.image.rpartition("/")[2] or "@" in spec.image
        return spec.image if tagged else f"{spec.image}:latest"
    variant = "-openeuler" if spec.os == "openeuler" else ""
    return f"{IMAGE}:v{release.version}{_SUFFIX[family]}{variant}"


def mirrored(image: str, mirror: str | None) -> str:
    """Return the name to pull: the mirror replaces the registry that the image's name begins with.

    The part before the first slash is a registry when it has a dot or a colon, as Docker has it.
    """
    if mirror is None:
        return image
    first, _, rest = image.partition("/")
    path = rest if rest and ("." in first or ":" in first or first == "localhost") else image
    return f"{mirror.rstrip('/')}/{path}"


def derived_name(base_id: str, spec: RuntimeSpec) -> str | None:
    """Return the name of the derived image, tagged with the hash of what it is made of.

    None where there is nothing to install.

    `base_id` is the id of the base image, the same on every host that has the same image.
    """
    if not spec.pip:
        return None
    ingredients = json.dumps([base_id, sorted(spec.pip), bool(spec.wheels)])
    return f"{_DERIVED}:{hashlib.sha256(ingredients.encode()).hexdigest()[:16]}"


def derive_argvs(
    runtime: Runtime, base: str, derived: str, spec: RuntimeSpec
) -> tuple[tuple[str, ...], ...]:
    """Return the commands that make it: install in a container of the base, and keep the result.

    Not `build`: a wheelhouse is mounted, and takes no room in the image.
    """
    name = f"ropeway-build-{derived.rpartition(':')[2]}"
    return (
        (runtime, "rm", "--force", name),  # of a build that was cut off
        (
            runtime, "run", "--name", name, "--net=host", *_wheelhouse(spec), base,
            "python3", "-m", "pip", "install", "--no-cache-dir", *_source(spec), "--", *spec.pip,
        ),
        (runtime, "commit", "--change", 'CMD ["/bin/bash"]', name, derived),
        (runtime, "rm", "--force", name),
    )  # fmt: skip


def _wheelhouse(spec: RuntimeSpec) -> Sequence[str]:
    if not spec.wheels:
        return ()
    return ("--mount", mount_option(Mount(spec.wheels, _WHEELS, read_only=True)))


def _source(spec: RuntimeSpec) -> Sequence[str]:
    if spec.wheels:
        return ("--no-index", "--find-links", _WHEELS)
    return ("--index-url", spec.index) if spec.index else ()

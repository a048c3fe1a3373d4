"""Images: which one a host runs, the one derived from it with more packages, and how they are
brought onto the hosts: pulled, or loaded from a file.
"""

import contextlib
import hashlib
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

from ropeway.engines.ascend_releases import IMAGE, TAG_SUFFIXES, Release
from ropeway.errors import CheckFailed, HostError, RopewayError
from ropeway.facts.host import HostFacts
from ropeway.hardware import Family
from ropeway.hosts.base import Host
from ropeway.hosts.child import CancelToken, cancellable
from ropeway.hosts.fleet import Hosts, OnProgress, run_on_all_or_raise
from ropeway.launch import docker
from ropeway.launch.clock import SYSTEM_CLOCK, Clock
from ropeway.launch.docker import Mount, mount_option
from ropeway.phrases import joined, phrase
from ropeway.spec.cluster import Runtime

_DERIVED = "ropeway/vllm-ascend"
_WHEELS = "/wheels"


def image_name(release: Release, family: Family, spec: Runtime) -> str:
    """Return the image of the spec, else that of the release for this family of chips."""
    if spec.image:
        tagged = ":" in spec.image.rpartition("/")[2] or "@" in spec.image
        return spec.image if tagged else f"{spec.image}:latest"
    variant = "-openeuler" if spec.os == "openeuler" else ""
    return f"{IMAGE}:v{release.name}{TAG_SUFFIXES[family]}{variant}"


def mirrored(image: str, mirror: str | None) -> str:
    """Return the name to pull: the mirror replaces the registry that the image's name begins with.

    The part before the first slash is a registry when it has a dot or a colon, as Docker has it.
    """
    if mirror is None:
        return image
    first, _, rest = image.partition("/")
    path = rest if rest and ("." in first or ":" in first or first == "localhost") else image
    return f"{mirror.rstrip('/')}/{path}"


def fetch_argvs(image: str, spec: Runtime) -> tuple[tuple[str, ...], ...]:
    """Return the commands that bring an image onto a host: loaded from a tar that `docker save`
    made, or pulled and, from a mirror, given its name."""
    if spec.archive:
        return ((spec.command, "load", "--input", spec.archive),)
    source = mirrored(image, spec.mirror)
    pull = (spec.command, "pull", source)
    return (pull,) if source == image else (pull, (spec.command, "tag", source, image))


def derived_name(base_id: str, spec: Runtime) -> str | None:
    """Return the name of the derived image, tagged with the hash of what it is made of.

    None where there is nothing to install.

    `base_id` is the id of the base image, the same on every host that has the same image.
    """
    if not spec.pip:
        return None
    ingredients = json.dumps([base_id, sorted(spec.pip), bool(spec.wheels)])
    return f"{_DERIVED}:{hashlib.sha256(ingredients.encode()).hexdigest()[:16]}"


def derive_argvs(
    runtime: docker.Runtime, base: str, derived: str, spec: Runtime
) -> tuple[tuple[str, ...], ...]:
    """Return the commands that make it: install in a container of the base, and keep the result.

    Not `build`: a wheelhouse is mounted, and takes no room in the image.
    """
    name = f"ropeway-build-{derived.rpartition(':')[2]}"
    wheelhouse: tuple[str, ...] = ()
    source: tuple[str, ...] = ("--index-url", spec.index) if spec.index else ()
    if spec.wheels:
        wheelhouse = ("--mount", mount_option(Mount(spec.wheels, _WHEELS, read_only=True)))
        source = ("--no-index", "--find-links", _WHEELS)
    return (
        (runtime, "rm", "--force", name),  # left by a build that was cut off
        (
            runtime, "run", "--name", name, "--net=host", *wheelhouse,
            # The derived image keeps the entrypoint, and with `env` it runs what it is given.
            "--entrypoint", "env", base,
            "python3", "-m", "pip", "install", "--no-cache-dir", *source, "--", *spec.pip,
        ),
        (runtime, "commit", "--change", 'CMD ["/bin/bash"]', name, derived),
        (runtime, "rm", "--force", name),
    )  # fmt: skip


_PULL_SECONDS = 4 * 3600.0  # 15 GB at 10 Mbit/s
_INSTALL_SECONDS = 3600.0
_LAYER = re.compile(r"^([0-9a-f]{12}): (Pulling fs layer|Already exists|Pull complete)")
_BLOB = re.compile(r"^Copying blob (sha256:[0-9a-f]{12})")  # podman, when it begins with one
_SHORT_DIGITS = 12  # of an id that the engine has abbreviated

Ids = Mapping[str, str]  # image name → id


@dataclass(frozen=True)
class Images:
    """The images of several hosts.

    present   host → the images that its facts list: these are not asked for again
    """

    hosts: Hosts
    runtime: Runtime
    present: Mapping[str, Ids] = field(default_factory=dict)
    clock: Clock = SYSTEM_CLOCK

    def ensure(self, image: str, on_progress: OnProgress) -> Ids:
        """Make sure that every host has the image; return its id by host.

        Raises CheckFailed when it is missing and must not be fetched, HostError when that fails.
        """
        return run_on_all_or_raise(
            self.hosts, lambda host: self._id(host, image) or self._fetch(host, image, on_progress)
        )

    def ensure_derived(self, image: str, ids: Ids, on_progress: OnProgress) -> str:
        """Make the image with `runtime.pip` in it where it is missing, and return its name.

        It is `image` itself when there is nothing to install. `ids` are those of `image`, by host.
        Raises HostError, with pip's own words.
        """
        derived = derived_name("+".join(sorted(set(ids.values()))), self.runtime)
        if derived is None:
            return image
        packages = joined(self.runtime.pip, ", ")
        argvs = derive_argvs(self.runtime.command, image, derived, self.runtime)

        def derive(host: Host) -> None:
            if self._id(host, derived):
                return
            on_progress(phrase("{host}: installing {packages}", host=host.name, packages=packages))
            try:
                for argv in argvs:
                    result = host.run(argv, timeout=_INSTALL_SECONDS)
                    if argv[1:3] != ("rm", "--force"):
                        result.check(
                            phrase("cannot install {packages}", packages=packages),
                            where=host.name,
                        )
            except BaseException:
                self._remove_late(host, argvs[0])
                raise

        run_on_all_or_raise(self.hosts, derive)
        return derived

    def versions(self, image: str) -> dict[str, str]:
        """Ask the image on every host which versions it has: package → version.

        Raises CheckFailed when hosts have different ones under the same name.
        """
        answers = run_on_all_or_raise(self.hosts, lambda host: self._versions(host, image))
        if len({tuple(sorted(versions.items())) for versions in answers.values()}) > 1:
            command = self.runtime.command
            raise CheckFailed(
                phrase("hosts have different images under the name `{image}`", image=image),
                where=command,
                evidence=tuple(
                    phrase("{host}: {reason}", host=name, reason=_named(versions))
                    for name, versions in answers.items()
                ),
                hint=phrase(
                    "remove it where it is wrong: `{command} image rm {image}`",
                    command=command,
                    image=image,
                ),
            )
        return next(iter(answers.values()))

    def _id(self, host: Host, image: str) -> str:
        """Return the id of an image, empty when the host does not have it.

        Facts know it by its usual name only, and not by its digest, say.
        """
        if image in self.present.get(host.name, {}):
            return self.present[host.name][image]
        result = host.run(docker.image_argv(self.runtime.command, image))
        return _prefixed(result.stdout.strip()) if result.ok else ""

    def _fetch(self, host: Host, image: str, on_progress: OnProgress) -> str:
        command, archive = self.runtime.command, self.runtime.archive
        if archive:
            on_progress(phrase("{host}: loading {file}", host=host.name, file=archive))
            (load,) = fetch_argvs(image, self.runtime)
            result = host.run(load, timeout=_PULL_SECONDS)
            result.check(phrase("cannot load the image from {file}", file=archive), where=host.name)
        elif self.runtime.pull == "never":
            raise CheckFailed(
                phrase(
                    "{host} does not have the image `{image}`, and `runtime.pull` is `never`",
                    host=host.name, image=image,
                ),
                where=host.name,
                hint=phrase(
                    "on that host: {command} pull {image}\n"
                    "or copy it from one that has it: `{command} save`, and `runtime.archive`",
                    command=command, image=image,
                ),
            )  # fmt: skip
        else:
            self._pull(host, image, on_progress)
        result = host.run(docker.image_argv(command, image))
        result.check(
            phrase("the image that was fetched is not `{image}`", image=image), where=host.name
        )
        return _prefixed(result.stdout.strip())

    def _pull(self, host: Host, image: str, on_progress: OnProgress) -> None:
        pull, *name = fetch_argvs(image, self.runtime)
        source = pull[-1]
        layers: dict[str, bool] = {}

        def on_line(line: str) -> None:
            if match := _LAYER.match(line):
                layers[match[1]] = match[2] != "Pulling fs layer"
                on_progress(
                    phrase(
                        "{host}: pulling {image}: {done} of {layers} layers",
                        host=host.name, image=source,
                        done=sum(layers.values()), layers=len(layers),
                    )
                )  # fmt: skip
            elif match := _BLOB.match(line):
                layers[match[1]] = False
                on_progress(
                    phrase(
                        "{host}: pulling {image}: {layers} layers begun",
                        host=host.name, image=source, layers=len(layers),
                    )
                )  # fmt: skip

        on_progress(phrase("{host}: pulling {image}", host=host.name, image=source))
        result = host.run(pull, timeout=_PULL_SECONDS, on_line=on_line)
        result.check(
            phrase("cannot pull {image}", image=source),
            where=host.name,
            hint=phrase("a mirror: `runtime.mirror`; a file: `runtime.archive`; is the disk full?"),
        )
        for argv in name:
            host.run(argv).check(phrase("cannot name the image"), where=host.name)

    def _versions(self, host: Host, image: str) -> dict[str, str]:
        command, name = self.runtime.command, f"ropeway-ask-{secrets.token_hex(6)}"
        try:
            argv = docker.image_versions_argv(command, image, name)
            result = host.run(argv, timeout=300.0)
        except BaseException:
            self._remove_late(host, docker.remove_argv(command, [name]))
            raise
        what = phrase("the image cannot be asked for its versions")
        result.check(what, where=host.name)
        try:
            versions = json.loads(result.stdout.strip().splitlines()[-1])
            return {str(name): str(version) for name, version in versions.items()}
        except (ValueError, IndexError, AttributeError) as error:
            raise HostError(
                phrase("the image does not say which versions it has"),
                where=f"{host.name}, {image}",
                evidence=tuple(result.stdout.strip().splitlines()[-3:]),
            ) from error

    def _remove_late(self, host: Host, remove: tuple[str, ...]) -> None:
        """Remove what a `run` that was cut off has left, and look again: its daemon may only now
        have made the container, which nobody then starts (so `--rm` does not remove it)."""
        with (
            cancellable(CancelToken()),  # our own may be the one that was cancelled
            contextlib.suppress(RopewayError),
        ):
            for _ in range(3):
                host.run(remove)
                self.clock.sleep(0.4)


def images_of(facts: Mapping[str, HostFacts]) -> dict[str, Ids]:
    """Return the images that each host has, by its facts."""
    return {
        name: {
            image.name: _prefixed(image.id)
            for image in host.docker.images
            if len(image.id.removeprefix("sha256:")) > _SHORT_DIGITS
        }
        for name, host in facts.items()
        if host.docker is not None
    }


def _named(versions: Mapping[str, str]) -> str:
    return joined((f"{name} {version}" for name, version in versions.items()), ", ")


def _prefixed(image_id: str) -> str:
    """Return an image's id as Docker prints it; podman leaves the kind of the hash out."""
    return image_id if image_id.startswith("sha256:") else f"sha256:{image_id}"

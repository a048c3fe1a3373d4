"""Brings the image onto the hosts: pulled, or loaded from a file; and the one derived from it."""

import contextlib
import re
import secrets

from ropeway.errors import HostError, Refused, RopewayError
from ropeway.hosts.base import Host
from ropeway.hosts.child import CancelToken, cancellable, sleep_cancellable
from ropeway.hosts.fleet import Hosts, OnProgress, run_on_all_or_raise
from ropeway.launch import docker
from ropeway.launch.image import derive_argvs, derived_name, mirrored
from ropeway.spec.cluster import Runtime

_PULL_SECONDS = 4 * 3600.0  # 15 GB at 10 Mbit/s
_INSTALL_SECONDS = 3600.0
_LAYER = re.compile(r"^([0-9a-f]{12}): (Pulling fs layer|Already exists|Pull complete)")
_BLOB = re.compile(r"^Copying blob (sha256:[0-9a-f]{12})")  # podman, when it begins with one


def ensure_image(hosts: Hosts, runtime: Runtime, image: str, tell: OnProgress) -> dict[str, str]:
    """Every host has the image afterwards; returns its id by host.

    Raises Refused when it is missing and not to be fetched, HostError when fetching fails.
    """
    return run_on_all_or_raise(hosts, lambda host: _ensure(host, runtime, image, tell))


def ensure_derived(
    hosts: Hosts, runtime: Runtime, image: str, ids: dict[str, str], tell: OnProgress
) -> str:
    """The image with `runtime.pip` in it, made where it is not there; the base when there is none
    to make. Raises HostError, with pip's own words."""
    derived = derived_name("+".join(sorted(set(ids.values()))), runtime)
    if derived is None:
        return image

    def make(host: Host) -> None:
        if host.run(docker.image_argv(runtime.command, derived)).ok:
            return
        tell(f"{host.name}: installing {', '.join(runtime.pip)}")
        argvs = derive_argvs(runtime.command, image, derived, runtime)
        try:
            for argv in argvs:
                result = host.run(argv, timeout=_INSTALL_SECONDS)
                if argv[1:3] != ("rm", "--force"):
                    result.check(f"cannot install {', '.join(runtime.pip)}", where=host.name)
        except BaseException:
            _forget(host, argvs[0])
            raise

    run_on_all_or_raise(hosts, make)
    return derived


def _forget(host: Host, remove: tuple[str, ...]) -> None:
    """Remove what a `run` that was cut off has left, and look again: its daemon may only now have
    made the container, which nobody then starts (so `--rm` does not remove it)."""
    with (
        cancellable(CancelToken()),
        contextlib.suppress(RopewayError),
    ):  # we may be under one that came
        for _ in range(3):
            host.run(remove)
            sleep_cancellable(0.4)


def versions(hosts: Hosts, runtime: Runtime, image: str) -> dict[str, str]:
    """What the image has, by its own word: package → version.

    Raises Refused when hosts have different ones under the same name.
    """
    answers = run_on_all_or_raise(hosts, lambda host: _versions(host, runtime, image))
    distinct = {tuple(sorted(one.items())) for one in answers.values()}
    if len(distinct) > 1:
        raise Refused(
            f"hosts have different images under the name `{image}`",
            where=runtime.command,
            evidence=tuple(
                f"{name}: " + ", ".join(f"{key} {value}" for key, value in one.items())
                for name, one in answers.items()
            ),
            hint=f"remove it where it is wrong: `{runtime.command} image rm {image}`",
        )
    return next(iter(answers.values()))


def _versions(host: Host, runtime: Runtime, image: str) -> dict[str, str]:
    name = f"ropeway-ask-{secrets.token_hex(6)}"
    try:
        result = host.run(docker.ask_image_argv(runtime.command, image, name), timeout=300.0)
    except BaseException:
        _forget(host, docker.remove_argv(runtime.command, [name]))
        raise
    result.check("the image cannot be asked for its versions", where=host.name)
    try:
        return docker.versions_in(result.stdout)
    except ValueError as error:
        raise HostError(
            "the image does not tell its versions",
            where=f"{host.name}, {image}",
            evidence=tuple(result.stdout.strip().splitlines()[-3:]),
        ) from error


def _ensure(host: Host, runtime: Runtime, image: str, tell: OnProgress) -> str:
    command = runtime.command
    there = host.run(docker.image_argv(command, image))
    if there.ok:
        return there.stdout.strip()
    if runtime.archive:
        tell(f"{host.name}: loading {runtime.archive}")
        result = host.run(docker.load_argv(command, runtime.archive), timeout=_PULL_SECONDS)
        result.check(f"cannot load the image from {runtime.archive}", where=host.name)
    elif runtime.pull == "never":
        raise Refused(
            f"{host.name} does not have the image `{image}`, and `runtime.pull` is `never`",
            where=host.name,
            hint=f"on that host: {command} pull {image}\n"
            f"or copy it from one that has it: `{command} save`, and `runtime.archive`",
        )
    else:
        _pull(host, runtime, image, tell)
    found = host.run(docker.image_argv(command, image))
    found.check(f"what was fetched is not `{image}`", where=host.name)
    return found.stdout.strip()


def _pull(host: Host, runtime: Runtime, image: str, tell: OnProgress) -> None:
    source = mirrored(image, runtime.mirror)
    layers: dict[str, bool] = {}

    def heard(line: str) -> None:
        if found := _LAYER.match(line):
            layers[found[1]] = found[2] != "Pulling fs layer"
            tell(f"{host.name}: pulling {source}: {sum(layers.values())} of {len(layers)} layers")
        elif found := _BLOB.match(line):
            layers[found[1]] = False
            tell(f"{host.name}: pulling {source}: {len(layers)} layers begun")

    tell(f"{host.name}: pulling {source}")
    result = host.run(
        docker.pull_argv(runtime.command, source), timeout=_PULL_SECONDS, on_line=heard
    )
    result.check(
        f"cannot pull {source}",
        where=host.name,
        hint="a mirror: `runtime.mirror`; a file: `runtime.archive`; is there room on the disk?",
    )
    if source != image:
        tagged = host.run(docker.tag_argv(runtime.command, source, image))
        tagged.check("cannot name the image", where=host.name)

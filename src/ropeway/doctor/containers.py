"""Checks of the container engine and of the image on every host."""

from collections.abc import Iterable

from ropeway.doctor.cluster import Cluster, odd
from ropeway.doctor.finding import Finding, Place
from ropeway.doctor.versions import wanted_image

_INSTALL = "vllm-ascend docs/source/installation.md"


def engine(cluster: Cluster) -> Iterable[Finding]:
    """Docker, or what takes its place, is there and answers."""
    total = len(cluster.hosts)
    command = cluster.wanted.runtime
    name, fix = command, f"install {command}"
    if command == "docker":
        name = "Docker"
        fix = "install Docker; or `systemctl start docker`; or join the group `docker`"
    for problem in dict.fromkeys(host.docker.problem for host in cluster.hosts if host.docker):
        if problem is None:
            continue
        places = tuple(
            Place(host.name)
            for host in cluster.hosts
            if host.docker and host.docker.problem == problem
        )
        yield Finding(
            "docker", "fail", f"{name} cannot be used", places, total, problem,
            f"a {name} that answers", fix, _INSTALL,
        )  # fmt: skip
    versions = [
        (Place(host.name), host.docker.version if host.docker else None) for host in cluster.hosts
    ]
    if found := odd(versions):
        yield Finding(
            "docker-same", "warn", f"hosts differ in {name}", found.places, total, found.told(),
            "one version", "bring the others to the same version",
        )  # fmt: skip


def image(cluster: Cluster) -> Iterable[Finding]:
    """The image is on every host, and the same bytes."""
    command = cluster.wanted.runtime
    answering = [host for host in cluster.hosts if host.docker and host.docker.problem is None]
    names = {host.name: wanted_image(cluster, host) for host in answering}
    known = [name for name in names.values() if name]
    if not known:
        return
    usual = max(set(known), key=known.count)
    without = [
        Place(host.name)
        for host in answering
        if host.docker and not any(one.name == usual for one in host.docker.images)
    ]
    if without:
        yield Finding(
            "image-there", "warn", "the image is not on every host", tuple(without),
            len(answering), f"no `{usual}`", "the same image everywhere",
            f"`{command} pull {usual}`, or `{command} save` and `{command} load` from a host that"
            " has it",
            "vllm-ascend docs/source/faqs.md",
        )  # fmt: skip
    ids = [
        (Place(host.name), one.id)
        for host in answering
        if host.docker
        for one in host.docker.images
        if one.name == usual
    ]
    if found := odd(ids):
        shown = ", ".join(f"{str(value)[:19]} on {places[0]}" for value, places in
                          found.others.items())  # fmt: skip
        yield Finding(
            "image-same", "fail", "the image differs between hosts under one name", found.places,
            len(answering), f"{str(found.usual)[:19]} on {found.count}, {shown}", "one image id",
            f"`{command} pull {usual}` again on all, or copy one with `{command} save`",
            "vllm-ascend ray.md: the same image on every node",
        )  # fmt: skip

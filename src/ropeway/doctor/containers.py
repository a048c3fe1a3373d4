"""Checks of the container engine and of the image on every host."""

from collections import Counter
from collections.abc import Iterator

from ropeway.doctor.cluster import Cluster
from ropeway.doctor.finding import Location
from ropeway.doctor.rule import Check, Gap, Hit, outlier_hits, same_on_hosts
from ropeway.doctor.versions import image_of
from ropeway.facts.containers import ENGINE, IMAGES, fix_of_engine
from ropeway.facts.host import Docker
from ropeway.phrases import phrase


def _unusable(cluster: Cluster) -> Iterator[Hit]:
    command = cluster.requirements.runtime
    name = "Docker" if command == "docker" else command
    values = {"engine": name, "fix": fix_of_engine(command)}
    for host in cluster.hosts:
        if host.docker is not None and host.docker.problem is not None:
            yield Hit((Location(host.name),), host.docker.problem, values)


def _missing_images(cluster: Cluster) -> Iterator[Hit]:
    usual = _usual_image(cluster)
    for location, docker in _engines(cluster):
        if usual is not None and all(image.name != usual for image in docker.images):
            yield Hit((location,), phrase("no `{image}`", image=usual), {"image": usual})


def _different_images(cluster: Cluster) -> Iterator[Hit]:
    usual = _usual_image(cluster)
    ids = (
        (location, image.id[: len("sha256:") + 12])
        for location, docker in _engines(cluster)
        for image in docker.images
        if image.name == usual
    )
    return outlier_hits(ids, image=usual or "")


def _without_image(cluster: Cluster) -> Iterator[Gap]:
    if _usual_image(cluster) is None and any(_engines(cluster)):
        yield Gap(phrase("no image is named, and no host has one of vLLM-Ascend"))


def _usual_image(cluster: Cluster) -> str | None:
    """Return the name of the image that most hosts with a working engine would run."""
    names = [image_of(cluster, host) for host in cluster.hosts if host.docker]
    counts = Counter(name for name in names if name is not None)
    return counts.most_common(1)[0][0] if counts else None


def _engines(cluster: Cluster) -> Iterator[tuple[Location, Docker]]:
    for host in cluster.hosts:
        if host.docker is not None and host.docker.problem is None:
            yield Location(host.name), host.docker


CHECKS = (
    Check("docker", "fail", "{engine} cannot be used", _unusable,
          reads=(ENGINE,),
          expected="{engine} answers",
          fix="{fix}",
          source="vllm-ascend docs/source/installation.md"),
    Check("docker-same", "warn", "hosts differ in the version of {runtime}",
          same_on_hosts(lambda host: host.docker.version if host.docker else None),
          reads=(ENGINE,),
          expected="one version",
          fix="install the same version on all hosts"),
    Check("image-there", "warn", "the image is not on every host", _missing_images,
          reads=(ENGINE, IMAGES),
          lacking=_without_image,
          expected="the same image everywhere",
          fix="pull it on {host}, or copy it from a host that has it (`{runtime} save`, "
          "`{runtime} load`):\n"
          "$ {runtime} pull {image}",
          source="vllm-ascend docs/source/faqs.md"),
    Check("image-same", "fail", "hosts have different images under one name", _different_images,
          reads=(ENGINE, IMAGES),
          lacking=_without_image,
          expected="one image id",
          fix="pull it again on all hosts, or copy it from one (`{runtime} save`, "
          "`{runtime} load`):\n"
          "$ {runtime} pull {image}",
          source="vllm-ascend ray.md: the same image on every node"),
)  # fmt: skip

"""Checks of versions against each other: driver, firmware, CANN, image, model.

What fits what is data: engines/ascend_releases.py, each row with its source.
"""

import re
from collections.abc import Iterable

from ropeway.doctor.cluster import Cluster, each_host, grouped, odd
from ropeway.doctor.finding import Finding, Place
from ropeway.engines.ascend_releases import (
    MODEL_NEEDS,
    ImageTag,
    driver_needs,
    image_tag,
    order,
    release_of,
)
from ropeway.facts.host import HostFacts
from ropeway.facts.npu_smi import chip_family

_POLICY = "vllm-ascend versioning policy: a row is used as a set"


def same(cluster: Cluster) -> Iterable[Finding]:
    """Driver and CANN are the same everywhere."""
    total = len(cluster.hosts)
    if found := odd(each_host(cluster, lambda host: host.driver)):
        yield Finding(
            "driver-same", "fail", "hosts differ in NPU driver", found.places, total, found.told(),
            "one driver everywhere", "install the same HDK on the others, then reboot",
            "HCCL installation guide; msprechecker, driver rule",
        )  # fmt: skip
    if found := odd(each_host(cluster, lambda host: host.cann)):
        yield Finding(
            "cann-same", "warn", "hosts differ in CANN", found.places, total, found.told(),
            "one CANN; a container brings its own", "install the same CANN, or use containers only",
            "msprechecker, CANN rule",
        )  # fmt: skip


def firmware_fits(cluster: Cluster) -> Iterable[Finding]:
    """The driver's own version.info says which firmware it works with."""
    wrong = []
    for host in cluster.hosts:
        limits = host.firmware_range or ()
        firmware = host.firmware or next((npu.firmware for npu in host.npus if npu.firmware), None)
        if firmware is None or len(limits) != 2 or not re.match(r"\d+(\.\d+)+", firmware):
            continue
        short = ".".join(firmware.split(".")[:3])
        if not order(limits[0]) <= order(short) <= order(limits[1]):
            wrong.append((Place(host.name), (firmware, " to ".join(limits))))
    yield from grouped(
        wrong,
        lambda places, seen: Finding(
            "firmware-driver", "fail", "the firmware does not fit the driver", places,
            len(cluster.hosts), f"firmware {seen[0]}", f"{seen[1]}, as the driver asks",
            "upgrade the firmware of the same HDK, then reboot",
            "/usr/local/Ascend/driver/version.info, compatible_version_fw",
        ),
    )  # fmt: skip


def driver_fits(cluster: Cluster) -> Iterable[Finding]:
    """The driver is new enough for the release in the image."""
    wrong = []
    for host, tag in _tagged(cluster):
        release = release_of(tag.version)
        if host.driver is None or release is None:
            continue
        for need in driver_needs(release):
            if order(host.driver) < order(need.driver):
                wrong.append((Place(host.name), (host.driver, tag.version, need)))
                break
    yield from grouped(
        wrong,
        lambda places, seen: Finding(
            "driver-image", "fail" if seen[2].hard else "warn",
            "the driver is too old for the image", places, len(cluster.hosts),
            f"driver {seen[0]}, vllm-ascend {seen[1]}",
            f"driver {seen[2].driver} or newer: {seen[2].why}",
            "upgrade driver and firmware (HDK), or use an older image", seen[2].source,
        ),
    )  # fmt: skip


def image_fits(cluster: Cluster) -> Iterable[Finding]:
    """The image is for this product and this processor."""
    wrong = []
    for host, tag in _tagged(cluster):
        families = {family for npu in host.npus if (family := chip_family(npu.name or "").name)}
        if families and tag.family not in families:
            told = " and ".join(sorted(families))
            wrong.append((Place(host.name), (tag.family, told)))
    yield from grouped(
        wrong,
        lambda places, seen: Finding(
            "image-chip", "fail", "the image is for another product", places, len(cluster.hosts),
            f"image for {seen[0]}, NPUs are {seen[1]}", "the tag of the product",
            "A2 (910B1-4): no suffix; A3: `-a3`; 300I Duo: `-310p`",
            "vllm-ascend docs/source/installation.md",
        ),
    )  # fmt: skip


def model_fits(cluster: Cluster) -> Iterable[Finding]:
    """The release knows this kind of model."""
    wrong = []
    for host, tag in _tagged(cluster):
        kind = host.model.model_type if host.model else None
        for need in MODEL_NEEDS:
            if kind in need.model_types and order(tag.version) < order(need.release):
                wrong.append((Place(host.name), (kind, tag.version, need)))
    yield from grouped(
        wrong,
        lambda places, seen: Finding(
            "model-release", "fail", "the image is too old for the model", places,
            len(cluster.hosts), f"{seen[0]} on vllm-ascend {seen[1]}",
            f"{seen[2].release} or newer: {seen[2].why}", "use a newer image", seen[2].source,
        ),
    )  # fmt: skip


def transformers_fits(cluster: Cluster) -> Iterable[Finding]:
    """The image's transformers is no older than the one that wrote the model's config.json.

    Older ones may not know the architecture: the blog's image had 4.56.2, and Qwen3-VL asks for
    4.57.0. A newer writer alone does not prove that, so this is a warning.
    """
    wrong = []
    for host, tag in _tagged(cluster):
        release = release_of(tag.version)
        newest = release.newest_transformers if release else None
        written = host.model.transformers if host.model else None
        if newest and written and order(written) > order(newest):
            wrong.append((Place(host.name), (written, tag.version, newest)))
    yield from grouped(
        wrong,
        lambda places, seen: Finding(
            "model-transformers", "warn", "the model was written by a newer transformers", places,
            len(cluster.hosts), f"{seen[0]}; vllm-ascend {seen[1]} has at most {seen[2]}",
            "a transformers that knows the architecture",
            f"a newer image, or `pip install transformers=={seen[0]}` in the container", _POLICY,
        ),
    )  # fmt: skip


def model_type(cluster: Cluster) -> Iterable[Finding]:
    """MindIE's recipes rename DeepSeek's model_type; vLLM knows the original alone."""
    wrong = [
        (Place(host.name), host.model.model_type)
        for host in cluster.hosts
        if host.model and re.match(r"deepseek(?!_)\w", host.model.model_type or "")
    ]
    yield from grouped(
        wrong,
        lambda places, seen: Finding(
            "model-type", "fail", "config.json has a model_type that vLLM does not know", places,
            len(cluster.hosts), str(seen), "`deepseek_v2`, `deepseek_v3` …",
            "put the original config.json back", "msprechecker 0.4, model config rule",
        ),
    )  # fmt: skip


def _tagged(cluster: Cluster) -> Iterable[tuple[HostFacts, ImageTag]]:
    """Each host with the release of the image that would be used there."""
    for host in cluster.hosts:
        name = wanted_image(cluster, host)
        if name is not None and (tag := image_tag(name)) is not None:
            yield host, tag


def wanted_image(cluster: Cluster, host: HostFacts) -> str | None:
    """The spec's image; else the newest vllm-ascend that the host has."""
    if cluster.wanted.image is not None:
        return cluster.wanted.image
    found = [
        (order(tag.version), image.name)
        for image in (host.docker.images if host.docker else ())
        if (tag := image_tag(image.name)) is not None
    ]
    return max(found)[1] if found else None

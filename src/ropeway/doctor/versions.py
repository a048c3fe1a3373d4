"""Checks of versions against each other: driver, firmware, CANN, image, model.

What fits what is data: engines/ascend_releases.py, each row with its source.
"""

import re
from collections.abc import Iterator

from ropeway.doctor.cluster import Cluster
from ropeway.doctor.finding import Location
from ropeway.doctor.rule import Check, Evidence, Gap, Hit, on_models, same_on_hosts, unnamed_model
from ropeway.engines.ascend_releases import (
    MODEL_NEEDS,
    ImageTag,
    Release,
    driver_needs,
    image_tag,
    nearest,
    order,
    release_of,
)
from ropeway.facts.ascend.driver import CANN, DRIVER, FIRMWARE
from ropeway.facts.ascend.npu_cards import FIRMWARE as FIRMWARE_OF_NPU
from ropeway.facts.ascend.npu_smi import TABLE, chip_family
from ropeway.facts.containers import ENGINE, IMAGES
from ropeway.facts.host import HostFacts, ModelFiles
from ropeway.facts.model_directory import MODEL
from ropeway.hardware import Family
from ropeway.phrases import joined, phrase


def image_of(cluster: Cluster, host: HostFacts) -> str | None:
    """Return the image that the spec names, else the newest vllm-ascend that the host has."""
    if cluster.requirements.image is not None:
        return cluster.requirements.image
    versions = [
        (order(tag.version), image.name)
        for image in (host.docker.images if host.docker else ())
        if (tag := image_tag(image.name)) is not None
    ]
    return max(versions)[1] if versions else None


def tagged(cluster: Cluster) -> Iterator[tuple[HostFacts, ImageTag, Release | None]]:
    """Yield each host with the release of the image that would run there, and the one whose rules
    hold for it: as the user says, else its own or the nearest before it, if there is one."""
    like = _as_told(cluster)
    for host in cluster.hosts:
        name = image_of(cluster, host)
        tag = image_tag(name or "")
        if tag is None and name is not None and like is not None:
            tag = ImageTag(like.version, next(iter(_families(host)), "A2"))
        if tag is not None:
            yield host, tag, like or nearest(tag.version)


def _as_told(cluster: Cluster) -> Release | None:
    return release_of(cluster.requirements.release_like or "")


def _families(host: HostFacts) -> set[Family]:
    return {family for npu in host.npus if (family := chip_family(npu.name or ""))}


def _without_release(cluster: Cluster) -> Iterator[Gap]:
    """Yield what is not known of the image that would run."""
    releases = {host.name: (tag, row) for host, tag, row in tagged(cluster)}
    for host in cluster.hosts:
        name = image_of(cluster, host)
        if host.docker is None or host.docker.problem is not None:
            continue  # the question's own gap says so
        if name is None:
            yield Gap(phrase("no image of vLLM-Ascend, and none is named"), (host.name,))
            continue
        tag, row = releases.get(host.name, (None, None))
        if tag is None or row is None:
            why = phrase("the release of `{image}` is not known", image=name)
            yield Gap(why, (host.name,))
        elif row.version != tag.version and _as_told(cluster) is None:
            why = phrase(
                "vllm-ascend {release} is not known, and was judged as {version}",
                release=tag.version, version=row.version,
            )  # fmt: skip
            yield Gap(why, (host.name,))


def _without_model_or_release(cluster: Cluster) -> Iterator[Gap]:
    yield from unnamed_model(cluster)
    yield from _without_release(cluster)


def _wrong_firmware(cluster: Cluster) -> Iterator[Hit]:
    for host in cluster.hosts:
        limits = host.firmware_range or ()
        firmware = host.firmware or next((npu.firmware for npu in host.npus if npu.firmware), None)
        if firmware is None or len(limits) != 2 or not re.match(r"\d+(\.\d+)+", firmware):
            continue
        comparable = ".".join(firmware.split(".")[:3])
        if not order(limits[0]) <= order(comparable) <= order(limits[1]):
            values = {"lowest": limits[0], "highest": limits[1]}
            evidence = phrase("firmware {version}", version=firmware)
            yield Hit((Location(host.name),), evidence, values)


def _old_drivers(cluster: Cluster) -> Iterator[Hit]:
    for host, tag, release in tagged(cluster):
        if host.driver is None or release is None:
            continue
        needs = [need for need in driver_needs(release) if order(host.driver) < order(need.driver)]
        if needs:
            need = max(needs, key=lambda need: need.hard)  # the first, which asks for most
            values = {"driver": need.driver, "why": need.why, "reference": need.source}
            text = "driver {driver}, vllm-ascend {release}"
            evidence = phrase(text, driver=host.driver, release=tag.version)
            yield Hit((Location(host.name),), evidence, values, "fail" if need.hard else "warn")


def _wrong_images(cluster: Cluster) -> Iterator[Hit]:
    for host, tag, _ in tagged(cluster):
        families = _families(host)
        if families and tag.family not in families:
            chips = joined(sorted(families), ", ")
            evidence = phrase("image for {family}, NPUs: {chips}", family=tag.family, chips=chips)
            yield Hit((Location(host.name),), evidence)


def _old_images(cluster: Cluster) -> Iterator[Hit]:
    for host, tag, release in tagged(cluster):
        rules = release.version if release else tag.version
        model_type = host.model.model_type if host.model else None
        for need in MODEL_NEEDS:
            if model_type in need.model_types and order(rules) < order(need.release):
                values = {"release": need.release, "why": need.why, "reference": need.source}
                text = "{model_type} on vllm-ascend {release}"
                evidence = phrase(text, model_type=model_type, release=tag.version)
                yield Hit((Location(host.name),), evidence, values)


def _old_transformers(cluster: Cluster) -> Iterator[Hit]:
    """The image's transformers is older than the one that wrote the model's config.json.

    It may not know the architecture: an image had 4.56.2, and Qwen3-VL requires 4.57.0. A newer
    writer alone does not prove that, so this is a warning.
    """
    for host, tag, release in tagged(cluster):
        newest = release.newest_transformers if release else None
        writer = host.model.transformers if host.model else None
        if newest and writer and order(writer) > order(newest):
            text = "{writer}; vllm-ascend {release} has at most {newest}"
            evidence = phrase(text, writer=writer, release=tag.version, newest=newest)
            yield Hit((Location(host.name),), evidence, {"transformers": writer})


def _renamed_type(model: ModelFiles) -> Evidence:
    """MindIE's recipes rename DeepSeek's model_type; vLLM knows only the original."""
    return model.model_type if re.match(r"deepseek(?!_)\w", model.model_type or "") else None


CHECKS = (
    Check("driver-same", "fail", "hosts have different NPU drivers",
          same_on_hosts(lambda host: host.driver),
          reads=((DRIVER, TABLE),),
          expected="one driver everywhere",
          fix="install the same HDK on all hosts, then reboot",
          source="HCCL installation guide; msprechecker, driver rule"),
    Check("cann-same", "warn", "hosts have different versions of CANN",
          same_on_hosts(lambda host: host.cann),
          reads=(CANN,),
          expected="one version; a container brings its own",
          fix="install the same CANN on all hosts, or use only containers",
          source="msprechecker, CANN rule"),
    Check("firmware-driver", "fail", "the firmware does not match the driver", _wrong_firmware,
          reads=(DRIVER, (FIRMWARE, FIRMWARE_OF_NPU)),
          expected="{lowest} to {highest}, as the driver requires",
          fix="install the firmware of the driver's HDK, then reboot",
          source="/usr/local/Ascend/driver/version.info, compatible_version_fw"),
    Check("driver-image", "fail", "the driver is too old for the image", _old_drivers,
          reads=((DRIVER, TABLE), ENGINE, IMAGES),
          lacking=_without_release,
          expected="driver {driver} or newer: {why}",
          fix="upgrade driver and firmware (HDK), or use an older image",
          source="{reference}"),
    Check("image-chip", "fail", "the image is for another product", _wrong_images,
          reads=(TABLE, ENGINE, IMAGES),
          lacking=_without_release,
          expected="an image for this product",
          fix="choose the tag by its suffix: none for A2 (910B1 to 910B4), `-a3` for A3, "
          "`-310p` for 300I Duo",
          source="vllm-ascend docs/source/installation.md"),
)  # fmt: skip

# What a model asks of the image: a reader looks for it below the model.
OF_MODELS: tuple[Check, ...] = (
    Check("model-release", "fail", "the image is too old for the model", _old_images,
          reads=(MODEL, ENGINE, IMAGES),
          lacking=_without_model_or_release,
          expected="{release} or newer: {why}",
          fix="use a newer image",
          source="{reference}"),
    Check("model-transformers", "warn", "config.json was written by a newer "
          "transformers than the image has",
          _old_transformers,
          reads=(MODEL, ENGINE, IMAGES),
          lacking=_without_model_or_release,
          expected="a transformers that knows the architecture",
          fix="use a newer image; or, in the container:\n"
          "$ pip install transformers=={transformers}",
          source="vllm-ascend versioning policy: a row is used as a set"),
    Check("model-type", "fail", "config.json has a model_type that vLLM does not know",
          on_models(_renamed_type),
          reads=(MODEL,),
          lacking=unnamed_model,
          expected="the original name, such as `deepseek_v3`",
          fix="restore the original config.json",
          source="msprechecker 0.4, model config rule"),
)  # fmt: skip

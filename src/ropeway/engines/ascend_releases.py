"""The releases of vLLM-Ascend: what each was built with, and which driver of the host it needs.

A row is used as a set: the plug-in's versioning policy allows no mixing. Sources: V is the policy's
table (vllm-project/vllm-ascend, docs/source/community/versioning_policy.md), R the release notes,
I the installation page, and `#N` an issue of that repository. Nothing here was verified on NPU
hardware by us.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any

from ropeway.errors import Refused
from ropeway.hardware import Family
from ropeway.phrases import joined, phrase

IMAGE = "quay.io/ascend/vllm-ascend"


@cache
def changes() -> Mapping[str, Any]:
    """Return the tables of what releases need, renamed, removed and learnt, which have comments."""
    file = resources.files("ropeway.engines").joinpath("ascend_changes.toml")
    return tomllib.loads(file.read_text("utf-8"))


@dataclass(frozen=True)
class Release:
    """One release. Versions are as published.

    transformers  its pin, where it has one
    unread        its source was not to be had, so what the plug-in reads is taken from this
                  release; "" for one whose source was read
    note          what else of the row was not published, and where it is taken from
    asked         what the user, or the image itself, calls a release that is taken as this one; ""
                  for the release itself
    as_told       whether it is taken as this one because the user says so
    """

    version: str
    vllm: str
    cann: str
    torch_npu: str
    transformers: str | None = None
    unread: str = ""
    note: str = ""
    asked: str = ""
    as_told: bool = False

    @property
    def name(self) -> str:
        """What people call it: as it was asked for, whatever it is taken as."""
        return self.asked or self.version

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what of it is taken from another release, to be said wherever it is used."""
        taken = phrase(
            "{asked} is a release that Ropeway knows, and needs no `--release-like` "
            "(`serve.release_like`): with it, flags, limits and memory are those of vLLM-Ascend "
            "{version}, which may be wrong"
            if release_of(self.asked)
            else "Ropeway does not know release {asked}: flags, limits and memory are those of "
            "vLLM-Ascend {version}, as you say, which may be wrong"
            if self.as_told
            else "Ropeway does not know release {asked}: flags, limits and memory are those of "
            "vLLM-Ascend {version}, which may be wrong; `--release-like` names another",
            asked=self.asked,
            version=self.version,
        )
        return (*((taken,) if self.asked else ()), *((self.note,) if self.note else ()))

    @property
    def unread_note(self) -> str:
        """What to say where the plug-in's variables and keys are used; "" where they were read."""
        if not self.unread:
            return ""
        return phrase(
            "which variables and keys vLLM-Ascend {version} reads is taken from {other}: its own "
            "source was not read by us",
            version=self.version,
            other=self.unread,
        )

    @property
    def newest_transformers(self) -> str | None:
        """The newest version that the pin allows; None where it sets no upper limit."""
        pin = re.fullmatch(r"(?:<=)?(\d+\.\d+\.\d+)", self.transformers or "")
        return pin[1] if pin else None


RELEASES: tuple[Release, ...] = (
    Release("0.9.0rc1", "0.9.0", "8.1.RC1", "2.5.1"),
    Release("0.9.0rc2", "0.9.0", "8.1.RC1", "2.5.1"),
    Release("0.9.1rc1", "0.9.1", "8.1.RC1", "2.5.1.post1.dev20250528"),
    Release("0.9.1rc2", "0.9.1", "8.2.RC1", "2.5.1.post1", "<4.53"),
    Release("0.9.1rc3", "0.9.1", "8.2.RC1", "2.5.1.post1", "<4.53"),
    Release("0.9.1", "0.9.1", "8.2.RC1", "2.5.1.post1", "<4.53"),
    Release("0.9.2rc1", "0.9.2", "8.1.RC1", "2.5.1.post1.dev20250619"),
    Release("0.10.0rc1", "0.10.0", "8.2.RC1", "2.7.1.dev20250724"),
    Release("0.10.1rc1", "0.10.1", "8.2.RC1", "2.7.1.dev20250724"),
    Release("0.10.2rc1", "0.10.2", "8.2.RC1", "2.7.1.dev20250724"),
    # transformers as found in its image (recorded: the two-host report in docs/benchmarks.md).
    Release("0.11.0rc0", "0.11.0rc3", "8.2.RC1", "2.7.1.dev20250724", "<=4.56.2"),
    Release("0.11.0rc1", "0.11.0", "8.3.RC1", "2.7.1"),
    Release("0.11.0rc2", "0.11.0", "8.3.RC2", "2.7.1"),
    Release("0.11.0rc3", "0.11.0", "8.3.RC2", "2.7.1.post1"),
    Release("0.11.0", "0.11.0", "8.3.RC2", "2.7.1.post1", "<=4.57.1"),
    Release("0.12.0rc1", "0.12.0", "8.3.RC2", "2.8.0", "<=4.57.1"),
    Release("0.13.0rc1", "0.13.0", "8.3.RC2", "2.8.0"),
    Release("0.13.0rc2", "0.13.0", "8.5.0", "2.8.0.post1"),
    Release("0.13.0", "0.13.0", "8.5.0", "2.8.0.post2", ">=4.57.4,<5"),
    Release("0.13.0rc3", "0.13.0", "8.5.1", "2.8.0.post2"),
    Release("0.14.0rc1", "0.14.1", "8.5.0", "2.9.0", ">=4.57.3"),
    Release("0.15.0rc1", "0.15.0", "8.5.0", "2.9.0"),
    Release("0.16.0rc1", "0.16.0", "8.5.1", "2.9.0", ">=4.57.4"),
    Release("0.17.0rc1", "0.17.0", "8.5.1", "2.9.0"),
    Release("0.18.0rc1", "0.18.0", "8.5.1", "2.9.0", ">=4.57.4"),
    # On x86 with CANN 9.0.0 (#7993).
    Release("0.18.0", "0.18.0", "8.5.1", "2.9.0.post1", ">=4.57.4"),
    Release("0.19.1rc1", "0.19.1", "8.5.1", "2.9.0", "5.5.3"),
    Release("0.20.2rc1", "0.20.2", "9.0.0", "2.10.0", "5.5.3"),
    Release("0.21.0rc1", "0.21.0", "9.0.0", "2.10.0", "5.5.4"),
    Release("0.22.1rc1", "0.22.1", "9.0.0", "2.10.0", "5.5.4"),
    Release("0.23.0rc1", "0.23.0", "9.0.1", "2.10.0.post2"),
    Release("0.23.0", "0.23.0", "9.1.0", "2.10.0.post4", "5.5.4"),
    Release("0.23.0.post1", "0.23.0", "9.1.0", "2.10.0.post4", "5.5.4"),
    Release("0.24.0rc1", "0.24.0", "9.0.1", "2.10.0.post2", "5.13.0"),
    Release("0.25.1rc1", "0.25.1", "9.0.1", "2.10.0.post2", "5.14.1"),
    Release("0.26.0rc1", "0.26.0", "9.1.0", "2.10.0.post4", "5.14.1"),
    # The policy's table leaves these three out: Dockerfile and requirements.txt of the source
    # distributions on PyPI.
    Release("0.27.1rc1", "0.27.1", "9.1.0", "2.10.0.post4", "5.14.1"),
    Release("0.28.0rc1", "0.28.0", "9.1.0", "2.10.0.post4", "5.14.1"),
    Release("0.29.0rc1", "0.29.0", "9.1.0", "2.10.0.post4", "5.14.1"),
    Release("0.30.0rc1", "0.30.0", "9.2.0", "2.10.0.post4", "5.14.1"),
    Release("0.30.0rc2", "0.30.0", "9.2.0", "2.10.0.post4", "5.14.1"),
    # CANN: notes of gpustack/runner v0.1.32.post2 (2026-10-30).
    Release("0.30.0", "0.30.0", "9.2.1", "2.10.0.post4", "5.14.1", unread="0.30.0rc2"),
    Release(
        "0.32.0rc1",
        "0.32.0",
        "9.2.1",
        "2.10.0.post4",
        "5.14.1",
        unread="0.30.0rc2",
        note="what vLLM-Ascend 0.32.0rc1 was built with is not published where we looked: CANN, "
        "torch_npu, transformers and limits are those of 0.30.0",
    ),
)

NEWEST_STABLE = [row for row in RELEASES if "rc" not in row.version][-1]
"""The release that is taken where nothing asks for another."""


@dataclass(frozen=True)
class DriverNeed:
    """From this release (or this CANN) on, the host's driver must be at least `driver`.

    hard  an older driver fails; otherwise the documents recommend against it
    """

    driver: str
    release: str | None = None
    cann: str | None = None
    hard: bool = True
    why: str = ""
    source: str = ""


# The strictest row that applies counts.
DRIVER_NEEDS = tuple(DriverNeed(**row) for row in changes()["driver_needs"])


@dataclass(frozen=True)
class ModelNeed:
    """A model of this `model_type` (config.json) runs from this release on."""

    model_types: Sequence[str]
    release: str
    why: str
    source: str


MODEL_NEEDS = tuple(ModelNeed(**row) for row in changes()["model_needs"])

# The repository may be a mirror's or a company's own; a tag may have more in it than the release.
_IMAGE = re.compile(r"vllm[-_]ascend[^/:@]*(?::(?P<tag>[^/:@]+))?(?:@.*)?", re.IGNORECASE)
_IN_TAG = re.compile(
    r"(?<![\w.])v?(?P<version>[01]\.\d+\.\d+(?:rc\d+)?(?:\.post\d+)?(?:\.dev\d+)?)(?!\.?\d)",
    re.IGNORECASE,
)
_VERSION = re.compile(r"(?P<numbers>[0-9.]*)(?:(?P<word>t|b|rc|post)(?=\d)(?P<rest>[\w.]*))?")
# What a tag ends in, for each family of chips (installation.md).
_YARN_AS_WRITTEN = "0.30.0rc1"
TAG_SUFFIXES: Mapping[Family, str] = {"A2": "", "A3": "-a3", "310P": "-310p", "950": "-a5"}
_FAMILY_OF_WORD: Mapping[str, Family] = {
    **dict.fromkeys(("950", "950dt"), "950"),
    **{suffix.strip("-"): family for family, suffix in TAG_SUFFIXES.items() if suffix},
}


@dataclass(frozen=True)
class ImageTag:
    """The release that an image's name gives, and the chips that it was built for."""

    version: str
    family: Family


def image_tag(name: str) -> ImageTag | None:
    """Read `quay.io/ascend/vllm-ascend:v0.11.0rc0-a3-openeuler`; None for other images."""
    image = _IMAGE.fullmatch(name.rpartition("/")[2])
    found = _IN_TAG.search((image and image["tag"]) or "")
    if image is None or found is None:
        return None
    words = re.split("[-_]", image["tag"].lower())
    families = (_FAMILY_OF_WORD[word] for word in words if word in _FAMILY_OF_WORD)
    return ImageTag(found["version"], next(families, "A2"))


def requested_version(image: str | None, version: str | None) -> str | None:
    """Return the release that a spec asks for: its image's, else that of `serve.version`.

    The image decides, since it is what runs; None where neither names a release.
    """
    tag = image_tag(image or "")
    return tag.version if tag else version


def release_of(version: str) -> Release | None:
    """Return the row of a release; None for one that is not in the table."""
    return next((row for row in RELEASES if row.version == version), None)


def nearest(version: str) -> Release | None:
    """Return the row of a release, else the newest one before it; None before all of the table."""
    older = [row for row in RELEASES if order(row.version) <= order(version)]
    return release_of(version) or max(older, key=lambda row: order(row.version), default=None)


def rules_of(version: str) -> Release:
    """Return the row whose rules hold for a release: its own, else the nearest before it, else the
    first of all."""
    return release_of(version) or nearest(version) or RELEASES[0]


def taken_release(
    image: str | None, version: str | None, like: str | None = None, found: str = ""
) -> Release:
    """Return the release whose rules hold for an image, or for `serve.version` without one.

    `found` is the version that the image itself says it has, which decides where it says one. A
    release that is not in the table is taken as the nearest before it, `main` and `nightly` as the
    newest of all, another image without a release as the newest stable one; `like` names another.
    Raises Refused for a `like` that is not in the table or like which nothing is, and for a release
    before all of the table.
    """
    found = found.partition("+")[0]
    version = version and version.removeprefix("v").partition("+")[0]
    if order(found) < order(RELEASES[0].version) and ".dev" in found:
        found = ""  # built from a clone without tags, which says nothing
    named = found or requested_version(image, version)
    asked = named or image or ""
    if like is not None:
        told = known_release(like, "serve.release_like")
        if not asked:
            raise _like_nothing(told.version)
        return told if told.version == named else replace(told, asked=asked, as_told=True)
    if named is None:
        newest = re.search("main|nightly", image or "") is not None
        return replace(RELEASES[-1] if newest else NEWEST_STABLE, asked=asked)
    if row := release_of(named):
        return row
    row = nearest(named)
    if row is None:
        raise _not_known(
            named,
            "serve.version" if named == version else image,
            "take one of these, or say which known release it is like: `--release-like`",
        )
    return replace(row, asked=named)


def known_release(version: str, where: str) -> Release:
    """Return the row of a release, with or without a `v`. Raises Refused for one without."""
    version = version.removeprefix("v")
    if row := release_of(version):
        return row
    raise _not_known(version, where, "take one of these")


def _not_known(version: str, where: str | None, hint: str) -> Refused:
    rows = sorted(RELEASES, key=lambda row: order(row.version))
    place = sum(order(row.version) < order(version) for row in rows)
    near = joined((row.version for row in rows[max(0, place - 2) : place + 2]), ", ")
    what = phrase("vLLM-Ascend {version} is not known", version=version)
    if not place:
        what = phrase(
            "vLLM-Ascend {version} is older than the oldest release that Ropeway starts, {first}",
            version=version,
            first=rows[0].version,
        )
    return Refused(
        what,
        where=where,
        evidence=(phrase("known releases near it: {releases}", releases=near),),
        hint=hint,
    )


def _like_nothing(version: str) -> Refused:
    return Refused(
        phrase(
            "`--release-like` (`serve.release_like`) says which release an image is like, and no "
            "image or version is named"
        ),
        hint=phrase(
            "to start {version} itself: `serve.version: {version}`, for `plan` also "
            "`--engine-version {version}`",
            version=version,
        ),
    )


def order(version: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return a sort key: `8.3.RC1` < `8.3.RC2` < `8.3.0` = `8.3`, `24.1.rc3` < `24.1`.

    It understands the versions of CANN, drivers and vLLM-Ascend: numbers with dots, then perhaps a
    numbered test build (`T`), build (`b`), release candidate (`rc`, `RC`) or `post`.
    """
    parts = _VERSION.match(version.lower())
    assert parts is not None  # every part of it may be empty
    numbers = [int(part) for part in re.findall(r"\d{1,9}", parts["numbers"])]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    rank = {None: 2, "t": 0, "b": 1, "rc": 1, "post": 3}[parts["word"]]
    return tuple(numbers), (rank, *map(int, re.findall(r"\d{1,9}", parts["rest"] or "")))


def later_than(version: str) -> Iterator[Release]:
    """Yield the releases after this one."""
    return (row for row in RELEASES if order(row.version) > order(version))


def multiplies_yarn(version: str) -> bool:
    """Whether the release's vLLM multiplies YaRN's factor (models/positions.py)."""
    return order(version) < order(_YARN_AS_WRITTEN)


def driver_needs(release: Release) -> tuple[DriverNeed, ...]:
    """Return the rows that apply to a release, the highest driver first."""
    rows = [
        need
        for need in DRIVER_NEEDS
        if (need.release is None or order(release.version) >= order(need.release))
        and (need.cann is None or order(release.cann) >= order(need.cann))
    ]
    return tuple(sorted(rows, key=lambda need: order(need.driver), reverse=True))


def in_runs(version: str, runs: str, versions: Sequence[str]) -> bool:
    """Whether a version is in one of the runs, `0.9.0-0.16.0 0.18.0-0.30.0`.

    The order is that of `versions`, which must have it: 0.13.0rc3, say, came after 0.13.0 and from
    the same branch.
    """
    place = versions.index(version)
    ends = (run.split("-") for run in runs.split())
    return any(versions.index(first) <= place <= versions.index(last) for first, last in ends)


def runs_in_words(runs: str) -> str:
    """Write `0.9.0-0.16.0` as `0.9.0 to 0.16.0`."""
    ends = (run.partition("-") for run in runs.split())
    return joined(
        (
            phrase("{first} to {last}", first=first, last=last) if last else first
            for first, _, last in ends
        ),
        ", ",
    )

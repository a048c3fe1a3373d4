"""What others have published of a layout: that it ran at all, on which chips and releases.

Only measurements count (measurements.json): nobody measures what does not start. A recipe or a row
of a support matrix says less, and `engines/ascend_layouts.py` knows what is said against a layout.
"""

from collections.abc import Mapping
from functools import cache
from math import exp

from ropeway.engines.ascend_releases import order
from ropeway.phrases import Phrase, joined, phrase
from ropeway.plan.correction import recorded
from ropeway.spec.model import Layout

_ENGINE = "vLLM-Ascend"
# So many releases are named.
_NAMED = 3
# How many times as many sequences as were measured a forecast may have before that is said.
_NEAR = 1.25


def unreported(
    layout: Layout, hosts: int, *, experts: bool, family: str, version: str
) -> Phrase | None:
    """Say that nobody has measured a layout of this kind on these chips, or with this release.

    None where somebody has. `hosts` are those of one replica, `family` is that of the chips. Of one
    kind are layouts with the same sorts of parallelism, for models with or without experts, on one
    host or on several. Releases that differ in the last number alone count as one.
    """
    several = hosts > 1
    kind = kinds(layout)
    found = _measured(family).get((kind, several, experts))
    if not found:
        return phrase(
            "nobody has published a measurement of {kinds} for {model} {where} on {chips}: run "
            "`ropeway bench` before you rely on it",
            kinds=kind,
            model=phrase("a mixture of experts") if experts else phrase("a dense model"),
            where=phrase("over several hosts") if several else phrase("within one host"),
            chips=family,
        )
    if any(_line(other) == _line(version) for other in found):
        return None
    ordered = sorted(filter(None, found), key=lambda release: (order(release), release))
    releases = [*{order(release): release for release in ordered}.values()]  # 0.11 is 0.11.0
    return phrase(
        "{kinds} was measured by others on {chips} with vLLM-Ascend {releases}, not with {version}",
        kinds=kind,
        chips=family,
        releases=joined(releases[-_NAMED:], ", ") or phrase("builds between releases"),
        version=version,
    )


def measured(layout: Layout, hosts: int, *, experts: bool, family: str) -> bool:
    """Return whether somebody has measured such a layout on these chips, with any release."""
    return (kinds(layout), hosts > 1, experts) in _measured(family)


def beyond_measured(running: float, family: str) -> int | None:
    """Return the most sequences at once in a DP rank that others have measured on these chips.

    None where `running` is not far more than that, or nobody has measured any.
    """
    counts = [
        exp(record.case.running)
        for record in recorded()
        if (record.case.engine, record.case.chips) == (_ENGINE, family)
    ]
    most = round(max(counts, default=0.0))
    return most if most and running > _NEAR * most else None


def kinds(layout: Layout) -> str:
    """Return the sorts of parallelism in a layout: `DP×TP+EP`."""
    sizes = {"DP": layout.data, "TP": layout.tensor, "PP": layout.pipeline}
    grid = "×".join(name for name, size in sizes.items() if size > 1) or "TP1"
    spread = layout.expert and layout.expert_ranks > 1
    return f"{grid}+EP" if spread else grid


@cache
def _measured(family: str) -> Mapping[tuple[str, bool, bool], set[str]]:
    """Return the releases with which each kind of layout was measured on these chips."""
    releases: dict[tuple[str, bool, bool], set[str]] = {}
    for record in recorded():
        if record.ran and (record.case.engine, record.case.chips) == (_ENGINE, family):
            ran = record.ran
            kind = kinds(Layout.parse(ran.layout)), ran.hosts > 1, ran.experts
            releases.setdefault(kind, set()).add(ran.version)
    return releases


def _line(version: str) -> tuple[str, ...]:
    return tuple(version.split(".")[:2])

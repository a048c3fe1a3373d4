"""The Ascend parts: memory, bandwidth, arithmetic, links; each figure with its source.

An NPU here is what `npu-smi` and vLLM count as one. An A3 package ("910C") is two of them.

Peaks of the matrix unit are `cores × 8192 × clock` (a 16×16×16 multiply-add array a core) with
cores and clock from CANN's platform files [C]. The advertised figures add the vector unit, which no
matrix product uses, so they are 6 % higher. INT8 runs at twice the rate.

C  https://github.com/hicann/runtime/tree/681ef7610df13c8128982901142a2c869ddbb53e/src/platform/platform_config
D  https://github.com/Ascend/msmodeling/blob/84fec853d6708256ca4fecf143d8b656a3a3496e/tensor_cast/device.py
"""

import re
from dataclasses import dataclass
from typing import Literal

from ropeway.errors import Refused
from ropeway.phrases import joined, phrase
from ropeway.suggest import did_you_mean

# 910A and 310B are known by name only: no image of vLLM-Ascend is for them.
Family = Literal["910A", "A2", "A3", "310B", "310P", "950"]

_CANN = phrase("CANN platform files, {path}", path="hicann/runtime src/platform/platform_config")
_DEVICE = "Ascend/msmodeling tensor_cast/device.py"


@dataclass(frozen=True)
class Link:
    """What joins one NPU to the others, one direction.

    bandwidth  bytes/s of one NPU, all its links together
    latency    seconds of one message
    """

    bandwidth: float
    latency: float
    source: str


@dataclass(frozen=True)
class Chip:
    """One NPU of a kind.

    hbm_bytes       as sold; what the driver leaves of it is less
    hbm_bandwidth   bytes/s
    bf16, int8, fp8 peak of the matrix unit, FLOP/s; 0 where it has none
    npus_per_host   of the usual server
    inside          to the NPUs of the same host (A3: of the same super node)
    between         to other hosts
    spellings       other names that mean this part, in lower case
    note            what is in dispute
    """

    name: str
    family: Family
    hbm_bytes: int
    hbm_bandwidth: float
    bf16: float
    int8: float
    fp8: float
    npus_per_host: int
    inside: Link
    between: Link
    spellings: tuple[str, ...] = ()
    note: str = ""
    source: str = joined((_CANN, _DEVICE))


# 7 links of 28 GB/s, one to each other NPU of the host, and one 200GbE RoCE port [D].
_A2_INSIDE = Link(196e9, 0.5e-6, _DEVICE)
_A2_BETWEEN = Link(25e9, 1.5e-6, _DEVICE)
# The super node's plane reaches 384 packages with 3 % less bandwidth than within a host
# (https://arxiv.org/abs/2506.12708).
_A3_INSIDE = Link(196e9, 0.5e-6, _DEVICE)
_A3_BETWEEN = Link(196e9, 5.5e-6, _DEVICE)
_PCIE = Link(32e9, 5e-6, phrase("PCIe 4.0 ×16, no direct links between 300I cards"))
_UB = Link(3 * 53e9, 1.5e-6, _DEVICE)

_GB = 2**30


def _cube(cores: int, clock: float) -> float:
    return cores * 8192 * clock


def _a2(name: str, cores: int, clock: float, hbm: int, bandwidth: float, note: str = "") -> Chip:
    peak = _cube(cores, clock)
    return Chip(
        name, "A2", hbm * _GB, bandwidth, peak, 2 * peak, 0.0, 8, _A2_INSIDE, _A2_BETWEEN, note=note
    )


def _a3(name: str, cores: int, clock: float, spellings: tuple[str, ...], note: str = "") -> Chip:
    peak = _cube(cores, clock)
    return Chip(
        name, "A3", 64 * _GB, 1.6e12, peak, 2 * peak, 0.0, 16, _A3_INSIDE, _A3_BETWEEN,
        spellings, note,
    )  # fmt: skip


CHIPS: tuple[Chip, ...] = (
    _a2("910B1", 24, 1.85e9, 64, 1.6e12),
    _a2("910B2", 24, 1.80e9, 64, 1.6e12),
    _a2("910B2C", 24, 1.80e9, 64, 1.6e12),
    _a2("910B3", 20, 1.80e9, 64, 1.6e12),
    _a2("910B4", 20, 1.50e9, 32, 0.8e12,
        note=phrase("bandwidth 0.8 TB/s in msmodeling; web tables say 0.4 to 1.2")),
    _a2("910B4-1", 20, 1.50e9, 64, 1.6e12, note=phrase("64 GB in msmodeling, 32 GiB in CANN")),
    _a3("910C", 24, 1.80e9,
        ("a3", "9381", "9382", "9391", "9392", "752t", "a3 752t"),
        phrase("one of the two dies of a package; the 1.85 GHz bins are 3 % faster")),
    _a3("910C-9372", 20, 1.80e9, ("9372",)),
    _a3("910C-560T", 20, 1.50e9, ("9362", "560t", "a3 560t")),
    Chip("310P3", "310P", 24 * _GB, 0.204e12, _cube(8, 1.06e9), 2 * _cube(8, 1.06e9), 0.0, 8,
         _PCIE, Link(3e9, 20e-6, phrase("a 25GbE port of the host")),
         ("310p", "300i", "300i duo"),
         phrase("fp16 only; a 300I Duo card is two of these with 48 or 96 GB")),
    # 950: no platform file gives cores × clock in these units; peaks as announced.
    Chip("950PR", "950", 128 * _GB, 1.6e12, 0.5e15, 1e15, 1e15, 8, _UB, _UB, ("9599",)),
    Chip("950DT", "950", 144 * _GB, 4.0e12, 0.5e15, 1e15, 1e15, 8, _UB, _UB, ("9591", "a5", "950")),
    Chip("Atlas 350", "950", 112 * _GB, 1.4e12, 378e12, 756e12, 756e12, 8, _UB, _UB,
         ("350",)),
)  # fmt: skip

_NAMES = {spelling: chip for chip in CHIPS for spelling in (chip.name.lower(), *chip.spellings)}
_FAMILY = re.compile(r"910b|\ba2\b|800i?t?\s?a2")


def chip_named(text: str) -> Chip:
    """The chip meant, in any usual spelling: `Ascend 910B4`, `910B4 32GB`, `Atlas A3 (…)`.

    Raises Refused with the list when there is none, or when the name fits chips that differ.
    """
    plain = text.lower().replace("ascend", " ").replace("910_", "")
    if "910b4" in plain and re.search(r"\b64\s?gi?b", plain):
        plain = "910b4-1"
    found = [
        name for name in _NAMES if re.search(rf"(?<![a-z0-9]){re.escape(name)}(?![a-z0-9-])", plain)
    ]
    if found:
        return _NAMES[max(found, key=len)]
    names = tuple(chip.name for chip in CHIPS)
    if _FAMILY.search(plain) and not re.search(r"910b\d", plain):
        raise Refused(
            phrase("`{text}` names a family of chips", text=text),
            evidence=("910B1 to 910B4-1 differ in memory and arithmetic",),
            hint=phrase(
                "`npu-smi info` shows which one it is: {names}", names=joined(names[:6], ", ")
            ),
        )
    meant = did_you_mean(plain.strip(), names)
    known = phrase("known: {names}", names=joined(names, ", "))
    hint = joined((meant, known), " ") if meant else known
    raise Refused(phrase("unknown chip `{text}`", text=text), hint=hint)

"""The chips, against figures worked out here from cores × array × clock, and their names."""

import pytest

from ropeway.errors import Refused
from ropeway.hardware import CHIPS, chip_named


def test_the_matrix_peak_is_cores_times_array_times_clock() -> None:
    # 20 cores of 16×16×16 multiply-adds (2 FLOP each) at 1.5 GHz.
    assert chip_named("910B4").bf16 == 20 * 16**3 * 2 * 1.5e9
    assert chip_named("910B4").bf16 == pytest.approx(245.8e12, rel=1e-3)
    assert chip_named("910B1").bf16 == pytest.approx(363.7e12, rel=1e-3)
    assert chip_named("310P3").bf16 == pytest.approx(69.5e12, rel=1e-3)


def test_the_chip_of_the_two_host_report() -> None:
    chip = chip_named("Ascend 910B4")
    assert chip.hbm_bytes == 32 * 2**30
    assert chip.hbm_bandwidth == 0.8e12
    assert chip.npus_per_host == 8


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Ascend 910B4", "910B4"),
        ("ascend910b4", "910B4"),
        ("910B4 32GB", "910B4"),
        ("910B4 64GB", "910B4-1"),
        ("910B3 64GB", "910B3"),
        ("Atlas A2 (910B3 64GB CI runner)", "910B3"),
        ("Atlas A3 (910C, dies counted)", "910C"),
        ("910_9382", "910C"),
        ("910C die (A3 560T)", "910C-560T"),
        ("310P (Atlas 300I Duo)", "310P3"),
        ("Ascend 950DT", "950DT"),
    ],
)
def test_usual_spellings_are_understood(text: str, name: str) -> None:
    assert chip_named(text).name == name


@pytest.mark.parametrize(
    ("text", "what", "hints"),
    [
        ("H100", "H100", [chip.name for chip in CHIPS]),
        ("910B5", "910B5", ["did you mean `910B"]),
        ("Atlas A2", "family", ["910B4"]),
    ],
)
def test_what_is_no_chip_is_refused_with_those_that_are(text, what, hints) -> None:
    with pytest.raises(Refused) as caught:
        chip_named(text)
    assert what in caught.value.what
    assert all(hint in (caught.value.hint or "") for hint in hints)


def test_every_chip_is_found_by_its_name_and_names_its_source() -> None:
    for chip in CHIPS:
        assert chip_named(chip.name) == chip
        assert chip.source and chip.inside.source and chip.between.source
        assert min(chip.hbm_bytes, chip.hbm_bandwidth, chip.bf16, chip.npus_per_host) > 0

"""What measurements say: constants found again where they are known, corrections by likeness."""

from dataclasses import replace
from math import exp, log
from pathlib import Path

import pytest
from click.testing import CliRunner

from model_files import MOE
from ropeway.cli.main import ropeway
from ropeway.errors import HostError, Refused
from ropeway.models.build import read_shape
from ropeway.plan import calibration
from ropeway.plan.calibration import (
    TRIALS,
    Calibration,
    Point,
    Trial,
    fit,
    predicted,
    read_calibration,
    write_calibration,
)
from ropeway.plan.correction import Case, Record, Similarity, kriging, recorded
from ropeway.spec.model import Layout

SHAPE = read_shape(MOE)
CORES, NPUS = 2, 2
SINGLE, DEMO = Trial(1, 2, 64, 32), Trial(16, 32, 64, 32)

# Output tokens/s of one client and of sixteen, measured on two machines of two cores: the first as
# in docs/benchmarks.md, "Layouts"; the second, with AVX2 only, has a quarter of its arithmetic.
MACHINES = {
    "fast": {
        "TP1": (22.1, 86.4), "TP2": (12.3, 72.7),
        "TP2×PP2+EP": (11.2, 59.3), "DP2×TP2": (3.3, 44.7),
    },
    "slow": {
        "TP1": (9.4, 22.1), "TP2": (6.3, 18.5),
        "TP2×PP2+EP": (3.7, 16.2), "DP2×TP2": (2.1, 12.5),
    },
}  # fmt: skip


def points(machine: str, *layouts: str) -> list[Point]:
    return [
        Point(layout, trial, speed)
        for layout in layouts
        for trial, speed in zip((SINGLE, DEMO), MACHINES[machine][layout], strict=True)
    ]


@pytest.mark.parametrize("machine", MACHINES)
def test_two_layouts_predict_the_order_of_the_demos_and_each_within_15_percent(machine):
    fitted = fit(SHAPE, points(machine, "TP1", "TP2"), CORES, NPUS)
    measured = {layout: speeds[1] for layout, speeds in MACHINES[machine].items()}
    ours = {
        layout: predicted(SHAPE, Layout.parse(layout), DEMO, fitted, NPUS) for layout in measured
    }
    assert sorted(ours, key=ours.__getitem__) == sorted(measured, key=measured.__getitem__)
    for layout, speed in measured.items():
        assert ours[layout] == pytest.approx(speed, rel=0.15), layout


def test_constants_that_are_known_are_found_again():
    true = replace(
        calibration._START, cores=CORES, bf16=80e9, memory_bandwidth=10e9, sequence=3e-3,
        reduce_rank=1e-3,
    )  # fmt: skip
    made = [
        Point(str(layout), trial, predicted(SHAPE, layout, trial, true, NPUS))
        for layout, trials in TRIALS
        for trial in (*trials, DEMO)
    ]
    fitted = fit(SHAPE, made, CORES, NPUS)
    for layout in map(Layout.parse, MACHINES["slow"]):
        there = predicted(SHAPE, layout, DEMO, true, NPUS)
        assert predicted(SHAPE, layout, DEMO, fitted, NPUS) == pytest.approx(there, rel=0.05)


def test_what_is_kept_is_read_again(tmp_path: Path):
    machine = replace(calibration._START, cores=CORES)
    kept = Calibration(machine, tuple(points("slow", "TP1")), "smollm2-moe", "2 cores", "today")
    path = tmp_path / "new" / "calibration.json"
    assert read_calibration(path) is None
    write_calibration(kept, path)
    assert read_calibration(path) == kept
    assert [item.name for item in path.parent.iterdir()] == ["calibration.json"]


def test_where_nothing_can_be_kept_the_reason_is_told(tmp_path: Path):
    (tmp_path / "file").touch()
    kept = Calibration(calibration._START, (), "smollm2-moe", "2 cores", "today")
    with pytest.raises(HostError, match="cannot make"):
        write_calibration(kept, tmp_path / "file" / "calibration.json")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 1, "points": []}'])
def test_what_cannot_be_read_says_how_to_get_it_anew(tmp_path: Path, text: str):
    path = tmp_path / "calibration.json"
    path.write_text(text)
    with pytest.raises(Refused, match="cannot be read") as caught:
        read_calibration(path)
    assert "ropeway calibrate --local" in (caught.value.hint or "")


def test_real_npus_are_not_calibrated():
    done = CliRunner().invoke(ropeway, ["calibrate"], standalone_mode=False)
    assert isinstance(done.exception, Refused)
    assert "ropeway calibrate --local" in (done.exception.hint or "")


LIKE = Similarity(
    family=0.02, model=0.06, source=0.03, series=0.03, engine=0.1, drafts=0.04, method=0.05,
    split=0.05, noise=0.01, months=3.0, running=1.0, context=1.0, npus=1.0,
)  # fmt: skip
CASE = Case("qwen3", "A2", "bf16", "vLLM-Ascend", 18.0, "", False, log(64), log(2048), log(8))


def record(factor: float, case: Case = CASE, source: str = "page") -> Record:
    return Record(replace(case, source=source), log(factor), f"https://{source}")


def test_without_anything_alike_nothing_is_corrected() -> None:
    other = replace(CASE, family="deepseek_v3", chips="A3", engine="MindIE")
    estimate = kriging(CASE, [record(2.0, other)], LIKE)(CASE)
    assert estimate.mean == 0
    assert estimate.note() == ""


def test_one_measurement_draws_half_way_and_less() -> None:
    estimate = kriging(CASE, [record(1.5)], LIKE)(CASE)
    # Covariance 0.02 + 0.06 of a variance of 0.08 + 0.03 + 0.03 of its source + 0.01 of noise.
    assert estimate.mean == pytest.approx(log(1.5) * 0.08 / 0.15)


def test_many_of_different_documents_that_agree_are_believed() -> None:
    rows = [record(1.5, source=f"page{number}") for number in range(20)]
    estimate = kriging(CASE, rows, LIKE)(CASE)
    assert exp(estimate.mean) == pytest.approx(1.5, rel=0.03)
    assert estimate.variance < kriging(CASE, rows[:1], LIKE)(CASE).variance


def test_the_nearer_one_counts_for_more() -> None:
    far = replace(CASE, running=log(2), context=log(30_000))
    rows = [record(1.5, source="near"), record(0.5, far, "far")]
    assert kriging(CASE, rows, LIKE)(CASE).mean > 0


def test_knowledge_fades_with_distance() -> None:
    rows = [record(1.5)]
    near = kriging(CASE, rows, LIKE)(CASE)
    case = replace(CASE, running=log(1), context=log(100_000))
    far = kriging(case, rows, LIKE)(case)
    assert 0 < far.mean < near.mean
    assert far.variance > near.variance


@pytest.mark.parametrize("number", [4, 12])
def test_the_note_says_how_many_how_much_and_which(number: int) -> None:
    rows = [record(1.5, source=f"page{at}") for at in range(number)]
    note = kriging(CASE, rows, LIKE)(CASE).note()
    assert f"{number} similar measurements" in note
    assert "longer than computed" in note
    assert "https://page" in note


def test_a_measurement_that_tells_little_of_its_steps_corrects_little() -> None:
    kept_up = replace(record(1.5), tells=0.0)
    corrected = kriging(CASE, [kept_up], LIKE)(CASE).mean
    assert 0 < corrected < 0.1 * kriging(CASE, [record(1.5)], LIKE)(CASE).mean


def test_one_method_of_speculation_says_something_of_another() -> None:
    other = replace(CASE, family="deepseek_v3", method="mtp")
    drafts = replace(CASE, method="eagle")
    rows = [record(1.5, other)]
    assert kriging(drafts, rows, LIKE)(drafts).mean > 0
    assert kriging(CASE, rows, LIKE)(CASE).mean == 0


def test_no_stored_measurement_that_tells_nothing_has_a_factor() -> None:
    assert all(item.factor == 0 for item in recorded() if item.tells < 0.01)


def test_every_stored_measurement_names_its_source() -> None:
    assert len(recorded()) > 200
    for item in recorded():
        assert item.url.startswith("http")
        assert abs(item.factor) < 2

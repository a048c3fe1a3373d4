"""Corrections by likeness, on records made up so that the answer is known."""

from dataclasses import replace
from math import exp, log

import pytest

from ropeway.plan.correction import Case, Record, Similarity, kriging, recorded

LIKE = Similarity(
    family=0.02, model=0.06, source=0.03, series=0.03, engine=0.1, method=0.05, split=0.05,
    noise=0.01, apart=0.0, months=3.0, running=1.0, context=1.0, npus=1.0,
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
    assert estimate.spread < kriging(CASE, rows[:1], LIKE)(CASE).spread


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
    assert far.spread > near.spread


def test_the_note_says_how_many_how_much_and_which() -> None:
    rows = [record(1.5, source=f"page{number}") for number in range(4)]
    note = kriging(CASE, rows, LIKE)(CASE).note()
    assert "4 similar measurements" in note
    assert "longer than computed" in note
    assert "https://page" in note


def test_what_a_document_counts_otherwise_is_carried_over() -> None:
    rows = [replace(record(1.0), rest=(0.2, 0.0, -0.3))]
    estimate = kriging(CASE, rows, LIKE)(CASE)
    assert estimate.rest == pytest.approx((0.2 * 0.08 / 0.15, 0.0, -0.3 * 0.08 / 0.15))


def test_the_interval_is_wider_than_the_mean_is_sure() -> None:
    apart = replace(LIKE, apart=0.04)
    rows = [record(1.5)]
    near, wide = (kriging(CASE, rows, like)(CASE) for like in (LIKE, apart))
    assert wide.mean == near.mean
    assert wide.spread**2 - near.spread**2 == pytest.approx(0.04)


def test_every_stored_measurement_names_its_source() -> None:
    assert len(recorded()) > 200
    for item in recorded():
        assert item.url.startswith("http")
        assert abs(item.factor) < 2
